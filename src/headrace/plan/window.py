"""Event-time windows and the slices they are made of.

Every window is a run of whole slices, all of one length and aligned to the epoch; with an offset or a zone, in window time
(`headrace.plan.zone`). Rows are folded once per slice; windows merge slices. A slice is as a rule no longer than a minute,
so what is buffered does not grow with the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from headrace.errors import PlanError
from headrace.plan.zone import DAY_MS, MONTH_MS, Calendar, calendar_of, check_zone

__all__ = ["Months", "Window", "cumulating", "milliseconds", "months", "sliding", "tumbling"]

LONGEST_SLICE_MS = 60_000
SHORTEST_SLICE_MS = 1_000
SHORTEST_MONTH_MS = 28 * DAY_MS


@dataclass(frozen=True, slots=True)
class Months:
    """A number of months: the length of windows that begin with the months of a calendar."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} month{'s' if self.count > 1 else ''}"


@dataclass(frozen=True, slots=True, repr=False)
class Window:
    """A family of windows [start, end), in ms.

    In window time (`headrace.plan.zone`), ends lie `step_ms` apart and are multiples of it. A tumbling or sliding window is
    `size_ms` long; a cumulating one starts at the last multiple of `size_ms` before its end. Window time is UTC, unless there
    is an offset or a zone.

    Attributes
    ----------
    offset_ms
        By how much bounds come after the multiples of their lengths.
    zone
        The time zone in whose local time the bounds lie.
    monthly
        Whether lengths are months, each of 31 days in window time.
    """

    kind: str
    size_ms: int
    step_ms: int
    offset_ms: int = 0
    zone: str | None = None
    monthly: bool = False

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

    @property
    def calendar(self) -> Calendar | None:
        """The map between instants and window time; None where they are the same."""
        return calendar_of(self.zone, self.offset_ms, monthly=self.monthly) if self.zone or self.offset_ms else None

    # in window time

    def start_at(self, end: int) -> int:
        """Return the start of the window that ends at `end`, both in window time."""
        return (end - 1) // self.size_ms * self.size_ms if self.kind == "cumulating" else end - self.size_ms

    def first_end_at(self, time: int) -> int:
        """Return the earliest end of a window that holds `time`, both in window time."""
        return time // self.step_ms * self.step_ms + self.step_ms

    def last_end_at(self, time: int) -> int:
        """Return the latest end of a window that holds `time`, both in window time."""
        if self.kind == "cumulating":
            return time // self.size_ms * self.size_ms + self.size_ms
        return (time + self.size_ms) // self.step_ms * self.step_ms

    # in instants

    def start_of(self, end: int) -> int:
        """Return the start of the window that ends at `end`."""
        return self.instant(self.start_at(self.first_end_at(self.time(end - 1))))

    def first_end(self, time: int) -> int:
        """Return the earliest end of a window that holds `time`."""
        return self.instant(self.first_end_at(self.time(time)))

    def last_end(self, time: int) -> int:
        """Return the latest end of a window that holds `time`."""
        return self.instant(self.last_end_at(self.time(time)))

    def end_by(self, time: int) -> int:
        """Return the last end of a window that is not after `time`."""
        return self.instant(self.time(time) // self.step_ms * self.step_ms)

    def time(self, instant: int) -> int:
        """Return the window time at an instant."""
        return instant if self.calendar is None else self.calendar.time(instant)

    def instant(self, time: int) -> int:
        """Return the first instant at which window time is `time` or later."""
        return time if self.calendar is None else self.calendar.instant(time)

    def in_utc(self, first: int, last: int) -> Window | None:
        """Return the same windows of the instants from `first` to `last` without a zone; None if there it is not one offset from UTC."""
        if self.zone is None:
            return self
        first, last = self.start_of(self.first_end(first)), self.last_end(last)
        ahead = self.time(first) - first
        calendar = calendar_of(self.zone, self.offset_ms, monthly=self.monthly)
        instants, _ = calendar.cover(first, last)
        if self.monthly or any(first < mark <= last for mark in instants):
            return None
        return Window(self.kind, self.size_ms, self.step_ms, -ahead % self.size_ms)

    def _length(self, ms: int) -> str:
        return str(Months(ms // MONTH_MS) if self.monthly and ms % MONTH_MS == 0 else timedelta(milliseconds=ms))

    def __str__(self) -> str:
        size, step = self._length(self.size_ms), self._length(self.step_ms)
        offset = f", offset {timedelta(milliseconds=self.offset_ms)}" if self.offset_ms else ""
        zone = f", zone {self.zone}" if self.zone else ""
        return f"{self.kind} {size}{'' if self.kind == 'tumbling' else f' every {step}'}{offset}{zone}"

    def __repr__(self) -> str:
        """Return the window as Python; without what is not set, since this is part of the identity of saved state."""
        given = {"kind": self.kind, "size_ms": self.size_ms, "step_ms": self.step_ms}
        given |= {name: value for name in ("offset_ms", "zone", "monthly") if (value := getattr(self, name))}
        return f"Window({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def milliseconds(duration: timedelta | Months, what: str, where: str | None = None) -> int:
    """Return a duration in whole ms.

    Raises
    ------
    PlanError
        If it is no duration, negative, or finer than a millisecond.
    """
    if isinstance(duration, Months):
        raise PlanError(f"{what} is {duration}, which is no fixed length", where=where, fix="write hr.days(30), say")
    if not isinstance(duration, timedelta):
        raise PlanError(f"{what} is {duration!r}, not a duration", where=where, fix="write hr.seconds(10) or hr.minutes(1)")
    whole, rest = divmod(duration, timedelta(milliseconds=1))
    if rest or whole < 0:
        raise PlanError(f"{what} is {duration}, which is {'finer than a millisecond' if rest else 'negative'}", where=where)
    return whole


def _length(duration: timedelta | Months, what: str) -> int:
    if isinstance(duration, Months):
        return duration.count * MONTH_MS
    length = milliseconds(duration, what)
    if length == 0:
        raise PlanError(f"{what} is zero", fix="a window has a length")
    return length


def _window(kind: str, size: timedelta | Months, step: timedelta | Months, offset: timedelta, zone: str | None) -> Window:
    length, every, begins = _length(size, "the window's size"), _length(step, "the window's step"), milliseconds(offset, "the window's offset")
    monthly = isinstance(size, Months)
    if monthly and zone is None:
        raise PlanError(f"a window of {size} has no time zone", fix='write zone="Europe/Berlin", or zone="UTC"')
    if length % every or (isinstance(step, Months) and not monthly) or (monthly and not isinstance(step, Months) and DAY_MS % every):
        verb, fix = _MISFITS[kind, monthly]
        raise PlanError(f"a {kind} window of {size} cannot {verb} by {step}", fix=fix)
    if begins >= (SHORTEST_MONTH_MS if monthly else length):
        raise PlanError(
            f"the window's offset is {offset}, which is not less than its size, {size}", fix="take off whole sizes: the windows are the same"
        )
    return Window(kind, length, every, begins, None if zone is None else check_zone(zone, "the window's zone"), monthly)


_MISFITS = {
    ("sliding", False): ("step", "the size must be a multiple of the step"),
    ("sliding", True): ("step", "the step must be months that divide the size, or divide a day"),
    ("cumulating", False): ("grow", "the size must be a multiple of the step"),
    ("cumulating", True): ("grow", "the step must be months that divide the size, or divide a day"),
}


def tumbling(size: timedelta | Months, *, offset: timedelta = timedelta(0), zone: str | None = None) -> Window:
    """Return windows of `size` that follow each other without gap or overlap.

    Parameters
    ----------
    size
        How long they are: a duration or, in a zone, `hr.months(1)`.
    offset
        How long after midnight they begin, less than `size`. They are counted from 1970-01-01.
    zone
        The time zone in whose local time they begin and end, such as `"Europe/Berlin"`; by default UTC. A bound that the
        clocks skip is when they are set forward; one that they show twice is the first.
    """
    return _window("tumbling", size, size, offset, zone)


def sliding(size: timedelta | Months, every: timedelta | Months, *, offset: timedelta = timedelta(0), zone: str | None = None) -> Window:
    """Return windows of `size`, one ending every `every`; `size` is a multiple of it. `offset` and `zone` are those of `tumbling`."""
    return _window("sliding", size, every, offset, zone)


def cumulating(size: timedelta | Months, every: timedelta | Months, *, offset: timedelta = timedelta(0), zone: str | None = None) -> Window:
    """Return windows that begin every `size` and grow by `every` until they are `size` long. `offset` and `zone` are those of `tumbling`."""
    return _window("cumulating", size, every, offset, zone)


def months(count: int) -> Months:
    """Return a length of so many months, for windows in a time zone. They are counted from January 1970."""
    if type(count) is not int or count < 1:
        raise PlanError(f"{count!r} months are not a whole number from 1")
    return Months(count)
