"""A pipeline of alarms over a few tags, and what happens to them, for the tests of several engines."""

from __future__ import annotations

import json
import random
from typing import Any

import headrace as hr
from headrace.plan.pipeline import Plan

__all__ = ["START", "command", "definition", "engine_jobs", "happenings", "plan_of", "reading", "witnesses"]

START = 1_767_254_400_000
TOPICS = ("readings", "alarm-definitions", "alarm-commands", "alarm-conditions")
DEFINITIONS: list[dict[str, Any]] = [
    {"definition": "H", "tag": "a/P1", "kind": "H", "limit": 90.0, "deadband": 5.0, "on_delay": 2.0, "escalate_after": 20.0, "escalate_to": 1},
    {"definition": "HH", "tag": "a/P1", "kind": "HH", "limit": 95.0, "latching": True, "priority": 1},
    {"definition": "frozen", "tag": "a/P1", "kind": "frozen", "after": 4.0},
    {"definition": "quiet", "tag": "a/P2", "kind": "no_data", "after": 8.0},
    {"definition": "L", "tag": "a/P2", "kind": "L", "limit": 20.0, "k": 2, "n": 3, "off_delay": 1.5},
    {"definition": "bad", "tag": "b/P3", "kind": "bad_quality", "priority": 4},
    {"definition": "rule", "tag": "b/P3", "kind": "custom"},
]
CAUSED: list[dict[str, Any]] = [
    {"definition": "failed", "tag": "a/P1", "kind": "custom"},
    {"definition": "L", "tag": "a/F1", "kind": "custom", "caused_by": ["a/P1/failed"]},
    {"definition": "L", "tag": "a/T1", "kind": "custom", "caused_by": ["a/F1/L", "a/P1/failed"], "caused_within": 2.0},
    {"definition": "H", "tag": "a/T2", "kind": "custom", "caused_by": ["a/T1/L"]},
]


