"""Maps of texts that are only cast to numbers are read as numbers at once: with the same results, and nowhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.engines.embedded.run import run_files
from headrace.plan.operators import Unnest
from headrace.plan.pipeline import Plan
from headrace.plan.rewrite import only_keys, read_numbers_at_once
from headrace.plan.schema import DOUBLE, STRING, map_of
from repeated import examples

T = 1_704_067_200_000
WINDOW = hr.tumbling(hr.seconds(10))


def messages(event_time: str = "TO_TIMESTAMP_LTZ(t, 3)") -> hr.Stream:
    return hr.stream("messages", schema={"id": "STRING", "t": "BIGINT", "data": "MAP<STRING, STRING>"}, event_time=event_time)


def gathered(**more: Any) -> hr.Stream:
    """Return a stream that keeps all undeclared fields as a map."""
    return hr.stream("messages", schema={"id": "STRING", "t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", rest="data", **more)


def entries(stream: hr.Stream) -> hr.Stream:
    return stream.unnest("data", key="sensor", value="raw")


def cast(stream: hr.Stream) -> hr.Stream:
    return entries(stream).derive(value="TRY_CAST(raw AS DOUBLE)")


def summed(stream: hr.Stream) -> hr.Stream:
    return stream.window(WINDOW, by=["sensor"]).aggregate(n="COUNT(*)", of="COUNT(value)", all="ARRAY_AGG(value)")


def plan_of(*streams: hr.Stream) -> Plan:
    return hr.pipeline("rewritten", version="1")(lambda: {f"out-{number}": one for number, one in enumerate(streams)}).plan()


@pytest.mark.parametrize("source", [messages, gathered])
@pytest.mark.parametrize(
    "build",
    [
        lambda source: [summed(cast(source))],
        lambda source: [summed(cast(source).where("value IS NOT NULL AND sensor <> 'x'"))],
        lambda source: [summed(entries(source).where("TRY_CAST(raw AS DOUBLE) > 1").derive(value="1 + TRY_CAST(raw AS DOUBLE)"))],
        lambda source: [entries(source).window(WINDOW, by=["sensor"]).aggregate(total="SUM(TRY_CAST(raw AS DOUBLE))")],
        lambda source: [cast(source).select("sensor", "value")],
        lambda source: [entries(source).derive(raw="TRY_CAST(raw AS DOUBLE)")],
        lambda source: [entries(source).derive(raw="TRY_CAST(raw AS DOUBLE)").where("raw > 1").derive(again="TRY_CAST(raw AS DOUBLE)")],
        lambda source: [summed(cast(source)), cast(source).select("id", half="value / 2")],
    ],
)
def test_a_map_of_texts_that_are_only_cast_to_double_is_read_as_numbers(
    build: Callable[[hr.Stream], list[hr.Stream]], source: Callable[[], hr.Stream]
) -> None:
    before = plan_of(*build(source()))
    after, unread = read_numbers_at_once(before)
    assert unread == {"messages": {"data"}}
    assert (before.sources[0].schema()["data"].type, after.sources[0].schema()["data"].type) == (map_of(STRING, STRING), map_of(STRING, DOUBLE))
    assert [sink.schema for sink in after.sinks] == [sink.schema for sink in before.sinks]


@pytest.mark.parametrize("source", [messages, gathered])
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda source: [source], id="the map itself is written"),
        pytest.param(lambda source: [cast(source)], id="the text is written"),
        pytest.param(lambda source: [summed(cast(source)), entries(source).select("raw")], id="the text is written elsewhere"),
        pytest.param(lambda source: [summed(cast(source)), source.select("id", n="CARDINALITY(data)")], id="the map is read elsewhere"),
        pytest.param(lambda source: [summed(cast(source.where("data['a'] = 'on'")))], id="an entry is read as text"),
        pytest.param(lambda source: [summed(cast(source).where("raw <> 'off'"))], id="the text is compared"),
        pytest.param(lambda source: [summed(cast(source).where("raw IS NOT NULL"))], id="text that is no number is not NULL"),
        pytest.param(lambda source: [summed(cast(source).derive(kind="UPPER(raw)"))], id="another column is made of it"),
        pytest.param(lambda source: [summed(entries(source).derive(value="TRY_CAST(raw AS BIGINT)"))], id="it is cast to a whole number"),
        pytest.param(lambda source: [summed(entries(source).derive(value="TRY_CAST(TRIM(raw) AS DOUBLE)"))], id="more than the text is cast"),
        pytest.param(lambda source: [cast(source).window(WINDOW, by=["raw"]).aggregate(n="SUM(value)")], id="it is a key"),
        pytest.param(lambda source: [cast(source).window(WINDOW).aggregate(n="COUNT(raw)")], id="it is aggregated"),
        pytest.param(lambda source: [cast(source).window(WINDOW).late_to("late").aggregate(n="SUM(value)")], id="late rows are written whole"),
        pytest.param(lambda source: [summed(cast(source).union(cast(source)))], id="it goes into a union"),
    ],
)
def test_a_map_that_is_used_in_any_other_way_stays_a_map_of_texts(
    build: Callable[[hr.Stream], list[hr.Stream]], source: Callable[[], hr.Stream]
) -> None:
    shared = source()
    plan = plan_of(*build(shared))
    assert read_numbers_at_once(plan) == (plan, {})


def test_a_map_that_the_event_time_is_read_from_stays_a_map_of_texts() -> None:
    plan = plan_of(summed(cast(messages("TO_TIMESTAMP_LTZ(TRY_CAST(data['t'] AS BIGINT), 3)"))))
    assert read_numbers_at_once(plan) == (plan, {})


# The results


TEXTS = [
    "1",
    "-0",
    "+1.50",
    " 7\t",
    ".5",
    "5.",
    "1e3",
    "1e999",
    "0x1F",
    "1_000",
    "",
    "null",
    "NaN",
    "inf",
    "９",
    "1 2",
    "é",
    "12345678901234567890123",
]
values = st.one_of(
    st.sampled_from(TEXTS).map(json.dumps),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(repr),
    st.sampled_from(["null", "true", "[1]", '{"a": 1}', "1e400", "-0", "1E+2", "2.50", "9007199254740993"]),
)
members = st.builds("{}: {}".format, st.sampled_from(['"p"', '"q"', '"é"']), values)
maps = st.lists(members, max_size=4).map(", ".join)


def results(plan: Plan, lines: list[str]) -> tuple[bytes, bytes, bytes]:
    with TemporaryDirectory() as name:
        file, out = Path(name) / "messages.ndjson", Path(name) / "out"
        file.write_text("".join(line + "\n" for line in lines))
        run_files(plan, {"messages": [file]}, out)
        return outputs(out)


def outputs(out: Path) -> tuple[bytes, bytes, bytes]:
    return (out / "out-0.ndjson").read_bytes(), (out / "messages.dead-letter.ndjson").read_bytes(), (out / "ledger.json").read_bytes()


@examples(40, 1000)
@given(st.lists(st.tuples(st.integers(0, 25), maps), max_size=12), st.booleans())
def test_the_results_are_those_of_the_plan_as_written(rows: list[tuple[int, str]], within: bool) -> None:
    at_once = summed(cast(messages() if within else gathered()))
    source = messages() if within else gathered()
    as_written = [summed(cast(source)), entries(source).window(WINDOW).aggregate(last="LAST_VALUE(raw)")]
    assert read_numbers_at_once(plan_of(*as_written))[1] == {}
    assert read_numbers_at_once(plan_of(at_once))[1] == {"messages": {"data"}}
    lines = [
        f'{{"t": {T + second * 1000}, "data": {{{of}}}}}' if within else f'{{"t": {T + second * 1000}{", " if of else ""}{of}}}'
        for second, of in rows
    ]
    assert results(plan_of(at_once), lines) == results(plan_of(*as_written), lines)


DOUBLES = st.none() | st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
COLUMNS = {
    "doubles": (pl.Float64, DOUBLES), "more": (pl.Float64, DOUBLES), "floats": (pl.Float32, st.none() | st.floats(width=32)),
    "counts": (pl.Int64, st.none() | st.integers(-(2**63), 2**63 - 1)), "texts": (pl.String, st.none() | st.sampled_from(TEXTS)),
}  # fmt: skip


@settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(COLUMNS))), st.integers(1, 8), st.data())
def test_the_results_of_wide_rows_are_those_of_the_plan_as_written(names: set[str], count: int, data: st.DataObject) -> None:
    columns = {name: data.draw(st.lists(values, min_size=count, max_size=count)) for name, (_, values) in COLUMNS.items() if name in names}
    times = {"t": [T + second * 1000 for second in range(count)]}
    frame = pl.DataFrame(times | {name: pl.Series(values, dtype=COLUMNS[name][0]) for name, values in columns.items()})
    wide = gathered()
    as_written = [summed(cast(wide)), entries(wide).window(WINDOW).aggregate(last="LAST_VALUE(raw)")]
    with TemporaryDirectory() as name:
        file = Path(name) / "messages.parquet"
        frame.write_parquet(file)
        found = []
        for number, plan in enumerate((plan_of(summed(cast(wide))), plan_of(*as_written))):
            run_files(plan, {"messages": [file]}, Path(name) / str(number))
            found.append(outputs(Path(name) / str(number)))
    assert found[0] == found[1]


def test_headers_are_read_as_the_texts_that_they_are() -> None:
    source = hr.stream("messages", schema={"t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", metadata={"data": "headers"})
    plan, retyped = read_numbers_at_once(plan_of(summed(cast(source))))
    assert not retyped
    assert plan.sources[0].schema()["data"].type == map_of(STRING, STRING)


@pytest.mark.parametrize(
    ("build", "keys"),
    [
        (lambda rows: [summed(rows)], {"sensor"}),
        (lambda rows: [summed(rows.select("id", "sensor", "value", tag="sensor"))], {"sensor"}),
        (lambda rows: [rows.select("value", tag="sensor").window(WINDOW, by=["tag"]).aggregate(n="COUNT(*)")], {"sensor"}),
        (lambda rows: [rows.window(WINDOW, by=["id", "sensor"]).aggregate(n="COUNT(*)").aggregate(by=["id"], n="SUM(n)")], {"id", "sensor"}),
        (lambda rows: [summed(rows), rows.window(WINDOW, by=["id"]).aggregate(n="COUNT(value)")], {"id", "sensor"}),
        (lambda rows: [summed(rows), rows.select("sensor")], set()),
        (lambda rows: [summed(rows.where("sensor <> 'x'"))], set()),
        (lambda rows: [summed(rows.derive(sensor="UPPER(sensor)"))], set()),
        (lambda rows: [summed(rows.where("value > 1").union(rows))], set()),
        (lambda rows: [rows.window(WINDOW, by=["sensor"]).aggregate(last="LAST_VALUE(sensor)")], set()),
        (lambda rows: [rows.window(WINDOW, by=["sensor"], allowed_lateness=hr.seconds(1)).aggregate(n="COUNT(*)")], set()),
    ],
)
def test_texts_that_are_only_keys_of_windows_are_found(build: Callable[[hr.Stream], list[hr.Stream]], keys: set[str]) -> None:
    plan = plan_of(*build(cast(messages())))
    (unnest,) = (node for node in plan.nodes if isinstance(node.operator, Unnest))
    assert only_keys(plan, unnest) - {"raw"} - ({"id"} - keys) == keys
