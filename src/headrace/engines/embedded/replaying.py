"""The live code run again over the records that a log retains: a replay of a pipeline's rows, and a look at what a process was given.

A replay takes the records in the order of the input, and the steps that the run wrote down at their offsets: between two of them, all records of
all partitions in the order in which the log took them. On the SQLite log that is the order in which the run read them. Kafka's partitions have no
common order: there the run writes down where it took a record behind others that arrived later. A replay reads the log and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import polars as pl

from headrace.engines.embedded.live import Patience, Step, retake
from headrace.engines.embedded.run import Run
from headrace.engines.embedded.upto import UpTo
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.plan.graph import Node
from headrace.plan.operators import Operator, Process
from headrace.plan.pipeline import Plan
from headrace.topics.dead_letters import DeadLetter
from headrace.topics.entries import entries_of
from headrace.topics.protocol import Log, PartitionInfo

__all__ = ["Replay", "RunRecord", "changes_of", "given_to", "record_of"]

_FETCHED = 100_000
_PAUSE_SECONDS = 0.002
_KEEP = "a replay needs all records since the pipeline was begun: see headrace topics alter --retention"


class _StepRow(msgspec.Struct, frozen=True):
    """A row of the topic `PIPELINE.clock`."""

    offsets: list[int]
    shown: list[int]
    resting: list[int]
    clock_ms: int | None = None
    ended: bool = False
    code: dict[str, list[str | None]] = msgspec.field(default_factory=dict)
    settings: dict[str, list[str | None]] = msgspec.field(default_factory=dict)
    plan: str | None = None
    begins: str | None = None
    cuts: list[list[int]] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a pipeline recorded while it ran: from which records it took what it has committed, and in which order.

    Attributes
    ----------
    begins, ends
        The offsets of the first records, and those behind the last, of each partition by its rank.
    steps
        Those of the clock, and those at which the order of the input was broken.
    """

    begins: Sequence[int]
    ends: Sequence[int]
    steps: Sequence[Step]


def record_of(log: Log, plan: Plan) -> RunRecord:
    """Return what a pipeline recorded since it was last begun, if the log has all that a replay needs of it.

    Raises
    ------
    PlanError
        If it is the record of a pipeline that reads another number of partitions.
    DataError
        If no run on this log is recorded, or records have expired.
    """
    cursors = {(one.topic, one.partition): one.offset for one in log.cursors() if one.group == plan.pipeline}
    if not cursors or not _recorded(log, plan.pipeline):
        what = f"no run of pipeline {plan.pipeline} is recorded in these topics, so the order in which its records were taken is not known"
        raise DataError(what, where="replay", fix="a replay needs the commits of a run of the embedded engine")
    partitions = [(source.topic, part) for source in plan.sources for part in log.topic(source.topic).partitions]
    steps, gone = _steps_of(log, f"{plan.pipeline}.clock")
    if other := [len(step.offsets) for step in steps if len(step.offsets) != len(partitions)]:
        what = f"the pipeline reads {len(partitions)} partitions, and the one that has written the alarms read {other[0]}"
        raise PlanError(what, where="replay", fix="give that one with --app")
    begun = bool(steps and steps[0].begins)
    begins = steps[0].offsets if begun else [0] * len(partitions)
    ends = [cursors.get((topic, part.number), begin) for (topic, part), begin in zip(partitions, begins, strict=True)]
    for (topic, part), begin, end in zip(partitions, begins, ends, strict=True):
        _check_retained(topic, part, begin, end)
    if gone and not begun:
        what = f"the steps of {plan.pipeline}.clock before offset {gone:,} have expired, and the order in which records were taken was there"
        raise DataError(what, where="replay", fix=_KEEP)
    return RunRecord(begins, ends, steps)


def _recorded(log: Log, pipeline: str) -> bool:
    try:
        return log.manifest(pipeline) is not None
    except EnvironmentFault:
        return True  # it has committed, and its state is in another home


def _steps_of(log: Log, topic: str) -> tuple[list[Step], int]:
    """Return the steps that a pipeline has written since it was last begun, and the first offset that is retained; none if it has written none."""
    if topic not in {info.name for info in log.topics()}:
        return [], 0
    steps: list[Step] = []
    for row in (msgspec.json.decode(entry.value, type=_StepRow) for entry in entries_of(log, topic)):
        if row.begins or (steps and sum(row.offsets) < sum(steps[-1].offsets)):
            steps.clear()  # it was begun anew
        plain = {name: getattr(row, name) for name in ("clock_ms", "ended", "code", "settings", "plan", "begins", "cuts")}
        steps.append(Step(tuple(row.offsets), tuple(row.shown), tuple(row.resting), **plain))
    return steps, log.topic(topic).partitions[0].first


def _check_retained(topic: str, part: PartitionInfo, begin: int, end: int) -> None:
    """Check that a partition has the records from `begin` on that were read of it. Raises DataError if not."""
    if part.first > begin and end > begin:
        what = f"the records of {topic}/{part.number} before offset {part.first:,} have expired, and the alarm's state came from them"
        raise DataError(what, where="replay", fix=_KEEP)
    if part.end < end:
        what = f"{topic}/{part.number} ends at offset {part.end:,}, and the pipeline has read it up to {end:,}: it was made anew, or has lost records"
        raise DataError(what, where="replay", fix="restore the topic")


