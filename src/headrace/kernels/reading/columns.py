"""Batches that come as columns: CSV cells, which are text, and typed rows; each value as the rules say."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence

import msgspec
import polars as pl

from headrace.errors import DataError, near
from headrace.kernels.reading.batch import Lines, Read, Records, Rows
from headrace.kernels.reading.rules import UNREADABLE, JsonNumber, read_value
from headrace.kernels.reading.text import polars_type, read_column
from headrace.plan.schema import BIGINT, DOUBLE, STRING, TIMESTAMP, Field, Schema, Type

__all__ = ["ColumnReader"]


class ColumnReader:
    """Reads batches whose columns are named once for the whole file `name`; `separator` stands between CSV cells.

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
        unread: Collection[str] = (),
    ) -> None:
        self.schema, self.rest, self.rest_type = schema, rest, rest_type
        self._gather = _side_by_side if rest in unread else _gathered
        self._columns, self._separator = list(columns), separator or ""
        for field in schema.fields:
            if field.name not in self._columns and not field.nullable:
                raise DataError(f"has no column {field.name!r}", where=name, fix=near(field.name, self._columns))
            if separator and field.type.kind in ("MAP", "ARRAY", "ROW"):
                raise DataError(f"a cell cannot be a {field.type}, which {field.name!r} is", where=name, fix="declare it STRING, or read NDJSON")
        self._others = [name for name in self._columns if name not in schema]

    def read(self, batch: Records) -> Read:
        """Return the rows of the readable records, and why the others are not."""
        malformed: dict[int, str] = {}
        cells = self._cells(batch, malformed) if isinstance(batch, Lines) else _numbered(batch)
        columns = [cells["@record"]]
        columns += [self._column(cells, field, malformed) for field in self.schema.fields]
        if self.rest is not None:
            columns.append(self._gather(cells.select(self._others), self.rest, self.rest_type))
        frame = pl.DataFrame(columns)
        return Read(frame.filter(~pl.col("@record").is_in(list(malformed))) if malformed else frame, malformed)

    def _column(self, cells: pl.DataFrame, field: Field, malformed: dict[int, str]) -> pl.Series:
        if field.name not in cells.columns:
            return pl.Series(field.name, [None], dtype=polars_type(field.type)).new_from_index(0, len(cells))
        found = cells[field.name]
        read = adapt(found, field.type)
        bad = read.is_null() & found.is_not_null()
        if bad.any():
            for record, value in zip(cells["@record"].filter(bad), found.filter(bad), strict=True):
                malformed.setdefault(record, f"field {field.name!r} is not a {field.type}: {value!r}")
        return read.alias(field.name)

    # CSV: a record is a line; a quoted cell holds separators and doubled quotes, but no line end

    def _cells(self, batch: Lines, malformed: dict[int, str]) -> pl.DataFrame:
        text = batch.text
        plain = text.str.count_matches(self._separator, literal=True) == len(self._columns) - 1
        plain &= ~text.str.contains('"', literal=True)
        plain = plain.fill_null(value=False)
        cells = self._split(text.filter(plain)).insert_column(0, plain.arg_true().cast(pl.UInt32).alias("@record"))
        if plain.all():
            return cells
        quoted, kept = [], []
        for place in (~plain).arg_true():
            row = self._split_one(batch.raw(place))
            if isinstance(row, str):
                malformed[place] = row
            else:
                quoted.append(row)
                kept.append(place)
        odd = pl.DataFrame(quoted, schema=dict.fromkeys(self._columns, pl.String), orient="row")
        return pl.concat([cells, odd.insert_column(0, pl.Series("@record", kept, dtype=pl.UInt32))]).sort("@record")

    def _split(self, lines: pl.Series) -> pl.DataFrame:
        schema = dict.fromkeys(self._columns, pl.String)
        if lines.is_empty():
            return pl.DataFrame(schema=schema)
        if len(self._columns) == 1:
            return pl.DataFrame({self._columns[0]: lines})
        text = str(lines.str.join("\n").item()).encode()
        return pl.read_csv(text, has_header=False, separator=self._separator, quote_char=None, schema=schema)

    def _split_one(self, line: str | bytes) -> list[str | None] | str:
        if isinstance(line, bytes):
            return "not UTF-8"
        try:
            (cells,) = csv.reader(io.StringIO(line), delimiter=self._separator, strict=True)
        except (csv.Error, ValueError) as error:
            return f"not CSV: {error}"
        if len(cells) != len(self._columns):
            return f"{len(cells)} cells where the header names {len(self._columns)}"
        return [cell or None for cell in cells]


