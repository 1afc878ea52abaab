"""A bounded run over files: what it leaves, what it refuses, and how it takes what its surroundings do to it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest

import headrace as hr
from engines.embedded.pipelines import PIPELINES, found, write_inputs
from headrace.engines.embedded.output import Output
from headrace.engines.embedded.run import Progress, Run, run_files, run_to
from headrace.errors import EnvironmentFault, PlanError
from headrace.plan.pipeline import Plan
from headrace.topics.files import open_file

T = 1_704_067_200_000
ZERO = {"received": 0, "accepted": 0, "malformed": 0, "future": 0, "duplicate": 0, "late": 0, "filtered": 0, "shed": 0}


def events(topic: str = "events", **more: Any) -> hr.Stream:
    return hr.stream(topic, schema={"k": "STRING", "t": "BIGINT", "x": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", **more)


def plan_of(**sinks: hr.Stream) -> Plan:
    return hr.pipeline("made-here", version="1")(lambda: sinks).plan()


def counted(stream: hr.Stream, *, lateness: int = 0, by: tuple[str, ...] = ("k",)) -> hr.Stream:
    return stream.window(hr.tumbling(hr.seconds(10)), by=by, allowed_lateness=hr.seconds(lateness)).aggregate(n="COUNT(*)", all="ARRAY_AGG(x)")


def file_of(path: Path, *records: tuple[str | None, int, int] | str) -> Path:
    """Write a file of records (k, seconds after T, x), or lines as they are."""
    lines = [one if isinstance(one, str) else json.dumps({"k": one[0], "t": T + one[1] * 1000, "x": one[2]}) for one in records]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def rows_of(folder: Path, topic: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{topic}.ndjson").read_text().splitlines()]


# What a run leaves


def test_a_run_leaves_a_file_for_each_output_topic_one_for_dead_letters_and_the_ledger(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.ndjson", ("a", 0, 1), "{", ("a", 30, 2), ("b", 1, 3), ("a", 31, 4))
    late = events().where("x > 1").window(hr.tumbling(hr.seconds(10)), by=["k"]).late_to("too-late").aggregate(n="COUNT(*)")
    accounts = run_files(plan_of(counts=late), {"events": [file]}, tmp_path / "out")
    bounds = '"window_start":"2024-01-01T00:00:30Z","window_end":"2024-01-01T00:00:40Z"'
    ledger = ZERO | {"received": 5, "accepted": 2, "malformed": 1, "late": 1, "filtered": 1}
    assert found(tmp_path / "out") == {
        "counts.ndjson": f'{{"k":"a","n":2,{bounds},"revision":0}}\n'.encode(),
        "too-late.ndjson": f'{{"k":"b","t":{T + 1000},"x":3}}\n'.encode(),
        "events.dead-letter.ndjson": (
            b'{"pipeline":"made-here","topic":"events","partition":0,"offset":1,"reason":"malformed",'
            b'"detail":"not JSON: it ends too early or holds a lone surrogate","arrived_ms":null,"raw":"{"}\n'
        ),
        "ledger.json": json.dumps({"pipeline": "made-here", "sources": {"events": ledger}}, indent=2).encode() + b"\n",
    }
    assert accounts["events"].counts() == ledger
    assert not (tmp_path / "out" / ".run").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("lateness", [0, 5])
def test_empty_input_leaves_every_declared_file_empty(content: bytes, lateness: int, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(content)
    windowed = events().window(hr.tumbling(hr.seconds(10)), allowed_lateness=hr.seconds(lateness)).late_to("late").aggregate(n="COUNT(*)")
    accounts = run_files(
        plan_of(counts=windowed, raw=events("others")), {"events": [tmp_path / "a.ndjson"], "others": [tmp_path / "a.ndjson"]}, tmp_path / "out"
    )
    files = found(tmp_path / "out")
    assert files.pop("ledger.json")
    assert files == dict.fromkeys(["counts.ndjson", "late.ndjson", "raw.ndjson", "events.dead-letter.ndjson", "others.dead-letter.ndjson"], b"")
    assert [account.counts() for account in accounts.values()] == [ZERO, ZERO]


@pytest.mark.parametrize("lateness", [0, 5])
def test_input_of_nothing_but_broken_lines_becomes_dead_letters(lateness: int, tmp_path: Path) -> None:
    files = [file_of(tmp_path / f"{number}.ndjson", *["{"] * number) for number in range(4)]
    accounts = run_files(plan_of(counts=counted(events(), lateness=lateness)), {"events": files}, tmp_path / "out", chunk=1)
    assert accounts["events"].counts() == ZERO | {"received": 6, "malformed": 6}
    letters = [(letter["partition"], letter["offset"]) for letter in rows_of(tmp_path / "out", "events.dead-letter")]
    assert letters == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


def test_a_dead_letter_that_is_not_utf_8_is_kept_in_base64(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b'{"k": "\xff"}\n')
    run_files(plan_of(raw=events()), {"events": [tmp_path / "a.ndjson"]}, tmp_path / "out")
    (letter,) = rows_of(tmp_path / "out", "events.dead-letter")
    assert letter["raw_base64"] == "eyJrIjogIv8ifQ=="
    assert "raw" not in letter


def test_progress_goes_up_to_the_whole_and_counts_the_records(tmp_path: Path) -> None:
    seen: list[Progress] = []
    files = [file_of(tmp_path / f"{number}.ndjson", *[("a", second, 0) for second in range(50)], "{") for number in range(2)]
    run_files(plan_of(counts=counted(events())), {"events": files}, tmp_path / "out", chunk=300, progress=seen.append)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[-1].done, seen[-1].received) == (seen[-1].total, 102)
    assert len(seen) > 5


# Order


def test_rows_without_a_window_come_merged_by_event_time_ties_by_partition_and_never_sorted_within(tmp_path: Path) -> None:
    one = file_of(tmp_path / "1.ndjson", ("a", 5, 1), "{", ("a", 1, 2), ("a", 9, 3), "{")
    two = file_of(tmp_path / "2.ndjson", "{", ("b", 3, 4), ("b", 5, 5), ("b", 4, 6), ("b", 9, 7))
    three = file_of(tmp_path / "3.ndjson", ("c", 5, 8))
    for chunk in (1, 1 << 20):
        run_files(plan_of(raw=events()), {"events": [one, two, three]}, tmp_path / "out", chunk=chunk)
        assert [row["x"] for row in rows_of(tmp_path / "out", "raw")] == [4, 1, 2, 5, 6, 8, 3, 7]


def test_rows_of_sources_without_event_time_come_file_by_file_before_those_that_have_one(tmp_path: Path) -> None:
    timeless = hr.stream("timeless", schema={"x": "BIGINT"})
    both = events().select("x").union(timeless)
    plan = plan_of(both=both, few=timeless.where("x < 3"))
    inputs = {
        "events": [file_of(tmp_path / "1.ndjson", ("a", 2, 5), ("a", 1, 6))],
        "timeless": [file_of(tmp_path / f"{number}.ndjson", *(f'{{"x": {x}}}' for x in of)) for number, of in ((2, (1, 9)), (3, (2,)))],
    }
    for chunk in (1, 1 << 20):
        run_files(plan, inputs, tmp_path / "out", chunk=chunk)
        assert [row["x"] for row in rows_of(tmp_path / "out", "both")] == [1, 9, 2, 5, 6]
        assert [row["x"] for row in rows_of(tmp_path / "out", "few")] == [1, 2]


def test_a_stream_joined_with_itself_comes_twice_record_by_record(tmp_path: Path) -> None:
    stream = events().select("x")
    file = file_of(tmp_path / "a.ndjson", ("a", 1, 1), ("a", 2, 2))
    accounts = run_files(plan_of(twice=stream.union(stream, stream.where("x > 1"))), {"events": [file]}, tmp_path / "out")
    assert [row["x"] for row in rows_of(tmp_path / "out", "twice")] == [1, 1, 2, 2, 2]
    assert accounts["events"].accepted == 2


def test_late_rows_come_in_the_order_of_the_input(tmp_path: Path) -> None:
    one = file_of(tmp_path / "1.ndjson", ("a", 50, 1), ("a", 5, 2), ("a", 60, 3), ("a", 1, 4))
    two = file_of(tmp_path / "2.ndjson", ("b", 51, 5), ("b", 6, 6), ("b", 59, 7), ("b", 2, 8))
    windowed = events().window(hr.tumbling(hr.seconds(10))).late_to("late").aggregate()
    for chunk in (1, 150, 1 << 20):
        run_files(plan_of(out=windowed), {"events": [one, two]}, tmp_path / "out", chunk=chunk)
        assert [row["x"] for row in rows_of(tmp_path / "out", "late")] == [2, 6, 8, 4]


# Windows, and what is made of their rows


def test_what_follows_a_window_may_filter_rename_and_group_its_rows_further(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.ndjson", ("a", 0, 1), ("a", 1, 2), ("b", 2, 3), ("a", 11, 4), ("a", 12, 4))
    rows = counted(events(), by=("k", "x")).where("n > 0").select("window_start", "window_end", unit="k", rows="n")
    again = rows.derive(rows="rows * 10").aggregate(by=["unit"], total="SUM(rows)").where("total > 10").aggregate(by=[], of="SUM(total)")
    run_files(plan_of(again=again), {"events": [file]}, tmp_path / "out")
    found_rows = [(row["window_start"][-3:], row["window_end"][-3:], row["revision"], row["of"]) for row in rows_of(tmp_path / "out", "again")]
    assert found_rows == [("00Z", "10Z", 0, 20), ("10Z", "20Z", 0, 20)]


def test_with_lateness_groups_under_a_key_of_another_name_are_given_again_whole(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.ndjson", ("a", 0, 1), ("b", 0, 1), ("b", 0, 2), ("c", 30, 9), ("b", 1, 1))
    rows = counted(events(), lateness=30, by=("k", "x")).derive(k="TRY_CAST(x AS STRING)")
    run_files(plan_of(by_x=rows.aggregate(by=["k"], total="SUM(n)")), {"events": [file]}, tmp_path / "out")
    found_rows = [(row["window_end"][-3:], row["k"], row["total"], row["revision"]) for row in rows_of(tmp_path / "out", "by_x")]
    assert found_rows == [("10Z", "1", 2, 0), ("10Z", "2", 1, 0), ("10Z", "1", 3, 1), ("10Z", "2", 1, 1), ("40Z", "9", 1, 0)]


def test_with_lateness_the_last_revision_of_each_group_is_right_for_each_of_several_consumers(tmp_path: Path) -> None:
    records = [("a", 0, 1), ("b", 0, 2), ("a", 20, 1), ("a", 1, 1), ("b", 2, 2), ("b", 21, 7), ("a", 3, 5)]
    per_kind = counted(events(), lateness=30, by=("k", "x"))
    sinks = {
        "kinds": per_kind,
        "by_k": per_kind.aggregate(by=["k"], total="SUM(n)"),
        "by_x": per_kind.aggregate(by=["x"], total="SUM(n)"),
        "all": per_kind.aggregate(by=[], total="SUM(n)"),
    }
    run_files(plan_of(**sinks), {"events": [file_of(tmp_path / "a.ndjson", *records)]}, tmp_path / "late")
    run_files(plan_of(**sinks), {"events": [file_of(tmp_path / "b.ndjson", *sorted(records, key=lambda one: one[1]))]}, tmp_path / "on-time")
    for topic in sinks:
        last: dict[Any, dict[str, Any]] = {}
        for row in rows_of(tmp_path / "late", topic):
            key = (row["window_end"], row.get("k"), row.get("x"))
            assert row["revision"] == (last[key]["revision"] + 1 if key in last else row["revision"])
            last[key] = row
        on_time = rows_of(tmp_path / "on-time", topic)
        assert [row | {"revision": 0} for _, row in sorted(last.items(), key=str)] == sorted(
            on_time, key=lambda row: str((row["window_end"], row.get("k"), row.get("x")))
        )


def test_a_late_record_that_becomes_several_rows_has_its_group_given_again_once(tmp_path: Path) -> None:
    stream = hr.stream("maps", schema={"t": "BIGINT", "of": "MAP<STRING, BIGINT>"}, event_time="TO_TIMESTAMP_LTZ(t, 3)").unnest(
        "of", key="k", value="x"
    )
    lines = [json.dumps({"t": T + second * 1000, "of": {"a": 1, "b": 2, "c": 3}}) for second in (0, 20, 1)]
    gathered = counted(stream, lateness=30).aggregate(by=[], all="SUM(n)")
    run_files(plan_of(gathered=gathered), {"maps": [file_of(tmp_path / "a.ndjson", *lines)]}, tmp_path / "out")
    assert [(row["window_end"][-3:], row["all"], row["revision"]) for row in rows_of(tmp_path / "out", "gathered")] == [
        ("10Z", 3, 0), ("10Z", 6, 1), ("30Z", 3, 0),
    ]  # fmt: skip


def test_topics_of_different_shape_join_in_a_window_with_lateness_each_with_its_own_delay(tmp_path: Path) -> None:
    other = hr.stream(
        "other", schema={"at": "STRING", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(TRY_CAST(at AS BIGINT), 3)", watermark=hr.seconds(20)
    )
    both = events().select("x").union(other.select(x="TRY_CAST(v AS BIGINT)"))
    inputs = {
        "events": [file_of(tmp_path / "1.ndjson", ("a", 0, 1), ("a", 10, 2), ("a", 1, 3), ("a", 15, 4), ("a", 2, 5))],
        "other": [file_of(tmp_path / "2.ndjson", *(json.dumps({"at": str(T + second * 1000), "v": second}) for second in (9, 29, 8, 31, 7)))],
    }
    for chunk in (1, 1 << 20):
        accounts = run_files(plan_of(out=counted(both, lateness=4, by=())), inputs, tmp_path / "out", chunk=chunk)
        assert [(row["window_end"][-3:], row["all"], row["revision"]) for row in rows_of(tmp_path / "out", "out")] == [
            ("10Z", [1, 9, 8, 3], 0), ("10Z", [1, 9, 8, 3, 7], 1), ("20Z", [2, 4], 0), ("30Z", [29], 0), ("40Z", [31], 0),
        ]  # fmt: skip
        assert (accounts["events"].late, accounts["other"].late) == (1, 0)


class Counted(Output):
    """Counts the rows written."""

    rows = 0

    def write(self, topic: str, rows: pl.DataFrame, keys: Any = None) -> None:  # noqa: ARG002
        self.rows += len(rows)

    def set_aside(self, letters: Any) -> None:
        pass


@pytest.mark.parametrize("lateness", [0, 15])
def test_what_is_kept_does_not_grow_with_the_length_of_the_input(lateness: int, tmp_path: Path) -> None:
    stream = events().window(hr.sliding(hr.seconds(30), hr.seconds(10)), by=["k"], allowed_lateness=hr.seconds(lateness)).aggregate(n="COUNT(*)")

    def most_kept(seconds: int) -> tuple[int, int]:
        file = file_of(tmp_path / "a.ndjson", *(("abc"[second % 3], second - second % 7 * 3, 0) for second in range(seconds)))
        kept, output = 0, Counted()
        reader = open_file(file, 1_000)
        run = Run(plan_of(out=stream), {"events": [reader]}, output)
        while not run.finished:
            run.take_turn()
            state = run.graph.stages[0].state
            frames = [*state.buffer.get(0, []), state.folded, state.stragglers, state.revisions]
            kept = max(kept, sum(len(frame) for frame in frames if frame is not None))
        reader.close()
        return kept, output.rows

    (kept, rows), (kept_of_more, more_rows) = most_kept(500), most_kept(2_000)
    assert more_rows > 3 * rows
    assert kept_of_more <= kept * 1.2


# Beginning, ending, going on


def test_a_finished_run_starts_afresh(tmp_path: Path) -> None:
    plan = plan_of(raw=events())
    run_files(plan, {"events": [file_of(tmp_path / "a.ndjson", ("a", 1, 1), "{")]}, tmp_path / "out")
    run_files(plan, {"events": [file_of(tmp_path / "a.ndjson", ("a", 2, 2))]}, tmp_path / "out")
    assert [row["x"] for row in rows_of(tmp_path / "out", "raw")] == [2]
    assert rows_of(tmp_path / "out", "events.dead-letter") == []


class Interrupted(BaseException):
    """Stands for a kill."""


def interrupt(_: Progress) -> None:
    raise Interrupted


def begun(folder: Path, plan: Plan, inputs: dict[str, list[Path]], *, chunk: int = 200) -> Path:
    """Leave a run that was interrupted after its first turn."""
    with pytest.raises(Interrupted):
        run_files(plan, inputs, folder, chunk=chunk, commit_seconds=0, progress=interrupt)
    return folder


@pytest.mark.parametrize("window", [hr.tumbling(hr.seconds(10)), hr.tumbling(hr.minutes(3))])
@pytest.mark.parametrize("lateness", [0, 20])
def test_csv_parquet_and_ndjson_files_of_one_topic_are_read_as_one_and_a_stopped_run_goes_on_in_each(
    window: hr.Window, lateness: int, tmp_path: Path
) -> None:
    records = [{"k": "abc"[n % 3], "t": T + n * 700 - n % 5 * 4_000, "x": n} for n in range(120)]
    thirds = [pl.DataFrame(records[number::3]) for number in range(3)]
    thirds[0].write_csv(tmp_path / "0.csv")
    thirds[1].write_parquet(tmp_path / "1.parquet")
    for number in range(3):
        thirds[number].write_ndjson(tmp_path / f"{number}.ndjson")
    stream = events()
    plan = plan_of(out=stream.window(window, by=["k"], allowed_lateness=hr.seconds(lateness)).aggregate(all="ARRAY_AGG(x)"), raw=stream)
    run_files(plan, {"events": [tmp_path / f"{number}.ndjson" for number in range(3)]}, tmp_path / "expected")
    inputs = {"events": [tmp_path / "0.csv", tmp_path / "1.parquet", tmp_path / "2.ndjson"]}
    for turns in range(1, 12):
        left = iter(range(turns))

        def stop(_: Progress, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Interrupted

        try:
            run_files(plan, inputs, tmp_path / "out", chunk=7, commit_seconds=0, progress=stop)
        except Interrupted:
            run_files(plan, inputs, tmp_path / "out", chunk=600)
        assert found(tmp_path / "out") == found(tmp_path / "expected")


def test_state_of_every_type_goes_through_a_restart_at_every_turn(tmp_path: Path) -> None:
    schema = {
        "t": "BIGINT", "b": "BOOLEAN", "s": "STRING", "d": "DOUBLE", "at": "TIMESTAMP_LTZ(3)",
        "m": "MAP<STRING, DOUBLE>", "l": "ARRAY<BIGINT>", "r": "ROW<q BIGINT, w STRING>",
    }  # fmt: skip
    stream = hr.stream("typed", schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    calls = {f"{function}_{name}": f"{function}({name})" for name in "bsdmlr" for function in ("FIRST_VALUE", "LAST_VALUE", "ARRAY_AGG")}
    calls |= {
        "latest": "MAX(at)",
        "different": "COUNT(DISTINCT s)",
        "all": "BOOL_AND(b)",
        "third": "PERCENTILE(d, 0.3)",
        "by_s": "MAP_AGG(s, STRUCT(t, r))",
    }
    windowed = stream.window(hr.sliding(hr.seconds(40), hr.seconds(20)), by=["at", "b"], allowed_lateness=hr.seconds(10)).aggregate(**calls)
    plan = plan_of(out=windowed, again=windowed.aggregate(by=["b"], times="ARRAY_AGG(at)", maps="MAP_AGG(TRY_CAST(at AS STRING), by_s)"))
    lines = [
        json.dumps({
            "t": T + n * 1_500 - n % 7 * 9_000, "b": [True, False, None][n % 3], "s": "xyz"[n % 3], "d": n / 7, "at": f"2024-01-01 00:00:0{n % 2}",
            "m": [None, {"x": 1.5, "y": None}, {}][n % 3], "l": [None, [], [n]][n % 3], "r": {"q": n, "w": None},
        })
        for n in range(60)
    ]  # fmt: skip
    inputs = {"typed": [file_of(tmp_path / "a.ndjson", *lines)]}
    run_files(plan, inputs, tmp_path / "expected")
    for turns in range(100):
        try:
            run_files(plan, inputs, tmp_path / "out", chunk=500, commit_seconds=0, progress=interrupt)
            break
        except Interrupted:
            continue
    assert 10 < turns < 99
    assert found(tmp_path / "out") == found(tmp_path / "expected")


def settings_plan(size: int = 10, version: str = "1", name: str = "settled", aggregate: str = "COUNT(*)") -> Plan:
    def build(size: int = 10) -> dict[str, hr.Stream]:
        return {"out": events().window(hr.tumbling(hr.seconds(size)), by=["k"]).aggregate(n=aggregate)}

    return hr.pipeline(name, version=version)(build).plan(size=size)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (settings_plan(name="another"), "of pipeline 'settled'"),
        (settings_plan(version="2"), "of version '1'"),
        (settings_plan(size=20), "with other settings"),
        (settings_plan(aggregate="SUM(x)"), "with other operators"),
    ],
)
def test_the_unfinished_run_of_another_pipeline_is_refused_with_the_reason_and_the_mend(other: Plan, reason: str, tmp_path: Path) -> None:
    inputs = {"events": [file_of(tmp_path / "a.ndjson", *[("a", n, n) for n in range(30)])]}
    folder = begun(tmp_path / "out", settings_plan(), inputs)
    with pytest.raises(EnvironmentFault) as caught:
        run_files(other, inputs, folder)
    assert str(caught.value) == (
        f"{folder}/.run: holds an unfinished run {reason}; finish that one, remove {folder}/.run, or name another --output"
    )  # fmt: skip
    run_files(settings_plan(), inputs, folder)
    assert [row["n"] for row in rows_of(folder, "out")] == [10, 10, 10]


def test_an_unfinished_run_over_other_inputs_is_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.ndjson", *[("a", n, n) for n in range(30)])
    folder = begun(tmp_path / "out", settings_plan(), {"events": [file]})
    for others in ([file, file], [file_of(tmp_path / "b.ndjson")]):
        with pytest.raises(EnvironmentFault, match="holds an unfinished run with other inputs"):
            run_files(settings_plan(), {"events": others}, folder)


def test_any_damaged_byte_of_the_state_is_an_error_that_names_the_file_and_the_mend(tmp_path: Path) -> None:
    inputs = {"events": [file_of(tmp_path / "a.ndjson", *[("ab"[n % 2], n - n % 3 * 9, n) for n in range(60)])]}
    plan = plan_of(out=counted(events(), lateness=8))
    folder = begun(tmp_path / "out", plan, inputs, chunk=1_500)
    state = [folder / ".run" / "manifest.json", *(folder / ".run").glob("*.part")]
    assert len(state) > 3
    for path in state:
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 25)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(EnvironmentFault) as caught:
                run_files(plan, inputs, folder)
            assert str(path) in str(caught.value)
            assert "is damaged" in str(caught.value)
            assert f"remove {folder}/.run to start anew" in str(caught.value)
        for content in (b"", whole[:-1]):
            path.write_bytes(content)
            with pytest.raises(EnvironmentFault, match="is damaged"):
                run_files(plan, inputs, folder)
        path.unlink()
        if path.suffix == ".part":
            with pytest.raises(EnvironmentFault, match="is damaged: No such file"):
                run_files(plan, inputs, folder)
        path.write_bytes(whole)
    run_files(plan, inputs, folder)
    run_files(plan, inputs, tmp_path / "expected")
    assert found(folder) == found(tmp_path / "expected")


def test_an_output_that_lost_what_was_committed_is_an_error(tmp_path: Path) -> None:
    inputs = {"events": [file_of(tmp_path / "a.ndjson", *[("a", n, n) for n in range(60)])]}
    folder = begun(tmp_path / "out", plan_of(raw=events()), inputs)
    written = folder / ".run" / "raw.ndjson"
    written.write_bytes(written.read_bytes()[:-1])
    with pytest.raises(EnvironmentFault, match=r"raw\.ndjson: is damaged: it has less than the \d+ bytes committed; remove .*/\.run to start anew"):
        run_files(plan_of(raw=events()), inputs, folder)


def test_state_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"events": [file_of(tmp_path / "a.ndjson", *[("a", n, n) for n in range(60)])]}
    folder = begun(tmp_path / "out", settings_plan(), inputs)
    monkeypatch.setattr("headrace.engines.embedded.run.STATE_FORMATS", (99,))
    with pytest.raises(EnvironmentFault, match="holds state of format 4, not 99; finish it with the headrace that began it, or remove"):
        run_files(settings_plan(), inputs, folder)


# Surroundings


def test_an_output_folder_in_use_is_refused_naming_the_process(tmp_path: Path) -> None:
    code = """if True:
        import pathlib, sys, headrace.engines.embedded.checkpoint
        held = headrace.engines.embedded.checkpoint.Checkpoint(pathlib.Path(sys.argv[1]))
        held.open()
        print(flush=True)
        input()
    """
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out" / ".run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        holder.stdout.readline()
        inputs = {"events": [file_of(tmp_path / "a.ndjson", ("a", 1, 1))]}
        with pytest.raises(EnvironmentFault) as caught:
            run_files(settings_plan(), inputs, tmp_path / "out")
        assert str(caught.value) == f"{tmp_path / 'out'}: is in use by process {holder.pid}; wait for it, or name another --output"
        holder.communicate(b"\n")
    run_files(settings_plan(), inputs, tmp_path / "out")
    assert len(rows_of(tmp_path / "out", "out")) == 1


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to write anywhere, if it is root who tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_output_folder_that_may_not_be_written_to_is_an_error_with_the_mend() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(EnvironmentFault) as caught:
            run_files(settings_plan(), {"events": [folder / "a.ndjson"]}, folder / "out")
        assert str(caught.value) == f"{folder}/out/.run: cannot be written: Permission denied; let this user write there"
        folder.chmod(0o755)


def test_an_output_folder_that_is_a_file_is_an_error_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("something else")
    with pytest.raises(EnvironmentFault, match=r"out/\.run: cannot be written: Not a directory; name a folder"):
        run_files(settings_plan(), {"events": [file_of(tmp_path / "a.ndjson")]}, tmp_path / "out")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["merging", "revising", "fingerprint"])
def test_a_full_disk_is_an_error_with_the_mend_and_with_room_again_the_run_goes_on(name: str, tmp_path: Path) -> None:
    plan, inputs = PIPELINES[name].plan(), write_inputs(tmp_path / "in", name, 200, seed=1)
    run_files(plan, inputs, tmp_path / "expected")
    sizes = sorted(len(data) for data in found(tmp_path / "expected").values())
    for room in (0, 100, 600, 2_000, sizes[-1] // 2, sizes[-1] - 1):
        with file_size_limit(room), pytest.raises(EnvironmentFault) as caught:
            run_files(plan, inputs, tmp_path / "out", chunk=900, commit_seconds=0)
        assert "cannot be written: File too large; make room or name another folder, then run again: it goes on from the last commit" in str(
            caught.value
        )
    run_files(plan, inputs, tmp_path / "out")
    assert found(tmp_path / "out") == found(tmp_path / "expected")


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (Path.unlink, r"a\.ndjson: cannot be read: No such file or directory; name a file that exists"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), r"a\.ndjson: has shrunk from \d+ to \d+ bytes; bring the file back or start anew"),
    ],
)
def test_an_input_that_is_gone_when_a_run_goes_on_is_an_error_and_once_it_is_back_the_run_goes_on(
    harm: Callable[[Path], Any], error: str, tmp_path: Path
) -> None:
    file = file_of(tmp_path / "a.ndjson", *[("a", n, n) for n in range(60)])
    folder, content = begun(tmp_path / "out", settings_plan(), {"events": [file]}), file.read_bytes()
    harm(file)
    with pytest.raises(EnvironmentFault, match=error):
        run_files(settings_plan(), {"events": [file]}, folder)
    file.write_bytes(content)
    run_files(settings_plan(), {"events": [file]}, folder)
    assert [row["n"] for row in rows_of(folder, "out")] == [10] * 6


def test_what_is_appended_to_an_input_after_a_run_began_is_not_for_that_run(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.ndjson", *[("a", n, n) for n in range(60)])
    folder = begun(tmp_path / "out", settings_plan(), {"events": [file]})
    with file.open("a") as more:
        more.write(json.dumps({"k": "z", "t": T, "x": 0}) + "\n")
    assert run_files(settings_plan(), {"events": [file]}, folder)["events"].received == 60


def test_inputs_must_be_those_of_the_plan(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.ndjson")
    with pytest.raises(PlanError, match="reads no topic 'event'; did you mean 'events'"):
        run_files(settings_plan(), {"events": [file], "event": [file]}, tmp_path / "out")
    for inputs in ({}, {"events": []}):
        with pytest.raises(PlanError, match="topic 'events' has no file; add --input events=FILE"):
            run_files(settings_plan(), inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_folder_writes_the_same_rows_as_they_come(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in", "merging", 100, seed=1)
    counted_rows = Counted()
    accounts = run_to(PIPELINES["merging"].plan(), inputs, counted_rows)
    expected = run_files(PIPELINES["merging"].plan(), inputs, tmp_path / "out")
    assert accounts == expected
    topics = PIPELINES["merging"].plan().topics
    assert counted_rows.rows == sum(len(rows_of(tmp_path / "out", topic)) for topic in topics)
