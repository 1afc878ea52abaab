"""From bound expressions to Flink SQL.

A column is mostly held as a value of its type. The two columns of a window are a TIMESTAMP of no zone as long as rows may
be grouped by them again. And what MAP_AGG makes is no MAP, which Flink cannot aggregate, but its JSON: that can be handed
on and written, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.engines.flink.cast import cast
from headrace.engines.flink.words import bare, listed, literal, name, text, type_name
from headrace.errors import PlanError
from headrace.plan.expression import Call, Cast, Column, Expression, FieldOf, Literal, Struct, columns_of
from headrace.plan.functions import AGGREGATES, FUNCTIONS, Aggregate, Function, sql_call
from headrace.plan.schema import BIGINT, DOUBLE, STRING

if TYPE_CHECKING:
    import polars as pl

    from headrace.kernels.columnar import compile as columnar
else:
    pl, columnar = lazy_import("polars"), lazy_import("headrace.kernels.columnar.compile")

__all__ = ["Item", "Row", "item", "json_value", "loose", "sha1_of", "sql", "uuid_of"]

_NAMESPACE = "headrace.uuid.v5"
_DIVISIONS = frozenset(["/", "%"])
_UUID = (
    "CONCAT(SUBSTRING({0}, 1, 8), '-', SUBSTRING({0}, 9, 4), '-5', SUBSTRING({0}, 14, 3), '-',\n"
    "  TRANSLATE(SUBSTRING({0}, 17, 1), '0123456789abcdef', '89ab89ab89ab89ab'), SUBSTRING({0}, 18, 3), '-', SUBSTRING({0}, 21, 12))"
)


@dataclass(frozen=True, slots=True)
class Item:
    """A column of a SELECT.

    Attributes
    ----------
    sql
        What stands before AS.
    held
        `value`; `window`, a TIMESTAMP(3) in UTC; `json`, JSON text; `object`, JSON text that a JSON_OBJECT here makes.
    computed
        Whether it is more than the name of a column, so that what uses it needs a view between.
    """

    sql: str
    held: str = "value"
    computed: bool = False

    def column(self, named: str) -> Item:
        """Return the same as the column of a view."""
        return Item(name(named), "json" if self.held == "object" else self.held)


Row = Mapping[str, Item]


def item(expression: Expression, row: Row) -> Item:
    """Return the column that an expression makes over the columns of `row`."""
    match expression:
        case Column(name=named):
            return row[named]
        case Struct() if _holds_json(expression, row):
            return Item(_object(expression, row), "object", computed=True)
        case Call(function="MAP_AGG", arguments=(key, value)):
            return Item(f"JSON_OBJECTAGG(KEY {sql(key, row)} VALUE {json_value(item(value, row), value, row)})", "json", computed=True)
    return Item(loose(expression, row), computed=True)


def _holds_json(expression: Expression, row: Row) -> bool:
    match expression:
        case Column(name=named):
            return row[named].held in ("json", "object")
        case Struct(values=values):
            return any(_holds_json(value, row) for value in values)
    return False


def json_value(made: Item, expression: Expression | None = None, row: Row | None = None) -> str:
    """Return a column as it stands behind VALUE in a JSON_OBJECT: JSON text as JSON, not as a text within it."""
    if isinstance(expression, Struct) and row is not None:
        return _object(expression, row)
    match made.held:
        case "json":
            return f"JSON({made.sql})"
        case "window":
            return f"CAST({made.sql} AS TIMESTAMP_LTZ(3))"
    return made.sql


def _object(struct: Struct, row: Row) -> str:
    pairs = zip(struct.type.names, struct.values, strict=True)
    return listed((f"KEY {text(key)} VALUE {json_value(item(value, row), value, row)}" for key, value in pairs), "JSON_OBJECT({})")


def sql(expression: Expression, row: Row) -> str:
    """Return the Flink SQL of an expression, which has its type also there.

    Raises
    ------
    PlanError
        If plain Flink SQL cannot say it.
    """
    match expression:
        case Column(name=named):
            return _value(named, row[named])
        case Literal():
            return literal(expression)
        case Cast():
            return _cast(expression, row)
        case Struct(values=values, type=kind):
            return f"CAST(ROW({', '.join(sql(value, row) for value in values)}) AS {type_name(kind)})"
        case FieldOf(argument=Struct(values=values, type=kind), name=field):
            return sql(values[kind.names.index(field)], row)
        case FieldOf(argument=argument, name=field):
            return f"{sql(argument, row)}.{name(field)}"
        case Call(function="UUID_V5", arguments=arguments):
            return uuid_of(sha1_of(arguments, row))
        case Call():
            return _call(expression, row)


def loose(expression: Expression, row: Row) -> str:
    """Return the Flink SQL of an expression that stands by itself, without parentheses around all of it; those of OR stay."""
    made = sql(expression, row)
    wrapped = isinstance(expression, Call) and expression.function != "OR" and _wrapped(FUNCTIONS.get(expression.function))
    return made[1:-1] if wrapped and made.startswith("(") else made


def _wrapped(function: Function | None) -> bool:
    """Return whether the outermost parentheses of a function's template belong together."""
    template = function.flink if function else None
    if not isinstance(template, str) or template[:1] + template[-1:] != "()":
        return False
    depth = list(accumulate((letter == "(") - (letter == ")") for letter in template))
    return depth.index(0) == len(template) - 1


