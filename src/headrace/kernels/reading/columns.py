"""Batches that come as columns: CSV cells, which are text, and typed rows; each value as the rules say."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Collection, Sequence
from decimal import Decimal

import polars as pl

from headrace.errors import DataError, near
from headrace.kernels.reading.batch import Lines, Read, Records, Rows, values_of
from headrace.kernels.reading.record import shown
from headrace.kernels.reading.rules import UNREADABLE, JsonNumber, read_value
from headrace.kernels.reading.text import in_calendar, polars_type, read_column
from headrace.plan.schema import BIGINT, DOUBLE, STRING, TIMESTAMP, Field, Schema, Type

__all__ = ["ColumnReader", "csv_cells"]

_ODD = '["\r\ufeff]'  # what Polars' CSV reader may not be trusted with
csv.field_size_limit(sys.maxsize)

# Names that come with the data stand beside their columns: as a column's own, Polars would take `*` for all columns.
_Cells = Sequence[tuple[str, pl.Series]]


class ColumnReader:
    """Reads batches whose columns are named once for the whole file `name`; `separator` stands between CSV cells, `decimal` in their numbers.

    `rest`, if it is named in `unread`, comes as structs with a field for each column: see `_side_by_side`.

    Raises
    ------
    DataError
        If the file lacks a column that must not be NULL, or has cells where the schema wants containers.
    """

    def __init__(
        self,
        schema: Schema,
        rest: str | None,
        rest_type: Type,
        *,
        name: str,
        columns: Sequence[str],
        separator: str | None = None,
        decimal: str = ".",
        unread: Collection[str] = (),
    ) -> None:
        self.schema, self.rest, self.rest_type, self._name = schema, rest, rest_type, name
        self._gather = _side_by_side if rest in unread else _gathered
        self._columns, self._separator = list(columns), separator or ""
        self._comma = separator is not None and decimal == ","
        for field in schema.fields:
            if field.name not in self._columns and not field.nullable:
                raise DataError(f"has no column {field.name!r}", where=name, fix=near(field.name, self._columns))
            if separator and field.type.kind in ("MAP", "ARRAY", "ROW"):
                raise DataError(f"a cell cannot be a {field.type}, which {field.name!r} is", where=name, fix="declare it STRING, or read NDJSON")
        self._others = [name for name in self._columns if name not in schema]

    def read(self, batch: Records) -> Read:
        """Return the rows of the readable records, and why the others are not."""
        malformed: dict[int, str] = {}
        records, frame = self._cells(batch, malformed) if isinstance(batch, Lines) else _numbered(batch)
        cells = dict(zip(frame.columns, frame.get_columns(), strict=True))
        columns = [records, *(self._column(records, cells, field, malformed) for field in self.schema.fields)]
        if self.rest is not None:
            none = pl.Series(self.rest, [{}], dtype=polars_type(self.rest_type)).new_from_index(0, len(records))
            others = [(name, self._cell(cells, name)) for name in self._others]
            columns.append(self._gather(others, self.rest, self.rest_type) if others else none)
        frame = pl.DataFrame(columns)
        return Read(frame.filter(~pl.col("@record").is_in(list(malformed))) if malformed else frame, malformed)

    def _column(self, records: pl.Series, cells: dict[str, pl.Series], field: Field, malformed: dict[int, str]) -> pl.Series:
        if field.name not in self._columns:
            return pl.Series(field.name, [None], dtype=polars_type(field.type)).new_from_index(0, len(records))
        found = self._cell(cells, field.name)
        read = adapt(_with_point(found) if self._comma and field.type in (DOUBLE, BIGINT) else found, field.type)
        bad = read.is_null() & found.is_not_null()
        if bad.any():
            for record, value in zip(records.filter(bad), values_of(found.filter(bad)), strict=True):
                malformed.setdefault(record, f"field {field.name!r} is not a {field.type.kind}: {shown(value)}")
        return read.alias(field.name)

    def _cell(self, cells: dict[str, pl.Series], name: str) -> pl.Series:
        if name not in cells:
            raise DataError(
                f"column {name!r} has decimals inside other values, which cannot be read", where=self._name, fix="write them as DOUBLE or text"
            )
        return cells[name]

    # CSV: a record is a line; a quoted cell holds separators and doubled quotes, but no line end

    def _cells(self, batch: Lines, malformed: dict[int, str]) -> tuple[pl.Series, pl.DataFrame]:
        text = batch.text
        plain = text.str.count_matches(self._separator, literal=True) == len(self._columns) - 1
        plain &= ~text.str.contains(_ODD)
        plain = plain.fill_null(value=False)
        places, cells = plain.arg_true().cast(pl.UInt32).alias("@record"), self._split(text.filter(plain))
        if plain.all():
            return places, cells
        quoted, kept = [], []
        for place in (~plain).arg_true():
            row = csv_cells(batch.raw(place), len(self._columns), self._separator)
            if isinstance(row, str):
                malformed[place] = row
            else:
                quoted.append(row)
                kept.append(place)
        odd = pl.DataFrame(quoted, schema=dict.fromkeys(self._columns, pl.String), orient="row")
        places = pl.concat([places, pl.Series("@record", kept, dtype=pl.UInt32)])
        order = places.arg_sort()
        return places[order], pl.concat([cells, odd])[order]

    def _split(self, lines: pl.Series) -> pl.DataFrame:
        schema = dict.fromkeys(self._columns, pl.String)
        if lines.is_empty():
            return pl.DataFrame(schema=schema)
        if len(self._columns) == 1:
            return pl.DataFrame({self._columns[0]: lines})
        text = str(lines.str.join("\n").item()).encode()
        return pl.read_csv(text, has_header=False, separator=self._separator, quote_char=None, schema=schema)


def csv_cells(line: str | bytes, count: int, separator: str) -> list[str | None] | str:
    """Return the cells of a CSV line, None for an empty one, or why it does not have `count` of them."""
    if isinstance(line, bytes):
        return "not UTF-8"
    try:
        (cells,) = csv.reader(io.StringIO(line), delimiter=separator, strict=True)
    except (csv.Error, ValueError) as error:
        return f"not CSV: {error}"
    if len(cells) != count:
        return f"{len(cells)} cells where the header names {count}"
    return [cell or None for cell in cells]


def _with_point(cells: pl.Series) -> pl.Series:
    """Return texts of numbers that have a decimal comma as such with a point; those that have a point become texts of no number."""
    return cells.str.replace_all(".", "x", literal=True).str.replace_all(",", ".", literal=True)


def _numbered(batch: Rows) -> tuple[pl.Series, pl.DataFrame]:
    return pl.int_range(len(batch), dtype=pl.UInt32, eager=True).alias("@record"), batch.frame


def adapt(column: pl.Series, kind: Type) -> pl.Series:
    """Return a typed column as `kind`, by the rules; NULL where it cannot be read."""
    target = polars_type(kind)
    column = _simplified(column)
    dtype = column.dtype
    if dtype == pl.String:
        return (
            read_column(column, kind) if kind.kind not in ("MAP", "ARRAY", "ROW") else column.to_frame().clear(len(column)).to_series().cast(target)
        )
    if kind == DOUBLE and dtype.is_numeric():
        read = column.cast(pl.Float64)
        return read if read.is_finite().all() else read.set(~read.is_finite(), None)
    if kind == BIGINT and dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    if kind == BIGINT and dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        return whole.set(whole.cast(dtype) != column, None)
    if kind == TIMESTAMP and isinstance(dtype, pl.Date):
        return column.cast(pl.Datetime("ms", "UTC")).cast(target)
    if kind == TIMESTAMP and isinstance(dtype, pl.Datetime):
        return (column.dt.replace_time_zone("UTC") if dtype.time_zone is None else column.dt.convert_time_zone("UTC")).cast(target)
    if kind == STRING and (dtype.is_integer() or dtype == pl.Boolean):
        return column.cast(pl.String)
    if dtype in (target, pl.Null()) and _all_finite(column):
        return column.cast(target)
    values = [_read(value, kind) for value in column.to_list()]
    return pl.Series(column.name, [None if value is UNREADABLE else value for value in values], dtype=target)


def _simplified(column: pl.Series) -> pl.Series:
    """Return a column with texts of all sorts as plain ones, and with NULL for bytes that are no text and times out of the calendar."""
    match column.dtype:
        case pl.Categorical() | pl.Enum():
            return column.cast(pl.String)
        case pl.Binary():
            return pl.Series(column.name, [None if value is None else _text_of(value) for value in column], dtype=pl.String)
        case pl.Date() | pl.Datetime():
            return column.set(~in_calendar(column), None)
    return column


def _text_of(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _all_finite(column: pl.Series) -> bool:
    """Return whether a column has no NaN or infinity inside."""
    match column.dtype:
        case pl.Map():
            return _all_finite(column.map.values())
        case pl.List():
            return _all_finite(column.explode())
        case pl.Struct():
            return all(map(_all_finite, column.struct.unnest()))
    return not column.dtype.is_float() or column.is_finite().all()


def _read(value: object, kind: Type) -> object:
    try:
        return read_value(_plain(value), kind)
    except UnicodeDecodeError:
        return UNREADABLE


def _plain(value: object) -> object:
    """Return a value of a typed column as a JSON parser would have given it. Raises UnicodeDecodeError at bytes that are no text."""
    match value:
        case float():
            return JsonNumber(Decimal(value))
        case dict():
            return {str(_plain(key)): _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case bytes():
            return value.decode()
        case None | bool() | int() | str():
            return value
    return str(value)


def _side_by_side(cells: _Cells, name: str, kind: Type) -> pl.Series:
    """Return columns as one column of structs, keys sorted: a MAP that is about to be unnested, at a fraction of its price.

    Texts are left to be read then. Else NULL means that there is no entry, and NaN or an infinity, which no DOUBLE is, that its value is NULL.
    """
    texts = all(column.dtype == pl.String for _, column in cells)
    ordered = sorted(cells, key=_name)
    return pl.DataFrame(
        [column if texts or column.dtype == pl.Float64 else _marked(column, kind.element).alias(named) for named, column in ordered]
    ).to_struct(name)


def _name(cell: tuple[str, pl.Series]) -> str:
    return cell[0]


def _marked(column: pl.Series, kind: Type) -> pl.Series:
    column = column.alias("cell")
    read = adapt(column, kind)
    lost = read.is_null() & column.is_not_null()
    return read.set(lost, float("nan")) if lost.any() else read


def _gathered(cells: _Cells, name: str, kind: Type) -> pl.Series:
    """Return columns gathered into one MAP column, keys sorted; a cell that is NULL is not there."""
    ordered = [(named, column.alias("cell")) for named, column in sorted(cells, key=_name)]
    there = pl.DataFrame([column.is_not_null().alias(f"there {number}") for number, (_, column) in enumerate(ordered)])
    keys = there.select(pl.when(f"there {number}").then(pl.lit(named)).alias(f"key {number}") for number, (named, _) in enumerate(ordered))
    values = pl.DataFrame([adapt(column, kind.element).alias(f"value {number}") for number, (_, column) in enumerate(ordered)])
    entries = pl.concat_list([pl.struct(key=f"key {number}", value=f"value {number}") for number in range(len(ordered))])
    known = entries.list.filter(pl.element().struct.field("key").is_not_null())
    return keys.hstack(values).select(known.cast(polars_type(kind)).alias(name)).to_series()
