"""Where a reader begins that has no position yet: `earliest`, `latest`, or at a time of arrival."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.topics.protocol import Log

__all__ = ["Begin", "offsets_from", "shown"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Begin = str | int
"""`earliest`, `latest`, or a time of arrival in ms since the epoch."""


def offsets_from(log: Log, topics: Iterable[str], begin: Begin) -> dict[str, list[int]]:
    """Return the offset of each partition, by topic, at which a reader begins.

    Raises
    ------
    PlanError
        If a topic is not there.
    """
    return {topic: _offsets(log, topic, begin) for topic in topics}


def _offsets(log: Log, topic: str, begin: Begin) -> list[int]:
    if isinstance(begin, int):
        return log.offsets_at(topic, begin)
    return [part.end if begin == "latest" else part.first for part in log.topic(topic).partitions]


def shown(begin: Begin) -> str:
    """Return where a reader begins, as text: a time in ISO 8601, in UTC."""
    if isinstance(begin, str):
        return begin
    return (_EPOCH + timedelta(milliseconds=begin)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
