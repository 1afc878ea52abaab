"""Plans made cheaper without a change in what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headrace.plan.expression import Call, Cast, Column, Expression, FieldOf, Literal, Struct, columns_of, rebuild
from headrace.plan.operators import Aggregate, Derive, Operator, Process, Regroup, Select, Side, Sink, Source, Union, Unnest, Where, inputs_of
from headrace.plan.pipeline import Plan
from headrace.plan.schema import DOUBLE, STRING, map_of

__all__ = ["read_numbers_at_once"]

_TEXTS, _NUMBERS = map_of(STRING, STRING), map_of(STRING, DOUBLE)


def read_numbers_at_once(plan: Plan) -> tuple[Plan, dict[str, set[str]]]:
    """Return the plan with each MAP of texts that are only ever cast to DOUBLE read as a MAP of DOUBLE, and these by topic.

    It means the same: inside a MAP what cannot be read is NULL, and a text is read by the same rule as TRY_CAST's.
    """
    retyped: dict[str, set[str]] = {}
    while (found := _castable(plan)) is not None:
        source, column = found
        retyped.setdefault(source.topic, set()).add(column)
        plan = _retyped(plan, source, column)
    return plan, retyped


def _castable(plan: Plan) -> tuple[Source, str] | None:
    """Return a source and its MAP column of texts that every operator unnests and then only casts to DOUBLE."""
    operators = list(plan.operators())
    for source in plan.sources:
        timed_by = columns_of(source.event_time) if source.event_time else set()
        for column in source.schema.without(*dict(source.metadata)).fields:
            if column.type == _TEXTS and column.name not in timed_by and _only_cast(operators, source, column.name):
                return source, column.name
    return None


def _only_cast(operators: list[Operator | Sink], source: Operator, column: str) -> bool:
    """Return whether whatever reads `column` of `source` unnests it and casts the value to DOUBLE."""
    readers = [one for one in operators if any(given is source for given in inputs_of(one))]
    return bool(readers) and all(
        isinstance(one, Unnest) and one.column == column and one.key is not None and _cast_below(operators, one, one.value) for one in readers
    )


def _cast_below(operators: list[Operator | Sink], operator: Operator, column: str) -> bool:
    """Return whether below `operator` the text `column` is only cast to DOUBLE."""
    return all(_passes(operators, one, column) for one in operators if any(given is operator for given in inputs_of(one)))


def _passes(operators: list[Operator | Sink], operator: Operator | Sink, column: str) -> bool:
    """Return whether `operator`, and whatever it hands `column` on to, only casts it to DOUBLE."""
    match operator:
        case Derive(columns=columns):
            read, handed_on = [expression for _, expression in columns], all(name != column for name, _ in columns)
        case Select(columns=columns):
            read, handed_on = [expression for _, expression in columns], False
        case Where(predicate=predicate):
            read, handed_on = [predicate], True
        case Aggregate(calls=calls) if operator.late_topic is None and column not in operator.keys:
            read, handed_on = [call for _, call in calls], False
        case _:
            return False
    return all(_casts(expression, column) for expression in read) and not (handed_on and not _cast_below(operators, operator, column))


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


@dataclass
class _Retyping:
    source: Source
    column: str
    done: dict[int, Operator] = field(default_factory=dict)

    def operator(self, old: Operator) -> Operator:
        if id(old) not in self.done:
            self.done[id(old)] = self._new(old)
        return self.done[id(old)]

    def _new(self, old: Operator) -> Operator:
        if old is self.source:
            if self.column == self.source.rest:
                return replace(self.source, rest_type=_NUMBERS)
            kept = self.source.declared[self.column]
            return replace(self.source, declared=self.source.declared.with_fields(replace(kept, type=_NUMBERS)))
        match old:
            case Source():
                return old
            case Union(inputs=inputs):
                return replace(old, inputs=tuple(map(self.operator, inputs)))
            case Process(broadcast=broadcast):
                return replace(old, input=self.operator(old.input), broadcast=None if broadcast is None else self.operator(broadcast))
            case Side():
                process = self.operator(old.input)
                assert isinstance(process, Process)
                return replace(old, input=process)
        new = replace(old, input=self.operator(old.input))
        match new:
            case Derive(columns=columns) | Select(columns=columns):
                return replace(new, columns=tuple((name, self._uncast(expression, new.input)) for name, expression in columns))
            case Where(predicate=predicate):
                return replace(new, predicate=self._uncast(predicate, new.input))
            case Aggregate(calls=calls) | Regroup(calls=calls):
                return replace(new, calls=tuple((name, self._uncast(call, new.input)) for name, call in calls))
        return new

    def _uncast(self, expression: Expression, given: Operator) -> Expression:
        match expression:
            case Cast(argument=Column(name=name), type=kind) if kind == DOUBLE and name in given.schema and given.schema[name].type == DOUBLE:
                return Column(name, DOUBLE)
        return rebuild(expression, lambda inner: self._uncast(inner, given))


def _retyped(plan: Plan, source: Source, column: str) -> Plan:
    retyping = _Retyping(source, column)
    return replace(plan, sinks=tuple(Sink(sink.topic, retyping.operator(sink.input)) for sink in plan.sinks))
