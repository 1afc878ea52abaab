"""Who takes whose rows in a plan with processes, and on which ways they come: what the order of rows depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.engines.flink.words import text
from headrace.errors import PlanError
from headrace.plan.expression import Call, Column
from headrace.plan.operators import (
    Aggregate,
    Derive,
    Operator,
    Process,
    Regroup,
    Select,
    Side,
    Sink,
    Source,
    TopN,
    Union,
    Unnest,
    Where,
    inputs_of,
    upstream,
)

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

    def __init__(self, operators: Sequence[Operator | Sink]) -> None:
        self._numbers = {id(operator): number for number, operator in enumerate(operators, 1)}
        processes = [one for one in operators if isinstance(one, Process)]
        self._taken = {id(maker) for one in operators if isinstance(one, Aggregate | Process) for maker in _makers(one.input)}
        self._taken -= {id(one) for one in operators if isinstance(one, Source)}
        self.parted = any(self._is_parted(given) for process in processes for given in inputs_of(process))
        first = [maker for process in processes for maker in upstream(process.input) if isinstance(maker, Process)]
        self.entered = any(isinstance(one, Unnest) for process in first for one in upstream(process.input))

    def is_taken_in_time(self, maker: Aggregate | Regroup | TopN | Process) -> bool:
        """Return whether rows that a process or a window gives go into another, at their times."""
        return id(maker) in self._taken

    def is_windowed(self, process: Process) -> bool:
        """Return whether a process takes rows of times that windows have made."""
        return any(isinstance(one, Aggregate) for one in upstream(process.input))

    def are_of_windows(self, operator: Operator) -> bool:
        """Return whether rows come from a window, no process between."""
        return not all(isinstance(maker, Process | Source) for maker in _makers(operator))

    def is_made(self, operator: Operator) -> bool:
        """Return whether rows come from a process or a window."""
        return not all(isinstance(maker, Source) for maker in _makers(operator))

    def drops_of_many(self, process: Process) -> bool:
        """Return whether a process drops duplicates of records of which several rows come to it."""
        return process.drops_duplicates and (self._is_parted(process.input) or any(isinstance(one, Unnest) for one in upstream(process.input)))

    def check_process(self, process: Process) -> None:
        """Raise PlanError if a process depends on the order in which rows of one record come on several ways."""
        if process.arrival and any(map(self._is_parted, inputs_of(process))):
            what = f"records come to {process.name} by several ways, on Flink in no fixed order"
            raise PlanError(what, fix="take order='event_time', join what was parted in one stream, or run it on the embedded engine")

    def check_window(self, aggregate: Aggregate) -> None:
        """Raise PlanError if a window depends on the order of rows that processes give, and its groups hold rows of several keys."""
        called = {call.function for _, call in aggregate.calls if isinstance(call, Call)}
        if not called & _ORDERED or not self.is_made(aggregate.input) or _keys_kept(aggregate.input, aggregate.keys):
            return
        what = f"{min(called & _ORDERED)} of what a process gives for several keys: on Flink these come in no fixed order"
        raise PlanError(what, fix="group by the keys of the process, take MIN or MAX, or run it on the embedded engine")

    # ways

    def first(self, maker: Operator) -> str:
        """Return the way of rows where they are made."""
        return _written(self._ways(maker)[0], self._ways(maker))

    def turned(self, operator: Operator, union: Union, way: str) -> str:
        """Return the way behind a union of rows that have come to one of its inputs on a way, in SQL."""
        before, behind = self._ways(operator), self._ways(union)
        turns = [(_written(path, before), _written((*path, self._numbers[id(union)]), behind)) for path in before]
        if len(turns) == 1:
            return text(turns[0][1])
        return f"CASE {way}{''.join(f' WHEN {text(old)} THEN {text(new)}' for old, new in turns)} END"

    def _ways(self, operator: Operator) -> list[_Path]:
        """Return on which paths rows come to an operator from where they were made, in the order in which those of one record come."""
        number = self._numbers[id(operator)]
        match operator:
            case Process():
                return [(number, 0)]
            case Side(input=process, name=output):
                return [(self._numbers[id(process)], list(process.declared.outputs).index(output))]
            case Source() | Aggregate() | Regroup() | TopN():
                return [(number,)]
        return sorted({(*path, number) for one in inputs_of(operator) for path in self._ways(one)})

    def _is_parted(self, operator: Operator) -> bool:
        paths = self._ways(operator)
        return len(paths) > (1 if self.is_made(operator) else len({path[0] for path in paths}))


def _written(path: _Path, paths: list[_Path]) -> str:
    return f"{paths.index(path):0{len(str(len(paths)))}d}"


def _makers(operator: Operator) -> Iterator[Operator]:
    """Yield the sources, processes and windows that rows come from, the nearest on each way."""
    match operator:
        case Side(input=process):
            yield process
        case Source() | Process() | Aggregate() | Regroup() | TopN():
            yield operator
        case _:
            for one in inputs_of(operator):
                yield from _makers(one)


def _keys_kept(operator: Operator, keys: tuple[str, ...]) -> bool:
    """Return whether rows with the same keys are those that one key of a process gave, in its order."""
    match operator:
        case Process(keys=by) | Side(input=Process(keys=by)):
            return {*by} <= {*keys}
        case Where(input=given):
            return _keys_kept(given, keys)
        case Derive(input=given, columns=columns):
            return _keys_kept(given, tuple(key for key in keys if key not in dict(columns)))
        case Select(input=given, columns=columns):
            return _keys_kept(given, tuple(one.name for name, one in columns if name in keys and isinstance(one, Column)))
    return False
