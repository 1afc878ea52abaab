"""Formats of files of records: NDJSON, CSV and Parquet. A format also says which records cannot be in it."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO

import msgspec
from arro3.io import read_json, write_ndjson, write_parquet

from headrace.connectors.objects import Unfit, object_of
from headrace.kernels.columnar.intake import Intake
from headrace.kernels.reading.batch import Lines
from headrace.kernels.reading.json import JsonReader, arrow_schema
from headrace.plan.operators import Source
from headrace.plan.stream import stream

__all__ = ["Csv", "Format", "Ndjson", "Parquet"]

_contents = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Format(ABC):
    """The format of the files of one partition.

    Whether a record fits depends on the record and on `columns`, and on nothing else: a record that comes again gets the same answer.

    Attributes
    ----------
    ending
        How the names of its files end.
    columns
        Names of the columns, where the records name them; None: not known yet, or not needed.
    """

    ending: str
    columns: tuple[str, ...] | None = None

    @abstractmethod
    def unfit(self, values: Sequence[bytes]) -> Mapping[int, str]:
        """Return why records cannot be in a file, by their places."""

    @abstractmethod
    def write(self, file: IO[bytes], values: Iterable[bytes]) -> None:
        """Write a file of records that fit."""


class Ndjson(Format):
    """A record a line, as it came."""

    ending = "ndjson"

    def unfit(self, values: Sequence[bytes]) -> Mapping[int, str]:
        """Return which records are not JSON objects."""
        return _unfit(values, object_of)

    def write(self, file: IO[bytes], values: Iterable[bytes]) -> None:
        """Write lines."""
        file.writelines(value + b"\n" for value in values)


class Csv(Format):
    """A line of names, and a line of cells for each record.

    Parameters
    ----------
    columns
        The fields that are written. None: those of the partition's first record; then a record with another field does not fit.
    """

    ending = "csv"

    def __init__(self, columns: tuple[str, ...] | None) -> None:
        self._stated, self.columns = columns is not None, columns

    def unfit(self, values: Sequence[bytes]) -> Mapping[int, str]:
        """Return which records are not JSON objects, or have a field that is no column."""
        return _unfit(values, self._check)

    def _check(self, value: bytes) -> None:
        found = object_of(value)
        if self._stated:
            return
        if not found:
            raise Unfit("has no fields")
        if self.columns is None:
            self.columns = tuple(found)
        for name in found:
            if name not in self.columns:
                raise Unfit(f"field {name!r} is not a column: the first record of the partition has no such field, and the address no columns=")

    def write(self, file: IO[bytes], values: Iterable[bytes]) -> None:
        """Write the header and the lines. A cell is a text as it is, other values as JSON; what is null or absent is an empty cell."""
        assert self.columns is not None
        text = io.TextIOWrapper(file, "utf-8", newline="")
        try:
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow(self.columns)
            for value in values:
                found = _contents(value)
                lines.writerow([_cell(found.get(name)) for name in self.columns])
        finally:
            text.detach()  # writes what is buffered, and leaves the file open


def _cell(raw: msgspec.Raw | None) -> str:
    if raw is None:
        return ""
    content = bytes(raw)
    if content.startswith(b'"'):
        return _text(content)
    return "" if content == b"null" else content.decode()


class Parquet(Format):
    """Rows of declared columns. A record is read as a pipeline reads it whose source has this schema.

    Parameters
    ----------
    declared
        The columns, each with its type, such as `DOUBLE` or `STRING NOT NULL`.

    Raises
    ------
    PlanError
        If they cannot be columns.
    """

    ending = "parquet"

    def __init__(self, declared: Mapping[str, str]) -> None:
        source = stream("files", schema=declared).operator
        assert isinstance(source, Source)
        self._schema, self._reader, self._intake = source.declared, JsonReader(source.declared), Intake(source)

    def unfit(self, values: Sequence[bytes]) -> Mapping[int, str]:
        """Return which records cannot be read."""
        return self._intake(self._reader.read(Lines.of(values))).malformed

    def write(self, file: IO[bytes], values: Iterable[bytes]) -> None:
        """Write a file of rows."""
        rows = self._reader.read(Lines.of(list(values))).frame.select(self._schema.names)
        text = io.BytesIO()
        write_ndjson(rows, text, explicit_nulls=True)
        text.seek(0)
        write_parquet(read_json(text, arrow_schema(self._schema)), file)


def _unfit(values: Sequence[bytes], check: Callable[[bytes], object]) -> dict[int, str]:
    found = {}
    for place, value in enumerate(values):
        try:
            check(value)
        except Unfit as unfit:
            found[place] = str(unfit)
    return found
