"""Plans made cheaper without a change in what they mean."""

from __future__ import annotations

from dataclasses import replace

from headrace.plan.expression import Call, Cast, Column, Expression, FieldOf, Literal, Struct, columns_of, rebuild
from headrace.plan.graph import Node, rebuilt
from headrace.plan.operators import Aggregate, Derive, Operator, Select, Source, Unnest, Where
from headrace.plan.pipeline import Plan
from headrace.plan.schema import DOUBLE, STRING, Schema, map_of

__all__ = ["only_keys", "read_numbers_at_once"]

_TEXTS, _NUMBERS = map_of(STRING, STRING), map_of(STRING, DOUBLE)


def read_numbers_at_once(plan: Plan) -> tuple[Plan, dict[str, set[str]]]:
    """Return the plan with each MAP of texts that are only ever cast to DOUBLE read as a MAP of DOUBLE, and these by topic.

    It means the same: inside a MAP what cannot be read is NULL, and a text is read by the same rule as TRY_CAST's.
    """
    retyped: dict[str, set[str]] = {}
    while (found := _castable(plan)) is not None:
        source, column = found
        retyped.setdefault(source.operator.topic, set()).add(column)
        plan = _retyped(plan, source, column)
    return plan, retyped


def _castable(plan: Plan) -> tuple[Node[Source], str] | None:
    """Return a source and its MAP column of texts that every operator unnests and then only casts to DOUBLE."""
    for source in plan.of(Source):
        timed_by = columns_of(source.operator.event_time) if source.operator.event_time else set()
        for column in source.schema.without(*dict(source.operator.metadata)).fields:
            if column.type == _TEXTS and column.name not in timed_by and _only_cast(plan, source, column.name):
                return source, column.name
    return None


def _only_cast(plan: Plan, source: Node[Source], column: str) -> bool:
    """Return whether whatever reads `column` of `source` unnests it and casts the value to DOUBLE."""

    def casts(reader: Node[Operator]) -> bool:
        unnest = reader.operator
        return isinstance(unnest, Unnest) and unnest.column == column and unnest.key is not None and _cast_below(plan, reader, unnest.value)

    readers = plan.consumers(source)
    return bool(readers) and all(map(casts, readers))


def _cast_below(plan: Plan, given: Node[Operator], column: str) -> bool:
    """Return whether below a node the text `column` is only cast to DOUBLE."""
    return all(_passes(plan, one, column) for one in plan.consumers(given))


def _passes(plan: Plan, given: Node[Operator], column: str) -> bool:
    """Return whether a node, and whatever it hands `column` on to, only casts it to DOUBLE."""
    match operator := given.operator:
        case Derive() | Select() | Where():
            read = operator.expressions
        case Aggregate(calls=calls) if operator.late_topic is None and column not in operator.keys:
            read = tuple(call for _, call in calls)
        case _:
            return False
    return all(_casts(expression, column) for expression in read) and (not operator.unchanged(column) or _cast_below(plan, given, column))


def _casts(expression: Expression, column: str) -> bool:
    """Return whether the expression reads `column`, if at all, only as TRY_CAST(column AS DOUBLE)."""
    match expression:
        case Cast(argument=Column(name=name), type=kind) if name == column:
            return kind == DOUBLE
        case Column(name=name):
            return name != column
        case Literal():
            return True
        case Call(arguments=inner) | Struct(values=inner):
            return all(_casts(one, column) for one in inner)
        case Cast(argument=given) | FieldOf(argument=given):
            return _casts(given, column)


def _retyped(plan: Plan, source: Node[Source], column: str) -> Plan:
    def change(old: Node[Operator], inputs: tuple[Node[Operator], ...]) -> Operator:
        if old is not source:
            return old.operator.reading(lambda expression: _uncast(expression, inputs[0].schema))
        read = source.operator
        if column == read.rest:
            return replace(read, rest_type=_NUMBERS)
        return replace(read, declared=read.declared.with_fields(replace(read.declared[column], type=_NUMBERS)))

    return replace(plan, nodes=rebuilt(plan.sinks, change))


def _uncast(expression: Expression, given: Schema) -> Expression:
    """Return the expression over columns that are DOUBLE, without the casts that make them so."""
    match expression:
        case Cast(argument=Column(name=name), type=kind) if kind == DOUBLE and name in given and given[name].type == DOUBLE:
            return Column(name, DOUBLE)
    return rebuild(expression, lambda inner: _uncast(inner, given))


def only_keys(plan: Plan, node: Node[Operator]) -> set[str]:
    """Return the texts in the rows of an unnested column of which each is used only as a key of windows that emit no late rows."""
    if not isinstance(node.operator, Unnest):
        return set()
    return {field.name for field in node.schema.fields if field.type == STRING and _only_key(plan, node, field.name)}


def _only_key(plan: Plan, given: Node[Operator], column: str) -> bool:
    return all(_keys_by(plan, one, column) for one in plan.consumers(given))


def _keys_by(plan: Plan, given: Node[Operator], column: str) -> bool:
    """Return whether a node, and whatever it hands `column` on to, uses it only as a key."""
    match operator := given.operator:
        case Aggregate(calls=calls, lateness_ms=0, late_topic=None):
            return all(column not in columns_of(call) for _, call in calls)
        case Derive() | Select() | Where() | Unnest():
            read = (expression for expression in operator.expressions if not (isinstance(expression, Column) and expression.name == column))
            return all(column not in columns_of(one) for one in read) and all(_only_key(plan, given, name) for name in operator.unchanged(column))
    return False
