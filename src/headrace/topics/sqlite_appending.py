"""What is appended to the SQLite log: blocks of records, and the time at which they arrive."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from zlib import crc32

import msgspec

from headrace.topics.sqlite_catalog import SqliteCatalog
from headrace.topics.sums import BLOCK, body_sum, row_sum

__all__ = ["BLOCK_BYTES", "Appending"]

BLOCK_BYTES = 4 << 20
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000

_pack = msgspec.msgpack.Encoder().encode
_log = logging.getLogger(__name__)


class Appending:
    """Appends records, within a transaction. `clock` gives the time in ms since the epoch."""

    def __init__(self, catalog: SqliteCatalog, clock: Callable[[], int]) -> None:
        self._catalog, self._head, self._file = catalog, catalog.head, catalog.file
        self.clock = clock

    def append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None, chosen: int | None = None) -> None:
        """Append records; those of one key go to one partition, in their order, those of none to the first; all to `chosen` if it is given."""
        ids = self._catalog.partitions_of(topic)
        arrived = self.arrival()
        if len(ids) == 1 or keys is None or chosen is not None:
            self.append_to(ids[(chosen or 0) % len(ids)], values, keys, arrived)
            return
        parts: dict[int, tuple[list[bytes], list[bytes | None]]] = {}
        for value, key in zip(values, keys, strict=True):
            mine = parts.setdefault(0 if key is None else crc32(key) % len(ids), ([], []))
            mine[0].append(value)
            mine[1].append(key)
        for number in sorted(parts):
            self.append_to(ids[number], *parts[number], arrived)

    def append_to(self, partition: int, values: Sequence[bytes], keys: Sequence[bytes | None] | None, arrived: int) -> None:
        """Append records to the partition of an id, in blocks of some MB."""
        start = size = 0
        for end, value in enumerate(values, 1):
            size += len(value) + 1
            if size >= BLOCK_BYTES or end == len(values):
                body = b"\n".join(values[start:end])
                packed = body.count(b"\n") != end - start - 1
                part = keys[start:end] if keys else None
                self.insert(partition, end - start, _pack(values[start:end]) if packed else body, part, arrived, packed=packed)
                start, size = end, 0

    def insert(self, partition: int, count: int, body: bytes, keys: Sequence[bytes | None] | None, arrived: int, *, packed: bool = False) -> None:
        """Append one block. `packed` tells that its body is a list, because a record has a line break."""
        kept = None if keys is None or not any(key is not None for key in keys) else _pack(list(keys))
        size = len(body) + len(kept or b"")
        part, head = self._catalog.partition_row(partition), self._head.changing()
        head.seq += 1
        head.arrived_ms = arrived
        block = (head.seq, partition, part.next, count, arrived, size, int(packed), body_sum(kept), body_sum(body))
        self._file.db.execute(
            f"INSERT INTO blocks ({BLOCK}, keys, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  (names of our own)
            (*block, row_sum(*block), kept, body),
        )
        self._catalog.write_partition(replace(part, next=part.next + count, bytes=part.bytes + size))

    def arrival(self) -> int:
        """Return the arrival time of what is appended now.

        It does not fall, with one exception: a clock that had leapt and is set back behind the leap was wrong before, and arrivals
        follow it. A leap is more than an hour since the last arrival. A silence looks the same, so for a day the gap does not
        count for retention; by then a wrong clock has been noticed.
        """
        head, now = self._head.changing(), self.clock()
        gap = now - head.arrived_ms
        if head.held_ms and head.trusted_ms <= now < head.arrived_ms - _HOUR_MS:
            _log.warning("The clock was set back by %s. It had been ahead: arrival times follow it.", _shown(-gap))
            head.arrived_ms, head.held_ms = now, 0
        elif head.held_ms and now - head.leapt_ms >= _DAY_MS:
            head.held_ms = 0
        if gap > _HOUR_MS and head.seq:
            if gap > head.held_ms:
                head.trusted_ms, head.leapt_ms = head.arrived_ms, now
            head.held_ms += gap
            if gap > _DAY_MS:
                _log.warning(
                    "The clock is %s past the last arrival in %s. If it is wrong, set it right within a day: until then no record expires by this leap.",
                    _shown(gap),
                    self._file.path,
                )
        return max(now, head.arrived_ms)


def _shown(ms: int) -> str:
    return f"{ms / _DAY_MS:,.1f} days" if ms >= _DAY_MS else f"{ms / _HOUR_MS:.1f} hours"
