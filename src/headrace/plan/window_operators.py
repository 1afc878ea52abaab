"""Operators of windows: rows grouped by window and keys, grouped further, and ranked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from headrace.plan.expression import Call, Expression, columns_of, rebuild
from headrace.plan.expression import Literal as Constant
from headrace.plan.operator_base import Named, OperatorBase, Traits, changed, digest, fields_of, typed
from headrace.plan.schema import BIGINT, TIMESTAMP, Field, Schema
from headrace.plan.window import Window

__all__ = ["WINDOW_COLUMNS", "Aggregate", "Regroup", "TopN"]

WINDOW_COLUMNS = (
    Field("window_start", TIMESTAMP, nullable=False),
    Field("window_end", TIMESTAMP, nullable=False),
    Field("revision", BIGINT, nullable=False),
)
_BOUNDS = frozenset(["window_start", "window_end"])


class _Grouping(OperatorBase):
    """Shared parts of operators that group rows: keys, columns over keys and aggregate calls, and the calls by hidden name."""

    keys: tuple[str, ...]
    columns: Named
    calls: Named

    def schema(self, given: Schema) -> Schema:
        """Return the keys, the aggregates, and the window's own columns."""
        return Schema((*(given[key] for key in self.keys), *fields_of(self.columns))).with_fields(*WINDOW_COLUMNS)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the keys and the columns that the calls read."""
        return {*self.keys, *(name for _, call in self.calls for name in columns_of(call))}

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the column if it is a key."""
        return (name,) if name in self.keys else ()

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The columns (over calls and keys) and the calls."""
        return tuple(expression for _, expression in (*self.columns, *self.calls))

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its calls changed."""
        return replace(self, calls=changed(self.calls, change))  # type: ignore[type-var]


@dataclass(frozen=True)
class Aggregate(_Grouping):
    """Rows grouped by window and keys, and aggregated.

    `calls` are the distinct aggregate calls in the columns, by hidden name; `name` is the name that the author gave it, if any.
    """

    kind: ClassVar[str] = "window"

    window: Window
    keys: tuple[str, ...]
    columns: Named
    calls: Named
    lateness_ms: int = 0
    late_topic: str | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """The author's name for it, else its keys."""
        return self.name or f"window:{','.join(self.keys)}"

    def traits(self, given: Traits) -> Traits:
        """Return those of a window's rows."""
        rows: Literal["insert", "revised"] = "revised" if self.lateness_ms else given.rows
        return replace(given, time="window", keys=frozenset(self.keys), rows=rows, windowed=True, bounds=_BOUNDS)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:
        """Return the keys and the columns that the calls read; all columns if late rows are written."""
        return set(given.names) if self.late_topic is not None else super().needs(needed, given)

    def definition(self, given: Schema) -> dict[str, Any]:
        """Return keys, window, lateness and aggregates. The values of constants in the aggregates may change."""
        without = tuple((name, _without_constants(call)) for name, call in self.calls)
        return {
            "kind": self.kind,
            "keys": typed(given, self.keys),
            "window": str(self.window),
            "allowed lateness": f"{self.lateness_ms} ms",
            "aggregates": f"{', '.join(call.function for _, call in self.calls if isinstance(call, Call))} ({digest(without)})",
        }

    def __str__(self) -> str:
        lateness = f", lateness {self.lateness_ms} ms" if self.lateness_ms else ""
        late = f", late to {self.late_topic!r}" if self.late_topic else ""
        return f"window {self.window}{lateness}{late} by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Regroup(_Grouping):
    """The rows of each window grouped further, by fewer keys."""

    kind: ClassVar[str] = "aggregate"

    keys: tuple[str, ...]
    columns: Named
    calls: Named

    def traits(self, given: Traits) -> Traits:
        """Return those of a window's rows."""
        return replace(given, time="window", keys=frozenset(self.keys), bounds=_BOUNDS)

    def __str__(self) -> str:
        return f"aggregate by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class TopN(OperatorBase):
    """The first rows of each window and group. `order` has columns and whether they are descending; `ties` are ascending columns."""

    kind: ClassVar[str] = "topn"

    count: int
    order: tuple[tuple[str, bool], ...]
    keys: tuple[str, ...]
    ties: tuple[str, ...]

    def schema(self, given: Schema) -> Schema:
        """Return the input's columns, and the row's rank from 1."""
        return given.with_fields(Field("rank", BIGINT, nullable=False))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns of the input, and those that decide the rank."""
        return (set(needed) - {"rank"}) | {*self.keys, *self.ties, *(name for name, _ in self.order)}

    def __str__(self) -> str:
        order = ", ".join(f"{name}{' DESC' if falls else ''}" for name, falls in self.order)
        return f"top {self.count} of {order} by {', '.join(self.keys) or '()'}"


def _without_constants(expression: Expression) -> Expression:
    """Return the expression without the values of its constants."""
    return Constant(None, expression.type) if isinstance(expression, Constant) else rebuild(expression, _without_constants)
