"""What plain Flink SQL cannot do as headrace does it. It is refused, never said otherwise than it is meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from headrace.engines.flink.places import Given
from headrace.errors import PlanError
from headrace.plan.expression import Call, Column, Expression
from headrace.plan.operators import Aggregate, Derive, Operator, Regroup, Select, Source, Where

__all__ = ["blaming", "check_metadata", "check_regroup", "check_window"]

_ORDERED = frozenset(["FIRST_VALUE", "LAST_VALUE", "ARRAY_AGG"])
_OWN = ("window_start", "window_end", "window_time")


@contextmanager
def blaming(operator: str) -> Iterator[None]:
    """Make a PlanError name the operator that it is about."""
    try:
        yield
    except PlanError as error:
        raise PlanError(error.what, where=error.where or f"Flink SQL of {operator}", fix=error.fix) from None


def check_metadata(source: Source, given: Given) -> None:
    """Raise PlanError unless a connector tells all the metadata that a source declares: of files it tells no offsets."""
    for column, kind in source.metadata:
        if kind not in given.metadata:
            what = f"Flink cannot provide the {kind} of a file's record, which column {column!r} holds"
            raise PlanError(what, fix="read the records from Kafka, run it on the embedded engine, or leave the column out of metadata")


def check_window(aggregate: Aggregate) -> None:
    """Raise PlanError if Flink's window functions cannot aggregate so."""
    if aggregate.lateness_ms:
        raise PlanError(
            f"allowed lateness of {aggregate.lateness_ms} ms: Flink's window functions have none", fix="leave allowed_lateness out on Flink"
        )
    for column in _OWN:
        if column in aggregate.input.schema:
            raise PlanError(f"column {column!r} has the name of one that Flink's window functions add", fix="rename it with select()")
    called = _functions(aggregate)
    if "MAP_AGG" in called:
        raise PlanError(
            "MAP_AGG over rows may meet a key twice, at which Flink's JSON_OBJECTAGG fails", fix="group by the key first, then aggregate(by=…)"
        )
    for function in called & _ORDERED if aggregate.window.kind != "tumbling" else ():
        raise PlanError(f"{function} in {aggregate.window.kind} windows: Flink cannot merge it in the order of arrival", fix="take a tumbling window")


def check_regroup(regroup: Regroup) -> None:
    """Raise PlanError if Flink could not group the rows of windows so: their order is not fixed, and a key must come once and not be NULL."""
    for function in _functions(regroup) & _ORDERED:
        raise PlanError(
            f"{function} of the rows of a window: on Flink they come in no fixed order", fix="take MIN or MAX, or aggregate the rows themselves"
        )
    for _, call in regroup.calls:
        if isinstance(call, Call) and call.function == "MAP_AGG":
            _check_map_key(regroup, call.arguments[0])


def _check_map_key(regroup: Regroup, key: Expression) -> None:
    unique = _unique(regroup.input)
    if not isinstance(key, Column) or unique is None or not unique <= {key.name, *regroup.keys}:
        raise PlanError(
            "MAP_AGG may meet a key twice, at which Flink's JSON_OBJECTAGG fails", fix="first group by the key, as it is, and the keys alone"
        )
    if regroup.input.schema[key.name].nullable:
        raise PlanError(f"MAP_AGG may meet a NULL {key.name!r}, at which Flink's JSON_OBJECTAGG fails", fix="declare the column NOT NULL")


def _functions(operator: Aggregate | Regroup) -> set[str]:
    return {call.function for _, call in operator.calls if isinstance(call, Call)}


def _unique(operator: Operator) -> set[str] | None:
    """Return columns that no two rows of a window have in common, None if there are none."""
    match operator:
        case Aggregate(keys=keys) | Regroup(keys=keys):
            return set(keys)
        case Where(input=given):
            return _unique(given)
        case Derive(input=given, columns=columns):
            unique = _unique(given)
            return None if unique is None or unique & {name for name, _ in columns} else unique
        case Select(input=given, columns=columns):
            unique = _unique(given)
            kept = {expression.name: name for name, expression in columns if isinstance(expression, Column)}
            return {kept[name] for name in unique} if unique is not None and unique <= set(kept) else None
    return None
