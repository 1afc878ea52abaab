"""A process in a batch of Spark: records are brought to the tasks by key, and in each task in the order that they are due.

Theory of operation
-------------------
All records of a key come to one task, sorted, so that a task works through its keys as the embedded engine works through
all of them. What a key gives depends on its own records, on timers, and on what is broadcast; the first two are the task's,
the last is applied on the driver first, where what cannot be applied is kept out, and then again in every task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from headrace.engines.shipped import unpack
from headrace.engines.watchdog import watch
from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.process import Given, Place, ProcessKernel
from headrace.kernels.keyed.shared import Shared

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
_LOW_BITS = 2**31 - 1
_NEVER, _FOREVER = -(2**62), 2**62

_log = logging.getLogger(__name__)
_read = msgspec.json.Decoder(dict[str, Any]).decode
_written = msgspec.json.Encoder().encode
_key_code = msgspec.msgpack.Encoder().encode

# A record: what it is put in order by before its place, before what time timers go off, its event time, its place, its arrival and its row as JSON.
_Record = tuple[int, int, int, int, int, int, "list[int] | None", "int | None", str]
_COLUMNS = ("_at", "_due_ms", "_time_ms", "_source", "_partition", "_offset", "_entry", "_arrived_ms", "_row")
_ORDER = ("_at", "_source", "_partition", "_offset", "_entry")
Feeders = Mapping[int, tuple[str, int]]
Where = tuple[int, int, int, "list[int] | None"]


@dataclass
class Givens:
    """What a process gave, gathered as columns."""

    kernel: ProcessKernel
    given: list[Given] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """See what the outputs are."""
        operator = self.kernel.operator
        self._outputs = {output: (place, operator.output(output).names) for place, output in enumerate(operator.declared.outputs)}

    def take(self, at: int, where: Where | None = None) -> None:
        """Take in what was given at a place of the order: for a record, or, without `where` it stands, for timers."""
        if self.given:
            for nth, (output, time, key, values) in enumerate(self.given):
                kind, names = self._outputs[output]
                row = _written(dict(zip(names, (*key, *values), strict=True)))
                behind = [1, *_key_code(key)] if where is None else _before_timers(where)
                self._put(time if where is None else at, time, [*behind, nth], kind, row)
            self.given.clear()
        if self.kernel.failures:
            for nth, failure in enumerate(self.kernel.failures):
                behind = [1, *failure["key"].encode()] if where is None else _before_timers(where)
                self._put(at, at, [*behind, nth], len(self._outputs), _written(failure))
            self.kernel.failures.clear()

    def _put(self, at: int, time: int, entry: list[int], kind: int, row: bytes) -> None:
        self.rows.append((0, 0, at, time, _NEVER, at, None, entry, kind, row.decode()))

    def batch(self) -> pa.RecordBatch:
        """Return what was gathered, and begin anew."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(_FORM)
        arrays = [pa.array(column, one.type) for column, one in zip(columns, _FORM, strict=True)]
        self.rows = []
        return pa.RecordBatch.from_arrays(arrays, schema=_FORM)


def _before_timers(where: Where) -> list[int]:
    source, partition, offset, entry = where
    return [0, source, partition, offset >> 31, offset & _LOW_BITS, *(entry or ())]


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
        Whether its rows are those of windows, which may be of times that no source has shown.
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
        rules, failures = _applied(kernel, [tuple(one) for one in told], self.feeders)
        ordered = _placed(rows.repartition("_key"), clocks) if clocks is None else _placed(rows, clocks).repartition("_key")
        packed, feeders, end = self.process, dict(self.feeders), _end(spark, self.feeders, rows if self.windowed else None)

        def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            yield from _work(packed, feeders, rules, end, batches)

        given = ordered.sortWithinPartitions(*_ORDER).select(*_COLUMNS).mapInArrow(work, GIVEN)
        return given.unionAll(spark.createDataFrame(failures, GIVEN)) if failures else given


def _placed(rows: DataFrame, clocks: DataFrame | None) -> DataFrame:
    """Return rows with their place in the order of handling, and before what time timers go off before them."""
    if clocks is None:
        return rows.withColumns({"_at": f.col("_time_ms"), "_due_ms": f.col("_time_ms")})
    return rows.join(clocks, ["_source", "_partition", "_offset"]).withColumn("_at", f.col("_shown_ms"))


def _end(spark: SparkSession, feeders: Feeders, rows: DataFrame | None) -> int:
    """Return the clock behind the last event time of any source, and of rows that windows give."""
    times = spark.sql(" UNION ALL ".join(f"SELECT MAX(_time_ms) AS _time_ms FROM source_{number} WHERE {_SOUND}" for number in feeders))
    every = times if rows is None else times.unionAll(rows.select("_time_ms"))
    (last,) = every.agg(f.max("_time_ms")).collect()[0]
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


def _applied(kernel: ProcessKernel, told: Sequence[_Record], feeders: Feeders) -> tuple[list[_Record], list[tuple[Any, ...]]]:
    """Return what of a broadcast can be applied, and what becomes of the rest."""
    shared, kept, failures = Shared(kernel.operator.declared), [], Givens(kernel)
    if told:
        watch(kernel)
    for one in told:
        if kernel.broadcast(shared, _read(one[-1]), place_of(feeders, *one[3:6], one[7])):
            kept.append(one)
        elif kernel.operator.failed_topic:
            failures.take(one[0], one[3:7])
        else:
            for failure in kernel.failures:
                _log.warning("process %s: %s; record kept out: %s", failure["process"], failure["detail"], failure["raw"])
            kernel.failures.clear()
    return kept, failures.rows


def place_of(feeders: Feeders, source: int, partition: int, offset: int, arrived: int | None) -> Place:
    """Return where a record came from; rows that windows and processes give come from nowhere."""
    return Place(feeders[source][0], partition, offset, arrived) if source else Place("", None, None)


def _work(packed: str, feeders: Feeders, rules: list[_Record], end: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Work through the records of a task."""
    kernel = ProcessKernel(unpack(packed))
    watch(kernel)
    space, givens, names = Keyspace(kernel), Givens(kernel), kernel.operator.keys
    given, failures, arrival = givens.given, kernel.failures, kernel.operator.arrival
    left = rules[::-1]

    def tell() -> None:
        rule = left.pop()
        space.fire(rule[1], given)
        givens.take(rule[1])
        space.tell(_read(rule[-1]), place_of(feeders, *rule[3:6], rule[7]))

    for batch in batches:
        for record in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            at, due, time, source, partition, offset, entry, arrived, text = record
            while left and (left[-1][0] <= at if not arrival else _before(left[-1], record)):
                tell()
            space.fire(due, given)
            if given or failures:
                givens.take(due)
            row = _read(text)
            key = tuple([row[name] for name in names])
            space.record(key, row, time, time if arrived is None else arrived, place_of(feeders, source, partition, offset, arrived), given)
            if given or failures:
                givens.take(at, (source, partition, offset, entry))
        if len(givens.rows) >= _AT_ONCE:
            yield givens.batch()
    while left:
        tell()
    space.fire(end, given)
    givens.take(end - 1)
    kernel.check_itself()
    yield givens.batch()


def _before(rule: _Record, record: _Record) -> bool:
    return (rule[0], *rule[3:6], rule[6] or []) < (record[0], *record[3:6], record[6] or [])
