"""What the topics of the SQLite log keep no longer, by age and by size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from headrace.topics.sqlite_catalog import SqliteCatalog, Topic
from headrace.topics.sums import BLOCK, block_is_sound

__all__ = ["Retention"]

_EXPIRE_MS = 10_000
_EXPIRE_BLOCKS = 2_000


class Retention:
    """Drops blocks, within a transaction."""

    def __init__(self, catalog: SqliteCatalog, clock: Callable[[], int]) -> None:
        self._catalog, self._head, self._file = catalog, catalog.head, catalog.file
        self._clock = clock
        self._expired_ms = 0

    def expire(self) -> None:
        """Drop what the topics keep no longer, at most every ten seconds unless more is left. The last block of a partition stays."""
        now = self._clock()
        if abs(now - self._expired_ms) < _EXPIRE_MS:
            return
        if self.expire_now():
            self._expired_ms = now

    def expire_now(self, now: int | None = None) -> bool:
        """Drop what the topics keep no longer, by age and by size, block by block, and return whether nothing is left to drop.

        Age counts from the last arrival in the log, without the gap of a leap that is not confirmed, unless `now` is given.
        """
        head = self._head.now()
        horizon = head.arrived_ms - head.held_ms if now is None else now
        limited = [one for one in self._catalog.topics().values() if one.retention_ms is not None or one.retention_bytes is not None]
        done = [self._expire_in(topic, key, horizon, head.unsummed) for topic in limited for key in topic.partitions.values()]
        return all(done)

    def _expire_in(self, topic: Topic, key: int, horizon: int, unsummed: int) -> bool:
        """Drop blocks of one partition, some thousand at most, and return whether no more are to go.

        What it costs follows what it drops, not what there is. A damaged block, or one that arrived under a clock that was ahead,
        goes when one behind it does.
        """
        part = self._catalog.partition_row(key)
        bound, dropped, passed = part.first, 0, 0
        ready: tuple[int, int] | None = None
        # The newest block is never dropped: a bound counts once another block follows it.
        for place, row in enumerate(
            self._file.db.execute(f"SELECT {BLOCK} FROM blocks WHERE partition = ? ORDER BY first", (key,))  # noqa: S608  (names of our own)
        ):
            if ready is not None:
                bound, dropped = ready
            if place == _EXPIRE_BLOCKS:
                break
            if not block_is_sound(row, unsummed):
                continue
            _, _, first, count, arrived, size, *_ = row
            excess = topic.retention_bytes is not None and part.bytes - passed > topic.retention_bytes
            expired = topic.retention_ms is not None and arrived < horizon - topic.retention_ms
            if arrived <= horizon and not excess and not expired:
                break
            passed += size
            if excess or expired:
                ready = first + count, passed
        else:
            place = 0
        if bound > part.first:
            self._file.db.execute("DELETE FROM blocks WHERE partition = ? AND first < ?", (key, bound))
            self._catalog.write_partition(replace(part, first=bound, bytes=part.bytes - dropped))
        return bound == part.first or place < _EXPIRE_BLOCKS
