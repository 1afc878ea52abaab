"""What became of each record, counted by the same statements that make the results.

Each place where a pipeline's work on a record ends is an end: a window, or a sink without one. A record is accepted if any
end takes one of its rows, late if rows reach ends and none is taken, and filtered if none reaches one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from headrace.engines.flink.views import Views
from headrace.engines.flink.words import listed, name, text
from headrace.plan.operators import Aggregate, Derive, Operator, Select, Sink, Source, inputs_of
from headrace.plan.pipeline import Plan

__all__ = ["Ledger", "ledger_topic"]

_EVER = "INTERVAL '73000' DAY(5)"
_LIVE = "INTERVAL '10' SECOND"
_UNKNOWN = "CAST(NULL AS BIGINT)"


def ledger_topic(plan: Plan) -> str:
    """Return the topic of a plan's ledger."""
    return f"{plan.pipeline}.ledger"


@dataclass(frozen=True)
class _End:
    """Where rows end: the operator that makes them, and the window that takes them or not."""

    rows: Operator
    window: Aggregate | None


class Ledger:
    """The entries of a plan's ledger: rows of `topic` and counts, to be added up.

    Of a bounded input they come once, at its end; of a live one every ten seconds.
    `reached` counts the records of which any row reached an end. Where these cannot be counted they are NULL.
    """

    columns = ("`topic` STRING", "`received` BIGINT", "`malformed` BIGINT", "`future` BIGINT", "`reached` BIGINT", "`accepted` BIGINT")

    def __init__(self, plan: Plan, views: Views, *, bounded: bool) -> None:
        self._plan, self._views, self._bounded = plan, views, bounded
        self.topic = ledger_topic(plan)
        marks = views.marks
        self._time = marks.time if bounded else marks.now

    def entries(self) -> Iterator[str]:
        """Yield the SELECTs of the entries, having made the views that they read."""
        for source in self._plan.sources:
            reached = self._reached(source, self._ends(source))
            yield self._received(source, counted=reached is not None)
            if reached:
                yield reached

    def _every(self, view: str) -> str:
        length = _EVER if self._bounded else _LIVE
        return f"FROM TABLE(TUMBLE(TABLE {name(view)}, DESCRIPTOR({name(self._time)}), {length}))\nGROUP BY `window_start`, `window_end`"

    def _received(self, source: Source, *, counted: bool) -> str:
        intake = self._views.intakes[id(source)]
        faulty, future = f"{intake.fault} IS NOT NULL", intake.is_future
        counts = ["COUNT(*)", f"COUNT(*) FILTER (WHERE {faulty}{f' AND NOT {future}' if future else ''})"]
        counts.append(f"COUNT(*) FILTER (WHERE {future})" if future else "CAST(0 AS BIGINT)")
        rest = ["CAST(0 AS BIGINT)" if counted else _UNKNOWN] * 2
        return f"{listed([text(source.topic), *counts, *rest], 'SELECT {}')}\n{self._every(intake.judged)}"

    def _reached(self, source: Source, ends: list[_End]) -> str | None:
        """Return the SELECT that counts the records whose rows reach ends; empty if none can, None if they cannot be counted."""
        if any(_ways(source, end.rows) != 1 for end in ends):
            return None
        groups = [[end for end in ends if id(end.rows) == one] for one in dict.fromkeys(id(end.rows) for end in ends)]
        if not groups:
            return ""
        if len(groups) == 1:
            counts = ["COUNT(*) FILTER (WHERE `first`)", "COUNT(*) FILTER (WHERE `first` AND `taken`)"]
            return f"{self._counting(source, counts)}\n{self._every(self._first(source, ends))}"
        if not self._bounded:
            return None  # rows of one record come to different ends at different times, and cannot be waited for
        marks, view = self._views.marks, self._of_each(source, groups)
        record = f"{self._every(view)}, {name(marks.partition)}, {name(marks.offset)}"
        inner = f"SELECT MAX(CASE WHEN `taken` THEN 1 ELSE 0 END) AS `taken`, `window_start`, `window_end`\n{record}"
        counts = ["COUNT(*)", "COUNT(*) FILTER (WHERE `taken` = 1)"]
        return f"{self._counting(source, counts)}\nFROM (\n{inner}\n)\nGROUP BY `window_start`, `window_end`"

    @staticmethod
    def _counting(source: Source, counts: list[str]) -> str:
        return listed([text(source.topic), *[_UNKNOWN] * 3, *counts], "SELECT {}")

    def _ends(self, source: Source) -> list[_End]:
        """Return the ends that rows of a source can reach."""
        ends = []
        for sink in self._plan.sinks:
            windows = list(_windows_before(sink))
            ends += [_End(_rows(window.input), window) for window in windows] or [_End(_rows(sink.input), None)]
        distinct = {(id(end.rows), id(end.window)): end for end in ends}
        return [end for end in distinct.values() if _ways(source, end.rows)]

    def _selected(self, source: Source, ends: list[_End]) -> str:
        """Return the SELECT that tells of each row of `source` whether it is its record's first, and whether an end takes it."""
        marks = self._views.marks
        block = self._views.block(ends[0].rows)
        place = [marks.partition, marks.offset, *([marks.topic] if marks.topic in marks.carried else [])]
        first = f"HR_FIRST({', '.join(map(name, place))}) AS `first`"
        taken = "TRUE" if any(end.window is None for end in ends) else " OR ".join(self._views.is_taken(end.window) for end in ends if end.window)
        block = replace(block, where=(*block.where, *self._only(source)))
        return block.selecting([name(marks.partition), name(marks.offset), first, f"{taken} AS `taken`", name(self._time)])

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


def _windows_before(operator: Operator | Sink) -> Iterator[Aggregate]:
    """Yield the windows nearest to the sources, on the way to an operator."""
    if isinstance(operator, Aggregate):
        yield operator
        return
    for one in inputs_of(operator):
        yield from _windows_before(one)


def _ways(source: Source, operator: Operator) -> int:
    """Return on how many ways rows of a source come to an operator."""
    if operator is source:
        return 1
    return sum(_ways(source, one) for one in inputs_of(operator))
