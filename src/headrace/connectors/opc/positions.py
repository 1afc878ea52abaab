"""How far each node was read: the position of a source of OPC UA. Sans-IO.

The position of an event is the state before its publish response, and how many changes of the response are in. So it costs nothing to
make one for each event, and only the one that is committed is encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

__all__ = ["Positions", "key_of"]

_NAMED = "|"


def key_of(node: str, tag: str) -> str:
    """Return the key of a node: its NodeId and a checksum of its tag, so that a node whose tag is renamed is noticed."""
    return f"{node}{_NAMED}{crc32(tag.encode()):x}"


class Positions:
    """The time of each node's last reading, µs since the epoch, UTC.

    Attributes
    ----------
    known
        By the key of the node. It is negative from when the node was reported to be of bad quality, because the connection was lost.
    heard
        When the last publish response came, in ISO 8601; None before the first.
    """

    def __init__(self, saved: Any = None) -> None:  # noqa: ANN401  (a value of JSON)
        self.heard: str | None = None
        self.known: dict[str, int] = {}
        if saved is not None:
            self.heard, self.known, changes, count = saved[0], dict(saved[1]), saved[2], saved[3]
            self.known.update(changes[:count])

    def rename(self, names: Mapping[str, str]) -> frozenset[str]:
        """Take over the times of nodes that had another name, by their keys with their NodeIds, and return the keys of these."""
        before = {key.rpartition(_NAMED)[0] or key: key for key in self.known}
        renamed = {key: before[node] for key, node in names.items() if key not in self.known and node in before}
        for key, old in renamed.items():
            self.known[key] = self.known.pop(old)
        return frozenset(renamed)

    def last(self, node: str) -> int | None:
        """Return the time of a node's last reading."""
        at = self.known.get(node)
        return None if at is None else abs(at)

    def lost(self, node: str) -> bool:
        """Return whether the node was reported to be of bad quality since."""
        return self.known.get(node, 0) < 0

    def advance(self, changes: Sequence[tuple[str, int]], now_us: int) -> list[Any]:
        """Take the changes of a publish response, and return the position after each."""
        self.heard = datetime.fromtimestamp(now_us / 1e6, UTC).isoformat(timespec="milliseconds")
        before, self.known = self.known, self.known | dict(changes)
        return [(self.heard, before, changes, count) for count in range(1, len(changes) + 1)]

    def lose(self) -> Any:  # noqa: ANN401
        """Note that each node is reported to be of bad quality, and return the position after that."""
        self.known = {node: -abs(at) for node, at in self.known.items()}
        return self.heard, self.known, (), 0
