"""A process in a batch of Spark: records are brought to the tasks by key, and in each task in the order that they are due.

Theory of operation
-------------------
All records of a key come to one task, sorted, so that the task's scheduler has its keys as the embedded engine's has all of
them. What a key gives depends on its own records, on timers, and on what is broadcast; the first two are the task's,
the last is applied on the driver first, where what cannot be applied is kept out, and then again in every task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from headrace.engines.shipped import unpack
from headrace.engines.watchdog import watch
from headrace.kernels.keyed.process import Place, ProcessKernel
from headrace.kernels.keyed.schedule import BROADCAST, RECORDS, Emission, Record, Scheduler, as_numbers, merged
from headrace.kernels.keyed.shared import Shared
from headrace.kernels.keyed.values import key_code

__all__ = ["GIVEN", "Givens", "Hosting", "place_of"]

# What a process gives, to whichever output, with what it is put in order by: its time as `_shown_ms` and `_offset`; in `_entry` whether it was given for
# a record (0: source, partition, the two halves of the offset, its entry) or for timers (1: the key); and at last how many were given before it there.
GIVEN = (
    "_source INT, _partition INT, _offset BIGINT, _time_ms BIGINT, _watermark_ms BIGINT, _shown_ms BIGINT, _arrived_ms BIGINT, _entry ARRAY<INT>, "
    "_output INT, _row STRING"
)
_FORM = pa.schema(
    [
        *(("_source", pa.int32()), ("_partition", pa.int32()), ("_offset", pa.int64()), ("_time_ms", pa.int64()), ("_watermark_ms", pa.int64())),
        *(("_shown_ms", pa.int64()), ("_arrived_ms", pa.int64()), ("_entry", pa.list_(pa.int32())), ("_output", pa.int32()), ("_row", pa.string())),
    ]
)
_SOUND = "malformed IS NULL AND future IS NULL"
_AT_ONCE = 10_000
_NEVER, _FOREVER = -(2**62), 2**62

_log = logging.getLogger(__name__)
_read = msgspec.json.Decoder(dict[str, Any]).decode
_written = msgspec.json.Encoder().encode

# A record as Spark sorts it: what it is put in order by before its place, before what time timers go off, its event time, its place, its arrival, its row as JSON.
_Sorted = tuple[int, int, int, int, int, int, "list[int] | None", "int | None", str]
_COLUMNS = ("_at", "_due_ms", "_time_ms", "_source", "_partition", "_offset", "_entry", "_arrived_ms", "_row")
_ORDER = ("_at", "_source", "_partition", "_offset", "_entry")  # of one input, as SORTED_BY has it
# of several inputs: by event time, and in the order of arrival
_ORDERS = ("_at", "_input", "_source", "_partition", "_offset", "_entry"), ("_at", "_source", "_partition", "_offset", "_input", "_entry")
Feeders = Mapping[int, tuple[str, int]]


@dataclass
class Givens:
    """The rows that a process emitted, gathered as columns."""

    scheduler: Scheduler
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """See what the outputs are."""
        self.kernel = self.scheduler.kernel
        operator = self.kernel.operator
        self._order = partial(as_numbers, arrival=operator.arrival)
        self._outputs = {output: (place, operator.output(output).names) for place, output in enumerate(operator.declared.outputs)}

    def take(self, emission: Emission) -> None:
        """Take in what was given for a record or for timers."""
        at, record = emission
        at = at[0] if isinstance(at, tuple) else at  # as `_record` makes it in the order of arrival
        given = self.scheduler.given
        for nth, (output, time, key, values) in enumerate(given):
            kind, names = self._outputs[output]
            row = _written(dict(zip(names, (*key, *values), strict=True)))
            self._put(time if record is None else at, time, self._order(record, key_code(key), nth), kind, row)
        given.clear()
        self.take_failures(at, record)

    def take_failures(self, at: int, record: Record | None) -> None:
        """Take in what failed."""
        for nth, failure in enumerate(self.kernel.failures):
            self._put(at, at, self._order(record, failure["key"].encode(), nth), len(self._outputs), _written(failure))
        self.kernel.failures.clear()

    def _put(self, at: int, time: int, entry: list[int], kind: int, row: bytes) -> None:
        self.rows.append((0, 0, at, time, _NEVER, at, None, entry, kind, row.decode()))

    def batch(self) -> pa.RecordBatch:
        """Return what was gathered, and begin anew."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(_FORM)
        arrays = [pa.array(column, one.type) for column, one in zip(columns, _FORM, strict=True)]
        self.rows = []
        return pa.RecordBatch.from_arrays(arrays, schema=_FORM)