def _value(named: str, held: Item) -> str:
    match held.held:
        case "value":
            return held.sql
        case "window":
            return f"CAST({held.sql} AS TIMESTAMP_LTZ(3))"
    what = "what MAP_AGG gives" if named.startswith("@") else f"column {named!r}, which MAP_AGG made,"
    raise PlanError(f"{what} is JSON on Flink and can only be handed on and written", fix="leave it as it is")


def _cast(made: Cast, row: Row) -> str:
    match made.argument:
        case Literal(value=int(whole)) if made.type == DOUBLE:
            return literal(Literal(float(whole), DOUBLE))
        case Literal(value=int(whole), type=kind) if (kind, made.type) == (BIGINT, STRING):
            return text(str(whole))
    return cast(sql(made.argument, row), made.argument.type, made.type)


def _call(call: Call, row: Row) -> str:
    if call.function == "LIKE" and isinstance(pattern := call.arguments[1], Literal) and "_" in str(pattern.value):
        # In Flink's LIKE a `_` is no line end.
        return f"REGEXP({sql(call.arguments[0], row)}, {text(_whole(str(pattern.value)))})"
    if call.function in _DIVISIONS and isinstance(divisor := _folded(call.arguments[1]), Literal):
        # Flink's planner fails over NULLIF(0, 0), and what is not 0 needs no guard.
        return f"({sql(call.arguments[0], row)} {call.function} {sql(divisor, row)})" if divisor.value else literal(Literal(None, call.type))
    function = (AGGREGATES if call.aggregate else FUNCTIONS)[call.function]
    arguments = [_argument(call, function, position, row) for position in range(len(call.arguments))]
    if call.function == "COUNT DISTINCT" and call.arguments[0].type == DOUBLE:
        arguments = [f"CASE WHEN {argument} = 0 THEN 0E0 ELSE {argument} END" for argument in arguments]  # to Flink 0.0 and -0.0 are two
    return sql_call(function, "flink", arguments, [argument.type for argument in call.arguments])


def _argument(call: Call, function: Function | Aggregate, position: int, row: Row) -> str:
    """Return an argument of a call: patterns in Java's form, and constants bare where Flink takes no cast, or needs none."""
    argument = call.arguments[position]
    if not isinstance(argument, Literal):
        return sql(argument, row)
    if isinstance(function, Function) and position == function.pattern:
        return text(function.java_pattern(str(argument.value), len(call.arguments)))
    widened = any(one.type == BIGINT and not isinstance(one, Literal) for one in call.arguments)
    return bare(argument) if position in function.literal or (widened and argument.type == BIGINT) else sql(argument, row)


def _whole(pattern: str) -> str:
    """Return the regular expression of a LIKE pattern."""
    wild = {"%": ".*", "_": "."}
    return rf"(?s)\A{''.join(wild.get(letter) or _escaped(letter) for letter in pattern)}\z"


def _escaped(letter: str) -> str:
    return f"\\{letter}" if letter in r"\^$.|?*+()[]{}" else letter


def _folded(expression: Expression) -> Expression:
    """Return the value of an expression over constants of numbers, which Flink's planner would work out and fail over."""
    if not isinstance(expression, Call) or expression.type not in (BIGINT, DOUBLE) or columns_of(expression):
        return expression
    return Literal(pl.select(columnar.compile_expression(expression)).item(), expression.type)


def sha1_of(arguments: Sequence[Expression], row: Row) -> str:
    """Return the hash that a UUID_V5 of the arguments is cut from."""
    named = f", {text(chr(0x1F))}, ".join(sql(argument, row) for argument in arguments)
    return f"SHA1(CONCAT({text(_NAMESPACE)}, {named}))"


def uuid_of(sha1: str) -> str:
    """Return the UUID that a hash gives."""
    return _UUID.format(sha1)
