"""Conditions that arrive before their alarm's definition: they are held, and the alarm is raised when the definition comes."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace.alarms.definition import definition_of, definitions_of, encoded
from headrace.alarms.hosting import version_of
from headrace.alarms.operator import DEFINITION_SCHEMA
from headrace.alarms.process import SharedAlarms
from headrace.alarms.tag import Tag


def condition(at: int, active: bool, name: str = "rule", **more: Any) -> dict[str, Any]:
    return {"tag": "K1", "definition": name, "time": at, "active": active, "value": None, **more}


def definition(at: int, name: str = "rule", *, withdrawn: bool | None = None, **more: Any) -> dict[str, Any]:
    return {**dict.fromkeys(DEFINITION_SCHEMA), "tag": "K1", "definition": name, "time": at, "kind": "custom", "withdrawn": withdrawn, **more}


def driven(
    conditions: list[dict[str, Any]], definitions: list[dict[str, Any]], upto: int = 100_000, rows: Any = ()
) -> list[tuple[str, dict[str, Any]]]:
    given = {"command": [], "condition": conditions}
    return hr.drive(SharedAlarms(), [*rows], by="tag", time="time", inputs=given, broadcast=definitions, upto=upto)


def told(found: list[tuple[str, dict[str, Any]]], output: str = "") -> list[tuple[str, int]]:
    return [(row["nuisance"] if output else row["event"], row["time"]) for name, row in found if name == output]


def test_a_condition_that_came_first_raises_its_alarm_when_the_definition_comes_though_nothing_else_does() -> None:
    found = driven([condition(1_000, True, value=7.5)], [definition(10_000)])
    assert told(found) == [("raise", 1_000)]
    assert found[-2][1]["value"] == 7.5
    assert told(found, "nuisances") == [("undefined", 1_000)]


def test_it_is_the_last_condition_that_counts() -> None:
    assert told(driven([condition(1_000, True), condition(2_000, False)], [definition(10_000)])) == []
    again = [condition(1_000, True), condition(2_000, False), condition(3_000, True), condition(20_000, False)]
    found = driven(again, [definition(10_000)])
    assert told(found) == [("raise", 3_000), ("clear", 20_000)]
    assert told(found, "nuisances") == [("undefined", 1_000), ("undefined", 3_000)]


def test_an_on_delay_began_with_the_condition_and_another_kind_takes_no_condition() -> None:
    for delay, more in [(20, []), (2, []), (20, [{"tag": "K1", "time": 11_000, "value": 0.0}])]:
        found = driven([condition(1_000, True)], [definition(10_000, on_delay=delay)], rows=more)
        assert told(found) == [("raise", 1_000 + delay * 1_000)]
    assert told(driven([condition(1_000, True), condition(15_000, False)], [definition(10_000, on_delay=20)])) == []
    assert told(driven([condition(1_000, True)], [definition(10_000, kind="H", limit=5)])) == []


def test_a_condition_outlasts_the_withdrawal_of_its_definition() -> None:
    changes = [definition(0), definition(5_000, withdrawn=True), definition(50_000, priority=1)]
    found = driven([condition(1_000, True)], changes, rows=[{"tag": "K1", "time": 6_000, "value": 0.0}])
    assert [(row["event"], row["to"], row["sequence"]) for name, row in found if not name] == [
        ("raise", "unacknowledged", 1),
        ("withdraw", "normal", 1),
        ("raise", "unacknowledged", 2),
    ]


def test_at_most_a_hundred_of_a_tag_are_held_and_the_others_are_told() -> None:
    found = driven([condition(nth, True, f"r{nth:03}") for nth in range(103)], [definition(1_000, f"r{nth:03}") for nth in range(103)])
    assert [row["definition"] for name, row in found if not name] == [f"r{nth:03}" for nth in range(100)]
    assert [what for what, _ in told(found, "nuisances")] == ["undefined"] * 100 + ["lost"] * 3


@pytest.mark.parametrize("after", [1, 3, 40, 70, 100_000])
def test_it_is_looked_for_by_the_clock_ever_more_seldom(after: int) -> None:
    texts: dict[str, str] = {}
    first = Tag("K1", (), texts, None, time=1_000, now=5_000, clock=True, live=True)
    first.condition("rule", active=True, value=None)
    first.save()
    due, looks = first.next_due(), 0
    while due is not None and due[1] <= 5_000 + after * 1_000:
        looks += 1
        one = Tag("K1", (), texts, None, time=1_000, now=due[1], clock=True, live=True)
        one.pass_time(by_clock=True)
        one.save()
        assert not one.rows
        due = one.next_due()
    assert due is not None
    assert looks <= 7 + after / 60
    text = encoded(definition_of({"tag": "K1", "definition": "rule", "kind": "custom"}))
    last = Tag("K1", definitions_of((text,)), texts, None, time=1_000, now=due[1], clock=True, live=True)
    last.pass_time(by_clock=True)
    assert [(row["event"], row["time"], row["arrived"], row["version"]) for name, row in last.rows if not name] == [
        ("raise", 1_000, due[1], version_of(text))
    ]
    last.save()
    assert last.next_due() is not None  # it is stale after a day


def test_by_event_time_conditions_that_are_held_for_long_are_looked_at_together_once_an_hour() -> None:
    day, texts = 86_400_000, dict[str, str]()
    for nth in range(20):
        one = Tag("K1", (), texts, None, time=nth * 1_000, now=nth * 1_000, clock=False)
        one.condition(f"r{nth}", active=True, value=None)
        one.save()
    looks = 0
    while (due := one.next_due()) is not None and due[0] is not None and due[0] < 30 * day:
        one, looks = Tag("K1", (), texts, None, time=due[0], now=due[0], clock=False), looks + 1
        one.pass_time(by_clock=False)
        one.save()
    assert due is not None
    assert looks <= 20 * 12 + 30 * 24
    assert due[0] == 30 * day
