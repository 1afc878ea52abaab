"""The order of the input where it matters: unwindowed output, and lateness.

Partitions are merged on `@order`, which never falls within one, ties in the order of the partitions. In a log it is the
place among all records appended. Files are merged on the event time of their head records and never sorted inside, which
is the same as sorting, stably, by each partition's greatest event time so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from headrace.kernels.columnar.coding import concat
from headrace.kernels.columnar.watermark import FEW, FOREVER, NEVER

__all__ = ["clock_before", "due_before", "gathered", "in_order", "in_time", "turn"]


def in_order(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of `parts`, one frame a partition and in the partitions' order, in the order of the input."""
    return parts[0] if len(parts) == 1 else pl.concat(parts).sort("@order", maintain_order=True)


def gathered(waiting: dict[int, list[pl.DataFrame]]) -> list[tuple[int, pl.DataFrame]]:
    """Take out the rows that wait, partition by partition; where they came by several ways, in the order of the records."""
    parts = []
    for rank, frames in sorted(waiting.items()):
        parts.append((rank, frames[0] if len(frames) == 1 else concat(frames).sort("@record", maintain_order=True)))
    waiting.clear()
    return parts


def in_time(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows by their times, those of one time as they were."""
    return rows if rows["@time"].is_sorted() else rows.sort("@time", maintain_order=True)


def due_before(pending: dict[int, list[pl.DataFrame]], clock: int) -> pl.DataFrame | None:
    """Take out the pending rows of times before the clock: by time, those of one time by partition and offset, as a keyed kernel's scheduler wants them.

    Of each partition there are frames by time, those of one time in the order of offsets.
    """
    ready = []
    for rank in sorted(pending):
        left = []
        for rows in pending[rank]:
            count = int(rows["@time"].search_sorted(clock, side="left"))
            if count:
                ready.append(rows[:count])
            if count < len(rows):
                left.append(rows if not count else rows[count:])
        pending[rank] = left
    if not ready:
        return None
    return ready[0] if len(ready) == 1 else pl.concat(ready).sort("@time", maintain_order=True)


def turn(orders: Mapping[int, pl.Series], unfinished: set[int]) -> dict[int, int]:
    """Return how many rows of each partition come next, for sure before any row not read yet.

    `orders` has the `@order` of the rows at hand, by partition. A partition that has more to come is `unfinished`.
    """
    if any(orders[p].is_empty() for p in unfinished):
        return dict.fromkeys(orders, 0)
    last = {p: int(orders[p][-1]) for p in unfinished}
    if not last:
        return {p: len(order) for p, order in orders.items()}
    bound = min(last.values())
    holder = min(p for p, order in last.items() if order == bound)
    return {p: int((order <= bound).sum() if p <= holder else (order < bound).sum()) for p, order in orders.items()}


def clock_before(rows: pl.DataFrame, watermarks: Mapping[int, int], delays: Mapping[int, int], finished: set[int]) -> pl.Series:
    """Return the clock before each row.

    Parameters
    ----------
    rows
        All well-formed records of a turn in the order of the input, with `@partition` and `@shown`, the greatest event time so far.
    watermarks
        Each partition's watermark before the turn.
    delays
        Each partition's delay, in ms.
    finished
        Partitions whose end comes within the turn: behind their last row they hold nothing back.
    """
    if rows.is_empty():
        return pl.Series("@clock", [], dtype=pl.Int64)
    return (_clock_before_few if len(rows) <= FEW else _clock_before_many)(rows, watermarks, delays, finished)


def _clock_before_few(rows: pl.DataFrame, watermarks: Mapping[int, int], delays: Mapping[int, int], finished: set[int]) -> pl.Series:
    partitions, shown = rows["@partition"].to_list(), rows["@shown"].to_list()
    last = {partition: place for place, partition in enumerate(partitions) if partition in finished}
    marks = {partition: FOREVER if partition in finished and partition not in last else mark for partition, mark in watermarks.items()}
    clocks = []
    for place, partition in enumerate(partitions):
        clocks.append(min(marks.values()))
        if partition in marks:
            marks[partition] = FOREVER if last.get(partition) == place else max(shown[place] - delays[partition], NEVER)
    return pl.Series("@clock", clocks, dtype=pl.Int64)


def _clock_before_many(rows: pl.DataFrame, watermarks: Mapping[int, int], delays: Mapping[int, int], finished: set[int]) -> pl.Series:
    columns = []
    for partition, before in watermarks.items():
        watermark = before
        mine = rows["@partition"] == partition
        after = rows.select(pl.when(mine).then((pl.col("@shown") - delays[partition]).clip(lower_bound=NEVER))).to_series()
        if partition in finished:
            places = mine.arg_true()
            if len(places):
                after = after.scatter(int(places[-1]), FOREVER)
            else:
                watermark = FOREVER
        columns.append(after.shift(1).scatter(0, watermark).forward_fill().alias(str(partition)))
    return pl.select(pl.min_horizontal(columns)).to_series().alias("@clock")
