"""A plan made ready to run: rows are pushed in at its sources and come out at its sinks.

Windows and sinks of rows without a window are *terminals*: what a terminal takes of a record decides the record's fate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.kernels.columnar.order import clock_before, in_order
from headrace.kernels.columnar.rows import needed_of_inputs, row_step
from headrace.kernels.columnar.watermark import NEVER, Clock
from headrace.kernels.columnar.window import RegroupKernel, WindowKernel, WindowState
from headrace.plan.operators import Aggregate, Operator, Regroup, Sink, Source, inputs_of, upstream
from headrace.plan.pipeline import Plan

__all__ = ["Fates", "Graph", "Window"]

Write = Callable[[str, pl.DataFrame], None]


@dataclass
class Fates:
    """Which records of a turn reached a terminal, and of which a terminal took a row."""

    reached: list[pl.Series] = field(default_factory=list)
    taken: list[pl.Series] = field(default_factory=list)

    def note(self, reached: pl.Series, taken: pl.Series) -> None:
        """Note the records whose rows reached a terminal, and those it took rows of."""
        self.reached.append(reached)
        self.taken.append(taken)

    def count(self, first: int, behind: int) -> tuple[int, int]:
        """Return how many records in [first, behind) reached a terminal, and how many were taken."""
        return _distinct(self.reached, first, behind), _distinct(self.taken, first, behind)


def _distinct(parts: Sequence[pl.Series], first: int, behind: int) -> int:
    filled = [part for part in parts if len(part)]
    if not filled:
        return 0
    records = filled[0] if len(filled) == 1 else pl.concat(filled)
    inside = records.filter((records >= first) & (records < behind)) if records.min() < first or records.max() >= behind else records  # type: ignore[operator]
    return int((inside != inside.shift(1)).sum() + 1) if len(filled) == 1 and inside.is_sorted() else inside.n_unique()


@dataclass
class Window:
    """A window of the plan while it runs. `feeders` are the sources whose clock it goes by."""

    operator: Aggregate
    kernel: WindowKernel
    feeders: frozenset[str]
    state: WindowState = field(default_factory=WindowState)
    waiting: dict[int, list[pl.DataFrame]] = field(default_factory=dict)


@dataclass
class _Direct:
    """A sink of rows without a window."""

    sink: Sink
    waiting: dict[int, list[pl.DataFrame]] = field(default_factory=dict)


class Graph:
    """The operators of a plan, joined.

    `ordered` says whether the order of the input matters to the plan, so that turns must be taken in it.
    """

    def __init__(self, plan: Plan, write: Write) -> None:
        self.plan, self._write = plan, write
        self._consumers: dict[int, list[Operator | Sink]] = {}
        self._needed: dict[int, set[str]] = {}
        operators = list(plan.operators())
        for operator in reversed(operators):
            needed = self._needed.setdefault(id(operator), set())
            for one in inputs_of(operator):
                consumers = self._consumers.setdefault(id(one), [])
                if not any(known is operator for known in consumers):
                    consumers.insert(0, operator)
                self._needed.setdefault(id(one), set()).update(needed_of_inputs(operator, needed))
        self._keep_for_late_topics(operators)
        self._steps = {id(o): row_step(o, sorted(self._needed[id(o)])) for o in operators if not isinstance(o, Aggregate | Regroup | Sink)}
        self._regroups = {id(o): RegroupKernel(o) for o in operators if isinstance(o, Regroup)}
        self.windows = [self._window(o, number) for number, o in enumerate(operators) if isinstance(o, Aggregate)]
        self.directs = [_Direct(o) for o in operators if isinstance(o, Sink) and not any(isinstance(u, Aggregate) for u in upstream(o))]
        self._by_operator = {id(w.operator): w for w in self.windows} | {id(d.sink): d for d in self.directs}
        self.lateness = any(w.operator.lateness_ms for w in self.windows)
        self.ordered = bool(self.directs) or self.lateness or any(o.late_topic for o in operators if isinstance(o, Aggregate))

    def _keep_for_late_topics(self, operators: Sequence[Operator | Sink]) -> None:
        """Late rows are written whole: nothing of them may be left out on the way."""
        for operator in reversed(operators):
            if isinstance(operator, Aggregate) and operator.late_topic:
                self._needed[id(operator.input)] |= set(operator.input.schema.names)
            for one in inputs_of(operator):
                self._needed[id(one)] |= needed_of_inputs(operator, self._needed[id(operator)])

    def _window(self, operator: Aggregate, number: int) -> Window:
        feeders = frozenset(one.topic for one in upstream(operator) if isinstance(one, Source))
        return Window(operator, WindowKernel(operator, self._revise_by(operator), f"@clock{number}"), feeders)

    def _revise_by(self, operator: Aggregate) -> list[str]:
        """Return the keys of the coarsest group that the window's rows are gathered into."""
        keys = list(operator.keys)
        pending: list[Operator | Sink] = list(self._consumers.get(id(operator), ()))
        while pending:
            one = pending.pop()
            if isinstance(one, Regroup):
                keys = [key for key in keys if key in one.keys]
            pending += self._consumers.get(id(one), ())
        return keys

    # a turn: rows in, then the clock

    def push(self, source: Source, rank: int, rows: pl.DataFrame, fates: Fates) -> None:
        """Push rows of one partition in at its source."""
        self._run(source, rank, rows, fates)

    def _run(self, operator: Operator, rank: int, rows: pl.DataFrame, fates: Fates) -> None:
        made = self._steps[id(operator)](rows)
        for consumer in self._consumers.get(id(operator), ()):
            if isinstance(consumer, Aggregate | Sink):
                terminal = self._by_operator[id(consumer)]
                if isinstance(terminal, Window) and not self.ordered:
                    fed = terminal.kernel.feed(terminal.state, rank, made)
                    fates.note(made["@record"], fed.taken)
                else:
                    terminal.waiting.setdefault(rank, []).append(made)
            else:
                self._run(consumer, rank, made, fates)

    def settle(self, clocks: Mapping[str, Clock], fates: Fates) -> None:
        """End a turn: rows that waited for their order go on, and the clock moves."""
        for direct in self.directs:
            rows = _gather(direct.waiting)
            if rows is not None:
                fates.note(rows["@record"], rows["@record"])
                self._write(direct.sink.topic, rows)
        for window in self.windows:
            self._settle_window(window, fates)
            now = min((clocks[topic].now for topic in window.feeders), default=NEVER)
            for rows in window.kernel.advance(window.state, now):
                self._emit(window.operator, rows)

    def _settle_window(self, window: Window, fates: Fates) -> None:
        waiting, window.waiting = window.waiting, {}
        late = []
        parts: Sequence[tuple[int, pl.DataFrame]] = [(rank, pl.concat(frames)) for rank, frames in sorted(waiting.items())]
        if window.kernel.lateness and parts:
            parts = [(0, in_order([rows for _, rows in parts]))]
        for rank, rows in parts:
            fed = window.kernel.feed(window.state, rank, rows)
            fates.note(rows["@record"], fed.taken)
            late.append(fed.late)
            for emitted in fed.emitted:
                self._emit(window.operator, emitted)
        if window.operator.late_topic and sum(map(len, late)):
            self._write(window.operator.late_topic, in_order(late).select(window.operator.input.schema.names))

    def _emit(self, operator: Operator, rows: pl.DataFrame) -> None:
        for consumer in self._consumers.get(id(operator), ()):
            if isinstance(consumer, Sink):
                self._write(consumer.topic, rows.select(consumer.schema.names))
            elif isinstance(consumer, Regroup):
                self._emit(consumer, self._regroups[id(consumer)](rows))
            else:
                self._emit(consumer, self._steps[id(consumer)](rows))


def _gather(waiting: dict[int, list[pl.DataFrame]]) -> pl.DataFrame | None:
    frames = [pl.concat(waiting[rank]) for rank in sorted(waiting)]
    waiting.clear()
    return in_order(frames) if frames else None

