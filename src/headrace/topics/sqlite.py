"""Topics in one SQLite file: a log that several processes write and read at once, durable when a call returns.

Records lie in blocks, each what one call appended to one partition. A block's number, `seq`, grows over the whole file, so
it orders the records of all topics as they were appended; reading goes along it. A pipeline's output, state and cursors
are in the same file, and so one transaction makes a step of its work durable.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import polars as pl

from headrace._clock import now_ms
from headrace.errors import EnvironmentFault, PlanError, near
from headrace.kernels.reading.batch import Lines, Stamps, TextLines
from headrace.topics.failpoints import passing
from headrace.topics.owner import locked
from headrace.topics.protocol import Commit, Cursor, Entry, Outgoing, PartitionInfo, TopicInfo

__all__ = ["SqliteLog"]

FORMAT = 1
FETCH_BYTES = 3 << 20
BLOCK_BYTES = 4 << 20
_BUSY_SECONDS = 30.0
_EXPIRE_MS = 10_000
_SCHEMA = """
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, retention_ms INTEGER, retention_bytes INTEGER);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL REFERENCES topics, number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, number));
CREATE TABLE blocks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, partition INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
    arrived_ms INTEGER NOT NULL, size INTEGER NOT NULL, packed INTEGER NOT NULL, keys BLOB, body BLOB NOT NULL);
