"""A plan made ready to run: rows are pushed in at its sources and come out at its sinks.

Windows, processes and sinks of rows that neither made are *terminals*: what a terminal takes of a record decides the record's
fate. Windows and processes are *stages*: rows wait before them for the end of the turn, when the clock moves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from headrace.engines.embedded.processing import Processing
from headrace.kernels.columnar.order import gathered, in_order
from headrace.kernels.columnar.rows import row_step
from headrace.kernels.columnar.watermark import FOREVER, NEVER, Clock
from headrace.kernels.columnar.window import RegroupKernel, WindowKernel, WindowState
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Operator, Process, Regroup, Side, Sink, Source
from headrace.plan.pipeline import Plan

__all__ = ["Fates", "Graph", "Window"]

_log = logging.getLogger(__name__)

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
    """A window of the plan while it runs."""

    node: Node[Aggregate]
    kernel: WindowKernel
    state: WindowState = field(default_factory=WindowState)
    waiting: dict[int, list[pl.DataFrame]] = field(default_factory=dict)

    @property
    def operator(self) -> Aggregate:
        """The plan's window."""
        return self.node.operator

    @property
    def feeders(self) -> frozenset[str]:
        """The topics whose clock it goes by."""
        return self.node.traits.topics

    @property
    def made(self) -> bool:
        """Whether its rows are made by processes."""
        return self.node.input.traits.derived


@dataclass
class _Direct:
    """A sink of rows that neither windows nor processes have made."""

    node: Node[Sink]
    waiting: dict[int, list[pl.DataFrame]] = field(default_factory=dict)


