"""Every function's own cases, run each way that the embedded engine runs it, and what the table as a whole promises."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import combinations
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.reading.rules import read_text
from headrace.kernels.reading.text import polars_type, read_column
from headrace.plan.expression import Call, Column, Expression, Literal, rebuild
from headrace.plan.functions import AGGREGATES, FUNCTIONS, Aggregate, Function, Signature, sql_call
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING, TIMESTAMP, Field, Schema, Type, array_of, map_of
from headrace.plan.sql import parse_expression

EMPTY = Schema(())
SCALAR_CASES = [pytest.param(*case, id=case[0]) for function in FUNCTIONS.values() for case in function.cases]
AGGREGATE_CASES = [
    pytest.param(*case, id=f"{case[0]} of {case[1]}".encode("ascii", "backslashreplace").decode())
    for function in AGGREGATES.values()
    for case in function.cases
]


def same(got: Any, expected: Any) -> bool:
    """Return whether two values agree in type too, doubles to 12 digits."""
    if isinstance(got, float) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=1e-12)
    if isinstance(got, dict) and isinstance(expected, dict):
        return list(got) == list(expected) and all(same(got[key], expected[key]) for key in got)
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    return type(got) is type(expected) and got == expected


def movable(expression: Expression) -> Iterator[Literal]:
    """Yield the literals that a column could stand for."""
    match expression:
        case Literal():
            yield expression
        case Call(function=name, arguments=arguments):
            for position, argument in enumerate(arguments):
                if position not in FUNCTIONS[name].literal:
                    yield from movable(argument)
        case _ if hasattr(expression, "argument"):
            yield from movable(expression.argument)


def with_columns(expression: Expression, moved: Sequence[Literal]) -> tuple[Expression, pl.DataFrame]:
    """Return the expression with columns put for the literals `moved`, and a frame with them in the first and last of three rows."""
    names = {id(literal): f"c{number}" for number, literal in enumerate(moved)}

    def move(node: Expression) -> Expression:
        return Column(names[id(node)], node.type) if id(node) in names else rebuild(node, move)

    columns = [pl.Series(names[id(one)], [one.value, None, one.value], dtype=polars_type(one.type)) for one in moved]
    return move(expression), pl.DataFrame([pl.Series("row", [0, 1, 2]), *columns])


@pytest.mark.parametrize(("text", "expected"), SCALAR_CASES)
def test_a_function_gives_what_its_case_says_of_constants(text: str, expected: Any) -> None:
    expression = parse_expression(text, EMPTY)
    frame = pl.DataFrame({"row": [0, 1, 2]}).with_columns(value=compile_expression(expression))
    assert frame.schema["value"] == polars_type(expression.type)
    assert all(same(value, expected) for value in frame["value"].to_list()), frame


@pytest.mark.parametrize(("text", "expected"), SCALAR_CASES)
def test_a_function_gives_the_same_of_columns_each_alone_and_together(text: str, expected: Any) -> None:
    constants = parse_expression(text, EMPTY)
    literals = list({id(one): one for one in movable(constants)}.values())
    for moved in ([one] for one in literals) if len(literals) < 2 else [*([one] for one in literals), literals]:
        expression, frame = with_columns(constants, moved)
        compiled = compile_expression(expression)
        first, _, last = frame.with_columns(value=compiled)["value"].to_list()
        (alone,) = frame.tail(1).with_columns(value=compiled)["value"].to_list()
        assert same(first, expected), (moved, first)
        assert same(last, expected), (moved, last)
        assert same(alone, expected), (moved, alone)
        assert frame.clear().with_columns(value=compiled).schema["value"] == polars_type(expression.type)
        grouped = frame.group_by(pl.col("row") % 2, maintain_order=True).agg(value=compiled.last())
        assert same(grouped["value"].to_list()[0], expected), (moved, grouped)


def shapes() -> dict[Expression, list[tuple[list[Literal], Any]]]:
    """Return the cases by what is left of them when columns stand for the constants."""
    found: dict[Expression, list[tuple[list[Literal], Any]]] = {}
    for function in FUNCTIONS.values():
        for text, expected in function.cases:
            constants = parse_expression(text, EMPTY)
            literals = list({id(one): one for one in movable(constants)}.values())
            found.setdefault(with_columns(constants, literals)[0], []).append((literals, expected))
    return found


def test_the_cases_of_one_shape_give_the_same_as_rows_of_one_frame() -> None:
    for expression, cases in shapes().items():
        kinds = [polars_type(literal.type) for literal in cases[0][0]]
        columns = [pl.Series(f"c{n}", [literals[n].value for literals, _ in cases], dtype=kind) for n, kind in enumerate(kinds)]
        frame = pl.DataFrame([pl.Series("row", range(len(cases))), *columns])
        values = frame.with_columns(value=compile_expression(expression))["value"].to_list()
        for value, (literals, expected) in zip(values, cases, strict=True):
            assert same(value, expected), (expression, literals)


def columns_xy(rows: Sequence[Any]) -> tuple[Schema, pl.DataFrame]:
    """Return the rows as columns x and y, of the type of what is in them."""
    pairs = [row if isinstance(row, tuple) else (row, None) for row in rows]
    kinds = {bool: BOOLEAN, int: BIGINT, float: DOUBLE, str: STRING, datetime: TIMESTAMP}
    fields, columns = [], []
    for name, values in zip("xy", zip(*pairs, strict=True), strict=True):
        kind = next((kinds[type(value)] for value in values if value is not None), BIGINT)
        fields.append(Field(name, kind))
        columns.append(pl.Series(name, values, dtype=polars_type(kind)))
    return Schema(tuple(fields)), pl.DataFrame([pl.Series("g", [0] * len(rows)), *columns])


def aggregated(expression: Expression, slices: Sequence[pl.DataFrame]) -> Any:
    """Return what an aggregate call, or a function of one, gives: each slice folded, the states merged where there are several."""
    if not (isinstance(expression, Call) and expression.aggregate):
        assert isinstance(expression, Call)
        (inner,) = expression.arguments
        return compile_scalar(expression, aggregated(inner, slices), inner.type)
    function = AGGREGATES[expression.function]
    states = [frame.group_by("g", maintain_order=True).agg(**folded(function, expression)) for frame in slices]
    merged = states[0]
    if len(states) > 1:
        columns = {name: pl.col(name) for name in merged.columns if name != "g"}
        merged = pl.concat(states).group_by("g", maintain_order=True).agg(**function.merge(columns))
        assert merged.schema == states[0].schema, "a merged state can be merged again"
    result = merged.select(value=function.result({name: pl.col(name) for name in merged.columns}))
    assert result.schema["value"] == polars_type(expression.type)
    return result["value"].to_list()[0]


def compile_scalar(expression: Call, value: Any, kind: Type) -> Any:
    frame = pl.DataFrame([pl.Series("value", [value], dtype=polars_type(kind))])
    column = Column("value", kind)
    return frame.select(compile_expression(rebuild(expression, lambda _: column))).item()


def folded(function: Aggregate, call: Call) -> dict[str, pl.Expr]:
    return dict(function.fold(*map(compile_expression, call.arguments)))


@pytest.mark.parametrize(("text", "rows", "expected"), AGGREGATE_CASES)
def test_an_aggregate_gives_what_its_case_says(text: str, rows: Sequence[Any], expected: Any) -> None:
    schema, frame = columns_xy(rows)
    expression = parse_expression(text, schema, aggregates=True)
    assert same(aggregated(expression, [frame]), expected)


@pytest.mark.parametrize(("text", "rows", "expected"), AGGREGATE_CASES)
def test_an_aggregate_of_slices_merged_gives_the_same(text: str, rows: Sequence[Any], expected: Any) -> None:
    schema, frame = columns_xy(rows)
    expression = parse_expression(text, schema, aggregates=True)
    inner = range(1, len(rows))
    for cuts in [*combinations(inner, 1), *combinations(inner, 2)]:
        slices = [frame[start:end] for start, end in zip((0, *cuts), (*cuts, len(rows)), strict=True)]
        assert same(aggregated(expression, slices), expected), cuts


@pytest.mark.parametrize(("text", "rows", "expected"), AGGREGATE_CASES)
def test_an_aggregate_folds_without_a_key_too(text: str, rows: Sequence[Any], expected: Any) -> None:
    schema, frame = columns_xy(rows)
    expression = parse_expression(text, schema, aggregates=True)
    if isinstance(expression, Call) and expression.aggregate:
        function = AGGREGATES[expression.function]
        states = frame.select(**folded(function, expression))
        assert states.height == 1
        assert same(states.select(value=function.result({name: pl.col(name) for name in states.columns}))["value"].to_list()[0], expected)


@pytest.mark.parametrize("function", AGGREGATES.values(), ids=lambda function: function.name)
def test_a_state_merged_with_one_of_nulls_alone_is_as_before(function: Aggregate) -> None:
    text, rows, expected = function.cases[0]
    schema, frame = columns_xy(rows)
    nulls = pl.DataFrame({"g": [0], "x": [None], "y": [None]}, schema=frame.schema)
    if text == "COUNT(*)":
        expected += 2
    assert same(aggregated(parse_expression(text, schema, aggregates=True), [nulls, frame, nulls]), expected)


def test_groups_do_not_mix() -> None:
    frame = pl.DataFrame({"g": [1, 2, 1, 2], "x": ["b", "k", "a", "k"], "y": [1, 2, 3, 4]})
    call = parse_expression("MAP_AGG(x, y)", Schema((Field("x", STRING), Field("y", BIGINT))), aggregates=True)
    assert isinstance(call, Call)
    function = AGGREGATES["MAP_AGG"]
    states = frame.group_by("g", maintain_order=True).agg(**folded(function, call))
    assert states.select(function.result({"entries": pl.col("entries")})).to_series().to_list() == [{"a": 3, "b": 1}, {"k": 4}]


# The table as a whole


def test_the_table_is_of_some_size() -> None:
    assert len(FUNCTIONS) >= 25
    assert len(AGGREGATES) >= 10
    assert not set(FUNCTIONS) & set(AGGREGATES)


@pytest.mark.parametrize("function", [*FUNCTIONS.values(), *AGGREGATES.values()], ids=lambda function: function.name)
def test_a_function_says_what_it_is_in_one_sentence_and_shows_it(function: Function | Aggregate) -> None:
    assert re.fullmatch(r"[A-Z][^\n]*[^.\s]\.", function.summary), function.summary
    assert ". " not in function.summary, function.summary
    assert function.nulls
    assert not function.nulls.endswith(".")
    assert len(function.cases) >= 3
    assert any("NULL" in str(case[0]) or None in case[1] or "NULL" in str(case[1]) for case in map(tuplified, function.cases))
    for template, gaps in ((function.flink, function.flink_gaps), (function.spark, function.spark_gaps)):
        assert set(gaps) <= {case[0] for case in function.cases}
        assert not isinstance(template, tuple) or len(template) == len(function.signatures)


def tuplified(case: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Return a case's text and what is in its rows."""
    if len(case) == 2:
        return case[0], ()
    return case[0], tuple(value for row in case[1] for value in (row if isinstance(row, tuple) else (row,)))


