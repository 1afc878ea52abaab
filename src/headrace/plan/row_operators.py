"""Operators that compute rows from rows, without state."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from headrace.plan.expression import Column, Expression, columns_of
from headrace.plan.operator_base import Named, OperatorBase, Traits, changed, fields_of, read_by
from headrace.plan.schema import Field, Schema

__all__ = ["Derive", "Select", "Union", "Unnest", "Where"]


@dataclass(frozen=True)
class _Computing(OperatorBase):
    """Shared parts of operators that compute columns."""

    columns: Named

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Those of the columns."""
        return tuple(expression for _, expression in self.columns)

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its columns changed."""
        return replace(self, columns=changed(self.columns, change))


@dataclass(frozen=True)
class Derive(_Computing):
    """Adds columns, or replaces those of the same name."""

    kind: ClassVar[str] = "derive"

    def schema(self, given: Schema) -> Schema:
        """Return the input's columns and the new ones."""
        return given.with_fields(*fields_of(self.columns))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns of the input, and those that the needed new columns read."""
        return (set(needed) - {name for name, _ in self.columns}) | read_by(self.columns, needed)

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the column if it is not replaced, and its copies."""
        return ((name,) if name not in dict(self.columns) else ()) + _named_anew(self.columns, name)

    def __str__(self) -> str:
        return f"derive {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Select(_Computing):
    """Keeps just the columns named."""

    kind: ClassVar[str] = "select"

    def schema(self, given: Schema) -> Schema:  # noqa: ARG002
        """Return the columns named."""
        return Schema(fields_of(self.columns))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the columns that the needed columns read."""
        return read_by(self.columns, needed)

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the copies of the column."""
        return _named_anew(self.columns, name)

    def __str__(self) -> str:
        return f"select {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Where(OperatorBase):
    """Keeps the rows for which the predicate is true."""

    kind: ClassVar[str] = "where"

    predicate: Expression
    text: str = ""

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns, and those that the predicate reads."""
        return set(needed) | columns_of(self.predicate)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The predicate."""
        return (self.predicate,)

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its predicate changed."""
        return replace(self, predicate=change(self.predicate))

    def __str__(self) -> str:
        return f"where {self.text}"


@dataclass(frozen=True)
class Unnest(OperatorBase):
    """A row for each entry of a MAP or element of an ARRAY, in place of that column."""

    kind: ClassVar[str] = "unnest"

    column: str
    key: str | None
    value: str

    def schema(self, given: Schema) -> Schema:
        """Return the input's columns without the unnested one, then the key (of a MAP) and the value."""
        kind = given[self.column].type
        key = (Field(self.key, kind.key, nullable=False),) if self.key else ()
        return given.without(self.column).with_fields(*key, Field(self.value, kind.element))

    def traits(self, given: Traits) -> Traits:
        """Return those of the input, without keys: one row becomes several."""
        return replace(given.through(self.unchanged), keys=None)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns of the input, and the unnested one."""
        return (set(needed) - {self.key, self.value}) | {self.column}

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the column, unless it is the unnested one."""
        return () if name == self.column else (name,)

    def __str__(self) -> str:
        return f"unnest {self.column} as {', '.join(name for name in (self.key, self.value) if name)}"


@dataclass(frozen=True)
class Union(OperatorBase):
    """The rows of several streams of one schema."""

    kind: ClassVar[str] = "union"

    count: int

    def schema(self, *given: Schema) -> Schema:
        """Return the first input's; a column may be NULL where it may in any input."""
        nullable = {name for one in given for name in one.names if one[name].nullable}
        return Schema(tuple(Field(f.name, f.type, f.name in nullable) for f in given[0].fields))

    def traits(self, *given: Traits) -> Traits:
        """Return what holds for the rows of all inputs."""
        return Traits.of_all(given)

    def __str__(self) -> str:
        return f"union of {self.count}"


def _named_anew(columns: Named, name: str) -> tuple[str, ...]:
    return tuple(new for new, expression in columns if isinstance(expression, Column) and expression.name == name)
