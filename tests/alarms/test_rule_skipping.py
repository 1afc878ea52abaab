"""Readings that rules are not called with change nothing but values: the bytes and the state are those of rules that are called with each."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from alarms.alarm_plant import START, definition
from alarms.test_alarm_skipping import NEVER, over_topics, skipping
from engines.embedded.test_live import Wall
from engines.embedded.test_processes import run, written_files
from engines.embedded.test_processes_live import add
from headrace.alarms.rule_process import EquipmentRules
from headrace.plan.pipeline import Plan
from headrace.topics.sqlite import SqliteLog


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have conditions computed for few readings too."""
    monkeypatch.setattr("headrace.alarms.rule_columns._FEWEST", 1)


EQUIPMENT, PARAMETERS = ("a", "b", "c"), ("p", "q", "r", "s")
SEEDS = [*range(6), *[pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 400)]]
WHENS = (
    "p > 90", "p > 90 AND q < 60", "total > 190 OR r < 10", "HELD(p > 90, 3)", "HELD(p > 90, 2) OR HELD(q > 90, 4) AND r < 60", "NOT HELD(q < 90, 5)",
    "run_state = 'UP' AND p > 90", "COALESCE(r, p) > 90", "IF(q > 90, r, p) > 80", "s IS NULL", "half BETWEEN 26 AND 45", "odd > 1e30", "p IN (91, 5)",
    "p / q > 1.2", "ABS(p - q) > 0.5 * LEAST(p, q, r)", "FALSE", "CEIL(p) = p AND SQRT(r) > 9", "HELD(s IS NULL, 2.5)",
)  # fmt: skip
STATES = ("p < 60", "q > 90", "HELD(r < 60, 1) AND p < 60", "total > 120")