def _numbered(batch: Rows) -> pl.DataFrame:
    return batch.frame.with_row_index("@record")


def adapt(column: pl.Series, kind: Type) -> pl.Series:
    """Return a typed column as `kind`, by the rules; NULL where it cannot be read."""
    target = polars_type(kind)
    dtype = column.dtype
    if dtype == pl.String:
        return read_column(column, kind) if kind.kind not in ("MAP", "ARRAY", "ROW") else column.to_frame().clear(len(column)).to_series().cast(target)
    if kind == DOUBLE and dtype.is_numeric():
        read = column.cast(pl.Float64)
        return read if read.is_finite().all() else read.set(~read.is_finite(), None)
    if kind == BIGINT and dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    if kind == BIGINT and dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        return whole.set(whole.cast(dtype) != column, None)
    if kind == TIMESTAMP and isinstance(dtype, pl.Datetime):
        return (column.dt.replace_time_zone("UTC") if dtype.time_zone is None else column.dt.convert_time_zone("UTC")).cast(target)
    if kind == STRING and (dtype.is_integer() or dtype == pl.Boolean):
        return column.cast(pl.String)
    if dtype in (target, pl.Null()):
        return column.cast(target)
    values = [read_value(_plain(value), kind) for value in column]
    return pl.Series(column.name, [None if value is UNREADABLE else value for value in values], dtype=target)


def _plain(value: object) -> object:
    """Return a value of a typed column as a JSON parser would have given it."""
    if isinstance(value, float):
        return JsonNumber(repr(value))
    if isinstance(value, (dict, list)):
        return msgspec.json.decode(msgspec.json.encode(value), type=object)
    return value if isinstance(value, (bool, int, str)) or value is None else str(value)


def _side_by_side(cells: pl.DataFrame, name: str, kind: Type) -> pl.Series:
    """Return columns as one column of structs, keys sorted: a MAP that is about to be unnested, at a fraction of its price.

    Texts are left to be read then. Else NULL means that there is no entry, and NaN, which no DOUBLE is, that its value is NULL.
    """
    names = sorted(cells.columns)
    if not names or all(column.dtype == pl.String for column in cells):
        return cells.select(names).to_struct(name)
    return pl.DataFrame([_marked(cells[column], kind.element) for column in names]).to_struct(name)


def _marked(column: pl.Series, kind: Type) -> pl.Series:
    read = adapt(column, kind)
    lost = read.is_null() & column.is_not_null()
    return read.set(lost, float("nan")) if lost.any() else read


def _gathered(cells: pl.DataFrame, name: str, kind: Type) -> pl.Series:
    """Return columns gathered into one MAP column, keys sorted; a cell that is NULL is not there."""
    target = polars_type(kind)
    if not cells.columns:
        return pl.Series(name, [{}], dtype=target).new_from_index(0, len(cells))
    names = sorted(cells.columns)
    adapted = cells.select(adapt(cells[column], kind.element).alias(column) for column in names)
    present = cells.select(pl.when(pl.col(column).is_not_null()).then(pl.lit(column)).alias(f"@{column}") for column in names)
    entries = pl.concat_list([pl.struct(pl.col(f"@{column}").alias("key"), pl.col(column).alias("value")) for column in names])
    there = entries.list.filter(pl.element().struct.field("key").is_not_null())
    return adapted.with_columns(present).select(there.cast(target).alias(name)).to_series()