def test_a_long_chain_costs_no_more_than_its_length() -> None:
    chain = " + ".join(["x"] * 40) + " / ROUND(x" * 20 + ", 2)" * 20
    compiled = compile_expression(parse_expression(chain, Schema((Field("x", DOUBLE),))))
    assert pl.DataFrame({"x": [1.0]}).select(compiled).item() == 40.0


@pytest.mark.parametrize(
    "text", ["2.0 = COALESCE(0.0, x)", "2.0 = IFNULL(2.0, x)", "2.0 = COALESCE(NULL, ABS(2.0), x)", "2.0 IN (1.0, COALESCE(2.0, x))"]
)
def test_a_constant_compared_with_the_first_of_a_constant_and_a_column_is_a_column(text: str) -> None:
    compiled = compile_expression(parse_expression(text, Schema((Field("x", DOUBLE),))))
    found = pl.DataFrame({"x": [1.0, None, 3.0]}).select("x", y=compiled)["y"].to_list()
    assert found == ["2.0, x" in text or "ABS" in text] * 3


def test_a_quotient_is_the_nearest_double_in_batches_of_any_size() -> None:
    compiled = compile_expression(parse_expression("x / 5.0", Schema((Field("x", DOUBLE),))))
    for size in (1, 2, 100):
        assert pl.DataFrame({"x": [7.0] * size}).select(compiled).to_series().to_list() == [1.4] * size


