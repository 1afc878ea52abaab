"""From SQL text to meaning: names, types, precedence, settings, and what is refused and how."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.kernels.columnar.compile import compile_expression
from headrace.plan.expression import Call, Cast, Column, Expression, Literal
from headrace.plan.functions import AGGREGATES, FUNCTIONS
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING, TIMESTAMP, Schema, Type, array_of, map_of, row_of
from headrace.plan.sql import parse_expression

COLUMNS = Schema.parse({
    "a": "BIGINT", "d": "DOUBLE", "s": "STRING", "b": "BOOLEAN", "t": "TIMESTAMP_LTZ(3)", "m": "MAP<STRING, DOUBLE>", "l": "ARRAY<BIGINT>",
    "r": "ROW<x BIGINT, y ROW<z STRING>>", "my col": "BIGINT",
})  # fmt: skip
SETTINGS = {"limit": 3, "on": True, "name": "x", "ratio": 0.5, "items": [1], "nan": math.nan, "huge": 2**70, "nothing": None, "@pipeline": "p/1"}


def read(text: str, *, aggregates: bool = False) -> Expression:
    return parse_expression(text, COLUMNS, SETTINGS, where="stream('x').derive(y)", aggregates=aggregates)


def refusal(text: str, *, aggregates: bool = False) -> PlanError:
    with pytest.raises(PlanError) as caught:
        read(text, aggregates=aggregates)
    assert caught.value.where == f"stream('x').derive(y): {' '.join(text.split())!r}", "an error names the place and the text"
    return caught.value


def value(text: str, **columns: int) -> Any:
    """What the text gives for one row of whole numbers."""
    schema = Schema.parse(dict.fromkeys(columns, "BIGINT"))
    frame = pl.DataFrame({"@one": [None], **{name: [number] for name, number in columns.items()}})
    return frame.select(compile_expression(parse_expression(text, schema, SETTINGS))).item()


# names

RESERVED = """
    value values min max count sum avg timestamp date time start end order group select case when then else and or in is like between as from where filter
    distinct interval cast try_cast table user year month day hour minute second key map array row struct union join limit offset all any some exists over
    partition by having window left right full outer inner cross natural on using primary references default set update delete insert create index view
    column if replace trim substring extract position with asc desc unique check constraint int integer bigint string double float real boolean decimal char
    varchar text json div mod xor escape nulls first last rows range unnest lateral except intersect minus qualify top fetch show explain call execute
    describe use current current_date current_timestamp at zone collate begin commit function return for lock pivot sample similar matched session variable
