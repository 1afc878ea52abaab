"""All that a topic retains, for commands that look through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from headrace.topics.protocol import Entry, Log

__all__ = ["entries_of"]

_PIECE = 10_000


def entries_of(log: Log, topic: str, begins: Mapping[int, int] = MappingProxyType({}), *, missing_ok: bool = False) -> Iterator[Entry]:
    """Yield the records of a topic, one partition after the other, up to its present end.

    Parameters
    ----------
    begins
        The offset to begin with, by partition; else the first that is retained.
    missing_ok
        Whether a topic that is not there has no records.

    Raises
    ------
    PlanError
        If the topic is not there.
    """
    if missing_ok and all(one.name != topic for one in log.topics()):
        return
    for part in log.topic(topic).partitions:
        offset = max(part.first, begins.get(part.number, part.first))
        while offset < part.end and (entries := log.entries(topic, part.number, offset, _PIECE)):
            yield from entries
            offset = entries[-1].offset + 1
