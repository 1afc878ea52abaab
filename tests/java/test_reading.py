"""What headrace puts into Flink and Spark, without them: the rule of reading gives what it gives in Python, to the last bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exact import shown
from headrace.kernels.reading.record import TEXTS, Malformed, read_record
from headrace.kernels.reading.rules import UNREADABLE, read_text
from headrace.plan.schema import Schema, Type
from headrace.topics.dead_letters import DeadLetter, encode_dead_letter
from java.probe import Probe, schema_text
from kernels.reading import test_json as lines
from kernels.reading import test_rules as rules

WHITE = b" \t\n\r\x0b\x0c"
BOM = b"\xef\xbb\xbf"


def typed(value: Any, kind: Type) -> Any:
    """Return a value as `shown` has it, a ROW's without their names."""
    if value is None or kind.kind not in ("MAP", "ARRAY", "ROW"):
        return shown(value)
    match kind.kind:
        case "MAP":
            return [(key, typed(inner, kind.element)) for key, inner in value.items()]
        case "ARRAY":
            return [typed(inner, kind.element) for inner in value]
    return [typed(value[name], inner) for name, inner in kind.fields()]


def by_rule(record: bytes, schema: Schema, rest: str | None = None) -> Any:
    """Return what becomes of a record by the rule in Python: None if it is blank, why it is malformed, or its values."""
    if not record.strip(WHITE):
        return None
    row = read_record(record, schema, rest)
    if isinstance(row, Malformed):
        return row.detail
    for field in schema.fields:
        if row[field.name] is None and not field.nullable:
            return f"NULL in NOT NULL column {field.name!r}"
    types = {field.name: field.type for field in schema.fields} | ({rest: TEXTS} if rest else {})
    return tuple(typed(row[name], kind) for name, kind in types.items())


def same_fate(got: Any, expected: Any) -> bool:
    """Return whether two fates are the same; what a JSON parser complains of may be said in other words, as may odd characters."""
    if not isinstance(expected, str) or not isinstance(got, str):
        return bool(got == expected)
    start = expected.partition(": ")[0]
    return got.startswith(start) if start == "not JSON" or not expected.isascii() else got == expected


def assert_same(java: Probe, records: list[bytes], schema: Schema, rest: str | None = None) -> None:
    """Assert that both read the records alike."""
    for record, got in zip(records, java.read(records, schema_text(schema), rest=rest is not None), strict=True):
        expected = by_rule(record, schema, rest)
        assert same_fate(got, expected), (record, got, expected)


OWN = {
    "a map, an array and a row inside each other": Schema.parse({"m": "MAP<STRING, ARRAY<ROW<a BIGINT, b MAP<STRING, BOOLEAN>>>>", "s": "STRING"}),
    "columns that must not be NULL": Schema.parse({"s": "STRING NOT NULL", "d": "DOUBLE NOT NULL", "a": "ARRAY<STRING> NOT NULL"}),
    "a name with a backtick": Schema.parse({"a`b": "TIMESTAMP_LTZ(3)", "``": "BOOLEAN"}),
    "no column": Schema.parse({}),
}
CASES = {name: (case.schema, case.rest) for name, case in lines.CASES.items() if case.rest_type == TEXTS} | {
    name: (one, None) for name, one in OWN.items()
}
BATCHES = {
    name: lines.BATCHES[name]
    if name in lines.BATCHES
    else [lines.batch_of(lines.Case({f.name: str(f.type) for f in schema.fields} or {"a": "STRING"}), 0, [])]
    for name, (schema, _) in CASES.items()
}
RUNS = st.sampled_from([*CASES]).flatmap(lambda name: st.tuples(st.just(name), st.one_of(BATCHES[name])))


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
)
@given(RUNS)
def test_lines_of_every_sort_are_read_as_the_rule_in_python_reads_them(java: Probe, run: tuple[str, list[bytes]]) -> None:
    name, records = run
    assert_same(java, records, *CASES[name])


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(lines.mutated(st.sampled_from([line % (1, 2, 3) for line in lines.PLAIN.values()])), max_size=20), st.sampled_from([*CASES]))
def test_lines_with_a_few_bytes_changed_are_read_as_the_rule_in_python_reads_them(java: Probe, records: list[bytes], name: str) -> None:
    assert_same(java, records, *CASES[name])


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=12), st.sampled_from([b'{"s": "%s"}', b'{"%s": 1}', b"%s", b'{"s": "a"}%s']))
def test_any_bytes_are_utf_8_or_not_as_python_says(java: Probe, piece: bytes, around: bytes) -> None:
    assert_same(java, [around.replace(b"%s", piece)], Schema.parse({"s": "STRING"}), "rest")


