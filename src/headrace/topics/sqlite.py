"""Topics in one SQLite file: a log that several processes write and read at once, durable when a call returns.

Records lie in blocks, each what one call appended to one partition. A block's number, `seq`, grows over the whole file, so
it orders the records of all topics as they were appended; reading goes along it. A pipeline's output, state and cursors
are in the same file, and so one transaction makes a step of its work durable. Each row has a checksum over all its columns.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from headrace._clock import now_ms
from headrace._durable import private, private_folder
from headrace.errors import EnvironmentFault, PlanError, near
from headrace.topics.failpoints import passing
from headrace.topics.owner import locked
from headrace.topics.protocol import Commit, Cursor, Entry, Outgoing, PartitionInfo, TopicInfo
from headrace.topics.sqlite_feed import SqliteFeed
from headrace.topics.sqlite_schema import FORMAT, ROWS, SMALL_TABLES, create, tie_of, upgrade
from headrace.topics.sums import BLOCK, UNSOUND, block_is_sound, body_sum, row_sum, sound

__all__ = ["SqliteLog"]

BLOCK_BYTES = 4 << 20
_BUSY_SECONDS = 30.0
_EXPIRE_MS = 10_000
_EXPIRE_BLOCKS = 2_000
_COMPACT_PAGES = 500
_LOOK_SECONDS = 2.0
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_RESTORE = "restore a backup, or name another HEADRACE_HOME"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode
_unpack_keys = msgspec.msgpack.Decoder(list[bytes | None]).decode
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Head:
    """The row of the log as a whole.

    Attributes
    ----------
    seq
        The number of the last block.
    arrived_ms
        The arrival time of the last record.
    trusted_ms, leapt_ms, held_ms
        While a leap of the clock is not confirmed: the last arrival before it, the clock behind it, and the length of the gap.
    catalog
        Grows with each change of topics.
    unsummed
        Blocks up to this number were written by format 1 and may lack checksums.
    tie
        The checksums of all rows of topics, partitions, cursors and pipelines, put together by XOR.
    """

    seq: int
    arrived_ms: int
    trusted_ms: int
    leapt_ms: int
    held_ms: int
    catalog: int
    unsummed: int
    tie: int


@dataclass(frozen=True, slots=True)
class _Topic:
    """A topic: its row, and the ids of its partitions by number."""

    id: int
    name: str
    retention_ms: int | None
    retention_bytes: int | None
    partitions: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Partition:
    """The row of a partition as it was read; `bytes` is the size of its blocks."""

    id: int
    topic: int
    number: int
    first: int
    next: int
    bytes: int
    sum: int


_making = threading.Lock()


class SqliteLog:
    """The log of a headrace home.

    Parameters
    ----------
    path
        The file; it is made if it is not there.
    clock
        Gives arrival times, ms since the epoch. A clock that is set back does not make them fall, unless it had leapt before.

    Raises
    ------
    EnvironmentFault
        If the file cannot be opened or made, is none of ours, or is damaged.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = now_ms) -> None:
        self.path, self._clock = path, clock
        self._expired_ms = 0
        self._head: _Head | None = None
        self._untied = False
        self._catalog: dict[str, _Topic] = {}
        self._catalog_version: int | None = None
        try:
            private_folder(path.parent)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot be made: {error.strerror}", where=str(path.parent), fix="let this user write there, or set HEADRACE_HOME"
            ) from None
        self._files: dict[Path, tuple[int, int]] = {}
        self._looked = 0.0
        with self._blaming():
            _make_private(path)
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        # A damaged row may hold bytes that are no text, which its checksum then shows.
        self._db.text_factory = lambda data: data.decode(errors="surrogateescape")
        self._db.execute("PRAGMA page_size = 8192")
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if self._format() < FORMAT:
            with self._writing():
                found = self._format()
                if found == 0:
                    create(self._db)
                elif found < FORMAT:
                    upgrade(self._db, found)
        found = self._format()
        if found != FORMAT:
            raise EnvironmentFault(
                f"is a log of format {found}, not {FORMAT}", where=str(self.path), fix="use the headrace that made it, or name another HEADRACE_HOME"
            )
        for table in SMALL_TABLES:
            (said,) = self._db.execute(f"PRAGMA integrity_check({table})").fetchone()
            if said != "ok":
                raise self.damaged(str(self.path), f"is damaged: {said}")
        with self._viewing():
            self._check_tie()
        self._files = {self.path.with_name(self.path.name + end): (0, 0) for end in ("", "-wal", "-shm")}
        self._files = {file: _identity(file) for file in self._files}

    def _check_tie(self) -> None:
        """Raise EnvironmentFault if tables are of different commits. A damaged row, which makes this unknown, is told by who uses it."""
        rows = {table: self._db.execute(f"SELECT {columns} FROM {table} NOT INDEXED").fetchall() for table, columns in ROWS.items()}  # noqa: S608
        self._untied = not all(sound(row[-1], *row[:-1]) for found in rows.values() for row in found) or not rows["log"]
        if not self._untied and tie_of(self._db) != rows["log"][0][-2]:
            raise self.damaged(str(self.path), "is damaged: its tables are of different commits, as after a disk that lost what it had acknowledged")

    def _format(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    # faults

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """Make of an error of SQLite's one that names the file and the fix; see now and then that the file is still there."""
        try:
            if self._files and time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._check_files()
            yield
        except sqlite3.Error as error:
            raise self.fault(error) from None
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            # SQLite quotes a damaged schema in its message, which Python then cannot read; or a damaged text is asked for again.
            raise self.damaged(str(self.path), f"is damaged: {error.reason}") from None

    def fault(self, error: sqlite3.Error) -> EnvironmentFault:
        """Return what to raise for an error of SQLite's."""
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith("SQLITE_FULL"):
            what, fix = "cannot be written: the disk is full", "make room, then start again: it goes on from the last commit"
        elif code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            what, fix = f"has been locked for more than {_BUSY_SECONDS:.0f} s", "end the process that holds it"
        elif code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CONSTRAINT")):
            what, fix = f"is damaged or no log: {error}", _RESTORE
        elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            what, fix = f"cannot be opened for writing: {error}", "let this user write it and its folder, or set HEADRACE_HOME"
        else:
            what, fix = f"cannot be used: {error}", "see that the disk works and has room"
        return EnvironmentFault(what, where=str(self.path), fix=fix)

    def _check_files(self) -> None:
        """Raise EnvironmentFault if a file of the log is no longer the one that was opened: what is written would vanish with it."""
        self._looked = time.monotonic()
        for file, identity in self._files.items():
            if _identity(file) != identity:
                raise EnvironmentFault(
                    "was removed or replaced while it was open; what this process writes would be lost",
                    where=str(file),
                    fix="end all that uses this HEADRACE_HOME, put a whole log in place (headrace restore), and start again",
                )

    def damaged(self, where: str, what: str) -> EnvironmentFault:
        """Return what to raise for rows that are not as they were written."""
        return EnvironmentFault(f"{what} in {self.path}", where=where, fix=_RESTORE)

    # transactions

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make what is done within one transaction, undone if it fails."""
        self._check_files()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            if self._head is not None:
                self._write_head(self._head)
            self._db.execute("COMMIT")
            self._check_files()
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            self._catalog_version = None
            raise
        finally:
            self._head = None

    @contextmanager
    def _viewing(self) -> Iterator[None]:
        """See the file as it is at one moment."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    # rows that are checked

    def _read_head(self) -> _Head:
        row = self._db.execute(f"SELECT {ROWS['log']} FROM log").fetchone()  # noqa: S608  (names of our own)
        if row is None or not sound(row[-1], *row[:-1]):
            raise self.damaged(str(self.path), "the row of the log as a whole is damaged")
        return _Head(*row[1:-1])

    def _changing_head(self) -> _Head:
        """Return the log's row, which is written when the transaction ends."""
        if self._head is None:
            self._head = self._read_head()
        return self._head

    def _write_head(self, head: _Head) -> None:
        if self._untied:
            head.tie = tie_of(self._db)
        row = astuple(head)
        self._db.execute(
            "UPDATE log SET seq = ?, arrived_ms = ?, trusted_ms = ?, leapt_ms = ?, held_ms = ?, catalog = ?, unsummed = ?, tie = ?, sum = ?",
            (*row, row_sum(1, *row)),
        )

    def _catalog_now(self) -> dict[str, _Topic]:
        """Return the topics by name."""
        version = (self._head or self._read_head()).catalog
        if version != self._catalog_version:
            with self._viewing():
                self._catalog = self._read_catalog()
            self._catalog_version = version
        return self._catalog

    def _read_catalog(self) -> dict[str, _Topic]:
        topics: dict[int, _Topic] = {}
        for *row, checksum in self._db.execute("SELECT id, name, retention_ms, retention_bytes, sum FROM topics NOT INDEXED"):
            if not sound(checksum, *row):
                raise self.damaged(f"topic {row[1]!r}", "its row is damaged")
            topics[row[0]] = _Topic(*row)
        for *row, checksum in self._db.execute("SELECT id, topic, number, first, next, bytes, sum FROM partitions NOT INDEXED"):
            part = self._checked(row, checksum, f"{topics[row[1]].name} partition {row[2]}" if row[1] in topics else None)
            if part.topic not in topics:
                raise self.damaged(str(self.path), f"the row of the topic of partition {part.number} is missing")
            topics[part.topic].partitions[part.number] = part.id
        for one in topics.values():
            ordered = sorted(one.partitions.items())
            if not ordered or [number for number, _ in ordered] != list(range(len(ordered))):
                raise self.damaged(f"topic {one.name!r}", "a row of its partitions is missing")
            one.partitions.clear()
            one.partitions.update(ordered)
        return {one.name: one for one in topics.values()}

    def _checked(self, row: Sequence[Any], checksum: object, name: str | None = None) -> _Partition:
        if not sound(checksum, *row):
            raise self.damaged(name or self._named(row[0]), "its row, with its first and next offsets, is damaged")
        return _Partition(*(*row, checksum))

    def _named(self, partition: object) -> str:
        for topic in self._catalog.values():
            for number, key in topic.partitions.items():
                if key == partition:
                    return f"{topic.name} partition {number}"
        return f"partition with id {partition}"

    def _partition_row(self, key: int) -> _Partition:
        row = self._db.execute("SELECT id, topic, number, first, next, bytes, sum FROM partitions WHERE id = ?", (key,)).fetchone()
        if row is None:
            raise EnvironmentFault(
                "has been deleted while it was read", where=self._named(key), fix="make the topic again and start the pipeline anew"
            )
        return self._checked(row[:-1], row[-1])

    def _write_partition(self, part: _Partition) -> None:
        """Write a row that was read, with other numbers."""
        checksum = row_sum(part.id, part.topic, part.number, part.first, part.next, part.bytes)
        self._db.execute(
            "UPDATE partitions SET first = ?, next = ?, bytes = ?, sum = ? WHERE id = ?", (part.first, part.next, part.bytes, checksum, part.id)
        )
        self._retie(part.sum, checksum)

    def _retie(self, *sums: int | None) -> None:
        """Note in the log's row that rows with these checksums came or went."""
        head = self._changing_head()
        for one in sums:
            head.tie ^= one if isinstance(one, int) else UNSOUND

    def _sums(self, which: str, *values: object) -> list[int | None]:
        """Return the checksums of some rows of a small table."""
        return [row[0] for row in self._db.execute(f"SELECT {which}", values)]

    # topics

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Create a topic. Raises PlanError if there is one of that name, or a number cannot be."""
        if not topic or not topic.isprintable() or {*"/\\"} & {*topic}:
            raise PlanError(f"topic name {topic!r} cannot be used", fix="use letters, digits, '.', '_' and '-'")
        _check_numbers(topic, {"partitions": partitions, "retention": retention_ms, "retention bytes": retention_bytes})
        if replication != 1:
            raise PlanError(f"a replication of {replication}", where=f"topic {topic!r}", fix="the SQLite log is one file: give 1, or use Kafka")
        with self._blaming(), self._writing():
            if topic in self._catalog_now():
                raise PlanError(f"there is a topic {topic!r} already", where=str(self.path), fix="delete it first, or name another")
            made = self._db.execute(
                "INSERT INTO topics (name, retention_ms, retention_bytes) VALUES (?, ?, ?)", (topic, retention_ms, retention_bytes)
            ).lastrowid
            row = made, topic, retention_ms, retention_bytes
            self._db.execute("UPDATE topics SET sum = ? WHERE id = ?", (row_sum(*row), made))
            self._retie(row_sum(*row))
            for number in range(partitions):
                key = self._db.execute("INSERT INTO partitions (topic, number) VALUES (?, ?)", (made, number)).lastrowid
                checksum = row_sum(key, made, number, 0, 0, 0)
                self._db.execute("UPDATE partitions SET sum = ? WHERE id = ?", (checksum, key))
                self._retie(checksum)
            self._changing_head().catalog += 1

    def alter(self, topic: str, *, retention_ms: int | None, retention_bytes: int | None) -> None:
        """Set how long a topic keeps its records, and how many bytes a partition; None is for ever."""
        _check_numbers(topic, {"retention": retention_ms, "retention bytes": retention_bytes})
        with self._blaming(), self._writing():
            row = self._topic_named(topic).id, topic, retention_ms, retention_bytes
            self._retie(row_sum(*row), *self._sums("sum FROM topics WHERE id = ?", row[0]))
            self._db.execute("UPDATE topics SET retention_ms = ?, retention_bytes = ?, sum = ? WHERE id = ?", (*row[2:], row_sum(*row), row[0]))
            self._changing_head().catalog += 1
        with self._blaming(), self._writing():
            self.expire_now()

    def compact(self) -> int:
        """Give unused pages back to the disk, a few MB at a time so that writers need not wait; return how many bytes that were.

        A log of format 1 must be rewritten as a whole for that, once, and nobody else may have it open.
        """
        with self._blaming():
            before = self._pages()
            if not self._db.execute("PRAGMA auto_vacuum").fetchone()[0]:
                self._rewrite()
            while self._db.execute("PRAGMA freelist_count").fetchone()[0]:
                with self._writing():
                    self._db.execute(f"PRAGMA incremental_vacuum({_COMPACT_PAGES})").fetchall()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return (before - self._pages()) * int(self._db.execute("PRAGMA page_size").fetchone()[0])

    def _pages(self) -> int:
        return int(self._db.execute("PRAGMA page_count").fetchone()[0])

    def _rewrite(self) -> None:
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._db.execute("VACUUM")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise
            raise EnvironmentFault(
                "was made by an earlier headrace and must be rewritten to get smaller, and another process has it open",
                where=str(self.path),
                fix="end all that uses this HEADRACE_HOME, then compact again",
            ) from None
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("BEGIN")
            self._read_head()
            self._db.execute("COMMIT")
            self._files = {file: _identity(file) for file in self._files}

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        with self._blaming(), self._writing():
            parts = [(one,) for one in self._partitions_of(topic).values()]
            for one in parts:
                self._retie(*self._sums("sum FROM partitions WHERE id = ?", *one), *self._sums("sum FROM cursors WHERE partition = ?", *one))
            self._retie(*self._sums("sum FROM topics WHERE name = ?", topic))
            self._db.executemany("DELETE FROM blocks WHERE partition = ?", parts)
            self._db.executemany("DELETE FROM cursors WHERE partition = ?", parts)
            self._db.executemany("DELETE FROM partitions WHERE id = ?", parts)
            self._db.execute("DELETE FROM topics WHERE name = ?", (topic,))
            self._changing_head().catalog += 1

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name."""
        with self._blaming(), self._viewing():
            return [self._info(one) for _, one in sorted(self._catalog_now().items())]

    def topic(self, name: str) -> TopicInfo:
        """Return one topic. Raises PlanError if there is none of that name."""
        with self._blaming(), self._viewing():
            return self._info(self._topic_named(name))

    def _info(self, topic: _Topic) -> TopicInfo:
        parts = [self._partition_row(key) for key in topic.partitions.values()]
        infos = tuple(PartitionInfo(part.number, part.first, part.next, part.bytes) for part in parts)
        return TopicInfo(topic.name, infos, 1, topic.retention_ms, topic.retention_bytes)

    def _topic_named(self, name: str) -> _Topic:
        known = self._catalog_now()
        if name not in known:
            fix = near(name, known) if known else "make it: headrace topics create"
            raise PlanError(f"no topic {name!r}", where=str(self.path), fix=fix)
        return known[name]

    def _partitions_of(self, topic: str) -> dict[int, int]:
        """Return the ids of a topic's partitions, by number."""
        return self._topic_named(topic).partitions

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
        kept = None if keys is None or not any(key is not None for key in keys) else _pack(list(keys))
        size = len(body) + len(kept or b"")
        part, head = self._partition_row(partition), self._changing_head()
        head.seq += 1
        head.arrived_ms = arrived
        block = (head.seq, partition, part.next, count, arrived, size, int(packed), body_sum(kept), body_sum(body))
        self._db.execute(
            f"INSERT INTO blocks ({BLOCK}, keys, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  (names of our own)
            (*block, row_sum(*block), kept, body),
        )
        self._write_partition(replace(part, next=part.next + count, bytes=part.bytes + size))

    def _arrival(self) -> int:
        """Return the arrival time of what is appended now.

        It does not fall, with one exception: a clock that had leapt and is set back behind the leap was wrong before, and arrivals
        follow it. A leap is more than an hour since the last arrival. A silence looks the same, so for a day the gap does not
        count for retention; by then a wrong clock has been noticed.
        """
        head, now = self._changing_head(), self._clock()
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
                    self.path,
                )
        return max(now, head.arrived_ms)

    def _expire(self) -> None:
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
        head = self._head or self._read_head()
        horizon = head.arrived_ms - head.held_ms if now is None else now
        limited = [one for one in self._catalog_now().values() if one.retention_ms is not None or one.retention_bytes is not None]
        done = [self._expire_in(topic, key, horizon, head.unsummed) for topic in limited for key in topic.partitions.values()]
        return all(done)

    def _expire_in(self, topic: _Topic, key: int, horizon: int, unsummed: int) -> bool:
        """Drop blocks of one partition, some thousand at most, and return whether no more are to go.

        What it costs follows what it drops, not what there is. A damaged block, or one that arrived under a clock that was ahead,
        goes when one behind it does.
        """
        part = self._partition_row(key)
        bound, dropped, passed = part.first, 0, 0
        ready: tuple[int, int] | None = None
        # The newest block is never dropped: a bound counts once another block follows it.
        for place, row in enumerate(
            self._db.execute(f"SELECT {BLOCK} FROM blocks WHERE partition = ? ORDER BY first", (key,))  # noqa: S608  (names of our own)
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
            self._db.execute("DELETE FROM blocks WHERE partition = ? AND first < ?", (key, bound))
            self._write_partition(replace(part, first=bound, bytes=part.bytes - dropped))
        return bound == part.first or place < _EXPIRE_BLOCKS

    # reading
    def offsets_at(self, topic: str, arrived_ms: int) -> list[int]:
        """Return, for each partition, the offset of the first record that arrived at a time or after it; the end if there is none."""
        return [self._offset_at(topic, part, arrived_ms) for part in self.topic(topic).partitions]

    def _offset_at(self, topic: str, part: PartitionInfo, arrived_ms: int) -> int:
        low, high = part.first, part.end
        while low < high:  # arrival times do not fall from one record to the next
            middle = (low + high) // 2
            found = self.entries(topic, part.number, middle, 1)
            if not found or found[0].arrived_ms >= arrived_ms:
                high = middle
            else:
                low = found[0].offset + 1
        return low

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""
        with self._blaming(), self._viewing():
            one = self._partition(topic, partition)
            part, unsummed = self._partition_row(one), self._read_head().unsummed
            found: list[Entry] = []
            blocks = self._db.execute(
                f"SELECT {BLOCK}, keys, body FROM blocks WHERE partition = ? AND first >= "  # noqa: S608  (names of our own)
                "COALESCE((SELECT MAX(first) FROM blocks WHERE partition = ? AND first <= ?), 0) ORDER BY first",
                (one, one, offset),
            )
            reached = max(offset, part.first)
            for row in blocks:
                first = self._first_of(row, one, reached, unsummed)
                if found and first < reached:
                    raise self.damaged(self._named(one), f"records {first} to {reached - 1} are there twice")
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
                    raise self.damaged(self._named(one), f"records {reached} to {part.next - 1} are missing")
            return found[:most]

    def _first_of(self, row: Sequence[Any], partition: int, reached: int, unsummed: int) -> int:
        """Return the first offset of a block. Raises EnvironmentFault unless it is sound and follows what was reached."""
        where = self._named(partition)
        if not block_is_sound(row[:10], unsummed) or row[1] != partition:
            raise self.damaged(where, f"the block of records at offset {reached} or after it (number {row[0]} of the file) is damaged")
        first, end = int(row[2]), row[2] + row[3]
        if row[9] is not None and (body_sum(row[10]), body_sum(row[11])) != tuple(row[7:9]):
            raise self.damaged(where, f"records {first} to {end - 1} are damaged")
        if first > reached:
            raise self.damaged(where, f"records {reached} to {first - 1} are missing")
        return first

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        with self._blaming(), self._viewing():
            topics = self._catalog_now()
            places = {key: (one.name, number) for one in topics.values() for number, key in one.partitions.items()}
            found = []
            for reader, partition, following, checksum in self._db.execute("SELECT reader, partition, next, sum FROM cursors").fetchall():
                if not sound(checksum, reader, partition, following):
                    raise self.damaged(f"cursor of {reader}", "how far it has read is damaged")
                if partition in places:
                    found.append(Cursor(reader, *places[partition], following, self._partition_row(partition).next))
            return sorted(found, key=lambda one: (one.group, one.topic, one.partition))

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, by topic and partition."""
        with self._blaming(), self._writing():
            self._move(group, cursors)

    def _move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        for (topic, number), offset in cursors.items():
            row = group, self._partition(topic, number), offset
            self._retie(row_sum(*row), *self._sums("sum FROM cursors WHERE reader = ? AND partition = ?", *row[:2]))
            self._db.execute("INSERT OR REPLACE INTO cursors (reader, partition, next, sum) VALUES (?, ?, ?, ?)", (*row, row_sum(*row)))

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
        """Close the file.

        The last to close it takes the log out of WAL mode. So a file in WAL mode that has no -wal beside it is an incomplete copy.
        """
        if all(_identity(file) == identity for file, identity in self._files.items()):
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()


def _make_private(path: Path) -> None:
    """Make the file of a log for its owner alone, if it is not there; the files beside it get its rights. SQLite names what goes wrong.

    A file that is there is not opened: closing it would take from other logs of this process, which have it open, their locks
    (POSIX), and another process could then end WAL mode under them.
    """
    with _making, suppress(OSError):
        os.close(private(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL))


def _identity(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _check_numbers(topic: str, numbers: Mapping[str, int | None]) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise PlanError(f"{name} is {value}", where=f"topic {topic!r}", fix="give 1 or more")


def _shown(ms: int) -> str:
    return f"{ms / _DAY_MS:,.1f} days" if ms >= _DAY_MS else f"{ms / _HOUR_MS:.1f} hours"


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
                self._take_over(f"process {os.getpid()} on {socket.gethostname()}")
        except BaseException:
            self._lock.close()
            raise

    def _take_over(self, owner: str) -> None:
        """Raise the pipeline's epoch. A damaged row stays so: its checksum is not made good."""
        rows = self._db.execute("SELECT name, epoch, owner, manifest, checksum FROM pipelines WHERE name = ?", (self.pipeline,)).fetchall()
        # A damaged name would make a pipeline that has committed look new.
        for row in rows or self._db.execute("SELECT name, epoch, owner, manifest, checksum FROM pipelines NOT INDEXED"):
            if not rows and (row[0] == self.pipeline or not sound(row[-1], *row[:-1])):
                raise self._damaged(f"the row of pipeline {row[0]!r}, or")
        row = rows[0] if rows else (self.pipeline, 0, "", None, row_sum(self.pipeline, 0, "", None))
        self._whole = sound(row[-1], *row[:-1])
        self._epoch, self._manifest = row[1] + 1, row[3]
        self._write(owner, self._manifest)

    def _write(self, owner: str, manifest: bytes | None) -> None:
        row = self.pipeline, self._epoch, owner, manifest
        checksum = row_sum(*row) if self._whole else UNSOUND
        self._log._retie(checksum, *self._log._sums("checksum FROM pipelines WHERE name = ?", self.pipeline))
        self._db.execute(
            "INSERT INTO pipelines (name, epoch, owner, manifest, checksum) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
            " epoch = excluded.epoch, owner = excluded.owner, manifest = excluded.manifest, checksum = excluded.checksum",
            (*row, checksum),
        )

    @property
    def manifest(self) -> bytes | None:
        """The last commit's, or None before the first. Raises EnvironmentFault if it is damaged."""
        if not self._whole:
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
        if row is None or not sound(row[1], self.pipeline, name, body_sum(row[0])):
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
            self._whole = True
            self._write(owner[1], commit.manifest)
            passing("commit.manifest")
            known = {row[0] for row in self._db.execute("SELECT name FROM state WHERE pipeline = ?", (self.pipeline,))}
            self._db.executemany(
                "DELETE FROM state WHERE pipeline = ? AND name = ?", [(self.pipeline, name) for name in known.difference(commit.kept)]
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)",
                [(self.pipeline, name, row_sum(self.pipeline, name, body_sum(data)), data) for name, data in commit.state.items()],
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
            self._whole = True
            self._write(f"process {os.getpid()} on {socket.gethostname()}", None)
            self._db.execute("DELETE FROM state WHERE pipeline = ?", (self.pipeline,))
            self._log._retie(*self._log._sums("sum FROM cursors WHERE reader = ?", self.pipeline))
            self._db.execute("DELETE FROM cursors WHERE reader = ?", (self.pipeline,))
        self._manifest = None

    def release(self) -> None:
        """Give the pipeline up."""
        self._lock.close()