# What is refused when the pipeline is defined


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 = 'a'", "= takes"),
        ("STR_TO_MAP('a=1') = STR_TO_MAP('a=1')", "= takes"),
        ("5.5 % 2", "% takes (BIGINT, BIGINT)"),
        ("'a' LIKE UPPER('a')", "argument 2 of LIKE must be a constant"),
        ("'a' LIKE NULL", "argument 2 of LIKE must be a constant, and not NULL"),
        ("ROUND(1.5, 99)", "99 decimals"),
        ("REPLACE('a', '', 'b')", "the text to look for is empty"),
        ("REPEAT('a', 1000000000)", "1000000000 characters or times"),
        ("LPAD('a', -1, 'b')", "-1 characters or times"),
        ("LPAD('a', 3, '')", "the text to pad with is empty"),
        ("REGEXP('a', '')", "the pattern is empty"),
        ("REGEXP('a', '(')", "pattern '(' at 1: a ( is never closed"),
        ("REGEXP('a', '(?<=b)a')", "a lookbehind, which not every engine has"),
        ("REGEXP('a', '(?:a{1000}){1000}')", "cannot be used"),
        ("REGEXP_REPLACE('a', 'x*', '')", "also matches an empty text"),
        ("REGEXP_EXTRACT('a', 'a', -1)", "group -1"),
        ("TO_TIMESTAMP_LTZ(1, 6)", "give 0 for seconds or 3 for milliseconds"),
        ("TO_TIMESTAMP_LTZ('1', 'yyyy-DDD')", "'DDD' in pattern 'yyyy-DDD' is not known here"),
        ("TO_TIMESTAMP_LTZ('1', 'HH:mm HH')", "names the same part twice"),
        ("DATE_FORMAT(NULL, 'yyyy''T')", "goes wrong at"),
        ("DATE_FORMAT(NULL, 'h a')", "'h' in pattern"),
        ("UUID_V5('a', 1.5)", "UUID_V5 takes"),
        ("SPLIT('a', ',')['a']", "ELEMENT takes"),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused_when_it_is_read(text: str, complaint: str) -> None:
    with pytest.raises(PlanError, match=re.escape(complaint)):
        parse_expression(text, EMPTY)


