"""The merging of slices into windows, by blocks of slices where windows overlap; the theory of it stands with the window kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from headrace.kernels.columnar.aggregate import Folding
from headrace.kernels.columnar.calendar import instants_of
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.columnar.window_ends import last_end, over_at
from headrace.kernels.columnar.window_state import WindowState, of_groups
from headrace.plan.window import Window

__all__ = ["PORTION", "Merging"]

PORTION = 40_000


class Merging:
    """Merges the states of slices, and stragglers behind them. `revise_by` are the keys by which a late row's group is given again."""

    def __init__(self, window: Window, folding: Folding, keys: list[str], revise_by: list[str]) -> None:
        self.window, self.folding, self.keys, self.revise_by = window, folding, keys, revise_by
        self._calendar = window.calendar
        self._slice_ms, self._one_slice = window.slice_ms, window.one_slice
        overlapping = window.size_ms > window.step_ms
        self._levels = (window.size_ms // self._slice_ms).bit_length() - 1 if overlapping else 0

    def build(self, state: WindowState, before: int) -> None:
        """Merge pairs of blocks into those that are over since the clock was `before`; into all, where none are known."""
        if not self._levels or state.folded is None:
            return
        parts = state.folded
        blocks: list[pl.DataFrame] = []
        for level in range(1, self._levels + 1):
            known, length = state.blocks[level - 1] if state.blocks else None, self._slice_ms << level
            over, was_over = (over_at(self.window, clock) // length * length for clock in (state.clock, before))
            if known is None or over > was_over:
                start = pl.col("@slice").floordiv(length) * length
                pairs = parts.filter((start < over) if known is None else (start < over) & (start >= was_over))
                merged = self.folding.merge(pairs.sort("@slice").with_columns(start), ["@slice", *self.keys])
                known = merged if known is None else pl.concat([known, merged])
            blocks.append(known)
            parts = known
        state.blocks = blocks

    def merged(
        self, state: WindowState, after: int, upto: int, targets: pl.DataFrame | None = None, until: pl.DataFrame | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield one state for each window with an end in (after, upto] and key, some windows at a time.

        `targets` are groups of windows, by `@end` and the keys to revise by, each as it was when the record `@sequence` had come; then
        there is one state for each target and key. `until` tells when windows close, by `@over` and `@sequence`.
        """
        if upto // self.window.step_ms == after // self.window.step_ms or (state.folded is None and state.stragglers is None):
            return
        if state.blocks is None:
            self.build(state, NEVER)
        folded = [] if state.folded is None else [of_groups(rows, targets, self.revise_by) for rows in (state.folded, *(state.blocks or ()))]
        blocks = [self._with_ends(rows, level, after, upto) for level, rows in enumerate(folded)]
        slices = self._with_ends(folded[0], None, after, upto) if folded and self._levels else None
        straggling = []
        if state.stragglers is not None:
            stragglers = of_groups(state.stragglers, targets, self.revise_by).sort("@partition", maintain_order=True)
            straggling.append(self._with_ends(stragglers, None, after, upto))
        by = ["@end", *self.keys] if targets is None else ["@sequence", "@end", *self.keys]
        for first, last in self._portions([*blocks, *straggling]):
            parts = self._for_targets([part for rows in blocks if len(part := self._spread(rows, first, last))], targets)
            late = [shown for rows in straggling if len(shown := self._shown(self._spread(rows, first, last), targets, until))]
            if not late:
                yield from self._whole(parts, by)
                continue
            behind = self.folding.fold(late[0], [*by, "@slice"])
            groups = behind.select(by).unique()
            apart = parts
            if slices is not None:
                spread = self._spread(of_groups(slices, groups, self.keys), first, last)
                apart = self._for_targets([of_groups(spread, groups, ["@end", *self.keys])], targets)
            merged = self._merge([*(of_groups(part, groups, by) for part in apart), behind], by)
            left = [part.join(groups, on=by, how="anti", nulls_equal=True, maintain_order="left") for part in parts]
            yield pl.concat([merged, *(part.select(merged.columns) for part in self._whole(left, by))])

    def _whole(self, parts: list[pl.DataFrame], by: list[str]) -> list[pl.DataFrame]:
        """Return the states of windows without stragglers: those of their slice, where they have only one, else merged."""
        if not parts:
            return []
        return [part.drop("@slice") for part in parts] if self._one_slice else [self._merge(parts, by)]

    def _merge(self, parts: list[pl.DataFrame], by: list[str]) -> pl.DataFrame:
        """Merge states in the order of their slices."""
        columns = parts[0].columns
        return self.folding.merge(pl.concat([part.select(columns) for part in parts]).sort("@slice", maintain_order=True), by)

    def _shown(self, late: pl.DataFrame, targets: pl.DataFrame | None, until: pl.DataFrame | None) -> pl.DataFrame:
        """Return the stragglers that had come when their window closed, or for each target those that had come by then."""
        if targets is not None:
            came = late.rename({"@sequence": "@came"})
            return self._for_targets([came], targets)[0].filter(pl.col("@came") <= pl.col("@sequence")).drop("@came")
        if until is None:
            return late
        closes = until["@sequence"].gather(until["@over"].search_sorted(late["@end"], "left"))
        return late.filter(late["@sequence"] < closes)

    def _for_targets(self, parts: list[pl.DataFrame], targets: pl.DataFrame | None) -> list[pl.DataFrame]:
        """Return each row for every target it belongs to, with its `@sequence`; as it is, where there are no targets."""
        if targets is None:
            return parts
        on = ["@end", *self.revise_by]
        return [rows.join(targets.select("@sequence", *on), on=on, nulls_equal=True, maintain_order="left_right") for rows in parts]

    def _with_ends(self, rows: pl.DataFrame, level: int | None, after: int, upto: int) -> pl.DataFrame:
        """Return the blocks of a level that windows with an end in (after, upto] take, with the `@first` and the `@last` of those ends.

        A window takes a block that lies in it, unless the block of twice the length does so too. At the level None, it takes every slice.
        """
        step, length = self.window.step_ms, self._slice_ms << (level or 0)
        start = pl.col("@slice")
        first, last = (start + (length + step - 1)).floordiv(step) * step, last_end(self.window, start)
        if level is not None and self._levels:
            left = start.floordiv(length) % 2 == 0
            before_parent = (start + (2 * length - 1)).floordiv(step) * step
            first = pl.when(left).then(first).otherwise(pl.max_horizontal(first, last_end(self.window, start - length) + step))
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
        if spread <= PORTION * step:
            yield int(ends["@first"][0]), last_of_all
            return
        length = max(PORTION * covered // spread, 1) * step
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
        return self.existing(rows.with_columns(ends.alias("@end")).drop("@first", "@last").explode("@end", empty_as_null=False))

    def existing(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows without those of ends whose step the clocks of the zone skip."""
        if self._calendar is None or self.window.kind == "tumbling":
            return rows
        ends = rows["@end"].unique()
        skipped = ends.filter(instants_of(self._calendar, ends) == instants_of(self._calendar, ends - self.window.step_ms))
        return rows.filter(~pl.col("@end").is_in(skipped.implode())) if len(skipped) else rows
