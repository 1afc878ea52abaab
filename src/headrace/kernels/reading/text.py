"""Columns of text read as values, vectorised; each value as `headrace.kernels.reading.rules` says."""

from __future__ import annotations

import polars as pl

from headrace.kernels.reading.rules import read_text
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, FIRST_MS, LAST_MS, NULL, STRING, TIMESTAMP, Type

__all__ = ["in_calendar", "polars_type", "read_column"]

_TYPES: dict[Type, pl.DataType] = {
    BOOLEAN: pl.Boolean(), BIGINT: pl.Int64(), DOUBLE: pl.Float64(), STRING: pl.String(),
    TIMESTAMP: pl.Datetime("ms", "UTC"), NULL: pl.Null(),
}  # fmt: skip


def polars_type(kind: Type) -> pl.DataType:
    """Return the Polars type that holds values of the SQL type `kind`."""
    match kind.kind:
        case "MAP":
            return pl.Map(polars_type(kind.key), polars_type(kind.element))
        case "ARRAY":
            return pl.List(polars_type(kind.element))
        case "ROW":
            return pl.Struct({name: polars_type(inner) for name, inner in kind.fields()})
    return _TYPES[kind]


def in_calendar(times: pl.Series) -> pl.Series:
    """Return which dates or times lie in the years 1 to 9999, which are those that ISO 8601 writes."""
    if isinstance(times.dtype, pl.Date):
        return times.to_physical().is_between(-719_162, 2_932_896)
    unit = {"ms": 1, "us": 1_000, "ns": 1_000_000}[times.dtype.time_unit]  # type: ignore[attr-defined]
    return times.to_physical().is_between(FIRST_MS * unit, (LAST_MS + 1) * unit, closed="left") if unit <= 1_000 else times.is_not_null()


def read_column(text: pl.Series, kind: Type) -> pl.Series:
    """Return a column of text read as `kind`, NULL where it cannot be read.

    The plain values are cast at once. What the cast leaves over is read one distinct text at a time by the rule itself.
    """
    if kind == STRING:
        return text
    read = _cast(text, kind)
    doubtful = read.is_null() & text.is_not_null()
    if not doubtful.any():
        return read
    odd = text.filter(doubtful)
    distinct = odd.unique()
    values = pl.Series([read_text(one, kind) for one in distinct], dtype=polars_type(kind))
    if values.null_count() == len(values):
        return read
    return read.scatter(doubtful.arg_true(), odd.replace_strict(distinct, values))


def _cast(text: pl.Series, kind: Type) -> pl.Series:
    """Return what Polars' own cast reads, which is never more than the rule allows."""
    if kind == DOUBLE:
        read = text.cast(pl.Float64, strict=False)
        return read if read.is_finite().all() else read.set(~read.is_finite(), None)
    if kind == BIGINT:
        return text.cast(pl.Int64, strict=False)
    if kind == TIMESTAMP:
        exact = text.str.contains(r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-5][0-9]Z?$")
        plain = text.set(~exact, None).str.replace("T", " ", literal=True).str.strip_suffix("Z")
        return plain.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="ms", time_zone="UTC")
    return pl.Series(text.name, [None] * len(text), dtype=polars_type(kind))