def test_a_percentile_beyond_one_is_refused() -> None:
    with pytest.raises(PlanError, match="from 0 to 1"):
        parse_expression("PERCENTILE(x, 50)", Schema((Field("x", DOUBLE),)), aggregates=True)


# Signatures


@pytest.mark.parametrize(
    ("signature", "takes", "expected"),
    [
        ("T, T -> BOOLEAN", (BIGINT, DOUBLE), ((DOUBLE, DOUBLE), BOOLEAN)),
        ("T, T -> BOOLEAN", (NULL, BIGINT), ((BIGINT, BIGINT), BOOLEAN)),
        ("T, T -> T", (NULL, NULL), ((NULL, NULL), NULL)),
        ("T, T -> T", (STRING, BIGINT), None),
        ("T, T… -> T", (BIGINT,), None),
        ("T… -> T", (NULL, BIGINT, DOUBLE), ((DOUBLE, DOUBLE, DOUBLE), DOUBLE)),
        ("S, S -> BOOLEAN", (TIMESTAMP, TIMESTAMP), ((TIMESTAMP, TIMESTAMP), BOOLEAN)),
        ("S, S -> BOOLEAN", (array_of(BIGINT), array_of(BIGINT)), None),
        ("T -> BOOLEAN", (array_of(BIGINT),), ((array_of(BIGINT),), BOOLEAN)),
        ("MAP<STRING, T>, STRING -> T", (map_of(STRING, DOUBLE), STRING), ((map_of(STRING, DOUBLE), STRING), DOUBLE)),
        ("MAP<STRING, T>, STRING -> T", (array_of(DOUBLE), STRING), None),
        ("STRING, T -> MAP<STRING, T>", (STRING, BIGINT), ((STRING, BIGINT), map_of(STRING, BIGINT))),
        ("ARRAY<BIGINT> -> BIGINT", (array_of(BIGINT),), ((array_of(BIGINT),), BIGINT)),
        ("ARRAY<BIGINT> -> BIGINT", (array_of(STRING),), None),
        ("STRING, TEXT… -> STRING", (STRING, BIGINT, STRING), ((STRING, STRING, STRING), STRING)),
        ("STRING, TEXT… -> STRING", (STRING, DOUBLE), None),
        ("DOUBLE -> DOUBLE", (BIGINT,), ((DOUBLE,), DOUBLE)),
        ("-> BIGINT", (), ((), BIGINT)),
        ("-> BIGINT", (BIGINT,), None),
    ],
)
def test_a_signature_matches_what_can_be_read_as_what_it_takes(signature: str, takes: tuple[Type, ...], expected: object) -> None:
    assert Signature.parse(signature).match(takes) == expected


