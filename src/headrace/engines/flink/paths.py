"""The paths of rows to the processes of a plan, on which the order of the rows depends."""

from __future__ import annotations

import dis
from inspect import isgeneratorfunction
from itertools import pairwise

from headrace.engines.flink.words import text
from headrace.errors import PlanError
from headrace.plan.expression import Call
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Operator, Process, Regroup, Side, Source, TopN, Union, Unnest
from headrace.plan.pipeline import Plan

__all__ = ["Paths"]

_ORDERED = frozenset(["FIRST_VALUE", "LAST_VALUE", "ARRAY_AGG"])
_Path = tuple[int, ...]


class Paths:
    """The paths of a plan's rows.

    Attributes
    ----------
    parted
        Whether a stream is parted and joined again before a process, so that rows must tell on which way they came.
    entered
        Whether rows of unnested records go through a process to another, so that they must tell which entry they are of.
    """

    def __init__(self, plan: Plan) -> None:
        self._found: dict[Node[Operator], list[_Path]] = {}
        self._taken = {maker for one in plan.stages for given in one.inputs for maker in _makers(given.node) if not maker.is_a(Source)}
        joined = [one.input for one in plan.windows] + [union for union in plan.of(Union) if union.traits.derived]
        closing = [maker for one in joined for maker in _makers(one) if maker.traits.time == "window"]
        self._in_window_time = {one for maker in closing for one in maker.upstream() if one.traits.time == "window"}
        self.parted = any(self._is_parted(one.node) for process in plan.processes for one in process.inputs)
        keyed = [one.node for process in plan.processes for one in process.inputs if one.role != "broadcast"]
        first = [maker for given in keyed for maker in given.upstream() if maker.is_a(Process)]
        self.entered = any(one.is_a(Unnest) for process in first for one in process.input.upstream())

    def is_taken_in_time(self, maker: Node[Operator]) -> bool:
        """Return whether rows that a process or a window gives go into another, at their times."""
        return maker in self._taken

    def is_in_window_time(self, maker: Node[Operator]) -> bool:
        """Return whether rows of a window go into another, or are joined with others, so that Flink has to know their times itself."""
        return maker in self._in_window_time

    def drops_of_many(self, process: Node[Process]) -> bool:
        """Return whether a process drops duplicates of records of which several rows come to it."""
        return process.operator.drops_duplicates and (self._is_parted(process.input) or any(one.is_a(Unnest) for one in process.input.upstream()))

    def check_process(self, process: Node[Process]) -> None:
        """Raise PlanError if a process depends on the order in which rows of one record come on several ways."""
        if process.operator.arrival and any(self._is_parted(one.node) for one in process.inputs):
            what = f"records come to {process.operator.name} by several ways, on Flink in no fixed order"
            raise PlanError(what, fix="take order='event_time', join what was parted in one stream, or run it on the embedded engine")

    @staticmethod
    def check_window(window: Node[Aggregate]) -> None:
        """Raise PlanError if a window depends on the order of rows that processes give, and its groups hold rows of several keys."""
        called, given = {call.function for _, call in window.operator.calls if isinstance(call, Call)}, window.input.traits
        if not called & _ORDERED or not given.derived:
            return
        for maker in window.input.nearest(frozenset(["source", "window", "process"])):
            if isinstance(maker.operator, Process) and _may_return(getattr(maker.operator.code, "on_broadcast", None)):
                what = (
                    f"{min(called & _ORDERED)} of rows that {maker.operator.label} emits for broadcast records: on Flink these come in no fixed order"
                )
                raise PlanError(what, fix="take MIN or MAX, or run it on the embedded engine")
        if given.keys is not None and given.keys <= {*window.operator.keys}:
            return
        what = f"{min(called & _ORDERED)} of what a process gives for several keys: on Flink these come in no fixed order"
        raise PlanError(what, fix="group by the keys of the process, take MIN or MAX, or run it on the embedded engine")

    # ways

    def first(self, maker: Node[Operator]) -> str:
        """Return the way of rows where they are made."""
        return _written(self._ways(maker)[0], self._ways(maker))

    def turned(self, given: Node[Operator], union: Node[Union], way: str) -> str:
        """Return the way behind a union of rows that have come to one of its inputs on a way, in SQL."""
        before, behind = self._ways(given), self._ways(union)
        turns = [(_written(path, before), _written((*path, union.id), behind)) for path in before]
        if len(turns) == 1:
            return text(turns[0][1])
        return f"CASE {way}{''.join(f' WHEN {text(old)} THEN {text(new)}' for old, new in turns)} END"

    def _ways(self, node: Node[Operator]) -> list[_Path]:
        """Return on which paths rows come to a node from where they were made, in the order in which those of one record come."""
        if node not in self._found:
            # Of one time, rows of windows come before those of processes, which are emitted when the watermark is past it.
            passed = int(node.traits.passed)
            match node.operator:
                case Process():
                    self._found[node] = [(passed, node.id, 0)]
                case Side(name=output):
                    self._found[node] = [(passed, node.input.id, [*node.process.operator.declared.outputs].index(output))]
                case Source() | Aggregate() | Regroup() | TopN():
                    self._found[node] = [(passed, node.id)]
                case _:
                    self._found[node] = sorted({(*path, node.id) for one in node.inputs for path in self._ways(one.node)})
        return self._found[node]

    def _is_parted(self, node: Node[Operator]) -> bool:
        paths = self._ways(node)
        return len(paths) > (1 if node.traits.derived else len({path[:2] for path in paths}))


def _written(path: _Path, paths: list[_Path]) -> str:
    return f"{paths.index(path):0{len(str(len(paths)))}d}"


def _makers(node: Node[Operator]) -> list[Node[Operator]]:
    """Return the sources, processes and windows that rows come from, the nearest on each way; of windows what groups or ranks their rows."""
    nearest = node.nearest(frozenset(["source", "process", "side", "window", "aggregate", "topn"]))
    return [one.process if one.is_a(Side) else one for one in nearest]


def _may_return(method: object) -> bool:
    """Return whether a method may return anything but None: rows, or a generator of them. Of code that cannot be read it is taken to."""
    if method is None:
        return False
    code = getattr(method, "__code__", None)
    if code is None or isgeneratorfunction(method):
        return True
    steps = [*dis.get_instructions(code)]
    if any(one.opname == "RETURN_CONST" and one.argval is not None for one in steps):
        return True
    returns = [(before, one) for before, one in pairwise(steps) if one.opname == "RETURN_VALUE"]
    return any(one.is_jump_target or before.opname != "LOAD_CONST" or before.argval is not None for before, one in returns)
