"""Single records of the SQLite log, by offset and by arrival; a feed reads whole topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.topics.protocol import Entry, PartitionInfo
from headrace.topics.sqlite_catalog import SqliteCatalog
from headrace.topics.sums import BLOCK, block_is_sound, body_sum

__all__ = ["SqliteReading"]

_unpack = msgspec.msgpack.Decoder(list[bytes]).decode
_unpack_keys = msgspec.msgpack.Decoder(list[bytes | None]).decode


class SqliteReading:
    """Reads records, each block checked before it is used."""

    def __init__(self, catalog: SqliteCatalog) -> None:
        self._catalog, self._head, self._file = catalog, catalog.head, catalog.file

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""
        with self._file.viewing():
            one = self._catalog.partition(topic, partition)
            part, unsummed = self._catalog.partition_row(one), self._head.read().unsummed
            found: list[Entry] = []
            blocks = self._file.db.execute(
                f"SELECT {BLOCK}, keys, body FROM blocks WHERE partition = ? AND first >= "  # noqa: S608  (names of our own)
                "COALESCE((SELECT MAX(first) FROM blocks WHERE partition = ? AND first <= ?), 0) ORDER BY first",
                (one, one, offset),
            )
            reached = max(offset, part.first)
            for row in blocks:
                first = self._first_of(row, one, reached, unsummed)
                if found and first < reached:
                    raise self._file.damaged(self._catalog.named(one), f"records {first} to {reached - 1} are there twice")
                count, arrived, packed, keys, body = row[3], row[4], row[6], row[10], row[11]
                values = _unpack(body) if packed else body.split(b"\n")
                names = _unpack_keys(keys) if keys is not None else [None] * count
                for place, (value, key) in enumerate(zip(values, names, strict=True)):
                    if first + place >= offset:
                        found.append(Entry(topic, partition, first + place, arrived, key, value))
                reached = first + count
                if len(found) >= most:
                    break
            else:
                if reached < part.next:
                    raise self._file.damaged(self._catalog.named(one), f"records {reached} to {part.next - 1} are missing")
            return found[:most]

    def _first_of(self, row: Sequence[Any], partition: int, reached: int, unsummed: int) -> int:
        """Return the first offset of a block. Raises EnvironmentFault unless it is sound and follows what was reached."""
        where = self._catalog.named(partition)
        if not block_is_sound(row[:10], unsummed) or row[1] != partition:
            raise self._file.damaged(where, f"the block of records at offset {reached} or after it (number {row[0]} of the file) is damaged")
        first, end = int(row[2]), row[2] + row[3]
        if row[9] is not None and (body_sum(row[10]), body_sum(row[11])) != tuple(row[7:9]):
            raise self._file.damaged(where, f"records {first} to {end - 1} are damaged")
        if first > reached:
            raise self._file.damaged(where, f"records {reached} to {first - 1} are missing")
        return first

    def offset_at(self, topic: str, part: PartitionInfo, arrived_ms: int) -> int:
        """Return the offset of the first record that arrived at a time or after it; the end if there is none."""
        low, high = part.first, part.end
        while low < high:  # arrival times do not fall from one record to the next
            middle = (low + high) // 2
            found = self.entries(topic, part.number, middle, 1)
            if not found or found[0].arrived_ms >= arrived_ms:
                high = middle
            else:
                low = found[0].offset + 1
        return low
