"""Batches of JSON records: what the vectorised reader gives for a line is what the rule gives for it, and most lines it reads fast."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exact import shown
from headrace.kernels.reading.batch import Lines, Read, TextLines
from headrace.kernels.reading.json import JsonReader
from headrace.kernels.reading.record import Malformed, read_record
from headrace.kernels.reading.rules import double_of
from headrace.kernels.reading.text import polars_type
from headrace.plan.schema import STRING, TIMESTAMP, Schema, Type, map_of, parse_type
from headrace.topics.files import TextFile

TEXTS = map_of(STRING, STRING)


@pytest.fixture(autouse=True, scope="module")
def _few_lines_too_are_read_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.kernels.reading.json._FEW_EVEN", 0)
        yield


MOST_WHITE = " \t\r\x0b\x0c"


class Case:
    """A schema with all else that a reader is told, and the readers that count what they read slowly."""

    def __init__(self, columns: dict[str, str], rest: str | None = None, rest_type: str = "MAP<STRING, STRING>", unread: Sequence[str] = ()) -> None:
        self.columns, self.schema = columns, Schema.parse(columns)
        self.rest, self.rest_type, self.unread = rest, parse_type(rest_type), unread
        self.types = {field.name: field.type for field in self.schema.fields} | ({rest: self.rest_type} if rest else {})

    def __repr__(self) -> str:
        return f"Case({self.columns}, rest={self.rest!r}, rest_type={str(self.rest_type)!r}, unread={self.unread!r})"

    def reader(self) -> CountingReader:
        return CountingReader(self.schema, self.rest, self.rest_type, self.unread)

    def rule(self, record: bytes) -> dict[str, Any] | Malformed:
        return read_record(record, self.schema, self.rest, self.rest_type)


class CountingReader(JsonReader):
    """A reader that notes which places of the last batch it sent to the slow path, and how many rows the rule made in all."""

    slow: list[int]
    by_rule: int

    def read(self, batch: Lines) -> Read:
        self.slow, self.by_rule = [], 0
        return super().read(batch)

    def _read_slowly(self, batch: Lines, places: Sequence[int]) -> Read:
        self.slow = list(places)
        return super()._read_slowly(batch, places)

    def _rows(self, rows: Sequence[dict[str, object]]) -> pl.DataFrame:
        self.by_rule += len(rows)
        return super()._rows(rows)


CASES = {
    "fingerprint": Case({"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"}),
    "numbers": Case({"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, DOUBLE>"}),
    "numbers left unread": Case({"equip_id": "STRING", "timestamp": "BIGINT", "data": "MAP<STRING, DOUBLE>"}, unread=["data"]),
    "two maps of numbers": Case({"data": "MAP<STRING, DOUBLE>", "more": "MAP<STRING, DOUBLE>", "d": "DOUBLE"}),
    "maps of numbers and of texts": Case({"data": "MAP<STRING, DOUBLE>", "m": "MAP<STRING, STRING>", "s": "STRING"}, unread=["data"]),
    "scalars": Case({"s": "STRING", "i": "BIGINT", "d": "DOUBLE", "b": "BOOLEAN", "t": "TIMESTAMP_LTZ(3)"}),
    "one column": Case({"t": "TIMESTAMP_LTZ(3)"}),
    "containers": Case({"a": "ARRAY<DOUBLE>", "r": "ROW<a BIGINT, t TIMESTAMP_LTZ(3)>", "n": "MAP<STRING, BIGINT>", "s": "STRING", "i": "BIGINT"}),
    "rest of texts": Case({"equip_id": "STRING", "timestamp": "BIGINT"}, rest="extra"),
    "rest of texts beside a text": Case({"equip_id": "STRING"}, rest="extra"),
    "rest of numbers": Case({"equip_id": "STRING", "timestamp": "BIGINT"}, rest="extra", rest_type="MAP<STRING, DOUBLE>"),
    "rest of numbers beside a text": Case({"equip_id": "STRING"}, rest="extra", rest_type="MAP<STRING, DOUBLE>"),
    "rest left unread": Case({"equip_id": "STRING NOT NULL", "s": "STRING"}, rest="extra", rest_type="MAP<STRING, DOUBLE>", unread=["extra"]),
    "rest alone": Case({}, rest="extra"),
    "odd names": Case({"a b": "STRING", "é/ü.*": "BIGINT", "#-~&": "DOUBLE", "null": "MAP<STRING, DOUBLE>"}),
    "names that JSON escapes": Case({'a"b': "STRING", "a\\b": "BIGINT", "a\tb": "DOUBLE", "a": "BIGINT"}),
}


# A plain line of each of the schemas that are read fast; it takes three numbers.
PLAIN = {
    "fingerprint": b'{"equip_id": "kiln-%d", "timestamp": 17053200%05d, "data": {"temp": "2%d.5", "state": "on", "gap": null}}',
    "numbers": b'{"equip_id":"kiln-%d","timestamp":17053200%05d,"data":{"temp":2%d.50,"count":5,"text":"7.5","gap":null,"none":"null"}}',
    "numbers left unread": b'{"equip_id":"kiln-%d","timestamp":17053200%05d,"data":{"temp":"2%d.5","state":"on"},"site":"Ulm","tags":["a",1]}',
    "scalars": b'{"s": "x%d", "i": 1%05d, "d": 2.%d, "b": true, "t": "2024-01-15T12:00:00Z"}',
    "two maps of numbers": b'{"more": {"a": %d}, "d": 1%05d, "data": {"b": "%d"}}',
    "maps of numbers and of texts": b'{"data": {"a": %d.5, "b": "null"}, "m": {"a": "null", "b": "%05d", "c": null}, "d": %d}',
    "rest of texts beside a text": b'{"equip_id": "kiln-%d", "z": "", "temp": "2%05d.5", "\xc3\xa9": " %d \xf0\x9f\x98\x80"}',
    "rest of numbers beside a text": b'{"temp":"2%d.5","equip_id":"null","null":"1%05d","state":"on %d"}',
    "rest left unread": b'{ "equip_id" : "kiln-%d" , "temp" : "1%05d" , "state" : "NaN" , "count" : "%d" }',
    "rest alone": b'{"a b": "x%d", "c": "%05d", "d": "-%d.5"}',
    "odd names": b'{"a b": "x%d", "\xc3\xa9/\xc3\xbc.*": 1%05d, "#-~&": -%d.5, "null": {"null": 1}}',
}  # fmt: skip


def left_unread(text: str | None) -> float | None:
    """Return what unnesting makes of a text that was left unread."""
    return None if text is None else double_of(text)


def column_shown(column: pl.Series, kind: Type) -> list[Any]:
    """Return a column's values as `shown` has them, the entries of maps as they are stored."""
    if column.dtype == polars_type(TEXTS) and kind != TEXTS:
        unread = column.map.entries().to_list()
        return [shown(None) if one is None else [(entry["key"], shown(left_unread(entry["value"]))) for entry in one] for one in unread]
    assert column.dtype == polars_type(kind), (column.dtype, kind)
    if kind.kind == "MAP":
        entries = column.map.entries().to_list()
        return [shown(None) if one is None else [(entry["key"], shown(entry["value"])) for entry in one] for one in entries]
    if kind == TIMESTAMP:
        return [("NoneType", None) if time is None else ("ms", time) for time in column.dt.epoch("ms")]
    return [shown(value) for value in column.to_list()]