@dataclass(frozen=True)
class Hosting:
    """A process of a script.

    Attributes
    ----------
    process
        The process, packed.
    feeders
        The sources whose clock it goes by: topic and delay in ms by number.
    broadcast
        The view of its broadcast, if there is one.
    windowed
        Whether there are windows upstream, whose rows may be of times that no source has shown.
    """

    process: str
    feeders: Feeders
    broadcast: str | None = None
    windowed: bool = False

    def of(self, rows: DataFrame) -> DataFrame:
        """Return what the process gives for rows."""
        spark, kernel = rows.sparkSession, ProcessKernel(unpack(self.process))
        clocks = _clocks(spark, self.feeders) if kernel.operator.arrival else None
        told = [] if self.broadcast is None else _placed(spark.table(self.broadcast), clocks).sort(*_ORDER).select(*_COLUMNS).collect()
        rules, emitted = _applied(kernel, [tuple(one) for one in told], self.feeders)
        ordered = _placed(rows.repartition("_key"), clocks) if clocks is None else _placed(rows, clocks).repartition("_key")
        taken = [rows, *([] if self.broadcast is None else [spark.table(self.broadcast)])] if self.windowed else []
        packed, feeders, end = self.process, dict(self.feeders), _end(spark, self.feeders, taken)

        def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            yield from _work(packed, feeders, rules, end, batches)

        numbered = bool(kernel.operator.inputs)
        order, columns = (_ORDERS[kernel.operator.arrival], (*_COLUMNS, "_input")) if numbered else (_ORDER, _COLUMNS)
        given = ordered.sortWithinPartitions(*order).select(*columns).mapInArrow(work, GIVEN)
        return given.unionAll(spark.createDataFrame(emitted, GIVEN)) if emitted else given


def _placed(rows: DataFrame, clocks: DataFrame | None) -> DataFrame:
    """Return rows with their place in the order of handling, and before what time timers go off before them."""
    if clocks is None:
        return rows.withColumns({"_at": f.col("_time_ms"), "_due_ms": f.col("_time_ms")})
    return rows.join(clocks, ["_source", "_partition", "_offset"]).withColumn("_at", f.col("_shown_ms"))


def _end(spark: SparkSession, feeders: Feeders, derived: Sequence[DataFrame]) -> int:
    """Return the clock behind the last event time of any source, and of derived rows."""
    times = spark.sql(" UNION ALL ".join(f"SELECT MAX(_time_ms) AS _time_ms FROM source_{number} WHERE {_SOUND}" for number in feeders))
    for rows in derived:
        times = times.unionAll(rows.select("_time_ms"))
    (last,) = times.agg(f.max("_time_ms")).collect()[0]
    return _NEVER if last is None else int(last) + 1