NUMBERS = Schema.parse({"d": "DOUBLE", "i": "BIGINT", "s": "STRING"})
DECIMALS = st.from_regex(r"[+-]?([0-9]{1,25}\.?[0-9]{0,25}|\.[0-9]{1,25})([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats().map(repr) | st.floats().map(lambda value: f"{value:.17g}") | DECIMALS | st.integers(-(2**66), 2**66).map(str))
@example("5.684341886080802e-14")
@example("9007199254740993.0")
@example("2.2250738585072014e-308")
@example("4.35")
@example("0.000099999999999999991")
@example("600000000000000.75")
def test_any_number_is_worth_the_same_to_the_last_bit_as_text_and_as_number(java: Probe, text: str) -> None:
    records = [
        f'{{"d": {text}, "i": {text}, "s": {text}}}'.encode(),
        f'{{"d": {text}}}'.encode(),
        f'{{"s": {text}}}'.encode(),
        f'{{"i": {text}}}'.encode(),
    ]
    records += [f'{{"{name}": " {text}\\n"}}'.encode() for name in "dis"]
    assert_same(java, records, NUMBERS)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        "{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}{}".format,
        st.integers(0, 10_000), st.integers(0, 13), st.sampled_from([0, 1, 28, 29, 30, 31, 32]), st.sampled_from("T t"), st.integers(0, 24), st.integers(0, 60),
        st.integers(0, 60), st.sampled_from(["", ".", ".1", ".12", ".123", ".123456789", ".1234567890"]), st.sampled_from(["", "Z", "z", "+02:00", "-23:59", "+24:00", "+2:00"]),
    )
)  # fmt: skip
def test_any_time_is_the_same_instant(java: Probe, text: str) -> None:
    assert_same(java, [json.dumps({"t": text}).encode()], Schema.parse({"t": "TIMESTAMP_LTZ(3)"}))


# the tables of the rule's own tests


def read(java: Probe, value: str, kind: str) -> Any:
    """Return the JSON text `value` read as the type `kind`; BAD where the record is malformed for it."""
    (got,) = java.read([f'{{"field": {value}}}'.encode()], schema_text(Schema.parse({"field": kind})))
    if isinstance(got, str):
        assert got.startswith("field 'field' is not a "), got
        return rules.BAD
    return got[0]


@pytest.mark.parametrize("text", rules.TEXTS, ids=lambda value: ascii(value)[:40])
def test_a_text_is_the_number_that_the_rule_makes_of_it(java: Probe, text: str) -> None:
    for kind, expected in zip(("DOUBLE", "BIGINT"), rules.TEXTS[text], strict=True):
        assert read(java, json.dumps(text), kind) == (rules.BAD if expected is None else shown(expected))


@pytest.mark.parametrize(
    ("kind", "text"), [*[("BOOLEAN", text) for text in rules.BOOLEANS], *[("TIMESTAMP_LTZ(3)", text) for text in rules.TIMES]], ids=ascii
)
def test_a_text_is_the_boolean_or_the_time_that_the_rule_makes_of_it(java: Probe, kind: str, text: str) -> None:
    expected = read_text(text, Schema.parse({"a": kind})["a"].type)
    assert read(java, json.dumps(text), kind) == (rules.BAD if expected is None else shown(expected))


@pytest.mark.parametrize(("value", "text"), [*rules.NUMBERS_AS_STRING.items(), *rules.CONTAINERS.items()], ids=lambda value: ascii(value)[:40])
def test_what_is_no_text_has_the_text_that_the_rule_gives_it(java: Probe, value: str, text: str) -> None:
    assert read(java, value, "STRING") == (rules.BAD if text == rules.BAD else ("str", text))


@pytest.mark.parametrize(("value", "kind", "expected"), rules.VALUES, ids=lambda value: str(value)[:60])
def test_a_field_has_the_value_that_its_type_makes_of_it(java: Probe, value: str, kind: str, expected: Any) -> None:
    got = read(java, value, kind)
    assert got == (rules.BAD if expected == rules.BAD or expected is UNREADABLE else typed(expected, Schema.parse({"a": kind})["a"].type))


