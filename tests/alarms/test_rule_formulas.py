"""Formulas of rules: what they say of values that may be unknown, beside SQL's own answers, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest

import headrace as hr
from headrace.alarms.formula import parsed
from headrace.alarms.formula_columns import Columns, is_computable
from headrace.errors import PlanError

START = 1_767_254_400_000


class Values:
    """Parameters by name; a HELD holds as soon as its condition does."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def value(self, name: str) -> Any:
        return self.values.get(name)

    def held(self, _number: int, active: bool | None, _duration_ms: int) -> bool | None:
        return active


def value_of(text: str, **values: Any) -> Any:
    return parsed(text).compute(Values(values))


CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("a > 5", {"a": 5.0}, False),
    ("a ≥ 5 AND a <= 5 AND a = 5", {"a": 5.0}, True),
    ("a ≠ 5 OR a <> 5 OR a != 5", {"a": 5.0}, False),
    ("ABS(a) > 3", {"a": -4.0}, True),
    ("a BETWEEN 1 AND 3 AND b > 0", {"a": 3.0, "b": 1.0}, True),
    ("a NOT BETWEEN 1 AND 3", {"a": 3.5}, True),
    ("ABS(a - base) > 0.1 * base", {"a": 12.0, "base": 10.0}, True),
    ("a IN (1, 2) OR a NOT IN (3)", {"a": 3.0}, False),
    ("a + b * 2 - 3 / 2 = 3.5", {"a": 1.0, "b": 2.0}, True),
    ("-a - - b", {"a": 1.0, "b": 2.0}, 1.0),
    ("NOT NOT a > 1", {"a": 2.0}, True),
    ("IF(run_state = 'RUNNING', a, b) > 1", {"run_state": "RUNNING", "a": 2.0, "b": 0.0}, True),
    ("IF(run_state = 'RUNNING', a, b) > 1", {"a": 2.0, "b": 2.0}, None),
    ('"FIT 101" + `P1.Pv`', {"FIT 101": 1.0, "P1.Pv": 2.0}, 3.0),
    ("a > 1 AND b > 1", {"a": 0.0}, False),
    ("a > 1 OR b > 1", {"a": 2.0}, True),
    ("a > 1 AND b > 1", {"a": 2.0}, None),
    ("NOT b > 1", {}, None),
    ("b IS NULL AND COALESCE(b, a) IS NOT NULL", {"a": 0.0}, True),
    ("a / b", {"a": 1.0, "b": 0.0}, None),
    ("SQRT(a)", {"a": -1.0}, None),
    ("EXP(a)", {"a": 1e6}, None),
    ("LEAST(a, b, 3) + GREATEST(a, b)", {"a": 1.0, "b": 2.0}, 3.0),
    ("LEAST(a, b)", {"a": 1.0}, None),
    ("run_state = 'it''s'", {"run_state": "it's"}, True),
]


@pytest.mark.parametrize(("text", "values", "expected"), CASES, ids=[f"{text} {values}" for text, values, _ in CASES])
def test_a_formula_has_this_value(text: str, values: dict[str, Any], expected: Any) -> None:
    assert value_of(text, **values) == expected


def test_many_values_at_once_are_those_of_one_at_a_time() -> None:
    for text, values, expected in CASES:
        given = {name: pl.Series([value], dtype=pl.String if name == "run_state" else pl.Float64) for name, value in values.items()}
        given |= {name: pl.Series([None], dtype=pl.Float64) for name in ("a", "b") if name not in values}
        given.setdefault("run_state", pl.Series([None], dtype=pl.String))
        assert is_computable(parsed(text).tree) != ("EXP" in text)
        if "EXP" not in text:
            assert Columns(given, 1).compute(parsed(text).tree).to_list() == [expected], text


MISTAKES = [
    ("", "a value is missing before 'the end'"),
    ("a >", "a value is missing before 'the end'"),
    ("a b", "'b' is not expected"),
    ("(a > 1", ") is missing before 'the end'"),
    ("a + 'x'", "+ takes numbers, not a text"),
    ("a AND b > 1", "AND takes a condition, not a number; compare it, as in x > 0"),
    ("a = 'x'", "= takes values of one type, not a number and a text"),
    ("run_state > 'x'", "> takes numbers, not a text"),
    ("ABSS(a)", "unknown function ABSS; did you mean 'ABS'"),
    ("POWER(a)", "POWER takes 2 arguments"),
    ("HELD(a > 1, b)", "HELD takes a condition and a number of seconds; write HELD(temperature > 90, 300)"),
    ("HELD(a > 1, 1e12)", "HELD takes 0 to 31622400 seconds"),
    ("a; DROP", "cannot be read from '; DROP' on"),
    ("__import__('os')", "unknown function __IMPORT__"),
    ("a --b", "'--' begins a comment in SQL"),
    ("'open", "cannot be read from"),
    ("(" * 100 + "a" + ")" * 100, "is nested too deeply"),
    ("+".join(["a"] * 400), "has more than 300 words and signs"),
]


