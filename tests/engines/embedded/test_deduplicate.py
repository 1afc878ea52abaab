"""`deduplicate` and `top_n` on the embedded engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.test_run import ZERO, T, events, file_of, plan_of, rows_of
from headrace.engines.embedded.run import run_files
from headrace.errors import PlanError

WITHIN = 10


def once(delay: int = 0) -> hr.Stream:
    return events(watermark=hr.seconds(delay)).deduplicate(["k"], within=hr.seconds(WITHIN))


def test_the_first_of_each_key_is_kept_and_the_first_after_so_long(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.ndjson", ("a", 0, 1), ("a", 5, 2), (None, 5, 3), (None, 6, 4), ("a", 9, 5), ("a", 10, 6), ("a", 19, 7), ("b", 19, 8))
    accounts = run_files(plan_of(out=once()), {"events": [file]}, tmp_path / "out")
    assert [row["x"] for row in rows_of(tmp_path / "out", "out")] == [1, 3, 6, 8]
    assert accounts["events"].counts() == {**ZERO, "received": 8, "accepted": 4, "duplicate": 4}


def test_what_comes_out_has_the_columns_that_went_in(tmp_path: Path) -> None:
    assert once().schema.names == ("k", "t", "x")
    file = file_of(tmp_path / "a.ndjson", ("a", 3, 1))
    run_files(plan_of(out=once()), {"events": [file]}, tmp_path / "out")
    assert rows_of(tmp_path / "out", "out") == [{"k": "a", "t": T + 3000, "x": 1}]


def test_a_plan_may_deduplicate_two_streams_under_two_names(tmp_path: Path) -> None:
    both = {"events": events(), "others": events("others")}
    once_each = {f"{name}-once": one.deduplicate(["k"], within=hr.seconds(WITHIN), name=f"{name}_once") for name, one in both.items()}
    inputs = {name: [file_of(tmp_path / f"{name}.ndjson", ("a", 0, 1), ("a", 5, 2), ("b", 6, 3))] for name in both}
    run_files(plan_of(**once_each), inputs, tmp_path / "out")
    assert [[row["x"] for row in rows_of(tmp_path / "out", name)] for name in once_each] == [[1, 3], [1, 3]]
    with pytest.raises(PlanError, match="two processes are named 'deduplicate'; give one another name="):
        plan_of(**{f"{name}-once": one.deduplicate(["k"], within=hr.seconds(WITHIN)) for name, one in both.items()})


def test_duplicates_do_not_enter_a_window_behind(tmp_path: Path) -> None:
    counts = once(5).window(hr.tumbling(hr.seconds(20)), by=["k"]).aggregate(n="COUNT(*)", last="MAX(x)")
    file = file_of(tmp_path / "a.ndjson", ("a", 1, 1), ("a", 0, 2), ("a", 12, 3), ("a", 19, 4), ("a", 22, 5))
    accounts = run_files(plan_of(counts=counts), {"events": [file]}, tmp_path / "out")
    assert [(row["n"], row["last"]) for row in rows_of(tmp_path / "out", "counts")] == [(2, 3), (1, 5)]
    assert (accounts["events"].accepted, accounts["events"].duplicate) == (3, 2)


def test_a_late_record_is_late_and_a_record_of_several_rows_is_a_duplicate_when_all_are(tmp_path: Path) -> None:
    stream = hr.stream("events", schema={"t": "BIGINT", "ks": "ARRAY<STRING>"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    unnested = stream.unnest("ks", value="k").deduplicate(["k"], within=hr.seconds(WITHIN))
    lines = [f'{{"t": {T + at}, "ks": {ks}}}' for at, ks in ((0, '["a","b"]'), (1, '["a","c"]'), (2, '["b","c"]'), (1, '["d"]'), (3, "[]"))]
    accounts = run_files(plan_of(out=unnested), {"events": [file_of(tmp_path / "a.ndjson", *lines)]}, tmp_path / "out")
    assert [row["k"] for row in rows_of(tmp_path / "out", "out")] == ["a", "b", "c"]
    assert accounts["events"].counts() == {**ZERO, "received": 5, "accepted": 2, "duplicate": 1, "late": 1, "filtered": 1}


@given(records=st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 60)), max_size=30), cuts=st.integers(20, 400))
def test_it_keeps_what_a_plain_pass_over_the_records_in_time_order_keeps(
    records: list[tuple[str | None, int]], cuts: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = file_of(folder / "a.ndjson", *((key, at, number) for number, (key, at) in enumerate(records)))
    accounts = run_files(plan_of(out=once(5)), {"events": [file]}, folder / "out", chunk=cuts, commit_seconds=0)
    greatest, on_time = 0, []
    for number, (key, at) in enumerate(records):
        if not number or at >= greatest - 5:
            on_time.append((at, number, key))
        greatest = max(greatest, at) if number else at
    kept: dict[str | None, int] = {}
    expected = []
    for at, number, key in sorted(on_time, key=lambda one: one[:2]):
        if key not in kept or at >= kept[key] + WITHIN:
            kept[key] = at
            expected.append(number)
    assert [row["x"] for row in rows_of(folder / "out", "out")] == expected
    late, account = len(records) - len(on_time), accounts["events"]
    assert (account.accepted, account.duplicate, account.late) == (len(expected), len(on_time) - len(expected), late)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: events().deduplicate(["k"], within=hr.seconds(0)), "within is 0"),
        (lambda: events().deduplicate([], within=hr.seconds(1)), "no key"),
        (lambda: once().deduplicate(["x"], within=hr.seconds(1)), "only records"),
        (lambda: plan_of(one=once(), two=events().deduplicate(["x"], within=hr.seconds(1))), "share the stream|used twice|deduplicated twice"),
        (lambda: hr.stream("s", schema={"k": "STRING"}).deduplicate(["k"], within=hr.seconds(1)), "no event time"),
    ],
)
def test_what_cannot_be_deduplicated_is_refused(made: Callable[[], object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        made()


# the first rows of each window


def totals() -> hr.Stream:
    return events().window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="COUNT(*)", total="SUM(x)")


def test_the_first_rows_of_each_window_have_their_ranks(tmp_path: Path) -> None:
    records = [("a", 0, 5), ("b", 1, 7), ("c", 2, 5), ("d", 3, 1), (None, 4, 9), ("a", 12, 1), ("b", 13, 1)]
    file = file_of(tmp_path / "a.ndjson", *records)
    run_files(plan_of(top=totals().top_n(3, order="total DESC").select("k", "total", "rank")), {"events": [file]}, tmp_path / "out")
    rows = [(row["k"], row["total"], row["rank"]) for row in rows_of(tmp_path / "out", "top")]
    assert rows == [(None, 9, 1), ("b", 7, 2), ("a", 5, 3), ("a", 1, 1), ("b", 1, 2)]


def test_groups_are_ranked_by_themselves_nulls_come_last(tmp_path: Path) -> None:
    windows = events().derive(odd="x % 2 = 1").window(hr.tumbling(hr.seconds(10)), by=["k", "odd"]).aggregate(least="MIN(NULLIF(x, 4))")
    file = file_of(tmp_path / "a.ndjson", ("a", 0, 4), ("b", 0, 8), ("c", 0, 6), ("a", 0, 3), ("b", 0, 1))
    run_files(plan_of(top=windows.top_n(2, order=["least"], by=["odd"])), {"events": [file]}, tmp_path / "out")
    rows = [(row["odd"], row["k"], row["least"], row["rank"]) for row in rows_of(tmp_path / "out", "top")]
    assert rows == [(False, "c", 6, 1), (False, "b", 8, 2), (True, "b", 1, 1), (True, "a", 3, 2)]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: events().top_n(1, order="x"), "not those of one window"),
        (lambda: totals().top_n(0, order="n"), "whole number from 1"),
        (lambda: totals().top_n(1, order="n SIDEWAYS"), "is no order"),
        (lambda: totals().top_n(1, order="toal"), "did you mean 'total'"),
        (lambda: totals().top_n(1, order=[]), "no order"),
        (lambda: totals().select("n", "window_start", "window_end").top_n(1, order="n"), "unknown column 'k'"),
        (lambda: totals().derive(rank="1").top_n(1, order="n"), "rank"),
    ],
)
def test_what_has_no_first_rows_is_refused(made: Callable[[], object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        made()
