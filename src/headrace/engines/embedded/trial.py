"""A live pipeline for tests: records in turns, and a wall clock that the test advances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import msgspec

from headrace._clock import now_ms
from headrace.engines.embedded.live import Live
from headrace.errors import PlanError, near
from headrace.plan.pipeline import Pipeline, Plan
from headrace.topics.memory import RecordReader
from headrace.topics.sqlite import SqliteLog

__all__ = ["Trial"]

Row = dict[str, Any]

_STEP_MS, _STEPS = 1000, 100


class Trial:
    """A pipeline that runs live, on topics of its own in a temporary folder. See `headrace.test`."""

    def __init__(self, pipeline: Pipeline | Plan, start: datetime | None, partitions: int) -> None:
        plan = _plan_of(pipeline)
        if not isinstance(start, datetime | None):
            raise PlanError(f"start is of type {type(start).__name__}", where="hr.test", fix="give a datetime: datetime(2026, 1, 1, 6, tzinfo=UTC)")
        if not isinstance(partitions, int) or partitions < 1:
            raise PlanError(f"partitions is {partitions!r}", where="hr.test", fix="give a number, 1 or more")
        self._now = now_ms() if start is None else _ms(start)
        self._folder = TemporaryDirectory(prefix="headrace-test-")
        self._log = SqliteLog(Path(self._folder.name) / "log.db", clock=lambda: self._now)
        self._read: dict[tuple[str, int], int] = {}
        self._partitions = partitions
        try:
            self._live = self._open(plan)
        except BaseException:
            self._end()
            raise

    def _open(self, plan: Plan) -> Live:
        there = {info.name for info in self._log.topics()}
        for source in plan.sources:
            if source.topic not in there:
                self._log.create(source.topic, self._partitions)
        return Live(plan, self._log, clock=lambda: self._now, tick=lambda: self._now / 1000)

    def feed(self, topic: str, records: Iterable[Mapping[str, Any] | bytes], *, key: str | None = None) -> None:
        """Append records to a topic, have them processed, and commit.

        Parameters
        ----------
        topic
            A topic that the pipeline reads.
        records
            Dicts, or bytes as they stand in a topic. They arrive now, by the clock of the test.
        key
            The field that is the key of a record. Records of one key go to the same partition.

        Raises
        ------
        PlanError
            If the pipeline reads no such topic, or a record is neither a dict nor bytes.
        ProcessError
            If a process fails.
        """
        _check(topic, [source.topic for source in self._plan.sources], f"pipeline {self._plan.pipeline} reads")
        given = list(records)
        lines = RecordReader(given, f"topic {topic!r}", len(given) + 1).read()
        values = [line if isinstance(line, bytes) else line.encode() for line in map(lines.raw, range(len(lines)))]
        keys = None if key is None else [_key_of(record, key) for record in given]
        self._log.append(topic, values, keys)
        self._work()

    def advance(self, duration: timedelta) -> None:
        """Advance the wall clock: idle partitions stop holding the watermark, silent streams close their windows, processing-time timers fire."""
        end = self._now + round(duration.total_seconds() * 1000)
        step = max(_STEP_MS, (end - self._now) // _STEPS)
        while self._now < end:
            timer = self._live.run.graph.next_clock_timer
            due = [timer] if timer is not None and timer > self._now else []
            self._now = min([end, self._now + step, *due])
            self._work()

    def drain(self) -> None:
        """Close all windows, and let event time pass up to the last event, as the end of the input does. What comes then is late."""
        self._live.finish()
        self._work()

    def restart(self, pipeline: Pipeline | Plan | None = None) -> None:
        """Stop and resume from the last commit, as a new process would; with a pipeline, as a change of the one before.

        Raises
        ------
        EnvironmentFault
            If the changed pipeline cannot take over the state. The one before is then stopped.
        """
        plan = self._plan if pipeline is None else _plan_of(pipeline)
        self._live.close()
        self._live = self._open(plan)
        self._work()

    def rows(self, topic: str) -> list[Row]:
        """Return the rows written to a topic since they were last asked for, as dicts of their JSON. A time is its text.

        Raises
        ------
        PlanError
            If the pipeline writes no such topic.
        """
        plan = self._plan
        dead = [f"{source.topic}.dead-letter" for source in plan.sources]
        _check(topic, [*plan.topics, *dead, f"{plan.pipeline}.clock"], f"pipeline {plan.pipeline} writes")
        found: list[Row] = []
        for part in self._log.topic(topic).partitions:
            place = topic, part.number
            entries = self._log.entries(topic, part.number, self._read.get(place, 0), part.end)
            self._read[place] = part.end
            found += [msgspec.json.decode(entry.value) for entry in entries]
        return found

    def dead_letters(self) -> list[Row]:
        """Return the records that were set aside since they were last asked for, each with its reason."""
        return [row for source in self._plan.sources for row in self.rows(f"{source.topic}.dead-letter")]

    @property
    def ledger(self) -> dict[str, dict[str, int]]:
        """The ledger of the records, by topic that is read: counts by name, such as `received` and `late`."""
        return {topic: dict(account.counts()) for topic, account in self._live.run.ledger.items()}

    @property
    def open(self) -> dict[str, Any]:
        """The pending work: the open windows, and the timers of each process."""
        return dict(self._live.run.graph.open_counts())

    @property
    def now(self) -> datetime:
        """The wall clock of the test."""
        return datetime.fromtimestamp(self._now / 1000, UTC)

    @property
    def _plan(self) -> Plan:
        return self._live.plan

    def _work(self) -> None:
        while self._live.work():
            pass
        if self._live.changed:
            self._live.commit()

    def close(self) -> None:
        """End the run, and remove its topics."""
        self._live.close()
        self._end()

    def _end(self) -> None:
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plan_of(pipeline: Pipeline | Plan) -> Plan:
    if isinstance(pipeline, Plan):
        return pipeline
    if isinstance(pipeline, Pipeline):
        return pipeline.plan()
    raise PlanError(f"is of type {type(pipeline).__name__}", where="hr.test", fix="give a pipeline, or its plan with settings: hot.plan(limit=90)")


def _ms(time: datetime) -> int:
    return round((time.replace(tzinfo=UTC) if time.tzinfo is None else time).timestamp() * 1000)


def _check(topic: str, topics: list[str], who: str) -> None:
    if topic not in topics:
        raise PlanError(f"{who} no topic {topic!r}", where="hr.test", fix=near(topic, topics))


def _key_of(record: Mapping[str, Any] | bytes, key: str) -> bytes | None:
    value = record.get(key) if isinstance(record, Mapping) else None
    return None if value is None else str(value).encode(errors="surrogatepass")
