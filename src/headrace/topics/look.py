"""A look at a SQLite log by who only wants to know how it is: nothing is changed, and no file is made."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from headrace.topics.sqlite_schema import ROWS, tie_of
from headrace.topics.sums import BLOCK, block_is_sound, body_sum, sound

__all__ = ["Look"]

_MOST_FAULTS = 10

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Look:
    """The log in a file that is there. All of it raises sqlite3.Error if the file cannot be read or is damaged."""

    path: Path

    def read(self, ask: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what `ask` reads.

        SQLite makes two files beside a log that nobody has open, even to read it; those of root would be in the way of others.
        So such a log is opened as one that nobody changes, and if somebody did, it is read once more.
        """
        wal = self.path.with_name(f"{self.path.name}-wal")
        alone = not wal.exists()
        try:
            return self._ask(ask, "mode=ro&immutable=1" if alone else "mode=ro")
        except sqlite3.Error:
            if not alone or not wal.exists():
                raise
            return self._ask(ask, "mode=ro")

    def _ask(self, ask: Callable[[sqlite3.Connection], _T], mode: str) -> _T:
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?{mode}", uri=True, timeout=5.0)) as db:
            db.text_factory = lambda data: data.decode(errors="surrogateescape")
            try:
                return ask(db)
            except UnicodeDecodeError as error:
                # SQLite quotes a damaged schema in its message, which Python then cannot read.
                raise sqlite3.DatabaseError(f"the schema is damaged: {error.reason}") from None

    def format(self) -> tuple[int, int]:
        """Return the log's format, and how many tables it has."""

        def ask(db: sqlite3.Connection) -> tuple[int, int]:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            return version, tables

        return self.read(ask)

    def lacks_wal(self) -> bool:
        """Return whether the log is in WAL mode, as while it is in use, and its -wal is not there."""
        with self.path.open("rb") as file:
            header = file.read(20)
        return header[18:20] == b"\x02\x02" and not self.path.with_name(f"{self.path.name}-wal").exists()

    def faults(self, seconds: float) -> list[str] | None:
        """Return what is damaged, by name; None if that could not be found out in so many seconds."""

        def ask(db: sqlite3.Connection) -> list[str]:
            end = time.monotonic() + seconds
            db.set_progress_handler(lambda: time.monotonic() > end, 100_000)
            (first, *others) = (row[0] for row in db.execute("PRAGMA quick_check(10)"))
            if first != "ok":
                raise sqlite3.DatabaseError(f"{first}{' and more' if others else ''}")
            return list(islice(_damaged_rows(db), _MOST_FAULTS))

        try:
            return self.read(ask)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_INTERRUPT":
                return None
            raise

    def topics(self) -> dict[str, int]:
        """Return the topics, and how many partitions each has."""
        asked = "SELECT name, COUNT(*) FROM topics JOIN partitions ON topic = topics.id GROUP BY name"
        return dict(self.read(lambda db: db.execute(asked).fetchall()))

    def last_arrival(self) -> int | None:
        """Return when the last record arrived, ms since the epoch."""
        row = self.read(lambda db: db.execute("SELECT arrived_ms FROM blocks ORDER BY seq DESC LIMIT 1").fetchone())
        return row[0] if row else None

    def manifest(self, pipeline: str) -> tuple[bytes, bool] | None:
        """Return what a pipeline's last commit said of it, and whether that is whole; None if there is none."""
        asked = "SELECT name, epoch, owner, manifest, checksum FROM pipelines WHERE name = ? AND manifest IS NOT NULL"
        row = self.read(lambda db: db.execute(asked, (pipeline,)).fetchone())
        return (row[3], sound(row[-1], *row[:-1])) if row else None

    def places(self, pipeline: str) -> list[tuple[str, int, int, int, int]]:
        """Return topic and partition, the offset that a pipeline is to read next, and the first and the end of what is there."""
        asked = (
            "SELECT name, number, cursors.next, partitions.first, partitions.next FROM cursors JOIN partitions ON partition = partitions.id"
            " JOIN topics ON topic = topics.id WHERE reader = ? ORDER BY name, number"
        )
        return self.read(lambda db: db.execute(asked, (pipeline,)).fetchall())

    def damaged_part(self, pipeline: str, names: Iterable[str]) -> str | None:
        """Return the first of some parts of a pipeline's state that is missing or damaged."""

        def ask(db: sqlite3.Connection) -> str | None:
            for name in names:
                row = db.execute("SELECT data, checksum FROM state WHERE pipeline = ? AND name = ?", (pipeline, name)).fetchone()
                if row is None or not sound(row[1], pipeline, name, body_sum(row[0])):
                    return name
            return None

        return self.read(ask)


def _damaged_rows(db: sqlite3.Connection) -> Iterator[str]:
    """Find rows that are not as they were written, and records that are missing."""
    for table, columns in ROWS.items():
        for row in db.execute(f"SELECT {columns} FROM {table} NOT INDEXED"):  # noqa: S608  (names of our own)
            if not sound(row[-1], *row[:-1]):
                yield f"a row of the table {table} is damaged: {', '.join(str(one)[:40] for one in row[:3])}"
    if (tie_of(db),) not in db.execute("SELECT tie FROM log").fetchall():
        yield "its tables are of different commits"
    for pipeline, name, checksum, data in db.execute("SELECT pipeline, name, checksum, data FROM state NOT INDEXED"):
        if not sound(checksum, pipeline, name, body_sum(data)):
            yield f"part {name} of the state of pipeline {pipeline} is damaged"
    yield from _damaged_blocks(db)


def _damaged_blocks(db: sqlite3.Connection) -> Iterator[str]:
    asked = "SELECT partitions.id, name, number, first, next FROM partitions JOIN topics ON topic = topics.id"
    parts = {key: (f"topic {name} partition {number}", first, end) for key, name, number, first, end in db.execute(asked)}
    reached = {key: first for key, (_, first, _) in parts.items()}
    (unsummed,) = db.execute("SELECT unsummed FROM log").fetchone()
    for row in db.execute(f"SELECT {BLOCK}, keys, body FROM blocks ORDER BY seq"):  # noqa: S608  (names of our own)
        if not block_is_sound(row[:10], unsummed):
            yield f"block {str(row[0])[:40]} of the file is damaged"
            continue
        key, first, end = row[1], row[2], row[2] + row[3]
        if key not in parts:
            continue
        name = parts[key][0]
        if row[9] is not None and (body_sum(row[10]), body_sum(row[11])) != tuple(row[7:9]):
            yield f"{name}: records {first} to {end - 1} are damaged"
        if first != reached[key]:
            yield f"{name}: records {min(first, reached[key])} to {max(first, reached[key]) - 1} are {'missing' if first > reached[key] else 'there twice'}"
        reached[key] = end
    for key, (name, _, end) in parts.items():
        if reached[key] != end:
            yield f"{name}: records {reached[key]} to {end - 1} are missing"