def read_shown(read: Read, case: Case) -> dict[int, Any]:
    """Return what became of each record of a batch: its values by column, or why it is malformed."""
    frame = read.frame
    assert set(frame.columns) == {"@record", *case.types}
    assert frame["@record"].is_sorted()
    columns = [column_shown(frame[name], kind) for name, kind in case.types.items()]
    fates: dict[int, Any] = dict(zip(frame["@record"], zip(*columns, strict=True), strict=True))
    assert len(fates) == len(frame)
    assert not fates.keys() & read.malformed.keys()
    return fates | read.malformed


def rule_shown(record: bytes, case: Case) -> Any:
    """Return what becomes of a record by the rule."""
    row = case.rule(record)
    return row.detail if isinstance(row, Malformed) else tuple(shown(row[name]) for name in case.types)


# lines of every sort

SPACES = st.sampled_from([("", "")] * 6 + [(" ", "")] * 6 + [(" ", " "), ("", " "), ("  ", "   "), ("\t", "\r")])
PLAIN_TEXT = st.text("abcXYZ019 .,:;{}[]'-_/é😀\x7f\u2028", max_size=8) | st.sampled_from(["null", "5", "-2.50", "x:", ',"', "NaN", "a,b", "}{"]).map(
    lambda text: text.replace('"', "")
)
NUMBER = st.sampled_from(
    [
        "0",
        "5",
        "-5",
        "2.50",
        "110.0",
        "-0.0",
        "1e3",
        "1E-2",
        "9007199254740993",
        "0.1",
        "123456789012345678",
        "1705320000123",
        "1e22",
        "1.5e-99",
        "-1e99",
    ]
)
ODD_NUMBER = st.sampled_from(
    [
        "-0", "1e400", "-1e400", "1e-400", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "5.0",
        "123456789012345678901234567890", "1e308", "1.8e308", "9007199254740993.0", "0e5", "5e-324", "1e99999999999999999999", "1.0000000000000000000000001",
        "179769313486231580793728971405301e276", "9" * 400, "2.2250738585072011e-308", "0.30000000000000004", "100000000000000000000e-20",
    ]
)  # fmt: skip
NUMBER_TEXT = st.sampled_from(
    ["5", "5.0", "2.50", "-1e3", "+5", ".5", "5.", " 7 ", "7d", "0x1p3", "inf", "nan", "NaN", "-Infinity", "1_000", "٥", "", " ", "null", "Bad Input",
     "1e400", "9223372036854775808", "9007199254740993", "1e5.0", "\u00a05", "-0", "-0.0", "00012", "1e-400", "1e99999999999999999999"]
)  # fmt: skip
TIME_TEXT = st.sampled_from(
    ["2024-01-15T12:00:00Z", "2024-01-15 12:00:00", "2024-01-15T12:00:00.001Z", "2024-01-15T12:00:00.12345+02:00", "1969-12-31T23:59:59.999Z",
     "2262-04-12 00:00:00", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "2016-12-31T23:59:60Z", "2024-02-30T00:00:00Z", "2024-01-15", "noon", "null",
     " 2024-01-15T12:00:00Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00"]
)  # fmt: skip
NOT_JSON = st.sampled_from(
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "01",
        "-01",
        "+1",
        ".5",
        "5.",
        "1e",
        "nul",
        "True",
        "",
        '"',
        '"\x01"',
        '"\t"',
        r'"\ud800"',
        r'"\udc00x"',
        r'"\x41"',
        "'a'",
    ]
)


