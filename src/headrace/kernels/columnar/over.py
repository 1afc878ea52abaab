"""Running aggregates for many rows at once, with the results and the state of the keyed kernel (`plan/over.py`), to the last bit.

Theory of operation
-------------------
The rows that are due are grouped by key. What each key has in its state stands before its new rows, so that a frame is a run
of values that are next to each other: from `first` to the row itself. Counts and the ends of frames come from sums so far. Sums,
extremes and spreads are folded from the oldest value to the newest as the keyed kernel does it, but one step for all rows at once.
What pays in no such form is computed key by key, with the functions of the keyed kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import polars as pl

from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.reading.text import polars_type
from headrace.plan.expression import Call, Expression
from headrace.plan.operators import Over
from headrace.plan.over import (
    Frame,
    RunningAggregates,
    framed_arguments,
    framed_slots,
    reads_another_row,
    rows_between,
    running_of_call,
    slots_of,
    waits,
)
from headrace.plan.schema import TIMESTAMP, Type

__all__ = ["OverKernel"]

_SCALARS = frozenset(["BOOLEAN", "BIGINT", "DOUBLE", "STRING", "TIMESTAMP_LTZ(3)"])
_SUMS, _SPREADS = 2_000, 500  # rows from which on a step for all at once costs less than each of them by itself
_WIDEST = 2**62  # beyond, times of all keys side by side need more than 64 bits
Keys = list[tuple[Any, ...]]
States = Sequence[Any]  # of keys, as the keyed kernel has them
Write = Callable[[int, Any], None]  # brings the state of the n-th key up to date


def _plain(kind: Type) -> Any:  # noqa: ANN401
    """Return the Polars type of values as the keyed kernel has them: timestamps are whole numbers of ms."""
    return pl.Int64() if kind == TIMESTAMP else polars_type(kind)


@dataclass(frozen=True)
class _Groups:
    """The new rows of each key, in their order.

    Attributes
    ----------
    lists
        A row for each key, with lists of the arguments' values by expression, and of `@time`.
    order
        The numbers of the rows, key after key.
    counts
        How many new rows each key has.
    """

    lists: dict[Expression, pl.Series]
    times: pl.Series
    order: pl.Series
    counts: list[int]


@dataclass(frozen=True)
class _Run:
    """Values of all keys, of each the retained ones and then the new ones.

    Attributes
    ----------
    source
        Where each value stands in the retained values of all keys, behind which the new ones stand.
    starts, ends
        Where the values of each key begin and end.
    new
        Where the new rows stand.
    begins
        For each new row, where the values of its key begin.
    """

    source: pl.Series
    starts: list[int]
    ends: list[int]
    new: pl.Series
    begins: pl.Series

    @classmethod
    def of(cls, retained: list[int], counts: list[int]) -> _Run:
        ends = [*accumulate(kept + new for kept, new in zip(retained, counts, strict=True))]
        starts = [0, *ends[:-1]]
        old = (pl.col("kept").cum_sum() - pl.col("kept")).alias("old")
        young = (pl.col("new").cum_sum() - pl.col("new") + sum(retained)).alias("young")
        columns = {"start": starts, "kept": retained, "new": counts}
        frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int64)).with_columns(old, young)
        flat = (
            frame.select(pl.all().repeat_by(pl.col("kept") + pl.col("new")).explode()).with_row_index("at").with_columns(pl.col("at").cast(pl.Int64))
        )
        inside = pl.col("at") - pl.col("start")
        flat = flat.with_columns(
            pl.when(inside < pl.col("kept")).then(pl.col("old") + inside).otherwise(pl.col("young") + inside - pl.col("kept")).alias("source"),
            (inside >= pl.col("kept")).alias("is_new"),
        )
        fresh = flat.filter("is_new")
        return cls(flat["source"], starts, ends, fresh["at"], fresh["start"])


class OverKernel:
    """The columnar form of one `Over`."""

    def __init__(self, operator: Over) -> None:
        code = operator.code
        assert isinstance(code, RunningAggregates)
        self.calls: Sequence[tuple[str, Call]] = code.calls
        self.frame: Frame = code.frame
        self.keys = operator.keys
        self._key_types = {key: _plain(operator.record_schema[key].type) for key in operator.keys}
        self._framed = framed_slots(self.calls, self.frame)
        self._arguments = [*dict.fromkeys(one for _, call in self.calls for one in framed_arguments(call))]

    @property
    def suits(self) -> bool:
        """Whether all values that are retained are scalars, and no row waits for a later one."""
        return not waits(self.calls) and all(one.type.kind in _SCALARS for one in self._arguments)

    def __call__(self, rows: pl.DataFrame, states_of: Callable[[Keys], Iterator[Any]]) -> dict[str, pl.Series]:
        """Return the values of the calls for rows in their order, by the names of the columns, and bring the states up to date.

        `states_of` yields the states of keys. It is called twice: what is read of a state and what is written to it may be two objects.
        """
        groups, keys = self._grouped(rows)
        results, writes = self._computed(groups, [*states_of(keys)])
        for number, (state, time) in enumerate(zip(states_of(keys), groups.times.list.last().to_list(), strict=True)):
            state._time = state._now = time
            for write in writes:
                write(number, state)
        place = groups.order.arg_sort()
        return {name: result.gather(place).alias(name) for name, result in results.items()}

    def _grouped(self, rows: pl.DataFrame) -> tuple[_Groups, Keys]:
        names = {one: f"@argument{number}" for number, one in enumerate(self._arguments)}
        values = [compile_expression(one).cast(_plain(one.type)).alias(name) for one, name in names.items()]
        keys = [pl.col(key).cast(kind).alias(f"@key{number}") for number, (key, kind) in enumerate(self._key_types.items())]
        by = [f"@key{number}" for number in range(len(keys))]
        lists = rows.select(*keys, "@time", *values).with_row_index("@row").group_by(by, maintain_order=True).agg(pl.all())
        given = {one: lists[name] for one, name in names.items()}
        order = lists["@row"]
        tuples = list(zip(*(lists[name].to_list() for name in by), strict=True))
        return _Groups(given, lists["@time"], order.explode(), order.list.len().to_list()), tuples

    def _computed(self, groups: _Groups, states: States) -> tuple[dict[str, pl.Series], list[Write]]:
        results: dict[str, pl.Series] = {}
        writes: list[Write] = []
        framed = _Framed(self, groups, states, writes) if self._framed else None
        for number, (name, call) in enumerate(self.calls):
            if reads_another_row(call):
                results[name] = _lag(call, slots_of(call, number), groups, states, writes)
            elif framed is not None:
                results[name] = framed.result(call)
            else:
                results[name] = _accumulated(call, slots_of(call, number), groups, states, writes)
        return results, writes


def _flat(retained: list[list[Any]], new: pl.Series, kind: Any) -> pl.Series:  # noqa: ANN401
    """Return the retained values of all keys, and behind them the new ones."""
    values = new.explode()
    kept = pl.Series([*chain.from_iterable(retained)], dtype=kind)
    return pl.concat([kept, values]) if len(kept) else values


def _lag(call: Call, slots: tuple[str, ...], groups: _Groups, states: States, writes: list[Write]) -> pl.Series:
    given, count = call.arguments[0], rows_between(call)
    if count == 0:
        return groups.lists[given].explode()
    (slot,) = slots
    retained = [getattr(state, slot).values for state in states]
    run = _Run.of([len(one) for one in retained], groups.counts)
    values = _flat(retained, groups.lists[given], _plain(given.type)).gather(run.source)
    there = (run.new - run.begins) >= count
    found = values.gather((run.new - count).clip(0))
    default = groups.lists[call.arguments[2]].explode() if len(call.arguments) > 2 else pl.Series([None], dtype=found.dtype)
    tails = [values[max(start, end - count) : end].to_list() for start, end in zip(run.starts, run.ends, strict=True)]
    writes.append(lambda number, state: _put(getattr(state, slot), tails[number]))
    return found.zip_with(there, default if len(default) == len(found) else default.new_from_index(0, len(found)))


def _put(kept: Any, values: list[Any], stamps: list[int] | None = None) -> None:  # noqa: ANN401
    kept.values = values
    if stamps is not None:
        kept._stamps, kept._ordered = stamps, True


def _accumulated(call: Call, slots: tuple[str, ...], groups: _Groups, states: States, writes: list[Write]) -> pl.Series:
    """Return the values of a call over a frame without a beginning, key by key."""
    running, arguments = running_of_call(call), framed_arguments(call)
    add, result = running.add, running.result
    columns = [groups.lists[one].to_list() for one in arguments]
    given = columns[0] if len(columns) == 1 else [list(zip(*lists, strict=True)) for lists in zip(*columns, strict=True)]
    several = len(columns) > 1
    results: list[Any] = []
    after: list[list[Any]] = []
    for state, values in zip(states, given, strict=True):
        accumulators = [getattr(state, slot) for slot in slots]
        for value in values:
            if (value[0] if several else value) is not None:
                add(accumulators, value)
            results.append(result(accumulators))
        after.append(accumulators)

    def write(number: int, state: Any) -> None:  # noqa: ANN401
        for slot, value in zip(slots, after[number], strict=True):
            setattr(state, slot, value)

    writes.append(write)
    return pl.Series(results, dtype=polars_type(call.type))


class _Framed:
    """The calls over a frame that rows leave."""

    def __init__(self, kernel: OverKernel, groups: _Groups, states: States, writes: list[Write]) -> None:
        self._slots, self._groups, frame = kernel._framed, groups, kernel.frame
        one = next(iter(self._slots.values()))
        self.run = run = _Run.of([len(getattr(state, one).values) for state in states], groups.counts)
        self._values = {
            argument: _flat([getattr(state, slot).values for state in states], groups.lists[argument], _plain(argument.type)).gather(run.source)
            for argument, slot in self._slots.items()
        }
        self.first, times = self._begin(frame, one, states)
        self.length = run.new - self.first + 1
        self._longest, self._total = int(self.length.sort()[-1]), int(self.length.sum())
        self._before: dict[Expression, pl.Series] = {}
        self._retain(times, writes)

    def _begin(self, frame: Frame, slot: str, states: States) -> tuple[pl.Series, pl.Series | None]:
        """Return where the frame of each new row begins, and the times of all values if these matter."""
        run = self.run
        if frame.rows is not None:
            return pl.select(pl.max_horizontal(run.begins, run.new - frame.rows + 1)).to_series(), None
        assert frame.time_ms is not None
        times = _flat([getattr(state, slot)._stamps for state in states], self._groups.times, pl.Int64()).gather(run.source)
        # Keys lie so far apart that one search finds the beginnings of all frames.
        low, apart = times.min(), times.max() - times.min() + frame.time_ms + 1  # type: ignore[operator]
        lengths = [end - start for start, end in zip(run.starts, run.ends, strict=True)]
        wide = pl.Int64() if len(lengths) * apart < _WIDEST else pl.Int128()
        key = pl.select(pl.int_range(len(lengths)).repeat_by(pl.Series(lengths)).explode()).to_series()
        spread = (pl.lit(key).cast(wide) * pl.lit(apart).cast(wide) + pl.lit(times - low).cast(wide)).alias("at")
        found = pl.select(spread).select(pl.col("at").search_sorted(pl.col("at").gather(run.new) - pl.lit(frame.time_ms).cast(wide), side="left"))
        return found.to_series().cast(pl.Int64), times

    def _retain(self, times: pl.Series | None, writes: list[Write]) -> None:
        """Have the values written to the states that are still in the frame of each key's last row."""
        last = [*accumulate(self._groups.counts)]
        firsts = self.first.gather([one - 1 for one in last]).to_list()
        cuts = list(zip(firsts, self.run.ends, strict=True))
        stamps = None if times is None else times.to_list()
        for argument, slot in self._slots.items():
            values = self._values[argument].to_list()

            def write(number: int, state: Any, slot: str = slot, values: list[Any] = values) -> None:  # noqa: ANN401
                begin, end = cuts[number]
                _put(getattr(state, slot), values[begin:end], None if stamps is None else stamps[begin:end])

            writes.append(write)

    def result(self, call: Call) -> pl.Series:
        """Return the values of a call."""
        arguments = framed_arguments(call)
        values = self._values[arguments[0]]
        match call.function:
            case "COUNT":
                return self._count(arguments[0])
            case "SUM" if values.dtype == pl.Float64 and self._pays(_SUMS):
                return _finite(self._sum(values)).zip_with(self._count(arguments[0]) > 0, _nothing(pl.Float64(), len(self.first)))
            case "AVG" if self._pays(_SUMS):
                counts = self._count(arguments[0])
                return _finite(self._sum(values) / counts)
            case "MIN":
                return self._best(values, lambda new, old: new < old)
            case "MAX":
                return self._best(values, lambda new, old: new > old)
            case "VAR_POP" | "VAR_SAMP" | "STDDEV_POP" | "STDDEV_SAMP" if self._pays(_SPREADS):
                return self._spread(call.function, values)
        return self._one_by_one(call, arguments)

    def _pays(self, rows: int) -> bool:
        """Return whether a step for all frames at once has at least so many rows on average."""
        return self._total >= rows * self._longest

    def _count(self, argument: Expression) -> pl.Series:
        """Return how many values that are not NULL each frame has."""
        if argument not in self._before:
            held = self._values[argument].is_not_null().cast(pl.Int64)
            self._before[argument] = pl.concat([pl.Series([0], dtype=pl.Int64), held.cum_sum()])
        before = self._before[argument]
        return before.gather(self.run.new + 1) - before.gather(self.first)

    def _sum(self, values: pl.Series) -> pl.Series:
        filled = values.fill_null(0.0)
        return self._folded([pl.Series([0.0])], lambda kept, at: [kept[0] + filled.gather(at)])[0]

    def _best(self, values: pl.Series, better: Callable[[pl.Series, pl.Series], pl.Series]) -> pl.Series:
        """Return the least or greatest value of each frame, from those of two runs that cover it: their lengths are the same power of two."""

        def best(old: pl.Series, new: pl.Series) -> pl.Series:
            return new.zip_with(old.is_null() | better(new, old).fill_null(value=False), old)

        found, span = _nothing(values.dtype, len(self.first)), 1
        while True:
            covered = (self.length >= span) & (self.length < 2 * span)
            if covered.any():
                found = best(values.gather(self.first), values.gather((self.run.new - span + 1).clip(0))).zip_with(covered, found)
            if self._longest < 2 * span:
                return found
            values, span = best(values, values.shift(-span)), 2 * span

    def _spread(self, function: str, values: pl.Series) -> pl.Series:
        def step(kept: list[pl.Series], at: pl.Series) -> list[pl.Series]:
            count, mean, squares = kept
            new = values.gather(at)
            held, distance = new.is_not_null(), new - mean
            more = count + 1.0
            centre = mean + distance / more
            wider = squares + distance * (new - centre)
            return [one.zip_with(held, old) for one, old in ((more, count), (centre, mean), (wider, squares))]

        count, _, squares = self._folded([pl.Series([0.0])] * 3, step)
        least = 2 if function.endswith("SAMP") else 1
        variance = _finite(squares) / (count - 1.0 if least == 2 else count)
        spread = variance.sqrt() if function.startswith("STDDEV") else variance
        return spread.zip_with(count >= least, _nothing(pl.Float64(), len(count)))

    def _folded(self, start: list[pl.Series], step: Callable[[list[pl.Series], pl.Series], list[pl.Series]]) -> list[pl.Series]:
        """Fold each frame from its first value to its last: `step` takes what is folded so far and where the next values stand."""
        order = self.length.arg_sort()
        lengths, first = self.length.gather(order), self.first.gather(order)
        longest = int(lengths[-1])
        done = lengths.search_sorted(pl.int_range(longest + 1, eager=True), side="right").to_list()
        kept = [one.new_from_index(0, len(first)) for one in start]
        ended: list[list[pl.Series]] = []
        for place in range(longest):
            if gone := done[place] - (done[place - 1] if place else 0):
                ended.append([one[:gone] for one in kept])
                kept, first = [one[gone:] for one in kept], first[gone:]
            kept = step(kept, first + place)
        ended.append(kept)
        back = order.arg_sort()
        return [pl.concat(parts).gather(back) for parts in zip(*ended, strict=True)]

    def _one_by_one(self, call: Call, arguments: tuple[Expression, ...]) -> pl.Series:
        of, columns = running_of_call(call).of, [self._values[one].to_list() for one in arguments]
        spans = zip(self.first.to_list(), self.run.new.to_list(), strict=True)
        if len(columns) == 1:
            (values,) = columns
            results = [of([value for value in values[begin : end + 1] if value is not None]) for begin, end in spans]
        else:
            rows = list(zip(*columns, strict=True))
            results = [of([row for row in rows[begin : end + 1] if row[0] is not None]) for begin, end in spans]
        return pl.Series(results, dtype=polars_type(call.type))


def _nothing(kind: Any, count: int) -> pl.Series:  # noqa: ANN401
    return pl.Series([None], dtype=kind).new_from_index(0, count)


def _finite(values: pl.Series) -> pl.Series:
    return values.zip_with(values.is_finite().fill_null(value=False), _nothing(values.dtype, len(values)))
