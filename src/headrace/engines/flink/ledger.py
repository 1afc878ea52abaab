"""What became of each record, counted by the same statements that make the results.

Each place where a pipeline's work on a record ends is an end: a window, a process, or a sink without one. A record is accepted if any
end takes one of its rows, late if rows reach ends and none is taken, and filtered if none reaches one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from headrace.engines.entries import ledger_topic
from headrace.engines.flink.hosting import is_taken, ways
from headrace.engines.flink.parts import DUPLICATES
from headrace.engines.flink.views import Views
from headrace.engines.flink.words import listed, name, text
from headrace.plan.operators import Aggregate, Derive, Operator, Process, Select, Sink, Source, inputs_of
from headrace.plan.pipeline import Plan

__all__ = ["Ledger"]

_LIVE = "INTERVAL '10' SECOND"
_UNKNOWN = "CAST(NULL AS BIGINT)"


@dataclass(frozen=True)
class _End:
    """Where rows end: the operator that makes them, and the window or process that takes them or not; None takes them all."""

    rows: Operator
    taker: Aggregate | Process | None


class Ledger:
    """The entries of a plan's ledger: rows of `topic` and counts, to be added up.

    Of a bounded input they come once, at its end; of a live one every ten seconds.
    `reached` counts the records of which any row reached an end. Where these cannot be counted they are NULL.
    """

    def __init__(self, plan: Plan, views: Views, *, bounded: bool) -> None:
        self._plan, self._views, self._bounded = plan, views, bounded
        self.topic = ledger_topic(plan)
        self._dropping = [operator for operator in plan.operators() if isinstance(operator, Process) and operator.drops_duplicates]
        self._more = [_UNKNOWN] if self._dropping else []
        counts = ("received", "malformed", "future", "reached", "accepted", *(["duplicate"] if self._dropping else []))
        self.columns = ("`topic` STRING", *(f"`{one}` BIGINT" for one in counts))
        marks = views.marks
        self._time = marks.time if bounded else marks.now

    def entries(self) -> Iterator[str]:
        """Yield the SELECTs of the entries, having made the views that they read."""
        for source in self._plan.sources:
            reached = self._reached(source, self._ends(source))
            yield self._received(source, counted=reached is not None)
            if reached:
                yield reached
        for process in self._dropping:
            if (dropped := self._views.dropped(process)) is not None:
                length, time = self._views.marks.ever if self._bounded else _LIVE, name(self._views.marks.time)
                yield (
                    f"{listed(['`topic`', *[_UNKNOWN] * 5, 'COUNT(*)'], 'SELECT {}')}\n"
                    f"FROM TABLE(TUMBLE(TABLE {name(dropped)}, DESCRIPTOR({time}), {length}))\nGROUP BY `window_start`, `window_end`, `topic`"
                )
                continue
            given = ["`key`", *[_UNKNOWN] * 5, "CAST(`json` AS BIGINT)"]
            yield f"{listed(given, 'SELECT {}')}\nFROM {name(self._views.hosted(process))}\nWHERE `output` = {DUPLICATES}"

    def _every(self, view: str) -> str:
        length = self._views.marks.ever if self._bounded else _LIVE
        return f"FROM TABLE(TUMBLE(TABLE {name(view)}, DESCRIPTOR({name(self._time)}), {length}))\nGROUP BY `window_start`, `window_end`"

    def _received(self, source: Source, *, counted: bool) -> str:
        intake = self._views.intakes[id(source)]
        faulty, future = f"{intake.fault} IS NOT NULL", intake.is_future
        counts = ["COUNT(*)", f"COUNT(*) FILTER (WHERE {faulty}{f' AND NOT {future}' if future else ''})"]
        counts.append(f"COUNT(*) FILTER (WHERE {future})" if future else "CAST(0 AS BIGINT)")
        rest = ["CAST(0 AS BIGINT)" if counted else _UNKNOWN] * 2
        return f"{listed([text(source.topic), *counts, *rest, *self._more], 'SELECT {}')}\n{self._every(intake.judged)}"

    def _reached(self, source: Source, ends: list[_End]) -> str | None:
        """Return the SELECT that counts the records whose rows reach ends; empty if none can, None if they cannot be counted."""
        groups = [[end for end in ends if id(end.rows) == one] for one in dict.fromkeys(id(end.rows) for end in ends)]
        if not groups:
            return ""
        several = any(ways(source, end.rows) != 1 for end in ends)
        if len(groups) == 1 and not several:
            counts = ["COUNT(*) FILTER (WHERE `first`)", "COUNT(*) FILTER (WHERE `first` AND `taken`)"]
            return f"{self._counting(source, counts)}\n{self._every(self._first(source, ends))}"
        if not self._bounded:
            return None  # rows of one record come at different times, and cannot be waited for
        marks, view = self._views.marks, self._of_each(source, groups)
        record = f"{self._every(view)}, {name(marks.partition)}, {name(marks.offset)}"
        inner = f"SELECT MAX(CASE WHEN `taken` THEN 1 ELSE 0 END) AS `taken`, `window_start`, `window_end`\n{record}"
        counts = ["COUNT(*)", "COUNT(*) FILTER (WHERE `taken` = 1)"]
        return f"{self._counting(source, counts)}\nFROM (\n{inner}\n)\nGROUP BY `window_start`, `window_end`"

    def _counting(self, source: Source, counts: list[str]) -> str:
        return listed([text(source.topic), *[_UNKNOWN] * 3, *counts, *self._more], "SELECT {}")

    def _ends(self, source: Source) -> list[_End]:
        """Return the ends that rows of a source can reach."""
        ends = []
        for sink in self._plan.sinks:
            ends += list(_ends_before(sink)) or [_End(_rows(sink.input), None)]
        distinct = {(id(end.rows), id(end.taker)): end for end in ends}
        return [end for end in distinct.values() if ways(source, end.rows)]

    def _selected(self, source: Source, ends: list[_End]) -> str:
        """Return the SELECT that tells of each row of `source` whether it is its record's first, and whether an end takes it."""
        marks = self._views.marks
        block = self._views.block(ends[0].rows)
        place = [marks.partition, marks.offset, *([marks.topic] if marks.topic in marks.carried else [])]
        first = f"HR_FIRST({', '.join(map(name, place))}) AS `first`"
        takers = [end.taker for end in ends]
        taken = "TRUE" if None in takers else " OR ".join(self._is_taken(taker) for taker in takers if taker)
        block = replace(block, where=(*block.where, *self._only(source)))
        return block.selecting([name(marks.partition), name(marks.offset), first, f"{taken} AS `taken`", name(self._time)])

    def _is_taken(self, taker: Aggregate | Process) -> str:
        if isinstance(taker, Aggregate):
            return self._views.is_taken(taker)
        return "TRUE" if taker.arrival else is_taken(self._views.marks)

    def _only(self, source: Source) -> list[str]:
        return [f"{name(self._views.marks.topic)} = {text(source.topic)}"] if len(self._plan.sources) > 1 else []

    def _first(self, source: Source, ends: list[_End]) -> str:
        view = self._views.new(f"{source.topic} reached")
        self._views.statements.append(f"CREATE TEMPORARY VIEW {name(view)} AS\n{self._selected(source, ends)};")
        return view

    def _of_each(self, source: Source, groups: list[list[_End]]) -> str:
        parts = []
        for ends in groups:
            view = self._first(source, ends)
            marks = self._views.marks
            parts.append(f"SELECT {name(marks.partition)}, {name(marks.offset)}, `taken`, {name(self._time)}\nFROM {name(view)}\nWHERE `first`")
        view = self._views.new(f"{source.topic} ends")
        self._views.statements.append(f"CREATE TEMPORARY VIEW {name(view)} AS\n" + "\nUNION ALL\n".join(parts) + ";")
        return view


def _rows(operator: Operator) -> Operator:
    """Return the operator that makes the rows which `operator` only has other columns of."""
    return _rows(operator.input) if isinstance(operator, Derive | Select) else operator


def _ends_before(operator: Operator | Sink) -> Iterator[_End]:
    """Yield the windows and processes nearest to the sources, on the way to an operator."""
    match operator:
        case Aggregate(input=given) | Process(input=given):
            nearer = list(_ends_before(given))
            yield from nearer or [_End(_rows(given), operator)]
            if isinstance(operator, Process) and (broadcast := operator.broadcast) is not None:
                yield _End(_rows(broadcast), None)
        case _:
            for one in inputs_of(operator):
                yield from _ends_before(one)
