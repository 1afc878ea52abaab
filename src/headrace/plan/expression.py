"""Bound expressions: what a SQL text means over a given schema, with every type known.

Six kinds of node and no more. Operators, CASE, IN and the like are calls to functions of the table
(`headrace.plan.functions`), so that each has one definition for all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from headrace.plan.schema import Type

__all__ = ["Call", "Cast", "Column", "Expression", "FieldOf", "Literal", "Struct", "columns_of", "rebuild", "walk"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the input."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: bool, int, float, str, or None for NULL."""

    value: bool | int | float | str | None
    type: Type


@dataclass(frozen=True, slots=True)
class Call:
    """A call to a function of the table, scalar or aggregate."""

    function: str
    arguments: tuple[Expression, ...]
    type: Type
    aggregate: bool = False


@dataclass(frozen=True, slots=True)
class Cast:
    """TRY_CAST: the value as `type`, NULL where it cannot be read as one."""

    argument: Expression
    type: Type


@dataclass(frozen=True, slots=True)
class Struct:
    """STRUCT(a, b AS c): a ROW made of named values."""

    values: tuple[Expression, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class FieldOf:
    """`row.name`: one field of a ROW."""

    argument: Expression
    name: str
    type: Type


Expression = Column | Literal | Call | Cast | Struct | FieldOf


def children(expression: Expression) -> tuple[Expression, ...]:
    """Return the expressions directly inside."""
    match expression:
        case Call(arguments=inner) | Struct(values=inner):
            return inner
        case Cast(argument=inner) | FieldOf(argument=inner):
            return (inner,)
        case _:
            return ()


def rebuild(expression: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """Return the expression with `change` applied to each of its direct children."""
    match expression:
        case Call(arguments=inner):
            return replace(expression, arguments=tuple(map(change, inner)))
        case Struct(values=inner):
            return replace(expression, values=tuple(map(change, inner)))
        case Cast(argument=inner) | FieldOf(argument=inner):
            return replace(expression, argument=change(inner))
        case _:
            return expression


def walk(expression: Expression) -> Iterator[Expression]:
    """Yield the expression and all inside it, outermost first."""
    yield expression
    for inner in children(expression):
        yield from walk(inner)


def columns_of(expression: Expression) -> set[str]:
    """Return the names of the columns that the expression reads."""
    return {node.name for node in walk(expression) if isinstance(node, Column)}
