"""A plan made ready to run: rows are pushed in at its sources and come out at its sinks.

Windows and sinks of rows without a window are *terminals*: what a terminal takes of a record decides the record's fate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.kernels.columnar.order import in_order
from headrace.kernels.columnar.rows import needed_of_inputs, row_step
from headrace.kernels.columnar.watermark import NEVER, Clock
from headrace.kernels.columnar.window import RegroupKernel, WindowKernel, WindowState
from headrace.plan.expression import Column
from headrace.plan.operators import Aggregate, Derive, Named, Operator, Regroup, Select, Sink, Source, inputs_of, upstream
from headrace.plan.pipeline import Plan

__all__ = ["Fates", "Graph", "Window"]

Write = Callable[[str, pl.DataFrame, "pl.Series | None"], None]


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
    if inside.is_empty():
        return 0
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

    `ordered` says whether the order of the input matters to the plan, so that turns must be taken in it. If `keyed`, what
    windows give is written with its keys.
    """

    def __init__(self, plan: Plan, write: Write, *, keyed: bool = False) -> None:
        self._write, self._keyed = write, keyed
        self._consumers: dict[int, list[Operator | Sink]] = {}
        self._needed: dict[int, set[str]] = {}
        operators = list(plan.operators())
        for operator in reversed(operators):
            needed = self._needed.setdefault(id(operator), set())
            for one in inputs_of(operator):
                self._consumers.setdefault(id(one), []).insert(0, operator)
                self._needed.setdefault(id(one), set()).update(needed_of_inputs(operator, needed))
        self._steps = {id(o): row_step(o, sorted(self._needed[id(o)])) for o in operators if not isinstance(o, Aggregate | Regroup | Sink)}
        self._regroups = {id(o): RegroupKernel(o, keyed=keyed) for o in operators if isinstance(o, Regroup)}
        self.windows = [self._window(o, number) for number, o in enumerate(operators) if isinstance(o, Aggregate)]
        self.directs = [_Direct(o) for o in operators if isinstance(o, Sink) and not any(isinstance(u, Aggregate) for u in upstream(o))]
        self._by_operator = {id(w.operator): w for w in self.windows} | {id(d.sink): d for d in self.directs}
        self.ordered = bool(self.directs) or any(w.operator.lateness_ms or w.operator.late_topic for w in self.windows)

    def _window(self, operator: Aggregate, number: int) -> Window:
        feeders = frozenset(one.topic for one in upstream(operator) if isinstance(one, Source))
        return Window(operator, WindowKernel(operator, self._revise_by(operator), f"@clock{number}", keyed=self._keyed), feeders)

    def _revise_by(self, operator: Aggregate) -> list[str]:
        """Return the keys of the coarsest group that the window's rows are gathered into."""
        common = set(operator.keys)
        pending: list[tuple[Operator, dict[str, str]]] = [(operator, {key: key for key in operator.keys})]
        while pending:
            above, keys = pending.pop()
            for one in self._consumers.get(id(above), ()):
                match one:
                    case Sink():
                        continue
                    case Derive(columns=columns):
                        left = {name: key for name, key in keys.items() if name not in dict(columns)} | _renamed(keys, columns)
                    case Select(columns=columns):
                        left = _renamed(keys, columns)
                    case Regroup(keys=by):
                        left = {name: keys[name] for name in by if name in keys}
                        common &= set(left.values())
                    case _:
                        left = keys
                pending.append((one, left))
        return [key for key in operator.keys if key in common]

    # a turn: rows in, then the clock

    def push(self, operator: Operator, rank: int, rows: pl.DataFrame) -> None:
        """Push rows of one partition in at an operator; before a window or a sink they wait for the end of the turn."""
        made = self._steps[id(operator)](rows)
        for consumer in self._consumers.get(id(operator), ()):
            if isinstance(consumer, Aggregate | Sink):
                self._by_operator[id(consumer)].waiting.setdefault(rank, []).append(made)
            else:
                self.push(consumer, rank, made)

    def settle(self, clocks: Mapping[str, Clock], fates: Fates) -> None:
        """End a turn: the rows that waited go on in their order, and the clock moves."""
        for direct in self.directs:
            parts = [rows for _, rows in _gathered(direct.waiting)]
            if parts:
                rows = in_order(parts)
                fates.note(rows["@record"], rows["@record"])
                self._write(direct.sink.topic, rows.select(direct.sink.schema.names), None)
        for window in self.windows:
            self._settle_window(window, fates)
            for rows in window.kernel.advance(window.state, _now([clocks[topic] for topic in window.feeders])):
                self._emit(window.operator, rows)

    def _settle_window(self, window: Window, fates: Fates) -> None:
        late = []
        parts = _gathered(window.waiting)
        if window.kernel.lateness and parts:
            parts = [(0, in_order([rows for _, rows in parts]))]
        for rank, rows in parts:
            fed = window.kernel.feed(window.state, rank, rows)
            fates.note(rows["@record"], fed.taken)
            late.append(fed.late)
            for emitted in fed.emitted:
                self._emit(window.operator, emitted)
        if window.operator.late_topic and sum(map(len, late)):
            self._write(window.operator.late_topic, in_order(late).select(window.operator.input.schema.names), None)

    def _emit(self, operator: Operator, rows: pl.DataFrame) -> None:
        for consumer in self._consumers.get(id(operator), ()):
            if isinstance(consumer, Sink):
                self._write(consumer.topic, rows.select(consumer.schema.names), rows["@key"] if self._keyed else None)
            elif isinstance(consumer, Regroup):
                self._emit(consumer, self._regroups[id(consumer)](rows))
            else:
                self._emit(consumer, self._steps[id(consumer)](rows))


def _now(clocks: Sequence[Clock]) -> int:
    """Return the least of the clocks; those of sources of which nothing has been heard for long count only if there are no others."""
    times = [(clock.asleep, clock.now) for clock in clocks]
    awake = [now for asleep, now in times if not asleep]
    return min(awake) if awake else max((now for _, now in times), default=NEVER)


def _gathered(waiting: dict[int, list[pl.DataFrame]]) -> list[tuple[int, pl.DataFrame]]:
    """Take out the rows that wait, partition by partition; where they came by several ways, in the order of the records."""
    parts = []
    for rank, frames in sorted(waiting.items()):
        parts.append((rank, frames[0] if len(frames) == 1 else pl.concat(frames).sort("@record", maintain_order=True)))
    waiting.clear()
    return parts


def _renamed(keys: Mapping[str, str], columns: Named) -> dict[str, str]:
    """Return which of the columns are keys as they were, by their names."""
    return {name: keys[one.name] for name, one in columns if isinstance(one, Column) and one.name in keys}
