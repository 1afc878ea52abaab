"""Alarms grouped by cause: consequences under the alarm that caused them, and by themselves again when it has gone."""

from __future__ import annotations

import random
from typing import Any

import pytest

import headrace as hr
from alarms.alarm_plant import START
from headrace.alarms.cause import FixedCauses, SharedCauses
from headrace.alarms.definition import definition_of
from headrace.alarms.grouping import grouped
from headrace.alarms.operator import DEFINITION_SCHEMA
from headrace.alarms.process import fixed
from headrace.errors import PlanError

STANDING = ("unacknowledged", "acknowledged", "returned", "latched_unacknowledged", "latched_acknowledged")
QUIET = ("normal", "shelved", "suppressed", "out_of_service")
PUMP, FLOW, TANK = "n/P1/failed", "n/F1/L", "n/T1/L"


def defined(alarm: str, *causes: str, within: float | None = None) -> dict[str, Any]:
    tag, _, name = alarm.rpartition("/")
    return {"tag": tag, "definition": name, "kind": "custom", **({"caused_by": [*causes], "caused_within": within} if causes else {})}


PLANT = [defined(PUMP), defined(FLOW, PUMP), defined(TANK, FLOW, PUMP)]


def moved(second: float, alarm: str, to: str, sequence: int = 1) -> dict[str, Any]:
    return {"plant": "plant", "alarm_id": alarm, "to": to, "time": round(second * 1000), "sequence": sequence}


