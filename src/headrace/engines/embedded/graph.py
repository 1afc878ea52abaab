"""A plan made ready to run: rows are pushed in at its sources and come out at its sinks.

Windows, processes and sinks of rows that neither made are *terminals*: what a terminal takes of a record decides the record's
fate. Windows and processes are *stages*: rows wait before them for the end of the turn, when the clock moves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol

import polars as pl

from headrace.engines.embedded.output import SPREAD
from headrace.engines.embedded.processing import ProcessStage
from headrace.engines.embedded.stage import Counts, Emitted, Fates, Setting, Stage, Turn, Write
from headrace.engines.embedded.windowing import WindowStage
from headrace.kernels.columnar.coding import Coding
from headrace.kernels.columnar.order import gathered, in_order
from headrace.kernels.columnar.rows import row_step
from headrace.kernels.columnar.watermark import FOREVER, NEVER, Clock
from headrace.kernels.columnar.window import RegroupKernel
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Operator, Over, Process, Regroup, RowOperator, Side, Sink, Source, Union
from headrace.plan.pipeline import Plan
from headrace.plan.rewrite import only_keys

__all__ = ["Graph", "now_of"]

_log = logging.getLogger(__name__)


def _over_stage(node: Node[Over], setting: Setting) -> Stage:
    from headrace.engines.embedded.over import OverStage  # most pipelines have none

    return OverStage(node, setting)


def _process_stage(node: Node[Process], setting: Setting) -> Stage:
    from headrace.engines.embedded.batching import BatchStage, works_in_batches

    return (BatchStage if works_in_batches(node.operator) else ProcessStage)(node, setting)


# The nodes that are stages, by the class of their operator.
_STAGES: dict[type[Operator], Callable[[Any, Setting], Stage]] = {Aggregate: WindowStage, Process: _process_stage, Over: _over_stage}


@dataclass
class _Direct:
    """A sink of rows of records."""

    node: Node[Sink]
    waiting: dict[int, list[pl.DataFrame]] = field(default_factory=dict)

    def wait(self, given: Node[Operator], rank: int, rows: pl.DataFrame) -> None:  # noqa: ARG002
        """Buffer rows for the end of the turn."""
        self.waiting.setdefault(rank, []).append(rows)


class Terminal(Protocol):
    """Where rows wait for the end of the turn."""

    def wait(self, given: Node[Operator], rank: int, rows: pl.DataFrame) -> None:
        """Buffer rows of one of its inputs."""


class Graph:
    """The operators of a plan, joined.

    `ordered` says whether the order of the input matters to the plan, so that turns must be taken in it; `placed` whether its
    rows must tell partition and offset. If `keyed`, what windows and processes give is written with its keys. `origins` are
    topic and partition by rank. Where topics can fall silent (`silences`), an input of a process that does not hold is not waited for.
    """

    def __init__(self, plan: Plan, write: Write, *, keyed: bool = False, silences: bool = False, origins: Sequence[tuple[str, int]] = ()) -> None:
        self._write, self._keyed, self.plan = write, keyed, plan
        needed, setting, coding = _needed(plan), Setting(plan, write, keyed, silences, origins), Coding()
        self._steps = {
            node: row_step(operator, node.schema, sorted(needed[node]), coding, only_keys(plan, node))
            for node in plan.nodes
            if isinstance(operator := node.operator, RowOperator)
        }
        self._sources = {node.operator.topic: node for node in plan.of(Source)}
        self._regroups: dict[Node[Operator], RegroupKernel] = {node: RegroupKernel(node.operator, keyed=keyed) for node in plan.of(Regroup)}
        self.stages = [_STAGES[type(node.operator)](node, setting) for node in plan.stages]
        self._holding = {stage.node: stage.node.traits.holding if silences else stage.node.traits.topics for stage in self.stages}
        self._ranks = self._ranked()
        self._directs = [_Direct(node) for node in plan.sinks if not node.traits.derived]
        merged = [node for node in plan.sinks if node.traits.time == "process"]
        self._merged: dict[str, list[tuple[int, pl.DataFrame]]] = {node.operator.topic: [] for node in merged}
        self._as_they_come = {node.operator.topic for node in merged if not node.traits.ordered}
        self._terminals: dict[Node[Operator], Terminal] = {
            **{stage.node: stage for stage in self.stages},
            **{direct.node: direct for direct in self._directs},
        }
        self.ordered = bool(self._directs) or any(stage.ordered for stage in self.stages)
        self.placed = any(stage.placed for stage in self.stages)

    def divert(self, process: str, terminal: Terminal) -> Node[Process]:
        """Have the rows that a process would be given go elsewhere, and return the process."""
        node = next(one for one in self.plan.processes if one.operator.name == process)
        self._terminals[node] = terminal
        return node

    def _ranked(self) -> dict[Node[Any], int]:
        """Return the rank that stands for the partition of the rows of each stage. Rows that a union joins need an order among themselves.

        It must not depend on how the input is cut into turns, so rows that are emitted before the watermark is past their time come first.
        """
        joined = {maker for union in self.plan.of(Union) if union.traits.derived for maker in union.producers}
        ordered = sorted((stage.node for stage in self.stages if stage.node in joined), key=lambda node: node.traits.passed)
        return {**dict.fromkeys((stage.node for stage in self.stages), -1), **{node: rank - len(ordered) for rank, node in enumerate(ordered)}}

    @property
    def passes_records(self) -> bool:
        """Whether records are written that are not derived rows: they keep the keys with which they came."""
        return bool(self._directs) or any(stage.passes_records for stage in self.stages)

    @property
    def clocked(self) -> list[tuple[str, frozenset[str]]]:
        """The columns in which stages read the watermark before each row, and the topics whose watermark it is."""
        return [(stage.clock_column, self._holding[stage.node]) for stage in self.stages if stage.clocked]

    def reached(self, topic: str) -> int:
        """Return the latest time up to which a stage downstream of a topic has worked."""
        return max((stage.watermark for stage in self.stages if topic in stage.node.traits.topics), default=NEVER)

    def next_firing_time(self, upto: float, ends_with: Mapping[str, int] | None) -> int | None:
        """Return the greatest watermark, at most `upto`, at which a stage has something due; None if none has.

        `ends_with` is the last event time of each source's records, where the input ends with them.
        """
        clocks = [stage.next_firing_time(upto, ends_with) for stage in self.stages]
        return max((clock for clock in clocks if clock is not None), default=None)

    @property
    def next_clock_timer(self) -> int | None:
        """When the first processing-time timer is due."""
        times = [stage.next_clock_timer for stage in self.stages]
        return min((time for time in times if time is not None), default=None)

    # a turn: rows in, then the clock

    def enter(self, topic: str, rank: int, rows: pl.DataFrame) -> None:
        """Take in rows of one partition of a source; before a stage or a sink they wait for the end of the turn."""
        self._push(self._sources[topic], rank, rows)

    def _push(self, node: Node[Operator], rank: int, rows: pl.DataFrame) -> None:
        made = self._steps[node](rows)
        for consumer in self.plan.consumers(node):
            if consumer in self._terminals:
                self._terminals[consumer].wait(node, rank, made)
            else:
                self._push(consumer, rank, made)

    def settle(
        self, clocks: Mapping[str, Clock], fates: Fates, heard: Mapping[str, int], *, ended: bool = False, keys: pl.Series | None = None
    ) -> None:
        """End a turn: the rows that waited go on in their order, and the clock moves.

        `heard` is the last event time of each source's records. Where the input has `ended`, time stops there for processes.
        `keys` are those of the turn's records, by `@record`: rows that are neither of windows nor of processes are written with them.
        """
        for direct in self._directs:
            parts = [rows for _, rows in gathered(direct.waiting)]
            if parts:
                rows = in_order(parts)
                fates.note(rows["@record"], rows["@record"])
                self._write(direct.node.operator.topic, rows.select(_written(direct.node)), None if keys is None else keys.gather(rows["@record"]))
        for stage in self.stages:
            now = now_of([clocks[topic] for topic in self._holding[stage.node]])
            self._emit_all(stage, stage.settle(Turn(now, heard if ended or now >= FOREVER else None, fates, keys)))
        self._write_merged()

    def fire_clock(self, now: int) -> None:
        """Call the processing-time timers that are due."""
        for stage in self.stages:
            self._emit_all(stage, stage.fire_clock(now))

    def forget_touched(self) -> None:
        """Forget which keys were touched, where nothing is ever committed."""
        for stage in self.stages:
            stage.forget_touched()

    # what a run reports

    @property
    def counts(self) -> dict[str, Counts]:
        """The metrics of processes, by name."""
        return {stage.node.name: counts for stage in self.stages if (counts := stage.counts()) is not None}

    def code_of(self, name: str) -> str | None:
        """Return the digest of the code of a stage; None if it has none, or there is no such stage."""
        return next((stage.code for stage in self.stages if stage.node.name == name), None)

    @property
    def changed_code(self) -> dict[str, tuple[str, str | None]]:
        """The digests of the code that left the state and of the code that runs now, for each process whose code has changed."""
        return {stage.node.name: (stage.code_before, stage.code) for stage in self.stages if stage.code_before is not None}

    def tell_changed_code(self, where: str) -> None:
        """Log which processes have other code, and from where on."""
        for name, (before, now) in self.changed_code.items():
            _log.warning("process %s: its code has changed under the same version (%s, now %s); the new code works %s", name, before, now, where)

    def take_duplicates(self) -> Iterator[tuple[str, int]]:
        """Yield how many records of a topic were found to be duplicates since the last call."""
        for stage in self.stages:
            yield from stage.take_duplicates().items()

    def open_counts(self) -> dict[str, Any]:
        """Return what is open: how many `windows` with rows have not closed, and how many event-time `timers` are set, by process."""
        found = {stage.node.name: stage.open_counts() for stage in self.stages}
        windows = sum(one.get("windows", 0) for one in found.values())
        timers = {name: count for name, one in found.items() if (count := one.get("timers", 0))}
        return ({"windows": windows} if windows else {}) | ({"timers": timers} if timers else {})

    def tell_open(self, *, drained: bool) -> None:
        """Log which timers are still set at the end of the input."""
        why = (
            "event time ran on for a day after the last event, and no further"
            if drained
            else "event time stops at the last event; --drain lets it run on"
        )
        for name, count in self.open_counts().get("timers", {}).items():
            _log.warning("process %s: event-time timers that are still set: %d; %s", name, count, why)

    def tell_failures(self) -> None:
        """Log how many failures of processes there were, at the end of the run."""
        for name, found in ((stage.node.name, stage.failures) for stage in self.stages):
            if found is not None:
                _log.warning("process %s: failures, now in topic %s: %d", name, *found)

    # rows that stages emit

    def _emit_all(self, stage: Stage, emitted: Iterable[Emitted]) -> None:
        rank = self._ranks[stage.node]
        for output, rows in emitted:
            if not output:
                self._emit(stage.node, rank, rows)
            for side in self.plan.consumers(stage.node):
                if isinstance(side.operator, Side) and side.operator.name == output:
                    self._emit(side, rank, rows)

    def _write_merged(self) -> None:
        """Write what processes gave in this turn to the sinks: in the order of times, that of one in the order of arrival as it came."""
        for topic, ranked in self._merged.items():
            if parts := [rows for _, rows in sorted(ranked, key=itemgetter(0))]:
                rows = parts[0] if len(parts) == 1 else pl.concat(parts)
                rows = rows if topic in self._as_they_come else rows.sort("@time", maintain_order=True)
                self._write(topic, rows.drop("@time", "@key", strict=False), rows["@key"] if self._keyed else None)
                ranked.clear()

    def _emit(self, node: Node[Operator], rank: int, rows: pl.DataFrame) -> None:
        for consumer in self.plan.consumers(node):
            match consumer.operator:
                case Side():
                    continue
                case Sink(topic=topic) if topic in self._merged:
                    hidden = ["@time", *(["@key"] if self._keyed else [])]
                    self._merged[topic].append((rank, _timed(rows).select(*hidden, *_written(consumer))))
                case Sink(topic=topic):
                    self._write(topic, rows.select(_written(consumer)), rows["@key"] if self._keyed else None)
                case Regroup():
                    self._emit(consumer, rank, self._regroups[consumer](rows))
                case _ if consumer in self._terminals:
                    self._terminals[consumer].wait(node, rank, _timed(rows))
                case _:
                    self._emit(consumer, rank, self._steps[consumer](rows))


def _needed(plan: Plan) -> dict[Node[Operator], set[str]]:
    """Return the columns of each node's rows that any other wants."""
    needed: dict[Node[Operator], set[str]] = {node: set() for node in plan.nodes}
    for node in reversed(plan.nodes):
        for one in node.inputs:
            needed[one.node] |= node.operator.needs(needed[node], one.node.schema)
    return needed