def plan_of(
    *,
    clock: bool = True,
    prefix: str = "",
    shared: bool = True,
    delay_ms: int = 0,
    order: Any = "arrival",
    name: str = "plant",
    place: str | None = None,
) -> Plan:
    """Return the plan of alarms of readings; its topics have a prefix. `place` says what evidence is of: `fields` of records, or `metadata`."""
    columns = {"partition": "BIGINT", "offset": "BIGINT"}

    def build() -> dict[str, hr.Stream]:
        readings = hr.stream(
            f"{prefix}readings",
            schema={"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}
            | (columns if place == "fields" else {}),
            metadata={column: column for column in columns} if place == "metadata" else None,
            event_time="TO_TIMESTAMP_LTZ(time, 3)",
            watermark=hr.milliseconds(delay_ms),
        )
        definitions = hr.alarm_definitions(f"{prefix}alarm-definitions") if shared else DEFINITIONS
        return hr.alarm(
            readings,
            definitions,
            hr.alarm_commands(f"{prefix}alarm-commands"),
            hr.alarm_conditions(f"{prefix}alarm-conditions", evidence=place == "metadata"),
            order=order,
            clock=clock,
            evidence=place is not None,
            refused_to=f"{prefix}alarm-definitions.refused",
        ).topics(f"{prefix}alarms")

    return hr.pipeline(name, version="1")(build).plan()


def engine_jobs() -> dict[str, tuple[Plan, dict[str, list[list[bytes]]]]]:
    """Return plans whose transitions do not depend on how topics interleave, with their input by topic and partition."""
    found = happenings(5)
    # Where a file's record is, Flink does not say: fields of the record stand for it.
    found["readings"] = [_line({**json.loads(line), "partition": 0, "offset": nth}) for nth, line in enumerate(found["readings"])]
    alone: dict[str, list[list[bytes]]] = {
        topic: [lines if topic == "readings" else []] for topic, lines in found.items() if topic != "alarm-definitions"
    }
    return {
        "event time": (plan_of(order="event_time", delay_ms=1_000, name="alarms-by-time"), {topic: [lines] for topic, lines in found.items()}),
        "arrival": (plan_of(shared=False, name="alarms-arriving", place="fields"), alone),
        "rules": (_ruled(), {"readings": [found["readings"]], "rule-definitions": [RULES]}),
        "causes": (_caused(), _moving(7)),
    }


def witnesses(name: str, written: dict[str, list[dict[str, Any]]]) -> bool:
    """Return whether the rows of a plan show that something happened."""
    if name == "rules":
        topics = ("alarm-commands", "rules.states", "rules.unknown", "rule-definitions.refused")
        return {row["active"] for row in written["alarm-conditions"]} == {True, False} and all(written[topic] for topic in topics)
    if name == "causes":
        return {"grouped", "released"} == {row["event"] for row in written["alarms.causes"]}
    return {"raise", "clear"} <= {row["event"] for row in written["alarms"]}


def _caused() -> Plan:
    """Return the plan that groups alarms by cause."""
    return hr.pipeline("causes", version="1")(lambda: {"alarms.causes": hr.alarm_causes(hr.alarm_transitions(), CAUSED)}).plan()


def _moving(seed: int) -> dict[str, list[list[bytes]]]:
    """Return transitions of the alarms of CAUSED."""
    dice = random.Random(seed)
    found = []
    for nth in range(200):
        one = dice.choice(CAUSED)
        to = dice.choice(["unacknowledged", "unacknowledged", "acknowledged", "returned", "normal", "shelved", "refused"])
        row = {"alarm_id": f"{one['tag']}/{one['definition']}", "event_id": "", "definition": one["definition"], "asset": "a", "event": "moved"}
        row |= {"tag": one["tag"], "from": "", "to": to, "time": START + nth * 900, "arrived": 0, "by": "system", "sequence": 1 + nth // 20}
        found.append(_line(row))
    return {"alarms": [found]}


def _ruled() -> Plan:
    """Return the plan of rules over the same readings."""

    def build() -> dict[str, hr.Stream]:
        readings = hr.stream(
            "readings",
            schema={"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"},
            event_time="TO_TIMESTAMP_LTZ(time, 3)",
            watermark=hr.seconds(1),
        ).select("value", "quality", equipment="REGEXP_EXTRACT(tag, '^(.*)/', 1)", parameter="REGEXP_EXTRACT(tag, '([^/]*)$', 1)")
        return hr.rules(readings, hr.rule_definitions(), order="event_time").topics()

    return hr.pipeline("rules-by-time", version="1")(build).plan()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode()


def reading(second: float, value: float | None, tag: str = "a/P1", quality: int | None = None) -> bytes:
    return _line({"tag": tag, "time": START + round(second * 1000), "value": value, "quality": quality})


def command(second: float, name: str, definition: str = "H", tag: str = "a/P1", **more: Any) -> bytes:
    given = {"tag": tag, "definition": definition, "time": START + round(second * 1000), "command": name, "by": "ada", "reason": "a test"}
    return _line({**given, **more})


def definition(second: float, **more: Any) -> bytes:
    return _line({"time": START + round(second * 1000), **more})


RULES = [
    definition(-2, kind="parameter", name="sum", formula="P1 + P2"),
    definition(-2, kind="rule", name="high", when="sum > 100 OR HELD(P1 > 85, 2)", value="sum"),
    definition(-2, kind="rule", name="off", when="run_state = 'DOWN'", **{"for": 1.5}),
    definition(-2, kind="state", name="DOWN", when="P1 < 60", **{"for": 1}),
    definition(-2, kind="state", name="UP", when="P1 > 80"),
    definition(-2, kind="suppression", name="down", when="run_state = 'DOWN'", alarms=["{equipment}/P1/H"]),
    definition(40, kind="rule", name="high", when="sum > 120", equipment="a"),
    definition(50, kind="parameter", name="P1", formula="sum"),
    definition(70, kind="rule", name="high", equipment="a", withdrawn=True),
]


def happenings(seed: int, count: int = 150) -> dict[str, list[bytes]]:
    """Return what happens by topic: readings in disorder and of bad quality, commands that fit and do not, definitions that change."""
    dice = random.Random(seed)
    tags = [("a/P1", ["H", "HH", "frozen"]), ("a/P2", ["quiet", "L"]), ("b/P3", ["bad", "rule"])]
    found: dict[str, list[bytes]] = {topic: [] for topic in TOPICS}
    found["alarm-definitions"] = [definition(-1, **one) for one in DEFINITIONS]
    found["alarm-definitions"] += [definition(30, **{**DEFINITIONS[0], "limit": 85.0}), definition(31, **{**DEFINITIONS[0], "limit": 99.0})]
    found["alarm-definitions"] += [
        definition(60, definition="L", tag="a/P2", withdrawn=True),
        definition(60.5, definition="X", tag="a/P2", withdrawn=True),
    ]
    second = 0.0
    for _ in range(count):
        second = round(second + dice.choice([0.25, 0.5, 1.0, 3.0]), 3)
        tag, names = dice.choice(tags)
        at, value = second - dice.choice([0, 0, 0, 0.7]), dice.choice([10.0, 50.0, 50.0, 86.0, 93.0, 97.0, None])
        found["readings"].append(reading(at, value, tag, dice.choice([None, 0, 0, 0x80000000])))
        if dice.random() < 0.3:
            name = dice.choice(["acknowledge", "reset", "shelve", "unshelve", "suppress", "unsuppress", "out_of_service", "in_service", "comment"])
            ends = {} if name != "shelve" else dice.choice([{"one_shot": True}, {"until": START + round((second + 5) * 1000)}])
            found["alarm-commands"].append(command(second + 0.01, name, dice.choice(names), tag, by=dice.choice(["ada", "bob"]), **ends))
        if dice.random() < 0.1:
            row = {"tag": "b/P3", "definition": "rule", "time": START + round((second + 0.02) * 1000), "active": dice.random() < 0.5, "value": 1.0}
            found["alarm-conditions"].append(_line(row))
    return found
