"""A bounded run over values of a Python program: the same run as over files, with its rows handed back and nothing written."""

from __future__ import annotations

import difflib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import polars as pl

from headrace.engines.embedded.output import SPREAD
from headrace.engines.embedded.results import Ledger, Result, Row, Table
from headrace.engines.embedded.run import Run
from headrace.errors import DataError, PlanError, near
from headrace.kernels.ledger import received_in_vain
from headrace.kernels.reading.text import polars_type
from headrace.plan.expression import columns_of
from headrace.plan.operators import Source
from headrace.plan.schema import BIGINT, STRING, Schema
from headrace.topics.dead_letters import dead_letter_record
from headrace.topics.memory import FrameReader, partitions_of

if TYPE_CHECKING:
    from headrace.plan.pipeline import Plan
    from headrace.topics.dead_letters import DeadLetter
    from headrace.topics.protocol import PartitionReader

__all__ = ["RowStream", "run"]

_log = logging.getLogger(__name__)

_DEAD_LETTER = {name: polars_type(BIGINT if name in {"partition", "offset", "arrived_ms"} else STRING) for name in (
    "pipeline", "topic", "partition", "offset", "reason", "detail", "arrived_ms", "raw", "raw_base64",
)}  # fmt: skip


def run(plan: Plan, inputs: Mapping[str, Any]) -> Result:
    """Run the plan over inputs by topic, and return what it wrote. See `Pipeline.run`."""
    collected = _Collected(plan)
    with ExitStack() as stack:
        running = Run(plan, _readers(plan, inputs, stack), collected)
        for _ in _turns(running):
            pass
    _tell_unused(plan, running)
    tables = {topic: Table(_table(collected.rows.get(topic, []), plan.schema_of(topic))) for topic in plan.topics}
    places = {source.topic: number for number, source in enumerate(plan.sources)}
    letters = sorted(collected.letters, key=lambda one: (places[one.topic], one.partition))
    dead = pl.DataFrame([dead_letter_record(plan.pipeline, one) for one in letters], schema=_DEAD_LETTER)
    return Result(plan.pipeline, tables, {topic: tables[topic] for topic in plan.late_topics}, Table(dead), _counts(running))


class RowStream(Iterator[tuple[str, Row]]):
    """The rows of a run, one by one, each with its topic; dead letters with the topic `TOPIC.dead-letter`. See `Pipeline.stream`."""

    def __init__(self, plan: Plan, inputs: Mapping[str, Any]) -> None:
        self._queue = _Queue(plan)
        with ExitStack() as stack:
            self._run = Run(plan, _readers(plan, inputs, stack, singly=True), self._queue)
            self._stack = stack.pop_all()
        self._rows = self._work(plan)

    def _work(self, plan: Plan) -> Iterator[tuple[str, Row]]:
        with self._stack:
            for _ in _turns(self._run):
                yield from self._queue.taken()
            _tell_unused(plan, self._run)

    def __next__(self) -> tuple[str, Row]:
        return next(self._rows)

    @property
    def ledger(self) -> Ledger:
        """The ledger of the records that have been received so far, by input topic."""
        return _counts(self._run)

    def close(self) -> None:
        """End the run where it is, and close its files. Windows that are open write nothing."""
        self._rows = iter(())
        self._stack.close()


class _Collected:
    """An output that keeps what is written."""

    def __init__(self, plan: Plan) -> None:
        self._names = _names(plan)
        self.rows: dict[str, list[pl.DataFrame]] = {}
        self.letters: list[DeadLetter] = []

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None = None) -> None:  # noqa: ARG002
        """Keep rows."""
        self.rows.setdefault(topic, []).append(rows.rename(self._names.get(topic, {})))

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Keep dead letters."""
        self.letters.extend(letters)


class _Queue:
    """An output that keeps rows and dead letters, in the order in which they come, until they are taken."""

    def __init__(self, plan: Plan) -> None:
        self._pipeline, self._names = plan.pipeline, _names(plan)
        self._rows: deque[tuple[str, Row]] = deque()

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None = None) -> None:  # noqa: ARG002
        """Keep rows."""
        self._rows.extend((topic, row) for row in rows.rename(self._names.get(topic, {})).iter_rows(named=True))

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Keep dead letters."""
        self._rows.extend((f"{letter.topic}.dead-letter", dead_letter_record(self._pipeline, letter)) for letter in letters)

    def taken(self) -> Iterator[tuple[str, Row]]:
        """Yield what has come, and keep it no longer."""
        while self._rows:
            yield self._rows.popleft()