def plan_of(*, order: Any, clock: bool) -> Plan:
    def build() -> dict[str, hr.Stream]:
        readings = hr.stream(
            "readings",
            schema={"equipment": "STRING", "parameter": "STRING", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"},
            event_time="TO_TIMESTAMP_LTZ(time, 3)",
            watermark=hr.seconds(1),
        )
        return hr.rules(readings, hr.rule_definitions(), order=order, clock=clock).topics()

    return hr.pipeline("ruled", version="1")(build).plan()


def drawn(dice: random.Random, nth: int) -> dict[str, Any]:
    """Return a definition of a rule, a run state or a suppression."""
    lasts = {"for": dice.choice([0, 0, 2.0, 3.5])}
    own = {"equipment": dice.choice(EQUIPMENT)} if dice.random() < 0.1 else {}
    kind = dice.choice(["rule"] * 6 + ["state"] * 2 + ["suppression"])
    if kind == "state":
        return {"kind": kind, "name": dice.choice(["UP", "DOWN"]), "when": dice.choice(STATES), **lasts, **own}
    if kind == "suppression":
        return {
            "kind": kind,
            "name": f"s{nth}",
            "when": dice.choice(WHENS),
            "alarms": ["{equipment}/high", "x/y"][: dice.randint(1, 2)],
            **lasts,
            **own,
        }
    return {"kind": kind, "name": f"r{nth}", "when": dice.choice(WHENS), "value": dice.choice(["p", "half", None]), **lasts, **own}


def happened(seed: int, count: int = 400) -> dict[str, list[bytes]]:
    """Return readings that mostly stay where they are, now and then an excursion, a gap, disorder, bad quality; and definitions, one of which changes."""
    dice = random.Random(seed)
    parameters = {"total": "p + q", "half": "total / 2", "odd": "EXP(p)"} | ({"r": "q * 1.1"} if seed % 5 == 4 else {})
    every = [{"kind": "parameter", "name": name, "formula": formula} for name, formula in parameters.items()]
    found = {
        "rule-definitions": [definition(-1, **one) for one in [*every, *(drawn(dice, nth) for nth in range(dice.randint(2, 6)))]],
        "readings": [],
    }
    second, out = 0.0, dict.fromkeys(EQUIPMENT, 0)
    for _ in range(count):
        second = round(second + dice.choice([0.0, 0.25, 0.25, 0.5] if dice.random() < 0.99 else [3.0, 12.0]), 3)
        one = dice.choice(EQUIPMENT)
        out[one] = max(0, out[one] - 1) or (dice.randint(1, 12) if dice.random() < 0.02 else 0)
        value = dice.choice([91.0, 96.0, 5.0, 90.0, None]) if out[one] else dice.choice([50.0, 50.0, 55.0, 60.5, 50.0])
        late, quality = (dice.choice([0.7, 1.8]), 0x80000000) if dice.random() < 0.03 else (0, dice.choice([None, 0]))
        row = {
            "equipment": one,
            "parameter": dice.choice(PARAMETERS),
            "time": START + round((second - late) * 1000),
            "value": value,
            "quality": quality,
        }
        found["readings"].append(json.dumps(row).encode())
    found["rule-definitions"].append(definition(second / 2, **drawn(dice, 0)))
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_over_files_the_bytes_are_those_of_rules_that_are_called_with_every_reading(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    plan = plan_of(order=("arrival", "event_time")[seed % 2], clock=seed % 3 > 0)
    files = written_files(tmp_path, {topic: [lines] for topic, lines in happened(seed).items()})
    with skipping(code=EquipmentRules, per_key=NEVER) as every:
        wanted = run(plan, files)
    with skipping(code=EquipmentRules, at_once=dice.choice([16, 60, 200])) as needed:
        got = run(plan, files, random.Random(seed))
    assert got == wanted
    assert wanted[0].get("alarm-conditions") or wanted[0].get("rules.states") or seed >= 6
    assert len(needed) < len(every) or seed >= 6  # of those that are drawn by chance, some have no reading that is not needed


@pytest.mark.parametrize("seed", SEEDS[:2] + SEEDS[6:])
def test_over_topics_bytes_and_state_are_those_of_rules_that_are_called_with_every_reading(seed: int, tmp_path: Path) -> None:
    def feed(log: SqliteLog, wall: Wall) -> None:
        for topic, lines in sorted(happened(seed, 250).items(), reverse=True):
            log.create(topic)
            for line in lines:
                wall.now = json.loads(line)["time"] + 40 * (seed % 3)
                add(log, topic, [line])

    found = over_topics(plan_of(order="arrival", clock=seed % 2 == 0), feed, tmp_path, records=90, code=EquipmentRules)
    assert found["needed"][:2] == found["every"][:2]
    assert found["needed"][2] < found["every"][2] or seed >= 6


def renamed(line: bytes, names: dict[str, str]) -> bytes:
    """Return a reading or a definition with other names of parameters."""
    row = json.loads(line)
    if "parameter" in row:
        row["parameter"] = names[row["parameter"]]
    for setting in ("formula", "when", "value"):
        if isinstance(text := row.get(setting), str):
            row[setting] = re.sub(r"\b[pqrs]\b", lambda found: f'"{names[found[0]]}"', text)
    return json.dumps(row).encode()


@pytest.mark.parametrize("names", [("before", "reached", "value", "value 1"), ("@row", "@group", "@time", "@until"), ("*", "^.*$", "^p$", "Öl p")])
def test_parameters_have_any_names(names: tuple[str, ...], tmp_path: Path) -> None:
    names_of = dict(zip(PARAMETERS, names, strict=True))
    plan = plan_of(order="event_time", clock=True)
    given = {topic: [[renamed(line, names_of) for line in lines]] for topic, lines in happened(1).items()}
    files = written_files(tmp_path, given)
    with skipping(code=EquipmentRules, per_key=NEVER):
        wanted = run(plan, files)
    with skipping(code=EquipmentRules, at_once=60) as needed:
        assert run(plan, files, random.Random(1)) == wanted
    assert wanted[0]["alarm-conditions"]
    assert len(needed) < 300
