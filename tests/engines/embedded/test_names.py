"""A column may have any name that it can be declared with: renamed columns give renamed results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import headrace as hr
from conformance.engine import Embedded, Job, left
from headrace.engines.embedded.run import run_files
from headrace.errors import PlanError
from headrace.plan.pipeline import Plan
from headrace.plan.schema import Field, parse_type, row_of

START = 1_704_067_200_000
PLAIN = ["a", "b", "c", "d", "e", "f", "g", "h"]
NASTY = [
    "**", "^", "$", "^a.*", "a.*$", ".*", "(?i)a", "a b", " ", "\n", "\t", "\r\n", "\x01", "'", '"', "`", "``", "\\", "a.b", "a[0]", "é", "😀", "\u202e", "ﬀ", "İ", "{}",
    "value", "key", "group", "order", "rank", "line", "literal", "len", "count", "record", "time", "offset", "window", "values", "index", "owners", "of", "first",
    "key 0", "value 0", "there 0", "call0.sum", "column_0", "null", "true", "select", "from", "case", "end", "none", "1", "-1", "x" * 300, ":x", "--", "/*", ";",
]  # fmt: skip
PATTERNS = ["*", "^.*$", "^a$", "^$", "^(?i)a.*$", "^\n$"]
RECORDS = [
    {"a": "k", "b": START, "c": 1.5, "d": {"p": 1.0, "q": 2.5}, "e": 7, "f": [1, 2]},
    {"a": "l", "b": START + 1, "c": -2.0, "d": {}, "e": None, "f": []},
    {"a": "k", "b": START + 61_000, "c": None, "d": {"p": 3.0}, "e": -1, "f": [3]},
]
names = st.lists(st.one_of(st.sampled_from(NASTY), st.text(min_size=1)), min_size=8, max_size=8, unique=True)


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def plan(named: Sequence[str]) -> Plan:
    """A pipeline with every operator on rows and windows over columns of these names."""
    a, b, c, d, e, f, g, h = named

    def build() -> dict[str, hr.Stream]:
        schema = {a: "STRING NOT NULL", b: "BIGINT", c: "DOUBLE", d: "MAP<STRING, DOUBLE>", e: "BIGINT", f: "ARRAY<BIGINT>"}
        rows = hr.stream("in", schema=schema, event_time=f"TO_TIMESTAMP_LTZ({quoted(b)}, 3)")
        made = rows.derive(**{g: f"{quoted(c)} + {quoted(e)}"}).where(f"{quoted(e)} IS NOT NULL OR {quoted(c)} < 0")
        calls = {c: f"SUM({quoted(c)})", d: f"ARRAY_AGG({quoted(e)})", g: "COUNT(*)", h: f"MAP_AGG({quoted(a)}, {quoted(e)})"}
        windows = made.window(hr.tumbling(hr.minutes(1)), by=[a]).aggregate(**calls)
        return {
            "rows": made.select(a, b, c, d, f, g, **{h: quoted(e)}),
            "maps": made.unnest(d, key=g + "k", value=h).select(a, g + "k", h, b),
            "arrays": made.unnest(f, value=h).select(h, e),
            "windows": windows,
            "second": windows.aggregate(by=[], **{g: f"SUM({quoted(g)})", a: f"ARRAY_AGG({quoted(c)})"}),
            "first": rows.deduplicate([a], within=hr.seconds(5)).select(a, b),
        }

    return hr.pipeline("names", version="1")(build).plan()


def renamed(row: Mapping[str, Any], named: Sequence[str]) -> dict[str, Any]:
    table = dict(zip(PLAIN, named, strict=True)) | {"gk": named[6] + "k"}
    return {table.get(name, name): value for name, value in row.items()}


def outcome(named: Sequence[str]) -> Any:
    lines = [json.dumps(renamed(row, named), ensure_ascii=False).encode() for row in RECORDS]
    (found,) = Embedded().run([Job(plan(named), {"in": [lines]})])
    return found


@settings(deadline=None, max_examples=20)
@given(names)
@example(NASTY[:8])
@example(NASTY[8:16])
@example(NASTY[16:24])
@example(NASTY[24:32])
@example(NASTY[32:40])
@example(NASTY[40:48])
@example(NASTY[48:56])
@example(NASTY[-8:])
def test_columns_of_other_names_give_the_same_under_those_names(named: list[str]) -> None:
    try:
        plan(named)
    except PlanError as error:
        assert re.search("column name|is a pattern|holds a NUL|is there already|window_start|selected twice", str(error)), error
        return
    expected, got = outcome(PLAIN), outcome(named)
    assert got.refused is None
    assert got.written == {topic: [renamed(row, named) for row in rows] for topic, rows in expected.written.items()}
    assert list(got.written["rows"][0]) == list(renamed(expected.written["rows"][0], named))
    assert (got.dead, got.ledger) == (expected.dead, expected.ledger)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_name_that_is_a_pattern_is_refused_wherever_a_name_is_given(name: str) -> None:
    rows = hr.stream("in", schema={"a": "BIGINT", "m": "MAP<STRING, DOUBLE>", "l": "ARRAY<BIGINT>"}, event_time="TO_TIMESTAMP_LTZ(a, 3)")
    ways = [
        lambda: hr.stream("in", schema={name: "BIGINT"}),
        lambda: hr.stream("in", schema={"a": "BIGINT"}, rest=name),
        lambda: hr.stream("in", schema={"a": f"ROW<{quoted(name)} BIGINT>"}),
        lambda: rows.derive(**{name: "a"}),
        lambda: rows.select(**{name: "a"}),
        lambda: rows.derive(x=f"STRUCT(a AS {quoted(name)})"),
        lambda: rows.unnest("m", key=name, value="v"),
        lambda: rows.unnest("l", value=name),
        lambda: rows.window(hr.tumbling(hr.minutes(1)), by=["a"]).aggregate(**{name: "COUNT(*)"}),
        lambda: Field(name, parse_type("BIGINT")),
        lambda: row_of({name: parse_type("BIGINT")}),
    ]
    for way in ways:
        with pytest.raises(PlanError, match=re.escape(f"name {name!r} is a pattern that stands for other columns; rename it")):
            way()


@pytest.mark.parametrize("name", ["\0", "a\0b", "\ud83d"])
def test_a_name_that_holds_no_text_is_refused(name: str) -> None:
    for way in (
        lambda: Field(name, parse_type("BIGINT")),
        lambda: hr.stream("in", schema={name: "BIGINT"}),
        lambda: row_of({name: parse_type("BIGINT")}),
    ):
        with pytest.raises(PlanError, match="holds a NUL or half a character; rename it"):
            way()


@pytest.mark.parametrize("given", ["select", "group", "unnest"])
def test_a_name_that_is_a_pattern_is_no_column(given: str) -> None:
    rows = hr.stream("in", schema={"a": "BIGINT", "m": "MAP<STRING, DOUBLE>"}, event_time="TO_TIMESTAMP_LTZ(a, 3)")
    ways = {
        "select": lambda: rows.select("*"),
        "group": lambda: rows.window(hr.tumbling(hr.minutes(1)), by=["^a$"]),
        "unnest": lambda: rows.unnest("*", key="k", value="v"),
    }
    with pytest.raises(PlanError, match="unknown column"):
        ways[given]()


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
@pytest.mark.parametrize("unnested", [False, True])
def test_an_undeclared_field_may_have_any_name(tmp_path: Path, form: str, *, unnested: bool) -> None:
    others = [*PATTERNS[:5], *(name for name in NASTY if name.isprintable() and name.strip() == name and name), "ab"]
    table = pl.DataFrame({"a": [1, 2], **{name: [f"{number}", f"{number}.5"] for number, name in enumerate(others)}})
    path = tmp_path / f"in.{form}"
    {"ndjson": table.write_ndjson, "csv": table.write_csv, "parquet": table.write_parquet}[form](path)

    def build() -> dict[str, hr.Stream]:
        rows = hr.stream("in", schema={"a": "BIGINT"}, rest="others")
        return {"out": rows.unnest("others", key="k", value="v") if unnested else rows}

    run_files(hr.pipeline("names", version="1")(build).plan(), {"in": [path]}, tmp_path / "out")
    written = left(tmp_path / "out", ["in"]).written["out"]
    expected = [{name: f"{number}{half}" for number, name in enumerate(others)} for half in ("", ".5")]
    if unnested:
        written = [{"a": a, "others": {row["k"]: row["v"] for row in written if row["a"] == a}} for a in (1, 2)]
    assert written == [{"a": a, "others": row} for a, row in zip((1, 2), expected, strict=True)]