class Graph:
    """The operators of a plan, joined.

    `ordered` says whether the order of the input matters to the plan, so that turns must be taken in it; `placed` whether its
    rows must tell partition and offset. If `keyed`, what windows and processes give is written with its keys. `origins` are
    topic and partition by rank.
    """

    def __init__(self, plan: Plan, write: Write, *, keyed: bool = False, origins: Sequence[tuple[str, int]] = ()) -> None:
        self._write, self._keyed, self.plan = write, keyed, plan
        needed = _needed(plan)
        staged = {"window", "aggregate", "process", "side", "sink"}
        self._steps = {node: row_step(node, sorted(needed[node])) for node in plan.nodes if node.operator.kind not in staged}
        self._sources = {node.operator.topic: node for node in plan.of(Source)}
        self._regroups: dict[Node[Operator], RegroupKernel] = {node: RegroupKernel(node.operator, keyed=keyed) for node in plan.of(Regroup)}
        self.windows = [Window(node, WindowKernel(node.operator, self._revise_by(node), _clock(node), keyed=keyed)) for node in plan.windows]
        self.processes = [Processing(node, _clock(node), origins, keyed=keyed) for node in plan.processes]
        self.directs = [_Direct(node) for node in plan.sinks if not node.traits.derived]
        merged = [node for node in plan.sinks if node.traits.time == "process"]
        self._merged: dict[str, list[pl.DataFrame]] = {node.operator.topic: [] for node in merged}
        self._as_they_come = {node.operator.topic for node in merged if not node.traits.ordered}
        stages: dict[Node[Operator], Window | Processing] = {**{w.node: w for w in self.windows}, **{p.node: p for p in self.processes}}
        self._by_node: dict[Node[Operator], Window | Processing | _Direct] = {**stages, **{one.node: one for one in self.directs}}
        self._stages = [stages[node] for node in plan.nodes if node in stages]
        late = any(w.operator.lateness_ms or w.operator.late_topic for w in self.windows)
        self.ordered = bool(self.directs) or late or any(p.operator.arrival for p in self.processes)
        self.placed = bool(self.processes)

    @property
    def passes_records(self) -> bool:
        """Whether records are written that went through neither window nor process: they keep the keys that they came with."""
        return bool(self.directs) or any(window.operator.late_topic for window in self.windows)

    @property
    def clocked(self) -> list[tuple[str, frozenset[str]]]:
        """The columns in which stages want the clock before each row, and the sources whose clock it is."""
        windows = [(window.kernel.clock_column, window.feeders) for window in self.windows if window.kernel.lateness]
        return windows + [(process.clock_column, process.feeders) for process in self.processes if process.operator.arrival]

    def _revise_by(self, window: Node[Aggregate]) -> list[str]:
        """Return the keys of the coarsest group that the window's rows are gathered into."""
        common = set(window.operator.keys)
        pending: list[tuple[Node[Operator], dict[str, str]]] = [(window, {key: key for key in window.operator.keys})]
        while pending:
            above, keys = pending.pop()
            for one in self.plan.consumers(above):
                left = {name: key for old, key in keys.items() for name in one.operator.unchanged(old)}
                if one.is_a(Regroup):
                    common &= set(left.values())
                if not one.is_a(Sink, Process):
                    pending.append((one, left))
        return [key for key in window.operator.keys if key in common]

    def reached(self, topic: str) -> int:
        """Return the latest time up to which a stage that a topic feeds has worked."""
        return max((self._clock_of(stage) for stage in self._stages if topic in stage.feeders), default=NEVER)

    @staticmethod
    def _clock_of(stage: Window | Processing) -> int:
        return stage.clock if isinstance(stage, Processing) else stage.state.clock

    def wants(self, upto: float, ends_with: Mapping[str, int] | None) -> int | None:
        """Return the clock, at most `upto`, that has windows with rows close and processes do what is due; None if there is nothing.

        `ends_with` is the last event time of each source's records, where the input ends with them.
        """
        clocks = [_closing(window, upto) for window in self.windows] + [process.wants(upto, ends_with) for process in self.processes]
        return max((clock for clock in clocks if clock is not None), default=None)

    @property
    def next_clock_timer(self) -> int | None:
        """When the first timer of the clock on the wall is due."""
        times = [process.keyspace.next_clock_timer for process in self.processes]
        return min((time for time in times if time is not None), default=None)

    # a turn: rows in, then the clock

    def enter(self, topic: str, rank: int, rows: pl.DataFrame) -> None:
        """Take in rows of one partition of a source; before a stage or a sink they wait for the end of the turn."""
        self._push(self._sources[topic], rank, rows)

    def _push(self, node: Node[Operator], rank: int, rows: pl.DataFrame) -> None:
        made = self._steps[node](rows)
        for consumer in self.plan.consumers(node):
            if consumer in self._by_node:
                self._wait(node, consumer, rank, made)
            else:
                self._push(consumer, rank, made)

    def _wait(self, node: Node[Operator], consumer: Node[Operator], rank: int, rows: pl.DataFrame) -> None:
        stage = self._by_node[consumer]
        if isinstance(stage, Processing):
            if stage.node.input is node:
                stage.waiting.setdefault(rank, []).append(rows)
            if stage.node.broadcast is node:
                stage.told.setdefault(rank, []).append(rows)
        else:
            if isinstance(stage, Window) and stage.made:
                closed = pl.lit(stage.state.clock, pl.Int64)
                rows = rows.with_columns(closed.alias("@watermark"), closed.alias(stage.kernel.clock_column))
            stage.waiting.setdefault(rank, []).append(rows)

    def settle(
        self, clocks: Mapping[str, Clock], fates: Fates, heard: Mapping[str, int], *, ended: bool = False, keys: pl.Series | None = None
    ) -> None:
        """End a turn: the rows that waited go on in their order, and the clock moves.

        `heard` is the last event time of each source's records. Where the input has `ended`, time stops there for processes.
        `keys` are those of the turn's records, by `@record`: rows that are neither of windows nor of processes are written with them.
        """
        for direct in self.directs:
            parts = [rows for _, rows in gathered(direct.waiting)]
            if parts:
                rows = in_order(parts)
                fates.note(rows["@record"], rows["@record"])
                self._write(direct.node.operator.topic, rows.select(direct.node.schema.names), None if keys is None else keys.gather(rows["@record"]))
        for stage in self._stages:
            now = _now([clocks[topic] for topic in stage.feeders])
            if isinstance(stage, Processing):
                self._settle_process(stage, now, heard if ended or now >= FOREVER else None, fates)
            else:
                self._settle_window(stage, fates, keys)
                # Rows that a process gives for a time come when the clock is past it.
                behind = stage.made and NEVER < now < FOREVER
                for rows in stage.kernel.advance(stage.state, now - 1 if behind else now):
                    self._emit(stage.node, rows)
        self._write_merged()

    def forget_touched(self) -> None:
        """Forget which keys were touched, where nothing is ever committed."""
        for process in self.processes:
            process.keyspace.forget_touched()

    @property
    def changed_code(self) -> dict[str, tuple[str, str | None]]:
        """The processes whose state was made by other code than runs now: the digests of both, by the process's name."""
        return {p.operator.name: (p.code_before, p.code) for p in self.processes if p.code_before is not None}

    def tell_changed_code(self, where: str) -> None:
        """Say which processes go on with other code, from where."""
        for name, (before, now) in self.changed_code.items():
            _log.warning("process %s: its code has changed under the same version (%s, now %s); the new code works %s", name, before, now, where)

    def open_counts(self) -> dict[str, Any]:
        """Return what is open: `windows`, how many have rows and have not closed, and `timers`, of event time, by process."""
        windows = sum(window.kernel.count_open(window.state) for window in self.windows)
        timers = {process.operator.name: count for process in self.processes if (count := process.keyspace.count_timers())}
        return ({"windows": windows} if windows else {}) | ({"timers": timers} if timers else {})

    def tell_open(self, *, drained: bool) -> None:
        """Say which timers are still set, now that the run is at the end of its input."""
        why = (
            "event time ran on for a day after the last event, and no further"
            if drained
            else "event time stops at the last event; --drain lets it run on"
        )
        for name, count in self.open_counts().get("timers", {}).items():
            _log.warning("process %s: event-time timers that are still set: %d; %s", name, count, why)

    def tell_failures(self) -> None:
        """Say what processes failed at, now that the run ends."""
        for process in self.processes:
            if process.all_failed and process.operator.failed_topic:
                _log.warning("process %s: failures, now in topic %s: %d", process.operator.name, process.operator.failed_topic, process.all_failed)

    def fire_clock(self, now: int) -> None:
        """Call the timers of the clock on the wall that are due."""
        for process in self.processes:
            self._give(process, process.fire_clock(now))

    def _settle_process(self, process: Processing, clock: int, ends_with: Mapping[str, int] | None, fates: Fates) -> None:
        if process.operator.arrival:
            arrived = process.arrive()
            fed = arrived[0] if arrived else None
            self._give(process, arrived[1] if arrived else [])
        else:
            fed = process.admit()
        if fed is not None:
            fates.note(fed.reached, fed.taken)
        self._give(process, process.advance(clock if ends_with is None else min(clock, process.end_of(ends_with))))
        if (failures := process.take_failures()) is None:
            return
        if process.operator.failed_topic:
            self._write(process.operator.failed_topic, failures, None)
            return
        for name, detail, raw in failures.select("process", "detail", "raw").iter_rows():
            _log.warning("process %s: %s; kept out: %s", name, detail, raw)

    def _give(self, process: Processing, frames: list[tuple[str, pl.DataFrame]]) -> None:
        for output, rows in frames:
            if not output:
                self._emit(process.node, rows)
            for side in self.plan.consumers(process.node):
                if isinstance(side.operator, Side) and side.operator.name == output:
                    self._emit(side, rows)

    def _write_merged(self) -> None:
        """Write what processes gave in this turn to the sinks: in the order of times, that of one in the order of arrival as it came."""
        for topic, parts in self._merged.items():
            if parts:
                rows = parts[0] if len(parts) == 1 else pl.concat(parts)
                rows = rows if topic in self._as_they_come else rows.sort("@time", maintain_order=True)
                self._write(topic, rows.drop("@time", "@key", strict=False), rows["@key"] if self._keyed else None)
                parts.clear()

    def _settle_window(self, window: Window, fates: Fates, keys: pl.Series | None) -> None:
        late = []
        parts = gathered(window.waiting)
        if window.kernel.lateness and parts:
            parts = [(0, in_order([rows for _, rows in parts]))]
        for rank, rows in parts:
            fed = window.kernel.feed(window.state, rank, rows)
            if not window.made:
                fates.note(rows["@record"], fed.taken)
            late.append(fed.late)
            for emitted in fed.emitted:
                self._emit(window.node, emitted)
        if window.operator.late_topic and sum(map(len, late)):
            rows = in_order(late)
            theirs = None if keys is None or window.made else keys.gather(rows["@record"])
            self._write(window.operator.late_topic, rows.select(window.node.input.schema.names), theirs)

    def _emit(self, node: Node[Operator], rows: pl.DataFrame) -> None:
        for consumer in self.plan.consumers(node):
            match consumer.operator:
                case Side():
                    continue
                case Aggregate() | Process():
                    self._wait(node, consumer, -1, rows if "@time" in rows.columns else _timed_by_window(rows))
                case Sink(topic=topic) if topic in self._merged:
                    self._merged[topic].append(rows.select("@time", *(["@key"] if self._keyed else []), *consumer.schema.names))
                case Sink(topic=topic):
                    self._write(topic, rows.select(consumer.schema.names), rows["@key"] if self._keyed else None)
                case Regroup():
                    self._emit(consumer, self._regroups[consumer](rows))
                case _:
                    self._emit(consumer, self._steps[consumer](rows))


