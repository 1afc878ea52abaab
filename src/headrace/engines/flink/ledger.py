"""The ledger: the fate of each record, counted by the same statements that make the results.

Each place where a pipeline's work on a record ends is an end: a window, a process, or a sink without one. A record is accepted if any
end takes one of its rows, late if rows reach ends and none is taken, and filtered if none reaches one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from headrace.engines.entries import ledger_topic
from headrace.engines.flink.hosting import is_taken, ways
from headrace.engines.flink.parts import DUPLICATES
from headrace.engines.flink.views import Views
from headrace.engines.flink.words import listed, name, text
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Derive, Operator, Process, Select, Source
from headrace.plan.pipeline import Plan

__all__ = ["Ledger"]

_ONE = "CAST(1 AS BIGINT)"
_UNKNOWN = "CAST(NULL AS BIGINT)"


@dataclass(frozen=True)
class _End:
    """Where rows end: the operator that makes them, and the window or process that takes them or not; None takes them all."""

    rows: Node[Operator]
    taker: Node[Operator] | None


class Ledger:
    """The entries of a plan's ledger: rows of `topic` and counts, which their table adds up between two checkpoints.

    `reached` counts the records of which any row reached an end. Where these cannot be counted they are NULL.
    """

    def __init__(self, plan: Plan, views: Views, *, bounded: bool) -> None:
        self._plan, self._views, self._bounded = plan, views, bounded
        self.topic = ledger_topic(plan)
        self._dropping = [node for node in plan.processes if node.operator.drops_duplicates]
        self._more = [_UNKNOWN] if self._dropping else []
        counts = ("received", "malformed", "future", "reached", "accepted", *(["duplicate"] if self._dropping else []))
        self.columns = ("`topic` STRING", *(f"`{one}` BIGINT" for one in counts))

    def options(self, sink: Mapping[str, str]) -> dict[str, str]:
        """Return the options of the table, whose sums go where `sink` says."""
        return {**sink, "connector": "headrace-ledger", "ledger.connector": sink["connector"], "format": "json"}

    def entries(self) -> Iterator[str]:
        """Yield the SELECTs of the entries, having made the views that they read."""
        for source in self._plan.sources:
            reached = self._reached(source, self._ends(source))
            yield self._received(source, counted=reached is not None)
            if reached:
                yield reached
        for process in self._dropping:
            if (dropped := self._views.dropped(process)) is not None:
                yield f"{listed(['`topic`', *[_UNKNOWN] * 5, _ONE], 'SELECT {}')}\nFROM {name(dropped)}"
                continue
            given = ["`key`", *[_UNKNOWN] * 5, "CAST(`json` AS BIGINT)"]
            yield f"{listed(given, 'SELECT {}')}\nFROM {name(self._views.hosted(process))}\nWHERE `output` = {DUPLICATES}"

    def _received(self, source: Source, *, counted: bool) -> str:
        intake = self._views.intakes[source.topic]
        faulty, future = f"{intake.fault} IS NOT NULL", intake.is_future
        counts = [_ONE, _one_if(f"{faulty} AND NOT {future}" if future else faulty), _one_if(future) if future else "CAST(0 AS BIGINT)"]
        rest = ["CAST(0 AS BIGINT)" if counted else _UNKNOWN] * 2
        return f"{listed([text(source.topic), *counts, *rest, *self._more], 'SELECT {}')}\nFROM {name(intake.judged)}"

    def _reached(self, source: Source, ends: list[_End]) -> str | None:
        """Return the SELECT that counts the records whose rows reach ends; empty if none can, None if they cannot be counted."""
        groups = [[end for end in ends if end.rows is one] for one in dict.fromkeys(end.rows for end in ends)]
        if not groups:
            return ""
        several = any(ways(source.topic, end.rows) != 1 for end in ends)
        if len(groups) == 1 and not several:
            return f"{self._counting(source, '`taken`')}\nFROM {name(self._first(source, ends))}\nWHERE `first`"
        if not self._bounded:
            return None  # rows of one record come at different times, and cannot be waited for
        marks = self._views.marks
        rows = f"TABLE(TUMBLE(TABLE {name(self._of_each(source, groups))}, DESCRIPTOR({name(marks.time)}), {marks.ever}))"
        record = f"GROUP BY `window_start`, `window_end`, {name(marks.partition)}, {name(marks.offset)}"
        inner = f"SELECT MAX(CASE WHEN `taken` THEN 1 ELSE 0 END) AS `taken`\nFROM {rows}\n{record}"
        return f"{self._counting(source, '`taken` = 1')}\nFROM (\n{inner}\n)"

    def _counting(self, source: Source, taken: str) -> str:
        return listed([text(source.topic), *[_UNKNOWN] * 3, _ONE, _one_if(taken), *self._more], "SELECT {}")

    def _ends(self, source: Source) -> list[_End]:
        """Return the ends that rows of a source can reach."""
        ends = []
        for sink in self._plan.sinks:
            ends += list(_ends_before(sink)) or [_End(_rows(sink.input), None)]
        return [end for end in dict.fromkeys(ends) if ways(source.topic, end.rows)]

    def _selected(self, source: Source, ends: list[_End]) -> str:
        """Return the SELECT that tells of each row of `source` whether it is its record's first, and whether an end takes it."""
        marks = self._views.marks
        block = self._views.block(ends[0].rows)
        place = [marks.partition, marks.offset, *([marks.topic] if marks.topic in marks.carried else [])]
        first = f"HR_FIRST({', '.join(map(name, place))}) AS `first`"
        takers = [end.taker for end in ends]
        taken = "TRUE" if None in takers else " OR ".join(self._is_taken(taker) for taker in takers if taker)
        block = replace(block, where=(*block.where, *self._only(source)))
        return block.selecting([name(marks.partition), name(marks.offset), first, f"{taken} AS `taken`", name(marks.time)])

    def _is_taken(self, taker: Node[Operator]) -> str:
        if isinstance(taker.operator, Aggregate):
            return self._views.is_taken(taker.operator, taker.input.traits)
        return "TRUE" if taker.process.operator.arrival else is_taken(self._views.marks)

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
            parts.append(f"SELECT {name(marks.partition)}, {name(marks.offset)}, `taken`, {name(marks.time)}\nFROM {name(view)}\nWHERE `first`")
        view = self._views.new(f"{source.topic} ends")
        self._views.statements.append(f"CREATE TEMPORARY VIEW {name(view)} AS\n" + "\nUNION ALL\n".join(parts) + ";")
        return view


def _one_if(condition: str) -> str:
    return f"CAST(CASE WHEN {condition} THEN 1 ELSE 0 END AS BIGINT)"


def _rows(node: Node[Operator]) -> Node[Operator]:
    """Return the node that makes the rows of which this one only has other columns."""
    return _rows(node.input) if node.is_a(Derive, Select) else node


def _ends_before(node: Node[Operator]) -> Iterator[_End]:
    """Yield the windows and processes nearest to the sources, on the ways to a node."""
    for one in node.upstream():
        if one.is_a(Aggregate, Process):
            if not one.input.traits.derived:
                yield _End(_rows(one.input), one)
            if one.broadcast is not None and not one.broadcast.traits.derived:
                yield _End(_rows(one.broadcast), None)
            for given, policy in ((given, policy) for given, policy in one.others if not given.traits.derived):
                yield _End(_rows(given), None if policy.late == "take" else one)
