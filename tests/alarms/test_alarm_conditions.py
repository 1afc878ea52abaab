"""Alarms of a tag: what raises and clears them, by whom they are set aside, and what happens by itself."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest

import headrace as hr
from headrace.alarms.definition import definition_of, definitions_of
from headrace.alarms.process import ClockedFixedAlarms, FixedAlarms, Flood
from headrace.alarms.tag import Command, Tag
from headrace.plan.pipeline import Plan

BAD = 0x80000000
FOREVER = 10**9


def defined(kind: str = "H", name: str = "X", **more: Any) -> dict[str, Any]:
    return {"definition": name, "tag": "site/P1", "kind": kind, **more}


def readings(*values: float | None, step: int = 1_000, start: int = 0) -> list[dict[str, Any]]:
    return [{"tag": "site/P1", "time": start + nth * step, "value": value} for nth, value in enumerate(values)]


def command(name: str, at: int, definition: str = "X", **more: Any) -> dict[str, Any]:
    given = {"tag": "site/P1", "definition": definition, "time": at, "command": name, "by": "ada", "reason": "a test"}
    return {**given, "sequence": None, "until": None, "one_shot": None, **more}


def driven(
    definitions: list[dict[str, Any]], rows: list[dict[str, Any]], *, upto: int | None = None, commands: Any = (), conditions: Any = ()
) -> list[tuple[str, dict[str, Any]]]:
    process = FixedAlarms([definition_of(one) for one in definitions])
    return hr.drive(process, rows, by="tag", time="time", inputs={"command": commands, "condition": conditions}, upto=upto)


def told(found: list[tuple[str, dict[str, Any]]], output: str = "") -> list[tuple[int, str, str]]:
    return [(row["time"], row["event"], row["to"]) for name, row in found if name == output]


CASES: list[tuple[str, dict[str, Any], list[float | None], list[tuple[int, str]]]] = [
    ("a value above a high limit", {"kind": "HH", "limit": 90}, [90, 90.1, 90], [(1, "raise"), (2, "clear")]),
    ("a value below a low limit", {"kind": "L", "limit": 10}, [10, 9.9, 10], [(1, "raise"), (2, "clear")]),
    ("deadband of a high limit", {"limit": 90, "deadband": 5}, [91, 86, 91, 85], [(0, "raise"), (3, "clear")]),
    ("deadband of a low limit", {"kind": "LL", "limit": 10, "deadband": 5}, [9, 14.9, 15], [(0, "raise"), (2, "clear")]),
    ("an on-delay that is broken", {"limit": 90, "on_delay": 2}, [91, 91, 0, 91, 91, 91], [(5, "raise")]),
    ("an on-delay over a gap", {"limit": 90, "on_delay": 1.5}, [91, 91, 91], [(1.5, "raise")]),
    ("an off-delay", {"limit": 90, "off_delay": 2}, [91, 0, 91, 0, 0, 0], [(0, "raise"), (5, "clear")]),
    ("2 of 3", {"limit": 90, "k": 2, "n": 3}, [91, 0, 91, 0, 0], [(2, "raise"), (3, "clear")]),
    ("bad quality neither raises nor clears", {"limit": 90}, [None, 91, None, 91, 0], [(1, "raise"), (4, "clear")]),
    ("bad quality holds an on-delay", {"limit": 90, "on_delay": 2}, [91, None, None, None, 91], [(4, "raise")]),
    ("bad quality raises its own kind", {"kind": "bad_quality"}, [1, None, None, 1], [(1, "raise"), (3, "clear")]),
    ("a change that is too fast", {"kind": "rate_of_change", "limit": 5}, [0, 5, 11, 5.9, 5.9], [(2, "raise"), (4, "clear")]),
    ("a deviation", {"kind": "deviation", "limit": 3, "setpoint": 10, "deadband": 1}, [7, 6.9, 12.1, 12], [(1, "raise"), (3, "clear")]),
    ("a frozen value", {"kind": "frozen", "after": 2}, [5, 5, 5, 5, 6], [(2, "raise"), (4, "clear")]),
    ("a value frozen within a deadband", {"kind": "frozen", "after": 2, "deadband": 0.5}, [5, 5.5, 4.5, 6], [(2, "raise"), (3, "clear")]),
    ("a state that is not as expected", {"kind": "state_mismatch", "expected": 1}, [1, 0, 1], [(1, "raise"), (2, "clear")]),
]


@pytest.mark.parametrize(("settings", "values", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_condition_raises_and_clears(settings: dict[str, Any], values: list[float | None], expected: list[tuple[int, str]]) -> None:
    found = told(driven([defined(**{"kind": "H", **settings})], readings(*values)))
    assert [(at / 1_000, event) for at, event, _ in found] == expected


def reference(rows: list[dict[str, Any]], limit: float, deadband: float, on: int, off: int, k: int, n: int) -> list[tuple[int, str]]:
    """Return when a high alarm is raised and cleared: from the whole history at once."""
    flags, active, judged = [], False, []
    for row in rows:
        if row["value"] is not None:
            flags.append(row["value"] > limit - deadband * active)
            active = sum(flags[-n:]) >= k
            judged.append((row["time"], active))
    runs = [(active, [time for time, _ in run]) for active, run in groupby(judged, key=lambda one: one[1])]
    state, found = False, []
    for place, (active, times) in enumerate(runs):
        over = runs[place + 1][1][0] if place + 1 < len(runs) else FOREVER
        due = times[0] + (on if active else off)
        last = [row for row in rows if row["time"] <= due][-1]
        if last["value"] is None:
            due = next((time for time in times if time >= due), FOREVER)
        if active != state and due < over:
            state = active
            found.append((due, "raise" if active else "clear"))
    return found


def check_against_the_reference(seed: int) -> None:
    dice = random.Random(seed)
    time, rows = 0, []
    for _ in range(dice.randrange(40)):
        time += dice.choice([1, 500, 1_000, 1_500, 4_000])
        rows.append({"tag": "site/P1", "time": time, "value": dice.choice([None, 80.0, 86.0, 90.0, 95.0, 95.0])})
    n = dice.randrange(1, 5)
    k, deadband = dice.randrange(1, n + 1), dice.choice([0.0, 5.0])
    on, off = dice.choice([0, 500, 3_000]), dice.choice([0, 1_000, 2_500])
    one = defined(limit=90.0, deadband=deadband, k=k, n=n, on_delay=on / 1000, off_delay=off / 1000)
    found = told(driven([one], rows, upto=time + 10_000))
    assert [(at, event) for at, event, _ in found] == reference(rows, 90.0, deadband, on, off, k, n), (seed, one, rows)


@pytest.mark.parametrize("seed", range(60))
def test_random_readings_raise_and_clear_as_the_reference(seed: int) -> None:
    check_against_the_reference(seed)


@pytest.mark.long
def test_many_random_readings_raise_and_clear_as_the_reference() -> None:
    for seed in range(100, 5_000):
        check_against_the_reference(seed)


def test_an_older_reading_is_counted_and_changes_nothing() -> None:
    process = FixedAlarms([definition_of(defined(limit=90))])
    state = hr.fresh_state(process, tag="site/P1", time=5_000)
    assert not process.on_record({"value": 1.0}, state)
    for older in (1, 2):
        state.time = 4_000
        ((name, row),) = process.on_record({"value": 99.0}, state)
        assert (name, row["older"], row["last_time"]) == ("older", older, 5_000)
    assert state.last_value == 1.0
    assert not len(state.alarms)


def test_a_reading_of_bad_quality_is_bad_whatever_its_value() -> None:
    bad = {**readings(99)[0], "quality": BAD}
    assert told(driven([defined(limit=90), defined("bad_quality", "Q")], [bad])) == [(0, "raise", "unacknowledged")]


def test_silence_raises_an_alarm_at_its_time_and_a_reading_clears_it() -> None:
    rows = [*readings(1, 1), *readings(1, start=60_000)]
    assert told(driven([defined("no_data", after=10)], rows, upto=80_000)) == [
        (11_000, "raise", "unacknowledged"),
        (60_000, "clear", "returned"),
        (70_000, "raise", "unacknowledged"),
    ]


def test_a_custom_alarm_follows_the_conditions_of_a_rule() -> None:
    conditions = [{"tag": "site/P1", "definition": "X", "time": at, "active": active, "value": 7.0} for at, active in [(5, True), (9, False)]]
    found = driven([defined("custom"), defined(name="Y", limit=90)], [], conditions=[*conditions, {**conditions[0], "definition": "Y", "time": 20}])
    assert told(found) == [(5, "raise", "unacknowledged"), (9, "clear", "returned")]
    assert found[0][1]["value"] == 7.0


def test_the_value_of_a_condition_is_shown_with_its_alarm_alone_and_a_reading_that_follows_is_not_older() -> None:
    conditions = [{"tag": "site/P1", "definition": "X", "time": at, "active": active, "value": 7.0} for at, active in [(900, True), (2_500, False)]]
    one, high = defined("custom"), defined(name="H", limit=90)
    found = driven([one, high], readings(50, 91), conditions=conditions, commands=[command("acknowledge", 3_000, "H")])
    assert [(row["time"], row["definition"], row["event"], row["value"]) for name, row in found if not name] == [
        (900, "X", "raise", 7.0),
        (1_000, "H", "raise", 91.0),
        (2_500, "X", "clear", 7.0),
        (3_000, "H", "acknowledge", 91.0),
    ]
    process = FixedAlarms([definition_of(one), definition_of(high)])
    state = hr.fresh_state(process, tag="site/P1", time=10_000)
    assert [row["event"] for name, row in process.on_condition({"definition": "X", "active": True, "value": None}, state) if not name] == ["raise"]
    state.time = 5_000
    assert [row["event"] for name, row in process.on_record({"value": 95.0}, state) if not name] == ["raise"]


def test_a_definition_of_another_kind_begins_without_the_delay_and_the_readings_of_the_old_one() -> None:
    def after(old: dict[str, Any], values: list[float], new: dict[str, Any], more: list[float]) -> list[tuple[int, str]]:
        process = FixedAlarms([definition_of(defined(**old))])
        state, found = hr.fresh_state(process, tag="site/P1"), []
        for nth, value in enumerate([*values, *more]):
            if nth == len(values):
                process.definitions.update(FixedAlarms([definition_of(defined(**new))]).definitions)
            state.time = nth * 1_000
            found += [(nth, row["event"]) for name, row in process.on_record({"value": value}, state) if not name]
        return found

    low, delayed = {"kind": "L", "limit": 10}, {"kind": "H", "limit": 90, "on_delay": 3}
    assert after(delayed, [91, 91], {**low, "on_delay": 1.5}, [5, 5, 5]) == [(4, "raise")]
    assert after({"kind": "H", "limit": 90, "k": 3, "n": 5}, [91, 91], {**low, "k": 3, "n": 5}, [5, 5, 5]) == [(4, "raise")]
    assert after({"kind": "rate_of_change", "limit": 1}, [5, 5], {"kind": "frozen", "after": 1.5}, [5, 5, 5]) == [(4, "raise")]
    assert after({"kind": "H", "limit": 90}, [91], low, [91]) == [(0, "raise"), (1, "clear")]
    assert after({**delayed, "limit": 80}, [91, 91], {**delayed, "kind": "HH"}, [91, 91, 91, 91]) == [(5, "raise")]
    assert after(delayed, [91, 91], {**delayed, "limit": 85}, [91, 91]) == [(3, "raise")]


def test_a_withdrawn_alarm_ends_once_also_if_an_older_reading_finds_it_withdrawn() -> None:
    process = FixedAlarms([definition_of(defined(limit=90))])
    state = hr.fresh_state(process, tag="site/P1", time=5_000)
    process.on_record({"value": 95.0}, state)
    process.definitions.clear()
    events = []
    for time in (4_000, 4_500, 6_000):
        state.time = time
        events += [row["event"] for name, row in process.on_record({"value": 95.0}, state) if not name]
    assert events == ["withdraw"]


def test_a_value_that_is_not_a_number_neither_raises_nor_clears() -> None:
    nan = float("nan")
    found = driven([defined(limit=90), defined("bad_quality", "Q")], readings(nan, 91, nan, 0))
    assert [(row["time"], row["definition"], row["event"]) for name, row in found if not name] == [
        (0, "Q", "raise"),
        (1_000, "Q", "clear"),
        (1_000, "X", "raise"),
        (2_000, "Q", "raise"),
        (3_000, "Q", "clear"),
        (3_000, "X", "clear"),
    ]


def test_a_timed_shelve_ends_at_its_time_and_the_alarm_starts_by_its_condition() -> None:
    commands = [command("shelve", 500, until=5_500), command("shelve", 20_000, until=30_000)]
    found = driven([defined(limit=90)], readings(91, 91, 0, 91), commands=commands, upto=60_000)
    assert told(found) == [
        (0, "raise", "unacknowledged"),
        (500, "shelve", "shelved"),
        (5_500, "unshelve", "unacknowledged"),
        (20_000, "shelve", "shelved"),
        (30_000, "unshelve", "unacknowledged"),
    ]
    assert told(found, "journal") == [(2_000, "clear", "returned"), (3_000, "raise", "unacknowledged")]
    assert [row["sequence"] for name, row in found if not name] == [1, 1, 2, 2, 3]
    assert [row["reason"] for name, row in found if row.get("event") == "unshelve" and not name] == ["its time is over"] * 2


def test_an_unacknowledged_alarm_is_escalated_once() -> None:
    one = defined(limit=90, priority=3, escalate_after=5, escalate_to=1)
    found = driven([one], readings(91, *[91] * 10), commands=[command("acknowledge", 9_500)], upto=60_000)
    assert [(row["time"], row["event"], row["to"], row["priority"]) for name, row in found if not name] == [
        (0, "raise", "unacknowledged", 3),
        (5_000, "escalate", "unacknowledged", 1),
        (9_500, "acknowledge", "acknowledged", 1),
    ]
    assert not [
        row for row in driven([one], readings(91), commands=[command("acknowledge", 4_000)], upto=60_000) if row[1].get("event") == "escalate"
    ]


def test_commands_for_what_is_not_there_are_refused() -> None:
    found = driven([defined(limit=90)], [], commands=[command("acknowledge", 5), command("acknowledge", 6, "Y"), command("explode", 7)])
    assert [(row["to"], row["definition"], (row["reason"] or "")[:19]) for name, row in found if not name] == [
        ("refused", "X", "the alarm is normal"),
        ("refused", "Y", "tag 'site/P1' has n"),
        ("refused", "X", "unknown command 'ex"),
    ]


def test_two_operators_acknowledge_at_once_and_the_second_is_refused() -> None:
    commands = [command("acknowledge", 500), command("acknowledge", 500, by="bob", sequence=1)]
    found = driven([defined(limit=90)], readings(91), commands=commands)
    assert [(row["to"], row["by"]) for name, row in found if not name] == [("unacknowledged", "system"), ("acknowledged", "ada"), ("refused", "bob")]


def test_a_record_is_named_by_its_alarm_and_numbered() -> None:
    found = driven([defined(limit=90, priority=2)], readings(91, 0, 92))
    rows = [row for name, row in found if not name]
    assert [(row["alarm_id"], row["asset"], row["kind"], row["priority"], row["limit"], row["value"], row["transition"]) for row in rows] == [
        ("site/P1/X", "site", "H", 2, 90.0, 91.0, 1),
        ("site/P1/X", "site", "H", 2, 90.0, 0.0, 2),
        ("site/P1/X", "site", "H", 2, 90.0, 92.0, 3),
    ]
    namespace = uuid.UUID(bytes=b"headrace.uuid.v5")
    names = ["\x1f".join(("X", row["version"], "site/P1", str(row["sequence"]))) for row in rows]
    assert [row["event_id"] for row in rows] == [str(uuid.uuid5(namespace, name)) for name in names]
    assert rows[0]["event_id"] == rows[1]["event_id"] != rows[2]["event_id"]


def test_chattering_and_stale_alarms_are_told() -> None:
    chattering = driven([defined(limit=90)], readings(91, 0, 91, 0, 91, 0, 91, step=10_000))
    assert [(row["nuisance"], row["time"], row["sequence"]) for name, row in chattering if name == "nuisances"] == [("chattering", 40_000, 3)]
    slow = driven([defined(limit=90)], readings(91, 0, 91, 0, 91, 0, step=20_000))
    assert not [row for name, row in slow if name == "nuisances"]
    day = 24 * 3_600_000
    stale = driven([defined(limit=90)], readings(91), upto=3 * day)
    assert [(row["nuisance"], row["time"]) for name, row in stale if name == "nuisances"] == [("stale", day)]
    assert not driven([defined(limit=90)], readings(91, 0), upto=3 * day)[4:]


def test_a_flood_begins_with_the_eleventh_raise_and_ends_when_fewer_than_five_are_left() -> None:
    raises = [{"plant": "plant", "time": nth * 10_000} for nth in range(15)]
    assert hr.drive(Flood, raises, by="plant", time="time", upto=3_600_000) == [
        ("", {"plant": "plant", "flood": "began", "time": 100_000, "raises": 11}),
        ("", {"plant": "plant", "flood": "ended", "time": 700_000, "raises": 4}),
    ]
    assert not hr.drive(Flood, raises[:10], by="plant", time="time", upto=3_600_000)


# By the wall clock


def silent_plan(seconds: float) -> Plan:
    def build() -> dict[str, hr.Stream]:
        schema = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE"}
        found = hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(time, 3)")
        return hr.alarm(found, [{"definition": "quiet", "tag": "a/P1", "kind": "no_data", "after": seconds}], hr.alarm_commands()).topics()

    return hr.pipeline("silent", version="1")(build).plan()


def tag(last: Any, texts: dict[str, str], time: int, now: int, *settings: dict[str, Any], live: bool = False) -> Tag:
    process = ClockedFixedAlarms([definition_of(one) for one in settings])
    return Tag("site/P1", definitions_of(process.definitions["site/P1"]), texts, last, time=time, now=now, clock=True, live=live)


def test_a_delay_goes_on_by_the_clock_when_readings_stop_however_far_the_clock_of_the_source_is_off() -> None:
    one, texts = defined(limit=90, on_delay=10), dict[str, str]()
    first = tag(None, texts, 5_000, 900_000, one)  # the source's clock is behind
    first.reading(95.0, bad=False, older=0)
    first.save()
    assert first.next_due() == (None, 910_000)
    woken = tag(first.last, texts, 5_000, 910_000, one, live=True)
    woken.pass_time(by_clock=True)
    assert [(row["event"], row["time"], row["arrived"]) for name, row in woken.rows if not name] == [("raise", 15_000, 910_000)]


def test_a_shelve_that_ends_while_the_process_is_down_ends_at_the_start_with_its_own_time() -> None:
    one, texts = defined(limit=90), dict[str, str]()
    shelving = tag(None, texts, 1_000, 1_002, one)
    shelving.command(Command("X", "shelve", "ada", "a test", None, 60_000, one_shot=False))
    shelving.save()
    start = tag(None, texts, 1_000, 500_000, one, live=True)
    start.pass_time(by_clock=True)
    assert [(row["event"], row["to"], row["time"], row["arrived"]) for name, row in start.rows if not name] == [
        ("unshelve", "normal", 60_000, 500_000)
    ]


def test_a_reading_that_arrives_at_its_event_time_does_not_make_silence_go_by_event_time() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def at(second: float, tag: str) -> list[dict[str, Any]]:
        return [{"tag": tag, "time": round((start.timestamp() + second) * 1000), "value": 1.0}]

    with hr.test(silent_plan(600.0), start=start) as one:
        one.advance(timedelta(seconds=1))
        one.feed("readings", at(0.4, "a/P1"))
        one.advance(timedelta(seconds=1))
        one.feed("readings", at(2.0, "a/P1"))
        one.feed("readings", [*at(900.0, "a/P2"), *at(900.1, "a/P2")])  # the clock of its source is ahead
        one.advance(timedelta(seconds=200))
        assert not one.rows("alarms")
        one.advance(timedelta(seconds=600))
        assert [(row["tag"], row["event"]) for row in one.rows("alarms")] == [("a/P1", "raise")]


def test_silence_goes_by_arrival_and_not_by_the_clock_of_the_source() -> None:
    one, texts = defined("no_data", after=10), dict[str, str]()
    first = tag(None, texts, 5_000, 900_000, one)
    first.reading(1.0, bad=False, older=0)
    second = tag(first.last, texts, 60_000, 909_000, one)  # its source's clock was set
    second.reading(1.0, bad=False, older=0)
    assert not second.rows
    assert second.next_due() == (None, 919_000)
