"""The file that is being filled: a journal of one partition's records, and what makes a file of it when it is full.

A journal says after which offset it begins, and has each record with its offset. So it shows what a target has written before: a
record that comes again after an outage or `kill -9` is not written twice, and each file ends where it would have ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import IO
from zlib import crc32

import msgspec

from headrace._durable import put, sync
from headrace.connectors.files_formats import Format
from headrace.connectors.protocol import Record
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["Journal", "Roll"]


@dataclass(frozen=True, slots=True)
class Roll:
    """When a file ends.

    Attributes
    ----------
    records
        It has so many records.
    size
        Its records have so many bytes, a line feed after each.
    period_ms
        A record arrives in a later period than its first one. Periods are counted from 1970, in UTC.
    """

    records: float = inf
    size: float = inf
    period_ms: int | None = None

    def is_full(self, count: int, size: int) -> bool:
        """Return whether a file ends after its last record."""
        return count >= self.records or size >= self.size

    def is_over(self, first_ms: int, arrived_ms: int) -> bool:
        """Return whether a file ends before a record."""
        return self.period_ms is not None and arrived_ms // self.period_ms > first_ms // self.period_ms


class _Header(msgspec.Struct):
    """The first line: the last offset of the files before, whose files they are, and columns that a record has named."""

    after: int
    settings: str
    columns: tuple[str, ...] | None = None


class Journal:
    """The records of a partition that are not in a file yet.

    Parameters
    ----------
    folder
        Where the files are.
    name
        How their names begin.
    settings
        Of the target. What other settings have written is not touched.
    roll
        When a file ends.
    form
        What the files look like.

    Raises
    ------
    PlanError
        If the folder has files of other settings.
    EnvironmentFault
        If the journal is damaged.
    OSError
        If it cannot be read or written.
    """

    def __init__(self, folder: Path, name: str, settings: str, roll: Roll, form: Format) -> None:
        self._folder, self._name, self._settings, self._roll, self._form = folder, name, settings, roll, form
        self._path = folder / f".{name}.journal"
        self._file: IO[bytes] | None = None
        self._last = -1
        self._empty()
        for left in folder.glob(f".{name}.*.new"):
            left.unlink()
        try:
            if self._path.exists():
                self._read()
        except BaseException:
            self.close()
            raise

    def _empty(self) -> None:
        self._count = self._size = self._first = self._first_ms = 0

    def write(self, records: Sequence[Record]) -> dict[int, str]:
        """Write records, make them durable, and return why others cannot be in a file, by their places."""
        unfit = dict(self._form.unfit([record.value for record in records]))
        for place, record in enumerate(records):
            if place in unfit or record.offset <= self._last:
                continue
            if self._count and self._roll.is_over(self._first_ms, record.arrived_ms):
                self._publish()
            self._append(record)
            if self._roll.is_full(self._count, self._size):
                self._publish()
        if self._file is not None:
            _settle(self._file)
        return unfit

    def _append(self, record: Record) -> None:
        file = self._file or self._begin()
        value = record.value.replace(b"\n", b" ")  # in JSON they are white space both
        line = b"%d %d %s" % (record.offset, record.arrived_ms, value)
        file.write(b"%08x %s\n" % (crc32(line), line))
        self._note(record.offset, record.arrived_ms, len(value) + 1)

    def _note(self, offset: int, arrived_ms: int, size: int) -> None:
        if not self._count:
            self._first, self._first_ms = offset, arrived_ms
        self._last = offset
        self._count += 1
        self._size += size

    # files

    def _publish(self) -> None:
        """Put a file of the records in place, and begin the next one. Done again after a kill, it does the same."""
        assert self._file is not None
        self._file.flush()
        path = self._folder / f"{self._name}.{self._first:012d}-{self._last:012d}.{self._form.ending}"
        aside = self._folder / f".{path.name}.new"
        with aside.open("wb") as file:
            self._form.write(file, (value for _, _, value, _ in self._lines()))
            _settle(file)
        aside.replace(path)
        sync(self._folder)
        self._begin()

    # the journal

    def _begin(self) -> IO[bytes]:
        """Begin an empty journal after the last record."""
        self.close()
        put(self._path, msgspec.json.encode(_Header(self._last, self._settings, self._form.columns)) + b"\n")
        sync(self._folder)
        self._empty()
        self._file = self._path.open("ab")
        return self._file

    def _read(self) -> None:
        """Resume from what is there, cut back to its last whole record: what is behind it was never settled."""
        with self._path.open("rb") as file:
            first = file.readline()
        try:
            header = msgspec.json.decode(first, type=_Header)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise EnvironmentFault("is damaged", where=str(self._path), fix="name another folder") from None
        if header.settings != self._settings:
            fix = "name another folder for files of other settings"
            raise PlanError(f"has files of {header.settings}", where=str(self._folder), fix=fix)
        if header.columns is not None:
            self._form.columns = header.columns
        self._last, end = header.after, len(first)
        for offset, arrived_ms, value, length in self._lines():
            self._note(offset, arrived_ms, len(value) + 1)
            end += length
        self._file = self._path.open("ab")
        self._file.truncate(end)
        if self._roll.is_full(self._count, self._size):
            self._publish()

    def _lines(self) -> Iterator[tuple[int, int, bytes, int]]:
        """Yield offset, arrival, value and the length of the line of each whole record."""
        with self._path.open("rb") as file:
            file.readline()
            for line in file:
                sum_, _, content = line[:-1].partition(b" ")
                if not line.endswith(b"\n") or sum_ != b"%08x" % crc32(content):
                    return
                offset, arrived_ms, value = content.split(b" ", 2)
                yield int(offset), int(arrived_ms), value, len(line)

    def close(self) -> None:
        """Close the journal."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()


def _settle(file: IO[bytes]) -> None:
    """Make what was written durable."""
    file.flush()
    os.fsync(file.fileno())