@pytest.mark.parametrize("line", rules.MALFORMED, ids=ascii)
def test_what_is_not_one_json_object_is_malformed(java: Probe, line: str) -> None:
    assert_same(java, [line.encode()], Schema.parse({"a": "BIGINT"}))


HOSTILE = {named: (name, line) for named, (name, line) in lines.HOSTILE.items() if name in CASES}


@pytest.mark.parametrize(("name", "line"), HOSTILE.values(), ids=HOSTILE)
def test_lines_that_mislead_fast_readers_are_read_right(java: Probe, name: str, line: bytes) -> None:
    assert_same(java, [line], *CASES[name])


NOT_UTF_8 = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xc2a", b"\xe0\x9f\xbf", b"\xe2\x82", b"\xe2\x82a", b"\xed\xa0\x80", b"\xed\xbf\xbf",
    b"\xf0\x8f\xbf\xbf", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xfe",
]  # fmt: skip
UTF_8 = [
    b"\x7f",
    b"\xc2\x80",
    b"\xdf\xbf",
    b"\xe0\xa0\x80",
    b"\xed\x9f\xbf",
    b"\xee\x80\x80",
    b"\xef\xbf\xbf",
    b"\xf0\x90\x80\x80",
    b"\xf4\x8f\xbf\xbf",
]


@pytest.mark.parametrize("piece", [*NOT_UTF_8, *UTF_8], ids=repr)
def test_utf_8_ends_where_python_says(java: Probe, piece: bytes) -> None:
    schema = Schema.parse({"s": "STRING"})
    records = [b'{"s": "%s"}' % piece, b'{"x": "%s"}' % piece, b'{"%s": 1}' % piece, b"{%s}" % piece, b'{"s": ["%s"]}' % piece]
    assert_same(java, records, schema)
    assert isinstance(by_rule(records[0], schema), str) == (piece in NOT_UTF_8)


@pytest.mark.parametrize(
    "line",
    [
        rb'{"s": "\ud800\ud800"}', rb'{"s": "\ud83d\ude00"}', rb'{"s": "\udbff\udfff"}', rb'{"s": "\ud83d\u00e9"}', rb'{"s": "\ud83d\n"}', rb'{"s": "\ud83d\ud',
        b'{"a": ["x", 1]}', b'{"a": [1, "x"]}', b'{"a": [null, "1", 2.0]}', b'{"r": {"b": "x", "b": 1}}', b'{"r": {"b": 1, "b": "x"}}', b'{"a": [1], "a": "x"}',
        b'{"r": {"c": 1, "b": 2}, "a": [3], "s": 4}', b'{"r": {"b": [1]}}', b'{"r": []}', b'{"a": {}}', b'{"s": {"k": "\xc3\xa9"}}',
    ],
    ids=repr,
)  # fmt: skip
def test_lines_of_which_chance_makes_few_are_read_right(java: Probe, line: bytes) -> None:
    assert_same(java, [line], Schema.parse({"s": "STRING", "a": "ARRAY<BIGINT>", "r": "ROW<b BIGINT, c STRING>"}))


# what is the Java reader's own


