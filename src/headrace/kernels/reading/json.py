"""Batches of JSON records read into frames: the plain lines at once, the doubtful ones by the rule, one by one.

Property: what the fast path gives for a line is what `read_record` gives for it.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl
from arro3.core import DataType
from arro3.core import Field as ArrowField
from arro3.core import Schema as ArrowSchema
from arro3.io import read_json

from headrace.errors import InternalError
from headrace.kernels.reading.batch import Lines, Read, TextLines
from headrace.kernels.reading.even import columns_of_even, keys_of_most, map_of_columns
from headrace.kernels.reading.grammar import KINDS, even_pattern, is_plain_name, kind_of_sample, line_pattern, text_pattern
from headrace.kernels.reading.record import TEXTS, Malformed, json_object, read_record, read_texts
from headrace.kernels.reading.rules import read_value
from headrace.kernels.reading.text import polars_type, read_column
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Field, Schema, Type, map_of

__all__ = ["JsonReader", "arrow_schema"]

_SAMPLE = 64
_MOST_KEYS = 256
_FEW_EVEN = 500  # lines that are even are cheaper read one by one than split, up to so many
_DECODE_ROWS = 16_384
_MAPS = {map_of(STRING, STRING), map_of(STRING, DOUBLE)}


@dataclass(frozen=True, slots=True)
class _Shape:
    """The shape that the fast path expects of a line; with `keys`, that of a line with these keys in this order and a text for each."""

    kinds: dict[str, str]
    others: frozenset[str]
    keys: tuple[str, ...] = ()


class JsonReader:
    """Reads batches of JSON records under a schema.

    It keeps the shape of the lines it saw last, which decides how fast a line is read and never what is read. A column of
    type MAP<STRING, DOUBLE> that is named in `unread` may come as texts still to be read: it is cheaper once unnested.
    """

    def __init__(self, schema: Schema, rest: str | None = None, rest_type: Type = TEXTS, unread: Collection[str] = ()) -> None:
        self._unread = unread
        self.schema, self.rest, self.rest_type = schema, rest, rest_type
        self._even = rest is not None and rest_type in _MAPS and all(field.type == STRING for field in schema.fields)
        self._fast = self._even or (rest is None and all(field.type in KINDS and is_plain_name(field.name) for field in schema.fields))
        self._shape: _Shape | None = None
        self._pattern = self._text_pattern = ""
        self._doubtful = False
        self._types = {field.name: field.type for field in schema.fields}
        if rest is not None:
            self._types[rest] = rest_type
        self._dtypes = {name: polars_type(kind) for name, kind in self._types.items()}

    def read(self, batch: Lines) -> Read:
        """Return the rows of the readable records, and why the others are not."""
        if self._fast and isinstance(batch, TextLines) and not self._is_short(batch.whole) and (count := self._lines_if_plain(batch.whole)):
            batch.take_whole(count)
            return Read(self._decode(batch.whole, len(batch)).with_row_index("@record"), {})
        if not self._fast or not len(batch) or (self._even and len(batch) < _FEW_EVEN):
            return self._read_slowly(batch, range(len(batch)))
        plain = self._plain(batch.text)
        self._doubtful = not plain.all()
        places = plain.arg_true()
        fast = self._decode(batch.text.gather(places).str.join("\n").cast(pl.Binary).item(), len(places)).with_columns(
            places.alias("@record").cast(pl.UInt32)
        )
        slow = self._read_slowly(batch, (~plain).arg_true().to_list())
        if slow.frame.is_empty():
            return Read(fast, slow.malformed)
        both = pl.concat([fast.select(slow.frame.columns).with_columns(self._read_now(fast)), slow.frame])
        return Read(both[both["@record"].arg_sort()], slow.malformed)

    def _is_short(self, whole: bytes) -> bool:
        """Return whether a text of lines that may be even has so few that they are read one by one."""
        return self._even and whole.count(b"\n") + 1 < _FEW_EVEN

    def _read_now(self, rows: pl.DataFrame) -> list[pl.Series]:
        """Return the columns that were left as texts, read."""
        return [_doubles_of(rows[name]) for name in self._unread if rows[name].dtype != self._dtypes[name]]

    def _plain(self, lines: pl.Series) -> pl.Series:
        """Return which lines the fast path may read, learning their shape anew when too few are."""
        plain = self._match(lines, self._pattern) if self._shape else pl.repeat(False, len(lines), eager=True)
        missed = len(lines) - plain.sum()
        if missed * 8 > len(lines):
            shape = self._learn(lines.filter(~plain).head(_SAMPLE))
            if shape and shape != self._shape:
                pattern = self._pattern_of(shape)
                again = self._match(lines, pattern)
                if again.sum() > plain.sum():
                    self._shape, self._pattern, plain = shape, pattern, again
                    self._text_pattern = text_pattern(pattern)
        return plain

    def _match(self, lines: pl.Series, pattern: str) -> pl.Series:
        try:
            return lines.str.contains(pattern).fill_null(value=False)
        except pl.exceptions.ComputeError:  # the pattern is too big
            return pl.repeat(False, len(lines), eager=True)

    def _learn(self, sample: pl.Series) -> _Shape | None:
        found = [one for line in sample.drop_nulls() if isinstance(one := json_object(line), dict)]
        if self._even:
            keys = keys_of_most(found)
            return _Shape({}, frozenset(), keys) if 0 < len(keys) <= _MOST_KEYS else None
        if not found:
            return None
        kinds = {field.name: kind_of_sample(field.type, [one.get(field.name) for one in found]) for field in self.schema.fields}
        others = {key for one in found for key in one if key not in self._types and is_plain_name(key)}
        known = others | (self._shape.others if self._shape else frozenset())
        return _Shape(kinds, frozenset(known if len(known) <= _MOST_KEYS else others if len(others) <= _MOST_KEYS else ()))

    def _pattern_of(self, shape: _Shape) -> str:
        if shape.keys:
            return even_pattern(shape.keys)
        columns = {field.name: (field.type, shape.kinds[field.name]) for field in self.schema.fields}
        return line_pattern(columns, sorted(shape.others))

    def _lines_if_plain(self, whole: bytes) -> int:
        """Return how many lines there are if every one may be read fast, else 0, without cutting the text into lines.

        Where the last batch had others, it is not tried: they seldom come alone.
        """
        if self._shape is None or self._doubtful:
            return 0
        try:
            text = pl.Series([whole]).cast(pl.String)
            return whole.count(b"\n") + 1 if text.str.contains(self._text_pattern).item() else 0
        except pl.exceptions.PolarsError:
            return 0

    def _decode(self, text: bytes, count: int) -> pl.DataFrame:
        """Return the frame of `count` lines that all match the shape's pattern."""
        if count == 0:
            return pl.DataFrame(schema=self._dtypes)
        if self._shape is not None and self._shape.keys:
            return self._split(text, count, self._shape.keys)
        nulled = any(self._kind(field) == "number" and field.type in _MAPS for field in self.schema.fields)
        without = _with_nulls(text) if nulled else text
        decoded = self._arrow(without, self.schema.fields)
        if len(without) < len(text) and self._lost_a_text(decoded):
            decoded = decoded.with_columns(self._arrow(text, [field for field in self.schema.fields if self._kind(field) == "text"]))
        if len(decoded) != count:
            raise InternalError(f"{count} lines were decoded to {len(decoded)} rows")
        return pl.DataFrame([self._finish(decoded[field.name], field) for field in self.schema.fields])

    def _split(self, text: bytes, count: int, keys: Sequence[str]) -> pl.DataFrame:
        """Return the frame of `count` lines that have the same keys with a text for each."""
        columns = columns_of_even(text, keys)
        if len(columns[0]) != count:
            raise InternalError(f"{count} lines were split to {len(columns[0])} rows")
        cells = dict(zip(keys, columns, strict=True))
        none = pl.Series([None], dtype=pl.String).new_from_index(0, count)
        made = [cells.pop(name, none).alias(name) for name in self.schema.names]
        others = map_of_columns(cells, count).alias(str(self.rest))
        return pl.DataFrame([*made, others if self.rest_type == TEXTS or self.rest in self._unread else _doubles_of(others)])

    def _kind(self, field: Field) -> str:
        return self._shape.kinds[field.name] if self._shape else ""

    def _lost_a_text(self, decoded: pl.DataFrame) -> bool:
        """Return whether a text `null` of some other column may have been taken for null."""
        return any(decoded[f.name].null_count() for f in self.schema.fields if self._kind(f) == "text" and f.type not in _MAPS) or any(
            self._kind(f) == "text" and f.type in _MAPS for f in self.schema.fields
        )

    def _arrow(self, text: bytes, fields: Sequence[Field]) -> pl.DataFrame:
        return _from_json(text, {field.name: self._decoded_as(field) for field in fields})

    def _decoded_as(self, field: Field) -> Type:
        """Return the type that a column is decoded to before it is made its own."""
        match self._kind(field):
            case "text":
                return map_of(STRING, STRING) if field.type in _MAPS else STRING
            case "integer":
                return BIGINT
        return field.type

    def _finish(self, column: pl.Series, field: Field) -> pl.Series:
        """Return a decoded column as its own type."""
        if field.type in _MAPS:
            column = _last_of_repeated(column)
        if field.type in (STRING, BIGINT):
            return column.cast(self._dtypes[field.name])
        if field.type == TIMESTAMP:
            return read_column(column, TIMESTAMP)
        if field.type == map_of(STRING, DOUBLE) and self._kind(field) == "text" and field.name not in self._unread:
            return _doubles_of(column)
        return column

    def _read_slowly(self, batch: Lines, places: Sequence[int]) -> Read:
        rows, kept, malformed = [], [], {}
        texts = self.rest if self.rest_type == TEXTS and all(field.type == STRING for field in self.schema.fields) else None
        for place, text in zip(places, batch.text.gather([*places]).to_list(), strict=True):
            row: dict[str, Any] | Malformed | None = None
            if texts is not None and text is not None and (row := read_texts(text, self.schema, texts)) is None:
                texts = None  # others of its batch are like it
            if row is None:
                row = read_record(batch.odd[place] if text is None else text, self.schema, self.rest, self.rest_type)
            if isinstance(row, Malformed):
                malformed[place] = row.detail
            else:
                rows.append(row)
                kept.append(place)
        return Read(self._rows(rows).insert_column(0, pl.Series("@record", kept, dtype=pl.UInt32)), malformed)

    def _rows(self, rows: Sequence[dict[str, object]]) -> pl.DataFrame:
        """Return rows read by the rule as a frame, by way of JSON that says just what they hold."""
        return _from_json(b"\n".join(map(_encoder.encode, rows)), self._types).cast(pl.Schema(self._dtypes))


