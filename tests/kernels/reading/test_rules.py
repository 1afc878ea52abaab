"""The contract of reading values, case by case: what each JSON value and each text is worth as each type."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kernels.reading.record import Malformed, read_record, read_texts
from headrace.kernels.reading.rules import UNREADABLE, bigint_of, double_of, read_text, read_value
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, TIMESTAMP, Schema, parse_type

BAD = "UNREADABLE"
MOST, LEAST = 2**63 - 1, -(2**63)
ARABIC_FIVE, FULLWIDTH_FIVE = "\u0665", "\uff15"
NO_BREAK_SPACE = "\u00a0"


def read(json: str, kind: str) -> Any:
    """Return the JSON text `json` read as the type `kind`, as a field of a record; BAD where the record is malformed for it."""
    row = read_record(f'{{"field": {json}}}', Schema.parse({"field": kind}))
    if isinstance(row, Malformed):
        assert row.detail.startswith(f"field 'field' is not a {parse_type(kind).kind}: "), row.detail
        return BAD
    return row["field"]


def same(got: Any, expected: Any) -> bool:
    """Return whether two values are equal, of one type, and print alike (so -0.0 is not 0.0)."""
    return type(got) is type(expected) and got == expected and repr(got) == repr(expected)


TEXTS = {
    "5": (5.0, 5),
    "+5": (5.0, 5),
    "-5": (-5.0, -5),
    "5.": (5.0, 5),
    "5.0": (5.0, 5),
    "5.000": (5.0, 5),
    ".5": (0.5, None),
    "-.5": (-0.5, None),
    "+.5e1": (5.0, 5),
    "007": (7.0, 7),
    "1e3": (1000.0, 1000),
    "1E+3": (1000.0, 1000),
    "5e-1": (0.5, None),
    "1500e-2": (15.0, 15),
    "0e5": (0.0, 0),
    "-0": (-0.0, 0),
    "0.1": (0.1, None),
    " 7 ": (7.0, 7),
    "\t\r\n\v\f 7 \t\r\n\v\f": (7.0, 7),
    "9007199254740993": (9007199254740992.0, 9007199254740993),
    "9007199254740993.0": (9007199254740992.0, 9007199254740993),
    "900719925474099300e-2": (9007199254740992.0, 9007199254740993),
    "9223372036854775807": (2.0**63, MOST),
    "9223372036854775807.00": (2.0**63, MOST),
    "9223372036854775808": (2.0**63, None),
    "-9223372036854775808": (-(2.0**63), LEAST),
    "-9223372036854775809": (-(2.0**63), None),
    "9223372036854775807.5": (2.0**63, None),
    "92233720368547758070e-1": (2.0**63, MOST),
    "1e18": (1e18, 10**18),
    "1e19": (1e19, None),
    "1e308": (1e308, None),
    "1.7976931348623157e308": (1.7976931348623157e308, None),
    "1.8e308": (None, None),
    "1e400": (None, None),
    "-1e400": (None, None),
    "1e-400": (0.0, None),
    "5e-324": (5e-324, None),
    "0e400": (0.0, 0),
    "1e99999999999999999999": (None, None),
    "1e-99999999999999999999": (0.0, None),
    "0.00e99999999999999999999": (0.0, 0),
    "-0e-99999999999999999999": (-0.0, 0),
    "0." + "0" * 400 + "1e401": (1.0, 1),
    "9" * 5000: (None, None),
    "1" + "0" * 400 + "e-400": (1.0, 1),
    "1." + "0" * 5000: (1.0, 1),
    "1." + "0" * 5000 + "1": (1.0, None),
    "": (None, None),
    " ": (None, None),
    ".": (None, None),
    "e5": (None, None),
    "1e": (None, None),
    "1e+": (None, None),
    "1e5.0": (None, None),
    "+-5": (None, None),
    "- 5": (None, None),
    "5 5": (None, None),
    "5,0": (None, None),
    "1_000": (None, None),
    "1 000": (None, None),
    "7d": (None, None),
    "7f": (None, None),
    "5L": (None, None),
    "0x1p3": (None, None),
    "0x10": (None, None),
    "inf": (None, None),
    "-Infinity": (None, None),
    "Infinity": (None, None),
    "nan": (None, None),
    "NaN": (None, None),
    "null": (None, None),
    "true": (None, None),
    "Bad Input": (None, None),
    ARABIC_FIVE: (None, None),
    FULLWIDTH_FIVE: (None, None),
    f"{NO_BREAK_SPACE}5": (None, None),
    "5\u2003": (None, None),
    "5\x00": (None, None),
    "\ufeff5": (None, None),
    "5\x1c": (None, None),
    "−5": (None, None),
}


@pytest.mark.parametrize(("text", "double", "bigint"), [(text, *values) for text, values in TEXTS.items()], ids=lambda value: ascii(value)[:40])
def test_a_text_is_the_number_that_the_rule_makes_of_it(text: str, double: float | None, bigint: int | None) -> None:
    assert same(double_of(text), double)
    assert same(bigint_of(text), bigint)
    assert same(read_text(text, DOUBLE), double)
    assert same(read_text(text, BIGINT), bigint)
    assert same(read_value(text, DOUBLE), UNREADABLE if double is None else double)
    assert same(read_value(text, BIGINT), UNREADABLE if bigint is None else bigint)


@given(st.integers(-(2**70), 2**70), st.integers(0, 25), st.sampled_from(["", " ", "\t\r\n"]))
def test_an_integral_text_is_its_integer_however_it_is_written(whole: int, places: int, white: str) -> None:
    expected = whole if LEAST <= whole <= MOST else None
    for text in (str(whole), f"{whole}.{'0' * places}", f"{whole * 10**places}e-{places}", f"{Decimal(whole):.25e}"):
        assert bigint_of(white + text + white) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_reads_back_from_its_shortest_text_and_from_its_long_one(value: float) -> None:
    assert same(double_of(repr(value)), value)
    assert same(double_of(f"{Decimal(value):f}"), value)


BOOLEANS = {
    "true": True, "false": False, "True": True, "FALSE": False, " true\t": True, "1": None, "0": None, "yes": None, "": None, "t": None, "truе": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BOOLEANS.items(), ids=ascii)
def test_a_text_is_a_boolean_only_if_it_says_true_or_false(text: str, expected: bool | None) -> None:
    assert read_text(text, BOOLEAN) is expected


NOON = datetime(2024, 1, 15, 12, 0, 0, tzinfo=UTC)
TIMES = {
    "2024-01-15T12:00:00Z": NOON,
    "2024-01-15 12:00:00": NOON,
    "2024-01-15T12:00:00": NOON,
    " 2024-01-15T12:00:00Z\n": NOON,
    "2024-01-15T14:00:00+02:00": NOON,
    "2024-01-15 06:30:00-05:30": NOON,
    "2024-01-15T12:00:00.5Z": NOON.replace(microsecond=500_000),
    "2024-01-15T12:00:00.001Z": NOON.replace(microsecond=1_000),
    "2024-01-15T12:00:00.123456789Z": NOON.replace(microsecond=123_000),
    "2024-01-15T12:00:00.9999": NOON.replace(microsecond=999_000),
    "0001-01-01 00:00:00": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T23:59:59.999Z": datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    "2024-02-29T00:00:00Z": datetime(2024, 2, 29, tzinfo=UTC),
    "2023-02-29T00:00:00Z": None,
    "2024-13-01T00:00:00Z": None,
    "2024-01-32T00:00:00Z": None,
    "2024-01-15T24:00:00Z": None,
    "2024-01-15T12:60:00Z": None,
    "2016-12-31T23:59:60Z": None,
    "0000-01-01T00:00:00Z": None,
    "0001-01-01T00:00:00+01:00": None,
    "9999-12-31T23:59:59-01:00": None,
    "2024-01-15T12:00:00+05:99": None,
    "2024-01-15T12:00:00+24:00": None,
    "2024-01-15T12:00:00z": None,
    "2024-01-15t12:00:00Z": None,
    "2024-01-15T12:00Z": None,
    "2024-01-15": None,
    "2024-1-5 12:00:00": None,
    "20240115T120000Z": None,
    "1705320000000": None,
    "2024-01-15T12:00:00.Z": None,
    "2024-01-15T12:00:00.1234567890Z": None,
    "2024-01-15  12:00:00": None,
    f"202{ARABIC_FIVE}-01-15T12:00:00Z": None,
    "noon": None,
    "": None,
}


@pytest.mark.parametrize(("text", "expected"), TIMES.items(), ids=ascii)
def test_a_text_is_a_timestamp_only_in_iso_8601_and_in_utc_unless_it_says_otherwise(text: str, expected: datetime | None) -> None:
    assert read_text(text, TIMESTAMP) == expected


NUMBERS_AS_STRING = {
    "5": "5",
    "-5": "-5",
    "0": "0",
    "-0": "0",
    "2.50": "2.5",
    "110.0": "110.0",
    "1e3": "1000.0",
    "1E3": "1000.0",
    "1e22": "1e+22",
    "1e16": "1e+16",
    "123456789012345680.0": "1.2345678901234568e+17",
    "0.00001": "1e-05",
    "0.1": "0.1",
    "0.1000000000000000055511151231257827": "0.1",
    "-0.0": "-0.0",
    "0e5": "0.0",
    "1e-400": "0.0",
    "9007199254740993": "9007199254740993",
    "9223372036854775808": "9223372036854775808",
    "123456789012345678901234567890": "123456789012345678901234567890",
    "-123456789012345678901234567890": "-123456789012345678901234567890",
    "9" * 400: "9" * 400,
    "1e400": BAD,
    "-1e400": BAD,
}


@pytest.mark.parametrize(("number", "text"), NUMBERS_AS_STRING.items(), ids=lambda value: value[:40])
def test_a_number_read_as_string_is_its_digits_or_its_shortest_text(number: str, text: str) -> None:
    assert read(number, "STRING") == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_fraction_read_as_string_is_what_repr_writes(value: float) -> None:
    assert read(f"{Decimal(value):f}" if "." in f"{Decimal(value):f}" else f"{Decimal(value):f}.0", "STRING") == repr(value)


CONTAINERS = {
    "{}": "{}",
    "[]": "[]",
    "[ ]": "[]",
    '{ "b" : [ 1 , 2.50 , 110.0 , null , true , "x y" ] , "a" : { } }': '{"b":[1,2.5,110.0,null,true,"x y"],"a":{}}',
    '{"a": 1, "b": 2, "a": 3}': '{"a":3,"b":2}',
    "[1e16, 1E-7, -0.0]": "[1e+16,1e-07,-0.0]",
    "[123456789012345678901234567890]": "[123456789012345678901234567890]",
    "[1e400]": "[1e400]",
    r'["\u00e9\u0001\n\/\"\\\ud83d\ude00"]': r'["é\u0001\n/\"\\😀"]',
    '{"é": "ü"}': '{"é":"ü"}',
}


@pytest.mark.parametrize(("json", "text"), CONTAINERS.items())
def test_a_container_read_as_string_is_its_compact_json(json: str, text: str) -> None:
    assert read(json, "STRING") == text


# What a field holds, what type it is declared, and its value.
VALUES: list[tuple[str, str, Any]] = [
    *[("null", kind, None) for kind in ("STRING", "BIGINT", "DOUBLE", "BOOLEAN", "TIMESTAMP_LTZ(3)", "MAP<STRING, DOUBLE>", "ARRAY<BIGINT>", "ROW<a BIGINT>")],
    # texts
    ('""', "STRING", ""),
    ('" x "', "STRING", " x "),
    ('"null"', "STRING", "null"),
    (r'"\ud83d\ude00"', "STRING", "😀"),
    ('"5"', "BIGINT", 5),
    ('"5.0"', "BIGINT", 5),
    ('" 7 "', "BIGINT", 7),
    ('"1e3"', "BIGINT", 1000),
    ('"7d"', "BIGINT", BAD),
    ('"null"', "BIGINT", BAD),
    ('""', "BIGINT", BAD),
    ('"2.50"', "DOUBLE", 2.5),
    ('"+.5e1"', "DOUBLE", 5.0),
    ('"NaN"', "DOUBLE", BAD),
    ('"inf"', "DOUBLE", BAD),
    ('"0x1p3"', "DOUBLE", BAD),
    ('"1e400"', "DOUBLE", BAD),
    ('"null"', "DOUBLE", BAD),
    ('""', "DOUBLE", BAD),
    ('"true"', "BOOLEAN", True),
    ('"1"', "BOOLEAN", BAD),
    # numbers
    ("5", "BIGINT", 5),
    ("5.0", "BIGINT", 5),
    ("5.5", "BIGINT", BAD),
    ("1e3", "BIGINT", 1000),
    ("15e-1", "BIGINT", BAD),
    ("-0", "BIGINT", 0),
    ("-0.0", "BIGINT", 0),
    ("9007199254740993", "BIGINT", 9007199254740993),
    ("9007199254740993.0", "BIGINT", 9007199254740993),
    ("9223372036854775807", "BIGINT", MOST),
    ("9223372036854775808", "BIGINT", BAD),
    ("-9223372036854775808", "BIGINT", LEAST),
    ("-9223372036854775809", "BIGINT", BAD),
    ("9223372036854775807.0", "BIGINT", MOST),
    ("18446744073709551615", "BIGINT", BAD),
    ("123456789012345678901234567890", "BIGINT", BAD),
    ("1e99999999999999999999", "BIGINT", BAD),
    ("0e99999999999999999999", "BIGINT", 0),
    ("5", "DOUBLE", 5.0),
    ("2.50", "DOUBLE", 2.5),
    ("9007199254740993", "DOUBLE", 9007199254740992.0),
    ("123456789012345678901234567890", "DOUBLE", 1.2345678901234568e29),
    ("9" * 400, "DOUBLE", BAD),
    ("1e400", "DOUBLE", BAD),
    ("-0.0", "DOUBLE", -0.0),
    ("1", "BOOLEAN", BAD),
    ("1.0", "BOOLEAN", BAD),
    ("1705320000000", "TIMESTAMP_LTZ(3)", BAD),
    ("1.5", "TIMESTAMP_LTZ(3)", BAD),
    # booleans
    ("true", "BOOLEAN", True),
    ("false", "BOOLEAN", False),
    ("true", "STRING", "true"),
    ("false", "STRING", "false"),
    ("true", "BIGINT", BAD),
    ("false", "DOUBLE", BAD),
    ("true", "TIMESTAMP_LTZ(3)", BAD),
    # containers where a scalar is wanted
    ("[]", "BIGINT", BAD),
    ("{}", "DOUBLE", BAD),
    ("[true]", "BOOLEAN", BAD),
    ('["2024-01-15T12:00:00Z"]', "TIMESTAMP_LTZ(3)", BAD),
    # MAP: what cannot be read inside is NULL
    ("{}", "MAP<STRING, DOUBLE>", {}),
    ('{"b": 1, "a": "2.50", "c": " 3 "}', "MAP<STRING, DOUBLE>", {"b": 1.0, "a": 2.5, "c": 3.0}),
    (
        '{"a": "Bad Input", "b": null, "c": true, "d": [], "e": "NaN", "f": 1e400, "g": "7d", "h": "null", "i": ""}',
        "MAP<STRING, DOUBLE>",
        dict.fromkeys("abcdefghi"),
    ),
    ('{"a": 1, "a": "x", "b": 2, "b": 3}', "MAP<STRING, DOUBLE>", {"a": None, "b": 3.0}),
    ('{"": 1}', "MAP<STRING, DOUBLE>", {"": 1.0}),
    ('{"null": "null"}', "MAP<STRING, STRING>", {"null": "null"}),
    ('{"a": 2.50, "b": 110.0, "c": 5, "d": true, "e": [1, {}], "f": 1e400}', "MAP<STRING, STRING>",
     {"a": "2.5", "b": "110.0", "c": "5", "d": "true", "e": "[1,{}]", "f": None}),
    ('{"a": "5.0", "b": 9223372036854775808}', "MAP<STRING, BIGINT>", {"a": 5, "b": None}),
    ('{"a": [1, "x"], "b": [2]}', "MAP<STRING, ARRAY<BIGINT>>", {"a": None, "b": [2]}),
    ("[]", "MAP<STRING, DOUBLE>", BAD),
    ('"{}"', "MAP<STRING, DOUBLE>", BAD),
    ("5", "MAP<STRING, DOUBLE>", BAD),
    # ARRAY and ROW: what cannot be read inside makes the record malformed
    ("[]", "ARRAY<DOUBLE>", []),
    ('[1, "2.50", null]', "ARRAY<DOUBLE>", [1.0, 2.5, None]),
    ('[1, "x"]', "ARRAY<DOUBLE>", BAD),
    ("[2.50, 5, [ 1 ], null]", "ARRAY<STRING>", ["2.5", "5", "[1]", None]),
    ("{}", "ARRAY<DOUBLE>", BAD),
    ("1", "ARRAY<DOUBLE>", BAD),
    ('"[1]"', "ARRAY<DOUBLE>", BAD),
    ("[[1], null, []]", "ARRAY<ARRAY<BIGINT>>", [[1], None, []]),
    ('[[1], ["x"]]', "ARRAY<ARRAY<BIGINT>>", BAD),
    ('[{"x": "y"}]', "ARRAY<MAP<STRING, DOUBLE>>", [{"x": None}]),
    ('{"a": "5.0", "c": 1}', "ROW<a BIGINT, b STRING>", {"a": 5, "b": None}),
    ('{"b": 2.50, "a": null}', "ROW<a BIGINT, b STRING>", {"a": None, "b": "2.5"}),
    ("{}", "ROW<a BIGINT, b STRING>", {"a": None, "b": None}),
    ('{"a": 5.5}', "ROW<a BIGINT, b STRING>", BAD),
    ('{"a": {"b": "x"}}', "ROW<a ROW<b DOUBLE>>", BAD),
    ('{"a": {"b": "1"}}', "ROW<a ROW<b DOUBLE>>", {"a": {"b": 1.0}}),
    ("[1]", "ROW<a BIGINT>", BAD),
    ("null", "ROW<a BIGINT>", None),
]  # fmt: skip


@pytest.mark.parametrize(("json", "kind", "expected"), VALUES, ids=lambda value: str(value)[:60])
def test_a_field_has_the_value_that_its_type_makes_of_it(json: str, kind: str, expected: Any) -> None:
    assert same(read(json, kind), expected)


@pytest.mark.parametrize(
    "kind", ["STRING", "BIGINT", "DOUBLE", "BOOLEAN", "TIMESTAMP_LTZ(3)", "MAP<STRING, DOUBLE>", "ARRAY<BIGINT>", "ROW<a BIGINT>"]
)
def test_an_absent_field_is_null(kind: str) -> None:
    assert read_record('{"other": 1}', Schema.parse({"field": kind})) == {"field": None}


def test_of_a_repeated_field_the_last_counts_even_where_the_first_cannot_be_read() -> None:
    schema = Schema.parse({"a": "BIGINT"})
    assert read_record('{"a": "x", "a": 5}', schema) == {"a": 5}
    assert read_record('{"a": 5, "a": null}', schema) == {"a": None}
    assert isinstance(read_record('{"a": 5, "a": "x"}', schema), Malformed)


def test_rest_holds_the_undeclared_fields_that_are_not_null() -> None:
    schema = Schema.parse({"a": "BIGINT"})
    line = '{"x": 2.50, "a": 1, "y": null, "z": {"b": [1.0]}, "w": "7d", "x": 3}'
    assert read_record(line, schema, "extra") == {"a": 1, "extra": {"x": "3", "z": '{"b":[1.0]}', "w": "7d"}}
    assert read_record(line, schema, "extra", parse_type("MAP<STRING, DOUBLE>")) == {"a": 1, "extra": {"x": 3.0, "z": None, "w": None}}
    assert read_record('{"a": 1}', schema, "extra") == {"a": 1, "extra": {}}


def test_a_field_named_like_rest_is_undeclared_like_any_other() -> None:
    assert read_record('{"extra": 5}', Schema.parse({"a": "BIGINT"}), "extra") == {"a": None, "extra": {"extra": "5"}}


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ('{"a": "1", "x": "2", "b": "", "y": "\\u00e9"}', True),
        ("{}", True),
        ('{"rest": "5", "a": "x", "a": "z", "x": "1", "x": "2"}', True),
        ('{"a": "1", "x": null}', False),
        ('{"a": null, "x": "1"}', False),
        ('{"a": "1", "x": 2}', False),
        ('{"a": "1", "x": {"y": "z"}}', False),
        ('{"a": "1", "a": 2, "a": "3"}', False),
        ('{"a": "1"', False),
        ('["a"]', False),
    ],
)
def test_an_object_of_texts_alone_is_read_as_any_other(line: str, texts: bool) -> None:
    schema = Schema.parse({"a": "STRING", "b": "STRING"})
    assert read_texts(line, schema, "rest") == (read_record(line, schema, "rest") if texts else None)


# What is not one JSON object, and what the dead letter says of it.
MALFORMED = {
    "": "not JSON: ",
    "{": "not JSON: it ends too early",
    '{"a": 1': "not JSON: it ends too early",
    '{"a": "x': "not JSON: it ends too early",
    '{"a": 1}}': "not JSON: trailing characters",
    '{"a": 1}{"a": 2}': "not JSON: trailing characters",
    '{"a": 1} {"a": 2}': "not JSON: trailing characters",
    '{"a": 1},{"a": 2}': "not JSON: trailing characters",
    '{"a": 1},': "not JSON: trailing characters",
    '{"a": 1}\x00': "not JSON: trailing characters",
    '{"a": 1,}': "not JSON: ",
    "{'a': 1}": "not JSON: ",
    "{a: 1}": "not JSON: ",
    '{"a" 1}': "not JSON: ",
    '{"a": }': "not JSON: ",
    '{"a": 1 // one\n}': "not JSON: ",
    '[{"a": 1}]': "not a JSON object but an array",
    "5": "not a JSON object but a number",
    "5.5": "not a JSON object but a number",
    '"a"': "not a JSON object but a text",
    "true": "not a JSON object but a boolean",
    "null": "not a JSON object but null",
    "NaN": "not JSON: ",
    '{"a": NaN}': "not JSON: ",
    '{"x": nan}': "not JSON: ",
    '{"x": Infinity}': "not JSON: ",
    '{"x": -Infinity}': "not JSON: ",
    '{"x": 01}': "not JSON: ",
    '{"x": -01}': "not JSON: ",
    '{"x": 00}': "not JSON: ",
    '{"x": +1}': "not JSON: ",
    '{"x": .5}': "not JSON: ",
    '{"x": 5.}': "not JSON: ",
    '{"x": 1e}': "not JSON: ",
    '{"x": 0x10}': "not JSON: ",
    '{"x": 1_000}': "not JSON: ",
    '{"x": --1}': "not JSON: ",
    '{"x": True}': "not JSON: ",
    '{"x": "\t"}': "not JSON: ",
    '{"x": "\x00"}': "not JSON: ",
    '{"x\x1f": 1}': "not JSON: ",
    r'{"x": "\x41"}': "not JSON: ",
    r'{"x": "\u12"}': "not JSON: ",
    r'{"x": "\ud800"}': "not JSON: it ends too early or holds a lone surrogate",
    r'{"x": "\udc00"}': "not JSON: ",
    r'{"x": "\udc00\ud800"}': "not JSON: ",
    r'{"x": "\ud800\u0041"}': "not JSON: ",
    r'{"\ud800": 1}': "not JSON: ",
    r'{"x": "\ud800", "x": 1}': "not JSON: ",
    '\ufeff{"a": 1}': "not JSON: ",
    '{"x":\u00a01}': "not JSON: ",
    '{"x": "a": 1}': "not JSON: ",
}


@pytest.mark.parametrize(("line", "detail"), MALFORMED.items(), ids=ascii)
def test_what_is_not_one_json_object_is_malformed_in_whatever_field_it_breaks(line: str, detail: str) -> None:
    read = read_record(line, Schema.parse({"a": "BIGINT"}))
    assert isinstance(read, Malformed)
    assert read.detail.startswith(detail)


@pytest.mark.parametrize(
    "line", ['{"a":1}', ' \t\r\n{ \t\n"a"\r:\n1 } \n', '{"x": "\x7f\u2028", "a": 1}', '{"a": 2, "a": 1}', '{"x": 1e400, "a": 1}']
)
def test_white_space_and_odd_characters_that_json_allows_do_no_harm(line: str) -> None:
    assert read_record(line, Schema.parse({"a": "BIGINT"})) == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at 7"),
        (b'{"a": 1, "\xc3": 2}', "not UTF-8: byte 0xc3 at 10"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8: byte 0xed at 7"),
        (b'{"a": "\xc0\x80"}', "not UTF-8: byte 0xc0 at 7"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8: byte 0xff at 0"),
        (b'{"a": 1}\x80', "not UTF-8: byte 0x80 at 8"),
    ],
    ids=repr,
)
def test_what_is_not_utf_8_is_malformed_and_the_detail_names_the_byte_and_its_place(raw: bytes, detail: str) -> None:
    assert read_record(raw, Schema.parse({"a": "STRING"})) == Malformed(detail)


def test_the_detail_of_a_malformed_record_names_the_field_its_type_and_the_value_cut_short() -> None:
    schema = Schema.parse({"a": "BIGINT", "b": "MAP<STRING, DOUBLE>"})
    assert read_record('{"a": "7d"}', schema) == Malformed("field 'a' is not a BIGINT: '7d'")
    assert read_record('{"a": 5.50}', schema) == Malformed("field 'a' is not a BIGINT: 5.50")
    assert read_record('{"b": [1]}', schema) == Malformed("field 'b' is not a MAP: [1]")
    long = read_record(f'{{"a": "{"x" * 10_000_000}"}}', schema)
    assert isinstance(long, Malformed)
    assert len(long.detail) < 120


@pytest.mark.parametrize("kind", ["STRING", "BIGINT", "ARRAY<STRING>", "MAP<STRING, STRING>"])
@pytest.mark.parametrize("depth", [100, 400, 600, 900, 990, 5_000, 200_000])
def test_deep_nesting_is_read_or_malformed_and_never_an_error(kind: str, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"k":', "}")):
        json = opening * depth + "1" + closing * depth
        read = read_record(f'{{"field": {json}}}', Schema.parse({"field": kind}), "extra")
        assert isinstance(read, (dict, Malformed))
    if depth == 100:
        text = "[" * depth + "]" * depth
        assert read_record(f'{{"s": {text}}}', Schema.parse({"s": "STRING"})) == {"s": text}


def test_a_whole_number_of_more_digits_than_python_reads_makes_the_record_malformed() -> None:
    for schema in ({"a": "BIGINT"}, {"a": "STRING"}, {"b": "STRING"}):
        read = read_record('{"a": ' + "9" * 5000 + "}", Schema.parse(schema))
        assert isinstance(read, Malformed)
        assert read.detail.startswith("not JSON: Integer value out of range")
