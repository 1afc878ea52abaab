"""`over` on the embedded engine: what a plain pass over each key's records in time order gives, however these come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import pstdev, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.pipelines import PIPELINES, found, write_inputs
from engines.embedded.test_processes import run, written_files
from engines.embedded.test_run import ZERO, T, counted, events, file_of, plan_of, rows_of
from headrace.engines.embedded.run import Progress, run_files
from headrace.errors import PlanError
from headrace.plan.changes import Changes, changes, definition
from headrace.plan.functions import AGGREGATES
from headrace.plan.running import running_of
from repeated import examples

# Expressions over `x`, which may be NULL, and `n`; and what they are of the frame's rows, of all rows up to the record, and of the record, in plain Python.
Rows = list[dict[str, Any]]


def given_x(rows: Rows) -> list[float]:
    return [row["x"] for row in rows if row["x"] is not None]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def before(rows: Rows, count: int, column: str, default: Any = None) -> Any:
    return rows[-1 - count][column] if len(rows) > count else default


def difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


ACCUMULATED: dict[str, Callable[[Rows, Rows], Any]] = {
    "COUNT(*)": lambda frame, _: len(frame),
    "COUNT(1)": lambda frame, _: len(frame),
    "COUNT(x)": lambda frame, _: len(given_x(frame)),
    "SUM(x)": lambda frame, _: sum(given_x(frame)) if given_x(frame) else None,
    "SUM(n)": lambda frame, _: sum(row["n"] for row in frame),
    "SUM(n * 2) FILTER (WHERE n > 1)": lambda frame, _: (
        sum(row["n"] * 2 for row in frame if row["n"] > 1) if any(r["n"] > 1 for r in frame) else None
    ),
    "AVG(x)": lambda frame, _: mean(given_x(frame)),
    "x - AVG(x)": lambda frame, _: difference(frame[-1]["x"], mean(given_x(frame))),
    "MIN(x)": lambda frame, _: min(given_x(frame), default=None),
    "MAX(k)": lambda frame, _: frame[-1]["k"],
    "STDDEV_POP(x)": lambda frame, _: pstdev(given_x(frame)) if given_x(frame) else None,
    "STDDEV_SAMP(x)": lambda frame, _: stdev(given_x(frame)) if len(given_x(frame)) > 1 else None,
    "VAR_POP(x)": lambda frame, _: pstdev(given_x(frame)) ** 2 if given_x(frame) else None,
    "FIRST_VALUE(x)": lambda frame, _: next(iter(given_x(frame)), None),
    "LAST_VALUE(x)": lambda frame, _: next(iter(given_x(frame)[::-1]), None),
    "COUNT(DISTINCT n)": lambda frame, _: len({row["n"] for row in frame}),
    "BOOL_OR(n > 2)": lambda frame, _: any(row["n"] > 2 for row in frame),
    "MAP_AGG(CAST(n AS STRING), x)": lambda frame, _: last_of_each(frame),
    "LAG(x)": lambda _, rows: before(rows, 1, "x"),
    "LAG(n, 3, -1)": lambda _, rows: before(rows, 3, "n", -1),
    "LAG(n, 2, n * 10)": lambda _, rows: before(rows, 2, "n", rows[-1]["n"] * 10),
    "LAG(x, 0)": lambda _, rows: rows[-1]["x"],
}
BOUNDED = ACCUMULATED | {
    "MEDIAN(x)": lambda frame, _: percentile(given_x(frame), 0.5),
    "PERCENTILE(x, 0.25)": lambda frame, _: percentile(given_x(frame), 0.25),
    "ARRAY_AGG(x)": lambda frame, _: given_x(frame) or None,
}


def after(rows: Rows, place: int, count: int, column: str, default: Any = None) -> Any:
    return rows[place + count][column] if place + count < len(rows) else default


# Of all rows of the key, and the place of the record among them.
AHEAD: dict[str, Callable[[Rows, int], Any]] = {
    "LEAD(x)": lambda rows, place: after(rows, place, 1, "x"),
    "LEAD(n, 3, -1)": lambda rows, place: after(rows, place, 3, "n", -1),
    "LEAD(n, 2, n * 10) - n": lambda rows, place: after(rows, place, 2, "n", rows[place]["n"] * 10) - rows[place]["n"],
    "LEAD(n, 0)": lambda rows, place: rows[place]["n"],
}


def last_of_each(frame: Rows) -> dict[str, Any]:
    found = {str(row["n"]): row["x"] for row in frame}
    return {key: found[key] for key in sorted(found)}


def percentile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    ordered, place = sorted(values), share * (len(values) - 1)
    low = int(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)


def stream(delay: int = 0) -> hr.Stream:
    return hr.stream(
        "events", schema={"k": "STRING", "t": "BIGINT", "x": "DOUBLE", "n": "BIGINT NOT NULL"}, event_time="TO_TIMESTAMP_LTZ(t, 3)",
        watermark=hr.seconds(delay),
    )  # fmt: skip


@st.composite
def partitions(draw: st.DrawFn) -> list[dict[str, Any]]:
    second, rows = 0, []
    for n in range(draw(st.integers(0, 16))):
        second += draw(st.sampled_from([0, 0, 1, 1, 2, 5]))
        value = draw(st.sampled_from([None, 0.0, 1.5, -2.25, 0.1, 1e-9, 3e8, 7.7]))
        rows.append(
            {
                "k": draw(st.sampled_from(["a", "b", None])),
                "t": T + (second - draw(st.sampled_from([0, 0, 0, 1, 3, 6]))) * 1000,
                "x": value,
                "n": n % 5,
            }
        )
    return rows


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Rows], int, dict[str, Any], list[str]]:
    frame = draw(st.sampled_from([{}, {"rows": 1}, {"rows": 3}, {"rows": 7}, {"time": 1}, {"time": 4}]))
    texts = draw(st.lists(st.sampled_from([*(BOUNDED if frame else ACCUMULATED)]), min_size=1, max_size=5, unique=True))
    texts += draw(st.lists(st.sampled_from([*AHEAD]), max_size=2, unique=True)) if draw(st.booleans()) else []
    return draw(st.lists(partitions(), min_size=1, max_size=2)), draw(st.sampled_from([0, 2, 5])), frame, texts


def stream_of(delay: int, frame: dict[str, Any], texts: list[str]) -> hr.Stream:
    options = {"time": hr.seconds(frame["time"])} if "time" in frame else frame
    return stream(delay).over(by=["k"], **options, **{f"c{place}": text for place, text in enumerate(texts)})


def expected(inputs: list[Rows], delay: int, frame: dict[str, Any], texts: list[str]) -> tuple[list[Any], int]:
    """Return the rows in time order, and the number of late records."""
    on_time = []
    for number, rows in enumerate(inputs):
        greatest: int | None = None
        for offset, row in enumerate(rows):
            if greatest is None or row["t"] >= greatest - delay * 1000:
                on_time.append((row["t"], number, offset, row))
            greatest = row["t"] if greatest is None else max(greatest, row["t"])
    found, seen = [], {}
    for _, _, _, row in sorted(on_time, key=lambda one: one[:3]):
        rows = seen.setdefault(row["k"], [])
        rows.append(row)
        within = (
            rows[-frame["rows"] :] if "rows" in frame else [one for one in rows if "time" not in frame or one["t"] >= row["t"] - frame["time"] * 1000]
        )
        found.append(row | {f"c{place}": BOUNDED[text](within, rows) for place, text in enumerate(texts) if text not in AHEAD})
    places = dict.fromkeys(seen, 0)
    for row in found:
        key = row["k"]
        row |= {f"c{place}": AHEAD[text](seen[key], places[key]) for place, text in enumerate(texts) if text in AHEAD}
        places[key] += 1
    return found, sum(map(len, inputs)) - len(on_time)


def near(value: Any) -> Any:
    return (
        pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else [near(one) for one in value] if isinstance(value, list) else value
    )


NEVER = 10**9


@contextmanager
def kernels(*, rows: int, sums: int = 0, widest: int = 2**62) -> Iterator[None]:
    """Have the columnar kernel compute turns of at least `rows` rows, with steps for all frames of at least `sums` rows at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.engines.embedded.over._MANY", rows)
        patch.setattr("headrace.kernels.columnar.over._WIDEST", widest)
        for name in ("_SUMS", "_SPREADS"):
            patch.setattr(f"headrace.kernels.columnar.over.{name}", sums)
        yield


