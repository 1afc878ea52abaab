"""Event time, partition by partition: the watermark before each record, and the clock that closes windows.

The watermark of a partition is the greatest event time it has shown, less the delay. Every well-formed record moves it.
Whether a record is late is asked of the watermark of its own partition before that record, so neither batches nor other
partitions have a say in it. The clock is the least of the watermarks; a partition read to its end stops holding it back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import polars as pl

__all__ = ["FEW", "FOREVER", "NEVER", "Clock", "watermark_before"]

NEVER = -(2**62)
FOREVER = 2**62
FEW = 64
"""Up to so many rows, plain Python is faster than a query of Polars, which costs as much as computing on thousands."""


def watermark_before(times: pl.Series, greatest: int, delay: int) -> tuple[pl.Series, pl.Series]:
    """Return the partition's watermark before each of its records, and the greatest event time up to each.

    `times` are event times in ms, in the order of the partition; `greatest` is what it had shown before.
    """
    if len(times) <= FEW:
        every = [*accumulate(times.to_list(), max, initial=greatest)]
        before, so_far = ([max(time - delay, NEVER) for time in every[:-1]], every[1:])
        return pl.Series(times.name, before, dtype=pl.Int64), pl.Series(times.name, so_far, dtype=pl.Int64)
    return _watermark_before(times, greatest, delay)


def _watermark_before(times: pl.Series, greatest: int, delay: int) -> tuple[pl.Series, pl.Series]:
    """Return the same with queries of Polars."""
    so_far = times.cum_max().clip(lower_bound=greatest)
    before = so_far.shift(1, fill_value=greatest)
    return (before - delay).clip(lower_bound=NEVER), so_far


@dataclass
class Clock:
    """The watermarks of the partitions that some rows come from; `now` is the least of them, and never falls.

    Partitions that `rest` have been quiet for so long that they hold nothing back.
    """

    watermarks: dict[int, int] = field(default_factory=dict)
    resting: set[int] = field(default_factory=set)
    reached: int = NEVER

    def show(self, partition: int, greatest: int, delay: int) -> None:
        """Note the greatest event time that a partition has shown."""
        self.watermarks[partition] = max(greatest - delay, NEVER)

    def finish(self, partition: int) -> None:
        """Note that a partition has been read to its end."""
        self.watermarks[partition] = FOREVER

    def holding(self, partition: int) -> int:
        """Return up to where a partition lets the clock go."""
        return FOREVER if partition in self.resting else self.watermarks[partition]

    @property
    def now(self) -> int:
        """The least of the watermarks of the partitions that do not rest; the greatest of all, if all do."""
        holding = [mark for partition, mark in self.watermarks.items() if partition not in self.resting]
        least = min(holding) if holding else max(self.watermarks.values(), default=NEVER)
        self.reached = max(self.reached, least)
        return self.reached

    @property
    def asleep(self) -> bool:
        """Whether all partitions rest."""
        return self.watermarks.keys() <= self.resting
