"""Local time of a zone, laid out so that the bounds of windows are multiples of their lengths.

Windows are integer arithmetic on *window time*, in ms. A `Calendar` maps an instant to window time and a bound back to the
instant at which the clocks of the zone first show it. The map never falls. Where clocks are set forward, window time jumps;
where they are set back, it stands still until they show the same time again. Windows of months count 31 days for each month,
so window time jumps at the end of a shorter one. Therefore one table of marks is enough for all of it: at a mark, window time
is known; between two marks it runs with the instants, and it stands still where it would overtake the next one.
"""

from __future__ import annotations

import re
import zoneinfo
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache, partial
from zoneinfo import ZoneInfo

from headrace.errors import EnvironmentFault, PlanError, near
from headrace.plan.schema import FIRST_MS, LAST_MS

__all__ = ["DAY_MS", "MONTH_MS", "Calendar", "check_zone", "offsets_of"]

DAY_MS = 86_400_000
MONTH_MS = 31 * DAY_MS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS = (2, 9998)  # of which Python can tell the local time in every zone
_CLOSEST = 3 * 86_400  # seconds within which no zone has ever changed its clocks twice


# What lies beside the zones of the IANA database, and other engines do not know.
_NO_ZONES = re.compile(r"(posix|right)/.*|localtime|posixrules|Factory|")


def check_zone(zone: object, where: str | None = None) -> str:
    """Return the name of a time zone.

    Raises
    ------
    PlanError
        If it is none of the IANA database.
    EnvironmentFault
        If this machine has no such database.
    """
    if not isinstance(zone, str):
        raise PlanError(f"zone {zone!r} is not the name of a time zone", where=where, fix='write "Europe/Berlin", say')
    if not _is_zone(zone):
        if not (known := zoneinfo.available_timezones()):
            raise EnvironmentFault("this machine has no time zone database", where=where, fix="install the package tzdata")
        raise PlanError(f"there is no time zone {zone!r}", where=where, fix=near(zone, known))
    return zone


@cache
def _is_zone(zone: str) -> bool:
    try:
        return not _NO_ZONES.fullmatch(zone) and bool(ZoneInfo(zone).key)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


@cache
def _changes(zone: str, year: int) -> tuple[tuple[int, int], ...]:
    """Return the instants in a year, UTC, at which a zone's offset from UTC changes, and the offset from then on; both in ms."""
    offset = partial(_offset, ZoneInfo(zone))
    begin, end = _begin(year), _begin(year + 1)
    changes, before = [], offset(begin - 1)
    for first in range(begin, end, _CLOSEST):
        last = min(first + _CLOSEST, end) - 1
        if (after := offset(last)) != before:
            # The first second at which the offset is not what it was.
            second = bisect_left(range(first, last), 1, key=lambda at, before=before: int(offset(at) != before))  # type: ignore[misc]
            changes.append(((first + second) * 1000, after))
            before = after
    return tuple(changes)


def _begin(year: int) -> int:
    """Return the first second of a year, UTC."""
    return _ms(datetime(year, 1, 1, tzinfo=UTC)) // 1000


def _offset(zone: ZoneInfo, second: int) -> int:
    """Return the offset of a zone from UTC at a second, in ms."""
    difference = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
    assert difference is not None
    return difference // timedelta(milliseconds=1)


def _first_offset(zone: str, year: int) -> int:
    return _offset(ZoneInfo(zone), _begin(year) - 1)


def _local_marks(zone: str, first_year: int, last_year: int) -> Iterator[tuple[int, int]]:
    """Yield the instants at which local time begins to run on, and the local time then, in ms."""
    begin = _ms(datetime(first_year, 1, 1, tzinfo=UTC))
    changes = [(begin, _first_offset(zone, first_year)), *(one for year in range(first_year, last_year + 1) for one in _changes(zone, year))]
    reached = begin + changes[0][1]
    for (instant, offset), (until, _) in zip(changes, [*changes[1:], (2**62, 0)], strict=True):
        if until + offset > reached:
            start = max(instant, reached - offset)
            yield start, start + offset
            reached = until + offset


@lru_cache(maxsize=256)
def _offsets(zone: str, first_year: int, last_year: int) -> tuple[list[int], list[int]]:
    """Return the local times from which on the offsets of a zone hold, and the offsets, in ms."""
    begins, offsets = [-(2**62)], [_first_offset(zone, first_year)]
    for year in range(first_year, last_year + 1):
        for instant, offset in _changes(zone, year):
            # Times that are skipped or shown again still have the offset from before.
            begins.append(instant + max(offset, offsets[-1]))
            offsets.append(offset)
    return begins, offsets


