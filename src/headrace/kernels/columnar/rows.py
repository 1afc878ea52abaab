"""Operators without memory: frames in, frames out, row by row.

Hidden columns, whose names start with `@`, go along with every row: `@record` its record, `@time` its event time,
`@watermark` its partition's watermark before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import assert_never

import polars as pl

from headrace.kernels.columnar.coding import Coding
from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.columnar.unnest import Unnesting, hidden_in
from headrace.plan.operators import Derive, RowOperator, Select, Source, TopN, Union, Unnest, Where
from headrace.plan.schema import Schema

__all__ = ["row_step"]

Step = Callable[[pl.DataFrame], pl.DataFrame]


def row_step(operator: RowOperator, schema: Schema, needed: Collection[str], coding: Coding, coded: Collection[str] = ()) -> Step:
    """Return the function that computes an operator's rows, which have a schema, from its input's; only the columns `needed`.

    Where rows are unnested, the columns `coded` come with the codes of `coding`.
    """
    match operator:
        case Source() | Union():
            return partial(_keep, names=[name for name in schema.names if name in needed])
        case Derive(columns=columns) | Select(columns=columns):
            made = [compile_expression(expression).alias(name) for name, expression in columns if name in needed]
            kept = [] if isinstance(operator, Select) else [n for n in needed if n not in {name for name, _ in columns}]
            return partial(_make, kept=kept, made=made)
        case Where(predicate=predicate):
            return partial(_filter, predicate=compile_expression(predicate), kept=list(needed))
        case Unnest(key=key, value=value):
            return Unnesting(operator, schema[value].type, [name for name in needed if name not in (key, value)], coding, coded)
        case TopN():
            return partial(_first_of_each, operator=operator, kept=[name for name in needed if name != "rank"])
    assert_never(operator)


def _keep(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    return rows[[*hidden_in(rows), *names]]


def _make(rows: pl.DataFrame, kept: list[str], made: list[pl.Expr]) -> pl.DataFrame:
    return rows.select(*hidden_in(rows), *kept, *made)


def _filter(rows: pl.DataFrame, predicate: pl.Expr, kept: list[str]) -> pl.DataFrame:
    return rows.filter(predicate).select(*hidden_in(rows), *kept)


def _first_of_each(rows: pl.DataFrame, operator: TopN, kept: list[str]) -> pl.DataFrame:
    """Return the first rows of each window and group, by window end, group and rank; of windows that are emitted again, each time."""
    group = [*(["@round"] if "@round" in rows.columns else []), "@end", *operator.keys]
    order = [*group, *(name for name, _ in operator.order), *operator.ties]
    falls = [*[False] * len(group), *(falls for _, falls in operator.order), *[False] * len(operator.ties)]
    nulls_last = [*[False] * len(group), *[True] * len(operator.order), *[False] * len(operator.ties)]
    ranked = rows.sort(order, descending=falls, nulls_last=nulls_last).with_columns(pl.int_range(1, pl.len() + 1).over(group).alias("rank"))
    return ranked.filter(pl.col("rank") <= operator.count).select(*hidden_in(rows), *kept, "rank")
