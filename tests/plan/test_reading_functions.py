"""Aggregates over the time between readings, against a reference that looks at each millisecond."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from headrace.errors import PlanError
from headrace.kernels.columnar.aggregate import Folding
from headrace.kernels.reading.text import polars_type
from headrace.plan.running import running_of
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, Field, Schema
from headrace.plan.sql import parse_expression

SCHEMA = Schema((Field("t", BIGINT), Field("v", DOUBLE), Field("q", BIGINT), Field("b", BOOLEAN)))
BAD, UNCERTAIN = 0x80000000, 0x40000000

numbers = st.sampled_from([0.0, 1.0, -2.5, 7.25, 1e6, 0.1])
readings = st.lists(
    st.tuples(
        st.none() | st.integers(0, 12), st.none() | numbers, st.none() | st.sampled_from([0, 192, UNCERTAIN, BAD, BAD + 1, -1]), st.none() | st.booleans()
    ),
    max_size=12,
)  # fmt: skip

Reading = tuple[int | None, Any, Any, Any]


def at_each_time(rows: Sequence[Reading], place: int) -> dict[int, Any]:
    """Return the value at each time that has a reading: the greatest, or None."""
    times = sorted({row[0] for row in rows if row[0] is not None})
    found: dict[int, Any] = {}
    for time in times:
        values: list[Any] = [row[place] for row in rows if row[0] == time and row[place] is not None]
        found[time] = max(values, default=None)
    return found


def milliseconds(known: Mapping[int, Any]) -> list[tuple[int, int, int]]:
    """Return each millisecond from the first reading to the last, with the times of the readings around it."""
    if not known:
        return []
    inside = range(min(known), max(known))
    return [(ms, max(one for one in known if one <= ms), min(one for one in known if one > ms)) for ms in inside]


def average(rows: Sequence[Reading], *, stepped: bool) -> float | None:
    known = at_each_time(rows, 1)
    if len(known) < 2:
        return next(iter(known.values()), None)
    heights = []
    for ms, before, after in milliseconds(known):
        low, high = known[before], known[before] if stepped else known[after]
        if low is not None and high is not None:
            share = Fraction(2 * (ms - before) + 1, 2 * (after - before))
            heights.append(Fraction(low) + (Fraction(high) - Fraction(low)) * share)
    return float(sum(heights) / len(heights)) if heights else None


def duration(rows: Sequence[Reading], place: int, is_so: Callable[[Any], bool]) -> int | None:
    known = at_each_time(rows, place)
    return sum(is_so(known[before]) for _, before, _ in milliseconds(known)) if known else None


def good(quality: int | None) -> bool:
    return quality in (0, 192)


def percent_good(rows: Sequence[Reading]) -> float | None:
    known = at_each_time(rows, 2)
    if len(known) == 1:
        return 100.0 if good(*known.values()) else 0.0
    return 100 * duration(rows, 2, good) / len(milliseconds(known)) if known else None  # type: ignore[operator]


def transitions(rows: Sequence[Reading]) -> int | None:
    values = [value for value in at_each_time(rows, 1).values() if value is not None]
    return sum(values[number] != values[number - 1] for number in range(1, len(values))) if values else None


CALLS: dict[str, Callable[[Sequence[Reading]], Any]] = {
    "TIME_AVERAGE(t, v)": lambda rows: average(rows, stepped=False),
    "TIME_AVERAGE(t, v, 'stepped')": lambda rows: average(rows, stepped=True),
    "PERCENT_GOOD(t, q)": percent_good,
    "DURATION_GOOD(t, q)": lambda rows: duration(rows, 2, good),
    "DURATION_IN_STATE(t, b)": lambda rows: duration(rows, 3, bool),
    "NUMBER_OF_TRANSITIONS(t, v)": transitions,
    "WORST_QUALITY(q)": lambda rows: max((row[2] for row in rows if row[2] is not None), default=None),
    "DURATION_GOOD(t, q) FILTER (WHERE b)": lambda rows: duration([row for row in rows if row[3]], 2, good),
}
FOLDING = Folding([(f"c{number}", parse_expression(text, SCHEMA, aggregates=True)) for number, text in enumerate(CALLS)])


def frame(rows: Sequence[Reading]) -> pl.DataFrame:
    columns = [pl.Series(field.name, [row[place] for row in rows], dtype=polars_type(field.type)) for place, field in enumerate(SCHEMA.fields)]
    return pl.DataFrame([pl.Series("k", ["a"] * len(rows), dtype=pl.String), *columns])


def folded(parts: Sequence[pl.DataFrame]) -> list[Any]:
    """Return the values of all calls for the key `a`: each part folded by itself, the states merged."""
    states = FOLDING.merge(pl.concat([FOLDING.fold(part, ["k"]) for part in parts]), ["k"])
    found = FOLDING.result(states).filter(pl.col("k") == "a").rows(named=True)
    return [found[0][f"c{number}"] for number in range(len(CALLS))]


@given(readings.filter(bool), st.data())
def test_aggregates_over_time_agree_with_a_reference_whatever_the_order_and_the_slices(rows: list[Reading], data: st.DataObject) -> None:
    once = folded([frame(rows)])
    for (text, reference), value in zip(CALLS.items(), once, strict=True):
        expected = reference(rows)
        assert value == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected), text
        assert type(value) is type(expected), text
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(rows)), max_size=3)))
    parts = [frame(shuffled[start:end]) for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    others = frame([(3, 5.5, 0, True)] * 3).with_columns(k=pl.lit("b"))
    assert folded([*parts, others]) == once, "the same to the last digit"


SINGLE: list[tuple[str, int, tuple[str, ...]]] = [
    ("TIME_AVERAGE", 1, ()), ("TIME_AVERAGE", 1, ("sloped",)), ("TIME_AVERAGE", 1, ("stepped",)), ("PERCENT_GOOD", 2, ()),
    ("DURATION_GOOD", 2, ()), ("DURATION_IN_STATE", 3, ()), ("NUMBER_OF_TRANSITIONS", 1, ()),
]  # fmt: skip


@pytest.mark.parametrize("times", [(-(2**63), 2**63 - 1), (-(2**63), 0, 2**63 - 1), (-(2**62) - 5, 2**62), (0, 2**62, 2**63 - 1)])
def test_times_too_far_apart_for_64_bits_give_the_same_in_over_and_in_windows(times: Sequence[int]) -> None:
    rows = [(time, 1.0, 0, True) for time in times]
    in_windows = dict(zip(CALLS, folded([frame(rows)]), strict=True))
    for name, place, more in SINGLE:
        stepped = ", 'stepped'" if more == ("stepped",) else ""
        found = running_of(name, BIGINT).of([(row[0], row[place], *more) for row in rows])
        assert found == in_windows[f"{name}(t, {SCHEMA.names[place]}{stepped})"], (name, more)


@given(readings)
def test_the_kernel_of_single_rows_gives_the_same(rows: list[Reading]) -> None:
    for name, place, more in SINGLE:
        given_ = [(row[0], row[place], *more) for row in rows if row[0] is not None]
        call = f"{name}(t, {SCHEMA.names[place]}{', ' if 'stepped' in more else ''}{repr('stepped') if 'stepped' in more else ''})"
        expected = CALLS[call](rows)
        found = running_of(name, BIGINT).of(given_)
        assert found == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected), (call, more)


def test_a_long_list_gives_the_same_beside_any_others_and_in_any_order() -> None:
    rows = [(number * 7 % 5003, 0.1 * (number * 31 % 97), number % 3 and BAD, number % 2 == 0) for number in range(5003)]
    alone = folded([frame(rows)])
    others = frame([*rows, *rows]).with_columns(k=pl.Series([f"b{number % 300}" for number in range(2 * len(rows))]))
    assert folded([frame(rows[3000:]), others, frame(rows[:3000])]) == alone


def test_aggregates_over_time_are_columns_of_windows_and_of_over() -> None:
    @hr.pipeline("plant", version="1")
    def plant() -> dict[str, hr.Stream]:
        given_ = hr.stream(
            "readings", schema={"tag": "STRING", "time": "BIGINT", "value": "DOUBLE", "quality": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(time, 3)"
        )
        windows = given_.window(hr.sliding(hr.seconds(20), every=hr.seconds(10)), by=["tag"]).aggregate(
            average="TIME_AVERAGE(time, value)",
            good="PERCENT_GOOD(time, quality)",
            worst="WORST_QUALITY(quality)",
            above="DURATION_IN_STATE(time, value > 4)",
        )
        running = given_.over(by=["tag"], rows=3, average="TIME_AVERAGE(time, value, 'stepped')", changes="NUMBER_OF_TRANSITIONS(time, value)")
        return {"windows": windows, "running": running}

    start = 1_704_067_200_000
    rows = [
        {"tag": "a", "time": start + 1000 * second, "value": value, "quality": 0 if value is not None else BAD}
        for second, value in ((1, 2.0), (5, 6.0), (9, None), (13, 6.0), (17, 6.0))
    ]
    result = plant.run({"readings": rows})
    found = [(one["average"], one["good"], one["worst"], one["above"]) for one in result["windows"].rows()]
    assert found == [(4.0, 100.0, BAD, 4000), (5.0, 75.0, BAD, 8000), (6.0, 100.0, 0, 4000)]
    running = [(one["average"], one["changes"]) for one in result["running"].rows()]
    assert running == [(2.0, 0), (2.0, 1), (4.0, 1), (6.0, 0), (6.0, 0)]


def test_an_interpolation_that_there_is_not_is_refused() -> None:
    with pytest.raises(PlanError, match="there is no interpolation 'step'") as refused:
        parse_expression("TIME_AVERAGE(t, v, 'step')", SCHEMA, aggregates=True)
    assert "stepped" in str(refused.value.fix)