def _from_json(text: bytes, types: Mapping[str, Type]) -> pl.DataFrame:
    return pl.DataFrame(read_json(io.BytesIO(text), _arrow_schema(types), batch_size=_DECODE_ROWS).read_all())


def arrow_schema(schema: Schema) -> ArrowSchema:
    """Return the Arrow schema of rows written as JSON."""
    return _arrow_schema({field.name: field.type for field in schema.fields})


def _arrow_schema(types: Mapping[str, Type]) -> ArrowSchema:
    return ArrowSchema([ArrowField(name, _arrow_type(kind), nullable=True) for name, kind in types.items()])


def _with_nulls(text: bytes) -> bytes:
    """Return lines that match a pattern with null in place of the value "null"."""
    replaced = pl.Series([text]).cast(pl.String).str.replace_all(': ?"null"', ":null")
    return replaced.cast(pl.Binary).item()  # type: ignore[no-any-return]


_encoder = msgspec.json.Encoder()
_ARROW = {
    STRING: DataType.utf8(), BIGINT: DataType.int64(), DOUBLE: DataType.float64(), BOOLEAN: DataType.bool(),
    TIMESTAMP: DataType.timestamp("ms", tz="UTC"),
}  # fmt: skip


def _arrow_type(kind: Type) -> DataType:
    """Return the Arrow type that values of the SQL type `kind` are decoded to."""
    match kind.kind:
        case "MAP":
            return DataType.map(
                ArrowField("key", DataType.utf8(), nullable=False), ArrowField("value", _arrow_type(kind.element), nullable=True), False
            )
        case "ARRAY":
            return DataType.list(ArrowField("item", _arrow_type(kind.element), nullable=True))
        case "ROW":
            return DataType.struct([ArrowField(name, _arrow_type(inner), nullable=True) for name, inner in kind.fields()])
    return _ARROW[kind]


