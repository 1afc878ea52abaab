"""Files as topics: NDJSON, CSV and Parquet, one partition a file; the offset is the record's number."""

from __future__ import annotations

import codecs
import csv
import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import msgspec
import polars as pl
from arro3.core import RecordBatch
from arro3.io import read_parquet

from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.kernels.reading.batch import Lines, Rows, TextLines
from headrace.kernels.reading.columns import csv_cells
from headrace.topics.arrow import casts_for_polars, frame_of
from headrace.topics.protocol import PartitionReader

__all__ = ["ParquetFile", "TextFile", "csv_as_json", "csv_header", "csv_object", "open_file"]

CHUNK_BYTES = 6 << 20
CHUNK_CELLS = 1 << 19
_SEPARATORS = ",;\t|"
_NOTHING = Lines.of([])
_ODD = re.compile('["\\r\\n\\0]')  # where a line of CSV is more than its cells between separators


def open_file(path: Path, chunk: int | None = None) -> PartitionReader:
    """Return a reader of the file, by what its name ends in; `-` is NDJSON from standard input.

    Raises
    ------
    EnvironmentFault
        If the file is not there or cannot be read.
    PlanError
        If its name says nothing of its format.
    """
    ending = path.suffix.lower()
    if str(path) == "-" or ending in {".ndjson", ".jsonl", ".json"}:
        return TextFile(path, "json", chunk or CHUNK_BYTES)
    if ending in {".csv", ".tsv"}:
        return TextFile(path, "csv", chunk or CHUNK_BYTES)
    if ending in {".parquet", ".pq"}:
        return ParquetFile(path, chunk)
    raise PlanError(f"the format of {path.name!r} is not known", where=str(path), fix="name it .ndjson, .csv or .parquet")


