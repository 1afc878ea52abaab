"""Values of a Python program as topics: frames, records in lists and iterators; each is a partition."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
from arro3.core import Table

from headrace.errors import DataError, PlanError
from headrace.kernels.reading.batch import Lines, Rows, TextLines
from headrace.topics.arrow import casts_for_polars, frame_of
from headrace.topics.files import CHUNK_CELLS, open_file
from headrace.topics.protocol import PartitionReader

__all__ = ["FrameReader", "RecordReader", "partitions_of"]

_CHUNK_RECORDS = 16_384
_KINDS = "a list of dicts, a Polars, pandas or Arrow table, or the path of a file"


def partitions_of(given: Any, name: str, *, singly: bool = False) -> Iterator[PartitionReader]:  # noqa: ANN401
    """Yield the readers of a topic's partitions.

    Parameters
    ----------
    given
        One partition, or a list of them. A partition is a path, a frame, or an iterable of records: dicts, or bytes as a topic has them.
    name
        What errors call it.
    singly
        Whether an iterator is asked for one record at a time.

    Raises
    ------
    PlanError
        If it is nothing of the kind.
    DataError
        If a frame cannot be read.
    EnvironmentFault
        If a file cannot be read.
    """
    if isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) and not isinstance(given[0], Mapping | bytes):
        for number, one in enumerate(given):
            yield _partition(one, f"{name} partition {number}", singly=singly)
    else:
        yield _partition(given, name, singly=singly)


def _partition(given: Any, name: str, *, singly: bool) -> PartitionReader:  # noqa: ANN401
    match given:
        case str() | os.PathLike():
            return open_file(Path(given))
        case pl.LazyFrame():
            return FrameReader(given.collect(), name)
        case pl.DataFrame():
            return FrameReader(given, name)
        case Mapping():
            raise PlanError("is one dict, not a table of records", where=name, fix=f"give {_KINDS}")
        case _ if hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__"):
            return _reader_of_arrow(given, name)
        case Iterable() if not isinstance(given, bytes):
            return RecordReader(given, name, 1 if singly and isinstance(given, Iterator) else _CHUNK_RECORDS)
    raise PlanError(f"is of type {type(given).__name__}", where=name, fix=f"give {_KINDS}")


def _reader_of_arrow(given: Any, name: str) -> FrameReader:  # noqa: ANN401
    """Return a reader of a table of any library that exports Arrow data."""
    try:
        table = Table.from_arrow(given)
    except Exception as error:  # noqa: BLE001  (libraries raise what they like)
        raise DataError(f"is no table: {' '.join(str(error).split())}", where=name, fix=f"give {_KINDS}") from None
    names = table.schema.names
    for column in names:
        if names.count(column) > 1:
            raise DataError(f"has column {column!r} twice", where=name, fix="give each column a name of its own")
    casts = casts_for_polars(table.schema)
    try:
        frames = [frame_of(batch, casts) for batch in table.to_batches()]
        return FrameReader(pl.concat(frames) if frames else pl.DataFrame(), name, names)
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  (a type that Polars does not have)
        raise DataError(f"cannot be read: {' '.join(str(error).split())}", where=name, fix="cast the column to a plainer type") from None


class FrameReader:
    """The rows of a frame, in their order. `columns` may name more than it has: those that Polars cannot take."""

    separator = None

    def __init__(self, frame: pl.DataFrame, name: str, columns: Sequence[str] | None = None) -> None:
        self.name, self._frame = name, frame
        self.columns = list(frame.columns if columns is None else columns)
        self._chunk = max(CHUNK_CELLS // max(frame.width, 1), 1)
        self._at = 0

    @property
    def finished(self) -> bool:
        """Whether all rows have been read."""
        return self._at >= len(self._frame)

    @property
    def drained(self) -> bool:
        """Whether all rows have been read."""
        return self.finished

    @property
    def position(self) -> dict[str, Any]:
        """The number of the next row."""
        return {"record": self._at}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on at a row."""
        self._at = position["record"]

    def read(self) -> Rows:
        """Return the next rows."""
        rows = self._frame.slice(self._at, self._chunk)
        self._at += len(rows)
        return Rows(rows)

    def close(self) -> None:
        """Do nothing: the frame is the caller's."""


class RecordReader:
    """Records of an iterable, `chunk` at a time: dicts, which are read as their JSON is, or bytes as a topic has them.

    Times of `datetime` become ISO 8601 in UTC; one without a zone is in UTC.
    """

    columns = separator = None

    def __init__(self, records: Iterable[Any], name: str, chunk: int) -> None:
        self.name, self._records, self._chunk = name, iter(records), chunk
        self._at = 0
        self.finished = False

    @property
    def drained(self) -> bool:
        """Whether all has been read."""
        return self.finished

    @property
    def position(self) -> dict[str, Any]:
        """The number of the next record."""
        return {"record": self._at}

    def seek(self, position: dict[str, Any]) -> None:
        """Stay: what an iterator has passed does not come again."""

    def read(self) -> Lines:
        """Return the next records.

        Raises
        ------
        PlanError
            If one of them is neither a dict nor bytes, or has a value that JSON has no form for.
        """
        records = list(islice(self._records, self._chunk))
        self.finished = len(records) < self._chunk
        lines = [self._line(number, record) for number, record in enumerate(records, self._at)]
        self._at += len(lines)
        if not lines or any(isinstance(record, bytes) for record in records):
            return Lines.of(lines)
        return TextLines(b"\n".join(lines), len(lines))

    def _line(self, number: int, record: object) -> bytes:
        if isinstance(record, bytes):
            return record
        place = f"{self.name} record {number}"
        if not isinstance(record, Mapping):
            raise PlanError(f"is of type {type(record).__name__}", where=place, fix="give each record as a dict of its columns")
        try:
            return _json_of(record)
        except (TypeError, ValueError, RecursionError) as error:
            raise PlanError(
                f"cannot be written as JSON: {error}", where=place, fix="give texts, numbers, bools, datetimes, lists and dicts"
            ) from None

    def close(self) -> None:
        """Do nothing: the iterable is the caller's."""


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value that Python's JSON has no form for in the form that a topic has it in."""
    match value:
        case datetime():
            zoned = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            return zoned.replace(tzinfo=None).isoformat() + "Z"
        case date():
            return f"{value.isoformat()}T00:00:00Z"
        case Decimal() | UUID():
            return str(value)
        case Mapping():
            return dict(value)
        case _ if hasattr(value, "tolist"):  # numbers and arrays of NumPy
            return value.tolist()
    raise TypeError(f"a value is of type {type(value).__name__}")


def _json_of(record: Mapping[str, Any]) -> bytes:
    text = _encoder.encode(record if isinstance(record, dict) else dict(record))
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character: escaped, as a file has it, it makes the record malformed
        return text.encode("ascii", "backslashreplace")


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