def driven(definitions: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    process = FixedCauses(fixed([definition_of(one) for one in definitions]))
    return [row for _, row in hr.drive(process, rows, by="plant", time="time")]


def told(rows: list[dict[str, Any]], definitions: list[dict[str, Any]] = PLANT) -> list[tuple[str, str, str, int]]:
    return [(row["event"], row["alarm_id"], row["cause"], row["after_ms"]) for row in driven(definitions, rows)]


def test_consequences_are_under_what_caused_them_and_move_up_or_stand_alone_when_it_goes() -> None:
    rows = [moved(0, PUMP, "unacknowledged"), moved(3, FLOW, "unacknowledged"), moved(600, TANK, "unacknowledged")]
    rows += [moved(601, PUMP, "acknowledged"), moved(700, FLOW, "returned"), moved(701, FLOW, "normal"), moved(702, PUMP, "normal")]
    assert told(rows) == [
        ("grouped", FLOW, PUMP, 3_000),
        ("grouped", TANK, PUMP, 600_000),  # both are active, and the pump's failure came first
        ("released", TANK, PUMP, 600_000),
    ]


def test_a_cause_with_a_longer_delay_is_found_after_its_consequence_within_the_time() -> None:
    assert told([moved(0, FLOW, "unacknowledged"), moved(60, PUMP, "unacknowledged")]) == [("grouped", FLOW, PUMP, -60_000)]
    assert told([moved(0, FLOW, "unacknowledged"), moved(60.001, PUMP, "unacknowledged")]) == []
    near = [defined(PUMP), defined(FLOW, PUMP, within=5)]
    assert told([moved(0, FLOW, "unacknowledged"), moved(5.001, PUMP, "unacknowledged")], near) == []
    returned = [moved(0, PUMP, "unacknowledged"), moved(10, PUMP, "returned"), moved(15.001, FLOW, "unacknowledged")]
    assert told(returned, near) == []  # it was over, and too long ago
    assert told([*returned[:2], moved(4.9, FLOW, "unacknowledged")], near) == [("grouped", FLOW, PUMP, 4_900)]


def test_the_next_cause_takes_over_and_a_cause_that_nobody_sees_has_no_group() -> None:
    rows = [moved(0, PUMP, "unacknowledged"), moved(1, FLOW, "unacknowledged"), moved(2, TANK, "unacknowledged"), moved(3, PUMP, "shelved")]
    assert told(rows)[2:] == [("released", FLOW, PUMP, 1_000), ("grouped", TANK, FLOW, 1_000)]
    assert told([moved(0, PUMP, "suppressed"), moved(1, FLOW, "unacknowledged")]) == []
    assert told([moved(0, PUMP, "refused"), moved(1, FLOW, "unacknowledged")]) == []


def test_of_two_that_may_cause_each_other_the_first_is_the_cause() -> None:
    both = [defined("a/X", "b/X"), defined("b/X", "a/X")]
    assert told([moved(0, "a/X", "unacknowledged"), moved(1, "b/X", "unacknowledged"), moved(2, "a/X", "acknowledged")], both) == [
        ("grouped", "b/X", "a/X", 1_000)
    ]
    ring = [defined("a/X", "c/X"), defined("b/X", "a/X"), defined("c/X", "b/X")]
    rows = [moved(nth, name, "unacknowledged") for nth, name in enumerate(["a/X", "b/X", "c/X"])]
    assert [row[1:3] for row in told(rows, ring)] == [("b/X", "a/X"), ("c/X", "b/X")]


def test_an_occurrence_that_begins_anew_has_a_cause_of_its_own() -> None:
    rows = [moved(0, PUMP, "unacknowledged"), moved(1, FLOW, "unacknowledged"), moved(2, FLOW, "returned"), moved(9, FLOW, "unacknowledged", 2)]
    found = driven(PLANT, rows)
    assert [(row["sequence"], row["cause_sequence"]) for row in found] == [(1, 1), (2, 1)]
    # The cause stands all the time and is raised again: what is under it stays there.
    again = [*rows, moved(500, PUMP, "returned"), moved(501, PUMP, "unacknowledged", 2), moved(502, PUMP, "normal", 2)]
    assert [(row["event"], row["cause_sequence"]) for row in driven(PLANT, again)[2:]] == [("released", 2)]


@pytest.mark.parametrize(("first", "second"), [("a/X", "b/X"), ("b/X", "a/X")])
def test_of_two_that_may_cause_each_other_the_first_is_the_cause_when_their_own_is_over(first: str, second: str) -> None:
    both = [defined("x/X"), defined("a/X", "x/X", "b/X"), defined("b/X", "x/X", "a/X")]
    rows = [moved(nth, name, "unacknowledged") for nth, name in enumerate(["x/X", first, second])]
    found = told([*rows, moved(9, "x/X", "normal")], both)
    assert {row[:3] for row in found[2:]} == {("grouped", second, first), ("released", first, "x/X")}


class Reference:
    """All alarms in plain dicts, looked through at each transition."""

    def __init__(self, definitions: list[dict[str, Any]]) -> None:
        self.causes: dict[str, tuple[list[str], float]] = {}
        for one in definitions:
            within = one.get("caused_within")
            self.causes[f"{one['tag']}/{one['definition']}"] = (one.get("caused_by") or [], 60 if within is None else within)
        self.up: dict[str, dict[str, Any]] = {}
        self.under: dict[str, str] = {}
        self.rows: list[tuple[str, str, str]] = []

    def above(self, name: str) -> list[str]:
        found = [name]
        while found[-1] in self.under:
            found.append(self.under[found[-1]])
        return found

    def look(self, name: str) -> bool:
        mine, (causes, within) = self.up[name], self.causes.get(name, ([], 0))
        fit = []
        for other in causes:
            if other not in self.up or name in self.above(other):
                continue
            its = self.up[other]
            active = its["raised"] <= mine["raised"] <= its["cleared"]
            if active or abs(its["raised"] - mine["raised"]) <= within * 1000:
                fit.append((its["raised"], causes.index(other), other))
        if fit:
            self.under[name] = min(fit)[2]
            self.rows.append(("grouped", name, self.under[name]))
        return bool(fit)

    def take(self, row: dict[str, Any]) -> None:
        name, to, time = row["alarm_id"], row["to"], row["time"]
        if to == "refused":
            return
        active = to in {"unacknowledged", "acknowledged"}
        if to in QUIET:
            if self.up.pop(name, None) is None:
                return
            self.under.pop(name, None)
            released = sorted(other for other, cause in self.under.items() if cause == name)
            begin = len(self.rows)
            for other in sorted(released, key=lambda other: -self.up[other]["raised"]):
                del self.under[other]
                if not self.look(other):
                    self.rows.append(("released", other, name))
            self.rows[begin:] = sorted(self.rows[begin:], key=lambda row: row[1])
        elif name not in self.up or self.up[name]["sequence"] != row["sequence"]:
            self.up[name] = {"sequence": row["sequence"], "raised": time, "cleared": 10**15 if active else time}
            self.under.pop(name, None)
            self.look(name)
            for other in sorted(self.up):
                if other not in self.under and name in self.causes.get(other, ([], 0))[0]:
                    self.look(other)
        elif not active:
            self.up[name]["cleared"] = min(self.up[name]["cleared"], time)


@pytest.mark.parametrize("shared", [False, True])
def test_random_transitions_are_grouped_as_the_reference(shared: bool) -> None:
    for seed in range(60):
        dice = random.Random(seed)
        names = [f"{letter}/X" for letter in "abcdef"[: dice.randrange(2, 7)]]
        definitions = []
        for name in names:
            others = [other for other in names if other != name and dice.random() < 0.5]
            dice.shuffle(others)
            definitions.append(defined(name, *others, within=dice.choice([None, 0, 2, 10])))
        rows, second, sequences = [], 0.0, dict.fromkeys(names, 0)
        for _ in range(dice.randrange(80)):
            name, to = dice.choice(names), dice.choice([*STANDING, *STANDING[:2], *QUIET, "refused"])
            second += dice.choice([0, 0.5, 1, 5, 70])
            sequences[name] += to == "unacknowledged"
            rows.append(moved(second, name, to, sequences[name]))
        expected = Reference(definitions)
        for row in rows:
            expected.take(row)
        given = (
            {"process": SharedCauses(), "broadcast": broadcast(definitions)}
            if shared
            else {"process": FixedCauses(fixed(map(definition_of, definitions)))}
        )
        process = given.pop("process")
        found = [row for _, row in hr.drive(process, rows, by="plant", time="time", **given)]
        assert [(row["event"], row["alarm_id"], row["cause"]) for row in found] == expected.rows, seed


def broadcast(definitions: list[dict[str, Any]], at: int = -1) -> list[dict[str, Any]]:
    empty = dict.fromkeys(DEFINITION_SCHEMA)
    return [{**empty, "time": at, **one} for one in definitions]


def test_definitions_change_while_it_runs_and_those_that_are_refused_change_nothing() -> None:
    changes = broadcast(PLANT)
    changes += broadcast([{**defined(FLOW, FLOW)}, {"tag": "n/F1", "definition": "Q", "withdrawn": True}], at=10)  # itself; none
    changes += broadcast([defined(FLOW)], at=20_000) + broadcast([{"tag": "n/T1", "definition": "L", "withdrawn": True}], at=40_000)
    rows = [moved(0, PUMP, "unacknowledged"), moved(1, FLOW, "unacknowledged"), moved(2, FLOW, "normal")]
    rows += [moved(30, FLOW, "unacknowledged", 2), moved(31, TANK, "unacknowledged"), moved(32, TANK, "normal"), moved(50, TANK, "unacknowledged", 2)]
    found = hr.drive(SharedCauses(), rows, by="plant", time="time", broadcast=changes)
    assert [(row["alarm_id"], row["sequence"]) for _, row in found] == [(FLOW, 1), (TANK, 1)]


def test_an_alarm_is_released_though_its_definition_names_the_cause_no_more() -> None:
    changes = broadcast(PLANT) + broadcast([defined(FLOW)], at=5_000)
    rows = [moved(0, PUMP, "unacknowledged"), moved(1, FLOW, "unacknowledged"), moved(10, PUMP, "normal"), moved(20, PUMP, "unacknowledged", 2)]
    found = hr.drive(SharedCauses(), rows, by="plant", time="time", broadcast=changes)
    assert [(row["event"], row["alarm_id"], row["time"]) for _, row in found] == [("grouped", FLOW, 1_000), ("released", FLOW, 10_000)]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"caused_by": []}, "names no alarm"),
        ({"caused_by": ["a/X", "a/X"]}, "one twice"),
        ({"caused_by": [f"t{n}/X" for n in range(65)]}, "more than 64"),
        ({"caused_by": ["t/X"]}, "the alarm itself"),
        ({"caused_by": ["X"]}, "not the id of an alarm"),
        ({"caused_within": 5}, "needs caused_by"),
        ({"caused_by": ["a/X"], "caused_within": -1}, "negative"),
    ],
)
def test_a_cause_that_is_none_is_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(PlanError, match=what):
        definition_of({"tag": "t", "definition": "X", "kind": "custom", **settings})