def _clocks(spark: SparkSession, feeders: Feeders) -> DataFrame:
    """Return the clock before each record: the least of the watermarks of the partitions that have more to come, in the order of the input."""
    shown = " UNION ALL ".join(
        f"SELECT {number} AS _source, _partition, _offset, _shown_ms, GREATEST(_shown_ms - {delay}, {_NEVER}) AS mark FROM source_{number} WHERE {_SOUND}"
        for number, (_, delay) in feeders.items()
    )
    every = f"SELECT *, LEAD(_offset) OVER (PARTITION BY _source, _partition ORDER BY _offset) IS NULL AS last FROM ({shown})"
    partitions = spark.sql(f"SELECT DISTINCT _source, _partition FROM ({shown})").collect()
    over = "OVER (ORDER BY _shown_ms, _source, _partition, _offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    marks = [
        f"COALESCE(LAST_VALUE(CASE WHEN _source = {source} AND _partition = {number} THEN IF(last, {_FOREVER}, mark) END) IGNORE NULLS {over}, {_NEVER})"
        for source, number in partitions
    ]
    return spark.sql(f"SELECT _source, _partition, _offset, LEAST({', '.join([*marks, str(_FOREVER)])}) AS _due_ms FROM ({every})")


def _applied(kernel: ProcessKernel, told: Sequence[_Sorted], feeders: Feeders) -> tuple[list[_Sorted], list[tuple[Any, ...]]]:
    """Return the records of a broadcast that can be applied, and the rows that are emitted for them and for those that fail."""
    scheduler = Scheduler(kernel, partial(place_of, feeders))
    givens = Givens(scheduler)
    shared, kept, arrival = Shared(kernel.operator.declared), [], kernel.operator.arrival
    if told:
        watch(kernel)
    for one in told:
        record = _record(one, BROADCAST, None, arrival=arrival)
        if kernel.broadcast(shared, record[-1], record, record[7], scheduler.given):
            kept.append(one)
            givens.take((record[0], record))
        elif kernel.operator.failed_topic:
            givens.take_failures(one[0], record)
        else:
            for failure in kernel.failures:
                _log.warning("process %s: %s; record kept out: %s", failure["process"], failure["detail"], failure["raw"])
            kernel.failures.clear()
    return kept, givens.rows


def place_of(feeders: Feeders, record: Record) -> Place:
    """Return where a record came from; rows that windows and processes give come from nowhere."""
    _, _, source, partition, offset, _, _, _, arrived, _, _ = record
    return Place(feeders[source][0], partition, offset, arrived) if source else Place("", None, None)


def _work(packed: str, feeders: Feeders, rules: list[_Sorted], end: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Work through the records of a task."""
    kernel = ProcessKernel(unpack(packed))
    watch(kernel)
    scheduler = Scheduler(kernel, partial(place_of, feeders))
    givens, process = Givens(scheduler), kernel.operator
    arrival, names = process.arrival, dict(enumerate([process.keys, *(one.keys for one in process.inputs)], RECORDS))
    told = (_record(rule, BROADCAST, None, arrival=arrival, numbered=bool(process.inputs)) for rule in rules)
    rows = chain.from_iterable(zip(*(column.to_pylist() for column in batch.columns), strict=True) for batch in batches)
    if process.inputs:
        records = (_record(one, number, names[number], arrival=arrival, numbered=True) for *one, number in rows)  # type: ignore[arg-type]
    else:
        records = (_record(one, RECORDS, process.keys, arrival=arrival) for one in rows)
    for emission in chain(scheduler.run(merged(records, told)), scheduler.advance(end), scheduler.end(end)):
        if emission[1] is not None and emission[1][1] == BROADCAST:
            scheduler.given.clear()  # the driver has emitted these rows
        givens.take(emission)
        if len(givens.rows) >= _AT_ONCE:
            yield givens.batch()
    kernel.check_itself()
    yield givens.batch()


def _record(one: _Sorted, number: int, names: Sequence[str] | None, *, arrival: bool, numbered: bool = False) -> Record:
    at, due, time, source, partition, offset, entry, arrived, text = one
    row = _read(text)
    place = (source, partition, offset, entry or [])
    key = None if names is None else tuple([row[name] for name in names])
    if not arrival:
        return at, number, *place, due, time, arrived, key, row
    first = (at, source, partition, offset, number, entry or []) if numbered else (at, *place)
    return first, number, *place, due, time, arrived, key, row