CREATE UNIQUE INDEX blocks_of_partition ON blocks (partition, first);
CREATE TABLE cursors (reader TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (reader, partition)) WITHOUT ROWID;
CREATE TABLE pipelines (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT NOT NULL, manifest BLOB, checksum INTEGER);
CREATE TABLE state (pipeline TEXT NOT NULL, name TEXT NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (pipeline, name));
"""

_TOPIC_COLUMNS = "id, name, retention_ms, retention_bytes"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode
_unpack_keys = msgspec.msgpack.Decoder(list[bytes | None]).decode


class SqliteLog:
    """The log of a headrace home.

    Parameters
    ----------
    path
        The file; it is made if it is not there.
    clock
        Gives arrival times, ms since the epoch. A clock that is set back does not make them fall.

    Raises
    ------
    EnvironmentFault
        If the file cannot be opened or made, or is none of ours.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = now_ms) -> None:
        self.path, self._clock = path, clock
        self._expired_ms = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot be made: {error.strerror}", where=str(path.parent), fix="let this user write there, or set HEADRACE_HOME"
            ) from None
        with self._blaming():
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA page_size = 8192")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._prepare()

    def _prepare(self) -> None:
        found = self._format()
        if found == 0:
            with self._writing():
                if self._format() == 0:
                    for statement in _SCHEMA.split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {FORMAT}")
            found = self._format()
        if found != FORMAT:
            raise EnvironmentFault(
                f"is a log of format {found}, not {FORMAT}", where=str(self.path), fix="use the headrace that made it, or name another HEADRACE_HOME"
            )

    def _format(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """Make of an error of SQLite's one that names the file and the mend."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.fault(error) from None

    def fault(self, error: sqlite3.Error) -> EnvironmentFault:
        """Return what to raise for an error of SQLite's."""
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith("SQLITE_FULL"):
            what, fix = "cannot be written: the disk is full", "make room, then start again: it goes on from the last commit"
        elif code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            what, fix = f"is kept locked for more than {_BUSY_SECONDS:.0f} s", "end the process that holds it"
        elif code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            what, fix = f"is damaged or no log: {error}", "bring back a copy, or name another HEADRACE_HOME"
        elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            what, fix = f"cannot be opened for writing: {error}", "let this user write it and its folder, or set HEADRACE_HOME"
        else:
            what, fix = f"cannot be used: {error}", "see that the disk works and has room"
        return EnvironmentFault(what, where=str(self.path), fix=fix)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make what is done within one transaction, undone if it fails."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _viewing(self) -> Iterator[None]:
        """See the file as it is at one moment."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    # topics

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Make a topic. Raises PlanError if there is one of that name, or a number cannot be."""
        if not topic or not topic.isprintable() or {*"/\\"} & {*topic}:
            raise PlanError(f"topic name {topic!r} cannot be used", fix="use letters, digits, '.', '_' and '-'")
        for name, value in {"partitions": partitions, "retention": retention_ms, "retention bytes": retention_bytes}.items():
            if value is not None and value < 1:
                raise PlanError(f"{name} is {value}", where=f"topic {topic!r}", fix="give 1 or more")
        if replication != 1:
            raise PlanError(f"a replication of {replication}", where=f"topic {topic!r}", fix="the SQLite log is one file: give 1, or use Kafka")
        with self._blaming(), self._writing():
            if self._db.execute("SELECT 1 FROM topics WHERE name = ?", (topic,)).fetchone():
                raise PlanError(f"there is a topic {topic!r} already", where=str(self.path), fix="delete it first, or name another")
            made = self._db.execute(
                "INSERT INTO topics (name, retention_ms, retention_bytes) VALUES (?, ?, ?)", (topic, retention_ms, retention_bytes)
            )
            self._db.executemany("INSERT INTO partitions (topic, number) VALUES (?, ?)", [(made.lastrowid, number) for number in range(partitions)])

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        with self._blaming(), self._writing():
            parts = [(one,) for one in self._partitions_of(topic).values()]
            self._db.executemany("DELETE FROM blocks WHERE partition = ?", parts)
            self._db.executemany("DELETE FROM cursors WHERE partition = ?", parts)
            self._db.executemany("DELETE FROM partitions WHERE id = ?", parts)
            self._db.execute("DELETE FROM topics WHERE name = ?", (topic,))

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name."""
        with self._blaming():
            return [self._info(*row) for row in self._db.execute(f"SELECT {_TOPIC_COLUMNS} FROM topics ORDER BY name").fetchall()]  # noqa: S608

    def topic(self, name: str) -> TopicInfo:
        """Return one topic. Raises PlanError if there is none of that name."""
        with self._blaming():
            row = self._db.execute(f"SELECT {_TOPIC_COLUMNS} FROM topics WHERE name = ?", (name,)).fetchone()  # noqa: S608
            if row is None:
                raise self._unknown(name)
            return self._info(*row)

    def _info(self, key: int, name: str, kept_ms: int | None, kept_bytes: int | None) -> TopicInfo:
        return TopicInfo(name, self._infos(key), 1, kept_ms, kept_bytes)

    def _unknown(self, name: str) -> PlanError:
        names = [row[0] for row in self._db.execute("SELECT name FROM topics")]
        fix = near(name, names) if names else "make it: headrace topics create"
        return PlanError(f"no topic {name!r}", where=str(self.path), fix=fix)

    def _infos(self, topic: int) -> tuple[PartitionInfo, ...]:
        rows = self._db.execute(
            "SELECT number, first, next, (SELECT COALESCE(SUM(size), 0) FROM blocks WHERE partition = partitions.id)"
            " FROM partitions WHERE topic = ? ORDER BY number",
            (topic,),
        )
        return tuple(PartitionInfo(*row) for row in rows)

    def _partitions_of(self, topic: str) -> dict[int, int]:
        """Return the ids of a topic's partitions, by number."""
        rows = self._db.execute(
            "SELECT number, partitions.id FROM partitions JOIN topics ON topic = topics.id WHERE name = ? ORDER BY number", (topic,)
        ).fetchall()
        if not rows:
            raise self._unknown(topic)
        return dict(rows)

    def _partition(self, topic: str, number: int) -> int:
        """Return a partition's id. Raises PlanError if there is none of that number."""
        ids = self._partitions_of(topic)
        if number not in ids:
            raise PlanError(f"no partition {number}", where=f"topic {topic!r}", fix=f"it has {len(ids)}, from 0")
        return ids[number]

    # writing

    def append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None) -> None:
        """Append records; those of one key go to one partition, in their order, those of none to the first."""
        with self._blaming(), self._writing():
            self._append(topic, values, keys)
            self._expire()

    def _append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None, chosen: int | None = None) -> None:
        ids = self._partitions_of(topic)
        arrived = self._arrival()
        if len(ids) == 1 or keys is None or chosen is not None:
            self._append_to(ids[(chosen or 0) % len(ids)], values, keys, arrived)
            return
        parts: dict[int, tuple[list[bytes], list[bytes | None]]] = {}
        for value, key in zip(values, keys, strict=True):
            mine = parts.setdefault(0 if key is None else crc32(key) % len(ids), ([], []))
            mine[0].append(value)
            mine[1].append(key)
        for number in sorted(parts):
            self._append_to(ids[number], *parts[number], arrived)

    def _append_to(self, partition: int, values: Sequence[bytes], keys: Sequence[bytes | None] | None, arrived: int) -> None:
        start = size = 0
        for end, value in enumerate(values, 1):
            size += len(value) + 1
            if size >= BLOCK_BYTES or end == len(values):
                body = b"\n".join(values[start:end])
                packed = body.count(b"\n") != end - start - 1
                part = keys[start:end] if keys else None
                self._insert(partition, end - start, _pack(values[start:end]) if packed else body, part, arrived, packed=packed)
                start, size = end, 0

    def _insert(self, partition: int, count: int, body: bytes, keys: Sequence[bytes | None] | None, arrived: int, *, packed: bool = False) -> None:
        (first,) = self._db.execute("UPDATE partitions SET next = next + ? WHERE id = ? RETURNING next - ?", (count, partition, count)).fetchone()
        kept = None if keys is None or not any(key is not None for key in keys) else _pack(list(keys))
        size = len(body) + len(kept or b"")
        self._db.execute(
            "INSERT INTO blocks (partition, first, count, arrived_ms, size, packed, keys, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (partition, first, count, arrived, size, packed, kept, body),
        )

    def _arrival(self) -> int:
        """Return the arrival time of what is appended now, which never falls."""
        last = self._db.execute("SELECT arrived_ms FROM blocks ORDER BY seq DESC LIMIT 1").fetchone()
        return max(self._clock(), last[0] if last else 0)

    def _expire(self) -> None:
        """Drop what the topics keep no longer, at most every ten seconds. The last block of a partition stays."""
        now = self._clock()
        if abs(now - self._expired_ms) < _EXPIRE_MS:
            return
        self._expired_ms = now
        self.expire_now(now)

    def expire_now(self, now: int) -> None:
        """Drop what the topics keep no longer, by age and by size, block by block."""
        limited = self._db.execute(
            "SELECT partitions.id, retention_ms, retention_bytes FROM partitions JOIN topics ON topic = topics.id"
            " WHERE retention_ms IS NOT NULL OR retention_bytes IS NOT NULL"
        ).fetchall()
        for partition, kept_ms, kept_bytes in limited:
            (last,) = self._db.execute("SELECT MAX(first) FROM blocks WHERE partition = ?", (partition,)).fetchone()
            bound = 0
            if kept_ms is not None:
                found = self._db.execute("SELECT MAX(first + count) FROM blocks WHERE partition = ? AND arrived_ms < ?", (partition, now - kept_ms))
                bound = found.fetchone()[0] or 0
            if kept_bytes is not None:
                total = 0
                for first, count, size in self._db.execute(
                    "SELECT first, count, size FROM blocks WHERE partition = ? ORDER BY first DESC", (partition,)
                ):
                    total += size
                    if total > kept_bytes:
                        bound = max(bound, first + count)
                        break
            if last is not None and bound:
                self._db.execute("DELETE FROM blocks WHERE partition = ? AND first < ?", (partition, min(bound, last)))
                self._db.execute(
                    "UPDATE partitions SET first = COALESCE((SELECT MIN(first) FROM blocks WHERE partition = partitions.id), next) WHERE id = ?",
                    (partition,),
                )

    # reading

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""
        with self._blaming():
            one = self._partition(topic, partition)
            found: list[Entry] = []
            blocks = self._db.execute(
                "SELECT first, count, arrived_ms, packed, keys, body FROM blocks WHERE partition = ? AND first >= "
                "COALESCE((SELECT MAX(first) FROM blocks WHERE partition = ? AND first <= ?), 0) ORDER BY first",
                (one, one, offset),
            )
            for first, count, arrived, packed, keys, body in blocks:
                values = _unpack(body) if packed else body.split(b"\n")
                names = _unpack_keys(keys) if keys is not None else [None] * count
                for place, (value, key) in enumerate(zip(values, names, strict=True)):
                    if first + place >= offset:
                        found.append(Entry(topic, partition, first + place, arrived, key, value))
                if len(found) >= most:
                    break
            return found[:most]

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        with self._blaming():
            rows = self._db.execute(
                "SELECT reader, name, number, cursors.next, partitions.next FROM cursors JOIN partitions ON partition = partitions.id"
                " JOIN topics ON topic = topics.id ORDER BY reader, name, number"
            )
            return [Cursor(*row) for row in rows]

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, by topic and partition."""
        with self._blaming(), self._writing():
            self._move(group, cursors)

    def _move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        for (topic, number), offset in cursors.items():
            self._db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", (group, self._partition(topic, number), offset))

    def feed(self, topics: Sequence[str], *, latest: bool = False, skip_gone: bool = False) -> SqliteFeed:
        """Return a feed of topics from their first records on; with `latest` it ends where the topics end now.

        What retention takes before it was read is an error, unless `skip_gone`.
        """
        return SqliteFeed(self, topics, latest=latest, skip_gone=skip_gone)

    def manifest(self, pipeline: str) -> bytes | None:
        """Return what a pipeline's last commit said of it, whoever owns it."""
        with self._blaming():
            row = self._db.execute("SELECT manifest FROM pipelines WHERE name = ?", (pipeline,)).fetchone()
        return row[0] if row else None

    def claim(self, pipeline: str) -> SqliteClaim:
        """Make this process the owner of a pipeline. Raises EnvironmentFault if another process owns it."""
        return SqliteClaim(self, pipeline)

    def heed(self, stop: Callable[[], bool]) -> None:
        """Do nothing: there is no server to wait for."""

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class SqliteReader:
    """A partition as a feed has fetched it."""

    columns = separator = None

    def __init__(self, name: str, key: int, first: int, end: int | None) -> None:
        self.name, self.key = name, key
        self.next, self.end = first, end
        self.blocks: deque[tuple[Any, ...]] = deque()

    @property
    def finished(self) -> bool:
        """Whether it has been read up to where it was to end."""
        return self.end is not None and self.next >= self.end

    @property
    def drained(self) -> bool:
        """Whether all that was fetched has been read."""
        return not self.blocks

    @property
    def waiting(self) -> int:
        """How many records were fetched and have not been read."""
        return sum(block[2] for block in self.blocks)

    @property
    def position(self) -> dict[str, Any]:
        """The offset of the next record, where reading ends, if it does, and which partition of the file it is."""
        return {"record": self.next, "size": self.end, "partition": self.key}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on reading at a position, before anything has been fetched."""
        if position.get("partition", self.key) != self.key:
            raise EnvironmentFault("has been made anew since it was read", where=self.name, fix="start the pipeline with --anew")
        self.next = position["record"]
        self.blocks.clear()

    def read(self) -> Lines:
        """Return what was fetched."""
        if not self.blocks:
            return Lines.of([])
        blocks = list(self.blocks)
        self.blocks.clear()
        self.next = blocks[-1][1] + blocks[-1][2]
        lines = _lines(blocks)
        frame = pl.DataFrame(
            [(seq, arrived, count, first) for seq, first, count, arrived, _, _ in blocks],
            schema={"order": pl.Int64, "arrived": pl.Int64, "count": pl.Int64, "first": pl.Int64},
            orient="row",
        )
        spread = frame.select(
            pl.col("order", "arrived").repeat_by("count").explode(empty_as_null=False),
            pl.int_ranges("first", pl.col("first") + pl.col("count")).explode(empty_as_null=False).alias("offset"),
        )
        lines.stamps = Stamps(spread["offset"], spread["arrived"], spread["order"])
        return lines

    def close(self) -> None:
        """Do nothing: the feed has the file."""


def _lines(blocks: Sequence[tuple[Any, ...]]) -> Lines:
    if any(packed for *_, packed, _ in blocks):
        return Lines.of([value for *_, packed, body in blocks for value in (_unpack(body) if packed else body.split(b"\n"))])
    return TextLines(b"\n".join([body for *_, body in blocks]), sum(block[2] for block in blocks))


class SqliteFeed:
    """The partitions of some topics, read together along the file."""

    def __init__(self, log: SqliteLog, topics: Sequence[str], *, latest: bool, skip_gone: bool) -> None:
        self._log, self._skip_gone = log, skip_gone
        self._db = log._db
        self.readers: dict[str, list[SqliteReader]] = {}
        with log._blaming(), log._viewing():
            for topic in topics:
                ids = log._partitions_of(topic)
                infos = log.topic(topic).partitions
                self.readers[topic] = [
                    SqliteReader(f"{topic} partition {info.number}", ids[info.number], info.first, info.end if latest else None) for info in infos
                ]
        self._by_key = {reader.key: reader for readers in self.readers.values() for reader in readers}
        self._mine = ", ".join(map(str, self._by_key))
        self._seq: int | None = None
        self._version: int | None = None

    def _rewind(self) -> int:
        """Return the number of the block that comes before all that is to be read."""
        starts = []
        for reader in self._by_key.values():
            row = self._db.execute(
                "SELECT first FROM partitions WHERE id = ?",
                (reader.key,),
            ).fetchone()
            if row is None:
                raise EnvironmentFault(
                    "has been deleted while it was read", where=reader.name, fix="make the topic again and start the pipeline anew"
                )
            if reader.next < row[0] and not self._skip_gone:
                raise _gone(reader, row[0], reader.next)
            found = self._db.execute(
                "SELECT seq FROM blocks WHERE partition = ? AND first >= COALESCE("
                "(SELECT MAX(first) FROM blocks WHERE partition = ? AND first <= ?), 0) ORDER BY first LIMIT 1",
                (reader.key, reader.key, reader.next),
            ).fetchone()
            if found:
                starts.append(found[0])
        if starts:
            return int(min(starts)) - 1
        (last,) = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM blocks").fetchone()
        return int(last)

    def fetch(self, most: int | None = None) -> bool:
        """Take in the next blocks, up to some MB or `most` records, and return whether there were any."""
        with self._log._blaming():
            version = self._db.execute("PRAGMA data_version").fetchone()[0] + self._db.total_changes
            if self._seq is not None and version == self._version:
                return False
            if self._seq is None:
                # One view of the file for all questions.
                with self._log._viewing():
                    self._seq = self._rewind()
            with closing(
                self._db.execute("SELECT seq, partition, first, count, arrived_ms, packed, body FROM blocks WHERE seq > ? ORDER BY seq", (self._seq,))
            ) as rows:
                fetched = self._take_in(rows, most)
            if fetched < FETCH_BYTES and (most is None or sum(reader.waiting for reader in self._by_key.values()) < most):
                # All is read: there is nothing more until the file changes.
                self._version = version
            self._check_there()
            return fetched > 0

    def _take_in(self, rows: Iterable[tuple[Any, ...]], most: int | None) -> int:
        """Give the readers their blocks, up to some MB or `most` records, and return how many bytes that were."""
        fetched = 0
        for seq, partition, first, count, arrived, packed, body in rows:
            self._seq = seq
            reader = self._by_key.get(partition)
            if reader is None:
                continue
            taken = self._take(reader, seq, first, count, arrived, packed, body, most)
            fetched += (len(body) + 1) * bool(taken)
            most = None if most is None else most - taken
            if most == 0:
                # The rest of this block is for the next time.
                self._seq = seq - 1
            if fetched >= FETCH_BYTES or most == 0:
                break
        return fetched

    def _take(self, reader: SqliteReader, seq: int, first: int, count: int, arrived: int, packed: int, body: bytes, most: int | None) -> int:
        """Give a reader of a block what it has not read yet and is to read, and return how many records that were."""
        wanted = reader.blocks[-1][1] + reader.blocks[-1][2] if reader.blocks else reader.next
        if first > wanted and not self._skip_gone:
            raise _gone(reader, first, wanted)
        start = max(wanted, first)
        end = min(first + count, first + count if reader.end is None else reader.end, first + count if most is None else start + most)
        if end <= start:
            return 0
        if start > first or end < first + count:
            body = _pack((_unpack(body) if packed else body.split(b"\n"))[start - first : end - first])
            packed = 1
        reader.blocks.append((seq, start, end - start, arrived, packed, body))
        return end - start

    def _check_there(self) -> None:
        """Raise EnvironmentFault if a topic is no longer the one that was there."""
        for topic, readers in self.readers.items():
            there = self._db.execute("SELECT partitions.id FROM partitions JOIN topics ON topic = topics.id WHERE name = ?", (topic,))
            if {row[0] for row in there} != {reader.key for reader in readers}:
                raise EnvironmentFault(
                    "has been deleted, or made anew, while it was read", where=f"topic {topic!r}", fix="start the pipeline with --anew"
                )

    def lag(self) -> dict[tuple[str, int], int]:
        """Return how many records of each partition are still to be read."""
        with self._log._blaming():
            self._check_there()
            return {
                (topic, number): max(self._db.execute("SELECT next FROM partitions WHERE id = ?", (reader.key,)).fetchone()[0] - reader.next, 0)
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


class SqliteClaim:
    """A pipeline that this process owns, in the file of its topics.

    A lock that dies with the process keeps a second one out; the epoch in the file keeps out a process that lost the lock
    without noticing, whose commits then fail.
    """

    def __init__(self, log: SqliteLog, pipeline: str) -> None:
        self._log, self._db, self.pipeline = log, log._db, pipeline
        self._lock = locked(log.path.parent / "pipelines", pipeline)
        try:
            with log._blaming(), log._writing():
                self._db.execute(
                    "INSERT INTO pipelines (name, epoch, owner) VALUES (?, 1, ?) "
                    "ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1, owner = excluded.owner",
                    (pipeline, f"process {os.getpid()} on {socket.gethostname()}"),
                )
                row = self._db.execute("SELECT epoch, manifest, checksum FROM pipelines WHERE name = ?", (pipeline,)).fetchone()
        except BaseException:
            self._lock.close()
            raise
        self._epoch, self._manifest, self._checksum = row

    @property
    def manifest(self) -> bytes | None:
        """The last commit's, or None before the first. Raises EnvironmentFault if it is damaged."""
        if self._manifest is not None and crc32(self._manifest) != self._checksum:
            raise self._damaged("the last commit")
        return None if self._manifest is None else bytes(self._manifest)

    def _damaged(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"{what} of pipeline {self.pipeline} is damaged",
            where=str(self._log.path),
            fix="bring back a copy of the file, or forget the pipeline's state: headrace run --anew",
        )

    def load(self, name: str) -> bytes:
        """Return a part of the state that the last commit stored."""
        with self._log._blaming():
            row = self._db.execute("SELECT data, checksum FROM state WHERE pipeline = ? AND name = ?", (self.pipeline, name)).fetchone()
        if row is None or crc32(row[0]) != row[1]:
            raise self._damaged(f"part {name} of the state")
        return bytes(row[0])

    def commit(self, commit: Commit) -> None:
        """Make a step of work durable in one transaction."""
        with self._log._blaming(), self._log._writing():
            owner = self._db.execute("SELECT epoch, owner FROM pipelines WHERE name = ?", (self.pipeline,)).fetchone()
            if owner is None or owner[0] != self._epoch:
                who = owner[1] if owner else "nobody"
                raise EnvironmentFault(f"belongs to {who} now", where=f"pipeline {self.pipeline}", fix="let that one run, or end it first")
            passing("commit.begun")
            self._db.execute(
                "UPDATE pipelines SET manifest = ?, checksum = ? WHERE name = ?", (commit.manifest, crc32(commit.manifest), self.pipeline)
            )
            passing("commit.manifest")
            known = {row[0] for row in self._db.execute("SELECT name FROM state WHERE pipeline = ?", (self.pipeline,))}
            self._db.executemany(
                "DELETE FROM state WHERE pipeline = ? AND name = ?", [(self.pipeline, name) for name in known.difference(commit.kept)]
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)", [(self.pipeline, name, crc32(data), data) for name, data in commit.state.items()]
            )
            passing("commit.state")
            for one in commit.outgoing:
                self._put(one)
            passing("commit.output")
            self._log._move(self.pipeline, commit.cursors)
            self._log._expire()
            passing("commit.cursors")
        passing("commit.done")

    def _put(self, one: Outgoing) -> None:
        ids = self._log._partitions_of(one.topic)
        chosen = 0 if len(ids) == 1 else one.partition
        if chosen is None or len(one.lines) >= BLOCK_BYTES:
            self._log._append(one.topic, one.lines.split(b"\n"), one.key_bytes, chosen)
        else:
            self._log._insert(ids[chosen % len(ids)], one.count, one.lines, one.key_bytes, self._log._arrival())

    def forget(self) -> None:
        """Forget what the pipeline has committed: it starts anew."""
        with self._log._blaming(), self._log._writing():
            self._db.execute("UPDATE pipelines SET manifest = NULL, checksum = NULL WHERE name = ?", (self.pipeline,))
            self._db.execute("DELETE FROM state WHERE pipeline = ?", (self.pipeline,))
            self._db.execute("DELETE FROM cursors WHERE reader = ?", (self.pipeline,))
        self._manifest = None

    def release(self) -> None:
        """Give the pipeline up."""
        self._lock.close()
