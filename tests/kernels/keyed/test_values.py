"""Values of a declared type: what is one, what it becomes, and what is told of what is none."""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from datetime import UTC, datetime
from math import copysign
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exact import shown
from headrace.errors import ProcessError
from headrace.kernels.keyed.values import accept_of, row_accept_of
from headrace.plan.schema import FIRST_MS, LAST_MS, Schema, Type, parse_type

TYPES = ["BOOLEAN", "BIGINT", "DOUBLE", "STRING", "TIMESTAMP_LTZ(3)", "MAP<STRING, DOUBLE>", "ARRAY<BIGINT>", "ROW<x BIGINT, `the y` ARRAY<DOUBLE>>"]
GREATEST = 2**63 - 1


@pytest.mark.parametrize(
    ("kind", "value", "accepted"),
    [
        ("BOOLEAN", True, True),
        ("BIGINT", -GREATEST - 1, -GREATEST - 1),
        ("BIGINT", GREATEST, GREATEST),
        ("TIMESTAMP_LTZ(3)", -1, -1),
        ("TIMESTAMP_LTZ(3)", FIRST_MS, FIRST_MS),
        ("ARRAY<TIMESTAMP_LTZ(3)>", [LAST_MS], [LAST_MS]),
        ("DOUBLE", 1.5, 1.5),
        ("DOUBLE", 2, 2.0),
        ("STRING", "", ""),
        ("STRING", "Ofen 4 µ🔥", "Ofen 4 µ🔥"),
        ("MAP<STRING, DOUBLE>", {"b": 1, "a": None}, {"b": 1.0, "a": None}),
        ("MAP<STRING, DOUBLE>", MappingProxyType({"a": 1.0}), {"a": 1.0}),
        ("MAP<STRING, ARRAY<BIGINT>>", OrderedDict(a=(1, 2)), {"a": [1, 2]}),
        ("ARRAY<DOUBLE>", (1, None), [1.0, None]),
        ("ARRAY<DOUBLE>", deque([1, 2.5]), [1.0, 2.5]),
        ("ARRAY<BIGINT>", (n * n for n in range(3)), [0, 1, 4]),
        ("ARRAY<STRING>", {"b": 1, "a": 2}.keys(), ["b", "a"]),
        ("ROW<x DOUBLE, y STRING>", {"y": "a"}, {"x": None, "y": "a"}),
        ("ROW<x DOUBLE, y STRING>", {"y": "a", "x": 1}, {"x": 1.0, "y": "a"}),
    ],
)
def test_a_value_becomes_one_of_its_type(kind: str, value: object, accepted: object) -> None:
    assert shown(accept_of(parse_type(kind))(value)) == shown(accepted)


@pytest.mark.parametrize("kind", TYPES)
def test_none_is_one_of_every_type(kind: str) -> None:
    assert accept_of(parse_type(kind))(None) is None


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        ("BOOLEAN", 1, "1 is not a BOOLEAN"),
        ("BOOLEAN", "true", "'true' is not a BOOLEAN"),
        ("BIGINT", True, "True is not a whole number of 64 bits"),
        ("BIGINT", 1.0, "1.0 is not a whole number"),
        ("BIGINT", GREATEST + 1, "9223372036854775808 is not a whole number"),
        ("TIMESTAMP_LTZ(3)", LAST_MS + 1, "253402300800000 is not a TIMESTAMP_LTZ(3): it lies outside the years 1 to 9999"),
        ("TIMESTAMP_LTZ(3)", FIRST_MS - 1, "-62135596800001 is not a TIMESTAMP_LTZ(3)"),
        ("TIMESTAMP_LTZ(3)", GREATEST, "9223372036854775807 is not a TIMESTAMP_LTZ(3)"),
        ("TIMESTAMP_LTZ(3)", -GREATEST - 2, "-9223372036854775809 is not a TIMESTAMP_LTZ(3)"),
        ("ARRAY<TIMESTAMP_LTZ(3)>", [0, LAST_MS + 1], "253402300800000 is not a TIMESTAMP_LTZ(3)"),
        ("MAP<STRING, TIMESTAMP_LTZ(3)>", {"a": LAST_MS + 1}, "253402300800000 is not a TIMESTAMP_LTZ(3)"),
        ("ROW<x TIMESTAMP_LTZ(3)>", {"x": FIRST_MS - 1}, "-62135596800001 is not a TIMESTAMP_LTZ(3)"),
        ("TIMESTAMP_LTZ(3)", 1.5, "1.5 is not a whole number of ms since the epoch"),
        ("TIMESTAMP_LTZ(3)", datetime(2026, 1, 1, tzinfo=UTC), "is not a whole number of ms since the epoch; write round(moment.timestamp() * 1000)"),
        ("TIMESTAMP_LTZ(3)", "2026-01-01T08:00:00Z", "ms since the epoch; write round(datetime.fromisoformat(text).timestamp() * 1000)"),
        ("DOUBLE", "1", "'1' is not a finite DOUBLE"),
        ("DOUBLE", False, "False is not a finite DOUBLE"),
        ("DOUBLE", float("nan"), "nan is not a finite DOUBLE"),
        ("DOUBLE", float("-inf"), "-inf is not a finite DOUBLE"),
        ("DOUBLE", 10**400, "is not a finite DOUBLE"),
        ("STRING", 1, "1 is not a STRING"),
        ("STRING", b"a", "b'a' is not a STRING"),
        ("STRING", "half \ud83d of a sign", r"'half \ud83d of a sign' is not a STRING"),
        ("STRING", ["x" * 500], "…"),
        ("MAP<STRING, DOUBLE>", [("a", 1.0)], "[('a', 1.0)] is not a MAP<STRING, DOUBLE>"),
        ("MAP<STRING, DOUBLE>", {1: 1.0}, "{1: 1.0} is not a MAP<STRING, DOUBLE>"),
        ("MAP<STRING, DOUBLE>", {"\udc00": 1.0}, "is not a MAP<STRING, DOUBLE>"),
        ("MAP<STRING, DOUBLE>", {"a": "x"}, "'x' is not a finite DOUBLE"),
        ("ARRAY<STRING>", "ab", "'ab' is not a ARRAY<STRING>"),
        ("ARRAY<STRING>", {"a": 1}, "{'a': 1} is not a ARRAY<STRING>"),
        ("ARRAY<STRING>", {"a"}, "{'a'} is not a ARRAY<STRING>"),
        ("ARRAY<STRING>", frozenset("a"), "is not a ARRAY<STRING>"),
        ("ARRAY<STRING>", 5, "5 is not a ARRAY<STRING>"),
        ("ARRAY<BIGINT>", [1, "x"], "'x' is not a whole number"),
        ("ROW<x BIGINT>", {"y": 1}, "{'y': 1} is not a ROW<x BIGINT>"),
        ("ROW<x BIGINT>", {"x": "1"}, "'1' is not a whole number"),
        ("ROW<x BIGINT>", (1,), "(1,) is not a ROW<x BIGINT>"),
    ],
)
def test_what_is_no_value_of_a_type_is_refused_by_name(kind: str, value: object, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        accept_of(parse_type(kind))(value)
    assert len(str(caught.value)) < 150


def test_what_is_accepted_shares_nothing_with_what_was_given() -> None:
    given = {"a": [1, 2]}
    accepted: Any = accept_of(parse_type("MAP<STRING, ARRAY<BIGINT>>"))(given)
    given["a"].append(3)
    assert accepted == {"a": [1, 2]}


# Any type, with any value of it as an author may give it.

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "BOOLEAN": st.booleans(),
    "BIGINT": st.integers(-GREATEST - 1, GREATEST),
    "TIMESTAMP_LTZ(3)": st.integers(FIRST_MS, LAST_MS),
    "DOUBLE": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70),
    "STRING": texts,
}
types = st.recursive(
    st.sampled_from([Type(kind) for kind in SCALARS]),
    lambda inner: (
        inner.map(lambda kind: Type("ARRAY", (kind,)))
        | inner.map(lambda kind: Type("MAP", (Type("STRING"), kind)))
        | st.dictionaries(st.sampled_from("xyz"), inner, min_size=1).map(lambda fields: Type("ROW", tuple(fields.values()), tuple(fields)))
    ),
    max_leaves=4,
)


