"""Window time of zones, held against the zone database record by record."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import headrace as hr
from headrace.errors import PlanError
from headrace.kernels.columnar.calendar import instants_of, times_of
from headrace.plan.window import Months, Window
from headrace.plan.zone import calendar_of
from reference import LocalWindow, first_shown, shown

# Hours, half an hour, a day that is skipped, changes at one minute past midnight, four a year, none.
ZONES = ["Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns", "Africa/Casablanca", "Asia/Kolkata", "UTC"]
HOUR, DAY = 3_600_000, 86_400_000
instants = st.integers(946_684_800_000, 2_524_608_000_000)  # 2000 to 2050


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def changes(zone: str) -> list[int]:
    """The hours near which a zone's offset changes, 2000 to 2050."""
    info = zoneinfo.ZoneInfo(zone)
    days = [datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(50 * 365)]
    offsets = [day.astimezone(info).utcoffset() for day in days]
    return [round(day.timestamp() * 1000) for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after]


CHANGES = {zone: changes(zone) for zone in ZONES}


@st.composite
def zoned_times(draw: st.DrawFn) -> tuple[str, int]:
    """A zone and an instant, as a rule near a change of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    near = [instants, *([st.builds(int.__add__, st.sampled_from(CHANGES[zone]), st.integers(-DAY, 2 * DAY))] * 4 if CHANGES[zone] else [])]
    return zone, draw(st.one_of(near))


@given(zoned_times())
@example(("Europe/Berlin", ms("2026-10-25T00:30:00Z")))
@example(("Europe/Berlin", ms("2026-10-25T01:30:00Z")))
def test_window_time_is_local_time_and_stands_still_while_clocks_show_a_time_again(zoned: tuple[str, int]) -> None:
    zone, time = zoned
    found, local = calendar_of(zone, 0, monthly=False).time(time), shown(time, zone)
    if found != local:
        assert found > local
        assert found % 60_000 == 59_999
        assert first_shown(found - 59_999, zone) < time < first_shown(found + 1, zone)
    assert (found != local) == any(shown(one, zone) > local for one in range(time - 25 * HOUR, time, HOUR // 4))


@given(zoned_times(), st.sampled_from([0, 6 * HOUR, 90 * 60_000]))
def test_an_instant_of_window_time_is_when_the_clocks_first_show_it(zoned: tuple[str, int], offset: int) -> None:
    zone, time = zoned
    local = shown(time, zone)
    assert calendar_of(zone, offset, monthly=False).instant(local - offset) == first_shown(local, zone)


@given(st.sampled_from(ZONES), st.lists(instants, min_size=1, max_size=20), st.booleans(), st.sampled_from([0, 6 * HOUR]))
def test_columns_are_mapped_as_single_times_are_and_time_never_falls(zone: str, times: list[int], monthly: bool, offset: int) -> None:
    times = sorted(times)
    calendar = calendar_of(zone, offset, monthly=monthly)
    mapped = times_of(calendar, pl.Series(times))
    assert mapped.to_list() == [calendar.time(time) for time in times]
    assert mapped.is_sorted()
    assert instants_of(calendar, mapped).to_list() == [calendar.instant(time) for time in mapped]
    for time, of in zip(times, mapped, strict=True):
        # What a window's end is compared with: time >= end as instants, if and only if as window time.
        for bound in (of, of + 1, of - 1):
            assert (calendar.instant(bound) <= time) == (bound <= of)


lengths = st.sampled_from([
    ("tumbling", DAY, DAY), ("tumbling", 8 * HOUR, 8 * HOUR), ("tumbling", HOUR, HOUR), ("tumbling", 7 * DAY, 7 * DAY), ("tumbling", 7 * HOUR, 7 * HOUR),
    ("sliding", DAY, 8 * HOUR), ("sliding", 2 * HOUR, HOUR // 2), ("cumulating", DAY, HOUR), ("cumulating", 8 * HOUR, 2 * HOUR),
])  # fmt: skip


@given(zoned_times(), lengths, st.sampled_from([0, HOUR // 2]))
def test_windows_in_a_zone_are_those_found_bound_by_bound(zoned: tuple[str, int], length: tuple[str, int, int], offset: int) -> None:
    zone, time = zoned
    kind, size, step = length
    window, expected = Window(kind, size, step, offset, zone), LocalWindow(kind, size, step, offset, zone)
    ends = range(window.first_end_at(window.time(time)), window.last_end_at(window.time(time)) + 1, step)
    # Where the clocks skip a step, the window that would end with it is that before.
    kept = [window.instant(end) for end in ends if window.instant(end - step) < window.instant(end)]
    assert kept == list(expected.ends(time))
    assert [window.start_of(end) for end in kept] == [expected.start(end) for end in kept]
    assert (window.first_end(time), window.last_end(time)) == (kept[0], kept[-1])
    of_slice = expected.slice_of(time)
    start = window.time(time) // window.slice_ms * window.slice_ms
    assert (window.instant(start), window.instant(start + window.slice_ms)) == (of_slice.start, of_slice.stop)


@given(zoned_times(), lengths)
def test_the_last_end_by_a_time_is_found(zoned: tuple[str, int], length: tuple[str, int, int]) -> None:
    """What closes windows of a topic that is quiet advances the watermark up to it."""
    zone, time = zoned
    window = Window(*length, 0, zone)
    end = window.end_by(time)
    assert end <= time < window.first_end(time)
    assert window.end_by(end) == end
    assert end in {window.first_end(end - 1), window.first_end(time - 1)}


@given(zoned_times(), st.sampled_from([1, 3, 12]), st.sampled_from([0, 6 * HOUR, 14 * DAY]))
def test_months_begin_with_those_of_the_calendar(zoned: tuple[str, int], count: int, offset: int) -> None:
    zone, time = zoned
    window, expected = hr.tumbling(hr.months(count), zone=zone, offset=hr.milliseconds(offset)), LocalWindow("tumbling", 1, 1, offset, zone, count)
    (end,) = expected.ends(time)
    assert (window.first_end(time), window.last_end(time), window.start_of(end)) == (end, end, expected.start(end))


def bounds(window: Window, *times: str) -> list[tuple[str, str]]:
    """The windows that hold times, as UTC."""
    ends = [window.first_end(ms(time)) for time in times]
    return [tuple(datetime.fromtimestamp(one // 1000, UTC).strftime("%d %H:%M") for one in (window.start_of(end), end)) for end in ends]  # type: ignore[misc]


def test_shifts_and_days_of_a_plant_are_an_hour_shorter_or_longer_when_clocks_change() -> None:
    shifts = hr.tumbling(hr.hours(8), zone="Europe/Berlin", offset=hr.hours(6))
    assert bounds(shifts, "2026-03-28T22:00Z", "2026-03-29T04:00Z", "2026-07-01T05:00Z") == [
        ("28 21:00", "29 04:00"),  # 22:00 to 06:00, seven hours
        ("29 04:00", "29 12:00"),
        ("01 04:00", "01 12:00"),
    ]
    assert bounds(shifts, "2026-10-25T00:30Z", "2026-10-25T01:30Z") == [("24 20:00", "25 05:00")] * 2  # nine hours
    days = hr.tumbling(hr.days(1), zone="Europe/Berlin", offset=hr.hours(6))
    assert bounds(days, "2026-03-28T12:00Z", "2026-10-24T12:00Z") == [("28 05:00", "29 04:00"), ("24 04:00", "25 05:00")]


def test_a_bound_that_clocks_skip_is_when_they_are_set_and_one_shown_twice_is_the_first() -> None:
    hours = hr.tumbling(hr.hours(1), zone="Europe/Berlin")
    assert bounds(hours, "2026-03-29T00:59Z", "2026-03-29T01:00Z") == [("29 00:00", "29 01:00"), ("29 01:00", "29 02:00")]
    assert bounds(hours, "2026-10-25T00:30Z", "2026-10-25T01:30Z") == [("25 00:00", "25 02:00")] * 2
    midnight = hr.tumbling(hr.days(1), zone="America/St_Johns")  # in 2010 clocks went from 00:01 back to 23:01
    assert bounds(midnight, "2010-11-07T02:29:59Z", "2010-11-07T03:00Z") == [("06 02:30", "07 02:30"), ("07 02:30", "08 03:30")]
    assert bounds(hr.tumbling(hr.days(1), zone="Pacific/Apia"), "2011-12-30T09:59Z", "2011-12-30T10:00Z") == [
        ("29 10:00", "30 10:00"),
        ("30 10:00", "31 10:00"),  # the 31st: there was no 30th
    ]
    assert bounds(hr.tumbling(hr.minutes(30), zone="Australia/Lord_Howe"), "2026-04-04T15:10Z") == [("04 14:30", "04 15:30")]


def test_months_of_a_zone() -> None:
    months = hr.tumbling(hr.months(1), zone="Europe/Berlin")
    assert bounds(months, "2026-02-15T00:00Z", "2026-03-31T21:59Z", "2026-03-31T22:00Z") == [
        ("31 23:00", "28 23:00"), ("28 23:00", "31 22:00"), ("31 22:00", "30 22:00"),
    ]  # fmt: skip
    so_far = hr.cumulating(hr.months(1), hr.days(1), zone="UTC")
    assert bounds(so_far, "2026-02-15T12:00Z", "2026-02-28T12:00Z") == [("01 00:00", "16 00:00"), ("01 00:00", "01 00:00")]


@pytest.mark.parametrize("year", [2, 1000, 9990])
def test_times_far_from_now_have_their_windows_too(year: int) -> None:
    window = hr.tumbling(hr.days(1), zone="Europe/Berlin", offset=hr.milliseconds(year))
    time = (datetime(year, 7, 1, 12, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert window.start_of(window.first_end(time)) <= time < window.first_end(time)


@pytest.mark.long
@pytest.mark.parametrize("zone", sorted(zoneinfo.available_timezones()))
def test_every_change_of_every_zone_is_found(zone: str) -> None:
    """Every twelve hours, from 1970 to 2040: changes are sought at steps of some days."""
    calendar = calendar_of(zone, 0, monthly=False)
    for time in range(ms("1970-01-01T00:00Z"), ms("2040-01-01T00:00Z"), 12 * HOUR):
        found, local = calendar.time(time), shown(time, zone)
        if found != local:
            assert found > local
            assert any(shown(one, zone) > local for one in range(time - 25 * HOUR, time, HOUR // 4))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: hr.tumbling(hr.days(1), zone="Europe/Berln"), "there is no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?"),
        (lambda: hr.tumbling(hr.days(1), zone="europe/berlin"), "did you mean 'Europe/Berlin'?"),
        (lambda: hr.tumbling(hr.days(1), zone="Europe"), "there is no time zone 'Europe'"),
        (lambda: hr.tumbling(hr.days(1), zone=""), "there is no time zone ''"),
        (lambda: hr.tumbling(hr.days(1), zone="../../etc/passwd"), "there is no time zone '../../etc/passwd'"),
        (lambda: hr.tumbling(hr.days(1), zone="right/Europe/Berlin"), "there is no time zone 'right/Europe/Berlin'"),
        (lambda: hr.tumbling(hr.days(1), zone="Europe/Ber\0lin"), "there is no time zone"),
        (lambda: hr.tumbling(hr.days(1), zone=60), "zone 60 is not the name of a time zone"),
        (lambda: hr.tumbling(hr.days(1), zone=zoneinfo.ZoneInfo("UTC")), "is not the name of a time zone"),
        (lambda: hr.tumbling(hr.days(1), offset=hr.days(1)), "the window's offset is 1 day, 0:00:00, which is not less than its size, 1 day, 0:00:00"),
        (lambda: hr.sliding(hr.hours(2), hr.hours(1), offset=hr.hours(3)), "which is not less than its size"),
        (lambda: hr.tumbling(hr.months(1), offset=hr.days(28), zone="UTC"), "which is not less than its size, 1 month"),
        (lambda: hr.tumbling(hr.days(1), offset=hr.hours(-1)), "the window's offset is -1 day, 23:00:00, which is negative"),
        (lambda: hr.tumbling(hr.days(1), offset=6), "the window's offset is 6, not a duration"),
        (lambda: hr.tumbling(hr.days(1), offset=timedelta(microseconds=1)), "which is finer than a millisecond"),
        (lambda: hr.tumbling(hr.months(1)), "a window of 1 month has no time zone; write zone="),
        (lambda: hr.tumbling(hr.months(1), offset=hr.months(1), zone="UTC"), "the window's offset is 1 month, which is no fixed length"),
        (lambda: hr.sliding(hr.days(30), hr.months(1), zone="UTC"), "a sliding window of 30 days, 0:00:00 cannot step by 1 month"),
        (lambda: hr.cumulating(hr.months(1), hr.hours(7), zone="UTC"), "a cumulating window of 1 month cannot grow by 7:00:00; the step must be months"),
        (lambda: hr.months(0), "0 months are not a whole number from 1"),
        (lambda: hr.months(1.5), "1.5 months are not a whole number from 1"),
    ],
)  # fmt: skip
def test_a_zone_an_offset_or_months_that_cannot_be_are_refused_with_the_fix(make: object, why: str) -> None:
    with pytest.raises(PlanError) as error:
        make()
    assert why in str(error.value)


def test_windows_with_an_offset_or_a_zone_are_described_in_words_and_others_are_as_they_were() -> None:
    assert str(hr.tumbling(hr.days(1), offset=hr.hours(6), zone="Europe/Berlin")) == "tumbling 1 day, 0:00:00, offset 6:00:00, zone Europe/Berlin"
    assert str(hr.cumulating(hr.months(3), hr.months(1), zone="UTC")) == "cumulating 3 months every 1 month, zone UTC"
    assert repr(hr.sliding(hr.minutes(5), hr.minutes(1))) == "Window(kind='sliding', size_ms=300000, step_ms=60000)"
    assert repr(hr.tumbling(hr.days(1), offset=hr.hours(6))) == "Window(kind='tumbling', size_ms=86400000, step_ms=86400000, offset_ms=21600000)"
    assert hr.months(2) == Months(2)
