"""The entries of maps and the elements of arrays as rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from headrace.kernels.columnar.coding import Coding
from headrace.kernels.reading.text import read_column
from headrace.plan.operators import Unnest
from headrace.plan.schema import DOUBLE, Type

__all__ = ["Unnesting", "hidden_in"]


def hidden_in(rows: pl.DataFrame) -> list[str]:
    """Return the names of the hidden columns."""
    return [name for name in rows.columns if name.startswith("@")]


@dataclass(frozen=True)
class Unnesting:
    """Computes the rows of an `Unnest`: its key and a value of the type `kind`, and the columns `kept`. Those in `coded` come as codes."""

    operator: Unnest
    kind: Type
    kept: Sequence[str]
    coding: Coding
    coded: Collection[str] = ()

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return a row for each entry of a map, or element of an array."""
        column, key, value = self.operator.column, self.operator.key, self.operator.value
        others = self.coding.of(rows.select(*hidden_in(rows), *self.kept), self.coded)
        if key is None:
            return others.with_columns(rows[column].alias(value)).explode(value, empty_as_null=False, keep_nulls=False)
        if isinstance(rows[column].dtype, pl.Struct):
            return self._of_wide(rows[column].struct.unnest(), others, key)
        maps = rows[column].map
        entries = others.with_columns(maps.keys().alias(key), maps.values().alias(value))
        entries = entries.explode(key, value, empty_as_null=False, keep_nulls=False)
        if key in self.coded:
            entries = entries.with_columns(self.coding(entries[key]))
        return entries if entries[value].dtype != pl.String else entries.with_columns(read_column(entries[value], self.kind))

    def _of_wide(self, cells: pl.DataFrame, others: pl.DataFrame, key: str) -> pl.DataFrame:
        """Return a row for each column that stands side by side with others, record by record."""
        value = self.operator.value
        if cells.is_empty():
            return others.clear().with_columns(pl.lit("").alias(key), pl.lit(0.0).alias(value))
        names = pl.Series(key, cells.columns, dtype=pl.String)
        cells.columns = [f"value {number}" for number in range(len(names))]  # theirs come with the data, and could be patterns
        values = cells.select(pl.concat_arr(cells.columns).explode().alias(value)).to_series()
        owners = pl.select(pl.int_range(len(values), dtype=pl.UInt32) // len(names)).to_series()
        keys = pl.concat([self.coding(names) if key in self.coded else names] * len(cells), rechunk=True)
        entries = others[owners].with_columns(keys, values)
        if values.null_count():
            entries = entries.filter(values.is_not_null())
        read = entries[value]
        if read.dtype == pl.String:
            return entries.with_columns(read_column(read, DOUBLE))
        finite = read.is_finite()
        return entries if finite.all() else entries.with_columns(read.set(~finite, None))
