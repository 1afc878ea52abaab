"""Formulas of rules computed for many rows at once, with the values that they have row by row.

NULL is unknown. What could differ in its last digit from one mathematical library to another (`EXP`, `LN`, `POWER`) is not computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from operator import add, and_, eq, ge, gt, le, lt, mul, ne, neg, or_, sub, truediv
from typing import Any

import polars as pl

from headrace.alarms.formula import Tree

__all__ = ["Columns", "is_computable"]

Held = Callable[[int, pl.Series], pl.Series]
_COMPARE: Mapping[str, Callable[[Any, Any], pl.Series]] = {"<": lt, "<=": le, ">": gt, ">=": ge, "=": eq, "<>": ne}
_CALLS: Mapping[str, Callable[..., pl.Series]] = {
    "+": add, "-": sub, "*": mul, "/": truediv, "NEG": neg, "ABS": pl.Series.abs, "SQRT": pl.Series.sqrt, "FLOOR": pl.Series.floor,
    "CEIL": pl.Series.ceil, "LEAST": lambda *given: _of(pl.min_horizontal, given), "GREATEST": lambda *given: _of(pl.max_horizontal, given),
}  # fmt: skip


@lru_cache(maxsize=50_000)
def is_computable(tree: Tree) -> bool:
    """Whether a formula has no part that is not computed here."""
    if tree[0] == "call" and tree[1] not in _CALLS:
        return False
    return all(is_computable(part) for part in tree if isinstance(part, tuple))


class Columns:
    """The values of rows by parameter, and what is computed of them."""

    def __init__(self, values: Mapping[str, pl.Series], count: int) -> None:
        self._values, self._count = {**values}, count

    def derive(self, name: str, tree: Tree) -> None:
        """Take the value of a formula for that of a parameter."""
        self._values[name] = self.compute(tree)

    def compute(self, tree: Tree, held: Held | None = None) -> pl.Series:
        """Return the values of a formula; `held` returns those of a HELD by its number and its condition."""
        match tree:
            case ("constant", value):
                return pl.repeat(value, self._count, eager=True)
            case ("name", name):
                return self._values[name]
        parts = [self.compute(part, held) for part in tree if isinstance(part, tuple)]
        if tree[0] == "held" and held is not None:
            return held(tree[1], *parts)
        return _finite(_CALLS[tree[1]](*parts)) if tree[0] == "call" else _chosen(tree, parts)


def _chosen(tree: Tree, parts: list[pl.Series]) -> pl.Series:
    match tree[0]:
        case "compare":
            return _COMPARE[tree[1]](*parts)
        case "and" | "or":
            return reduce(and_ if tree[0] == "and" else or_, parts)
        case "not":
            return ~parts[0]
        case "null":
            return parts[0].is_not_null() if tree[1] else parts[0].is_null()
        case "coalesce":
            return pl.select(pl.coalesce(*parts)).to_series()
    chosen, first, second = parts
    return pl.select(pl.when(chosen).then(first).when(~chosen).then(second)).to_series()


def _of(function: Callable[..., pl.Expr], given: tuple[pl.Series, ...]) -> pl.Series:
    """Return a function of numbers where all of them are known."""
    known = reduce(and_, [one.is_not_null() for one in given])
    return pl.select(pl.when(known).then(function(*given))).to_series()


def _finite(numbers: pl.Series) -> pl.Series:
    known = numbers.is_finite()
    return numbers if known.all() else pl.select(pl.when(known).then(numbers)).to_series()