"""  # in Flink or in the parser

FORMS = (
    "{0}", "({0})", "-{0} + 1", "{0} > 1", "1 + {0} * 2", "{0} IS NULL", "{0} IS NOT NULL", "NOT ({0} = 1)", "{0} IN (1, {0})", "{0} BETWEEN {0} AND {0}",
    "CASE WHEN {0} > 1 THEN {0} ELSE {0} END", "CASE {0} WHEN {0} THEN {0} END", "COALESCE({0}, 1)", "COALESCE(other, {0})", "CAST({0} AS STRING)",
    "STRUCT({0})", "STRUCT({0} AS {0})", "ABS({0})",
)  # fmt: skip


def quoted(text: str, word: str) -> str:
    return re.sub(rf"\b{word}\b", f"`{word}`", text)


@pytest.mark.parametrize("word", RESERVED.split("#", maxsplit=1)[0].split())
def test_a_column_of_any_name_may_stand_unquoted(word: str) -> None:
    schema = Schema.parse({word: "BIGINT", "other": "BIGINT"})
    for form in FORMS:
        text = form.format(word)
        if not (word == "not" and text.startswith("not ")):
            assert parse_expression(text, schema) == parse_expression(quoted(text, word), schema), text


@pytest.mark.parametrize("word", ["null", "true", "false", "not"])
def test_a_column_named_as_a_constant_is_meant_only_where_the_text_has_no_other_meaning(word: str) -> None:
    schema = Schema.parse({word: "BIGINT"})
    assert parse_expression("5 / `true`".replace("true", word), schema) == parse_expression(f"5 / `{word}`", schema)
    meant = {
        "null": Literal(None, NULL),
        "true": Literal(value=True, type=BOOLEAN),
        "false": Literal(value=False, type=BOOLEAN),
        "not": Column("not", BIGINT),
    }
    assert parse_expression(word, schema) == meant[word]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="`\x00", exclude_categories=("Cs",)), min_size=1).filter(lambda name: not name.startswith("@")))
@example("+")
def test_a_column_of_any_name_may_stand_in_backticks(name: str) -> None:
    schema = Schema.parse({name: "BIGINT"})
    assert parse_expression(f"`{name}` + 1", schema) == Call("+", (Column(name, BIGINT), Literal(1, BIGINT)), BIGINT)


def test_a_name_in_double_quotes_is_a_column_and_one_in_single_quotes_a_text() -> None:
    assert read('"my col"') == Column("my col", BIGINT)
    assert read("'my col'") == Literal("my col", STRING)
    assert read("'it''s'") == Literal("it's", STRING)


def test_names_with_spaces_want_backticks_and_the_error_says_so() -> None:
    assert refusal("my col").fix == "a name with spaces stands in backticks"


def test_columns_differ_by_case_and_functions_do_not() -> None:
    schema = Schema.parse({"Value": "DOUBLE", "value": "DOUBLE"})
    assert parse_expression("Abs(Value) + abs(value)", schema).arguments == (
        Call("ABS", (Column("Value", DOUBLE),), DOUBLE), Call("ABS", (Column("value", DOUBLE),), DOUBLE),
    )  # fmt: skip
    with pytest.raises(PlanError, match=r"unknown column 'VALUE'; did you mean '[Vv]alue'"):
        parse_expression("VALUE", schema)


def test_a_column_may_have_the_name_of_a_function_that_is_called_beside_it() -> None:
    schema = Schema.parse({"abs": "BIGINT", "max": "BIGINT"})
    assert parse_expression("ABS(abs) + abs", schema).arguments[1] == Column("abs", BIGINT)
    assert parse_expression("MAX(max) - max", schema, aggregates=True).arguments[0] == Call("MAX", (Column("max", BIGINT),), BIGINT, aggregate=True)


# numbers and precedence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 / 2", 2),
        ("-5 / 2", -2),
        ("5 / 2.0", 2.5),
        ("5 / 2 * 2", 4),
        ("7 % 4", 3),
        ("-7 % 4", -3),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("2 - -2", 4),
        ("- - 2", 2),
        ("12 / 3 / 2", 2),
        ("1 + 1 = 2 AND 3 > 2", True),
        ("TRUE OR FALSE AND FALSE", True),
        ("(TRUE OR FALSE) AND FALSE", False),
        ("NOT TRUE OR TRUE", True),
        ("NOT (TRUE OR TRUE)", False),
        ("NOT 1 = 2", True),
        ("NOT NOT TRUE", True),
        ("5 BETWEEN 1 AND 9 AND FALSE", False),
        ("5 NOT BETWEEN 6 AND 9", True),
        ("3 NOT IN (1, 2)", True),
        ("1 IN (1, NULL)", True),
        ("'a' || 'b' = 'ab'", True),
        ("'abc' NOT LIKE 'b%'", True),
        ("NULL IS NULL AND 1 IS NOT NULL", True),
        ("1 <> 2 AND 1 != 2 AND 1 <= 2 AND 2 >= 1", True),
        ("TRUE IS TRUE AND (NULL = 1) IS NOT TRUE AND FALSE IS NOT TRUE AND FALSE IS FALSE", True),
        ("1 IS DISTINCT FROM NULL AND NULL IS NOT DISTINCT FROM NULL", True),
        ("CASE WHEN 1 > 2 THEN 'a' WHEN 2 > 1 THEN 'b' ELSE 'c' END", "b"),
        ("CASE 3 WHEN 1 THEN 'a' WHEN 3 THEN 'b' END", "b"),
        ("CASE WHEN FALSE THEN 1 END", None),
        ("CASE WHEN NULL THEN 1 ELSE 2 END", 2),
        (":limit / 2 + :ratio", 1.5),
        ("5 /* of */ - 2 -- two\n", 3),
        ("STRUCT(1 AS a, 'x' AS b).b", "x"),
    ],
)
def test_an_expression_means_what_it_means_in_flink(text: str, expected: Any) -> None:
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


leaf = st.integers(1, 9).map(str)
arithmetic = st.recursive(leaf, lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(" ".join) | inner.map("({})".format), max_leaves=8)


@settings(deadline=None)
@given(arithmetic)
def test_arithmetic_binds_as_in_any_language(text: str) -> None:
    assert value(text) == eval(text)


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("0", Literal(0, BIGINT)),
        ("007", Literal(7, BIGINT)),
        ("9223372036854775807", Literal(2**63 - 1, BIGINT)),
        ("-9223372036854775808", Literal(-(2**63), BIGINT)),
        ("1.0", Literal(1.0, DOUBLE)),
        (".5", Literal(0.5, DOUBLE)),
        ("1e3", Literal(1000.0, DOUBLE)),
        ("-1E-3", Literal(-0.001, DOUBLE)),
        ("'5'", Literal("5", STRING)),
        ("TRUE", Literal(value=True, type=BOOLEAN)),
        ("NULL", Literal(None, NULL)),
        ("CAST(NULL AS MAP<STRING, DOUBLE>)", Literal(None, map_of(STRING, DOUBLE))),
    ],
)
def test_a_constant_has_the_type_it_is_written_as(text: str, literal: Literal) -> None:
    assert repr(read(text)) == repr(literal)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["1e3", "2E0", "1.5e2", "3e-1", "4e+1", "7", ".5e1", "1e3"]), min_size=2, max_size=6),
    st.lists(st.sampled_from("+-*"), min_size=5),
)
def test_a_number_with_an_exponent_ends_where_the_sum_goes_on(numbers: list[str], signs: list[str]) -> None:
    pairs = list(zip(signs, numbers[1:], strict=False))
    loose = numbers[0] + "".join(f" {sign} {number}" for sign, number in pairs)
    tight = numbers[0] + "".join(sign + number for sign, number in pairs)
    assert read(tight) == read(loose)
    assert read(f"CONCAT('é{tight}', CAST({tight} AS STRING))") == read(f"CONCAT('é{tight}', CAST({loose} AS STRING))")


def test_position_finds_a_text_in_a_text() -> None:
    assert read("POSITION('b' IN s || 'x') + 1") == read("LOCATE('b', s || 'x') + 1")
    assert read("position('b', s)") == read("LOCATE('b', s)")
    assert refusal("POSITION('b', s, 3)").fix == "write POSITION('b' IN x)"


def test_a_number_beyond_its_type_is_refused() -> None:
    assert refusal("9223372036854775808").fix == "write 9223372036854775808.0 for a DOUBLE"
    assert refusal("1e400").what == "1e400 is beyond DOUBLE"


# types


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a + d", DOUBLE),
        ("a / 2", BIGINT),
        ("a > d", BOOLEAN),
        ("COALESCE(NULL, a, d)", DOUBLE),
        ("IF(b, a, NULL)", BIGINT),
        ("CASE WHEN b THEN 1 ELSE 2.5 END", DOUBLE),
        ("s || 'x'", STRING),
        ("m['k']", DOUBLE),
        ("l[1]", BIGINT),
        ("r.x", BIGINT),
        ("r.y.z", STRING),
        ("r.y", row_of({"z": STRING})),
        ("STRUCT(a, d AS e, r.y)", row_of({"a": BIGINT, "e": DOUBLE, "y": row_of({"z": STRING})})),
        ("STRUCT(1 AS `a b`)", row_of({"a b": BIGINT})),
        ("ROW(a)", row_of({"a": BIGINT})),
        ("STRUCT(a + 1 AS x).x", BIGINT),
        ("UUID_V5(s, a)", STRING),
        ("TO_TIMESTAMP_LTZ(a, 3)", TIMESTAMP),
    ],
)
def test_the_type_of_an_expression_follows_from_those_of_its_parts(text: str, kind: Type) -> None:
    assert read(text).type == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("TRY_CAST(s AS DOUBLE)", DOUBLE),
        ("TRY_CAST(s AS BIGINT)", BIGINT),
        ("TRY_CAST(s AS BOOLEAN)", BOOLEAN),
        ("TRY_CAST(s AS TIMESTAMP_LTZ(3))", TIMESTAMP),
        ("CAST(a AS DOUBLE)", DOUBLE),
        ("CAST(a AS STRING)", STRING),
        ("CAST(d AS BIGINT)", BIGINT),
        ("CAST(b AS BIGINT)", BIGINT),
        ("CAST(t AS STRING)", STRING),
    ],
)
def test_a_cast_gives_the_type_it_names(text: str, kind: Type) -> None:
    cast = read(text)
    assert isinstance(cast, Cast)
    assert cast.type == kind


def test_a_cast_to_the_type_a_value_has_is_the_value() -> None:
    assert read("CAST(s AS STRING)") == read("TRY_CAST(s AS STRING)") == Column("s", STRING)


@pytest.mark.parametrize("target", ["DOUBLE", "BIGINT", "BOOLEAN", "TIMESTAMP_LTZ(3)"])
def test_cast_from_text_is_refused_and_try_cast_named_instead(target: str) -> None:
    error = refusal(f"CAST(s AS {target})")
    assert error.what == f"CAST from STRING to {target} would stop the pipeline at the first text that cannot be read"
    assert error.fix == "use TRY_CAST, which gives NULL there"
    assert "CAST from STRING" in refusal(f"CAST('5' AS {target})").what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("CAST(a AS TIMESTAMP_LTZ(3))", "a BIGINT cannot be cast to TIMESTAMP_LTZ(3)"),
        ("CAST(m AS STRING)", "a MAP<STRING, DOUBLE> cannot be cast to STRING"),
        ("TRY_CAST(s AS MAP<STRING, STRING>)", "a STRING cannot be cast to MAP<STRING, STRING>"),
        ("TRY_CAST(s AS DUBLE)", "unknown type DUBLE"),
        ("CAST(a AS INT)", "unknown type INT"),
        ("TRY_CAST(s AS DECIMAL(10, 2))", "unknown type DECIMAL(10,2)"),
        ("TRY_CAST(s AS TIMESTAMP)", "unknown type TIMESTAMP"),
        ("CAST(t AS TIMESTAMP_LTZ(6))", "unknown type TIMESTAMP_LTZ(6)"),
    ],
)
def test_a_cast_that_cannot_be_is_refused(text: str, what: str) -> None:
    assert refusal(text).what == what


# settings


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("limit", Literal(3, BIGINT)),
        ("on", Literal(value=True, type=BOOLEAN)),
        ("name", Literal("x", STRING)),
        ("ratio", Literal(0.5, DOUBLE)),
        ("nothing", Literal(None, NULL)),
    ],
)
def test_a_setting_is_a_constant_of_its_own_type(name: str, literal: Literal) -> None:
    assert repr(read(f":{name}")) == repr(literal)


@pytest.mark.parametrize("name", ["start", "end", "order", "group", "select", "case", "when", "on", "table", "values", "show", "null", "count", "in"])
def test_a_setting_of_any_name_may_be_named(name: str) -> None:
    schema = Schema.parse({"a": "BIGINT", name: "BIGINT"})
    assert parse_expression(f"a > :{name}", schema, {name: 7}).arguments[1] == Literal(7, BIGINT)


def test_a_text_setting_is_never_taken_for_sql() -> None:
    assert parse_expression(":name", COLUMNS, {"name": "'; DROP TABLE x --"}) == Literal("'; DROP TABLE x --", STRING)


def test_an_unknown_setting_is_answered_with_a_near_one() -> None:
    error = refusal("a > :limitt")
    assert (error.what, error.fix) == ("unknown setting :limitt", "did you mean 'limit'?")


def test_what_headrace_keeps_among_the_settings_is_not_shown() -> None:
    assert refusal(":zzz").fix == "there is: huge, items, limit, name, nan, nothing, on, ratio"


@pytest.mark.parametrize(
    ("text", "what"), [(":items", "setting :items is a list"), (":nan", "nan is beyond DOUBLE"), (":huge", "1180591620717411303424 is beyond BIGINT")]
)
def test_a_setting_that_is_no_constant_of_sql_is_refused(text: str, what: str) -> None:
    assert refusal(text).what == what


# near matches and other errors


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("aa + 1", "unknown column 'aa'", "did you mean 'a'?"),
        ("zzz", "unknown column 'zzz'", "there is: a, b, d, l, m, my col, r, s, t"),
        ("abss(a)", "unknown function ABSS", "did you mean 'ABS'?"),
        ("TRYCAST(s)", "unknown function TRYCAST", "did you mean 'TRY_CAST'?"),
        ("r.xx", "unknown field 'xx' of ROW<x BIGINT, y ROW<z STRING>>", "did you mean 'x'?"),
        ("r.y.q", "unknown field 'q' of ROW<z STRING>", "there is: z"),
        ("m.k", "'k' is asked of a MAP<STRING, DOUBLE>, which has no fields", "only a ROW has; of a MAP write m['key']"),
        ("s.x", "'x' is asked of a STRING, which has no fields", "only a ROW has; of a MAP write m['key']"),
        ("s > 1", "> takes (S, S), not (STRING, BIGINT)", "TRY_CAST(… AS DOUBLE) makes a number of a text"),
        ("ABS(s)", "ABS takes (BIGINT) or (DOUBLE), not (STRING)", "TRY_CAST(… AS DOUBLE) makes a number of a text"),
        ("a || s", "CONCAT takes (STRING …), not (BIGINT, STRING)", "CAST(… AS STRING) makes a text"),
        ("t > '2024-01-01'", "> takes (S, S), not (TIMESTAMP_LTZ(3), STRING)", "TO_TIMESTAMP_LTZ(…) makes a timestamp of a text"),
        ("ABS()", "ABS takes (BIGINT) or (DOUBLE), not ()", None),
        ("ABS(a, a)", "ABS takes (BIGINT) or (DOUBLE), not (BIGINT, BIGINT)", None),
        ("l['x']", "ELEMENT takes (MAP<STRING, T>, STRING) or (ARRAY<T>, BIGINT), not (ARRAY<BIGINT>, STRING)", "TRY_CAST(… AS DOUBLE) makes a number of a text"),
        ("a IN ()", "IN takes a list of values", "write x IN (1, 2, 3)"),
        ("a IN (SELECT 1)", "IN takes a list of values", "write x IN (1, 2, 3)"),
        ("STRUCT(a + 1)", "a field of STRUCT needs a name of its own: '\"a\" + 1'", "write STRUCT(a + b AS total)"),
        ("STRUCT(a, a)", "a field of STRUCT needs a name of its own: '\"a\"'", "write STRUCT(a + b AS total)"),
        ("STRUCT(m['k'])", "a field of STRUCT needs a name of its own: '\"m\"[\\'k\\']'", "write STRUCT(a + b AS total)"),
        ("STRUCT()", "STRUCT needs at least one field", None),
        ("s LIKE s", "argument 2 of LIKE must be a constant, and not NULL", None),
        ("a; d", "holds more than one expression", "write one expression, with no ';'"),
        ("", "holds no expression", "write one expression, with no ';'"),
        ("  -- nothing", "holds no expression", "write one expression, with no ';'"),
        ("COALESCE(a,, d)", "lacks an argument beside a comma", None),
        ("COALESCE(a, )", "lacks an argument beside a comma", None),
        ("COALESCE(, a)", "lacks an argument beside a comma", None),
        ("a AS b", "two names stand side by side: a b", "a name with spaces stands in backticks"),
        (". 2.5", "'0.2.5' is not a number", None),
        ("a IS 5", "IS takes NULL, TRUE or FALSE: '\"a\" IS 5'", None),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_was_probably_meant(text: str, what: str, fix: str | None) -> None:
    error = refusal(text)
    assert (error.what, error.fix) == (what, fix)


@pytest.mark.parametrize("text", ["a +", "(a", "a)", "'abc", "`abc", "a b c", "CASE END", "CASE WHEN b THEN 1", "a ! b", "EXTRACT(YEAR FROM t)"])
def test_a_text_that_cannot_be_parsed_is_refused_in_one_line(text: str) -> None:
    error = refusal(text)
    assert error.what.startswith(("cannot be parsed: ", "two names stand"))
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    "text",
    ["SELECT 1", "(SELECT 1)", "a > (SELECT 1)", "EXISTS (SELECT 1)", "INTERVAL '1' DAY", "a & 1", "a ^ 2", "s ILIKE 'x'", "s LIKE 'a!%' ESCAPE '!'",
     "s SIMILAR TO 'x'", "ARRAY[1]", "x -> x", "@x", "a AT TIME ZONE 'UTC'", "*", "a := 1", "DATE '2024-01-01'", "CURRENT_TIMESTAMP", "NOW()"],
)  # fmt: skip
def test_sql_that_headrace_does_not_have_is_refused_not_misread(text: str) -> None:
    assert re.search("is not known here|unknown (column|function|type)|cannot be parsed", refusal(text).what)


def test_an_expression_nested_too_deeply_is_refused() -> None:
    assert "nested" in refusal("(" * 5000 + "a" + ")" * 5000).what


# aggregates


def test_filter_passes_over_the_rows_of_which_it_is_not_true() -> None:
    assert read("SUM(a) FILTER (WHERE b)", aggregates=True) == read("SUM(IF(b, a, NULL))", aggregates=True)
    assert read("COUNT(*) FILTER (WHERE b)", aggregates=True) == read("COUNT(IF(b, 1, NULL))", aggregates=True)
    assert read("MAP_AGG(s, a) FILTER (WHERE b)", aggregates=True) == read("MAP_AGG(IF(b, s, NULL), a)", aggregates=True)


def test_count_takes_a_star_a_column_or_distinct_ones() -> None:
    assert read("COUNT(*)", aggregates=True) == Call("COUNT", (), BIGINT, aggregate=True)
    assert read("COUNT(s)", aggregates=True) == Call("COUNT", (Column("s", STRING),), BIGINT, aggregate=True)
    assert read("COUNT(DISTINCT s)", aggregates=True) == Call("COUNT DISTINCT", (Column("s", STRING),), BIGINT, aggregate=True)


def test_aggregates_may_stand_within_scalars() -> None:
    assert read("SUM(a) / COUNT(*) + 0.5", aggregates=True).type == DOUBLE


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("MEDIAM(d)", "unknown function MEDIAM", "did you mean 'MEDIAN'?"),
        ("SUM(s)", "SUM takes (BIGINT) or (DOUBLE), not (STRING)", "TRY_CAST(… AS DOUBLE) makes a number of a text"),
        ("MAP_AGG(a, s)", "MAP_AGG takes (STRING, T), not (BIGINT, STRING)", "TRY_CAST(… AS DOUBLE) makes a number of a text"),
        ("SUM(DISTINCT a)", "DISTINCT cannot stand in SUM", "only COUNT(DISTINCT x) takes it"),
        ("SUM(a) FILTER (WHERE a)", "FILTER (WHERE …) takes a BOOLEAN, not a BIGINT", None),
        ("ABS(a) FILTER (WHERE b)", "FILTER (WHERE …) follows an aggregate function, and ABS is none", None),
        ("PERCENTILE(d, a)", "argument 2 of PERCENTILE must be a constant, and not NULL", None),
        ("PERCENTILE(d, 2)", "PERCENTILE at 2", "give a number from 0 to 1"),
    ],
)
def test_a_mistake_in_an_aggregate_is_named(text: str, what: str, fix: str | None) -> None:
    error = refusal(text, aggregates=True)
    assert (error.what, error.fix) == (what, fix)


@pytest.mark.parametrize("name", sorted(AGGREGATES))
def test_no_aggregate_may_stand_outside_of_aggregate(name: str) -> None:
    called = name.removesuffix(" DISTINCT")
    error = refusal(f"{called}(d)")
    assert error.what == f"aggregate function {called} stands outside of aggregate()"
    assert error.fix == "give the stream a window, then call aggregate()"


@pytest.mark.parametrize(
    "text", ["SUM(a) OVER ()", "ARRAY_AGG(a ORDER BY a)", "SUM(a) FILTER (WHERE b) FILTER (WHERE b)", "SUM(*)", "(SUM(a)) FILTER (WHERE b)"]
)
def test_an_aggregate_in_a_form_that_headrace_does_not_have_is_refused(text: str) -> None:
    assert refusal(text, aggregates=True)


# never anything but a PlanError

words = st.sampled_from([
    "a", "d", "s", "b", "t", "m", "l", "r", "1", "2.5", "'x'", "NULL", "TRUE", "(", ")", "[", "]", ",", ".", "+", "-", "*", "/", "%", "||", "=", "<", ">=",
    "AND", "OR", "NOT", "IS", "IN", "LIKE", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "END", "CAST", "TRY_CAST", "AS", "DOUBLE", "STRUCT", ":limit", ":",
    "FILTER", "WHERE", "DISTINCT", "FROM", ";", "INTERVAL", "`", "'", *sorted(FUNCTIONS)[::4], *AGGREGATES,
])  # fmt: skip


@settings(deadline=None)
@given(text=st.lists(words, max_size=12).map(" ".join) | st.text(max_size=20), aggregates=st.booleans())
def test_any_text_is_an_expression_or_a_plan_error(text: str, *, aggregates: bool) -> None:
    with suppress(PlanError):
        assert isinstance(read(text, aggregates=aggregates), Expression)


def test_arrays_and_maps_of_types_are_told_apart() -> None:
    assert read("m['k']").arguments[0].type == map_of(STRING, DOUBLE)
    assert read("l[1]").arguments[0].type == array_of(BIGINT)
