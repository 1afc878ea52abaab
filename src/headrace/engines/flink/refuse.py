"""Refusals: plans that plain Flink SQL cannot compute as headrace does."""

from __future__ import annotations

from headrace.engines.flink.places import Given
from headrace.errors import PlanError
from headrace.plan.expression import Call, Column, Expression
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Regroup, Source

__all__ = ["check_metadata", "check_regroup", "check_window"]

_ORDERED = frozenset(["FIRST_VALUE", "LAST_VALUE", "ARRAY_AGG"])


def check_metadata(source: Source, given: Given) -> None:
    """Raise PlanError unless a connector tells all the metadata that a source declares: of files it tells no offsets."""
    for column, kind in source.metadata:
        if kind not in given.metadata:
            what = f"Flink cannot provide the {kind} of a file's record, which column {column!r} holds"
            raise PlanError(what, fix="read the records from Kafka, run it on the embedded engine, or leave the column out of metadata")


def check_window(node: Node[Aggregate]) -> None:
    """Raise PlanError if Flink's window functions cannot aggregate so."""
    aggregate = node.operator
    if aggregate.lateness_ms:
        raise PlanError(
            f"allowed lateness of {aggregate.lateness_ms} ms: Flink's window functions have none", fix="leave allowed_lateness out on Flink"
        )
    called = _functions(aggregate)
    if "MAP_AGG" in called:
        raise PlanError(
            "MAP_AGG over rows may meet a key twice, at which Flink's JSON_OBJECTAGG fails", fix="group by the key first, then aggregate(by=…)"
        )
    for function in called & _ORDERED if aggregate.window.kind != "tumbling" else ():
        raise PlanError(f"{function} in {aggregate.window.kind} windows: Flink cannot merge it in the order of arrival", fix="take a tumbling window")


def check_regroup(node: Node[Regroup]) -> None:
    """Raise PlanError if Flink could not group the rows of windows so: their order is not fixed, and a key must come once and not be NULL."""
    regroup = node.operator
    for function in _functions(regroup) & _ORDERED:
        raise PlanError(
            f"{function} of the rows of a window: on Flink they come in no fixed order", fix="take MIN or MAX, or aggregate the rows themselves"
        )
    for _, call in regroup.calls:
        if isinstance(call, Call) and call.function == "MAP_AGG":
            _check_map_key(node, call.arguments[0])


def _check_map_key(node: Node[Regroup], key: Expression) -> None:
    unique = node.input.traits.keys
    if not isinstance(key, Column) or unique is None or not unique <= {key.name, *node.operator.keys}:
        raise PlanError(
            "MAP_AGG may meet a key twice, at which Flink's JSON_OBJECTAGG fails", fix="first group by the key, as it is, and the keys alone"
        )
    if node.input.schema[key.name].nullable:
        raise PlanError(f"MAP_AGG may meet a NULL {key.name!r}, at which Flink's JSON_OBJECTAGG fails", fix="declare the column NOT NULL")


def _functions(operator: Aggregate | Regroup) -> set[str]:
    return {call.function for _, call in operator.calls if isinstance(call, Call)}
