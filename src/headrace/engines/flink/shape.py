"""The operators of a job on Flink that may have state, by which headrace compares a changed plan with the job that left a savepoint.

Flink finds the state of an operator by a name that `headrace.flink.Named` in the jar gives it. What is refused here is refused by name before
the job starts; whatever else does not fit is refused by Flink.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Derive, Operator, Select, Side, Sink, Union, Unnest, Where
from headrace.plan.pipeline import Plan

__all__ = ["moved", "shape_of"]

_STATELESS = (Select, Derive, Where)
_PASSING = (*_STATELESS, Side, Union, Unnest)


def shape_of(plan: Plan) -> list[str]:
    """Return the operators that may have state, each with its inputs. Flink computes columns and conditions within one operator."""
    return [entry for node in plan.nodes if not node.is_a(*_STATELESS) for entry in _placed(node)]


def moved(was: Sequence[str], plan: Plan, new: Collection[str]) -> str | None:
    """Return what has gone among the operators that `shape_of` gave before, or cannot be told from another; None if nothing has.

    `new` are the names of the stages that were not there.
    """
    now = shape_of(plan)
    if gone := [one for one in was if one not in now]:
        return f"{gone[0]} no longer exists"
    return _joined(plan, new) or (_turned(was, now) if _has_alike(plan) else None)


def _turned(was: Sequence[str], now: Sequence[str]) -> str | None:
    """Return which output does not come in the order of before, None if all do."""
    for before, after in zip(_outputs(was), _outputs(now), strict=False):
        if before != after:
            return f"{after} comes before others that were there, and windows of one length and input are told apart by their order"
    return None


def _placed(node: Node[Operator]) -> Iterator[str]:
    """Yield an operator, and the outputs that it has besides its rows."""
    called = f"output {node.operator.topic}" if isinstance(node.operator, Sink) else node.name
    inputs = [_origin(one.node).name for one in node.inputs]
    yield f"{called}{' of ' if inputs else ''}{' and '.join(inputs)}"
    for topic in (getattr(node.operator, "late_topic", None), getattr(node.operator, "failed_topic", None)):
        if topic:
            yield f"output {topic} of {node.name}"


def _origin(node: Node[Operator]) -> Node[Operator]:
    """Return the nearest node upstream, itself among them, that may have state."""
    return _origin(node.input) if node.is_a(*_STATELESS) else node


def _has_alike(plan: Plan) -> bool:
    """Return whether windows have the same length and input: Flink knows them by their order, which is that of the outputs."""
    found = [_cut(one) for one in plan.of(Aggregate)]
    return len(set(found)) < len(found)


def _joined(plan: Plan, new: Collection[str]) -> str | None:
    """Return which new window cannot be told from one that was there, None if there is none."""
    there = {(_cut(one), one.operator.keys): one for one in plan.of(Aggregate) if one.name not in new}
    for one in plan.of(Aggregate):
        if one.name in new and (other := there.get((_cut(one), one.operator.keys))) is not None:
            return f"{one.name} is new, and has length, keys and input of {other.name}"
    return None


def _cut(node: Node[Aggregate]) -> tuple[int, int, frozenset[Node[Operator]]]:
    """Return length, step and input of a window."""
    return node.operator.window.size_ms, node.operator.window.step_ms, frozenset(_makers(node.input))


def _makers(node: Node[Operator]) -> Iterable[Node[Operator]]:
    """Return the nearest nodes upstream of which rows are no mere columns, conditions and unions."""
    return (maker for one in node.inputs for maker in _makers(one.node)) if node.is_a(*_PASSING) else (node,)


def _outputs(shape: Sequence[str]) -> list[str]:
    return [one for one in shape if one.startswith("output ")]
