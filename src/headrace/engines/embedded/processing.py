"""A process of a plan while it runs: records wait in frames until the clock passes them, and the scheduler then calls the process with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from typing import Any

import polars as pl

from headrace.engines.watchdog import watch
from headrace.kernels.columnar.order import due_before, gathered, in_order, in_time
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.columnar.window import key_text
from headrace.kernels.keyed.code import code_digest
from headrace.kernels.keyed.compiled import row_maker
from headrace.kernels.keyed.process import Given, Place, ProcessKernel
from headrace.kernels.keyed.schedule import BROADCAST, RECORDS, Emission, Record, Scheduler, merged
from headrace.kernels.reading.text import polars_type
from headrace.plan.graph import Node
from headrace.plan.operators import Process
from headrace.plan.pipeline import FAILED
from headrace.plan.schema import Schema

__all__ = ["Counts", "Fed", "Processing"]

_HIDDEN = ("@time", "@record", "@partition", "@offset", "@arrived")
_Frames = dict[int, list[pl.DataFrame]]


@dataclass(frozen=True, slots=True)
class Fed:
    """The records of rows given to a process, and of those that it took; rows that windows and processes made are of none."""

    reached: pl.Series
    taken: pl.Series


@dataclass(frozen=True, slots=True)
class Counts:
    """What a process holds and has done: its keys, their bytes as they are stored, those that wait for a timer, rows that wait; and, since this was last asked, records handled and failures."""

    keys: int
    state_bytes: int
    timers: int
    waiting: int
    handled: int
    failed: int


@dataclass
class Processing:
    """A process, its keys, and what waits for the clock.

    Attributes
    ----------
    origins
        Topic and partition by the partition's rank.
    waiting, told
        What came in this turn, of its input and of its broadcast, by rank.
    buffer, rules
        Rows that wait for the clock, of its input and of its broadcast, by rank and in the order of offsets.
    duplicates
        How many records of each topic were found to be duplicates since this was last emptied.
    all_failed
        How many records, timers and rules it failed at in this run.
    stored_bytes
        How many bytes of keys the last commit has, deletions and what later parts have anew among them.
    code_before
        The digest of the code that made its state, where that was not this code.
    """

    node: Node[Process]
    clock_column: str
    origins: Sequence[tuple[str, int]]
    keyed: bool
    clock: int = NEVER
    waiting: _Frames = field(default_factory=dict)
    told: _Frames = field(default_factory=dict)
    buffer: _Frames = field(default_factory=dict)
    rules: _Frames = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    handled: int = 0
    failed: int = 0
    all_failed: int = 0
    stored_bytes: int = 0
    code_before: str | None = None

    def __post_init__(self) -> None:
        """Make the kernel, and have it watched."""
        operator = self.node.operator
        self.kernel = ProcessKernel(operator)
        self.scheduler = Scheduler(self.kernel, partial(_place_of, self.origins))
        self.keyspace = self.scheduler.keys
        self._failures: list[dict[str, Any]] = []
        self.code = code_digest(operator.code)
        self._schemas = {name: operator.output(name) for name in operator.declared.outputs}
        watch(self.kernel)

    @property
    def operator(self) -> Process:
        """The plan's process."""
        return self.node.operator

    @property
    def feeders(self) -> frozenset[str]:
        """The topics whose clock it goes by."""
        return self.node.traits.topics

    @property
    def made(self) -> bool:
        """Whether its rows are made by windows or processes, not by records."""
        return self.node.input.traits.derived

    # a turn

    def admit(self) -> Fed | None:
        """Take in what came in this turn, as far as it is not late: it waits for the clock."""
        rules = gathered(self.told)
        for rank, rows in rules:
            due = pl.max_horizontal("@time", "@watermark").alias("@time")
            self.rules.setdefault(rank, []).append(in_time(_kept(rows.with_columns(due), self.operator.broadcast_schema.names)))  # type: ignore[union-attr]
        reached, taken = [rows["@record"] for _, rows in rules], [rows["@record"] for _, rows in rules]
        for rank, rows in gathered(self.waiting):
            on_time = rows if self.made else rows.filter(pl.col("@time") >= pl.col("@watermark"))
            if not self.made:
                reached.append(rows["@record"])
                taken.append(on_time["@record"])
            if len(on_time):
                self.buffer.setdefault(rank, []).append(in_time(_kept(on_time, self.operator.record_schema.names)))
        return Fed(pl.concat(reached), pl.concat(taken)) if reached else None

    def advance(self, clock: int) -> list[tuple[str, pl.DataFrame]]:
        """Move the clock, and return what the process gives for all times before it, by output."""
        if clock <= self.clock:
            return []
        self.clock = clock
        due = () if self.operator.arrival else self._records(due_before(self.buffer, clock), due_before(self.rules, clock))
        return self._frames(chain(self.scheduler.run(due), self.scheduler.advance(clock)))

    def arrive(self) -> tuple[Fed, list[tuple[str, pl.DataFrame]]] | None:
        """Give the process what came in this turn at once, in the order of the input."""
        parts = {True: dict(gathered(self.waiting)), False: dict(gathered(self.told))}
        ranked = sorted((rank, one) for one, frames in parts.items() for rank in frames)
        if not ranked:
            return None
        due = pl.col(self.clock_column).alias("@due")
        hidden = [parts[one][rank].select("@record", "@order", due, pl.lit(one).alias("@is_row")) for rank, one in ranked]
        every = in_order(hidden).with_row_index("@at")

        def ordered(one: bool, schema: Schema | None) -> pl.DataFrame | None:  # noqa: FBT001
            mine = [_kept(frame, schema.names, "@order") for _, frame in sorted(parts[one].items())] if schema is not None else []
            return in_order(mine).hstack(every.filter(pl.col("@is_row") == one).select("@at", "@due")) if mine else None

        records = self._records(ordered(True, self.operator.record_schema), ordered(False, self.operator.broadcast_schema))
        return Fed(every["@record"], every["@record"]), self._frames(self.scheduler.run(records))

    def fire_clock(self, now: int) -> list[tuple[str, pl.DataFrame]]:
        """Call the timers of the clock on the wall that are due."""
        return self._frames(self.scheduler.fire_clock(now, self.clock))

    def _records(self, rows: pl.DataFrame | None, rules: pl.DataFrame | None) -> Iterable[Record]:
        """Return records and what is broadcast, which are due and each sorted, as the scheduler takes them."""
        self.handled += 0 if rows is None else len(rows)
        records = () if rows is None else _run(rows, RECORDS, self.operator.record_schema, self.operator.keys)
        if rules is None or self.operator.broadcast_schema is None:
            return records
        return merged(records, _run(rules, BROADCAST, self.operator.broadcast_schema))

    def _frames(self, emissions: Iterable[Emission]) -> list[tuple[str, pl.DataFrame]]:
        """Have the scheduler make its calls, and return what is given as frames by output, in the order given."""
        given: list[Given] = []
        for _ in emissions:
            given += self.scheduler.given
            self._failures += self.kernel.failures
            self.scheduler.given.clear()
            self.kernel.failures.clear()
        self.kernel.check_itself()
        for (rank, _, _), answered in self.scheduler.take_answered():
            if not answered:
                topic, _ = self.origins[rank]
                self.duplicates[topic] = self.duplicates.get(topic, 0) + 1
        frames = []
        for output, schema in self._schemas.items():
            mine = given if len(self._schemas) == 1 else [one for one in given if one[0] == output]
            if mine:
                frames.append((output, self._frame(mine, schema)))
        return frames

    def _frame(self, given: list[Given], schema: Schema) -> pl.DataFrame:
        width = len(self.operator.keys)
        keys = zip(*[one[2] for one in given], strict=True)
        values = zip(*[one[3] for one in given], strict=True)
        columns = [*keys, *values] if len(schema.names) > width else [*keys]
        times = pl.Series("@time", [one[1] for one in given], dtype=pl.Int64)
        series = [pl.Series(field.name, column, dtype=polars_type(field.type)) for field, column in zip(schema.fields, columns, strict=True)]
        frame = pl.DataFrame([times, times.alias("@record"), *series])
        hidden = [pl.lit(NEVER, pl.Int64).alias("@watermark"), pl.lit(-1, pl.Int64).alias("@partition"), pl.lit(None, pl.Int64).alias("@offset")]
        key = [key_text(self.operator.keys)] if self.keyed else []
        return frame.with_columns(*hidden, pl.lit(None, pl.Int64).alias("@arrived"), *key)

    def take_failures(self) -> pl.DataFrame | None:
        """Return what failed since this was last asked, as rows of `FAILED`."""
        failures, self._failures = self._failures, []
        if not failures:
            return None
        self.failed += len(failures)
        self.all_failed += len(failures)
        return pl.DataFrame(failures, schema={field.name: polars_type(field.type) for field in FAILED.fields})

    def counts(self) -> Counts:
        """Return what it holds and has done."""
        waiting = sum(len(rows) for parts in self.buffer.values() for rows in parts)
        handled, self.handled, failed, self.failed = self.handled, 0, self.failed, 0
        return Counts(len(self.keyspace), self.stored_bytes, self.keyspace.timers, waiting, handled, failed)

    # what is open

    @property
    def _waits(self) -> tuple[int, int] | None:
        """The first and the last time of the rows that wait."""
        frames = [rows["@time"] for waits in (self.buffer, self.rules) for parts in waits.values() for rows in parts if len(rows)]
        return (min(int(times[0]) for times in frames), max(int(times[-1]) for times in frames)) if frames else None

    def wants(self, upto: float, ends_with: Mapping[str, int] | None) -> int | None:
        """Return the clock, at most `upto`, at which all that is due before has been done, None if there is nothing."""
        waits, timer = self._waits, self.keyspace.next_timer
        first = min([*(waits or ())[:1], *([] if timer is None else [timer])], default=None)
        end = upto if ends_with is None else min(upto, self.end_of(ends_with))
        if first is None or first >= end:
            return None
        if ends_with is None:
            last = max([*(waits or ()), *([] if timer is None else [self.keyspace.last_timer or timer])])
            end = min(end, last + 1)
        return int(end) if end > self.clock else None

    def end_of(self, heard: Mapping[str, int]) -> int:
        """Return the clock behind the last event time heard of its sources, and behind all that waits."""
        return max([*(heard[topic] for topic in self.feeders), *(self._waits or ())], default=NEVER) + 1


