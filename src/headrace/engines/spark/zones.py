"""Windows in zones whose clocks change, in Spark SQL: window time as a search among the marks of a calendar, by nested CASEs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.errors import PlanError
from headrace.plan.operators import Source
from headrace.plan.window import Window
from headrace.plan.zone import DAY_MS, Marks

__all__ = ["Zoned", "zoned"]

_MOST_SKIPPED = 2_000


@dataclass(frozen=True)
class Zoned:
    """A window in a zone, with the marks of its calendar for the records' range of event times.

    Attributes
    ----------
    window
        The window in window time: its bounds are multiples of its lengths.
    skipped
        The ends of steps that the clocks skip as a whole: no window ends there.
    """

    window: Window
    marks: Marks
    skipped: tuple[int, ...]

    def time(self, instant: str) -> str:
        """Return the window time at an instant, in SQL."""
        instants, times = self.marks
        return _mapped(instant, instants, times, 1)

    def instant(self, time: str) -> str:
        """Return the first instant at which window time is so late, in SQL."""
        instants, times = self.marks
        return _mapped(time, times, instants, 0)

    def columns(self) -> list[str]:
        """Return what rows get: window time at the row and behind its watermark, the ends of the windows that take it, and whether any does."""
        step, size, kind = self.window.step_ms, self.window.size_ms, self.window.kind
        times = [f"{self.time('`_time_ms`')} AS `_at_ms`", f"{self.time('(`_watermark_ms` + 1)')} AS `_mark_ms`"]
        holds = f"{_floor('`_at_ms`', step)} + {step}"
        if kind == "tumbling":
            return [*times, f"{holds} AS `_ends`", f"{holds} > `_mark_ms` AS `_taken`"]
        first = f"GREATEST({holds}, {_floor('`_mark_ms`', step)} + {step})"
        last = f"{_floor('`_at_ms`', size)} + {size}" if kind == "cumulating" else _floor(f"`_at_ms` + {size}", step)
        ends = f"SEQUENCE({first}, {last}, {step})"
        if self.skipped:
            ends = f"ARRAY_EXCEPT({ends}, ARRAY({', '.join(f'{end}L' for end in self.skipped)}))"
        ends = f"CASE WHEN {first} <= {last} THEN {ends} ELSE CAST(ARRAY() AS ARRAY<BIGINT>) END"
        return [*times, f"{ends} AS `_ends`", "SIZE(`_ends`) > 0 AS `_taken`"]

    def bounds(self, end: str) -> dict[str, str]:
        """Return the bounds of the window that ends at a window time, as instants in SQL."""
        size = self.window.size_ms
        start = f"({_floor(f'{end} - 1', size)})" if self.window.kind == "cumulating" else f"({end} - {size})"
        return {"_start_ms": self.instant(start), "_end_ms": self.instant(end)}

    @property
    def slices(self) -> str:
        """By what rows are ordered before the input's order: slice by slice, and those that came after their slice was over behind it."""
        length = self.window.slice_ms
        start = _floor("`_at_ms`", length)
        return "" if self.window.one_slice else f"{start} AS slice, `_mark_ms` >= {start} + {length} AS behind, "


def zoned(window: Window, origins: Sequence[Source]) -> Zoned | None:
    """Return a window over records of some sources if it is in a zone whose clocks change meanwhile; None if its bounds are a fixed time apart.

    Raises
    ------
    PlanError
        If Spark cannot compute it: months, or too many steps that the clocks skip.
    """
    ranges = [source.range_ms for source in origins]
    first, last = min(low for low, _ in ranges), max(high for _, high in ranges)
    calendar = window.calendar
    if window.in_utc(first, last) is not None or window.monthly or calendar is None:
        return None
    reach = window.size_ms + 2 * DAY_MS
    marks = _within(calendar.cover(first - reach, last + reach), first - reach, last + reach)
    plain = replace(window, offset_ms=0, zone=None)
    skipped = () if window.kind == "tumbling" else tuple(_skipped(*marks, window.step_ms))
    if len(skipped) > _MOST_SKIPPED:
        what = f"the clocks of {window.zone} skip {len(skipped):,} steps of the window within event_time_range"
        raise PlanError(what, fix="take longer steps or a shorter event_time_range, or run it on the embedded engine")
    return Zoned(plain, marks, skipped)


def _within(marks: Marks, first: int, last: int) -> Marks:
    """Return the marks that hold for the instants from `first` to `last`."""
    instants, times = marks
    begin = max([0, *(place for place, instant in enumerate(instants) if instant <= first)])
    kept = [place for place in range(begin, len(instants)) if place == begin or instants[place] <= last]
    return [instants[place] for place in kept], [times[place] for place in kept]


def _skipped(instants: Sequence[int], times: Sequence[int], step: int) -> list[int]:
    """Return the ends of the steps that the clocks skip as a whole."""
    found: list[int] = []
    for place in range(1, len(instants)):
        gap = times[place - 1] + instants[place] - instants[place - 1]
        found += range(-(-gap // step) * step + step, times[place] + 1, step)
    return found


def _floor(time: str, length: int) -> str:
    return f"({time} - PMOD({time}, {length}))"


def _mapped(value: str, marks: Sequence[int], others: Sequence[int], below: int) -> str:
    """Return what runs on with a value from each mark, and at the most comes up to the next one less `below`."""
    if len(marks) > 1:
        half = len(marks) // 2
        early = _mapped(value, marks[:half], [*others[:half], others[half]], below)
        return f"CASE WHEN {value} < {marks[half]} THEN {early} ELSE {_mapped(value, marks[half:], others[half:], below)} END"
    ahead = others[0] - marks[0]
    running = f"{value} {'-' if ahead < 0 else '+'} {abs(ahead)}"
    return running if len(others) == 1 else f"LEAST({running}, {others[1] - below})"
