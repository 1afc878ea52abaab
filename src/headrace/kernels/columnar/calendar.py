"""Columns of instants and of window time (`headrace.plan.zone`), mapped to each other."""

from __future__ import annotations

import polars as pl

from headrace.plan.schema import FIRST_MS, LAST_MS
from headrace.plan.zone import Calendar

__all__ = ["instants_of", "times_of"]


def times_of(calendar: Calendar, instants: pl.Series) -> pl.Series:
    """Return the window times at instants, in ms."""
    known = instants.filter(instants.is_between(FIRST_MS, LAST_MS))
    if len(known):
        calendar.cover(int(known.min()), int(known.max()))  # type: ignore[arg-type]
    return _mapped(instants, calendar.instants, calendar.times, 1)


def instants_of(calendar: Calendar, times: pl.Series) -> pl.Series:
    """Return the first instants at which window time is so late or later, in ms."""
    if len(times):
        calendar.instant(int(times.min()))  # type: ignore[arg-type]
        calendar.instant(int(times.max()))  # type: ignore[arg-type]
    return _mapped(times, calendar.times, calendar.instants, 0)


def _mapped(values: pl.Series, marks: list[int], others: list[int], below: int) -> pl.Series:
    """Return what runs on with `values` from each mark, and at the most comes up to the next one less `below`."""
    if len(marks) == 1:
        return values + (others[0] - marks[0])
    begins, mapped = pl.Series(marks), pl.Series(others)
    limits = (mapped - below).shift(-1, fill_value=2**63 - 1)
    places = (begins.search_sorted(values, side="right").cast(pl.Int64) - 1).clip(lower_bound=0)
    running = values + (mapped - begins).gather(places)
    return pl.select(pl.min_horizontal(running, limits.gather(places))).to_series()
