"""Window time in Spark SQL is the window time of the calendar."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing

import pytest

import headrace as hr
from headrace.engines.spark.zones import zoned
from headrace.errors import PlanError
from headrace.plan.operators import Source

DAY = 86_400_000


def source(first: str = "2000-01-01", last: str = "2100-01-01") -> Source:
    given = hr.stream("in", schema={"t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", event_time_range=(first, last)).operator
    assert isinstance(given, Source)
    return given


def computed(expression: str, values: list[int]) -> list[int]:
    """Return what an expression over `v` comes to; SQLite has MIN where Spark has LEAST."""
    with closing(sqlite3.connect(":memory:")) as log:
        log.execute("CREATE TABLE given (v INTEGER)")
        log.executemany("INSERT INTO given VALUES (?)", [(value,) for value in values])
        return [value for (value,) in log.execute(f"SELECT {expression.replace('LEAST(', 'MIN(')} FROM given ORDER BY rowid")]


@pytest.mark.parametrize(
    "window",
    [
        hr.tumbling(hr.hours(8), offset=hr.hours(6), zone="Europe/Berlin"),
        hr.cumulating(hr.days(1), hr.hours(1), zone="America/New_York"),
        hr.sliding(hr.hours(2), hr.minutes(30), zone="Australia/Lord_Howe"),
        hr.tumbling(hr.days(1), zone="Pacific/Apia"),
    ],
    ids=str,
)
def test_instants_and_window_times_are_mapped_as_by_the_calendar(window: hr.Window) -> None:
    local, chance = zoned(window, [source()]), random.Random(7)
    assert local is not None
    assert window.calendar is not None
    changes, times = local.marks
    near = [mark + chance.choice([-1, 0, 1, 1_800_000, 3_600_000]) for mark in changes[1:-1]]
    instants = [*near, *(chance.randrange(changes[1], changes[-1]) for _ in range(500))]
    assert computed(local.time("v"), instants) == [window.time(instant) for instant in instants]
    bounds = [time // window.step_ms * window.step_ms for time in [*times[1:-1], *map(window.time, instants)]]
    assert computed(local.instant("v"), bounds) == [window.instant(time) for time in bounds]
    for end in local.skipped:
        assert window.instant(end) == window.instant(end - window.step_ms)


def test_windows_whose_bounds_are_a_fixed_time_apart_need_no_calendar() -> None:
    assert zoned(hr.tumbling(hr.days(1), zone="Asia/Kolkata"), [source()]) is None
    assert zoned(hr.tumbling(hr.days(1), offset=hr.hours(6)), [source()]) is None
    assert zoned(hr.tumbling(hr.days(1), zone="Europe/Berlin"), [source("2026-01-01", "2026-02-01")]) is None
    assert zoned(hr.tumbling(hr.months(1), zone="Europe/Berlin"), [source()]) is None


def test_steps_of_which_the_clocks_skip_too_many_are_refused() -> None:
    with pytest.raises(PlanError, match=r"the clocks of Europe/Berlin skip [\d,]+ steps of the window within event_time_range; take longer steps"):
        zoned(hr.sliding(hr.hours(1), hr.seconds(30), zone="Europe/Berlin"), [source()])
    assert zoned(hr.sliding(hr.hours(1), hr.seconds(30), zone="Europe/Berlin"), [source("2026-01-01", "2028-01-01")]) is not None