@examples(24, 2000)
@given(case=cases(), chance=st.randoms(use_true_random=False))
def test_over_gives_what_a_plain_pass_over_the_records_in_time_order_gives(case: Any, chance: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    inputs, delay, frame, texts = case
    lines = {"events": [[json.dumps(row).encode() for row in rows] for rows in inputs]}
    files = written_files(tmp_path_factory.mktemp("any"), lines)
    wanted, late = expected(inputs, delay, frame, texts)
    with kernels(rows=NEVER):
        output, ledger = run(plan_of(out=stream_of(delay, frame, texts)), files)
    rows = [json.loads(line) for line in output.get("out", b"").splitlines()]
    if AHEAD.keys() & {*texts}:  # rows that wait come in the order of keys at the end
        rows, wanted = (sorted(one, key=lambda row: (row["k"] is None, row["k"] or "")) for one in (rows, wanted))
    assert rows == [{name: near(value) for name, value in row.items()} for row in wanted]
    assert ledger["events"] == {**ZERO, "received": len(wanted) + late, "accepted": len(wanted), "late": late}
    for rows, sums, widest in ((1, 0, 1), (1, NEVER, 2**62), (3, 2, 2**62), (NEVER, 0, 1)):
        with kernels(rows=rows, sums=sums, widest=widest):
            assert run(plan_of(out=stream_of(delay, frame, texts)), files, chance) == (output, ledger), "the same bytes from both kernels"


def test_both_kernels_work_on_one_state_whatever_the_batches_and_restarts(tmp_path: Path) -> None:
    plan, inputs = PIPELINES["running"].plan(), write_inputs(tmp_path / "in", "running", 3_000, seed=3)
    with kernels(rows=NEVER):
        run_files(plan, inputs, tmp_path / "keyed")
    expected = found(tmp_path / "keyed")
    turns: list[int] = []

    def stop(progress: Progress) -> None:
        turns.append(progress.received)
        if len(turns) % 4 == 0:
            raise KeyboardInterrupt

    for number, (rows, sums) in enumerate(((1, 0), (512, 50), (512, NEVER))):
        out = tmp_path / str(number)
        with kernels(rows=rows, sums=sums), suppress(KeyboardInterrupt):
            run_files(plan, inputs, out, chunk=20_000, commit_seconds=0, progress=stop)
        with kernels(rows=NEVER), suppress(KeyboardInterrupt):
            run_files(plan, inputs, out, chunk=10_000, commit_seconds=0, progress=stop)
        with kernels(rows=rows, sums=sums):
            run_files(plan, inputs, out)
        assert found(out) == expected
    assert len(turns) >= 24


def test_more_keys_than_are_at_hand_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.kernels.keyed.keyspace._MOST_AT_HAND", 30)
    records = [(f"k{number % 70}", number // 70, number % 97) for number in range(700)]
    file = file_of(tmp_path / "a.ndjson", *records)
    plan = lambda **frame: plan_of(out=events().over(by=["k"], **frame, total="SUM(x)", mean="AVG(x)", before="LAG(x)"))  # noqa: E731
    for number, frame in enumerate(({"rows": 2}, {"time": hr.seconds(1)}, {})):
        with kernels(rows=NEVER):
            run_files(plan(**frame), {"events": [file]}, tmp_path / f"keyed{number}")
        with kernels(rows=1):
            run_files(plan(**frame), {"events": [file]}, tmp_path / f"columnar{number}", chunk=9_000)
        assert found(tmp_path / f"columnar{number}") == found(tmp_path / f"keyed{number}")


def test_the_columnar_kernel_leaves_containers_to_the_keyed_one(tmp_path: Path) -> None:
    lists = (
        events().derive(both="STRUCT(x AS x, k AS k)").over(by=["k"], rows=2, first="FIRST_VALUE(both)", before="LAG(both)").select("first", "before")
    )
    with kernels(rows=1):
        rows = rolled(tmp_path, lists, ("a", 0, 1), ("a", 1, 2), ("a", 2, 3))
    assert rows[2] == {"first": {"x": 2, "k": "a"}, "before": {"x": 2, "k": "a"}}


def rolled(tmp_path: Path, stream: hr.Stream, *records: tuple[str | None, int, int]) -> list[dict[str, Any]]:
    run_files(plan_of(out=stream), {"events": [file_of(tmp_path / "a.ndjson", *records)]}, tmp_path / "out")
    return rows_of(tmp_path / "out", "out")


def test_the_columns_of_the_record_come_first_in_their_order_and_the_new_ones_as_they_are_named(tmp_path: Path) -> None:
    over = events().over(by=["x", "k"], rows=2, z="SUM(t)", a="LAG(t)")
    assert over.schema.names == ("k", "t", "x", "z", "a")
    assert rolled(tmp_path, over, ("a", 1, 5)) == [{"k": "a", "t": T + 1000, "x": 5, "z": T + 1000, "a": None}]


def test_a_frame_of_time_has_both_its_ends_and_of_its_last_time_only_the_rows_before(tmp_path: Path) -> None:
    over = events().over(by=["k"], time=hr.seconds(10), all="ARRAY_AGG(x)").select("all")
    records = [("a", 0, 1), ("a", 10, 2), ("a", 10, 3), ("a", 11, 4), ("a", 21, 5)]
    assert [row["all"] for row in rolled(tmp_path, over, *records)] == [[1], [1, 2], [1, 2, 3], [2, 3, 4], [4, 5]]


def test_rows_of_over_keep_their_event_time(tmp_path: Path) -> None:
    over = events(watermark=hr.seconds(5)).over(by=["k"], rows=2, pair="SUM(x)")
    behind = over.where("pair > 3").window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="COUNT(*)", pairs="ARRAY_AGG(pair)")
    again = over.over(by=["k"], rows=2, both="SUM(pair)", name="again")
    file = file_of(tmp_path / "a.ndjson", ("a", 0, 1), ("a", 4, 3), ("a", 2, 2), ("a", 12, 4), ("a", 30, 5))
    run_files(plan_of(windows=behind, again=again), {"events": [file]}, tmp_path / "out")
    assert [(row["n"], row["pairs"]) for row in rows_of(tmp_path / "out", "windows")] == [(1, [5]), (1, [7]), (1, [9])]
    assert [(row["pair"], row["both"]) for row in rows_of(tmp_path / "out", "again")] == [(1, 1), (3, 4), (5, 8), (7, 12), (9, 16)]


def test_a_row_waits_for_the_row_that_lead_reads_at_most_until_the_input_ends(tmp_path: Path) -> None:
    over = events(watermark=hr.seconds(2)).over(by=["k"], next="LEAD(x)", third="LEAD(x, 3, 0)", n="COUNT(*)").select("x", "next", "third", "n")
    rows = rolled(tmp_path, over, ("a", 0, 1), ("b", 2, 10), ("a", 1, 2), ("a", 3, 3), ("a", 9, 4), ("b", 4, 11), ("b", 8, 12))
    assert [tuple(row.values()) for row in rows] == [(1, 2, 4, 1), (2, 3, 0, 2), (3, 4, 0, 3), (4, None, 0, 4), (10, 12, 0, 1), (12, None, 0, 2)]


def test_rows_of_lead_are_in_no_order_of_time_so_no_window_follows() -> None:
    over = events().over(by=["k"], next="LEAD(x)")
    for behind in (lambda: over.window(hr.tumbling(hr.seconds(1))), lambda: over.over(by=["k"], n="LAG(x)")):
        with pytest.raises(PlanError, match=r"the rows of over_k come in no order of time; .*LAG in the later row instead of LEAD"):
            behind()


def test_over_takes_the_rows_of_windows_and_of_a_process(tmp_path: Path) -> None:
    counts = counted(events()).over(by=["k"], before="LAG(n)", total="SUM(n)").select("k", "n", "before", "total")
    file = file_of(tmp_path / "a.ndjson", ("a", 0, 1), ("a", 4, 3), ("a", 12, 4), ("b", 13, 1), ("a", 30, 5))
    run_files(plan_of(counts=counts), {"events": [file]}, tmp_path / "out")
    rows = [tuple(row.values()) for row in rows_of(tmp_path / "out", "counts")]
    assert rows == [("a", 2, None, 2), ("a", 1, 2, 3), ("b", 1, None, 1), ("a", 1, 1, 4)]


def test_a_sum_beyond_double_is_null_and_one_of_whole_numbers_wraps_around(tmp_path: Path) -> None:
    most = 2**63 - 1
    records = [("a", 0, 1), ("a", 1, 1), ("a", 2, 0), ("a", 3, 0), ("b", 4, most), ("b", 5, 1)]
    for frame in ({"rows": 2}, {}):
        over = (
            events().over(by=["k"], **frame, far="SUM(x * 1e308)", spread="VAR_POP(x * 1e200)", whole="SUM(x)").select("k", "far", "spread", "whole")
        )
        rows = rolled(tmp_path, over, *records)
        assert [row["far"] for row in rows[:4]] == [1e308, None, 1e308 if frame else None, 0.0 if frame else None]
        assert [row["whole"] for row in rows[-2:]] == [most, -most - 1]
        assert [row["spread"] for row in rows[:3]] == [0.0, 0.0, None]


@pytest.mark.parametrize("function", AGGREGATES)
def test_each_aggregate_function_gives_over_rows_what_its_cases_say(function: str) -> None:
    """What a window gives, `of` gives too, and so does adding one value after the other."""
    simple = {"COUNT(x)", "SUM(x)", "MIN(x)", "MAX(x)", "AVG(x)", "COUNT(DISTINCT x)", "FIRST_VALUE(x)", "LAST_VALUE(x)", "BOOL_AND(x)", "BOOL_OR(x)"}
    simple |= {"VAR_POP(x)", "VAR_SAMP(x)", "STDDEV_POP(x)", "STDDEV_SAMP(x)", "MEDIAN(x)", "ARRAY_AGG(x)", "WORST_QUALITY(x)"}
    for text, rows, value in AGGREGATES[function].cases:
        given = rows
        if text.startswith("PERCENTILE(x, "):
            given = [None if one is None else (one, float(text[14:-1])) for one in rows]
        elif text.startswith("TIME_AVERAGE(x, y, '"):
            given = [None if one[0] is None else (*one, text[20:-2]) for one in rows]
        elif text.endswith("(x, y)"):
            given = [None if one[0] is None else one for one in rows]
        elif text not in simple or any(isinstance(one, tuple) for one in rows):
            continue
        values = [one for one in given if one is not None]
        kind = hr.plan.schema.BIGINT if values and type(values[0]) is int else None
        running = running_of(function, kind)
        assert running.of(values) == pytest.approx(value) if isinstance(value, float) else running.of(values) == value, text
        if running.start is not None:
            kept = [{} if text.startswith("MAP") else first for text, first in running.start]
            for one in values:
                running.add(kept, one)
            assert running.result(kept) == running.of(values), text


def test_several_have_names_of_their_own_unless_two_are_given_one() -> None:
    given = events()
    both = plan_of(one=given.over(by=["k"], y="LAG(x)"), two=given.over(by=["k"], y="LAG(t)"))
    assert [one.name for one in both.stages] == ["over_k", "over_k.2"]
    with pytest.raises(PlanError, match="two processes are named 'same'; give one another name="):
        plan_of(one=given.over(by=["k"], y="LAG(x)", name="same"), two=given.over(by=["k"], y="LAG(t)", name="same"))


def changed(was: hr.Stream, now: hr.Stream) -> Changes:
    old = plan_of(out=was)
    return changes(plan_of(out=now), {}, {one.name: definition(one) for one in old.stages}, same=False)


def test_state_is_kept_when_an_argument_or_what_stands_around_changes_and_refused_when_the_frame_or_a_call_does() -> None:
    def over(mean: str = "AVG(x * 2)", **frame: Any) -> hr.Stream:
        return events().over(by=["k"], y=mean, **(frame or {"rows": 3}))

    kept = events().derive(z="x * 2", w="1").over(by=["k"], rows=3, mean="AVG(z * 3)").where("mean > 1")
    assert changed(over(), kept).kept == ("over_k",)
    assert changed(over(), over(rows=4)).refused == {"over_k": "frame changed from 3 rows to 4 rows"}
    assert "aggregates changed from AVG" in changed(over(), over("SUM(x)")).refused["over_k"]
    assert "aggregates changed from LAG" in changed(over("LAG(x)"), over("LAG(x, 2)")).refused["over_k"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: events().over(by=[], n="COUNT(*)"), r"over has no key; name the columns in by="),
        (lambda: events().over(by=["K"], n="COUNT(*)"), r"unknown column 'K'; did you mean 'k'"),
        (lambda: events().over(by=["k"], rows=0, n="COUNT(*)"), "rows 0 is not a whole number from 1"),
        (lambda: events().over(by=["k"], rows=True, n="COUNT(*)"), "rows True is not a whole number"),
        (lambda: events().over(by=["k"], rows="AVG(x)"), "is not a whole number from 1"),  # type: ignore[arg-type]
        (lambda: events().over(by=["k"], time="AVG(x)"), "AVG"),  # type: ignore[arg-type]
        (lambda: events().over(by=["k"], time=hr.seconds(0), n="COUNT(*)"), "time must be greater than 0"),
        (lambda: events().over(by=["k"], time=hr.seconds(1), rows=1, n="COUNT(*)"), "the frame has rows= and time="),
        (lambda: events().over(by=["k"]), "over computes no column"),
        (lambda: events().over(by=["k"], x="COUNT(*)"), "column 'x' is there already; give the new column another name"),
        (lambda: events().over(by=["k"], y="x * 2"), r"'x \* 2' calls no aggregate function; compute it with derive"),
        (lambda: events().over(by=["k"], y="AVG(z)"), "unknown column 'z'|'z'"),
        (lambda: events().over(by=["k"], y="AVG()"), "AVG takes"),
        (lambda: events().over(by=["k"], y="AVERAGE(x)"), "unknown function AVERAGE"),
        (lambda: events().over(by=["k"], y="LAGG(x)"), "did you mean 'LAG'"),
        (lambda: events().over(by=["k"], y="AVG(SUM(x))"), "AVG holds another aggregate"),
        (lambda: events().over(by=["k"], y="LAG(x, -1)"), "argument 2 of LAG must be a constant whole number from 0 to 10000"),
        (lambda: events().over(by=["k"], y="LAG(x, x)"), "argument 2 of LAG must be a constant"),
        (lambda: events().over(by=["k"], y="LAG(x, 1, k)"), "LAG takes"),
        (lambda: events().over(by=["k"], y="LAG()"), "LAG takes"),
        (lambda: events().over(by=["k"], y="LEAD(x, -1)"), "argument 2 of LEAD must be a constant whole number"),
        (lambda: events().derive(y="LEAD(x)"), r"LEAD stands outside of over\(\)"),
        (lambda: events().over(by=["k"], y="LAG(x) FILTER (WHERE x > 1)"), "FILTER .* and LAG is none"),
        (lambda: events().over(by=["k"], y="MEDIAN(x)"), "MEDIAN over all rows before would keep every value for ever; give the frame an end"),
        (lambda: events().derive(y="LAG(x)"), r"LAG stands outside of over\(\)"),
        (lambda: events().window(hr.tumbling(hr.seconds(1))).aggregate(y="LAG(x)"), "LAG reads another row, and a window has no order"),
        (lambda: hr.stream("s", schema={"k": "STRING"}).over(by=["k"], n="COUNT(*)"), "no event time"),
        (lambda: counted(events(), lateness=5).over(by=["k"], y="LAG(n)"), "leave allowed_lateness out"),
    ],
)
def test_what_cannot_be_is_refused(made: Callable[[], object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        made()
