"""Event-time windows and the slices they are made of.

Every window is a run of whole slices, all of one length and aligned to the epoch. Rows are folded once per slice; windows
merge slices. A slice is as a rule no longer than a minute, so what is buffered does not grow with the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from headrace.errors import PlanError

__all__ = ["Window", "cumulating", "milliseconds", "sliding", "tumbling"]

LONGEST_SLICE_MS = 60_000
SHORTEST_SLICE_MS = 1_000


@dataclass(frozen=True, slots=True)
class Window:
    """A family of windows [start, end), in ms since the epoch.

    Ends lie `step_ms` apart. A tumbling or sliding window is `size_ms` long; a cumulating one starts at the last multiple
    of `size_ms` before its end.
    """

    kind: str
    size_ms: int
    step_ms: int

    @property
    def slice_ms(self) -> int:
        """The length of a slice: the longest up to a minute that divides size and step; these themselves, if none of a second does."""
        grain = math.gcd(self.size_ms, self.step_ms)
        if grain <= LONGEST_SLICE_MS:
            return grain
        even = (grain // parts for parts in range(-(-grain // LONGEST_SLICE_MS), grain // SHORTEST_SLICE_MS + 1) if grain % parts == 0)
        return next(even, grain)

    @property
    def one_slice(self) -> bool:
        """Whether each window is one slice and each slice in one window."""
        return self.kind == "tumbling" and self.slice_ms == self.size_ms

    def start_of(self, end: int) -> int:
        """Return the start of the window that ends at `end`."""
        return (end - 1) // self.size_ms * self.size_ms if self.kind == "cumulating" else end - self.size_ms

    def first_end(self, time: int) -> int:
        """Return the earliest end of a window that holds `time`."""
        return time // self.step_ms * self.step_ms + self.step_ms

    def last_end(self, time: int) -> int:
        """Return the latest end of a window that holds `time`."""
        if self.kind == "cumulating":
            return time // self.size_ms * self.size_ms + self.size_ms
        return (time + self.size_ms) // self.step_ms * self.step_ms

    def __str__(self) -> str:
        size, step = (timedelta(milliseconds=ms) for ms in (self.size_ms, self.step_ms))
        return f"{self.kind} {size}" if self.kind == "tumbling" else f"{self.kind} {size} every {step}"


def milliseconds(duration: timedelta, what: str, where: str | None = None) -> int:
    """Return a duration in whole ms.

    Raises
    ------
    PlanError
        If it is no duration, negative, or finer than a millisecond.
    """
    if not isinstance(duration, timedelta):
        raise PlanError(f"{what} is {duration!r}, not a duration", where=where, fix="write hr.seconds(10) or hr.minutes(1)")
    whole, rest = divmod(duration, timedelta(milliseconds=1))
    if rest or whole < 0:
        raise PlanError(f"{what} is {duration}, which is {'finer than a millisecond' if rest else 'negative'}", where=where)
    return whole


def _length(duration: timedelta, what: str) -> int:
    length = milliseconds(duration, what)
    if length == 0:
        raise PlanError(f"{what} is zero", fix="a window has a length")
    return length


def tumbling(size: timedelta) -> Window:
    """Return windows of `size` that follow each other without gap or overlap."""
    length = _length(size, "the window's size")
    return Window("tumbling", length, length)


def sliding(size: timedelta, every: timedelta) -> Window:
    """Return windows of `size`, one ending every `every`; `size` is a multiple of it."""
    length, step = _length(size, "the window's size"), _length(every, "the window's step")
    if length % step:
        raise PlanError(f"a sliding window of {size} cannot step by {every}", fix="the size must be a multiple of the step")
    return Window("sliding", length, step)


def cumulating(size: timedelta, every: timedelta) -> Window:
    """Return windows that begin every `size` and grow by `every` until they are `size` long."""
    length, step = _length(size, "the window's size"), _length(every, "the window's step")
    if length % step:
        raise PlanError(f"a cumulating window of {size} cannot grow by {every}", fix="the size must be a multiple of the step")
    return Window("cumulating", length, step)