@pytest.mark.parametrize("shared", [False, True])
def test_a_pipeline_over_the_transitions_groups_them(shared: bool) -> None:
    limits = [("P1", "H", []), ("F1", "L", ["n/P1/H"])]
    definitions = [
        {"tag": f"n/{tag}", "definition": kind, "kind": kind, "limit": 50.0, **({"caused_by": causes} if causes else {})}
        for tag, kind, causes in limits
    ]
    given = hr.alarm_definitions() if shared else definitions

    def alarms() -> dict[str, hr.Stream]:
        schema = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE"}
        readings = hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(time, 3)")
        return hr.alarm(readings, given, hr.alarm_commands()).topics()

    def grouped() -> dict[str, hr.Stream]:
        return {"alarms.causes": hr.alarm_causes(hr.alarm_transitions(), given)}

    rows = [{"tag": f"n/{tag}", "time": START + at, "value": value} for tag, at, value in [("P1", 0, 60.0), ("F1", 2_000, 40.0), ("P1", 3_000, 0.0)]]
    told = {"alarm-definitions": broadcast(definitions, START - 1)} if shared else {}
    raised = hr.pipeline("alarms", version="1")(alarms).run({"readings": rows, "alarm-commands": [], **told})["alarms"].rows()
    found = hr.pipeline("causes", version="1")(grouped).run({"alarms": raised, **told})["alarms.causes"].rows()
    assert [(row["event"], row["alarm_id"], row["cause"], row["after_ms"]) for row in found] == [("grouped", "n/F1/L", "n/P1/H", 2_000)]


