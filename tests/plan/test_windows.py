"""Windows and slices, held against a search through every window there could be."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import headrace as hr
from headrace.errors import PlanError
from headrace.plan.window import LONGEST_SLICE_MS, SHORTEST_SLICE_MS, Window

times = st.integers(-(10**6), 10**6)
steps = st.integers(1, 50)
parts = st.integers(1, 12)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    step = timedelta(milliseconds=draw(steps))
    size = step * draw(parts)
    return draw(st.sampled_from([hr.tumbling(size), hr.sliding(size, step), hr.cumulating(size, step)]))


def all_near(window: Window, time: int) -> list[tuple[int, int]]:
    """Every window of the family near a time, from what its kind is called for: (start, end)."""
    size, step = window.size_ms, window.step_ms
    first = (time - 2 * size) // size * size
    if window.kind == "cumulating":
        starts = range(first, time + 3 * size, size)
        return [(start, start + length) for start in starts for length in range(step, size + 1, step)]
    return [(start, start + size) for start in range(first, time + 3 * size, step)]


@given(windows(), times)
def test_the_ends_of_the_windows_that_hold_a_time_run_from_first_end_to_last_end_by_the_step(window: Window, time: int) -> None:
    held = sorted(end for start, end in all_near(window, time) if start <= time < end)
    assert list(range(window.first_end(time), window.last_end(time) + 1, window.step_ms)) == held


@given(windows(), times)
def test_the_start_of_a_window_is_found_from_its_end(window: Window, time: int) -> None:
    for start, end in all_near(window, time):
        assert window.start_of(end) == start


@given(windows(), times)
def test_every_window_is_a_run_of_whole_slices(window: Window, time: int) -> None:
    for start, end in all_near(window, time):
        assert start % window.slice_ms == end % window.slice_ms == 0


@given(st.integers(1, 10**7), st.integers(1, 200))
@example(step=60_001, count=3)
@example(step=100_003, count=1)
def test_a_slice_is_the_longest_from_a_second_to_a_minute_that_divides_size_and_step_or_else_the_step(step: int, count: int) -> None:
    fitting = [length for length in range(SHORTEST_SLICE_MS, LONGEST_SLICE_MS + 1) if step % length == 0]
    assert Window("sliding", step * count, step).slice_ms == (step if step <= LONGEST_SLICE_MS or not fitting else fitting[-1])


@pytest.mark.parametrize(
    ("window", "slice_ms", "alone"),
    [
        (hr.tumbling(hr.seconds(10)), 10_000, True),
        (hr.tumbling(hr.minutes(1)), 60_000, True),
        (hr.tumbling(hr.minutes(2)), 60_000, False),
        (hr.tumbling(hr.seconds(90)), 45_000, False),
        (hr.tumbling(hr.milliseconds(60_001)), 2_069, False),
        (hr.tumbling(hr.milliseconds(100_003)), 100_003, True),  # a prime: in slices of 1 ms it would be slow
        (hr.tumbling(hr.hours(24)), 60_000, False),
        (hr.sliding(hr.minutes(1), hr.minutes(1)), 60_000, False),
        (hr.sliding(hr.minutes(5), hr.seconds(20)), 20_000, False),
        (hr.cumulating(hr.hours(1), hr.minutes(10)), 60_000, False),
    ],
    ids=str,
)
def test_a_window_is_one_slice_only_if_it_tumbles_and_is_no_longer_than_its_slice(window: Window, slice_ms: int, *, alone: bool) -> None:
    assert (window.slice_ms, window.one_slice) == (slice_ms, alone)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda: hr.sliding(hr.minutes(5), hr.minutes(2)),
            "a sliding window of 0:05:00 cannot step by 0:02:00; the size must be a multiple of the step",
        ),
        (lambda: hr.sliding(hr.minutes(1), hr.minutes(2)), "a sliding window of 0:01:00 cannot step by 0:02:00"),
        (lambda: hr.cumulating(hr.hours(1), hr.minutes(7)), "a cumulating window of 1:00:00 cannot grow by 0:07:00; the size must be a multiple"),
        (lambda: hr.tumbling(hr.minutes(0)), "the window's size is zero; a window has a length"),
        (lambda: hr.sliding(hr.minutes(1), hr.minutes(0)), "the window's step is zero; a window has a length"),
        (lambda: hr.tumbling(hr.minutes(-1)), "which is negative"),
        (lambda: hr.tumbling(timedelta(microseconds=1500)), "which is finer than a millisecond"),
        (lambda: hr.tumbling(60), "the window's size is 60, not a duration; write hr.seconds(10) or hr.minutes(1)"),
        (lambda: hr.cumulating(hr.hours(1), "10m"), "the window's step is '10m', not a duration"),
    ],
)
def test_a_window_that_cannot_be_is_refused_with_the_mend(make: object, why: str) -> None:
    with pytest.raises(PlanError, match=re.escape(why)):
        make()


def test_durations_are_what_their_names_say() -> None:
    assert hr.hours(0.5) == hr.minutes(30) == hr.seconds(1800) == hr.milliseconds(1_800_000)
    assert hr.tumbling(hr.minutes(1.5)) == Window("tumbling", 90_000, 90_000)


def test_windows_are_described_in_words() -> None:
    assert str(hr.tumbling(hr.minutes(1))) == "tumbling 0:01:00"
    assert str(hr.sliding(hr.minutes(5), hr.minutes(1))) == "sliding 0:05:00 every 0:01:00"
    assert str(hr.cumulating(hr.hours(1), hr.minutes(10))) == "cumulating 1:00:00 every 0:10:00"
