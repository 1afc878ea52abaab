"""Streams: the schema that each method derives, and the errors it raises when a pipeline is defined."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest

import headrace as hr
from headrace.errors import PlanError
from headrace.plan.expression import Call, Column
from headrace.plan.operators import Aggregate, Regroup
from headrace.plan.schema import BIGINT, DOUBLE, Field, Schema

COLUMNS = {
    "k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE", "m": "MAP<STRING, STRING>", "l": "ARRAY<DOUBLE>", "at": "TIMESTAMP_LTZ(3)", "r": "ROW<x BIGINT>",
}  # fmt: skip
MINUTE = hr.tumbling(hr.minutes(1))
WINDOW = "window_start TIMESTAMP_LTZ(3) NOT NULL, window_end TIMESTAMP_LTZ(3) NOT NULL, revision BIGINT NOT NULL"
s = hr.stream("x", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")
per_k_t = s.window(MINUTE, by=["k", "t"]).aggregate(n="COUNT(*)", top="MAX(v)")
revised = s.window(MINUTE, by=["k"], allowed_lateness=hr.seconds(5)).aggregate(n="COUNT(*)")


def made(topic: str = "x", schema: Any = None, **options: Any) -> hr.Stream:
    return hr.stream(topic, schema={"ts": "BIGINT"} if schema is None else schema, **options)


# schemas


@pytest.mark.parametrize(
    ("stream", "schema"),
    [
        (s.select("v", "k", twice="v * 2", end="t"), "v DOUBLE, k STRING, twice DOUBLE, end BIGINT"),
        (s.select("k").derive(upper="UPPER(k)", k="1"), "k BIGINT, upper STRING"),
        (s.select("k", "v").where("v > 1"), "k STRING, v DOUBLE"),
        (s.select("k", "m").unnest("m", key="sensor", value="raw"), "k STRING, sensor STRING NOT NULL, raw STRING"),
        (s.select("k", "m").unnest("m", key="m", value="raw"), "k STRING, m STRING NOT NULL, raw STRING"),
        (s.select("l", "k").unnest("l", value="l"), "k STRING, l DOUBLE"),
        (made(schema={"k": "STRING NOT NULL"}).union(made("y", {"k": "STRING"})), "k STRING"),
        (made(schema={"k": "STRING NOT NULL"}).union(made("y", {"k": "STRING NOT NULL"})), "k STRING NOT NULL"),
        (made(schema={"k": "STRING"}, rest="others"), "k STRING, others MAP<STRING, STRING> NOT NULL"),
        (made(rest="r", metadata={"d": "key", "h": "headers"}), "ts BIGINT, r MAP<STRING, STRING> NOT NULL, d STRING, h MAP<STRING, STRING>"),
        (
            made(metadata={"p": "partition", "o": "offset", "at": "arrival_time"}, event_time="at"),
            "ts BIGINT, p BIGINT NOT NULL, o BIGINT NOT NULL, at TIMESTAMP_LTZ(3)",
        ),
        (s.window(MINUTE, by=["k"]).aggregate(n="COUNT(*)", min="MIN(v)", half="SUM(t) / 2"), f"k STRING NOT NULL, n BIGINT, min DOUBLE, half BIGINT, {WINDOW}"),
        (s.window(MINUTE, by="k").aggregate(), f"k STRING NOT NULL, {WINDOW}"),
        (s.window(MINUTE).aggregate(shout="'!'", key="COUNT(k)"), f"shout STRING, key BIGINT, {WINDOW}"),
        (per_k_t.aggregate(by=["k"], tops="ARRAY_AGG(top)"), f"k STRING NOT NULL, tops ARRAY<DOUBLE>, {WINDOW}"),
        (per_k_t.aggregate(by=["window_start"], n="SUM(n)"), "window_start TIMESTAMP_LTZ(3) NOT NULL, n BIGINT, window_end TIMESTAMP_LTZ(3) NOT NULL, revision BIGINT NOT NULL"),
        (per_k_t.aggregate(by=["k"], m="MAP_AGG(k, STRUCT(n, top AS `the top`))").select("m"), "m MAP<STRING, ROW<n BIGINT, `the top` DOUBLE>>"),
    ],
    ids=lambda given: given._path if isinstance(given, hr.Stream) else None,
)  # fmt: skip
def test_each_operator_derives_the_schema_of_what_it_gives(stream: hr.Stream, schema: str) -> None:
    assert str(stream.schema) == schema


def test_no_method_changes_the_stream_it_is_called_on() -> None:
    before = s.schema
    s.derive(a="v")
    s.select("k")
    s.window(MINUTE).aggregate(n="COUNT(*)")
    assert s.schema is before or s.schema == before


def test_a_stream_shows_its_path_and_its_columns() -> None:
    assert repr(s.select("k").where("k = 'a'")) == "<Stream stream('x').select.where: k STRING>"


def test_columns_derived_together_see_the_columns_before_them_not_each_other() -> None:
    assert s.derive(v="t", t="v").select("v", "t").schema == Schema((Field("v", BIGINT), Field("t", DOUBLE)))
    with pytest.raises(PlanError, match="unknown column 'a'"):
        s.derive(a="v", b="a")


def test_the_event_time_may_be_a_timestamp_column_or_made_of_the_texts_in_any_column() -> None:
    assert s.operator.event_time.function == "TO_TIMESTAMP_LTZ"
    assert made(schema={"at": "TIMESTAMP_LTZ(3)"}, event_time="at").operator.event_time.name == "at"
    assert (
        made(schema={"at": "STRING"}, event_time="TO_TIMESTAMP_LTZ(at, 'yyyy-MM-dd HH:mm:ss')").operator.event_time.type
        == Field("", s.schema["at"].type).type
    )


@pytest.mark.parametrize(
    ("believed", "ms"),
    [
        (("1970-01-01", "1970-01-02"), (0, 86_400_000)),
        (("1970-01-01T00:00:01", "1970-01-01T00:00:01.500"), (1000, 1500)),
        (("1970-01-01T02:00:00+02:00", "1970-01-01T00:00:01Z"), (0, 1000)),
    ],
)
def test_the_range_of_event_times_is_in_utc_unless_it_says_otherwise(believed: tuple[str, str], ms: tuple[int, int]) -> None:
    assert made(event_time_range=believed).operator.range_ms == ms
    assert made().operator.range_ms == (946_684_800_000, 4_102_444_800_000)


def test_equal_aggregates_are_computed_once() -> None:
    stream = s.window(MINUTE, by=["k"]).aggregate(a="SUM(v) / COUNT(*)", b="SUM(v)", c="SUM(v) FILTER (WHERE v > 0)", d="k")
    assert isinstance(stream.operator, Aggregate)
    assert [call.function for _, call in stream.operator.calls] == ["SUM", "COUNT", "SUM"]


def test_without_an_aggregate_the_rows_are_counted_so_that_groups_are_known() -> None:
    for operator in (s.window(MINUTE, by=["k"]).aggregate().operator, per_k_t.aggregate(by=["k"]).operator):
        assert isinstance(operator, Aggregate | Regroup)
        assert operator.calls == (("@call0", Call("COUNT", (), BIGINT, aggregate=True)),)


def test_a_selected_column_is_the_column_itself() -> None:
    assert s.select("v").operator.columns == (("v", Column("v", DOUBLE)),)


# errors: the node, the expression, the column, and a near match

MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    # hr.stream
    "an unknown type": (lambda: made(schema={"a": "Strng"}), "stream('x'): column 'a': unknown type STRNG; did you mean 'STRING'?"),
    "an unusable name": (lambda: made(schema={"@a": "STRING"}), "stream('x'): column name '@a' cannot be used; names are not empty and do not start with '@'"),
    "no schema": (lambda: made(schema="STRING"), "stream('x'): 'STRING' is not a table of columns; write {\"column\": \"STRING\"}"),
    "an event time of an unknown column": (
        lambda: made(event_time="TO_TIMESTAMP_LTZ(tss, 3)"), "stream('x') event_time: 'TO_TIMESTAMP_LTZ(tss, 3)': unknown column 'tss'; did you mean 'ts'?",
    ),
    "an event time that is a number": (lambda: made(event_time="ts"), "stream('x'): event_time is a BIGINT; write TO_TIMESTAMP_LTZ(column, 3) for ms since the epoch"),
    "an event time that is no text": (lambda: made(event_time=5), "stream('x') event_time: 5 is not a SQL text"),
    "an event time that is an aggregate": (lambda: made(event_time="MAX(ts)"), "stream('x') event_time: 'MAX(ts)': aggregate function MAX stands outside of aggregate()"),
    "a watermark that is a number": (lambda: made(watermark=10), "stream('x'): the watermark's delay is 10, not a duration; write hr.seconds(10) or hr.minutes(1)"),
    "a negative watermark": (lambda: made(watermark=hr.seconds(-1)), "stream('x'): the watermark's delay is -1 day, 23:59:59, which is negative"),
    "a watermark too fine": (lambda: made(watermark=timedelta(microseconds=5)), "stream('x'): the watermark's delay is 0:00:00.000005, which is finer than a millisecond"),
    "a decimal sign that is none": (lambda: made(decimal=";"), "stream('x') decimal: a decimal sign is not ';'; write \".\" or \",\""),
    "a range of no dates": (lambda: made(event_time_range=("2000", "x")), "stream('x'): event_time_range ('2000', 'x') cannot be read; write (\"2000-01-01\", \"2100-01-01\")"),
    "a range of one date": (lambda: made(event_time_range="2000-01-01"), "stream('x'): event_time_range '2000-01-01' cannot be read"),
    "a range of what is no text": (lambda: made(event_time_range=(date(2000, 1, 1), date(2001, 1, 1))), "stream('x'): event_time_range (datetime.date(2000, 1, 1), "),
    "a range turned round": (lambda: made(event_time_range=("2100-01-01", "2000-01-01")), "stream('x'): event_time_range ('2100-01-01', '2000-01-01') is empty; name the earlier date first"),
    "a range with and without a zone": (lambda: made(event_time_range=("2000-01-01T00:00:00Z", "2000-01-01")), "stream('x'): event_time_range ('2000-01-01T00:00:00Z', '2000-01-01') is empty"),
    "windows that end past the calendar": (
        lambda: made(event_time="TO_TIMESTAMP_LTZ(ts, 3)", event_time_range=("2000-01-01", "9999-12-31")).window(hr.tumbling(timedelta(days=1))),
        "stream('x').window: windows tumbling 1 day, 0:00:00 at the ends of the event_time_range of 'x' would lie outside the years 1 to 9999; narrow event_time_range",
    ),
    "windows that begin before the calendar": (
        lambda: made(event_time="TO_TIMESTAMP_LTZ(ts, 3)", event_time_range=("0001-01-01", "2100-01-01")).window(hr.sliding(hr.minutes(2), hr.minutes(1))),
        "stream('x').window: windows sliding 0:02:00 every 0:01:00 at the ends of the event_time_range of 'x' would lie outside the years 1 to 9999",
    ),
    "a rest that is declared": (lambda: made(rest="ts"), "stream('x'): rest 'ts' is a declared column; give it another name"),
    "a rest without a name": (lambda: made(rest=""), "stream('x') rest: column name '' cannot be used"),
    "metadata that is no table": (lambda: made(metadata=["key"]), "stream('x') metadata: ['key'] is not a table of columns; write {\"device\": \"key\"}"),
    "metadata in a declared column": (lambda: made(metadata={"ts": "key"}), "stream('x') metadata: column 'ts' is a column of the schema too; give it another name"),
    "metadata in rest": (lambda: made(rest="r", metadata={"r": "key"}), "stream('x') metadata: column 'r' is rest too; give it another name"),
    "metadata of an unknown kind": (lambda: made(metadata={"at": "ofset"}), "stream('x') metadata: column 'at' holds unknown metadata 'ofset'; did you mean 'offset'?"),
    "metadata of a kind far off": (lambda: made(metadata={"at": "x"}), "stream('x') metadata: column 'at' holds unknown metadata 'x'; there is: arrival_time, headers, key"),
    "metadata of a kind that is no text": (lambda: made(metadata={"at": 3}), "stream('x') metadata: column 'at' holds unknown metadata 3; name one of key, headers, "),
    "metadata without a name": (lambda: made(metadata={"": "key"}), "stream('x') metadata: column name '' cannot be used"),
    "an event time of metadata of another type": (lambda: made(metadata={"p": "partition"}, event_time="p"), "stream('x'): event_time is a BIGINT"),
    "a rest that is no name": (lambda: made(rest=True), "stream('x') rest: column name True cannot be used"),
    # derive, select, where
    "a column derived of an unknown one": (lambda: s.derive(y="vv + 1"), "stream('x').derive(y): 'vv + 1': unknown column 'vv'; did you mean 'v'?"),
    "a column derived of no text": (lambda: s.derive(y=5), "stream('x').derive(y): 5 is not a SQL text"),
    "a derived column of an unusable name": (lambda: s.derive(**{"@y": "v"}), "stream('x').derive: column name '@y' cannot be used"),
    "a derived column of no type": (lambda: s.derive(y="NULL"), "stream('x').derive(y): 'NULL' holds a NULL of no type; write CAST(NULL AS DOUBLE), say"),
    "a selected row with a field of no type": (lambda: s.select(y="STRUCT(k, NULL AS z)"), "stream('x').select(y): 'STRUCT(k, NULL AS z)' holds a NULL of no type"),
    "an aggregate of no type": (lambda: s.window(MINUTE).aggregate(y="ARRAY_AGG(NULL)"), "stream('x').aggregate(y): 'ARRAY_AGG(NULL)' holds a NULL of no type"),
    "a mistake far down the path": (lambda: s.where("v > 1").select("k").derive(y="v"), "stream('x').where.select.derive(y): 'v': unknown column 'v'; there is: k"),
    "an unknown column selected": (lambda: s.select("kk"), "stream('x').select: unknown column 'kk'; did you mean 'k'?"),
    "an expression selected without a name": (lambda: s.select("v * 2"), "stream('x').select: unknown column 'v * 2'; there is: at, k, l, m, r, t, v"),
    "a list selected": (lambda: s.select(["k"]), "stream('x').select: unknown column ['k']; there is: at, k, l, m, r, t, v"),
    "nothing selected": (s.select, "stream('x').select: nothing is selected"),
    "a column selected twice": (lambda: s.select("k", "v", "k"), "stream('x').select: column 'k' is selected twice; give one another name"),
    "a column selected twice by name": (lambda: s.select("k", k="v"), "stream('x').select: column 'k' is selected twice; give one another name"),
    "a condition that is none": (lambda: s.where("v"), "stream('x').where: 'v' is a DOUBLE, not a BOOLEAN"),
    "a condition that is NULL": (lambda: s.where("NULL"), "stream('x').where: 'NULL' is a NULL, not a BOOLEAN"),
    "a condition that is no text": (lambda: s.where(True), "stream('x').where: True is not a SQL text"),
    "an aggregate in a condition": (
        lambda: s.where("MAX(v) > 1"), "stream('x').where: 'MAX(v) > 1': aggregate function MAX stands outside of aggregate(); give the stream a window, then call aggregate()",
    ),
    "an aggregate in a derived column": (lambda: per_k_t.derive(y="SUM(n)"), "stream('x').window.aggregate.derive(y): 'SUM(n)': aggregate function SUM stands outside of aggregate()"),
    # unnest
    "an unknown column unnested": (lambda: s.unnest("mm", key="a", value="b"), "stream('x').unnest: unknown column 'mm'; did you mean 'm'?"),
    "a text unnested": (lambda: s.unnest("k", value="b"), "stream('x').unnest: 'k' is a STRING; only a MAP or an ARRAY can be unnested"),
    "a map unnested without keys": (lambda: s.unnest("m", value="b"), "stream('x').unnest: 'm' is a MAP<STRING, STRING>; a MAP needs key= and value=, an ARRAY value= alone"),
    "an array unnested with keys": (lambda: s.unnest("l", key="a", value="b"), "stream('x').unnest: 'l' is a ARRAY<DOUBLE>; a MAP needs key= and value=, an ARRAY value= alone"),
    "an unnested key that is there": (lambda: s.unnest("m", key="k", value="b"), "stream('x').unnest: column 'k' is there already; give another name"),
    "an unnested key that is the value": (lambda: s.unnest("m", key="a", value="a"), "stream('x').unnest: column 'a' is there already; give another name"),
    "an unnested key without a name": (lambda: s.unnest("m", key="", value="b"), "stream('x').unnest: column name '' cannot be used"),
    # union
    "a union in another order": (
        lambda: s.select("k", "v").union(s.select("v", "k")), "stream('x').select.union: stream('x').select has v DOUBLE, k STRING, not k STRING, v DOUBLE; select the same columns",
    ),
    "a union of other types": (lambda: s.select("k").union(s.select(k="v")), "stream('x').select.union: stream('x').select has k DOUBLE, not k STRING; select the same columns"),
    "a union with fewer columns": (lambda: s.select("k", "v").union(s.select("k")), "stream('x').select.union: stream('x').select has k STRING, not k STRING, v DOUBLE"),
    "a union of windows and records": (lambda: per_k_t.select("k").union(s.select("k")), "stream('x').window.aggregate.select.union: derived rows are joined only with others that come from the same sources, in the order of event time; write them to topics of their own"),
    "a union of revised windows": (lambda: revised.union(revised), "stream('x').window.aggregate.union: allowed_lateness upstream revises the rows of windows, and these must be final; leave allowed_lateness out, or take the rows in a process"),
    "a union of windows grouped further": (lambda: per_k_t.union(per_k_t).aggregate(by=["k"], n="COUNT(*)"), "stream('x').window.aggregate.union.aggregate: the rows are not those of one window; write .window(…) before .aggregate(…)"),
    "the first rows of a union of windows": (lambda: per_k_t.union(per_k_t).top_n(1, order="k"), "stream('x').window.aggregate.union.top_n: the rows are not those of one window; write .window(…).aggregate(…) before .top_n(…)"),
    "a union with no stream": (lambda: s.union("y"), "stream('x').union: 'y' is not a stream"),
    # window
    "a window that is a duration": (lambda: s.window(hr.minutes(1)), "stream('x').window: datetime.timedelta(seconds=60) is not a window; write hr.tumbling(hr.minutes(1))"),
    "a window without event time": (lambda: made().window(MINUTE), "stream('x').window: stream 'x' has no event time; give it event_time="),
    "a window over a union, one part without event time": (
        lambda: made("y", event_time="TO_TIMESTAMP_LTZ(ts, 3)").union(made()).window(MINUTE), "stream('y').union.window: stream 'x' has no event time; give it event_time=",
    ),
    "a window by an unknown column": (lambda: s.window(MINUTE, by=["kk"]), "stream('x').window: unknown column 'kk'; did you mean 'k'?"),
    "a window by a number": (lambda: s.window(MINUTE, by=["v"]), "stream('x').window: 'v' is a DOUBLE; group by text, whole numbers, booleans or timestamps"),
    "a window by a map": (lambda: s.window(MINUTE, by=["m"]), "stream('x').window: 'm' is a MAP<STRING, STRING>; group by text, whole numbers, booleans or timestamps"),
    "a window by its own column": (lambda: s.derive(revision="t").window(MINUTE, by=["revision"]), "stream('x').derive.window: 'revision' is the window's own column; rename it with select()"),
    "a window over revised windows": (lambda: revised.window(MINUTE), "stream('x').window.aggregate.window: allowed_lateness upstream revises the rows of windows, and these must be final; leave allowed_lateness out, or take the rows in a process"),
    "a lateness that is a number": (lambda: s.window(MINUTE, allowed_lateness=5), "stream('x').window: allowed_lateness is 5, not a duration; write hr.seconds(10)"),
    "a negative lateness": (lambda: s.window(MINUTE, allowed_lateness=hr.seconds(-5)), "stream('x').window: allowed_lateness is -1 day, 23:59:55, which is negative"),
    # aggregate
    "an aggregate within another": (lambda: s.window(MINUTE).aggregate(n="SUM(MAX(v))"), "stream('x').aggregate: SUM holds another aggregate"),
    "an aggregate within a filter": (lambda: s.window(MINUTE).aggregate(n="SUM(v) FILTER (WHERE MAX(v) > 1)"), "stream('x').aggregate: SUM holds another aggregate"),
    "a column that is no key": (lambda: s.window(MINUTE, by=["k"]).aggregate(n="MAX(v) + t"), "stream('x').aggregate(n): 't' is neither a key nor inside an aggregate"),
    "a column that is no key in a struct": (lambda: s.window(MINUTE, by=["k"]).aggregate(n="STRUCT(k, t)"), "stream('x').aggregate(n): 't' is neither a key nor inside an aggregate"),
    "an aggregate of an unknown column": (lambda: s.window(MINUTE).aggregate(n="MAX(vv)"), "stream('x').aggregate(n): 'MAX(vv)': unknown column 'vv'; did you mean 'v'?"),
    "an unknown aggregate": (lambda: s.window(MINUTE).aggregate(n="MEDIAM(v)"), "stream('x').aggregate(n): 'MEDIAM(v)': unknown function MEDIAM; did you mean 'MEDIAN'?"),
    "an aggregate named as a key": (lambda: s.window(MINUTE, by=["k"]).aggregate(k="MAX(v)"), "stream('x').aggregate: 'k' is a key or a column of the window; give the aggregate another name"),
    "an aggregate named as the window's end": (lambda: s.window(MINUTE).aggregate(window_end="MAX(v)"), "stream('x').aggregate: 'window_end' is a key or a column of the window"),
    "an aggregate that is no text": (lambda: s.window(MINUTE).aggregate(n=5), "stream('x').aggregate(n): 5 is not a SQL text"),
    "an aggregate of an unusable name": (lambda: s.window(MINUTE).aggregate(**{"@n": "MAX(v)"}), "stream('x').aggregate: column name '@n' cannot be used"),
    "a condition on groups that is no FILTER": (lambda: s.window(MINUTE).aggregate(n="SUM(v) FILTER (WHERE v)"), "'SUM(v) FILTER (WHERE v)': FILTER (WHERE …) takes a BOOLEAN, not a DOUBLE"),
    # aggregate(by=…)
    "grouping without a window": (lambda: s.aggregate(by=["k"], n="COUNT(*)"), "stream('x').aggregate: the stream has no window; write .window(…) before .aggregate(…)"),
    "grouping by an unknown key": (lambda: per_k_t.aggregate(by=["kk"]), "stream('x').window.aggregate.aggregate: unknown column 'kk'; did you mean 'k'?"),
    "grouping by a number": (lambda: per_k_t.aggregate(by=["top"]), "stream('x').window.aggregate.aggregate: 'top' is a DOUBLE; group by text"),
    "grouping a column that is no key": (lambda: per_k_t.aggregate(by=["k"], x="n"), "stream('x').window.aggregate.aggregate(x): 'n' is neither a key nor inside an aggregate"),
    "grouping after the window was selected away": (
        lambda: per_k_t.select("k", "n").aggregate(by=["k"]), "stream('x').window.aggregate.select.aggregate: 'window_start' was selected away; group further before select()",
    ),
    "grouping after the window's start was replaced": (
        lambda: per_k_t.derive(window_start="window_end").aggregate(by=["k"]),
        "stream('x').window.aggregate.derive.aggregate: 'window_start' is no longer the window's own; give the column made of it another name",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("mistake", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_an_error_when_the_pipeline_is_defined(mistake: Callable[[], Any], text: str) -> None:
    with pytest.raises(PlanError, match=re.escape(text)) as caught:
        mistake()
    assert "\n" not in str(caught.value)


def test_the_window_may_be_selected_along_and_grouped_further() -> None:
    kept = per_k_t.select("k", "n", "window_end", "window_start").where("n > 1").derive(late="window_end")
    assert kept.aggregate(by=["k"], n="SUM(n)").schema.names == ("k", "n", "window_start", "window_end", "revision")