def current(alarm: str, priority: int, time: int, state: str = "unacknowledged", sequence: int = 1) -> dict[str, Any]:
    return {"alarm_id": alarm, "priority": priority, "time": time, "state": state, "sequence": sequence}


def under(alarm: str, cause: str, sequence: int = 1, event: str = "grouped") -> tuple[tuple[None, str], dict[str, Any]]:
    return (None, alarm), {"alarm_id": alarm, "event": event, "sequence": sequence, "cause": cause}


def shown(rows: list[dict[str, Any]], *causes: Any) -> list[tuple[str, int, int]]:
    found = grouped(rows, dict(causes), lambda row: (row["priority"], -row["time"]))
    assert [row["cause"] is None for row in found] == [row["level"] == 0 for row in found]
    return [(row["alarm_id"], row["level"], row["consequences"]) for row in found]


def test_a_group_is_shown_where_the_most_important_of_its_alarms_would_be() -> None:
    rows = [current("a", 3, 5), current("b", 2, 1), current("c", 1, 6), current("d", 4, 7), current("e", 3, 9)]
    assert shown(rows, under("c", "a"), under("d", "c")) == [("a", 0, 2), ("c", 1, 1), ("d", 2, 0), ("b", 0, 0), ("e", 0, 0)]


def test_no_alarm_is_missing_from_what_is_shown() -> None:
    rows = [current("a", 1, 1), current("b", 1, 2, sequence=2), current("c", 1, 3, state="shelved"), current("d", 1, 4), current("e", 1, 5)]
    causes = [under("b", "a"), under("c", "a"), under("d", "c"), under("e", "a", event="released"), under("a", "gone")]
    assert shown(rows, *causes) == [(name, 0, 0) for name in "edcba"]
    circle = [under("a", "b", 1), under("b", "a", 2), under("d", "a")]
    assert sorted(name for name, *_ in shown(rows, *circle)) == [*"abcde"]


def test_consequences_of_consequences_are_shown_however_many_there_are() -> None:
    rows = [current(f"a{nth}", 3, nth) for nth in range(1_200)]
    found = shown(rows, *(under(f"a{nth}", f"a{nth - 1}") for nth in range(1, 1_200)))
    assert found == [(f"a{nth}", nth, 1_199 - nth) for nth in range(1_200)]