def test_an_expression_that_is_always_null_fits_any_argument() -> None:
    expression = parse_expression("COALESCE(NULL, NULL) = 1", EMPTY)
    assert pl.select(compile_expression(expression)).item() is None


def test_filter_leaves_the_constants_of_an_aggregate_alone() -> None:
    schema, frame = columns_xy((1, 2, 3, 50))
    assert aggregated(parse_expression("PERCENTILE(x, 0.5) FILTER (WHERE x < 10)", schema, aggregates=True), [frame]) == 2.0


def test_a_uuid_carries_the_name_and_version_of_the_pipeline() -> None:
    first, second = (parse_expression("UUID_V5('a', 1)", EMPTY, {"@pipeline": f"fingerprint/{version}"}) for version in (1, 2))
    assert pl.select(compile_expression(first)).item() == "718c76ca-03f4-5b4f-a914-1148606485a4"
    assert pl.select(compile_expression(second)).item() != pl.select(compile_expression(first)).item()


# Flink SQL


@pytest.mark.parametrize(
    ("name", "arguments", "types", "expected"),
    [
        ("UPPER", ["`a`"], [STRING], "UPPER(`a`)"),
        ("IN", ["`a`", "1", "2"], [BIGINT] * 3, "(`a` IN (1, 2))"),
        ("+", ["{1}", "2"], [BIGINT] * 2, "({1} + 2)"),
        ("REGEXP", ["`a`", "'[0-9]{1}'"], [STRING] * 2, "REGEXP(`a`, '[0-9]{1}')"),
        ("COALESCE", ["`a`", "`b`", "0"], [BIGINT] * 3, "COALESCE(`a`, `b`, 0)"),
        ("ELEMENT", ["`m`", "'k'"], [map_of(STRING, DOUBLE), STRING], "`m`['k']"),
        ("ELEMENT", ["`a`", "1"], [array_of(DOUBLE), BIGINT], "`a`[CASE WHEN 1 BETWEEN 1 AND 2147483647 THEN CAST(1 AS INT) END]"),
        ("COUNT", [], [], "COUNT(*)"),
        ("COUNT", ["`x`"], [DOUBLE], "COUNT(`x`)"),
        ("MEDIAN", ["`x`"], [DOUBLE], "PERCENTILE(`x`, 0.5)"),
    ],
)
def test_flink_is_told_a_call_in_its_own_words(name: str, arguments: list[str], types: list[Type], expected: str) -> None:
    assert sql_call((FUNCTIONS | AGGREGATES)[name], "flink", arguments, types) == expected


def test_what_flink_sql_lacks_is_refused() -> None:
    with pytest.raises(PlanError, match="Flink SQL has no MAP_AGG"):
        sql_call(AGGREGATES["MAP_AGG"], "flink", ["`k`", "`v`"], [STRING, BIGINT])


# Reading columns of text

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
    st.from_regex(r"[ \t\x0b]{0,2}[+-]{0,2}[0-9]{0,20}[._,]?[0-9]{0,5}([eE][+-]?[0-9]{0,4})?[ \n\xa0dfL]{0,2}", fullmatch=True),
    st.from_regex(r"[+-]?(inf|Infinity|nan|0x[0-9a-f]+|[٠-٩]+|[０-９]+|1_0)", fullmatch=True),
    st.text(max_size=5),
)


@pytest.mark.parametrize("kind", [DOUBLE, BIGINT], ids=str)
@given(texts=st.lists(st.one_of(st.none(), NUMBERS), max_size=8))
@example(texts=[" 5 ", "5.0", "5e0", "1e400", "inf", "NaN", "٣", "9223372036854775808", "9223372036854775807.0", "-0", "1e-400", None, ""])
def test_a_column_of_text_is_read_as_each_text_alone(kind: Type, texts: list[str | None]) -> None:
    read = read_column(pl.Series(texts, dtype=pl.String), kind)
    assert read.dtype == polars_type(kind)
    assert [repr(value) for value in read.to_list()] == [repr(None if text is None else read_text(text, kind)) for text in texts]