def changes_of(log: Log, plan: Plan, steps: Sequence[Step]) -> list[str]:
    """Return how the pipeline that has written a log differs from a plan, and how it changed while it ran."""
    found = []
    try:
        manifest = msgspec.json.decode(log.manifest(plan.pipeline) or b"{}")
    except EnvironmentFault as fault:
        manifest = {}
        found.append(f"whether the pipeline has changed is not known: {fault}")
    if manifest and (name := plan.differs(manifest)) is not None:
        found.append(f"the pipeline has changed since its last commit: other {name}")
    for step in steps:
        if step.code:
            found.append(f"the code of process {', '.join(step.code)} changed at offsets {list(step.offsets)}")
        if step.plan is not None:
            settings = f", settings {', '.join(step.settings)}" if step.settings else ""
            found.append(f"the pipeline changed at offsets {list(step.offsets)}{settings}")
    return found


class _Rows:
    """An output that hands the rows of one topic on."""

    def __init__(self, topic: str, take: Callable[[pl.DataFrame], None]) -> None:
        self._topic, self._take = topic, take

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None = None) -> None:  # noqa: ARG002
        """Hand rows on."""
        if topic == self._topic and len(rows):
            self._take(rows)

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Do nothing: dead letters are not replayed."""


@dataclass
class Replay:
    """A replay of a pipeline from its first records.

    Parameters
    ----------
    plan
        The pipeline.
    log
        The log that retains its records.
    topic
        The output whose rows are wanted.
    record
        What the run recorded of itself.
    take
        Called with rows of the output, in their order.
    mode
        `live`: as a live run; `latest`: as runs up to the end of the topics.
    """

    plan: Plan
    log: Log
    topic: str
    record: RunRecord
    take: Callable[[pl.DataFrame], None]
    mode: Literal["live", "latest"] = "live"

    def run(self, done: Callable[[], bool]) -> None:
        """Replay until it is done, or all that the run has committed has been replayed."""
        latest, ends = self.mode == "latest", self.record.ends
        with closing(self.log.feed([source.topic for source in self.plan.sources])) as feed:
            upto = UpTo(feed, ends if latest else None)
            ahead = None if latest else Patience().max_ahead
            run = Run(self.plan, upto.readers, _Rows(self.topic, self.take), live=True, silences=not latest, max_ahead_ms=ahead)
            for partition, offset in zip(run.partitions, self.record.begins, strict=True):
                partition.begin_at(offset)
            for step in self.record.steps:
                if not all(self._work(run, upto, offsets, done) for offsets in (*step.cuts, step.offsets)):
                    return
                retake(run, step)
            if self._work(run, upto, ends, done) and latest:
                run.finish()

    def _work(self, run: Run, upto: UpTo, offsets: Sequence[int], done: Callable[[], bool]) -> bool:
        """Take in the records before some offsets, in the order of the input; return whether it is still to go on."""
        upto.move(offsets)
        while not done():
            if run.drained:
                return True
            upto.fetch()
            run.take_turn()
            run.graph.forget_touched()
        return False


class _Given:
    """Takes the rows of a process's first input in its place."""

    def __init__(self, where: pl.Expr) -> None:
        self.process: Node[Process] | None = None
        self.frames: list[pl.DataFrame] = []
        self._where = where

    def wait(self, given: Node[Operator], rank: int, rows: pl.DataFrame) -> None:  # noqa: ARG002
        """Take in rows."""
        if self.process is not None and given is self.process.input and len(found := rows.filter(self._where)):
            self.frames.append(found)


def given_to(
    plan: Plan, process: str, log: Log, begins: Mapping[str, Sequence[int]], ends: Mapping[str, Sequence[int]], where: pl.Expr
) -> list[dict[str, Any]]:
    """Return the rows that a process is given on its first input, of the records of some topics from `begins` to before `ends`.

    Rows have the columns of the input, and `@topic`, `@partition`, `@offset`, `@arrived` and `@time`; rows of windows and of other processes
    are of no record, and have no place.

    Parameters
    ----------
    process
        The name of the process.
    begins, ends
        Offsets by topic, of each partition. Topics that are not named are not read.
    where
        Which rows are wanted, by the columns of the input.
    """
    given = _Given(where)
    with closing(log.feed([source.topic for source in plan.sources], latest=True)) as feed:
        run = Run(plan, feed.readers, _Rows("", lambda _: None), live=True)
        given.process = run.graph.divert(process, given)
        wanted = []
        for partition in run.partitions:
            topic, there = partition.source.topic, log.topic(partition.source.topic).partitions[partition.number]
            partition.begin_at(max(begins[topic][partition.number], there.first) if topic in begins else there.end)
            wanted.append((partition, min(ends[topic][partition.number], there.end) if topic in begins else there.end))
        while any(partition.next_offset < end for partition, end in wanted) and not run.finished:
            if not feed.fetch(_FETCHED):
                time.sleep(_PAUSE_SECONDS)  # Kafka has sent nothing yet
            while not run.drained:
                run.take_turn()
            run.graph.forget_touched()
        origins = [(partition.source.topic, partition.number) for partition in run.partitions]
    names = [name for name in given.process.operator.record_schema.names if not given.frames or name in given.frames[0].columns]
    hidden = ("@partition", "@offset", "@arrived", "@time")
    rows = [row for frame in given.frames for row in frame.select(*hidden, *names).to_dicts()]
    for row in rows:
        rank = row["@partition"]
        row["@topic"], row["@partition"] = origins[rank] if rank >= 0 else (None, None)
    return rows
