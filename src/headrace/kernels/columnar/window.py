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

With allowed lateness, a record may come to windows that have closed: each gives the groups of the record's rows again,
with `revision` one higher. Such records are met one by one, in the order of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.kernels.columnar.aggregate import Folding
from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.columnar.watermark import NEVER
from headrace.plan.operators import Aggregate, Regroup
from headrace.plan.window import Window

__all__ = ["Fed", "RegroupKernel", "WindowKernel", "WindowState", "first_taken", "key_text"]


@dataclass(frozen=True, slots=True)
class Fed:
    """What rows given to a window kernel led to."""

    emitted: list[pl.DataFrame]
    late: pl.DataFrame
    taken: pl.Series


@dataclass
class WindowState:
    """What a window kernel remembers.

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
    """

    clock: int = NEVER
    buffer: dict[int, list[pl.DataFrame]] = field(default_factory=dict)
    folded: pl.DataFrame | None = None
    stragglers: pl.DataFrame | None = None
    revisions: pl.DataFrame | None = None


def first_taken(window: Window, lateness: int) -> pl.Expr:
    """Return the end of the first window that takes a row, given its `@time` and `@watermark`."""
    step = window.step_ms
    holds = pl.col("@time").floordiv(step) * step + step
    open_still = (pl.col("@watermark") + (1 - lateness)).floordiv(step) * step + step
    return pl.max_horizontal(holds, open_still)


def _last_end(window: Window, time: pl.Expr) -> pl.Expr:
    if window.kind == "cumulating":
        return time.floordiv(window.size_ms) * window.size_ms + window.size_ms
    return (time + window.size_ms).floordiv(window.step_ms) * window.step_ms