def offsets_of(zone: str, first: int, last: int) -> tuple[list[int], list[int]]:
    """Return from which local time on which offset of a zone holds, for the local times from `first` to `last`, all in ms.

    A time that the clocks skip is as much later as they skip; of one that they show twice it is the first. So says Java too.
    """
    years = [(_EPOCH + timedelta(milliseconds=ms)).year for ms in (first, last)]
    return _offsets(zone, max(years[0] - 1, _YEARS[0]), min(years[1] + 1, _YEARS[1]))


# Instants and the window time at them; both rise.
Marks = tuple[list[int], list[int]]


class Calendar:
    """The map between instants and window time, both in ms.

    Parameters
    ----------
    zone
        The zone whose local time it is; None is UTC.
    offset_ms
        How long after midnight (of the first of a month, where `monthly`) bounds begin.
    monthly
        Whether each month counts 31 days in window time.
    """

    def __init__(self, zone: str | None, offset_ms: int, *, monthly: bool) -> None:
        self._zone, self._offset_ms, self._monthly = zone, offset_ms, monthly
        # Years, and the marks that hold in them: replaced as one, since several threads may ask.
        self._covered: tuple[int, int, Marks] | None = None

    def cover(self, first: int, last: int) -> Marks:
        """Return marks that hold for the instants from `first` to `last`, as far as these are timestamps."""
        covered = self._covered
        years = [] if self._zone is None else [(_EPOCH + timedelta(milliseconds=ms)).year for ms in (first, last) if FIRST_MS <= ms <= LAST_MS]
        if covered is None or any(not covered[0] <= year <= covered[1] for year in years):
            years += covered[:2] if covered else [] if years else [1970]
            low, high = min(years), max(years)
            covered = self._covered = low, high, self._marks(max(low - 1, _YEARS[0]), min(high + 1, _YEARS[1]))
        return covered[2]

    def _marks(self, first_year: int, last_year: int) -> Marks:
        if self._zone is None:
            return [0], [-self._offset_ms]
        instants, times = zip(*self._pairs(self._zone, first_year, last_year), strict=True)
        return list(instants), list(times)

    def _pairs(self, zone: str, first_year: int, last_year: int) -> list[tuple[int, int]]:
        local = [(instant, time - self._offset_ms) for instant, time in _local_marks(zone, first_year, last_year)]
        if not self._monthly:
            return local
        instants, times = map(list, zip(*local, strict=True))
        marks = dict(local)
        for year in range(first_year, last_year + 1):
            for month in range(1, 13):
                begin = _ms(datetime(year, month, 1, tzinfo=UTC))
                if begin > times[0]:
                    marks.setdefault(_instant(instants, times, begin), begin)
        return [(instant, _in_months(time)) for instant, time in sorted(marks.items())]

    def time(self, instant: int) -> int:
        """Return the window time at an instant."""
        return _time(*self.cover(instant, instant), instant)

    def instant(self, time: int) -> int:
        """Return the first instant at which window time is `time` or later."""
        return _instant(*self.cover_times(time, time), time)

    def cover_times(self, first: int, last: int) -> Marks:
        """Return marks that hold for the window times from `first` to `last`."""
        near = (time // MONTH_MS * 2_629_746_000 if self._monthly else time for time in (first, last))
        first, last = near
        return self.cover(first - 3 * MONTH_MS, last + 3 * MONTH_MS)


def _time(instants: list[int], times: list[int], instant: int) -> int:
    place = max(bisect_right(instants, instant) - 1, 0)
    time = times[place] + instant - instants[place]
    return time if place + 1 == len(times) else min(time, times[place + 1] - 1)


def _instant(instants: list[int], times: list[int], time: int) -> int:
    place = max(bisect_right(times, time) - 1, 0)
    instant = instants[place] + time - times[place]
    return instant if place + 1 == len(instants) else min(instant, instants[place + 1])


def _in_months(local: int) -> int:
    """Return a local time in ms with 31 days for each month since January 1970."""
    moment = _EPOCH + timedelta(milliseconds=local)
    months = (moment.year - 1970) * 12 + moment.month - 1
    return months * MONTH_MS + local - _ms(moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0))


@lru_cache(maxsize=256)
def calendar_of(zone: str | None, offset_ms: int, *, monthly: bool) -> Calendar:
    """Return the calendar of windows; the same one for the same windows, so that its marks are worked out once."""
    return Calendar(zone, offset_ms, monthly=monthly)
