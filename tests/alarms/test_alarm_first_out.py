"""First-out: which alarm of a group came first since all were normal."""

from __future__ import annotations

import random
from typing import Any

import headrace as hr
from headrace.alarms.process import FirstOut

STANDING = {"unacknowledged", "acknowledged", "returned", "latched_unacknowledged", "latched_acknowledged"}
QUIET = ["normal", "shelved", "suppressed", "out_of_service"]


def moved(*moves: tuple[str, str]) -> list[dict[str, Any]]:
    """Return transitions of alarms of the group `a`, a second apart."""
    return [{"asset": "a", "alarm_id": name, "to": to, "time": nth * 1_000, "sequence": 1} for nth, (name, to) in enumerate(moves)]


def driven(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for _, row in hr.drive(FirstOut(), rows, by="asset", time="time")]


def told(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, int, int]]:
    return [(row["event"], row["alarm_id"], row["first"], row["place"], row["after_ms"]) for row in driven(rows)]


def test_the_first_alarm_since_all_were_normal_is_named_until_all_are_normal_again() -> None:
    moves = [("p", "unacknowledged"), ("q", "refused"), ("q", "unacknowledged"), ("p", "acknowledged"), ("p", "normal"), ("p", "unacknowledged")]
    moves += [("q", "shelved"), ("p", "returned"), ("p", "normal"), ("q", "unacknowledged")]
    assert told(moved(*moves)) == [
        ("first", "p", "p", 1, 0),
        ("followed", "q", "p", 2, 2_000),
        ("followed", "p", "p", 3, 5_000),
        ("over", "p", "p", 3, 8_000),
        ("first", "q", "q", 1, 0),
    ]


def reference(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return events, alarms and firsts: from the states of all alarms after each transition."""
    states, found, history = dict[str, str](), [], list[str]()
    for row in rows:
        if row["to"] == "refused":
            continue
        before = {name for name, state in states.items() if state in STANDING}
        states[row["alarm_id"]] = row["to"]
        after = {name for name, state in states.items() if state in STANDING}
        if not before:
            history = []
        if new := after - before:
            history += new
            found.append(("first" if len(history) == 1 else "followed", row["alarm_id"], history[0]))
        elif before and not after:
            found.append(("over", row["alarm_id"], history[0]))
    return found


def test_random_transitions_are_as_the_reference() -> None:
    for seed in range(50):
        dice = random.Random(seed)
        states = [*STANDING, *QUIET, *QUIET, "refused"]
        rows = moved(*[(dice.choice("pqr"), dice.choice(sorted(states))) for _ in range(dice.randrange(60))])
        assert [(row["event"], row["alarm_id"], row["first"]) for row in driven(rows)] == reference(rows), seed


def test_the_groups_of_a_pipeline_are_assets_or_other_columns() -> None:
    row = {
        "tag": "T", "event_id": "", "definition": "H", "version": "", "kind": "H", "priority": 1, "event": "raise", "from": "normal",
        "arrived": 0, "value": 1.0, "limit": 0.0, "by": "system", "reason": None, "transition": 1, "to": "unacknowledged", "sequence": 1,
    }  # fmt: skip
    start = 1_767_254_400_000
    rows = [{**row, "asset": name, "alarm_id": f"{name}/T/H", "time": start + nth} for nth, name in enumerate(["n/x", "n/y", "s/x"])]

    def build() -> dict[str, hr.Stream]:
        alarms = hr.alarm_transitions()
        areas = alarms.derive(area="SUBSTRING(asset, 1, 1)")
        return {"by-asset": hr.alarm_first_out(alarms), "by-area": hr.alarm_first_out(areas, by=["area"], name="areas")}

    found = hr.pipeline("first-out", version="1")(build).run({"alarms": rows})
    assert [one["event"] for one in found["by-asset"].rows()] == ["first"] * 3
    assert [(one["area"], one["event"], one["first"]) for one in found["by-area"].rows()] == [
        ("n", "first", "n/x/T/H"),
        ("n", "followed", "n/x/T/H"),
        ("s", "first", "s/x/T/H"),
    ]
