"""Columns of instants and of window time (`headrace.plan.zone`), mapped to each other."""

from __future__ import annotations

from bisect import bisect_right

import polars as pl

from headrace.plan.schema import FIRST_MS, LAST_MS
from headrace.plan.zone import Calendar

__all__ = ["instants_of", "times_of"]


def times_of(calendar: Calendar, instants: pl.Series) -> pl.Series:
    """Return the window times at instants, in ms."""
    if (ends := _ends(instants)) is None:
        return instants
    # A clock that has not begun, or is at its end, is no timestamp.
    sound = ends[0] >= FIRST_MS and ends[1] <= LAST_MS
    known = ends if sound else _ends(instants.filter(instants.is_between(FIRST_MS, LAST_MS)))
    marks, times = calendar.cover(*(known or ends))
    return _mapped(instants, ends, marks, times, 1)


def instants_of(calendar: Calendar, times: pl.Series) -> pl.Series:
    """Return the first instants at which window time is so late or later, in ms."""
    if (ends := _ends(times)) is None:
        return times
    instants, marks = calendar.cover_times(*ends)
    return _mapped(times, ends, marks, instants, 0)


def _ends(values: pl.Series) -> tuple[int, int] | None:
    """Return the least and the greatest of some values, None of none."""
    return (int(values.min()), int(values.max())) if len(values) else None  # type: ignore[arg-type]


def _mapped(values: pl.Series, ends: tuple[int, int], marks: list[int], others: list[int], below: int) -> pl.Series:
    """Return what runs on with `values` from each mark, and at the most comes up to the next one less `below`."""
    first, last = (max(bisect_right(marks, end) - 1, 0) for end in ends)
    ahead = others[first] - marks[first]
    if first == last and (last + 1 == len(marks) or ends[1] + ahead <= others[last + 1] - below):
        return values + ahead
    begins, mapped = pl.Series(marks), pl.Series(others)
    limits = (mapped - below).shift(-1, fill_value=2**63 - 1)
    places = (begins.search_sorted(values, side="right").cast(pl.Int64) - 1).clip(lower_bound=0)
    running = values + (mapped - begins).gather(places)
    return pl.select(pl.min_horizontal(running, limits.gather(places))).to_series()