def _needed(plan: Plan) -> dict[Node[Operator], set[str]]:
    """Return the columns of each node's rows that any other wants."""
    needed: dict[Node[Operator], set[str]] = {node: set() for node in plan.nodes}
    for node in reversed(plan.nodes):
        for one in node.inputs:
            needed[one.node] |= node.operator.needs(needed[node], one.node.schema)
    return needed


def _clock(node: Node[Operator]) -> str:
    """Return the column in which a stage is told the clock before each row."""
    return f"@clock{node.id}"


def _closing(window: Window, upto: float) -> int | None:
    """Return the clock, at most `upto`, at which the last window with rows closes that can be closed by then."""
    end = window.kernel.last_open_end(window.state)
    if end is None:
        return None
    behind = 0 if window.made else 1
    clock = window.kernel.window.end_by(int(min(upto + behind, end))) - behind
    return clock if clock + behind - 1 > window.state.clock else None


def _timed_by_window(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of windows as rows of the last ms of their windows."""
    time = (pl.col("@end") - 1).alias("@time")
    unplaced = [pl.lit(None, pl.Int64).alias(name) for name in ("@offset", "@arrived")]
    return rows.drop("@round", strict=False).with_columns(
        time, time.alias("@record"), pl.lit(NEVER, pl.Int64).alias("@watermark"), pl.lit(-1, pl.Int64).alias("@partition"), *unplaced
    )


def _now(clocks: Sequence[Clock]) -> int:
    """Return the least of the clocks; those of sources of which nothing has been heard for long count only if there are no others."""
    times = [(clock.asleep, clock.now) for clock in clocks]
    awake = [now for asleep, now in times if not asleep]
    return min(awake) if awake else max((now for _, now in times), default=NEVER)
