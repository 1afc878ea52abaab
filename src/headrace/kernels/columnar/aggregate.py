"""Aggregate calls compiled to the three steps of folding: rows to states, states of slices to one, a state to the value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.kernels.columnar.coding import as_texts, coded_in, group_number
from headrace.kernels.columnar.compile import compile_expression
from headrace.plan.expression import Call, Column, Expression, columns_of
from headrace.plan.functions import AGGREGATES

__all__ = ["Folding"]


@dataclass
class Folding:
    """The aggregate calls of one operator. Frames of states have columns `@call0.sum` and the like."""

    calls: Sequence[tuple[str, Expression]]
    columns: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.columns = set().union(*(columns_of(call) for _, call in self.calls))
        self._arguments: dict[Expression, str] = {}
        self._fold: list[pl.Expr] = []
        self._states: dict[str, list[str]] = {}
        for name, call in self.calls:
            assert isinstance(call, Call)
            states = AGGREGATES[call.function].fold(*map(self._argument, call.arguments))
            self._states[name] = list(states)
            self._fold += [state.alias(f"{name}.{key}") for key, state in states.items()]

    def _argument(self, expression: Expression) -> pl.Expr:
        """Return an argument as a column of the rows, so that a constant has a value for each row of a group, not one for the group."""
        if isinstance(expression, Column):
            return pl.col(expression.name)
        return pl.col(self._arguments.setdefault(expression, f"@argument{len(self._arguments)}"))

    def _state(self, name: str) -> dict[str, pl.Expr]:
        return {key: pl.col(f"{name}.{key}") for key in self._states[name]}

    def fold(self, rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
        """Return the states of the rows, group by group."""
        if self._arguments:
            rows = rows.with_columns(compile_expression(expression).alias(name) for expression, name in self._arguments.items())
        return _fold_groups(rows, by, self._fold) if by else rows.select(self._fold)

    def merge(self, states: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
        """Return one state for each group of states, merged in the order in which they stand."""
        merged = [
            expression.alias(f"{name}.{key}")
            for name, call in self.calls
            for key, expression in AGGREGATES[call.function].merge(self._state(name)).items()  # type: ignore[union-attr]
        ]
        return _fold_groups(states, by, merged)

    def result(self, states: pl.DataFrame) -> pl.DataFrame:
        """Return the values of the calls in place of their states."""
        values = [AGGREGATES[call.function].result(self._state(name)).alias(name) for name, call in self.calls]  # type: ignore[union-attr]
        # Of frames with one and the same count, Polars would keep that as a scalar, and multiply by its inverse instead of dividing.
        states = pl.DataFrame(states.get_columns())
        return states.with_columns(values).drop([f"{name}.{key}" for name, keys in self._states.items() for key in keys])


def _fold_groups(rows: pl.DataFrame, by: Sequence[str], steps: list[pl.Expr]) -> pl.DataFrame:
    """Return what the steps give for each group, the same to the last digit whatever other rows are there, and however many threads.

    The keys are made one struct for that, or one number if they are coded. By plain columns, Polars would add up a thousand rows
    and more in as many parts as it has threads, and the groups of keys that happen to be known as sorted in another order.
    """
    if coded_in(rows.select(by)):
        if (number := group_number(rows, by)) is not None:
            grouped = rows.group_by(number.alias("@group"), maintain_order=True).agg(pl.col(by).first(), *steps)
            return as_texts(grouped.drop("@group"))
        rows = as_texts(rows)
    return rows.group_by(pl.struct(by).alias("@group"), maintain_order=True).agg(steps).unnest("@group")
