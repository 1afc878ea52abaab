"""The line protocol: what is written is read back exactly by a parser that follows InfluxDB's, or refused with a reason."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.connectors.influx_lines import Lines, Unfit, escaped


def scan(text: str, place: int, ends: str) -> tuple[str, int]:
    """Return a text up to one of the characters, as InfluxDB reads it: one after a backslash is part of the text."""
    begin = place
    while place < len(text) and not (text[place] in ends and (place == begin or text[place - 1] != "\\")):
        place += 1
    raw = text[begin:place]
    for special in ", =":
        raw = raw.replace("\\" + special, special)
    return raw, place


def parsed(text: str) -> tuple[str, dict[str, str], dict[str, Any], int]:
    """Return measurement, tags, fields and time of a line."""
    measurement, place = scan(text, 0, ", ")
    tags: dict[str, str] = {}
    while text[place] == ",":
        name, place = scan(text, place + 1, "=")
        value, place = scan(text, place + 1, ", ")
        assert name and value and name not in tags
        tags[name] = value
    fields: dict[str, Any] = {}
    assert text[place] == " "
    while not fields or text[place] == ",":
        name, place = scan(text, place + 1, "=")
        place += 1
        if text[place] == '"':
            content, place = "", place + 1
            while text[place] != '"':
                if text[place] == "\\" and text[place + 1] in '\\"':
                    place += 1
                content += text[place]
                place += 1
            value_, place = content, place + 1
        else:
            raw, place = scan(text, place, ", ")
            value_ = {"true": True, "false": False}[raw] if raw[0] in "tf" else (int(raw[:-1]),) if raw[-1] == "i" else float(raw)
        assert name and name not in fields
        fields[name] = value_
    assert text[place] == " "
    return measurement, tags, fields, int(text[place + 1 :])


def line(record: Any, **options: Any) -> tuple[str, dict[str, str], dict[str, Any], int]:
    value = record if isinstance(record, bytes) else json.dumps(record).encode()
    return parsed(Lines.of(**({"measurement": "m"} | options)).line("topic", value).decode())


TEXTS = st.text(st.one_of(st.sampled_from('\\", =\n#it0\x7fé'), st.characters(exclude_categories=["Cs"])), max_size=8)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**1100), 2**1100), st.floats(allow_nan=False, allow_infinity=False), TEXTS)


def plain(text: str) -> bool:
    """Whether a name or tag is one that the protocol has: no control character, no backslash where it would mean something."""
    return not any(ord(one) < 32 or ord(one) == 127 for one in text) and not any(
        mark in text + "\0" for mark in ("\\,", "\\=", "\\ ", "\\\\", "\\\0")
    )


@given(
    TEXTS.filter(bool),
    st.dictionaries(TEXTS, VALUES, max_size=5),
    st.lists(TEXTS.filter(lambda name: name not in {"", "at"}), max_size=2, unique=True),
    st.integers(-(2**62), 2**62),
)
@example("m", {"a": "\\", "b": '\\"', "c": "x\ny"}, [], 0)
@example("m", {"a b=c,d": 1, "t": "\\x"}, ["t"], 0)
def test_a_line_is_read_back_exactly_or_refused(measurement: str, record: dict[str, Any], tags: list[str], at: int) -> None:
    record = record | {"at": at}
    named = [name for name in record if name != "at" and record[name] is not None]
    written = {name: ("true" if record[name] is True else "false" if record[name] is False else str(record[name])) for name in named if name in tags}
    wanted_tags = {name: value for name, value in written.items() if value}
    wanted = {name: record[name] for name in named if name not in tags}
    names = [measurement, *tags, *wanted_tags.values(), *(name for name in record if name not in tags and name != "at")]
    fit = (
        bool(wanted) and all(map(plain, names)) and measurement[0] != "#"
        and all(name not in {"", "time", "_field", "_measurement"} for name in record if name not in tags)
        and not any(type(value) is int and value.bit_length() >= 1024 for value in wanted.values())
    )  # fmt: skip
    try:
        found = line(record, measurement=measurement, tags=tags, time="at", time_unit="ns")
    except Unfit:
        assert not fit
        return
    assert found == (measurement, wanted_tags, {name: float(v) if type(v) is int else v for name, v in wanted.items()}, at)
    assert [type(value) for value in found[2].values()] == [float if type(value) is int else type(value) for value in wanted.values()]


@given(st.integers(-(2**63) + 10**4, 2**63 - 10**4), st.sampled_from([("ns", 1), ("us", 10**3), ("ms", 10**6), ("s", 10**9)]), st.booleans())
def test_a_time_as_a_number_or_a_text_is_exact(ns: int, unit: tuple[str, int], text: bool) -> None:
    name, factor = unit
    whole, rest = divmod(abs(ns), factor)
    written = f"{'-' if ns < 0 else ''}{whole}" + (f".{rest:0{len(str(factor)) - 1}d}" if factor > 1 else "")
    if text:
        assert line({"time": written, "v": 1}, time_unit=name)[3] == ns
    else:  # a JSON number is a double, and its shortest decimal is what the sender has written
        given_ = float(written) if factor > 1 else ns
        assert line({"time": given_, "v": 1}, time_unit=name)[3] == (ns if factor == 1 else round(Fraction(repr(given_)) * factor))


@pytest.mark.parametrize(
    ("given_", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01 00:00", 0),
        ("2023-01-01T00:00:00.123456789+01:00", 1672527600123456789),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1574649591000000000", 1574649591000000000 * 10**6),
        (True, None), ([1], None), ("2023-02-30T00:00:00Z", None), ("2023-01-01T00:00:00.1234567891Z", None), ("soon", None), ("", None),
        ("2300-01-01T00:00:00Z", None), (10**18, None), (1e300, None), (None, None), (float(2**63) / 1e6 + 1, None),
    ],
)  # fmt: skip
def test_a_time_is_exact_or_refused(given_: Any, ns: int | None) -> None:
    if ns is None or not -(2**63) < ns < 2**63:
        with pytest.raises(Unfit, match=r"time"):
            line({"time": given_, "v": 1})
        return
    assert line({"time": given_, "v": 1})[3] == ns


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"[1]", "is not a JSON object"),
        (b'{"time": 1, "v": NaN}', "is not JSON"),
        (b"\xff", "is not JSON"),
        ({"v": 1}, "has no time: nothing is in 'time'"),
        ({"time": 1, "v": None, "tag": "a"}, "has no field: all of them are null, tags or the time"),
        ({"time": 1, "_field": 1}, "has a field named '_field', which InfluxDB does not take; fields= names those that it gets"),
        ({"time": 1, "v": 10**400}, "has too large a number in 'v'"),
        ({"time": 1, "v": 1, "tag": "a\nb"}, "has the control character '\\n': 'a\\nb'"),
        ({"time": 1, "v": 1, "tag": "a\\"}, "has a backslash where the line protocol cannot have one: 'a\\\\'"),
        ({"time": 1, "n": 1.5}, "has '1.5' in 'n', which is no 64-bit integer"),
        ({"time": 1, "n": 2**63}, "has '9223372036854775808' in 'n', which is no 64-bit integer"),
        ({"time": 1, "a": {"b": 1}, "a.b": 2}, "has two values named 'a.b'"),
    ],
)
def test_what_cannot_be_a_point_says_why(record: Any, says: str) -> None:
    with pytest.raises(Unfit) as raised:
        line(record, tags=["tag"], integers=["n"])
    assert str(raised.value) == says


def test_which_members_are_tags_and_fields() -> None:
    record = {"time": 1, "tag": "k 1", "n": 2.0, "v": 2, "inner": {"a": [True, {"b": "x"}], "c": {}}, "id": 7, "none": None, "empty": ""}
    assert line(record, tags=["tag", "id", "inner.a.0", "none", "empty"], integers=["n"]) == (
        "m", {"tag": "k 1", "id": "7", "inner.a.0": "true"}, {"n": (2,), "v": 2.0, "inner.a.1.b": "x"}, 10**6,
    )  # fmt: skip
    assert line(record, tags=["tag"], fields=["v", "empty", "other"])[2] == {"v": 2.0, "empty": ""}
    assert line(record, measurement=None)[0] == "topic"
    assert math.copysign(1, line(b'{"time":1,"v":-0.0}')[2]["v"]) == -1


def test_names_that_do_not_end_take_no_memory() -> None:
    lines = Lines.of("m")
    for number in range(25_000):
        lines.line("topic", b'{"time":1,"v%d":1}' % number)
    assert len(lines._prefixes) <= 10_000
    assert escaped("x" * 100_000) == "x" * 100_000