def _doubles_of(column: pl.Series) -> pl.Series:
    """Return a map column with its text values read as DOUBLE."""
    entry = pl.element().struct
    cast = entry.field("value").cast(pl.Float64, strict=False)
    value = pl.when(cast.is_finite()).then(cast).alias("value")
    read = column.map.entries().list.eval(pl.struct(entry.field("key"), value)).cast(polars_type(map_of(STRING, DOUBLE)))
    texts = column.map.values().explode(empty_as_null=False, keep_nulls=False)
    found = read.map.values().explode(empty_as_null=False, keep_nulls=False)
    if read_column(texts, DOUBLE).null_count() == found.null_count():
        return read
    values = [read_value(one, map_of(STRING, DOUBLE)) for one in column.to_list()]
    return pl.Series(column.name, values, dtype=read.dtype)


def _last_of_repeated(column: pl.Series) -> pl.Series:
    """Return a map column in which of a key's repetitions the last counts."""
    keys, lengths = column.map.keys(), column.map.len().fill_null(0)
    flat = keys.explode(empty_as_null=False, keep_nulls=False)
    starts = (lengths.cum_sum() - lengths).filter(lengths > 0)
    if (flat > flat.shift(1)).scatter(starts, True).all():
        return column
    repeated = keys.list.n_unique() < keys.list.len()
    if not repeated.any():
        return column
    values = [dict(one) if again else one for one, again in zip(column.to_list(), repeated.to_list(), strict=True)]
    return pl.Series(column.name, values, dtype=column.dtype)
