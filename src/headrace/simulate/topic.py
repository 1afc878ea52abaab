"""A topic as something that a simulated plant can be written to."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.topics.protocol import Log

__all__ = ["TopicSink"]

_MOST = 1_000


class TopicSink:
    """Takes the lines of a plant's ticks, one line from each of `keys` in their order, and appends them to a topic when flushed."""

    def __init__(self, log: Log, topic: str, keys: Sequence[bytes]) -> None:
        self._log, self._topic, self._senders = log, topic, keys
        self._lines: list[bytes] = []
        self._keys: list[bytes | None] = []

    def write(self, data: bytes) -> int:
        """Take the lines of one tick."""
        lines = data.split(b"\n")[:-1]
        self._lines += lines
        self._keys += self._senders[: len(lines)]
        if len(self._lines) >= _MOST:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Append what was taken."""
        if self._lines:
            self._log.append(self._topic, self._lines, self._keys)
        self._lines, self._keys = [], []

    def close(self) -> None:
        """Append what is left."""
        self.flush()