def _written(sink: Node[Operator]) -> list[pl.Expr]:
    """Return the columns that a sink writes, one that is spread by the name that says so."""
    spread = sink.operator.spread if isinstance(sink.operator, Sink) else None
    return [pl.col(name).alias(SPREAD) if name == spread else pl.col(name) for name in sink.schema.names]


def _timed(rows: pl.DataFrame) -> pl.DataFrame:
    """Return derived rows with the time of each: rows of windows have that of the last ms of their windows.

    A row that a window emits again has the watermark that its late record met: so it comes behind all that came before the record.
    """
    if "@time" in rows.columns:
        return rows
    closed = pl.col("@end") - 1
    time = (pl.max_horizontal(closed, "@reached") if "@reached" in rows.columns else closed).alias("@time")
    unplaced = [pl.lit(None, pl.Int64).alias(name) for name in ("@offset", "@arrived")]
    timed = rows.with_columns(
        time, time.alias("@record"), pl.lit(NEVER, pl.Int64).alias("@watermark"), pl.lit(-1, pl.Int64).alias("@partition"), *unplaced
    )
    return timed.drop("@round", "@reached", strict=False)


def now_of(clocks: Sequence[Clock]) -> int:
    """Return the least of the clocks; those of sources of which nothing has been heard for long count only if there are no others."""
    times = [(clock.asleep, clock.now) for clock in clocks]
    awake = [now for asleep, now in times if not asleep]
    return min(awake) if awake else max((now for _, now in times), default=NEVER)
