"""Windows at their edges: what they take, when they close, what they give, and what is kept meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import polars as pl
import pytest

import headrace as hr
from headrace.kernels.columnar.aggregate import Folding
from headrace.kernels.columnar.watermark import FOREVER, NEVER
from headrace.kernels.columnar.window import RegroupKernel, WindowKernel, WindowState
from headrace.plan.operators import Aggregate, Regroup
from headrace.plan.window import Window

T = 1_704_067_200_000  # 2024, a multiple of every length below
S, M, H = 1000, 60_000, 3_600_000
TUMBLING = hr.tumbling(hr.seconds(10))
SLIDING = hr.sliding(hr.seconds(30), hr.seconds(10))
CUMULATING = hr.cumulating(hr.seconds(30), hr.seconds(10))
EVENTS = hr.stream("events", schema={"k": "STRING", "t": "BIGINT", "x": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")


def windowed(window: Window, *, by: tuple[str, ...] = ("k",), lateness: int = 0) -> hr.Stream:
    return EVENTS.window(window, by=by, allowed_lateness=hr.milliseconds(lateness)).aggregate(n="COUNT(*)", all="ARRAY_AGG(x)")


def kernel_of(window: Window, *, by: tuple[str, ...] = ("k",), lateness: int = 0) -> WindowKernel:
    operator = windowed(window, by=by, lateness=lateness).operator
    assert isinstance(operator, Aggregate)
    return WindowKernel(operator)


class Feeding:
    """A kernel fed record by record, partition 0 unless said otherwise."""

    def __init__(self, kernel: WindowKernel) -> None:
        self.kernel, self.state, self.record = kernel, WindowState(), 0

    def feed(self, time: int, watermark: int = NEVER, *, x: int = 0, k: str | None = "a", partition: int = 0, clock: int | None = None) -> list[Any]:
        """Give it one record; return what it led to. The clock is the watermark unless said otherwise."""
        return self.feed_rows(time, watermark, [(k, x)], partition=partition, clock=clock)

    def feed_rows(self, time: int, watermark: int, rows: list[tuple[str | None, int]], *, partition: int = 0, clock: int | None = None) -> list[Any]:
        frame = pl.DataFrame(rows, schema={"k": pl.String, "x": pl.Int64}, orient="row").with_columns(
            pl.lit(self.record, pl.UInt32).alias("@record"),
            pl.lit(partition, pl.Int64).alias("@partition"),
            pl.lit(time, pl.Int64).alias("@time"),
            pl.lit(watermark, pl.Int64).alias("@watermark"),
            pl.lit(watermark if clock is None else clock, pl.Int64).alias("@clock"),
        )
        self.record += 1
        fed = self.kernel.feed(self.state, partition, frame)
        assert len(fed.late) + len(fed.taken) == len(rows)
        return given(fed.emitted)

    def takes(self, time: int, watermark: int) -> bool:
        """Return whether it would take a record with this watermark before it."""
        frame = {"k": ["a"], "x": [0], "@record": [0], "@partition": [0], "@time": [time], "@watermark": [watermark], "@clock": [NEVER]}
        fed = self.kernel.feed(WindowState(), 0, pl.DataFrame(frame))
        return bool(len(fed.taken))

    def advance(self, clock: int) -> list[Any]:
        return given(list(self.kernel.advance(self.state, clock)))


def ms(time: datetime) -> int:
    return round((time - datetime.fromtimestamp(T / 1000, UTC)).total_seconds() * 1000)


def given(frames: list[pl.DataFrame]) -> list[Any]:
    """Return (start, end, key, values), and the revision if it is not 0; times from T."""
    rows = [row for frame in frames for row in frame.to_dicts()]
    found = [(ms(row["window_start"]), ms(row["window_end"]), row.get("k"), row["all"] or [], row["revision"]) for row in rows]
    assert [row["n"] for row in rows] == [len(values) for _, _, _, values, _ in found]
    return [one if one[-1] else one[:-1] for one in found]


# Which windows a row falls into


@pytest.mark.parametrize(
    ("window", "at", "expected"),
    [
        (TUMBLING, 0, [(0, 10)]),
        (TUMBLING, 9.999, [(0, 10)]),
        (TUMBLING, 10, [(10, 20)]),
        (SLIDING, 0, [(-20, 10), (-10, 20), (0, 30)]),
        (SLIDING, 9.999, [(-20, 10), (-10, 20), (0, 30)]),
        (SLIDING, 10, [(-10, 20), (0, 30), (10, 40)]),
        (CUMULATING, 0, [(0, 10), (0, 20), (0, 30)]),
        (CUMULATING, 9.999, [(0, 10), (0, 20), (0, 30)]),
        (CUMULATING, 10, [(0, 20), (0, 30)]),
        (CUMULATING, 29.999, [(0, 30)]),
        (CUMULATING, 30, [(30, 40), (30, 50), (30, 60)]),
        (hr.sliding(hr.minutes(4), hr.minutes(2)), 150, [(0, 240), (120, 360)]),
        (hr.tumbling(hr.hours(2)), 0, [(0, 7200)]),
        (hr.tumbling(hr.milliseconds(1)), 0.001, [(0.001, 0.002)]),
    ],
)
def test_a_row_is_in_the_windows_that_hold_its_time_the_start_included_and_the_end_not(
    window: Window, at: float, expected: list[tuple[float, float]]
) -> None:
    feeding = Feeding(kernel_of(window))
    feeding.feed(T + round(at * S))
    assert feeding.advance(FOREVER) == [(round(start * S), round(end * S), "a", [0]) for start, end in expected]


def test_times_before_1970_fall_into_windows_as_any_other() -> None:
    feeding = Feeding(kernel_of(SLIDING))
    feeding.feed(-1)
    assert [(start + T, end + T) for start, end, *_ in feeding.advance(FOREVER)] == [(-30 * S, 0), (-20 * S, 10 * S), (-10 * S, 20 * S)]


def test_windows_of_a_zone_are_open_until_its_clocks_show_their_ends() -> None:
    """The 25-hour day of Berlin, told hour by hour; what is closed after a time of quiet goes by these ends too."""
    kernel, state, day = kernel_of(hr.cumulating(hr.days(1), hr.hours(6), zone="Europe/Berlin")), WindowState(), 1_729_893_600_000
    hidden = [pl.lit("a").alias("k"), pl.lit(0).alias("@partition"), pl.lit(NEVER).alias("@watermark"), pl.lit(NEVER).alias("@clock")]
    hours = [86_400_000 + hour * 3_600_000 for hour in range(25)]
    kernel.feed(state, 0, pl.DataFrame({"x": [*range(25)], "@record": [*range(25)], "@time": [day + hour for hour in hours]}).with_columns(hidden))
    counts, open_ends = [], []
    for hour in (6, 7, 13, 19, 25):
        open_ends.append((kernel.count_open(state), kernel.last_open_end(state)))
        closed = [row for frame in kernel.advance(state, day + 86_400_000 + hour * 3_600_000 - 1) for row in frame.to_dicts()]
        counts.append([row["n"] for row in closed])
    end = day + 86_400_000 + 25 * 3_600_000
    assert counts == [[], [7], [13], [19], [25]]  # the first window has the hour from 02:00 to 03:00 twice
    assert open_ends == [(4, end), (4, end), (3, end), (2, end), (1, end)]
    assert (kernel.count_open(state), kernel.last_open_end(state)) == (0, None)


# Lateness


@pytest.mark.parametrize("lateness", [0, 1, 4 * S, 25 * S])
@pytest.mark.parametrize(("window", "last_end"), [(TUMBLING, 10 * S), (SLIDING, 30 * S), (CUMULATING, 30 * S)])
@pytest.mark.parametrize("at", [0, 5 * S, 10 * S - 1])
def test_a_row_is_taken_until_the_watermark_reaches_the_last_windows_end_less_1_ms_and_its_lateness(
    window: Window, last_end: int, at: int, lateness: int
) -> None:
    feeding = Feeding(kernel_of(window, lateness=lateness))
    assert feeding.takes(T + at, T + last_end - 2 + lateness)
    assert not feeding.takes(T + at, T + last_end - 1 + lateness)
    assert not feeding.takes(T + at, T + last_end + lateness)


@pytest.mark.parametrize("window", [TUMBLING, SLIDING, CUMULATING])
def test_a_window_closes_when_the_clock_reaches_its_end_less_1_ms(window: Window) -> None:
    feeding = Feeding(kernel_of(window))
    feeding.feed(T)
    assert feeding.advance(T + 10 * S - 2) == []
    assert [(end, key) for _, end, key, _ in feeding.advance(T + 10 * S - 1)] == [(10 * S, "a")]
    assert feeding.advance(T + 10 * S) == []


@pytest.mark.parametrize(("window", "longer"), [(SLIDING, [(-10 * S, 20 * S), (0, 30 * S)]), (CUMULATING, [(0, 20 * S), (0, 30 * S)])])
def test_a_row_late_for_a_short_window_still_counts_in_the_longer_ones(window: Window, longer: list[tuple[int, int]]) -> None:
    feeding = Feeding(kernel_of(window))
    feeding.feed(T + 1 * S, x=1)
    feeding.feed(T + 2 * S, T + 10 * S - 1, x=2)
    closed = feeding.advance(FOREVER)
    assert closed[0][3] == [1]
    assert [(start, end, values) for start, end, _, values in closed[1:]] == [(*bounds, [1, 2]) for bounds in longer]


def test_which_windows_take_a_row_depends_on_its_own_partition_alone() -> None:
    feeding = Feeding(kernel_of(TUMBLING))
    feeding.feed(T + 1, T + 9 * S, x=1, partition=0)
    feeding.feed(T + 2, T + 10 * S - 1, x=2, partition=1)
    feeding.feed(T + 3, NEVER, x=3, partition=2)
    assert feeding.advance(FOREVER) == [(0, 10 * S, "a", [1, 3])]


# Slices, and the order in which rows are folded


@pytest.mark.parametrize(
    ("window", "slice_ms"),
    [
        (hr.tumbling(hr.minutes(1)), M),
        (hr.tumbling(hr.seconds(90)), 45 * S),
        (hr.tumbling(hr.hours(24)), M),
        (hr.tumbling(hr.milliseconds(29 * 2069)), 2069),
        (hr.tumbling(hr.milliseconds(60_013)), 60_013),
        (hr.sliding(hr.minutes(5), hr.minutes(1)), M),
        (hr.sliding(hr.minutes(4), hr.minutes(2)), M),
        (SLIDING, 10 * S),
        (CUMULATING, 10 * S),
    ],
)
def test_slices_are_the_longest_from_a_second_to_a_minute_that_windows_are_made_of(window: Window, slice_ms: int) -> None:
    assert window.slice_ms == slice_ms
    assert window.size_ms % slice_ms == window.step_ms % slice_ms == 0


def test_a_long_window_keeps_its_rows_only_until_their_slice_is_over() -> None:
    feeding = Feeding(kernel_of(hr.tumbling(hr.hours(1))))
    for minute in range(30):
        feeding.feed(T + minute * M, T + minute * M - 1, x=minute)
        assert feeding.advance(T + minute * M - 1) == []
        assert sum(map(len, feeding.state.buffer[0])) == 1
    assert feeding.advance(FOREVER) == [(0, H, "a", list(range(30)))]


def test_rows_are_folded_slice_by_slice_and_within_a_slice_by_partition_and_offset() -> None:
    feeding = Feeding(kernel_of(hr.tumbling(hr.seconds(120))))
    feeding.feed(T + 70 * S, x=5, partition=1)
    feeding.feed(T + 2 * S, x=3, partition=1)
    feeding.feed(T + 61 * S, x=4, partition=0)
    feeding.feed(T + 9 * S, x=1, partition=0)
    feeding.feed(T + 1 * S, x=2, partition=0)
    assert feeding.advance(FOREVER) == [(0, 2 * M, "a", [1, 2, 3, 4, 5])]


def test_a_straggler_counts_in_the_windows_still_open_behind_the_rows_of_its_slice() -> None:
    feeding = Feeding(kernel_of(hr.tumbling(hr.seconds(120))))
    feeding.feed(T + 30 * S, x=1)
    feeding.feed(T + 90 * S, T + 30 * S, x=4)
    feeding.advance(T + 90 * S)
    feeding.feed(T + 10 * S, T + 90 * S, x=3, partition=1)
    feeding.feed(T + 20 * S, T + 90 * S, x=2, partition=0)
    assert sorted(feeding.state.stragglers["x"]) == [2, 3]
    assert feeding.advance(FOREVER) == [(0, 2 * M, "a", [1, 2, 3, 4])]


def test_a_row_is_a_straggler_from_the_moment_its_partition_has_reached_its_slices_end() -> None:
    feeding = Feeding(kernel_of(hr.tumbling(hr.seconds(120))))
    feeding.feed(T, T + M - 2)
    assert feeding.state.stragglers is None
    feeding.feed(T, T + M - 1)
    assert len(feeding.state.stragglers) == 1


# Keys


def test_without_keys_all_rows_of_a_window_are_one_group() -> None:
    feeding = Feeding(kernel_of(SLIDING, by=()))
    feeding.feed(T, x=1, k="a")
    feeding.feed(T + 10 * S, x=2, k="b")
    assert [(end, values) for _, end, _, values in feeding.advance(FOREVER)] == [(10 * S, [1]), (20 * S, [1, 2]), (30 * S, [1, 2]), (40 * S, [2])]


def test_null_is_a_key_of_its_own_and_comes_first_then_keys_by_code_point() -> None:
    feeding = Feeding(kernel_of(TUMBLING))
    for x, k in enumerate(["b", None, "é", "", "B", "b", None, "𐍈", "\uff5e"]):
        feeding.feed(T + x, x=x, k=k)
    keys = [(key, values) for _, _, key, values in feeding.advance(FOREVER)]
    assert keys == [(None, [1, 6]), ("", [3]), ("B", [4]), ("b", [0, 5]), ("é", [2]), ("\uff5e", [8]), ("𐍈", [7])]


def test_windows_come_by_their_end_then_key_however_far_the_clock_moves_at_once() -> None:
    feeding = Feeding(kernel_of(TUMBLING))
    for time, k in [(21, "a"), (1, "b"), (11, "a"), (2, "a")]:
        feeding.feed(T + time * S, k=k)
    assert [(end, key) for _, end, key, _ in feeding.advance(FOREVER)] == [(10 * S, "a"), (10 * S, "b"), (20 * S, "a"), (30 * S, "a")]


# What is kept


@pytest.mark.parametrize("window", [hr.tumbling(hr.milliseconds(1)), hr.sliding(hr.milliseconds(3), hr.milliseconds(1)), hr.tumbling(hr.hours(24))])
@pytest.mark.parametrize("lateness", [0, 7])
def test_a_gap_of_decades_costs_nothing(window: Window, lateness: int) -> None:
    feeding = Feeding(kernel_of(window, lateness=lateness))
    first, last = -30 * 365 * 24 * H, 75 * 365 * 24 * H
    feeding.feed(T + first)
    closed = feeding.feed(T + last, T + first)
    closed += feeding.advance(T + last)
    closed += feeding.advance(FOREVER)
    assert len(closed) == 2 * (window.size_ms // window.step_ms)


@pytest.mark.parametrize("window", [TUMBLING, SLIDING, CUMULATING, hr.tumbling(hr.minutes(3))])
@pytest.mark.parametrize("lateness", [0, 15 * S])
def test_nothing_is_kept_of_a_window_that_is_closed_and_beyond_its_lateness(window: Window, lateness: int) -> None:
    feeding = Feeding(kernel_of(window, lateness=lateness))
    feeding.feed(T, T - 1)
    feeding.feed(T, T + 10 * S - 1)
    kept, last_end = feeding.state, window.last_end(T)
    feeding.advance(last_end - 2 + lateness)
    assert kept.folded is not None or kept.buffer[0]
    feeding.advance(last_end - 1 + lateness)
    assert (kept.folded, kept.stragglers, kept.revisions, kept.buffer[0]) == (None, None, None, [])


# Allowed lateness


def test_a_record_that_comes_to_a_closed_window_has_its_group_given_again() -> None:
    feeding = Feeding(kernel_of(TUMBLING, lateness=5 * S))
    feeding.feed(T, x=1, k="a")
    feeding.feed(T, x=9, k="b")
    assert feeding.feed(T + 1, T + 10 * S - 1, x=2) == [(0, 10 * S, "a", [1]), (0, 10 * S, "b", [9]), (0, 10 * S, "a", [1, 2], 1)]
    assert feeding.feed(T + 2, T + 15 * S - 2, x=3) == [(0, 10 * S, "a", [1, 2, 3], 2)]
    assert feeding.feed(T + 3, T + 15 * S - 1, x=4) == []
    assert feeding.advance(FOREVER) == []


def test_a_late_record_that_comes_before_the_clock_closes_the_window_is_an_ordinary_one() -> None:
    feeding = Feeding(kernel_of(TUMBLING, lateness=5 * S))
    feeding.feed(T, x=1)
    assert feeding.feed(T + 1, T + 12 * S, x=2, clock=T + 10 * S - 2) == []
    assert feeding.advance(FOREVER) == [(0, 10 * S, "a", [1, 2])]


def test_a_group_that_a_closed_window_did_not_have_is_given_as_revision_0() -> None:
    feeding = Feeding(kernel_of(TUMBLING, lateness=5 * S))
    feeding.feed(T, x=1, k="a")
    feeding.advance(T + 10 * S)
    assert feeding.feed(T, T + 10 * S, x=2, k=None) == [(0, 10 * S, None, [2])]
    assert feeding.feed(T, T + 10 * S, x=3, k=None) == [(0, 10 * S, None, [2, 3], 1)]
    assert feeding.feed(T, T + 10 * S, x=4, k="a") == [(0, 10 * S, "a", [1, 4], 1)]


def test_a_window_that_was_empty_when_it_closed_is_given_when_a_late_record_comes() -> None:
    feeding = Feeding(kernel_of(TUMBLING, lateness=5 * S))
    feeding.advance(T + 12 * S)
    assert feeding.feed(T, T + 12 * S, x=1) == [(0, 10 * S, "a", [1])]


def test_a_late_record_revises_each_closed_window_that_holds_it_and_goes_into_the_open_ones() -> None:
    feeding = Feeding(kernel_of(SLIDING, lateness=5 * S))
    feeding.feed(T, x=1)
    first = feeding.feed(T + 1, T + 20 * S - 1, x=2)
    assert first == [(-20 * S, 10 * S, "a", [1]), (-10 * S, 20 * S, "a", [1]), (-10 * S, 20 * S, "a", [1, 2], 1)]
    assert feeding.feed(T + 2, T + 14 * S - 1, x=3, clock=T + 20 * S - 1) == [(-20 * S, 10 * S, "a", [1, 3], 1), (-10 * S, 20 * S, "a", [1, 2, 3], 2)]
    assert feeding.advance(FOREVER) == [(0, 30 * S, "a", [1, 2, 3])]


def test_a_record_of_several_rows_revises_each_group_once() -> None:
    feeding = Feeding(kernel_of(TUMBLING, lateness=5 * S))
    feeding.feed(T, x=1)
    feeding.advance(T + 10 * S)
    assert feeding.feed_rows(T, T + 10 * S, [("b", 2), ("a", 3), ("b", 4)]) == [(0, 10 * S, "a", [1, 3], 1), (0, 10 * S, "b", [2, 4])]


# However the input comes

WIDE = hr.sliding(hr.seconds(60), hr.seconds(1))
STEPPED = hr.sliding(hr.seconds(42), hr.seconds(6))
GROWING = hr.cumulating(hr.seconds(50), hr.seconds(2))
AGGREGATES = {
    "n": "COUNT(*)",
    "total": "SUM(x)",
    "mean": "AVG(x)",
    "spread": "STDDEV_POP(x)",
    "mid": "MEDIAN(x)",
    "first": "FIRST_VALUE(x)",
    "all": "ARRAY_AGG(x)",
}


def kernel_of_doubles(window: Window, by: tuple[str, ...], lateness: int) -> WindowKernel:
    events = hr.stream("events", schema={"k": "STRING", "j": "STRING", "t": "BIGINT", "x": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    operator = events.window(window, by=by, allowed_lateness=hr.milliseconds(lateness)).aggregate(**AGGREGATES).operator
    assert isinstance(operator, Aggregate)
    return WindowKernel(operator, by[:1])


def random_rows(seed: int, delay: int) -> pl.DataFrame:
    """Return 160 records of two partitions over some minutes, disordered and with a gap, as a window kernel gets them."""
    chance, greatest, rows = random.Random(seed), [NEVER, NEVER], []
    time = T
    for record in range(160):
        time += chance.choice([0, 100, 700, 1_500]) + 90_000 * (record == 80)
        partition, at = chance.randrange(2), time - chance.choice([0, 0, 300, 4_000, 25_000])
        marks = [one - delay if one > NEVER else NEVER for one in greatest]
        keys = chance.choice(["a", "b", None]), chance.choice(["p", "q"])
        rows += [(record, partition, at, marks[partition], min(marks), *keys, chance.uniform(-1, 1) * 10 ** chance.randint(-6, 6))]
        greatest[partition] = max(greatest[partition], at)
    return pl.DataFrame(rows, schema={"@record": pl.UInt32, "@partition": pl.Int64, "@time": pl.Int64, "@watermark": pl.Int64, "@clock": pl.Int64, "k": pl.String, "j": pl.String, "x": pl.Float64}, orient="row")  # fmt: skip


def emitted(kernel: WindowKernel, rows: pl.DataFrame, sizes: Iterator[int], *, forgetful: bool = False) -> pl.DataFrame:
    """Return what a kernel emits for rows that come in batches of these sizes; one that is forgetful is restored between them."""
    state, frames, start = WindowState(), [], 0
    while start < len(rows):
        batch = rows[start : start + next(sizes)]
        start += len(batch)
        for partition, part in [(0, batch)] if kernel.lateness else [(p, batch.filter(pl.col("@partition") == p)) for p in (0, 1)]:
            frames += kernel.feed(state, partition, part).emitted
        frames += kernel.advance(state, FOREVER if start >= len(rows) else rows["@clock"][start])
        if forgetful:
            state = WindowState(state.clock, state.buffer, state.folded, state.stragglers, state.revisions)
    return pl.concat(frames).drop("@round", strict=False)


@pytest.mark.parametrize("lateness", [0, 22 * S])
@pytest.mark.parametrize("window", [TUMBLING, hr.tumbling(hr.seconds(90)), SLIDING, WIDE, STEPPED, GROWING], ids=str)
def test_the_last_digits_and_the_order_do_not_depend_on_batches_restarts_or_how_many_windows_close_at_once(
    window: Window, lateness: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    revised = 0
    for seed, by in enumerate([("k", "j"), ()]):
        kernel, rows = kernel_of_doubles(window, by, lateness), random_rows(seed, delay=5 * S)
        expected = emitted(kernel, rows, repeat(len(rows)))
        revised += (expected["revision"] > 0).sum()
        with monkeypatch.context() as patch:
            patch.setattr("headrace.kernels.columnar.window.PORTION", 50)
            patch.setattr("headrace.kernels.columnar.window_merging.PORTION", 50)
            chance = random.Random(seed)
            for most in (8, 60):
                got = emitted(kernel, rows, iter([chance.randint(1, most) for _ in range(len(rows))]), forgetful=most > 8)
                assert got.equals(expected)
    assert bool(revised) == bool(lateness)


@pytest.mark.parametrize("window", [SLIDING, WIDE, STEPPED, GROWING], ids=str)
def test_overlapping_windows_hold_their_slices_in_the_order_of_time(window: Window) -> None:
    kernel, rows = kernel_of_doubles(window, ("k",), 0), random_rows(7, delay=5 * S)
    slice_ms, expected = window.slice_ms, {}
    for record in rows.to_dicts():
        time, watermark = record["@time"], record["@watermark"]
        first = time // slice_ms * slice_ms
        for end in range(time // window.step_ms * window.step_ms + window.step_ms, window.last_end(time) + 1, window.step_ms):
            if watermark < end - 1:
                place = first, watermark >= first + slice_ms - 1, record["@partition"], record["@record"]
                expected.setdefault((end, record["k"]), []).append((place, record["x"]))
    found = {(T + ms(row["window_end"]), row["k"]): row["all"] for row in emitted(kernel, rows, repeat(40)).to_dicts()}
    assert found == {key: [x for _, x in sorted(values)] for key, values in expected.items()}


def test_what_a_window_merges_does_not_grow_with_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    merged = []
    merge = Folding.merge
    monkeypatch.setattr(Folding, "merge", lambda self, states, by: merged.append(len(states)) or merge(self, states, by))
    seconds = pl.DataFrame({"x": [0] * 1_000, "@time": [T + second * S for second in range(1_000)]})
    hidden = [pl.lit(NEVER).alias("@watermark"), pl.lit(0).alias("@record"), pl.lit("a").alias("k")]
    counts = {}
    for size in (8, 64, 512):
        merged.clear()
        kernel, state = kernel_of(hr.sliding(hr.seconds(size), hr.seconds(1))), WindowState()
        kernel.feed(state, 0, seconds.with_columns(hidden))
        windows = sum(map(len, kernel.advance(state, FOREVER)))
        assert windows == 1_000 + size - 1
        counts[size] = sum(merged) / windows
    assert counts[64] < counts[8] + 7
    assert counts[512] < counts[64] + 7


# Grouping further


def regroup(stream: hr.Stream, frames: list[pl.DataFrame], **aggregates: str) -> pl.DataFrame:
    operator = stream.aggregate(by=["k"], **aggregates).operator
    assert isinstance(operator, Regroup)
    return RegroupKernel(operator)(frames[0])


def test_rows_of_a_window_are_grouped_further_within_their_window() -> None:
    stream = EVENTS.window(TUMBLING, by=["k", "x"]).aggregate(n="COUNT(*)")
    assert isinstance(stream.operator, Aggregate)
    feeding = Feeding(WindowKernel(stream.operator))
    for time, k, x in [(0, "b", 1), (0, None, 2), (1, "b", 3), (1, None, 2), (10, "b", 1)]:
        feeding.feed(T + time * S, k=k, x=x)
    rows = regroup(stream, list(feeding.kernel.advance(feeding.state, FOREVER)), total="SUM(n)", xs="ARRAY_AGG(x)")
    found = [(ms(row["window_end"]), row["k"], row["total"], row["xs"]) for row in rows.to_dicts()]
    assert found == [(10 * S, None, 2, [2]), (10 * S, "b", 2, [1, 3]), (20 * S, "b", 1, [1])]
