"""The live code run again over the records that a log retains: a replay of a pipeline's rows, and a look at what a process was given.

A replay takes the records in the order of the log, and the steps of the wall clock at the offsets at which they were taken. It reads the log
and writes nothing.
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
from headrace.errors import DataError, PlanError
from headrace.plan.graph import Node
from headrace.plan.operators import Operator, Process
from headrace.plan.pipeline import Plan
from headrace.topics.dead_letters import DeadLetter
from headrace.topics.entries import entries_of
from headrace.topics.protocol import Log

__all__ = ["Replay", "changes_of", "check_retained", "given_to", "steps_of"]

_FETCHED = 100_000
_PAUSE_SECONDS = 0.002


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


def steps_of(log: Log, pipeline: str) -> list[Step]:
    """Return the steps of the clock that a pipeline has written since it was last begun; none if it has written none."""
    topic = f"{pipeline}.clock"
    if topic not in {info.name for info in log.topics()}:
        return []
    steps: list[Step] = []
    for row in (msgspec.json.decode(entry.value, type=_StepRow) for entry in entries_of(log, topic)):
        if steps and sum(row.offsets) < sum(steps[-1].offsets):
            steps.clear()  # it was begun anew
        plain = {name: getattr(row, name) for name in ("clock_ms", "ended", "code", "settings", "plan", "begins")}
        steps.append(Step(tuple(row.offsets), tuple(row.shown), tuple(row.resting), **plain))
    return steps


def check_retained(log: Log, plan: Plan, steps: Sequence[Step]) -> None:
    """Check that a log has all that a replay needs: the partitions of the steps, with all records since the pipeline was begun.

    Raises
    ------
    PlanError
        If the steps are those of a pipeline that reads another number of partitions.
    DataError
        If records have expired.
    """
    partitions = [(source.topic, part) for source in plan.sources for part in log.topic(source.topic).partitions]
    if other := [len(step.offsets) for step in steps if len(step.offsets) != len(partitions)]:
        what = f"the pipeline reads {len(partitions)} partitions, and the one that has written the alarms read {other[0]}"
        raise PlanError(what, where="replay", fix="give that one with --app")
    begins = steps[0].offsets if steps and steps[0].begins else [0] * len(partitions)
    for (topic, part), begin in zip(partitions, begins, strict=True):
        if part.first > begin:
            what = f"the records of {topic}/{part.number} before offset {part.first:,} have expired, and the alarm's state came from them"
            fix = "a replay needs all records since the pipeline was begun: see headrace topics alter --retention"
            raise DataError(what, where="replay", fix=fix)


def changes_of(log: Log, plan: Plan, steps: Sequence[Step]) -> list[str]:
    """Return how the pipeline that has written a log differs from a plan, and how it changed while it ran."""
    found = []
    manifest = msgspec.json.decode(log.manifest(plan.pipeline) or b"{}")
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
    steps
        The steps of the clock that were written down.
    take
        Called with rows of the output, in their order.
    mode
        `live`: as a live run; `latest`: as runs up to the end of the topics.
    """

    plan: Plan
    log: Log
    topic: str
    steps: Sequence[Step]
    take: Callable[[pl.DataFrame], None]
    mode: Literal["live", "latest"] = "live"

    def run(self, done: Callable[[], bool]) -> None:
        """Replay until it is done, or all that is retained has been replayed."""
        latest = self.mode == "latest"
        ahead = None if latest else Patience().max_ahead
        with closing(self.log.feed([source.topic for source in self.plan.sources], latest=latest)) as feed:
            run = Run(self.plan, feed.readers, _Rows(self.topic, self.take), live=True, silences=not latest, max_ahead_ms=ahead)
            if self.steps and self.steps[0].begins:
                for partition, offset in zip(run.partitions, self.steps[0].offsets, strict=True):
                    partition.begin_at(offset)
            for step in self.steps:
                if done() or not self._work(run, feed.fetch, sum(step.offsets), done):
                    return
                retake(run, step)
            while not done() and self._work(run, feed.fetch, None, done):
                pass
            if latest and not done():
                run.finish()

    def _work(self, run: Run, fetch: Callable[[int], bool], upto: int | None, done: Callable[[], bool]) -> bool:
        """Take in records up to a sum of offsets, or some where there is none; return whether they were there."""
        while not done():
            left = _FETCHED if upto is None else upto - sum(partition.next_offset for partition in run.partitions)
            if left <= 0:
                return True
            if not fetch(min(left, _FETCHED)):
                return False
            while not run.drained:
                run.take_turn()
            run.graph.forget_touched()
            if upto is None:
                return True
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