def _names(plan: Plan) -> dict[str, dict[str, str]]:
    """Return the names of MAPs that outputs spread, by topic: inside a program they stay columns."""
    return {sink.operator.topic: {SPREAD: sink.operator.spread} for sink in plan.sinks if sink.operator.spread is not None}


def _turns(running: Run) -> Iterator[None]:
    """Work to the end of the inputs, and yield after each turn and at the end."""
    while not running.finished:
        running.take_turn()
        running.graph.forget_touched()
        yield
    running.finish()
    yield
    running.graph.tell_failures()
    running.graph.tell_open(drained=False)


def _counts(running: Run) -> dict[str, dict[str, int]]:
    return {topic: dict(account.counts()) for topic, account in running.ledger.items()}


def _tell_unused(plan: Plan, running: Run) -> None:
    """Warn if there were records and not one of them could be used: their schema or their times are others than the pipeline's."""
    if received := received_in_vain(_counts(running).values()):
        reasons = [reason for one in running.ledger.values() for reason in one.reasons.commonest()]
        why = f": {reasons[0].detail}" if reasons else ", all were late"
        _log.warning("pipeline %s: no record could be used of %d received%s", plan.pipeline, received, why)


def _table(frames: list[pl.DataFrame], schema: Schema) -> pl.DataFrame:
    types = {field.name: polars_type(field.type) for field in schema.fields}
    return pl.concat([pl.DataFrame(schema=types), *(rows.cast(types) for rows in frames)])  # type: ignore[arg-type]


def _readers(plan: Plan, inputs: Mapping[str, Any], stack: ExitStack, *, singly: bool = False) -> dict[str, list[PartitionReader]]:
    """Return the readers of each source's partitions, to be closed with the stack."""
    place, topics = f"pipeline {plan.pipeline}", [source.topic for source in plan.sources]
    if not isinstance(inputs, Mapping):
        raise PlanError(f"inputs are of type {type(inputs).__name__}", where=place, fix=f"give them by topic: {{{topics[0]!r}: …}}")
    for topic in inputs:
        if topic not in topics:
            raise PlanError(f"reads no topic {topic!r}", where=place, fix=near(str(topic), topics))
    readers: dict[str, list[PartitionReader]] = {topic: [] for topic in topics}
    for source in plan.sources:
        if source.topic not in inputs:
            raise PlanError(f"topic {source.topic!r} has no input", where=place, fix=f"add {{{source.topic!r}: …}}")
        for reader in partitions_of(inputs[source.topic], f"input {source.topic!r}", singly=singly):
            stack.callback(reader.close)
            readers[source.topic].append(reader)
            if isinstance(reader, FrameReader):
                _check_columns(source, reader)
    return readers


def _check_columns(source: Source, reader: FrameReader) -> None:
    """Raise DataError if a frame lacks a declared column that it seems to have by another name, or one that the event time is made of."""
    declared = source.declared.names
    others = [name for name in reader.columns if name not in declared]
    timing = columns_of(source.event_time) if source.event_time is not None else ()
    for name in declared:
        if name in reader.columns:
            continue
        similar = difflib.get_close_matches(name.lower(), [one.lower() for one in others], n=1, cutoff=0.8)
        if name in timing or similar:
            raise DataError(f"has no column {name!r}", where=reader.name, fix=near(name, others if similar else reader.columns))
