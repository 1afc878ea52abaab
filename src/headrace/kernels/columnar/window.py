"""Event-time windows: which rows they take, when they close, what they give.

Theory of operation
-------------------
A row is *taken* by the window [start, end) if its partition's watermark before it was below end - 1 ms + lateness. A row
that no window takes is *late*. A window *closes* when the clock, the least of the partitions' watermarks, reaches
end - 1 ms: then no partition can bring a row that is on time any more.

Windows are made of slices. A row that comes before its partition's watermark reached the end of its slice waits in the
*buffer*; when the clock passes that end, the slice has all such rows, and they are folded, once, in the order of
partition and offset. The few other rows, *stragglers*, come after their slice was over but are taken by a window that
ends later, or by one within its lateness. They are kept as they are and folded anew with each window that takes them. A
window that closes merges the states of its slices in time order, stragglers behind their slice. So the result is a
function of the rows alone: not of batches, nor of the interleaving of partitions.

Windows that overlap do not merge slice by slice. The states of two neighbouring slices are merged into one *block*, those
of two neighbouring blocks into one of twice the length, and so on; a block of 2^n slices starts at a multiple of its
length. A window merges the fewest blocks that it is made of, at most two of each length. Which blocks there are and which
a window takes depends on the numbers of its slices alone, so floats are added in the same order whenever it closes. A group
with stragglers is merged slice by slice.

With allowed lateness, a record may come to windows that have closed: each gives the groups of the record's rows again,
with `revision` one higher, in the order of the input. All such records of a turn are met at once: rows know the sequence
number of their record, and each revision is made of the stragglers that had come up to its own.

Windows with an offset or a zone are worked out in *window time* (`headrace.plan.zone`): times of rows, slices and ends are
mapped as rows come in, and bounds are mapped back as rows are emitted. The clock stays an instant. A window has closed at
the clock if its end is at most the window time of the ms after it. Where the clocks of the zone skip a whole step, there
is no window that ends with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.kernels.columnar.aggregate import Folding
from headrace.kernels.columnar.calendar import instants_of, times_of
from headrace.kernels.columnar.coding import as_texts, concat
from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.columnar.watermark import NEVER
from headrace.plan.operators import Aggregate, Regroup
from headrace.plan.window import Window

__all__ = ["Fed", "RegroupKernel", "WindowKernel", "WindowState", "first_taken", "key_text"]


@dataclass(frozen=True, slots=True)
class Fed:
    """The result of feeding rows to a window kernel."""

    emitted: list[pl.DataFrame]
    late: pl.DataFrame
    taken: pl.Series


@dataclass
class WindowState:
    """The state of a window kernel.

    Attributes
    ----------
    clock
        The clock it has worked up to, in ms.
    buffer
        Rows that wait for the end of their slice, by partition, in the order of offsets.
    folded
        States by `@slice` and key, of slices that an open window may still need.
    stragglers
        Rows kept apart, with `@from`, the end of the first window that takes them.
    revisions
        How often each group of a closed window within its lateness was given: `@end`, the keys, `@revision`.
    blocks
        States of blocks of 2, 4, 8 … slices, `@slice` their first; None until worked out from `folded`, of which they follow.
    """

    clock: int = NEVER
    buffer: dict[int, list[pl.DataFrame]] = field(default_factory=dict)
    folded: pl.DataFrame | None = None
    stragglers: pl.DataFrame | None = None
    revisions: pl.DataFrame | None = None
    blocks: list[pl.DataFrame] | None = None


def first_taken(window: Window, lateness: int, over: pl.Expr | None = None) -> pl.Expr:
    """Return the end of the first window that takes a row, given its `@time` and `@watermark`; windows are `over` that end by then."""
    step = window.step_ms
    holds = pl.col("@time").floordiv(step) * step + step
    open_still = (pl.col("@watermark") + (1 - lateness) if over is None else over).floordiv(step) * step + step
    return pl.max_horizontal(holds, open_still)


def _last_end(window: Window, time: pl.Expr) -> pl.Expr:
    if window.kind == "cumulating":
        return time.floordiv(window.size_ms) * window.size_ms + window.size_ms
    return (time + window.size_ms).floordiv(window.step_ms) * window.step_ms


_PORTION = 40_000
_BOUNDS = ("@end", "@start", "@revision")
# Of rows that a window emits when it closes. For those that it emits again, `@reached` is the watermark before the late record.
_FIRST = [pl.lit(0, pl.Int64).alias("@revision"), pl.lit(0, pl.Int64).alias("@round"), pl.lit(NEVER, pl.Int64).alias("@reached")]
_WINDOW_COLUMNS = {
    "window_start": pl.col("@start").cast(pl.Datetime("ms", "UTC")).alias("window_start"),
    "window_end": pl.col("@end").cast(pl.Datetime("ms", "UTC")).alias("window_end"),
    "revision": pl.col("@revision").alias("revision"),
}


class WindowKernel:
    """One `Aggregate` of a plan.

    `revise_by` are the keys by which a late row's group is given again; `clock_column` is where rows carry the clock.
    If `keyed`, rows come out with `@key`, their keys as one text.
    """

    def __init__(self, operator: Aggregate, revise_by: Sequence[str] | None = None, clock_column: str = "@clock", *, keyed: bool = False) -> None:
        self._keyed = keyed
        self.window, self.lateness = operator.window, operator.lateness_ms
        self._calendar = self.window.calendar
        self._slice_ms, self._one_slice = self.window.slice_ms, self.window.one_slice
        overlapping = self.window.size_ms > self.window.step_ms
        self._levels = (self.window.size_ms // self._slice_ms).bit_length() - 1 if overlapping else 0
        self.clock_column = clock_column
        self.keys = list(operator.keys)
        self.revise_by = self.keys if revise_by is None else list(revise_by)
        self.folding = Folding(operator.calls)
        self._kept = list(dict.fromkeys((*self.keys, *sorted(self.folding.columns))))
        self._columns = [compile_expression(expression).alias(name) for name, expression in operator.columns]

    def feed(self, state: WindowState, partition: int, rows: pl.DataFrame) -> Fed:
        """Give the kernel rows of one partition or, with lateness, of all partitions in the order of the input.

        `rows` have `@record`, `@time` and `@watermark`; with lateness also `@partition`, and in `clock_column` the
        clock before the row.
        """
        given = rows
        rows = self._in_window_time(rows)
        fits = rows["@from"] <= rows.select(_last_end(self.window, pl.col("@time"))).to_series()
        taken, late = (rows, given.clear()) if fits.all() else (rows.filter(fits), given.filter(~fits))
        emitted = []
        if self.lateness:
            emitted = self._admit_revising(state, taken)
        else:
            self._admit(state, partition, taken)
        return Fed(emitted, late, taken["@record"])

    def _in_window_time(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows with `@time` and `@watermark` in window time, and with `@from`."""
        if self._calendar is None:
            return rows.with_columns(first_taken(self.window, self.lateness).alias("@from"))
        after = rows["@watermark"] + 1
        over = times_of(self._calendar, after - self.lateness).alias("@over")
        times = times_of(self._calendar, rows["@time"])
        rows = rows.with_columns(times, (times_of(self._calendar, after) - 1).alias("@watermark"), over)
        return rows.with_columns(first_taken(self.window, self.lateness, pl.col("@over")).alias("@from")).drop("@over")

    def _over(self, clock: int, lateness: int = 0) -> int:
        """Return the window time up to which windows are over at a clock, and with lateness are forgotten."""
        return self.window.time(clock + 1 - lateness)

    def _admit(self, state: WindowState, partition: int, taken: pl.DataFrame) -> None:
        """Put rows into the buffer or among the stragglers."""
        slice_ms = self._slice_ms
        sequence = ["@sequence"] if self.lateness else []
        rows = taken.select(*self._kept, *sequence, "@from", "@watermark", (pl.col("@time").floordiv(slice_ms) * slice_ms).alias("@slice"))
        behind = rows["@watermark"] >= rows["@slice"] + (slice_ms - 1)
        if behind.any():
            straggling = rows.filter(behind).select(pl.lit(partition, pl.Int64).alias("@partition"), "@slice", "@from", *self._kept, *sequence)
            state.stragglers = _with(state.stragglers, as_texts(straggling))
            rows = rows.filter(~behind)
        if len(rows):
            state.buffer.setdefault(partition, []).append(rows.select("@slice", *self._kept))

    def _admit_revising(self, state: WindowState, taken: pl.DataFrame) -> list[pl.DataFrame]:
        """Put rows into their place, and return what closed windows emit on their way: each again for each record that comes to it.

        All at once, and yet as if the records came one by one: a window shows what had come up to then, by `@sequence`.
        """
        if taken.is_empty():
            return []
        clock = pl.col(self.clock_column).cum_max().clip(lower_bound=state.clock)
        taken = taken.with_columns(pl.struct("@partition", "@record").rle_id().cast(pl.Int64).alias("@sequence"), clock.alias(self.clock_column))
        after = taken[self.clock_column] + 1
        taken = taken.with_columns((after if self._calendar is None else times_of(self._calendar, after)).alias("@over"))
        if state.stragglers is not None:
            state.stragglers = state.stragglers.with_columns(pl.lit(-1, pl.Int64).alias("@sequence"))
        for (partition,), part in taken.partition_by("@partition", as_dict=True, maintain_order=True).items():
            self._admit(state, partition, part)
        revising = taken.filter(pl.col("@from") <= pl.col("@over"))
        emitted = self._revise(state, revising) if len(revising) else []
        if state.stragglers is not None:
            state.stragglers = state.stragglers.drop("@sequence")
        return emitted

    def last_open_end(self, state: WindowState) -> int | None:
        """Return the end of the latest window that has rows and has not closed, if there is one."""
        frames = [*(rows for parts in state.buffer.values() for rows in parts), state.folded, state.stragglers]
        slices = [int(rows["@slice"].max()) for rows in frames if rows is not None and len(rows)]  # type: ignore[arg-type]
        end = max((self.window.last_end_at(one) for one in slices), default=None)
        return None if end is None or end <= self._over(state.clock) else self.window.instant(end)

    def count_open(self, state: WindowState) -> int:
        """Return how many windows have rows and have not closed."""
        frames = [*(rows for parts in state.buffer.values() for rows in parts), state.folded, state.stragglers]
        slices = {one for rows in frames if rows is not None for one in rows["@slice"].unique()}
        of, over = self.window, self._over(state.clock)
        ends = {end for one in slices for end in range(of.first_end_at(one), of.last_end_at(one) + 1, of.step_ms) if end > over}
        return len(ends if self._calendar is None else {of.instant(end) for end in ends})

    def advance(self, state: WindowState, clock: int) -> Iterator[pl.DataFrame]:
        """Move the clock: fold the slices that are over, and yield the rows of the windows that close, some windows at a time."""
        if clock <= state.clock:
            return
        if state.revisions is not None:
            state.revisions = _left(state.revisions, pl.col("@end") > self._over(clock, self.lateness))
        for closed in self._close(state, clock):
            yield self._finish(closed.with_columns(_FIRST))
        self._forget(state)

    def _close(self, state: WindowState, clock: int, until: pl.DataFrame | None = None) -> Iterator[pl.DataFrame]:
        """Move the clock, and yield the states of the windows that close; `until` as in `_merged`."""
        if clock <= state.clock:
            return
        before, state.clock = state.clock, clock
        self._fold(state, before)
        for closed in self._merged(state, self._over(before), self._over(clock), until=until):
            if self.lateness:
                given = closed.select("@end", *self.revise_by).unique(maintain_order=True).with_columns(pl.lit(0, pl.Int64).alias("@revision"))
                state.revisions = _with(state.revisions, given)
            yield closed

    def _fold(self, state: WindowState, before: int) -> None:
        """Fold the rows of slices that are over since the clock was `before`, in the order of partition and offset."""
        behind_last = self._over(state.clock) - self._slice_ms
        ready: list[pl.DataFrame] = []
        for partition in sorted(state.buffer):
            waiting = []
            for rows in state.buffer[partition]:
                over = rows["@slice"] <= behind_last
                if over.all():
                    ready.append(rows)
                elif over.any():
                    ready.append(rows.filter(over))
                    waiting.append(rows.filter(~over))
                else:
                    waiting.append(rows)
            state.buffer[partition] = waiting
        if ready:
            folded = self.folding.fold(concat(ready), ["@slice", *self.keys])
            state.folded = _with(state.folded, folded)
        self._build(state, before)

    def _build(self, state: WindowState, before: int) -> None:
        """Merge pairs of blocks into those that are over since the clock was `before`; into all, where none are known."""
        if not self._levels or state.folded is None:
            return
        parts = state.folded
        blocks: list[pl.DataFrame] = []
        for level in range(1, self._levels + 1):
            known, length = state.blocks[level - 1] if state.blocks else None, self._slice_ms << level
            over, was_over = (self._over(clock) // length * length for clock in (state.clock, before))
            if known is None or over > was_over:
                start = pl.col("@slice").floordiv(length) * length
                pairs = parts.filter((start < over) if known is None else (start < over) & (start >= was_over))
                merged = self.folding.merge(pairs.sort("@slice").with_columns(start), ["@slice", *self.keys])
                known = merged if known is None else pl.concat([known, merged])
            blocks.append(known)
            parts = known
        state.blocks = blocks

    def _merged(
        self, state: WindowState, after: int, upto: int, targets: pl.DataFrame | None = None, until: pl.DataFrame | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield one state for each window with an end in (after, upto] and key, some windows at a time.

        `targets` are groups of windows, by `@end` and the keys to revise by, each as it was when the record `@sequence` had come; then
        there is one state for each target and key. `until` tells when windows close, by `@over` and `@sequence`.
        """
        if upto // self.window.step_ms == after // self.window.step_ms or (state.folded is None and state.stragglers is None):
            return
        if state.blocks is None:
            self._build(state, NEVER)
        folded = [] if state.folded is None else [_of(rows, targets, self.revise_by) for rows in (state.folded, *(state.blocks or ()))]
        blocks = [self._with_ends(rows, level, after, upto) for level, rows in enumerate(folded)]
        slices = self._with_ends(folded[0], None, after, upto) if folded and self._levels else None
        straggling = []
        if state.stragglers is not None:
            stragglers = _of(state.stragglers, targets, self.revise_by).sort("@partition", maintain_order=True)
            straggling.append(self._with_ends(stragglers, None, after, upto))
        by = ["@end", *self.keys] if targets is None else ["@sequence", "@end", *self.keys]
        for first, last in self._portions([*blocks, *straggling]):
            parts = [part for rows in blocks if len(part := self._spread(rows, first, last))]
            late = [shown for rows in straggling if len(shown := self._shown(self._spread(rows, first, last), targets, until))]
            if targets is not None:
                parts = [self._for_targets(part, targets) for part in parts]
            if not late:
                yield from [parts[0].drop("@slice")] if self._one_slice and parts else [self._merge(parts, by)] if parts else []
                continue
            behind = self.folding.fold(late[0], [*by, "@slice"])
            groups = behind.select(by).unique()
            apart = [] if slices is None else [_of(self._spread(_of(slices, groups, self.keys), first, last), groups, ["@end", *self.keys])]
            if targets is not None:
                apart = [self._for_targets(part, targets) for part in apart]
            apart = [_of(part, groups, by) for part in (parts if slices is None else apart)]
            left = [part.join(groups, on=by, how="anti", nulls_equal=True, maintain_order="left") for part in parts]
            merged = self._merge([*apart, behind], by)
            others = [part.drop("@slice") for part in left] if self._one_slice else [self._merge(left, by)] if left else []
            yield pl.concat([merged, *(part.select(merged.columns) for part in others)])

    def _merge(self, parts: list[pl.DataFrame], by: list[str]) -> pl.DataFrame:
        """Merge states in the order of their slices."""
        columns = parts[0].columns
        return self.folding.merge(pl.concat([part.select(columns) for part in parts]).sort("@slice", maintain_order=True), by)

    def _shown(self, late: pl.DataFrame, targets: pl.DataFrame | None, until: pl.DataFrame | None) -> pl.DataFrame:
        """Return the stragglers that had come when their window closed, or for each target those that had come by then."""
        if targets is not None:
            came = late.rename({"@sequence": "@came"})
            return self._for_targets(came, targets).filter(pl.col("@came") <= pl.col("@sequence")).drop("@came")
        if until is None:
            return late
        closes = until["@sequence"].gather(until["@over"].search_sorted(late["@end"], "left"))
        return late.filter(late["@sequence"] < closes)

    def _for_targets(self, rows: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
        """Return each row for every target it belongs to, with its `@sequence`."""
        on = ["@end", *self.revise_by]
        return rows.join(targets.select("@sequence", *on), on=on, nulls_equal=True, maintain_order="left_right")

    def _with_ends(self, rows: pl.DataFrame, level: int | None, after: int, upto: int) -> pl.DataFrame:
        """Return the blocks of a level that windows with an end in (after, upto] take, with the `@first` and the `@last` of those ends.

        A window takes a block that lies in it, unless the block of twice the length does so too. At the level None, it takes every slice.
        """
        step, length = self.window.step_ms, self._slice_ms << (level or 0)
        start = pl.col("@slice")
        first, last = (start + (length + step - 1)).floordiv(step) * step, _last_end(self.window, start)
        if level is not None and self._levels:
            left = start.floordiv(length) % 2 == 0
            before_parent = (start + (2 * length - 1)).floordiv(step) * step
            first = pl.when(left).then(first).otherwise(pl.max_horizontal(first, _last_end(self.window, start - length) + step))
            last = pl.when(left).then(pl.min_horizontal(last, before_parent)).otherwise(last)
        elif "@from" in rows.columns:
            first = pl.max_horizontal(first, "@from")
        first = pl.max_horizontal(first, pl.lit(after // step * step + step)).alias("@first")
        last = pl.min_horizontal(last, pl.lit(upto // step * step)).alias("@last")
        return rows.with_columns(first, last).filter(pl.col("@first") <= pl.col("@last"))

    def _portions(self, frames: Sequence[pl.DataFrame]) -> Iterator[tuple[int, int]]:
        """Yield the ends of windows in portions, first and last, in each of which the rows spread to no more than some ten thousand."""
        ends = pl.concat([rows.select("@first", "@last") for rows in frames]).sort("@first")
        if ends.is_empty():
            return
        step, before = self.window.step_ms, pl.col("@last").cum_max().shift(1)
        new = pl.col("@last") - pl.max_horizontal(pl.col("@first") - step, before)
        sums = ends.select((pl.col("@last") - pl.col("@first") + step).sum().alias("spread"), new.clip(lower_bound=0).sum().alias("covered"))
        spread, covered = sums.row(0)
        last_of_all = int(ends["@last"].max())  # type: ignore[arg-type]
        if spread <= _PORTION * step:
            yield int(ends["@first"][0]), last_of_all
            return
        length = max(_PORTION * covered // spread, 1) * step
        last = -(2**63)
        while last < last_of_all:
            first = ends.filter(pl.col("@last") > last).select(pl.max_horizontal(pl.col("@first").min(), last + step)).item()
            last = first + length - step
            yield first, last

    def _spread(self, rows: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
        """Return each row once for every window in [first, last] that takes it, with its `@end`."""
        rows = rows.filter((pl.col("@first") <= last) & (pl.col("@last") >= first))
        if self._one_slice:
            return rows.rename({"@first": "@end"}).drop("@last")
        ends = pl.int_ranges(pl.col("@first").clip(lower_bound=first), pl.col("@last").clip(upper_bound=last) + 1, self.window.step_ms)
        return self._existing(rows.with_columns(ends.alias("@end")).drop("@first", "@last").explode("@end", empty_as_null=False))

    def _existing(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows without those of ends whose step the clocks of the zone skip."""
        if self._calendar is None or self.window.kind == "tumbling":
            return rows
        ends = rows["@end"].unique()
        skipped = ends.filter(instants_of(self._calendar, ends) == instants_of(self._calendar, ends - self.window.step_ms))
        return rows.filter(~pl.col("@end").is_in(skipped.implode())) if len(skipped) else rows

    def _forget(self, state: WindowState) -> None:
        """Drop what no window can need any more."""
        gone = self._over(state.clock, self.lateness)
        needed = _last_end(self.window, pl.col("@slice")) > gone
        if state.folded is not None:
            state.folded = _left(state.folded, needed)
        if state.blocks is not None:
            state.blocks = None if state.folded is None else [rows.filter(needed) for rows in state.blocks]
        if state.stragglers is not None:
            state.stragglers = _left(state.stragglers, needed)

    def _finish(self, merged: pl.DataFrame) -> pl.DataFrame:
        """Return the operator's rows, by window end, then key."""
        rows = self.folding.result(merged)
        end = pl.col("@end")
        start = (end - 1).floordiv(self.window.size_ms) * self.window.size_ms if self.window.kind == "cumulating" else end - self.window.size_ms
        rows = rows.with_columns(start.alias("@start"))
        key = [key_text(self.keys)] if self._keyed else []
        if self._calendar is not None:
            rows = rows.with_columns(instants_of(self._calendar, rows[bound]).alias(bound) for bound in ("@start", "@end"))
        turns = ["@round", "@reached"] if self.lateness else []
        return rows.select(*turns, *_BOUNDS, *key, *self.keys, *self._columns, *_WINDOW_COLUMNS.values()).sort(*turns[:1], "@end", *self.keys)

    # revisions

    def _revise(self, state: WindowState, rows: pl.DataFrame) -> list[pl.DataFrame]:
        """Return what windows emit up to the last of these rows, which come to closed ones: those that close until then, and each group again.

        `@round` tells the order: a record's windows come behind those that close before it.
        """
        until = rows.select("@sequence", "@over")
        rounds = []
        for closed in self._close(state, int(rows[self.clock_column][-1]), until):
            closes = until["@sequence"].gather(until["@over"].search_sorted(closed["@end"], "left"))
            rounds.append(closed.with_columns(_FIRST).with_columns((closes * 2).alias("@round")))
        targets = self._count_revisions(state, self._targets(rows))
        reached = rows.select("@sequence", pl.col(self.clock_column).alias("@reached")).unique("@sequence", keep="first")
        most = 1 if state.stragglers is None else max(1, len(_of(state.stragglers, targets, self.revise_by)) // len(rows))
        for some in targets.iter_slices(max(1, _PORTION // most)):
            after, upto = int(some["@end"].min()) - 1, int(some["@end"].max())  # type: ignore[arg-type]
            for merged in self._merged(state, after, upto, some):
                again = merged.join(some, on=["@sequence", "@end", *self.revise_by], nulls_equal=True, maintain_order="left")
                again = again.join(reached, on="@sequence", how="left", maintain_order="left")
                rounds.append(again.with_columns((pl.col("@sequence") * 2 + 1).alias("@round")).drop("@sequence"))
        self._forget(state)
        if not rounds:
            return []
        columns = rounds[0].columns
        return [self._finish(pl.concat([one.select(columns) for one in rounds]))]

    def _targets(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the groups of closed windows that rows come to: `@sequence`, `@end` and the keys to revise by."""
        step = self.window.step_ms
        last = pl.min_horizontal("@over", _last_end(self.window, pl.col("@time"))).floordiv(step) * step
        ends = pl.int_ranges(pl.col("@from"), last + 1, step).alias("@end")
        return self._existing(rows.select("@sequence", ends, *self.revise_by).explode("@end", empty_as_null=False)).unique(maintain_order=True)

    def _count_revisions(self, state: WindowState, targets: pl.DataFrame) -> pl.DataFrame:
        """Return the targets with their `@revision`, and remember it."""
        key = ["@end", *self.revise_by]
        known = targets.clear().select(*key, pl.lit(0, pl.Int64).alias("@revision")) if state.revisions is None else state.revisions
        before = pl.col("@revision").fill_null(-1) + 1
        counted = targets.join(known, on=key, how="left", nulls_equal=True, maintain_order="left").with_columns(
            before + pl.int_range(pl.len(), dtype=pl.Int64).over(key)
        )
        again = counted.group_by(key, maintain_order=True).agg(pl.last("@revision"))
        left = known.join(again, on=key, how="anti", nulls_equal=True, maintain_order="left")
        state.revisions = pl.concat([left, again.select(left.columns)])
        return counted


class RegroupKernel:
    """One `Regroup` of a plan: the rows that windows gave, grouped further within their window."""

    def __init__(self, operator: Regroup, *, keyed: bool = False) -> None:
        self._keyed = keyed
        self.keys = list(operator.keys)
        self.folding = Folding(operator.calls)
        self._columns = [compile_expression(expression).alias(name) for name, expression in operator.columns]

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return one row for each window and key."""
        turns = [one for one in ("@round", "@reached") if one in rows.columns]
        result = self.folding.result(self.folding.fold(rows, [*turns, *_BOUNDS, *self.keys]))
        bounds = [column for name, column in _WINDOW_COLUMNS.items() if name not in self.keys]
        key = [key_text(self.keys)] if self._keyed else []
        return result.select(*turns, *_BOUNDS, *key, *self.keys, *self._columns, *bounds).sort(*turns[:1], "@end", *self.keys)


def key_text(keys: Sequence[str]) -> pl.Expr:
    """Return the keys as one text, `@key`, by which a log chooses the partition."""
    return pl.concat_str([pl.col(key).cast(pl.String).fill_null("") for key in keys] or [pl.lit("")], separator="\x1f").alias("@key")


def _of(rows: pl.DataFrame, groups: pl.DataFrame | None, by: list[str]) -> pl.DataFrame:
    """Return the rows of the groups alone, if they are given and there is a key."""
    return rows if groups is None or not by else rows.join(groups, on=by, how="semi", nulls_equal=True, maintain_order="left")


def _with(rows: pl.DataFrame | None, more: pl.DataFrame) -> pl.DataFrame:
    return more if rows is None else pl.concat([rows, more])


def _left(rows: pl.DataFrame, needed: pl.Expr) -> pl.DataFrame | None:
    """Return the rows that are needed, the very frame if all are, so that it need not be stored again."""
    kept = rows.filter(needed)
    return rows if len(kept) == len(rows) else kept if len(kept) else None