def values_of(kind: Type) -> st.SearchStrategy[Any]:
    match kind.kind:
        case "ARRAY":
            found: Any = st.lists(values_of(kind.element), max_size=3)
        case "MAP":
            found = st.dictionaries(texts, values_of(kind.element), max_size=3)
        case "ROW":
            found = st.fixed_dictionaries({}, optional={name: values_of(one) for name, one in kind.fields()})
        case scalar:
            found = SCALARS[scalar]
    return st.none() | found


@given(st.data(), types)
def test_what_is_accepted_is_accepted_again_as_it_is_and_comes_back_from_its_bytes(data: st.DataObject, kind: Type) -> None:
    accept = accept_of(kind)
    accepted = accept(data.draw(values_of(kind)))
    assert shown(accept(accepted)) == shown(accepted)
    assert shown(msgspec.msgpack.decode(msgspec.msgpack.encode(accepted))) == shown(accepted)


# rows

rows = row_accept_of(Schema.parse({"n": "BIGINT NOT NULL", "v": "DOUBLE", "m": "MAP<STRING, DOUBLE>"}), "output 'alarms'")


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ({"n": 1, "v": 2, "m": {"a": 1}}, [1, 2.0, {"a": 1.0}]),
        ({"m": None, "n": 1}, [1, None, None]),
        (MappingProxyType({"v": -0.0, "n": 0}), [0, -0.0, None]),
    ],
)
def test_a_row_becomes_values_in_the_order_of_its_columns(row: object, values: list[Any]) -> None:
    assert shown(rows(row)) == shown(values)
    assert values[1] is None or copysign(1, rows(row)[1]) == copysign(1, values[1])


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (5, "gives 5 as a row of output 'alarms'; give a dict of columns"),
        (None, "gives None as a row of output 'alarms'"),
        ([("n", 1)], "gives [('n', 1)] as a row of output 'alarms'"),
        ({"n": 1, "w": 2}, "gives 'w', which output 'alarms' does not declare; there is: m, n, v"),
        ({"n": 1, "V": 2}, "gives 'V', which output 'alarms' does not declare; did you mean 'v'?"),
        ({"n": 1, 7: 2}, "gives 7, which output 'alarms' does not declare"),
        ({"n": 1, "v": "hot"}, "gives 'v' of output 'alarms' off its type: 'hot' is not a finite DOUBLE"),
        ({"n": 1, "m": {"a": "hot"}}, "gives 'm' of output 'alarms' off its type: 'hot' is not a finite DOUBLE"),
        ({"v": 1}, "gives no 'n', which output 'alarms' declares NOT NULL"),
        ({"n": None}, "gives no 'n', which output 'alarms' declares NOT NULL"),
        ({}, "gives no 'n', which output 'alarms' declares NOT NULL"),
    ],
)
def test_a_row_off_its_schema_is_refused_with_the_column(row: object, text: str) -> None:
    with pytest.raises(ProcessError, match=re.escape(text)):
        rows(row)
