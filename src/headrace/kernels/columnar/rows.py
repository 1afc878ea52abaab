"""Operators without memory: frames in, frames out, row by row.

Hidden columns, whose names start with `@`, go along with every row: `@record` its record, `@time` its event time,
`@watermark` its partition's watermark before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import assert_never

import polars as pl

from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.reading.text import read_column
from headrace.plan.operators import Derive, RowOperator, Select, Source, TopN, Union, Unnest, Where
from headrace.plan.schema import DOUBLE, Schema, Type

__all__ = ["row_step"]

Step = Callable[[pl.DataFrame], pl.DataFrame]


def row_step(operator: RowOperator, schema: Schema, needed: Collection[str]) -> Step:
    """Return the function that computes an operator's rows, which have a schema, from its input's; only the columns `needed`."""
    match operator:
        case Source() | Union():
            return partial(_keep, names=[name for name in schema.names if name in needed])
        case Derive(columns=columns) | Select(columns=columns):
            made = [compile_expression(expression).alias(name) for name, expression in columns if name in needed]
            kept = [] if isinstance(operator, Select) else [n for n in needed if n not in {name for name, _ in columns}]
            return partial(_make, kept=kept, made=made)
        case Where(predicate=predicate):
            return partial(_filter, predicate=compile_expression(predicate), kept=list(needed))
        case Unnest(column=column, key=key, value=value):
            kind = schema[value].type
            return partial(_unnest, column=column, key=key, value=value, kind=kind, kept=[name for name in needed if name not in (key, value)])
        case TopN():
            return partial(_first_of_each, operator=operator, kept=[name for name in needed if name != "rank"])
    assert_never(operator)


def _hidden(rows: pl.DataFrame) -> list[str]:
    return [name for name in rows.columns if name.startswith("@")]


def _keep(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    return rows.select(*_hidden(rows), *names)


def _make(rows: pl.DataFrame, kept: list[str], made: list[pl.Expr]) -> pl.DataFrame:
    return rows.select(*_hidden(rows), *kept, *made)


def _filter(rows: pl.DataFrame, predicate: pl.Expr, kept: list[str]) -> pl.DataFrame:
    return rows.filter(predicate).select(*_hidden(rows), *kept)


def _first_of_each(rows: pl.DataFrame, operator: TopN, kept: list[str]) -> pl.DataFrame:
    """Return the first rows of each window and group, by window end, group and rank; of windows that are emitted again, each time."""
    group = [*(["@round"] if "@round" in rows.columns else []), "@end", *operator.keys]
    order = [*group, *(name for name, _ in operator.order), *operator.ties]
    falls = [*[False] * len(group), *(falls for _, falls in operator.order), *[False] * len(operator.ties)]
    nulls_last = [*[False] * len(group), *[True] * len(operator.order), *[False] * len(operator.ties)]
    ranked = rows.sort(order, descending=falls, nulls_last=nulls_last).with_columns(pl.int_range(1, pl.len() + 1).over(group).alias("rank"))
    return ranked.filter(pl.col("rank") <= operator.count).select(*_hidden(rows), *kept, "rank")


def _unnest(rows: pl.DataFrame, column: str, key: str | None, value: str, kind: Type, kept: list[str]) -> pl.DataFrame:
    if key is None:
        entries = rows.select(*_hidden(rows), *kept, pl.col(column).alias(value))
        return entries.explode(value, empty_as_null=False, keep_nulls=False)
    if isinstance(rows[column].dtype, pl.Struct):
        return _unnest_wide(rows, column, key, value, kept)
    maps = rows[column].map
    sides = [maps.keys().alias(key), maps.values().alias(value)]
    entries = rows.select(*_hidden(rows), *kept, *sides).explode(key, value, empty_as_null=False, keep_nulls=False)
    return entries if entries[value].dtype != pl.String else entries.with_columns(read_column(entries[value], kind))


def _unnest_wide(rows: pl.DataFrame, column: str, key: str, value: str, kept: list[str]) -> pl.DataFrame:
    """Return a row for each column that stands side by side with others, record by record."""
    cells = rows[column].struct.unnest()
    if cells.is_empty():
        return rows.select(*_hidden(rows), *kept).clear().with_columns(pl.lit("").alias(key), pl.lit(0.0).alias(value))
    names = cells.columns
    cells.columns = [f"value {number}" for number in range(len(names))]  # theirs come with the data, and could be patterns
    values = cells.select(pl.concat_arr(cells.columns).explode().alias(value)).to_series()
    owners = pl.select(pl.int_range(len(values), dtype=pl.UInt32) // len(names)).to_series()
    keys = pl.concat([pl.Series(key, names, dtype=pl.String)] * len(rows), rechunk=True)
    entries = rows.select(*_hidden(rows), *kept)[owners].with_columns(keys, values)
    if values.null_count():
        entries = entries.filter(values.is_not_null())
    read = entries[value]
    if read.dtype == pl.String:
        return entries.with_columns(read_column(read, DOUBLE))
    finite = read.is_finite()
    return entries if finite.all() else entries.with_columns(read.set(~finite, None))
