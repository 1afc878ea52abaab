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

import polars as pl

from headrace.kernels.columnar.aggregate import Folding
from headrace.kernels.columnar.calendar import instants_of, times_of
from headrace.kernels.columnar.coding import as_texts, concat
from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.columnar.window_ends import first_taken, last_end, over_at
from headrace.kernels.columnar.window_merging import PORTION, Merging
from headrace.kernels.columnar.window_state import Fed, WindowState, left_of, of_groups, with_more
from headrace.plan.operators import Aggregate, Regroup

__all__ = ["RegroupKernel", "WindowKernel", "WindowState", "key_text"]


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
        self._slice_ms = self.window.slice_ms
        self.clock_column = clock_column
        self.keys = list(operator.keys)
        self.revise_by = self.keys if revise_by is None else list(revise_by)
        self.folding = Folding(operator.calls)
        self._merging = Merging(self.window, self.folding, self.keys, self.revise_by)
        self._kept = list(dict.fromkeys((*self.keys, *sorted(self.folding.columns))))
        self._columns = [compile_expression(expression).alias(name) for name, expression in operator.columns]

    def feed(self, state: WindowState, partition: int, rows: pl.DataFrame) -> Fed:
        """Give the kernel rows of one partition or, with lateness, of all partitions in the order of the input.

        `rows` have `@record`, `@time` and `@watermark`; with lateness also `@partition`, and in `clock_column` the
        clock before the row.
        """
        given = rows
        rows = self._in_window_time(rows)
        fits = rows["@from"] <= rows.select(last_end(self.window, pl.col("@time"))).to_series()
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

    def _admit(self, state: WindowState, partition: int, taken: pl.DataFrame) -> None:
        """Put rows into the buffer or among the stragglers."""
        slice_ms = self._slice_ms
        sequence = ["@sequence"] if self.lateness else []
        rows = taken.select(*self._kept, *sequence, "@from", "@watermark", (pl.col("@time").floordiv(slice_ms) * slice_ms).alias("@slice"))
        behind = rows["@watermark"] >= rows["@slice"] + (slice_ms - 1)
        if behind.any():
            straggling = rows.filter(behind).select(pl.lit(partition, pl.Int64).alias("@partition"), "@slice", "@from", *self._kept, *sequence)
            state.stragglers = with_more(state.stragglers, as_texts(straggling))
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
        return None if end is None or end <= over_at(self.window, state.clock) else self.window.instant(end)

    def count_open(self, state: WindowState) -> int:
        """Return how many windows have rows and have not closed."""
        frames = [*(rows for parts in state.buffer.values() for rows in parts), state.folded, state.stragglers]
        slices = {one for rows in frames if rows is not None for one in rows["@slice"].unique()}
        of, over = self.window, over_at(self.window, state.clock)
        ends = {end for one in slices for end in range(of.first_end_at(one), of.last_end_at(one) + 1, of.step_ms) if end > over}
        return len(ends if self._calendar is None else {of.instant(end) for end in ends})

    def advance(self, state: WindowState, clock: int) -> Iterator[pl.DataFrame]:
        """Move the clock: fold the slices that are over, and yield the rows of the windows that close, some windows at a time."""
        if clock <= state.clock:
            return
        if state.revisions is not None:
            state.revisions = left_of(state.revisions, pl.col("@end") > over_at(self.window, clock, self.lateness))
        for closed in self._close(state, clock):
            yield self._finish(closed.with_columns(_FIRST))
        self._forget(state)

    def _close(self, state: WindowState, clock: int, until: pl.DataFrame | None = None) -> Iterator[pl.DataFrame]:
        """Move the clock, and yield the states of the windows that close; `until` as in `_merged`."""
        if clock <= state.clock:
            return
        before, state.clock = state.clock, clock
        self._fold(state, before)
        for closed in self._merging.merged(state, over_at(self.window, before), over_at(self.window, clock), until=until):
            if self.lateness:
                given = closed.select("@end", *self.revise_by).unique(maintain_order=True).with_columns(pl.lit(0, pl.Int64).alias("@revision"))
                state.revisions = with_more(state.revisions, given)
            yield closed

    def _fold(self, state: WindowState, before: int) -> None:
        """Fold the rows of slices that are over since the clock was `before`, in the order of partition and offset."""
        behind_last = over_at(self.window, state.clock) - self._slice_ms
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
            state.folded = with_more(state.folded, folded)
        self._merging.build(state, before)

    def _forget(self, state: WindowState) -> None:
        """Drop what no window can need any more."""
        gone = over_at(self.window, state.clock, self.lateness)
        needed = last_end(self.window, pl.col("@slice")) > gone
        if state.folded is not None:
            state.folded = left_of(state.folded, needed)
        if state.blocks is not None:
            state.blocks = None if state.folded is None else [rows.filter(needed) for rows in state.blocks]
        if state.stragglers is not None:
            state.stragglers = left_of(state.stragglers, needed)

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
        most = 1 if state.stragglers is None else max(1, len(of_groups(state.stragglers, targets, self.revise_by)) // len(rows))
        for some in targets.iter_slices(max(1, PORTION // most)):
            after, upto = int(some["@end"].min()) - 1, int(some["@end"].max())  # type: ignore[arg-type]
            for merged in self._merging.merged(state, after, upto, some):
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
        last = pl.min_horizontal("@over", last_end(self.window, pl.col("@time"))).floordiv(step) * step
        ends = pl.int_ranges(pl.col("@from"), last + 1, step).alias("@end")
        return self._merging.existing(rows.select("@sequence", ends, *self.revise_by).explode("@end", empty_as_null=False)).unique(
            maintain_order=True
        )

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
