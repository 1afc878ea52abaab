"""The order of the input: batches taken turn by turn give what merging the partitions record by record gives."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kernels.columnar.order import clock_before, in_order, turn
from headrace.kernels.columnar.watermark import FEW, FOREVER, NEVER

# Of each partition its batches, of each batch its records' event times.
partitions = st.lists(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=4), min_size=1, max_size=3)


def merged(times: list[list[int]]) -> list[tuple[int, int]]:
    """Return (partition, place) of each record, merged by hand on the time of the head records."""
    heads, order = [0] * len(times), []
    while left := [p for p in range(len(times)) if heads[p] < len(times[p])]:
        first = min(left, key=lambda p: (times[p][heads[p]], p))
        order.append((first, heads[first]))
        heads[first] += 1
    return order


def frame(partition: int, first: int, times: list[int], greatest: int) -> pl.DataFrame:
    rows = pl.DataFrame({"@place": range(first, first + len(times)), "@time": times}, schema={"@place": pl.Int64, "@time": pl.Int64})
    return rows.select(pl.lit(partition).alias("@partition"), "@place", pl.col("@time").cum_max().clip(lower_bound=greatest).alias("@order"))


@given(partitions)
def test_turns_give_the_merge_on_head_records_however_partitions_come_in_batches(batches: list[list[list[int]]]) -> None:
    waiting = {p: list(of) for p, of in enumerate(batches)}
    at_hand = {p: frame(p, 0, [], NEVER) for p in waiting}
    read, greatest, taken = dict.fromkeys(waiting, 0), dict.fromkeys(waiting, NEVER), []
    while any(waiting.values()) or any(map(len, at_hand.values())):
        for p, rows in at_hand.items():
            if rows.is_empty() and waiting[p]:
                times = waiting[p].pop(0)
                at_hand[p] = frame(p, read[p], times, greatest[p])
                read[p] += len(times)
                greatest[p] = max([greatest[p], *times])
        counts = turn({p: rows["@order"] for p, rows in at_hand.items()}, {p for p in waiting if waiting[p]})
        taken.append(in_order([rows[: counts[p]] for p, rows in at_hand.items()]))
        at_hand = {p: rows[counts[p] :] for p, rows in at_hand.items()}
    order = pl.concat(taken).select("@partition", "@place").rows() if taken else []
    assert order == merged([[time for batch in of for time in batch] for of in batches])


def test_nothing_comes_next_while_a_partition_that_goes_on_shows_nothing() -> None:
    orders = {0: pl.Series([1, 2]), 1: pl.Series([], dtype=pl.Int64)}
    assert turn(orders, {1}) == {0: 0, 1: 0}
    assert turn(orders, set()) == {0: 2, 1: 0}


@pytest.mark.parametrize("few", [0, FEW])
@given(
    partitions, st.lists(st.integers(0, 3), min_size=3, max_size=3), st.lists(st.integers(-5, 5), min_size=3, max_size=3), st.sets(st.integers(0, 2))
)
def test_the_clock_before_a_row_is_what_one_sees_going_row_by_row(
    few: int, batches: list[list[list[int]]], delays: list[int], shown: list[int], finished: set[int]
) -> None:
    times = [[time for batch in of for time in batch] for of in batches]
    finished &= set(range(len(times)))
    rows = in_order([frame(p, 0, of, shown[p]) for p, of in enumerate(times)]).with_columns(pl.col("@order").alias("@shown"))
    watermarks = {p: shown[p] - delays[p] for p in range(len(times))}
    expected, now = [], {p: FOREVER if p in finished and not times[p] else mark for p, mark in watermarks.items()}
    greatest: dict[int, Any] = dict(enumerate(shown))
    for p, place in merged([[max(shown[p], *of[: n + 1]) for n in range(len(of))] for p, of in enumerate(times)]):
        expected.append(min(now.values()))
        greatest[p] = max(greatest[p], times[p][place])
        now[p] = FOREVER if p in finished and place == len(times[p]) - 1 else greatest[p] - delays[p]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.kernels.columnar.order.FEW", few)
        assert clock_before(rows, watermarks, dict(enumerate(delays)), finished).to_list() == expected