@pytest.mark.parametrize(("text", "what"), MISTAKES, ids=[text[:30] for text, _ in MISTAKES])
def test_a_formula_that_is_wrong_is_refused_with_the_place(text: str, what: str) -> None:
    with pytest.raises(PlanError) as error:
        parsed(text)
    assert what in str(error.value)


def test_the_deepest_and_longest_formulas_can_be_computed() -> None:
    assert value_of("+".join(["a"] * 150), a=1.0) == 150.0
    deep = "a"
    for _ in range(20):
        deep = f"ABS({deep})"
    assert value_of(deep, a=-1.0) == 1.0
    rows = Columns({"a": pl.Series([1.0])}, 1)
    assert [rows.compute(parsed(text).tree).item() for text in ("+".join(["a"] * 150), deep)] == [150.0, 1.0]


def random_number(dice: random.Random, depth: int) -> str:
    if depth == 0 or dice.random() < 0.3:
        return dice.choice(["a", "b", "c", "1.5", "-2.0", "0.0"])
    one, other = random_number(dice, depth - 1), random_number(dice, depth - 1)
    return dice.choice(
        [
            f"({one} {dice.choice('+-*/')} {dice.choice([other, '1.5', '0.0', '-2.0'])})",
            f"{dice.choice(['COALESCE', 'LEAST', 'GREATEST'])}({one}, {other})",
            f"ABS({one})",
            f"(- {other})",
        ]
    )


def random_condition(dice: random.Random, depth: int) -> str:
    one, other, third = (random_number(dice, 2) for _ in range(3))
    if depth == 0 or dice.random() < 0.3:
        sign = dice.choice(["<", "<=", ">", ">=", "=", "<>"])
        return dice.choice(
            [
                f"{one} {sign} {other}",
                f"{one} {dice.choice(['', 'NOT '])}BETWEEN {other} AND {third}",
                f"{one} IN ({other}, {third})",
                f"{one} IS {dice.choice(['', 'NOT '])}NULL",
            ]
        )
    first, second = random_condition(dice, depth - 1), random_condition(dice, depth - 1)
    return dice.choice([f"({first} AND {second})", f"({first} OR {second})", f"(NOT {first})", f"{first} AND {second} OR {first}"])


def check_against_sql(seed: int, count: int) -> None:
    dice = random.Random(seed)
    numbers = [random_number(dice, 3) for _ in range(count)]
    conditions = [random_condition(dice, 2) for _ in range(count)]
    values = [{name: dice.choice([None, 0.0, 1.0, -2.0, 1.5, 7.25]) for name in "abc"} for _ in range(12)]
    schema = {"a": "DOUBLE", "b": "DOUBLE", "c": "DOUBLE", "t": "BIGINT NOT NULL"}

    def build() -> dict[str, hr.Stream]:
        columns = {f"n{nth}": text for nth, text in enumerate(numbers)} | {f"c{nth}": text for nth, text in enumerate(conditions)}
        return {"out": hr.stream("in", schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)").select(**columns)}

    rows = hr.pipeline("formulas", version="1")(build).run({"in": [{**one, "t": START} for one in values]})["out"].rows()
    columns = Columns({name: pl.Series([one[name] for one in values], dtype=pl.Float64) for name in "abc"}, len(values))
    for name, texts in {"n": numbers, "c": conditions}.items():
        for nth, text in enumerate(texts):
            assert columns.compute(parsed(text).tree).to_list() == [row[f"{name}{nth}"] for row in rows], text
    for one, row in zip(values, rows, strict=True):
        mine = {f"n{nth}": value_of(text, **one) for nth, text in enumerate(numbers)}
        mine |= {f"c{nth}": value_of(text, **one) for nth, text in enumerate(conditions)}
        for name, value in row.items():
            text = (numbers if name[0] == "n" else conditions)[int(name[1:])]
            assert mine[name] == value, (text, one)


def test_formulas_have_the_values_of_sql() -> None:
    check_against_sql(1, 60)


@pytest.mark.long
def test_many_formulas_have_the_values_of_sql() -> None:
    for seed in range(2, 40):
        check_against_sql(seed, 150)


def test_a_formula_of_a_million_characters_is_refused_in_a_short_message() -> None:
    for text in ("a" * 1_000_000, "'" * 999_999, "a > " + "1" * 1_000_000, "(" * 9_000):
        with pytest.raises(PlanError, match="more than") as error:
            parsed(text)
        assert len(str(error.value)) < 400
    with pytest.raises(PlanError, match="greater than any DOUBLE"):
        parsed("a > 1e999")
