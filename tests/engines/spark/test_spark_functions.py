"""Every case of the function table asked of a real Spark: of constants, of columns, and of rows aggregated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.engines.spark.expression import sql
from headrace.engines.spark.prelude import definitions
from headrace.engines.spark.words import name, type_name
from headrace.plan.expression import Call, Column, Expression, Literal, rebuild
from headrace.plan.functions import AGGREGATES, FUNCTIONS
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Field, Schema, Type
from headrace.plan.sql import parse_expression
from spark import ask, missing

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AT_ONCE = 40
KINDS = {bool: BOOLEAN, int: BIGINT, float: DOUBLE, str: STRING}


def same(got: Any, expected: Any) -> bool:
    """Return whether two values agree in type too, doubles to 12 digits, times as ms."""
    if isinstance(expected, datetime):
        expected = (expected - EPOCH) // timedelta(milliseconds=1)
    if isinstance(got, float) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=1e-12)
    if isinstance(got, list) and isinstance(expected, dict):
        got = {entry["key"]: entry["value"] for entry in got}
    if isinstance(got, dict) and isinstance(expected, dict):
        return list(got) == list(expected) and all(same(got[key], expected[key]) for key in got)
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    return type(got) is type(expected) and got == expected


def asked(made: str, kind: Type) -> str:
    """Return the SQL of a value in a form that comes through to here: a time in ms, a map as its entries in their order."""
    return f"UNIX_MILLIS({made})" if kind == TIMESTAMP else f"MAP_ENTRIES({made})" if kind.kind == "MAP" else made


def movable(expression: Expression) -> Iterator[Literal]:
    """Yield the literals that a column could stand for."""
    match expression:
        case Literal():
            yield expression
        case Call(function=called, arguments=arguments):
            for position, argument in enumerate(arguments):
                if position not in FUNCTIONS[called].literal:
                    yield from movable(argument)
        case _ if hasattr(expression, "argument"):
            yield from movable(expression.argument)


def chunks(columns: list[str], relation: str) -> list[tuple[list[str], str]]:
    return [(columns[start : start + AT_ONCE], relation) for start in range(0, len(columns), AT_ONCE)]


def table_xy(rows: Sequence[Any]) -> tuple[Schema, tuple[str, list[list[Any]]]]:
    """Return the rows as columns x and y, with their place."""
    pairs = [row if isinstance(row, tuple) else (row, None) for row in rows]
    kinds = [next((KINDS[type(value)] for value in values if value is not None), BIGINT) for values in zip(*pairs, strict=True)]
    schema = Schema(tuple(Field(one, kind) for one, kind in zip("xy", kinds, strict=True)))
    # In two batches and out of order, as rows come out of a shuffle.
    placed = [[place, *pair] for place, pair in enumerate(pairs)]
    return schema, (f"place BIGINT, x {type_name(kinds[0])}, y {type_name(kinds[1])}", [*placed[1::2], *placed[::2]])


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what Spark answers, by case."""
    if (why := missing()) is not None:
        pytest.skip(why)
    constants, columns, names = [], [], []
    fields: list[str] = []
    values: list[Any] = []
    for function in FUNCTIONS.values():
        for text, _ in function.cases:
            expression = parse_expression(text, Schema(()))
            moved = {id(one): f"c{len(values) + place}" for place, one in enumerate({id(one): one for one in movable(expression)}.values())}

            def move(node: Expression, moved: dict[int, str] = moved) -> Expression:
                return Column(moved[id(node)], node.type) if id(node) in moved else rebuild(node, move)

            for one in {id(one): one for one in movable(expression)}.values():
                fields.append(f"c{len(values)} {type_name(one.type)}")
                values.append(one.value)
            names.append(text)
            constants.append(asked(sql(expression, {}), expression.type))
            columns.append(asked(sql(move(expression), {one: name(one) for one in moved.values()}), expression.type))
    tables = {"row": (", ".join(fields), [values])}
    aggregates: dict[str, tuple[str, str]] = {}
    for function in AGGREGATES.values():
        for text, rows, _ in function.cases:
            schema, table = table_xy(rows)
            relation = f"rows{len(aggregates)}"
            tables[relation] = table
            expression = parse_expression(text, schema, aggregates=True)
            row = {column: name(column) for column in schema.names}
            aggregates[f"{text} of {rows}"] = asked(sql_of(expression, row), expression.type), f"FROM {relation}"
    queries = [*chunks(constants, ""), *chunks(columns, "FROM row"), *(([one], relation) for one, relation in aggregates.values())]
    statements = definitions([*constants, *columns, *(one for one, _ in aggregates.values())])
    told = [answer for answers in ask(tmp_path_factory.mktemp("spark"), queries, statements, tables) for answer in answers]
    labels = [*(f"constant {one}" for one in names), *(f"column {one}" for one in names), *aggregates]
    return dict(zip(labels, told, strict=True))


def sql_of(expression: Expression, row: dict[str, str]) -> str:
    """Return an aggregate, or a function of one. Rows come in the order of their place."""
    calls: dict[str, str] = {}

    def hide(node: Expression) -> Expression:
        if isinstance(node, Call) and node.aggregate:
            calls[f"@{len(calls)}"] = sql(node, row, "`place`")
            return Column(f"@{len(calls) - 1}", node.type)
        return rebuild(node, hide)

    return sql(hide(expression), calls)


SCALAR = [pytest.param(f, *case, id=case[0]) for f in FUNCTIONS.values() for case in f.cases]
AGGREGATE = [
    pytest.param(f, *case, id=f"{case[0]} of {case[1]}".encode("ascii", "backslashreplace").decode()) for f in AGGREGATES.values() for case in f.cases
]


@pytest.mark.parametrize("way", ["constant", "column"])
@pytest.mark.parametrize(("function", "text", "expected"), SCALAR)
def test_spark_answers_as_the_table_says(answers: dict[str, Any], way: str, function: Any, text: str, expected: Any) -> None:
    got = answers[f"{way} {text}"]
    assert same(got, expected) == (text not in function.spark_gaps), got


@pytest.mark.parametrize(("function", "text", "rows", "expected"), AGGREGATE)
def test_spark_aggregates_as_the_table_says(answers: dict[str, Any], function: Any, text: str, rows: Any, expected: Any) -> None:
    got = answers[f"{text} of {rows}"]
    assert same(got, expected) == (text not in function.spark_gaps), got