def csv_as_json(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a CSV file as a topic holds records: JSON objects of texts by column, empty cells left out.

    A line that does not fit the header is yielded as it is, so that a pipeline sets it aside with the reason.

    Raises
    ------
    EnvironmentFault
        If the file is not there or cannot be read.
    DataError
        If it has no usable header line.
    """
    with closing(TextFile(path, "csv", CHUNK_BYTES)) as file:
        columns, separator = file.columns or [], file.separator or ","
        while not file.finished:
            lines = file.read()
            yield [_json_of(lines.raw(place), columns, separator) for place in range(len(lines))]


def _json_of(line: str | bytes, columns: list[str], separator: str) -> bytes:
    made = csv_object(line, columns, separator)
    if isinstance(made, bytes):
        return made
    return line if isinstance(line, bytes) else line.encode()


def csv_object(line: str | bytes, columns: list[str], separator: str) -> bytes | str:
    """Return a line of CSV as a JSON object of texts by column, without the empty cells; or why it does not fit the header."""
    if isinstance(line, str) and not _ODD.search(line) and line.count(separator) == len(columns) - 1:
        return msgspec.json.encode({name: cell for name, cell in zip(columns, line.split(separator), strict=True) if cell})
    cells = csv_cells(line, len(columns), separator)
    if isinstance(cells, str):
        return cells
    return msgspec.json.encode({name: cell for name, cell in zip(columns, cells, strict=True) if cell})


def csv_header(raw: bytes, name: str) -> tuple[list[str], str]:
    """Return the columns that a header line names, and the separator: the one that it contains most often.

    Raises
    ------
    DataError
        If it names no columns, or one of them twice. `name` is that of the file.
    """
    try:
        line = raw.removeprefix(codecs.BOM_UTF8).decode().strip("\r\n")
        separator = max(_SEPARATORS, key=re.sub('"[^"]*"', "", line).count)
        (names,) = csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True)
    except UnicodeDecodeError:
        raise DataError("header is not UTF-8", where=name, fix="save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"header is not CSV: {error}", where=name, fix="name the columns in the first line") from None
    columns = [one.strip() for one in names]
    repeated = {one for one in columns if columns.count(one) > 1}
    if repeated or not line.strip():
        what = f"has column {min(repeated)!r} twice" if repeated else "has no header line"
        raise DataError(what, where=name, fix="give each column a name of its own in the first line")
    return columns, separator


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    fix = "name a file that exists" if isinstance(error, FileNotFoundError) else "name a file that this user may read"
    return EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path), fix=fix)


class TextFile:
    """A file of one record a line.

    It is read up to the size it has when it is opened; what is appended later is for the next run, but a line that had
    begun is read to its end.
    """

    def __init__(self, path: Path, format: str, chunk: int) -> None:
        self.path, self.name, self._chunk = path, str(path), chunk
        self.columns: list[str] | None = None
        self.separator: str | None = None
        self._piped = str(path) == "-"
        try:
            self._file: IO[bytes] = sys.stdin.buffer if self._piped else path.open("rb")
            self.size = sys.maxsize if self._piped else self._file.seek(0, os.SEEK_END)
            if not self._piped:
                self._file.seek(0)
        except OSError as error:
            raise _fault(path, error) from None
        self._at = self._record = 0
        self._begun = b""
        self._last: Lines | None = None
        self.finished = self.size == 0
        if format == "csv":
            try:
                self._read_header()
            except DataError:
                self.close()
                raise

    def _read_header(self) -> None:
        raw = self._file.readline()
        self.columns, self.separator = csv_header(raw, self.name)
        self._at = len(raw)
        self.finished = self._at >= self.size

    @property
    def drained(self) -> bool:
        """Whether all has been read."""
        return self.finished

    @property
    def position(self) -> dict[str, Any]:
        """The byte and the number of the next record, and the size that is read up to."""
        if self._last is not None:
            self._record, self._last = self._record + len(self._last), None
        return {"byte": self._at, "record": self._record, "size": self.size}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on at a position that this file gave, in this process or before."""
        if self._piped and position["byte"] and not self._file.seekable():
            raise EnvironmentFault(
                "cannot be read again from where a run stopped",
                where="standard input",
                fix="read a file, or remove the .run of the output to start anew",
            )
        if position["size"] > self.size:
            raise EnvironmentFault(
                f"has shrunk from {position['size']} to {self.size} bytes", where=self.name, fix="bring the file back or start anew"
            )
        self.size, self._at, self._record, self._begun, self._last = position["size"], position["byte"], position["record"], b"", None
        self._file.seek(self._at)
        self.finished = self._at >= self.size

    def read(self) -> Lines:
        """Return the next whole lines."""
        _ = self.position
        text, length = self._whole_lines()
        if self._at == 0:
            text = text.removeprefix(codecs.BOM_UTF8)
        self._at += length
        self._last = TextLines(text) if text else _NOTHING
        return self._last

    def _whole_lines(self) -> tuple[bytes, int]:
        """Return the file's next bytes up to the end of a line, without it, and how many bytes of the file that were."""
        parts: list[bytes | memoryview] = [self._begun]
        length = len(self._begun)
        self._begun = b""
        while True:
            part = self._bytes(min(self._chunk, self.size - self._at - length))
            at_end = not part if self._piped else self._at + length + len(part) >= self.size
            cut = part.rfind(b"\n")
            if cut >= 0:
                self._begun = part[cut + 1 :]
                parts.append(memoryview(part)[:cut])
                length += cut + 1
                self.finished = at_end and not self._begun
                return b"".join(parts), length
            parts.append(part)
            length += len(part)
            if at_end:
                self.finished = True
                text = b"".join(parts)
                text += self._rest_of_line(text)
                return text.removesuffix(b"\n"), max(length, len(text))

    def _bytes(self, most: int) -> bytes:
        try:
            part = self._file.read1(most) if self._piped else self._file.read(most)  # type: ignore[attr-defined]
        except OSError as error:
            raise _fault(self.path, error) from None
        if len(part) < most and not self._piped:
            raise EnvironmentFault("has become shorter while it was read", where=self.name, fix="let its writer finish, then run again")
        return bytes(part)

    def _rest_of_line(self, begun: bytes) -> bytes:
        """Return what has been appended to a line that the file ended in when it was opened."""
        return b"" if self._piped or not begun else self._file.readline()

    def close(self) -> None:
        """Close the file."""
        if not self._piped:
            self._file.close()


class ParquetFile:
    """A Parquet file, its rows in their order.

    Attributes
    ----------
    columns
        Their names, in order. A column with decimals inside lists, maps or structs is named here and missing from the rows.

    Raises
    ------
    EnvironmentFault
        If it is not there or cannot be read.
    DataError
        If it is no Parquet file, or two of its columns have one name.
    """

    separator = None

    def __init__(self, path: Path, chunk: int | None = None) -> None:
        self.path, self.name = path, str(path)
        try:
            path.open("rb").close()
            self._mark = self._state_of_file()
            self.size = int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
        except OSError as error:
            raise _fault(path, error) from None
        except pl.exceptions.DuplicateError as error:
            (name,) = re.findall("with name '(.*)' has", str(error), re.DOTALL) or ["?"]
            raise DataError(f"has column {name!r} twice", where=self.name, fix="give each column a name of its own") from None
        except pl.exceptions.PolarsError as error:
            raise DataError(f"is no Parquet file: {str(error).splitlines()[0]}", where=self.name) from None
        schema = read_parquet(path).schema
        self.columns = schema.names
        self._casts = casts_for_polars(schema)
        self._chunk = chunk or max(CHUNK_CELLS // max(len(self.columns), 1), 1)
        self._at = 0
        self._batches: Iterator[RecordBatch] | None = None

    @property
    def finished(self) -> bool:
        """Whether all rows have been read."""
        return self._at >= self.size

    @property
    def drained(self) -> bool:
        """Whether all rows have been read."""
        return self.finished

    @property
    def position(self) -> dict[str, Any]:
        """The number of the next row, and how many there are."""
        return {"record": self._at, "size": self.size}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on at a row."""
        if position["size"] != self.size:
            raise EnvironmentFault(f"had {position['size']} rows and has {self.size} now", where=self.name, fix="bring the file back or start anew")
        self._at, self._batches = position["record"], None

    def read(self) -> Rows:
        """Return the next rows."""
        if self._state_of_file() != self._mark:
            raise EnvironmentFault("has changed while it was read", where=self.name, fix="let its writer finish, then run again")
        try:
            if self._batches is None:
                self._batches = self._rows_from(self._at)
            frame = frame_of(next(self._batches), self._casts)
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  (the decoder raises plain Exceptions)
            raise EnvironmentFault(
                f"cannot be read on: {' '.join(str(error).split()) or 'it has fewer rows than it says'}",
                where=self.name,
                fix="let its writer finish, then run again",
            ) from None
        self._at += len(frame)
        return Rows(frame)

    def _state_of_file(self) -> tuple[int, ...]:
        """Return what tells the file from one that has taken its place; nothing if there is none."""
        try:
            state = self.path.stat()
        except OSError:
            return ()
        return state.st_ino, state.st_size, state.st_mtime_ns

    def _rows_from(self, first: int) -> Iterator[RecordBatch]:
        """Yield the file's rows from one on, in batches."""
        passed = 0
        for batch in read_parquet(self.path, batch_size=self._chunk):
            if passed + batch.num_rows > first:
                yield batch.slice(max(first - passed, 0))
            passed += batch.num_rows

    def close(self) -> None:
        """Let go of the file."""
        self._batches = None