def quoted(text: str) -> str:
    """Return `text` as JSON, unescaped where JSON allows it."""
    return json.dumps(text, ensure_ascii=False)


@st.composite
def objects(draw: st.DrawFn, keys: st.SearchStrategy[str], values: st.SearchStrategy[str] | dict[str, st.SearchStrategy[str]], most: int = 4) -> str:
    """Draw an object of the JSON texts `keys` and `values`, with one spacing throughout."""
    before, after = draw(SPACES)
    members = []
    for _ in range(draw(st.integers(0, most))):
        key = draw(keys)
        value = draw(values[key] if isinstance(values, dict) else values)
        members.append(f"{before}{key}{after}:{before}{value}{after}")
    return "{" + ",".join(members) + (before if not members else "") + "}"


SCALAR = PLAIN_TEXT.map(quoted) | NUMBER | st.sampled_from(["true", "false", "null", "null", '"null"'])
ESCAPED = st.text(st.characters(codec="utf-8"), max_size=6).map(json.dumps) | st.sampled_from(
    [r'"\/"', r'"\u0041"', r'"\ud83d\ude00"', r'"\"\\\b\f\n\r\t"', r'"\u0000"']
)
ODD_SCALAR = SCALAR | ODD_NUMBER | NUMBER_TEXT.map(quoted) | TIME_TEXT.map(quoted) | ESCAPED
INNER_KEYS = st.sampled_from(["a", "a", "b", "c", "null", "sensor 1", "é", ""]).map(quoted)
FLAT = ODD_SCALAR | objects(INNER_KEYS, ODD_SCALAR, 3) | st.lists(ODD_SCALAR, max_size=3).map(", ".join).map("[{}]".format)
ANYTHING = ODD_SCALAR | FLAT | objects(INNER_KEYS, FLAT, 2) | st.lists(FLAT, max_size=2).map(", ".join).map("[{}]".format)
NUMBERS_OR_NULL = NUMBER | NUMBER.map(quoted) | st.sampled_from(["null", '"null"'])
TEXTS_OR_NULL = PLAIN_TEXT.map(quoted) | NUMBER_TEXT.map(quoted) | st.just("null")


def usual(kind: Type) -> list[st.SearchStrategy[str]]:
    """Return the ways in which whole batches may write values of a type."""
    ways = {
        "STRING": [PLAIN_TEXT.map(quoted), NUMBER | st.just("null")],
        "BIGINT": [st.sampled_from(["5", "-5", '"5"', "null", "1705320000123", "0"])],
        "DOUBLE": [NUMBER | NUMBER.map(quoted) | st.just("null")],
        "BOOLEAN": [st.sampled_from(["true", "false", "null"])],
        "TIMESTAMP_LTZ(3)": [TIME_TEXT.map(quoted) | st.just("null")],
        "MAP<STRING, STRING>": [objects(INNER_KEYS, TEXTS_OR_NULL)],
        "MAP<STRING, DOUBLE>": [objects(INNER_KEYS, NUMBERS_OR_NULL), objects(INNER_KEYS, TEXTS_OR_NULL), objects(INNER_KEYS, SCALAR)],
        "ARRAY<DOUBLE>": [st.lists(NUMBER, max_size=3).map(lambda items: f"[{','.join(items)}]")],
    }
    return ways.get(str(kind), [ANYTHING])


