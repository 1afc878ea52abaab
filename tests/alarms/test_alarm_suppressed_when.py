"""Alarms whose definitions say when they are suppressed: by a formula over the equipment's parameters, or by its run state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from alarms.alarm_plant import START
from headrace.alarms.definition import definition_of
from headrace.engines.embedded.live import Live, Patience
from headrace.errors import PlanError
from headrace.topics.sqlite import SqliteLog

FLOW = {"tag": "n/K1/flow", "definition": "L", "kind": "L", "limit": 2.0, "suppress_when": "run_state = 'DOWN' OR valve < 1"}
DOWN = {"kind": "state", "name": "DOWN", "when": "speed = 0", "for": 5}
UP = {"kind": "state", "name": "UP", "when": "speed > 0"}


def reading(second: float, parameter: str, value: float, equipment: str = "n/K1") -> dict[str, Any]:
    return {"equipment": equipment, "parameter": parameter, "time": START + round(second * 1000), "value": value}


def build(alarms: Any, definitions: Any = (DOWN, UP)) -> Any:
    schema = {"equipment": "STRING NOT NULL", "parameter": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE"}
    readings = hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return hr.pipeline("rules", version="1")(lambda: hr.rules(readings, definitions, alarms=alarms).topics())


def commands(found: Any) -> list[tuple[float, str, str]]:
    return [((row["time"] - START) / 1000, row["command"], f"{row['tag']}/{row['definition']}") for row in found["alarm-commands"].rows()]


def test_an_alarm_is_suppressed_while_its_definition_says_so() -> None:
    rows = [
        reading(0, "speed", 5),
        reading(1, "valve", 1),
        reading(2, "valve", 0),
        reading(3, "valve", 1),
        reading(4, "speed", 0),
        reading(20, "speed", 9),
    ]
    found = build([FLOW, {"tag": "n/K1/flow", "definition": "H", "kind": "H", "limit": 9.0}]).run({"readings": rows})
    name = "n/K1/flow/L"
    assert commands(found) == [(2, "suppress", name), (3, "unsuppress", name), (9, "suppress", name), (20, "unsuppress", name)]
    (row, *_) = found["alarm-commands"].rows()
    assert (row["by"], row["reason"]) == (f"rule {name}", FLOW["suppress_when"])


@pytest.mark.parametrize(
    ("settings", "equipment"),
    [
        ({}, "n/K1"),
        ({"asset": "pump"}, "pump"),
        ({"asset": ""}, "n/K1"),
        ({"kind": "custom", "limit": None}, "n/K1/flow"),
        ({"tag": "flow"}, "flow"),
        ({"tag": "/flow"}, "/flow"),
        ({"tag": "n/"}, "n"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_the_equipment_is_the_asset_or_follows_from_the_tag(settings: dict[str, Any], equipment: str, shared: bool) -> None:
    one = {**FLOW, "suppress_when": "x > 0", **settings}
    assert definition_of(one).equipment == equipment
    told = {"alarm-definitions": [{**one, "time": START - 1}], "rule-definitions": []} if shared else {}
    pipeline = build(hr.alarm_definitions(), hr.rule_definitions()) if shared else build([one])
    rows = [reading(nth, "x", 1, name) for nth, name in enumerate(["n/K1", "pump", "n/K1/flow", "flow", "n", "/flow", ""])]
    assert [name for _, _, name in commands(pipeline.run({"readings": rows, **told}))] == [f"{one['tag']}/L"]
    assert commands(pipeline.run({"readings": [row for row in rows if row["equipment"] != equipment], **told})) == []


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: START + 1_000_000)) as one:
        yield one


def test_it_changes_while_the_rules_run_over_a_restart_and_a_wrong_one_is_kept_out(log: SqliteLog) -> None:
    plan = build(hr.alarm_definitions(), hr.rule_definitions()).plan()
    for topic in ("readings", "alarm-definitions", "rule-definitions"):
        log.create(topic)

    def given(topic: str, row: dict[str, Any]) -> None:
        log.append(topic, [json.dumps(row).encode()])
        live = Live(plan, log, Patience(1_000, 1_000), clock=lambda: START + 1_000_000, tick=lambda: START / 1000)  # goes on from its commit
        live.work()
        live.commit()
        live.close()

    def said() -> list[tuple[str, str]]:
        return [((row := json.loads(one.value))["command"], row["tag"]) for one in log.entries("alarm-commands", 0, 0, 1_000)]

    given("alarm-definitions", {**FLOW, "time": START, "suppress_when": "x > 0"})
    given("readings", reading(1, "x", 1))
    assert said() == [("suppress", "n/K1/flow")]
    given("alarm-definitions", {**FLOW, "time": START + 2_000, "suppress_when": "x >"})
    given("readings", reading(3, "x", 1))
    assert said() == [("suppress", "n/K1/flow")]
    assert log.topic("rule-definitions.refused").partitions[0].end == 1
    given("alarm-definitions", {**FLOW, "time": START + 4_000, "suppress_when": "x > 5"})
    given("readings", reading(5, "x", 1))
    assert said()[1:] == [("unsuppress", "n/K1/flow")]
    given("readings", reading(6, "x", 6))
    given("alarm-definitions", {"tag": "n/K1/flow", "definition": "L", "time": START + 7_000, "withdrawn": True})
    given("readings", reading(8, "x", 6))
    assert said()[2:] == [("suppress", "n/K1/flow"), ("unsuppress", "n/K1/flow")]
    given("alarm-definitions", {"tag": "n/K1/flow", "definition": "L", "time": START + 9_000, "withdrawn": True})  # once more
    assert log.topic("rule-definitions.refused").partitions[0].end == 1


@pytest.mark.parametrize(("formula", "what"), [("x >", "a value is missing"), ("x + 1", "is a number, and must be a truth")])
def test_a_formula_that_is_no_condition_is_refused(formula: str, what: str) -> None:
    with pytest.raises(PlanError, match=what):
        definition_of({**FLOW, "suppress_when": formula})
    with pytest.raises(PlanError, match=what):
        build([{**FLOW, "suppress_when": formula}]).plan()


def test_rules_and_alarms_are_given_in_one_form() -> None:
    with pytest.raises(PlanError, match="are tables, or streams"):
        build(hr.alarm_definitions()).plan()
