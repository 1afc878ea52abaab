"""The watermark before each record, and the clock."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kernels.columnar.watermark import FEW, FOREVER, NEVER, Clock, watermark_before

times = st.lists(st.integers(0, 60), max_size=12)


def of(values: list[int]) -> pl.Series:
    return pl.Series("@time", values, dtype=pl.Int64)


@pytest.mark.parametrize("few", [0, FEW])
@given(times, times, st.integers(0, 30))
def test_the_watermark_before_a_record_is_the_greatest_time_before_it_less_the_delay(
    few: int, earlier: list[int], batch: list[int], delay: int
) -> None:
    seen, expected, shown = earlier, [], []
    for time in batch:
        expected.append(max(seen) - delay if seen else NEVER)
        seen = [*seen, time]
        shown.append(max(seen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.kernels.columnar.watermark.FEW", few)
        before, so_far = watermark_before(of(batch), max(earlier, default=NEVER), delay)
    assert before.to_list() == expected
    assert so_far.to_list() == shown


def test_a_partition_that_has_shown_nothing_has_no_watermark_whatever_the_delay() -> None:
    before, so_far = watermark_before(of([5]), NEVER, 10**12)
    assert before.to_list() == [NEVER]
    assert so_far.to_list() == [5]


def test_the_clock_is_the_least_watermark_of_the_partitions_that_have_not_ended() -> None:
    clock = Clock()
    assert clock.now == NEVER
    clock.show(0, greatest=100, delay=10)
    clock.show(1, greatest=80, delay=0)
    assert clock.now == 80
    clock.finish(1)
    assert clock.now == 90
    clock.finish(0)
    assert clock.now == FOREVER


def test_a_resting_partition_holds_nothing_back_and_the_clock_never_falls() -> None:
    clock = Clock()
    clock.show(0, greatest=100, delay=10)
    clock.show(1, greatest=80, delay=0)
    clock.resting.add(1)
    assert (clock.now, clock.holding(0), clock.holding(1)) == (90, 90, FOREVER)
    clock.resting.discard(1)
    assert clock.now == 90
    clock.resting |= {0, 1}
    clock.show(0, greatest=200, delay=10)
    clock.show(1, greatest=150, delay=0)
    assert clock.now == 190  # all rest: nobody holds anything back
    assert clock.asleep