def mutated(lines: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return lines with some bytes changed, put in or cut out."""

    def mutate(line: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for place, length, put in changes:
            at = place % (len(line) + 1)
            line = line[:at] + put + line[at + length :]
        return line

    pieces = st.sampled_from(
        [b'"', b"\\", b"{", b"}", b"[", b",", b":", b"null", b"0", b"e", b".", b"-", b"\n", b"\r", b"\x00", b"\xff", b"\xc3", b" "]
    ) | st.binary(max_size=2)
    return st.builds(mutate, lines, st.lists(st.tuples(st.integers(0, 500), st.integers(0, 3), pieces), min_size=1, max_size=3))


def batch_of(case: Case, way: int, extra: Sequence[str]) -> st.SearchStrategy[list[bytes]]:
    """Return batches whose lines are mostly of one sort: each value in the same way, and besides the columns the fields `extra`."""
    values = {quoted(name): usual(kind)[way % len(usual(kind))] for name, kind in case.types.items()}
    plain = objects(st.sampled_from([*values, *values, *map(quoted, extra)]), values | dict.fromkeys(map(quoted, extra), SCALAR), 6).map(str.encode)
    keys = st.sampled_from([*values, *map(quoted, extra), *(json.dumps(json.loads(key)).replace("a", r"\u0061") for key in values)])
    odd = st.one_of(
        objects(keys, ANYTHING, 5).map(str.encode),
        objects(keys, ANYTHING | NOT_JSON, 5).map(str.encode),
        mutated(plain),
        mutated(plain),
        st.tuples(plain, st.sampled_from([b"", b" ", b",", b"\n", b"\r"]), plain).map(b"".join),
        st.tuples(plain, st.integers(0, 200)).map(lambda cut: cut[0][: cut[1]]),
        (ANYTHING | NOT_JSON).map(str.encode),
        st.sampled_from([b"", b" ", b"\t\r", b"\x0b", b"{}", b"{ }", b"[]", b"null", b"\xef\xbb\xbf{}", b"{}\r"]),
    )
    return st.builds(
        lambda first, odd, last: first + odd + last, st.lists(plain, min_size=1, max_size=5), st.lists(odd, max_size=3), st.lists(plain, max_size=2)
    )


EXTRA = [[], ["x", "y z", "null"], ['q"r', "a\\", 'a": 1, "b', "é"]]
BATCHES = {name: [batch_of(case, way, extra) for way in range(3) for extra in EXTRA] for name, case in CASES.items()}
RUNS = st.sampled_from([*CASES, *PLAIN, *PLAIN]).flatmap(
    lambda name: st.tuples(st.just(CASES[name]), st.lists(st.one_of(BATCHES[name]), min_size=1, max_size=3))
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(RUNS)
def test_a_batch_read_at_once_is_each_of_its_lines_read_by_the_rule_whatever_was_read_before(run: tuple[Case, list[list[bytes]]]) -> None:
    case, records = run
    reader = case.reader()
    for batch in records:
        assert read_shown(reader.read(Lines.of(batch)), case) == {place: rule_shown(record, case) for place, record in enumerate(batch)}


def records_of(text: bytes) -> Iterator[bytes]:
    """Yield the records of a file's text, by the contract: lines that are not blank, without BOM and CRLF."""
    for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        record = line.removesuffix(b"\r")
        if record.strip(MOST_WHITE.encode()):
            yield record


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "lines.ndjson"


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    run=RUNS, chunk=st.sampled_from([1, 20, 100, 300, 1000, 1 << 20]), start=st.sampled_from([b"", b"", b"\xef\xbb\xbf"]), end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
)  # fmt: skip
def test_a_file_read_by_chunks_is_each_of_its_lines_read_by_the_rule(
    path: Path, run: tuple[Case, list[list[bytes]]], chunk: int, start: bytes, end: bytes, *, last: bool
) -> None:
    case, batches = run
    text = start + end.join(record for batch in batches for record in batch) + end * last
    path.write_bytes(text)
    file, reader, fates = TextFile(path, "json", chunk), case.reader(), {}
    while not file.finished:
        first = file.position["record"]
        fates |= {first + place: fate for place, fate in read_shown(reader.read(file.read()), case).items()}
    file.close()
    assert fates == {place: rule_shown(record, case) for place, record in enumerate(records_of(text))}


# the rule itself against one made of Python's own JSON parser


class Whole(str):
    """The text of a JSON number without fraction and exponent."""

    __slots__ = ()


class Fraction(str):
    """The text of any other JSON number."""

    __slots__ = ()


def no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def one_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for part in (part for pair in pairs for part in pair):
        no_surrogate(part)
    return dict(pairs)


def no_surrogate(value: Any) -> None:
    match value:
        case str():
            value.encode()
        case list():
            for inner in value:
                no_surrogate(inner)


BROKEN = object()
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def oracle_double(text: str) -> Any:
    trimmed = text.strip(" \t\n\r\v\f")
    return float(trimmed) if DECIMAL.fullmatch(trimmed) and abs(float(trimmed)) != float("inf") else BROKEN


def oracle_bigint(text: str) -> Any:
    trimmed = text.strip(" \t\n\r\v\f")
    if not DECIMAL.fullmatch(trimmed):
        return BROKEN
    mantissa, _, exponent = trimmed.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("+-").partition(".")
    digits, power = (whole + fraction).lstrip("0"), int(exponent or 0) - len(fraction)
    if not digits:
        return 0
    digits, power = digits.rstrip("0"), power + len(digits) - len(digits.rstrip("0"))
    if power < 0 or len(digits) + power > 19:
        return BROKEN
    value = int(digits) * 10**power * (-1 if mantissa.startswith("-") else 1)
    return value if -(2**63) <= value < 2**63 else BROKEN


