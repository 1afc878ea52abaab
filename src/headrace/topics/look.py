"""A look at a SQLite log by who only wants to know how it is: nothing is changed, and no file is made."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from zlib import crc32

__all__ = ["Look"]

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
            return ask(db)

    def format(self) -> tuple[int, int]:
        """Return the log's format, and how many tables it has."""

        def ask(db: sqlite3.Connection) -> tuple[int, int]:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            return version, tables

        return self.read(ask)

    def check(self, seconds: float) -> bool:
        """Return whether the log could be checked in so many seconds."""

        def ask(db: sqlite3.Connection) -> bool:
            end = time.monotonic() + seconds
            db.set_progress_handler(lambda: time.monotonic() > end, 100_000)
            try:
                (first, *others) = (row[0] for row in db.execute("PRAGMA quick_check(10)"))
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname == "SQLITE_INTERRUPT":
                    return False
                raise
            if first != "ok":
                raise sqlite3.DatabaseError(f"{first}{' and more' if others else ''}")
            return True

        return self.read(ask)

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
        asked = "SELECT manifest, checksum FROM pipelines WHERE name = ? AND manifest IS NOT NULL"
        row = self.read(lambda db: db.execute(asked, (pipeline,)).fetchone())
        return (row[0], crc32(row[0]) == row[1]) if row else None

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
                if row is None or crc32(row[0]) != row[1]:
                    return name
            return None

        return self.read(ask)
