"""A feed of the SQLite log: the partitions of some topics, read together along the file, each block checked before it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.errors import EnvironmentFault
from headrace.topics.sqlite_reader import SqliteReader, unpack
from headrace.topics.sums import BLOCK, block_is_sound, body_sum

if TYPE_CHECKING:
    from headrace.topics.sqlite_catalog import SqliteCatalog

__all__ = ["SqliteFeed"]

FETCH_BYTES = 3 << 20

_pack = msgspec.msgpack.Encoder().encode
_unpack_keys = msgspec.msgpack.Decoder(list[bytes | None]).decode


class SqliteFeed:
    """The partitions of some topics, read together along the file."""

    def __init__(self, catalog: SqliteCatalog, topics: Sequence[str], *, latest: bool, skip_gone: bool) -> None:
        self._catalog, self._file, self._skip_gone = catalog, catalog.file, skip_gone
        self._db = catalog.file.db
        self.readers: dict[str, list[SqliteReader]] = {}
        with catalog.file.viewing():
            for topic in topics:
                self.readers[topic] = []
                for number, key in catalog.partitions_of(topic).items():
                    part = catalog.partition_row(key)
                    self.readers[topic].append(SqliteReader(f"{topic} partition {number}", key, part.first, part.next if latest else None))
        self.identities = {topic: str(readers[0].key) for topic, readers in self.readers.items()}
        self._by_key = {reader.key: reader for readers in self.readers.values() for reader in readers}
        self._seq: int | None = None
        self._version: int | None = None
        self._seen: int | None = None

    def _rewind(self) -> int:
        """Return the number of the block that comes before all that is to be read."""
        starts = []
        for reader in self._by_key.values():
            part = self._catalog.partition_row(reader.key)
            if reader.next < part.first and not self._skip_gone:
                raise _gone(reader, part.first, reader.next)
            if reader.next > part.next:
                raise self._file.damaged(reader.name, f"ends at offset {part.next}, and {reader.next} was to be read next")
            found = self._db.execute(
                "SELECT seq FROM blocks WHERE partition = ? AND first >= COALESCE("
                "(SELECT MAX(first) FROM blocks WHERE partition = ? AND first <= ?), 0) ORDER BY first LIMIT 1",
                (reader.key, reader.key, reader.next),
            ).fetchone()
            if found:
                starts.append(found[0])
        if starts:
            return int(min(starts)) - 1
        return self._catalog.head.read().seq

    def fetch(self, most: int | None = None) -> bool:
        """Take in the next blocks, up to some MB or `most` records, and return whether there were any."""
        with self._file.blaming():
            version = self._db.execute("PRAGMA data_version").fetchone()[0] + self._db.total_changes
            if self._seq is not None and version == self._version:
                return False
            # One view of the file for all questions.
            with self._file.viewing():
                self._check_there()
                if self._seq is None:
                    self._seq = self._rewind()
                # Keys are long, and few ask for them.
                keys = "keys" if any(reader.keyed for reader in self._by_key.values()) else "NULL"
                asked = f"SELECT {BLOCK}, {keys}, body FROM blocks WHERE seq > ? ORDER BY seq"  # noqa: S608  (names of our own)
                with closing(self._db.execute(asked, (self._seq,))) as rows:
                    fetched = self._take_in(rows, most)
                if fetched < FETCH_BYTES and (most is None or sum(reader.waiting for reader in self._by_key.values()) < most):
                    # All is read: there is nothing more until the file changes.
                    self._version = version
                    self._check_ends()
            return fetched > 0

    def _take_in(self, rows: Iterable[tuple[Any, ...]], most: int | None) -> int:
        """Hand the readers their blocks, up to some MB or `most` records, and return how many bytes that were."""
        fetched = 0
        unsummed = self._catalog.head.read().unsummed
        for row in rows:
            seq, partition, *_, body = row
            reader = self._by_key.get(partition)
            if reader is not None:
                self._check(reader, row, unsummed)
                taken = self._take(reader, row, most)
                fetched += (len(body) + 1) * bool(taken)
                most = None if most is None else most - taken
            self._seq = seq
            if most == 0 and reader is not None:
                # The rest of this block is for the next time.
                self._seq, reader.follows = seq - 1, row[2]
            if fetched >= FETCH_BYTES or most == 0:
                break
        return fetched

    def _check(self, reader: SqliteReader, row: tuple[Any, ...], unsummed: int) -> None:
        """Raise EnvironmentFault unless a block is as it was written, and the one that comes next in its partition."""
        follows = reader.wanted if reader.follows is None else reader.follows
        if not block_is_sound(row[:10], unsummed):
            raise self._file.damaged(reader.name, f"the block of records at offset {follows} or after it (number {row[0]} of the file) is damaged")
        first, count, packed, keys_summed, summed, keys, body = row[2], row[3], row[6], row[7], row[8], row[10], row[11]
        if (summed is not None and body_sum(body) != summed) or (keys is not None and keys_summed is not None and body_sum(keys) != keys_summed):
            raise self._file.damaged(reader.name, f"records {first} to {first + count - 1} are damaged")
        reached = first if reader.follows is None and first <= follows else follows
        if first > reached:
            gone = self._catalog.partition_row(reader.key).first
            if reached >= gone:
                raise self._file.damaged(reader.name, f"records {reached} to {first - 1} are missing")
            if not self._skip_gone:
                raise _gone(reader, gone, reached)
        elif first < reached:
            raise self._file.damaged(reader.name, f"records {first} to {reached - 1} are there twice")
        if summed is None and not packed and body.count(b"\n") != count - 1:
            raise self._file.damaged(reader.name, f"records {first} to {first + count - 1} are damaged: they are not {count}")
        reader.follows = first + count

    def _take(self, reader: SqliteReader, row: tuple[Any, ...], most: int | None) -> int:
        """Hand a reader what it has not read yet of a block and is to read, and return how many records that were."""
        seq, _, first, count, arrived, _, packed, _, _, _, keys, body = row
        start = max(reader.wanted, first)
        end = min(first + count, first + count if reader.end is None else reader.end, first + count if most is None else start + most)
        if end <= start:
            return 0
        if start > first or end < first + count:
            body = _pack((unpack(body) if packed else body.split(b"\n"))[start - first : end - first])
            packed = 1
        names = None if keys is None or not reader.keyed else _unpack_keys(keys)[start - first : end - first]
        reader.blocks.append((seq, start, end - start, arrived, names, packed, body))
        return int(end - start)

    def _check_ends(self) -> None:
        """Raise EnvironmentFault if a partition has had records after the last that the file has."""
        for reader in self._by_key.values():
            part = self._catalog.partition_row(reader.key)
            reached = max(reader.wanted if reader.follows is None else reader.follows, part.first)
            if reached < part.next:
                raise self._file.damaged(reader.name, f"records {reached} to {part.next - 1} are missing")

    def _check_there(self) -> None:
        """Raise EnvironmentFault if a topic is no longer the one that was there."""
        catalog = self._catalog.head.read().catalog
        if catalog == self._seen:
            return
        for topic, readers in self.readers.items():
            there = self._catalog.topics().get(topic)
            if there is None or set(there.partitions.values()) != {reader.key for reader in readers}:
                raise EnvironmentFault(
                    "has been deleted, or made anew, while it was read", where=f"topic {topic!r}", fix="start the pipeline with --anew"
                )
        self._seen = catalog

    def hold(self, partitions: Collection[tuple[str, int]]) -> None:
        """Do nothing: in the order of the file no partition is ahead of the others."""

    def lag(self) -> dict[tuple[str, int], int]:
        """Return how many records of each partition are still to be read."""
        with self._file.viewing():
            self._check_there()
            return {
                (topic, number): max(self._catalog.partition_row(reader.key).next - reader.next, 0)
                for topic, readers in self.readers.items()
                for number, reader in enumerate(readers)
            }

    def close(self) -> None:
        """Do nothing: the log has the file."""


def _gone(reader: SqliteReader, first: int, wanted: int) -> EnvironmentFault:
    return EnvironmentFault(
        f"has kept no records before {first}; {wanted} was to be read next",
        where=reader.name,
        fix="let the topic keep its records longer; a pipeline goes on without them if started with --anew",
    )