def oracle_timestamp(text: str) -> Any:
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)?", text.strip(" \t\n\r\v\f"), re.ASCII)
    try:
        time = datetime.strptime(f"{match[1]} {match[2]} {(match[4] or 'Z').replace('Z', '+00:00')}", "%Y-%m-%d %H:%M:%S %z") if match else BROKEN
        return time if not match else time.astimezone(UTC) + timedelta(milliseconds=int((match[3] or ".")[1:4].ljust(3, "0")))
    except (ValueError, OverflowError):
        return BROKEN


def oracle_compact(value: Any) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{quoted(key)}:{oracle_compact(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ",".join(map(oracle_compact, value)) + "]"
        case Fraction():
            return str(value) if oracle_double(value) is BROKEN else repr(float(value))
        case Whole():
            return str(int(value))
        case str():
            return quoted(value)
    return json.dumps(value)


def oracle_value(value: Any, kind: Type) -> Any:
    name, number = kind.kind, isinstance(value, (Whole, Fraction))
    if value is None:
        return None
    if name == "MAP":
        inner = {key: oracle_value(one, kind.element) for key, one in value.items()} if isinstance(value, dict) else BROKEN
        return inner if inner is BROKEN else {key: None if one is BROKEN else one for key, one in inner.items()}
    if name == "ARRAY":
        items = [oracle_value(one, kind.element) for one in value] if isinstance(value, list) else [BROKEN]
        return BROKEN if BROKEN in items else items
    if name == "ROW":
        row = {one: oracle_value(value.get(one), inner) for one, inner in kind.fields()} if isinstance(value, dict) else {"": BROKEN}
        return BROKEN if BROKEN in row.values() else row
    if name == "STRING":
        if isinstance(value, Fraction) and oracle_double(value) is BROKEN:
            return BROKEN
        return str(value) if isinstance(value, str) and not number else oracle_compact(value)
    if name == "BOOLEAN":
        text = value.strip(" \t\n\r\v\f").lower() if isinstance(value, str) and not number else value
        return (
            {"true": True, "false": False}.get(text, BROKEN) if isinstance(text, str) and not number else text if isinstance(text, bool) else BROKEN
        )
    if not isinstance(value, str) or (name == "TIMESTAMP_LTZ(3)" and number):
        return BROKEN
    text = str(int(value)) if isinstance(value, Whole) else value
    return {"DOUBLE": oracle_double, "BIGINT": oracle_bigint, "TIMESTAMP_LTZ(3)": oracle_timestamp}[name](text)


def oracle(record: bytes, case: Case) -> Any:
    """Return the values of a record by column, or None if it is malformed."""
    try:
        found = json.loads(record.decode(), parse_constant=no_constant, parse_int=Whole, parse_float=Fraction, object_pairs_hook=one_object)
        no_surrogate(found)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    row = {field.name: oracle_value(found.get(field.name), field.type) for field in case.schema.fields}
    if BROKEN in row.values():
        return None
    if case.rest:
        others = {name: value for name, value in found.items() if name not in case.columns and value is not None}
        row[case.rest] = oracle_value(others, case.rest_type)
    return shown(row)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(RUNS)
def test_the_rule_agrees_with_pythons_own_json_parser(run: tuple[Case, list[list[bytes]]]) -> None:
    case, batches = run
    for record in (record for batch in batches for record in batch):
        row = case.rule(record)
        assert (None if isinstance(row, Malformed) else shown(row)) == oracle(record, case), record


# which lines are read fast


def plain_lines(name: str, count: int) -> list[bytes]:
    return [PLAIN[name] % (number % 7, number, number % 10) for number in range(count)]


@pytest.mark.parametrize("name", PLAIN)
def test_of_a_clean_batch_no_line_is_read_slowly(name: str) -> None:
    case, lines = CASES[name], plain_lines(name, 1000)
    reader = case.reader()
    for batch in (
        Lines.of(lines),
        TextLines(b"\n".join(lines)),
        TextLines(b"\n".join(lines)),
        TextLines(b"\n".join(lines) + b"\n\n"),
        TextLines(b"\r\n".join(lines)),
    ):
        read = reader.read(batch)
        assert reader.slow == []
        assert reader.by_rule == 0
        assert read_shown(read, case) == {place: rule_shown(line, case) for place, line in enumerate(lines)}


@pytest.mark.parametrize("bad", [b'{"equip_id": "kiln", "data": {"a": "\\u0041"}}', b"{", b"", b"\xff", b'{"timestamp": 5.0}', b"{}{}"], ids=repr)
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_odd_line_in_a_thousand_is_alone_in_being_read_slowly(bad: bytes, place: int) -> None:
    case, lines = CASES["fingerprint"], plain_lines("fingerprint", 1000)
    lines[place] = bad
    expected = {place: rule_shown(line, case) for place, line in enumerate(lines)}
    learnt = case.reader()
    learnt.read(Lines.of(plain_lines("fingerprint", 100)))
    for reader in (case.reader(), learnt):
        read = reader.read(Lines.of(lines))
        assert reader.slow == [place]
        assert read_shown(read, case) == expected
    if bad:
        read = learnt.read(TextLines(b"\n".join(lines)))
        assert learnt.slow == [place]
        assert read_shown(read, case) == expected


def test_a_reader_that_learnt_one_shape_learns_another_when_the_lines_change() -> None:
    case, reader = CASES["numbers"], CASES["numbers"].reader()
    shapes = [
        PLAIN["numbers"],
        b'{"timestamp":1%d,"new":"x%05d","equip_id":%d,"data":{"temp":"2.5","state":"on"}}',
        b'{"data":{"a":%d,"b":1%05d.5,"c":null},"timestamp":"%d"}',
        PLAIN["numbers"],
    ]
    for shape in shapes:
        lines = [shape % (number % 7, number, number % 10) for number in range(200)]
        read = reader.read(Lines.of(lines))
        assert reader.slow == []
        assert read_shown(read, case) == {place: rule_shown(line, case) for place, line in enumerate(lines)}


def test_a_batch_of_two_shapes_by_turns_is_read_right() -> None:
    case, reader = CASES["numbers"], CASES["numbers"].reader()
    lines = [line for pair in zip(plain_lines("numbers", 100), plain_lines("numbers left unread", 100), strict=True) for line in pair]
    for _ in range(3):
        assert read_shown(reader.read(Lines.of(lines)), case) == {place: rule_shown(line, case) for place, line in enumerate(lines)}


# lines with which a fast reader goes wrong


HOSTILE = {
    "a text that is no timestamp": ("scalars", b'{"t": "noon"}'),
    "a text that is null where times are texts": ("one column", b'{"t": "null"}'),
    "a timestamp with a fraction": ("scalars", b'{"t": "2024-01-15T12:00:00.001Z"}'),
    "a timestamp of the year 0": ("scalars", b'{"t": "0000-01-01T00:00:00Z"}'),
    "a leap second": ("scalars", b'{"t": "2016-12-31T23:59:60Z"}'),
    "a timestamp inside a row": ("containers", b'{"r": {"a": 1, "t": "2024-01-15T12:00:00.001Z"}}'),
    "null as a text behind two spaces": ("numbers", b'{"data": {"a": 1, "b":  "null"}}'),
    "null as a text before a space": ("numbers", b'{"data": {"a": 1, "b" :"null" }}'),
    "null as a text in another column": ("numbers", b'{"equip_id": "null", "data": {"a": 1, "b": "null"}}'),
    "null as a key": ("numbers", b'{"equip_id": "x", "data": {"null": 1, "x:": "null", "null": "null"}}'),
    "null as a text in a map of texts": ("maps of numbers and of texts", b'{"data": {"a": 1, "b": "null"}, "m": {"a": "null"}, "s": "null"}'),
    "a fraction where whole numbers are": ("fingerprint", b'{"timestamp": 1.5}'),
    "a number in a map of texts": ("fingerprint", b'{"data": {"a": 2.50}}'),
    "a repeated column": ("numbers", b'{"timestamp": 1, "data": {"a": 1}, "timestamp": 2, "data": {"b": 2}}'),
    "a repeated column whose last is null": ("numbers", b'{"timestamp": 1, "data": {"a": 1}, "data": null, "timestamp": null}'),
    "a repeated column whose first is unreadable": ("fingerprint", b'{"timestamp": "x", "timestamp": 2}'),
    "a repeated key": ("numbers", b'{"data": {"b": 1, "a": 2, "b": 3}}'),
    "a repeated key whose last is null": ("numbers", b'{"data": {"b": 1, "a": 2, "b": null}}'),
    "a repeated key in a map of texts": ("fingerprint", b'{"data": {"b": "1", "a": "2", "b": "3"}}'),
    "a repeated key in a map of texts to be read": ("odd names", b'{"null": {"a": "", "a": "", "b": "", "c": " 7 "}}'),
    "a repeated key in a map left unread": ("numbers left unread", b'{"data": {"b": "1", "a": "2", "b": "x"}}'),
    "an integer one too great": ("scalars", b'{"i": 9223372036854775808}'),
    "an integer that is a negative zero": ("scalars", b'{"i": -0, "d": -0, "s": -0}'),
    "a number beyond DOUBLE": ("scalars", b'{"d": 1e400}'),
    "a text beyond DOUBLE": ("scalars", b'{"d": "-1e999"}'),
    "numbers beyond DOUBLE in a map": ("numbers", b'{"data": {"a": 1e400, "b": "1e400", "c": 1.5}}'),
    "texts beyond DOUBLE in a map": ("numbers left unread", b'{"data": {"a": "1e400", "b": "1.5"}}'),
    "a negative zero": ("scalars", b'{"d": -0.0}'),
    "a control character": ("fingerprint", b'{"equip_id": "a\x01b"}'),
    "a DEL and a line separator": ("fingerprint", b'{"equip_id": "a\x7f\xe2\x80\xa8b"}'),
    "a raw newline inside": ("fingerprint", b'{"equip_id":\n"a"}'),
    "a raw newline in a text": ("fingerprint", b'{"equip_id": "a\nb"}'),
    "a line end behind": ("fingerprint", b'{"equip_id": "a"}\n'),
    "a second object behind a line end": ("fingerprint", b'{"equip_id": "a"}\n{"equip_id": "b"}'),
    "a lone surrogate in a field not declared": ("fingerprint", rb'{"equip_id": "a", "x": "\ud800"}'),
    "a lone surrogate in a field read over": ("fingerprint", rb'{"equip_id": "\ud800", "equip_id": "b"}'),
    "an infinity in a field not declared": ("fingerprint", b'{"equip_id": "a", "x": 1e400}'),
    "an object of 300 fields not declared": ("fingerprint", b'{"equip_id": "a"' + b"".join(b', "x%d": %d' % (number, number) for number in range(300)) + b"}"),
    "one key less": ("rest of texts beside a text", b'{"equip_id": "a", "z": "", "temp": "1"}'),
    "keys in another order": ("rest of texts beside a text", b'{"z": "", "equip_id": "a", "temp": "1", "\xc3\xa9": "1"}'),
    "a key twice": ("rest of texts beside a text", b'{"equip_id": "a", "z": "", "temp": "1", "\xc3\xa9": "1", "z": "2"}'),
    "a null among texts": ("rest of texts beside a text", b'{"equip_id": "a", "z": null, "temp": "1", "\xc3\xa9": "1"}'),
    "an escape among texts": ("rest of texts beside a text", rb'{"equip_id": "a", "z": "\"", "temp": "1\n", "\u00e9": "1"}'),
    "a line end in a text": ("rest of texts beside a text", b'{"equip_id": "a", "z": "\r", "temp": "1", "\xc3\xa9": "1"}'),
    "a text of NaN in a rest of numbers": ("rest of numbers beside a text", b'{"temp":"NaN","equip_id":"a","null":"1e999","state":" 7 "}'),
    "a text of NaN in a rest left unread": ("rest left unread", b'{"equip_id":"a","temp":"inf","state":"1_0","count":"0x1"}'),
    "deep nesting not declared": ("fingerprint", b'{"equip_id": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "line"), HOSTILE.values(), ids=HOSTILE)
def test_a_line_that_misleads_fast_readers_is_read_right_alone_and_among_plain_ones(name: str, line: bytes) -> None:
    case, plain = CASES[name], plain_lines(name, 20) if name in PLAIN else []
    for batch in ([line], [line, line], [*plain, line, *plain], [line, *plain]):
        expected = {place: rule_shown(record, case) for place, record in enumerate(batch)}
        reader, learnt = case.reader(), case.reader()
        learnt.read(Lines.of(plain))
        for _ in range(2):
            assert read_shown(reader.read(Lines.of(batch)), case) == expected
            assert read_shown(learnt.read(Lines.of(batch)), case) == expected
        if b"\n" not in line:
            assert read_shown(reader.read(TextLines(b"\n".join(batch))), case) == expected


HUGE = {
    "a 10 MB text": ("fingerprint", b'{"equip_id": "' + b"x" * 10_000_000 + b'"}'),
    "a 10 MB field not declared": ("fingerprint", b'{"equip_id": "a", "x": "' + b"y" * 10_000_000 + b'"}'),
    "a 10 MB key not declared": ("fingerprint", b'{"equip_id": "a", "' + b"k" * 10_000_000 + b'": 1}'),
    "200 keys of 2 kB not declared": ("fingerprint", b'{"equip_id": "a"' + b"".join(b', "%d%s": 1' % (number, b"k" * 2000) for number in range(200)) + b"}"),
    "a map of 50,000 entries": ("numbers", b'{"data": {' + b", ".join(b'"sensor %d": %d.5' % (number, number) for number in range(50_000)) + b"}}"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "line"), HUGE.values(), ids=HUGE)
def test_a_huge_line_is_read_right_and_costs_its_neighbours_nothing(name: str, line: bytes) -> None:
    case, plain, reader = CASES[name], plain_lines(name, 20), CASES[name].reader()
    expected = {place: rule_shown(record, case) for place, record in enumerate([*plain, line, *plain])}
    for batch in (Lines.of([*plain, line, *plain]), TextLines(b"\n".join([*plain, line, *plain]))):
        assert read_shown(reader.read(batch), case) == expected
        assert set(reader.slow) <= {20}


TAUGHT = {
    "a quote": ('a": 1.5, "b', b'{"a": 1.5, "b": 2}'),
    "a quote of its own column": ('a": "x', b'{"a": "x": 1}'),
    "a control character": ("x\x01", b'{"x\x01": 1}'),
    "a line end": ("x\ny", b'{"x\ny": 1}'),
    "a tab": ("x\ty", b'{"x\ty": 1}'),
    "a backslash": ("x\\q", rb'{"x\q": 1}'),
    "a backslash at its end": ("x\\", rb'{"x\": 1}'),
    "the form of an escape": ("\\u0061", rb'{"\u0061": "x"}'),
    "characters of regular expressions": ("(x|y).*$^[a-z]+?#&~-/ ", b'{"(x|y).*$^[a-z]+?#&~-/ ": 1}'),
    "nothing in it": ("", b'{"": 1}'),
}


@pytest.mark.parametrize(("name", "line"), TAUGHT.values(), ids=TAUGHT)
def test_a_field_name_that_was_learnt_cannot_make_a_bad_line_pass(name: str, line: bytes) -> None:
    case = Case({"a": "BIGINT"})
    teaching = [f'{{"a": 1, {json.dumps(name)}: 2}}'.encode()] * 9
    batch = [*teaching, line]
    for batches in ([batch], [teaching, batch], [teaching, [line] * 9]):
        reader = case.reader()
        for one in batches:
            assert read_shown(reader.read(Lines.of(one)), case) == {place: rule_shown(record, case) for place, record in enumerate(one)}


@pytest.mark.parametrize("kind", ["DOUBLE", "BIGINT", "STRING", "MAP<STRING, DOUBLE>"])
def test_a_schema_of_hundreds_of_columns_is_read_right(kind: str) -> None:
    case = Case({f"column_{number}": kind for number in range(500)})
    value = {"MAP<STRING, DOUBLE>": {"a": 1.5}, "STRING": "x"}.get(kind, 5)
    lines = [json.dumps(dict.fromkeys(case.columns, value)).encode(), b'{"column_7": null}', b'{"column_7": [}', b"{}"]
    reader = case.reader()
    for batch in (Lines.of(lines), Lines.of(lines * 5), TextLines(b"\n".join(lines))):
        count = len(lines) * 5 if len(batch) > len(lines) else len(lines)
        assert read_shown(reader.read(batch), case) == {place: rule_shown(lines[place % len(lines)], case) for place in range(count)}


def test_lines_that_no_decoder_takes_at_once_come_out_in_their_order() -> None:
    case, count = CASES["fingerprint"], 40_000
    lines = plain_lines("fingerprint", count)
    for place in range(0, count, 1000):
        lines[place] = b'{"timestamp": "%d.0", "equip_id": "\\u0041"}' % place
    read = case.reader().read(TextLines(b"\n".join(lines)))
    assert read.malformed == {}
    assert read.frame["@record"].to_list() == list(range(count))
    assert read.frame["equip_id"].to_list() == ["A" if place % 1000 == 0 else f"kiln-{place % 7}" for place in range(count)]
    assert read.frame["timestamp"][::1000].to_list() == list(range(0, count, 1000))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_and_one_of_malformed_lines_alone_give_an_empty_frame_of_the_same_columns(name: str) -> None:
    case = CASES[name]
    for batch in (Lines.of([]), TextLines(b""), TextLines(b"\n \n"), Lines.of([b"x", b"\xff"])):
        reader = case.reader()
        for _ in range(2):
            read = reader.read(batch)
            assert read_shown(read, case) == {place: rule_shown(record, case) for place, record in enumerate([b"x", b"\xff"][: len(batch)])}
            assert {name: read.frame.schema[name] for name in case.types} == {name: polars_type(kind) for name, kind in case.types.items()}


@settings(deadline=None)
@example(b"\xff\n{}\n\xfe")
@example(b'{"equip_id": "a"}\r\r\n\xff\r\n\r\n')
@given(st.lists(st.sampled_from([b'{"equip_id": "a"}', b"\xff", b"\xc3(\r", b"", b" ", b"\r", b"x"]), max_size=8).map(b"\n".join))
def test_a_record_can_be_had_again_as_it_came(text: bytes) -> None:
    batch = TextLines(text)
    for place, record in enumerate(records_of(text)):
        raw = batch.raw(place)
        assert (raw if isinstance(raw, bytes) else raw.encode()) == record
        assert isinstance(raw, bytes) == (not record.isascii())
    assert len(batch) == len(list(records_of(text)))


@given(
    st.lists(st.text(alphabet='{}":, ,a1é\u2028\x00\r\t\x0b\ufeff"\\', max_size=12) | st.just("") | st.text(max_size=300), min_size=1, max_size=60)
)
def test_the_lines_of_a_text_are_what_stands_between_its_line_ends(lines: list[str]) -> None:
    records = [line.replace("\n", "") for line in lines]
    whole = "\n".join(records).encode("utf-8", "replace")
    cut = whole.decode().split("\n")
    assert TextLines(whole, len(cut)).text.to_list() == cut
    unended = [line.removesuffix("\r") for line in cut]
    assert TextLines(whole).text.to_list() == [line for line in unended if line.strip(" \t\r\x0b\x0c")]
