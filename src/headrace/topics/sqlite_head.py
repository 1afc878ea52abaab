"""The row of the SQLite log as a whole: read and written with its checksum, and tied to the rows of the small tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass

from headrace.topics.sqlite_file import SqliteFile
from headrace.topics.sqlite_schema import ROWS, tie_of
from headrace.topics.sums import UNSOUND, row_sum, sound

__all__ = ["Head", "SqliteHead"]


@dataclass(slots=True)
class Head:
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


class SqliteHead:
    """The log's row, which a transaction that changes anything writes at its end."""

    def __init__(self, file: SqliteFile) -> None:
        self.file = file
        self._changed: Head | None = None
        self._untied = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make what is done within one transaction, with the log's row, undone if it fails."""
        try:
            with self.file.writing():
                yield
                if self._changed is not None:
                    self._write(self._changed)
        finally:
            self._changed = None

    def now(self) -> Head:
        """Return the log's row as this transaction has it so far."""
        return self._changed or self.read()

    def read(self) -> Head:
        """Return the log's row as it is in the file. Raises EnvironmentFault if it is damaged."""
        row = self.file.db.execute(f"SELECT {ROWS['log']} FROM log").fetchone()  # noqa: S608  (names of our own)
        if row is None or not sound(row[-1], *row[:-1]):
            raise self.file.damaged(str(self.file.path), "the row of the log as a whole is damaged")
        return Head(*row[1:-1])

    def changing(self) -> Head:
        """Return the log's row, which is written when the transaction ends."""
        if self._changed is None:
            self._changed = self.read()
        return self._changed

    def _write(self, head: Head) -> None:
        if self._untied:
            head.tie = tie_of(self.file.db)
        row = astuple(head)
        self.file.db.execute(
            "UPDATE log SET seq = ?, arrived_ms = ?, trusted_ms = ?, leapt_ms = ?, held_ms = ?, catalog = ?, unsummed = ?, tie = ?, sum = ?",
            (*row, row_sum(1, *row)),
        )

    def retie(self, *sums: int | None) -> None:
        """Note in the log's row that rows with these checksums came or went."""
        head = self.changing()
        for one in sums:
            head.tie ^= one if isinstance(one, int) else UNSOUND

    def sums(self, which: str, *values: object) -> list[int | None]:
        """Return the checksums of some rows of a small table."""
        return [row[0] for row in self.file.db.execute(f"SELECT {which}", values)]

    def check_tie(self) -> None:
        """Raise EnvironmentFault if tables are of different commits. A damaged row, which makes this unknown, is told by who uses it."""
        rows = {table: self.file.db.execute(f"SELECT {columns} FROM {table} NOT INDEXED").fetchall() for table, columns in ROWS.items()}  # noqa: S608
        self._untied = not all(sound(row[-1], *row[:-1]) for found in rows.values() for row in found) or not rows["log"]
        if not self._untied and tie_of(self.file.db) != rows["log"][0][-2]:
            raise self.file.damaged(
                str(self.file.path), "is damaged: its tables are of different commits, as after a disk that lost what it had acknowledged"
            )