_BOUNDS = ("@end", "@start", "@revision")
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
        self._slice_ms, self._one_slice = self.window.slice_ms, self.window.one_slice
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
        rows = rows.with_columns(first_taken(self.window, self.lateness).alias("@from"))
        fits = rows["@from"] <= rows.select(_last_end(self.window, pl.col("@time"))).to_series()
        taken, late = (rows, rows.clear()) if fits.all() else (rows.filter(fits), rows.filter(~fits))
        emitted = []
        if self.lateness:
            emitted = self._admit_one_by_one(state, taken)
        else:
            self._admit(state, partition, taken)
        return Fed(emitted, late.drop("@from"), taken["@record"])

    def _admit(self, state: WindowState, partition: int, taken: pl.DataFrame) -> None:
        """Put rows into the buffer or among the stragglers."""
        slice_ms = self._slice_ms
        rows = taken.select(*self._kept, "@from", "@watermark", (pl.col("@time").floordiv(slice_ms) * slice_ms).alias("@slice"))
        behind = rows["@watermark"] >= rows["@slice"] + (slice_ms - 1)
        if behind.any():
            straggling = rows.filter(behind).select(pl.lit(partition, pl.Int64).alias("@partition"), "@slice", "@from", *self._kept)
            state.stragglers = _with(state.stragglers, straggling)
            rows = rows.filter(~behind)
        if len(rows):
            state.buffer.setdefault(partition, []).append(rows.select("@slice", *self._kept))

    def _admit_one_by_one(self, state: WindowState, taken: pl.DataFrame) -> list[pl.DataFrame]:
        """Put rows into their place, giving closed windows again for each record that comes to one."""
        revising = pl.col("@from") - 1 <= pl.col(self.clock_column)
        records = (
            taken.select(revising.alias("revises"), pl.col("@record").rle_id().alias("of"))
            .with_row_index("first")
            .group_by("of", maintain_order=True)
        )
        emitted: list[pl.DataFrame] = []
        start = 0
        for first, count in records.agg(pl.first("first"), pl.len(), pl.first("revises")).filter("revises").select("first", "len").iter_rows():
            self._admit_parts(state, taken[start:first])
            rows = taken[first : first + count]
            emitted += self.advance(state, rows[self.clock_column][0])
            self._admit_parts(state, rows)
            emitted += self._revise(state, rows)
            start = first + count
        self._admit_parts(state, taken[start:])
        return emitted

    def _admit_parts(self, state: WindowState, rows: pl.DataFrame) -> None:
        if len(rows):
            for (partition,), part in rows.partition_by("@partition", as_dict=True, maintain_order=True).items():
                self._admit(state, partition, part)

    def last_open_end(self, state: WindowState) -> int | None:
        """Return the end of the latest window that has rows and has not closed, if there is one."""
        frames = [*(rows for parts in state.buffer.values() for rows in parts), state.folded, state.stragglers]
        slices = [int(rows["@slice"].max()) for rows in frames if rows is not None and len(rows)]  # type: ignore[arg-type]
        end = max((self.window.last_end(one) for one in slices), default=None)
        return None if end is None or end - 1 <= state.clock else end

    def advance(self, state: WindowState, clock: int) -> list[pl.DataFrame]:
        """Move the clock: fold the slices that are over, and return the rows of the windows that close, if any."""
        if clock <= state.clock:
            return []
        before, state.clock = state.clock, clock
        self._fold(state)
        closed = self._merged(state, before + 1, clock + 1)
        self._forget(state)
        if closed is None:
            return []
        if self.lateness:
            self._remember_given(state, closed)
        return [self._finish(closed.with_columns(pl.lit(0, pl.Int64).alias("@revision")))]

    def _fold(self, state: WindowState) -> None:
        """Fold the rows of slices that are over, in the order of partition and offset."""
        behind_last = state.clock + 1 - self._slice_ms
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
            folded = self.folding.fold(pl.concat(ready), ["@slice", *self.keys])
            state.folded = _with(state.folded, folded)

    def _merged(self, state: WindowState, after: int, upto: int, group: pl.DataFrame | None = None) -> pl.DataFrame | None:
        """Return one state for each window with an end in (after, upto] and key; of one `group` alone if it is given."""
        parts = []
        if state.folded is not None:
            parts.append(self._spread(self._of_group(state.folded, group), after, upto))
        if state.stragglers is not None:
            rows = self._spread(self._of_group(state.stragglers, group).sort("@partition", maintain_order=True), after, upto)
            rows = rows.filter(pl.col("@end") >= pl.col("@from"))
            parts.append(self.folding.fold(rows, ["@end", "@slice", *self.keys]))
        parts = [part for part in parts if len(part)]
        if not parts:
            return None
        if self._one_slice and len(parts) == 1:
            return parts[0].drop("@slice")
        columns = parts[0].columns
        states = pl.concat([part.select(columns) for part in parts]).sort("@slice", maintain_order=True)
        return self.folding.merge(states, ["@end", *self.keys])

    def _of_group(self, rows: pl.DataFrame, group: pl.DataFrame | None) -> pl.DataFrame:
        return (
            rows if group is None or not self.revise_by else rows.join(group, on=self.revise_by, how="semi", nulls_equal=True, maintain_order="left")
        )

    def _spread(self, rows: pl.DataFrame, after: int, upto: int) -> pl.DataFrame:
        """Return each row once for every window that holds its slice and ends in (after, upto], as `@end`."""
        step, start = self.window.step_ms, pl.col("@slice")
        first = pl.max_horizontal(start.floordiv(step) * step + step, pl.lit(after // step * step + step))
        last = pl.min_horizontal(_last_end(self.window, start), pl.lit(upto))
        if self._one_slice:
            return rows.with_columns((start + step).alias("@end")).filter((pl.col("@end") > after) & (pl.col("@end") <= upto))
        return rows.with_columns(pl.int_ranges(first, last + 1, step).alias("@end")).explode("@end", empty_as_null=False)

    def _forget(self, state: WindowState) -> None:
        """Drop what no window can need any more."""
        gone = state.clock + 1 - self.lateness
        needed = _last_end(self.window, pl.col("@slice")) > gone
        if state.folded is not None:
            state.folded = _left(state.folded, needed)
        if state.stragglers is not None:
            state.stragglers = _left(state.stragglers, needed)
        if state.revisions is not None:
            state.revisions = _left(state.revisions, pl.col("@end") > gone)

    def _finish(self, merged: pl.DataFrame) -> pl.DataFrame:
        """Return the operator's rows, by window end, then key."""
        rows = self.folding.result(merged)
        end = pl.col("@end")
        start = (end - 1).floordiv(self.window.size_ms) * self.window.size_ms if self.window.kind == "cumulating" else end - self.window.size_ms
        rows = rows.with_columns(start.alias("@start"))
        key = [key_text(self.keys)] if self._keyed else []
        return rows.select(*_BOUNDS, *key, *self.keys, *self._columns, *_WINDOW_COLUMNS.values()).sort("@end", *self.keys)

    # revisions

    def _remember_given(self, state: WindowState, closed: pl.DataFrame) -> None:
        given = closed.select("@end", *self.revise_by).unique(maintain_order=True).with_columns(pl.lit(0, pl.Int64).alias("@revision"))
        state.revisions = _with(state.revisions, given)

    def _revise(self, state: WindowState, rows: pl.DataFrame) -> list[pl.DataFrame]:
        """Return the groups of a record's rows, which have come to closed windows, as each of them gives it now."""
        after, upto = rows["@from"][0] - 1, min(state.clock + 1, self.window.last_end(rows["@time"][0]))
        merged = self._merged(state, after, upto, rows.select(self.revise_by))
        if merged is None:
            return []
        key = ["@end", *self.revise_by]
        again = merged.select(key).unique(maintain_order=True)
        if state.revisions is None:
            again = again.with_columns(pl.lit(0, pl.Int64).alias("@revision"))
        else:
            again = again.join(state.revisions, on=key, how="left", nulls_equal=True, maintain_order="left").with_columns(
                (pl.col("@revision") + 1).fill_null(0)
            )
            state.revisions = state.revisions.join(again, on=key, how="anti", nulls_equal=True, maintain_order="left")
        state.revisions = _with(state.revisions, again)
        return [self._finish(merged.join(again, on=key, how="left", nulls_equal=True, maintain_order="left"))]


class RegroupKernel:
    """One `Regroup` of a plan: the rows that windows gave, grouped further within their window."""

    def __init__(self, operator: Regroup, *, keyed: bool = False) -> None:
        self._keyed = keyed
        self.keys = list(operator.keys)
        self.folding = Folding(operator.calls)
        self._columns = [compile_expression(expression).alias(name) for name, expression in operator.columns]

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return one row for each window and key."""
        result = self.folding.result(self.folding.fold(rows, [*_BOUNDS, *self.keys]))
        bounds = [column for name, column in _WINDOW_COLUMNS.items() if name not in self.keys]
        key = [key_text(self.keys)] if self._keyed else []
        return result.select(*_BOUNDS, *key, *self.keys, *self._columns, *bounds).sort("@end", *self.keys)


def key_text(keys: Sequence[str]) -> pl.Expr:
    """Return the keys as one text, `@key`, by which a log chooses the partition."""
    return pl.concat_str([pl.col(key).cast(pl.String).fill_null("") for key in keys] or [pl.lit("")], separator="\x1f").alias("@key")


def _with(rows: pl.DataFrame | None, more: pl.DataFrame) -> pl.DataFrame:
    return more if rows is None else pl.concat([rows, more])


def _left(rows: pl.DataFrame, needed: pl.Expr) -> pl.DataFrame | None:
    """Return the rows that are needed, the very frame if all are, so that it need not be stored again."""
    kept = rows.filter(needed)
    return rows if len(kept) == len(rows) else kept if len(kept) else None