def _place_of(origins: Sequence[tuple[str, int]], record: Record) -> Place:
    _, _, rank, _, offset, _, _, _, arrived, _, _ = record
    topic, number = origins[rank] if rank >= 0 else ("", None)
    return Place(topic, number, offset, arrived)


def _kept(rows: pl.DataFrame, names: Sequence[str], *more: str) -> pl.DataFrame:
    return rows.select(*_HIDDEN, *more, *names)


def _run(frame: pl.DataFrame, number: int, schema: Schema, keys: Sequence[str] | None = None) -> Iterator[Record]:
    """Return the sorted rows of an input as records, rows as an author's process sees them; in the order of arrival they have `@at` and `@due`."""
    at = "@at" if "@at" in frame.columns else "@time"
    due = "@due" if "@due" in frame.columns else "@time"
    hidden = {name: frame[name].to_list() for name in ("@partition", "@offset", "@time", "@arrived", at, due)}
    plain = frame.select(pl.col(field.name).cast(_plain(polars_type(field.type))) for field in schema.fields)
    columns = {name: plain[name].to_list() for name in schema.names}
    rows = map(row_maker(schema.names), *columns.values())
    of_keys = repeat(None) if keys is None else zip(*[columns[key] for key in keys], strict=True)
    place = hidden["@partition"], repeat(0), hidden["@offset"], repeat(None)
    return zip(hidden[at], repeat(number), *place, hidden[due], hidden["@time"], hidden["@arrived"], of_keys, rows)


def _plain(kind: Any) -> Any:  # noqa: ANN401
    """Return a type with timestamps as whole numbers of ms."""
    match kind:
        case pl.Datetime():
            return pl.Int64()
        case pl.List(inner=inner):
            return pl.List(_plain(inner))
        case pl.Map(key=key, value=value):
            return pl.Map(key, _plain(value))
        case pl.Struct(fields=fields):
            return pl.Struct({one.name: _plain(one.dtype) for one in fields})
    return kind
