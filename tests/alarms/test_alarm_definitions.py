"""Definitions of alarms: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace.alarms.definition import Definition, definition_of, definitions_of, encoded, with_definition
from headrace.alarms.operator import DEFINITION_SCHEMA
from headrace.alarms.process import fixed
from headrace.errors import PlanError

GOOD = {"definition": "H", "tag": "a/T", "kind": "H", "limit": 90.0}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "HI"}, "unknown kind 'HI'; did you mean 'H'"),
    ({"limit": None}, "kind H needs limit"),
    ({"kind": "frozen", "limit": None}, "kind frozen needs after"),
    ({"setpoint": 4.0}, "kind H has no setpoint"),
    ({"kind": "bad_quality", "limit": None, "deadband": 1.0}, "kind bad_quality has no deadband"),
    ({"kind": "custom", "limit": None, "n": 2}, "kind custom has no k of n"),
    ({"on_delay": -1.0}, "on_delay -1 is negative or too large"),
    ({"kind": "no_data", "limit": None, "after": 0.0}, "after is 0"),
    ({"kind": "deviation", "setpoint": 1.0, "limit": 1.0, "deadband": 2.0}, "deadband 2 is larger than limit 1: the alarm would never clear"),
    ({"k": 3, "n": 2}, "k 3 of n 2 is not 1 ≤ k ≤ n ≤ 64"),
    ({"priority": 5}, "priority 5 is not 1 to 4"),
    ({"escalate_to": 1}, "escalate_to needs escalate_after"),
    ({"escalate_to": 3, "escalate_after": 1.0}, "escalate_to 3 is no higher than priority 3"),
    ({"definition": "a/b"}, "an alarm has a tag, and a definition whose id has no slash"),
    ({"deadbnd": 1.0}, "unknown setting 'deadbnd'; did you mean 'deadband'"),
    ({"limit": float("nan")}, "limit nan is no number that a value can be compared with"),
    ({"kind": "state_mismatch", "limit": None, "expected": float("inf")}, "expected inf is no number that a value can be compared with"),
    ({"attack": ["T0831"]}, "attack and attack_version come together"),
    ({"attack": [], "attack_version": "17"}, "attack names no technique, or one twice"),
    ({"attack": ["T0831", "T1059"], "attack_version": "17.1"}, "attack 'T1059' is not a technique of ATT&CK for ICS, such as 'T0831'"),
    ({"attack": ["T0831"], "attack_version": "v17"}, "attack_version 'v17' is not a version such as '17.1'"),
    ({"ne107": "failed"}, "unknown ne107 'failed'; did you mean 'failure'"),
    ({"limit": "high"}, "Expected `float | null`, got `str`"),
]


@pytest.mark.parametrize(("change", "what"), MISTAKES, ids=[what for _, what in MISTAKES])
def test_a_definition_that_contradicts_itself_is_refused(change: dict[str, Any], what: str) -> None:
    definition_of(GOOD)
    with pytest.raises(PlanError) as error:
        definition_of({**GOOD, **change})
    assert what in str(error.value)


def test_definitions_that_contradict_each_other_are_refused_and_the_old_stay() -> None:
    texts = with_definition([], definition_of(GOOD))
    texts = with_definition(texts, definition_of({**GOOD, "definition": "LL", "kind": "LL", "limit": 10.0}))
    for kind, limit in [("HH", 90.0), ("L", 95.0), ("L", 10.0), ("HH", 5.0)]:
        with pytest.raises(PlanError, match="is not above limit"):
            with_definition(texts, definition_of({**GOOD, "definition": "new", "kind": kind, "limit": limit}))
    texts = with_definition(texts, definition_of({**GOOD, "definition": "HH", "kind": "HH", "limit": 95.0}))
    assert [one.definition for _, one in definitions_of(tuple(texts))] == ["H", "HH", "LL"]
    texts = with_definition(texts, definition_of({**GOOD, "limit": 91.0}))
    assert [one.limit for _, one in definitions_of(tuple(texts))] == [91.0, 95.0, 10.0]


def test_a_version_is_made_of_the_content() -> None:
    one, other = definition_of(GOOD), definition_of({**GOOD, "limit": 91.0})
    versions = [definitions_of((encoded(each),))[0][0] for each in (one, definition_of({**GOOD, "limit": 90, "deadband": 0, "asset": None}), other)]
    assert versions[0] == versions[1] != versions[2]
    assert definitions_of((encoded(one),))[0][1] == one


def test_the_schema_of_definitions_has_all_settings() -> None:
    assert DEFINITION_SCHEMA.keys() == {*Definition.__struct_encode_fields__, "time", "withdrawn"}


def test_many_definitions_are_shown_by_a_digest() -> None:
    every = [definition_of({**GOOD, "tag": f"a/{number}"}) for number in range(100)]
    assert repr(fixed(every)) == repr(fixed(reversed(every)))
    assert repr(fixed(every)).startswith("<100 definitions, ")
    assert repr(fixed(every)) != repr(fixed(every[1:]))


def test_a_stream_that_lacks_a_column_is_refused() -> None:
    readings = hr.stream("r", schema={"tag": "STRING", "value": "STRING", "t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    with pytest.raises(PlanError, match="column 'value' is a STRING, and must be a DOUBLE"):
        hr.alarm(readings, [GOOD], hr.alarm_commands())
    with pytest.raises(PlanError, match="there is no column 'value'"):
        hr.alarm(readings.select("tag", "t"), [GOOD], hr.alarm_commands())
    good = readings.derive(value="TRY_CAST(value AS DOUBLE)")
    with pytest.raises(PlanError, match="there is no column 'definition'"):
        hr.alarm(good, [GOOD], readings)
    with pytest.raises(PlanError, match="is not a stream"):
        hr.alarm(good, [GOOD], None)  # type: ignore[arg-type]


def test_the_current_state_of_an_alarm_has_its_techniques_and_its_status_signal() -> None:
    readings = hr.stream(
        "readings", schema={"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(time, 3)"
    )
    start = 1_767_254_400_000
    shown = {"attack": ["T0831", "T0836"], "attack_version": "17.1", "ne107": "out_of_specification"}
    definitions = [{**GOOD, **shown, "time": start}, {**GOOD, "tag": "a/U", "time": start}]

    def build() -> dict[str, hr.Stream]:
        return hr.alarm(readings, hr.alarm_definitions(), hr.alarm_commands()).topics()

    given = [{"tag": tag, "time": start + 1, "value": 91.0} for tag in ("a/T", "a/U")]
    found = hr.pipeline("marked", version="1")(build).run({"readings": given, "alarm-definitions": definitions, "alarm-commands": []})
    rows = {row["tag"]: {name: row[name] for name in shown} for row in found["alarms.current"].rows()}
    assert rows == {"a/T": shown, "a/U": dict.fromkeys(shown)}