@pytest.mark.parametrize(
    ("record", "fate"),
    [
        (b"", None),
        (b" \t\r\n\x0b\x0c", None),
        (BOM + b'{"a": "\xff"}', "not UTF-8: byte 0xff at 10"),
        (b'{"a": 5} \t\r\n', (("int", 5),)),
        (b'{"a": 5}\x0b', "not JSON: trailing characters (byte 8)"),
        (b'{"a": "7d"}', "field 'a' is not a BIGINT: '7d'"),
        (b'{"a": ["\xc3\xa9", 5.50, 7, true, null, {"b": "it\'s"}]}', "field 'a' is not a BIGINT: ['é', '5.50', 7, True, None, {'b': \"it's\"}]"),
        (b'{"a": "' + b"x" * 100 + b'"}', f"field 'a' is not a BIGINT: '{'x' * 76}…"),
        (b'{"a": null}', "NULL in NOT NULL column 'a'"),
        (b"{}", "NULL in NOT NULL column 'a'"),
        (b"[1", "not JSON: it ends too early"),
        (b"[1]", "not a JSON object but an array"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_record_is_blank_or_read_or_malformed_for_a_reason(java: Probe, record: bytes, fate: Any) -> None:
    assert java.read([record], "a BIGINT NOT NULL") == [fate]


@pytest.mark.parametrize("kind", ["STRING", "BIGINT", "ARRAY<STRING>", "MAP<STRING, STRING>"])
@pytest.mark.parametrize(("depth", "read"), [(100, True), (400, True), (1_000, False), (200_000, False)])
def test_deep_nesting_is_read_or_malformed_and_never_an_error(java: Probe, kind: str, depth: int, read: bool) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"k":', b"}")):
        for name in (b"a", b"b"):
            (fate,) = java.read([b'{"%s": ' % name + opening * depth + b"1" + closing * depth + b"}"], f"a {kind}", rest=True)
            assert (fate == "nested too deeply to read") == (not read)


def test_rest_holds_the_undeclared_fields_that_are_not_null(java: Probe) -> None:
    line = b'{"x": 2.50, "a": 1, "y": null, "z": {"b": [1.0]}, "w": "7d", "x": 3, "v": 1e400, "u": 1, "u": null}'
    expected = [("x", ("str", "3")), ("z", ("str", '{"b":[1.0]}')), ("w", ("str", "7d")), ("v", ("NoneType", None))]
    assert java.read([line], "a BIGINT", rest=True) == [(("int", 1), expected)]


def test_a_schema_is_read_however_it_is_written(java: Probe) -> None:
    row = b'{"a": [{"b c": 1.5, "d": "x"}], "e`f": {"k": true}}'
    expected = ([[repr(1.5), ("str", "x")]], [("k", ("bool", True))], ("NoneType", None))
    for schema in (
        "a ARRAY<ROW<`b c` DOUBLE, d STRING>>, `e``f` MAP<STRING, BOOLEAN>, g TIMESTAMP_LTZ(3)",
        "\n`a` array < row < `b c` double ,d string >> NOT  NULL,\t`e``f` map<string,boolean>,`g` timestamp_ltz ( 3 )",
    ):
        assert java.read([row], schema) == [expected]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=8), st.text(max_size=8), st.binary(max_size=8) | st.text(max_size=8).map(str.encode))
@example("a", 'a "b" \\ \x00\x1f\x7f\n\r\t\b\f / \u2028 😀', b"\x00\xff")
def test_a_dead_letter_is_written_as_the_embedded_engine_writes_it(java: Probe, topic: str, detail: str, raw: bytes) -> None:
    record = raw.removesuffix(b"\r")
    try:
        came: str | bytes = record.decode()
    except UnicodeDecodeError:
        came = record
    letter = DeadLetter(topic, 3, None, "malformed", detail, 5, came)  # type: ignore[arg-type]  # as on a cluster, where files have no record numbers
    assert java.dead_letter(topic, detail, raw) + b"\n" == encode_dead_letter("pipe", letter)


SCRIPT = """-- a comment; with a semicolon and it's quote
SET 'a' = 'it''s; b'; /* another;
of two lines */ CREATE TABLE `t;--` (x STRING /* inside; */, y BIGINT) WITH ('k' = '-- no; comment');;

SELECT '/* no comment */' /*+ OPTIONS('a' = 'b;c') */;
execute statement -- one;
  set begin
INSERT INTO t SELECT CASE WHEN a THEN ';' END FROM u;
INSERT INTO t SELECT 1;
END;
SELECT 2"""


def test_a_script_is_cut_into_statements_at_the_semicolons_that_end_one(java: Probe) -> None:
    got = java.statements(SCRIPT)
    assert isinstance(got, list)
    assert [" ".join(one.split()) for one in got] == [
        "SET 'a' = 'it''s; b'",
        "CREATE TABLE `t;--` (x STRING , y BIGINT) WITH ('k' = '-- no; comment')",
        "SELECT '/* no comment */' /*+ OPTIONS('a' = 'b;c') */",
        "execute statement set begin INSERT INTO t SELECT CASE WHEN a THEN ';' END FROM u; INSERT INTO t SELECT 1; END",
        "SELECT 2",
    ]


@pytest.mark.parametrize(
    ("script", "why"), [("SELECT 'a", "lacks '"), ("SELECT /* a", "lacks */"), ("EXECUTE STATEMENT SET BEGIN INSERT INTO t SELECT 1;", "without END")]
)
def test_a_script_that_ends_in_the_middle_is_refused(java: Probe, script: str, why: str) -> None:
    assert why in java.statements(script)
