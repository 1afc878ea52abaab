"""Alarms on the embedded engine: over topics as over files, by the wall clock, and after any kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alarms.alarm_plant import DEFINITIONS, START, TOPICS, command, definition, happenings, plan_of, reading
from engines.embedded.test_live import Wall, live_on, raw, written
from engines.embedded.test_processes_live import FAR, add, topics_of
from headrace.engines.embedded.live import Live, Step
from headrace.plan.pipeline import Plan
from headrace.topics.sqlite import SqliteLog


@pytest.fixture
def wall() -> Wall:
    return Wall(START)


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "home" / "log.db", clock=wall)
    yield made
    made.close()


class Control:
    """A control room: it appends to the topics at a second by the wall clock, and lets the pipeline work."""

    def __init__(self, log: SqliteLog, wall: Wall, *definitions: dict[str, Any], **options: Any) -> None:
        self.log, self.wall, self.plan, self.options = log, wall, plan_of(**options), options
        for topic in TOPICS:
            log.create(topic)
        self.live = self.start()
        self.at(0, "alarm-definitions", *[definition(0, **one) for one in definitions])

    def start(self) -> Live:
        self.live = live_on(self.log, self.wall, self.plan, FAR)
        return self.live

    def at(self, second: float, topic: str = "readings", *lines: bytes) -> None:
        self.append(second, topic, *lines)
        self.work()

    def append(self, second: float, topic: str = "readings", *lines: bytes) -> None:
        self.wall.now = START + round(second * 1000)
        if lines:
            add(self.log, topic, [*lines])

    def work(self) -> None:
        self.live.work()
        self.live.commit()

    def told(self, topic: str = "alarms") -> list[tuple[float, float, str, str]]:
        return [((row["time"] - START) / 1000, (row["arrived"] - START) / 1000, row["event"], row["to"]) for row in written(self.log, topic)]


H = DEFINITIONS[0]


def test_an_alarm_is_raised_when_its_reading_arrives_and_a_command_after_hours_of_silence_takes_effect_at_once(log: SqliteLog, wall: Wall) -> None:
    room = Control(log, wall, {**H, "on_delay": None, "escalate_after": None, "escalate_to": None})
    room.at(5.002, "readings", reading(5, 95.0))
    assert room.told() == [(5, 5.002, "raise", "unacknowledged")]
    room.at(7_200, "alarm-commands", command(7_200, "acknowledge", sequence=1))
    assert room.told()[1:] == [(7_200, 7_200, "acknowledge", "acknowledged")]
    room.live.close()


def test_a_delay_an_escalation_and_silence_go_by_the_clock_when_readings_stop(log: SqliteLog, wall: Wall) -> None:
    room = Control(log, wall, H, {"definition": "quiet", "tag": "a/P1", "kind": "no_data", "after": 30})
    room.at(1_000, "readings", reading(5, 95.0))  # the clock of the source is 995 s behind
    room.at(1_001.9)
    assert not room.told()
    for second in (1_002.1, 1_022.0, 1_029, 1_031):
        room.at(second)
    assert room.told() == [
        (7, 1_002.1, "raise", "unacknowledged"),
        (27, 1_029, "escalate", "unacknowledged"),
        (35, 1_031, "raise", "unacknowledged"),
    ]
    room.live.close()


def test_a_shelve_that_ends_while_the_process_is_down_ends_at_the_start(log: SqliteLog, wall: Wall) -> None:
    room = Control(log, wall, {**H, "on_delay": None})
    room.at(1, "readings", reading(1, 95.0))
    room.at(2, "alarm-commands", command(2, "shelve", until=START + 60_000))
    room.live.close()
    wall.now = START + 3_600_000
    room.start()
    room.work()
    assert room.told() == [
        (1, 1, "raise", "unacknowledged"),
        (2, 2, "shelve", "shelved"),
        (60, 3_600, "unshelve", "unacknowledged"),
    ]
    room.live.close()


def test_a_backlog_raises_no_alarm_of_silence_where_there_was_none(log: SqliteLog, wall: Wall) -> None:
    room = Control(log, wall, {"definition": "quiet", "tag": "a/P1", "kind": "no_data", "after": 10})
    for second in range(1, 100):
        room.append(second, "readings", reading(second, 1.0))
    wall.now = START + 100_000
    for _ in range(120):
        room.live.work(1)
    room.live.commit()
    assert not room.told()
    room.at(109.5)
    assert room.told() == [(109, 109.5, "raise", "unacknowledged")]
    room.live.close()


def test_a_source_whose_clock_is_stuck_raises_after_the_delay_by_the_wall_clock_and_no_alarm_of_silence(log: SqliteLog, wall: Wall) -> None:
    silence = {"definition": "quiet", "tag": "a/P1", "kind": "no_data", "after": 8.0}
    control = Control(log, wall, H, silence)
    for second in range(1, 30):
        control.at(second, "readings", reading(1, 95.0 if second < 20 else 50.0))
    assert [(arrived, event) for _, arrived, event, _ in control.told()] == [(3, "raise"), (20, "clear")]
    control.live.close()


def test_a_wall_clock_that_is_set_back_repeats_and_loses_no_transition_nor_command(log: SqliteLog, wall: Wall) -> None:
    control = Control(log, wall, H, {"definition": "quiet", "tag": "a/P1", "kind": "no_data", "after": 8.0})

    def sent(second: float, topic: str, line: bytes) -> None:
        wall.now = START + round(second * 1000)
        log.append(topic, [line])
        control.work()

    for second in range(1, 20):
        by_wall = second if second < 5 else second - 3600  # an hour back; the source's clock goes on
        sent(by_wall, "readings", reading(second, 95.0 if second < 15 else 50.0))
        if second == 10:
            sent(by_wall, "alarm-commands", command(10, "acknowledge"))
    control.live.close()
    told = control.told()
    assert [(event, to) for _, _, event, to in told] == [("raise", "unacknowledged"), ("acknowledge", "acknowledged"), ("clear", "normal")]
    assert [arrived for _, arrived, *_ in told] == [3, 4, 4], "arrival never falls"


def test_a_definition_that_contradicts_others_is_kept_out_and_told(log: SqliteLog, wall: Wall) -> None:
    room = Control(log, wall, {**H, "on_delay": None}, {**DEFINITIONS[1], "limit": 80.0}, {**H, "kind": "Q"}, {"definition": "x", "tag": "t"})
    refused = [row["detail"] for row in written(log, "alarm-definitions.refused")]
    assert [next(part for part in ("is not above limit 90 of H", "unknown kind 'Q'", "missing required") if part in one) for one in refused] == [
        "is not above limit 90 of H",
        "unknown kind 'Q'",
        "missing required",
    ]
    room.at(1, "readings", reading(1, 93.0))
    room.at(2, "alarm-definitions", definition(2, definition="H", tag="a/P1", withdrawn=True))
    room.at(3, "readings", reading(3, 93.0))
    assert room.told() == [(1, 1, "raise", "unacknowledged"), (3, 3, "withdraw", "normal")]
    room.live.close()


def fed(log: SqliteLog, seed: int) -> dict[str, list[bytes]]:
    """Return what happens, appended to the topics in the order of its times."""
    found = happenings(seed, 80)
    every = sorted(((json.loads(line)["time"], topic, line) for topic, lines in found.items() for line in lines), key=lambda one: one[0])
    for topic in TOPICS:
        log.create(topic)
    for _, topic, line in every:
        add(log, topic, [line])
    return found


def worked(log: SqliteLog, wall: Wall, plan: Plan, most: int, *, again: bool = False) -> dict[str, bytes]:
    """Return what a run leaves that takes in so many records at once, killed after each commit if it is to begin again."""
    live = live_on(log, wall, plan, FAR)
    while live.work(most):
        live.commit()
        if again:
            live.close()
            live = live_on(log, wall, plan, FAR)
    live.commit()
    live.close()
    return topics_of(log, plan)


@pytest.mark.parametrize("seed", [1, *[pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 30)]])
def test_however_the_records_are_cut_and_the_run_is_broken_off_the_bytes_are_the_same(seed: int, tmp_path: Path) -> None:
    plan, found = plan_of(), {}
    for name, most, again in [("at once", 10_000, False), ("one by one", 1, False), ("broken off", 13, True)]:
        wall = Wall(START - 2_000)  # no timer of the clock is due before all is read
        log = SqliteLog(tmp_path / name / "log.db", clock=wall)
        fed(log, seed)
        found[name] = worked(log, wall, plan, most, again=again)
        log.close()
    assert found["one by one"] == found["at once"]
    assert found["broken off"] == found["at once"]
    events = {json.loads(line)["event"] for line in found["at once"]["alarms"].splitlines()}
    assert {"raise", "clear"} <= events
    if seed == 1:  # the others are drawn by chance, and need not have every event
        assert {"acknowledge", "shelve", "unshelve"} <= events
        assert found["at once"]["alarms.journal"]


def test_a_flood_of_ten_thousand_alarms_within_a_second_loses_none_and_repeats_none_when_the_run_is_broken_off(log: SqliteLog, wall: Wall) -> None:
    tags = [f"a/T{number}" for number in range(2_000)]
    room = Control(log, wall, *[{"definition": f"H{nth}", "tag": tag, "kind": "H", "limit": 10.0 * nth} for tag in tags for nth in range(5)])
    room.append(2, "readings", *[reading(1 + nth / len(tags), 50.0, tag) for nth, tag in enumerate(tags)])
    for most in (300, 900):
        room.live.work(most)
        room.live.commit()
        room.live.work(most)
        room.live.close()  # before a commit
        room.start()
    room.work()
    room.live.close()
    raised = [(row["alarm_id"], row["sequence"]) for row in written(log, "alarms") if row["event"] == "raise"]
    assert len(raised) == 10_000
    assert sorted(raised) == sorted((f"{tag}/H{nth}", 1) for tag in tags for nth in range(5))
    standing = {row["alarm_id"]: row["state"] for row in written(log, "alarms.current")}
    assert standing == dict.fromkeys((name for name, _ in raised), "unacknowledged")


def test_a_replay_that_takes_the_steps_of_the_clock_gives_the_same_bytes(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    room = Control(log, wall, H, DEFINITIONS[3])
    for second in range(1, 60):
        room.at(second, "readings", *[reading(second, 95.0 if second % 9 < 5 else 1.0, tag) for tag in ("a/P1", "a/P2") if second % 20 < 8])
        room.at(second + 0.5)
    live = room.live
    steps = [json.loads(one) for one in raw(log, "plant.clock")]
    assert len(steps) > 2
    expected = topics_of(log, room.plan)
    live.close()
    copied = SqliteLog(tmp_path / "copy" / "log.db", clock=wall)
    for topic in TOPICS:
        copied.create(topic)
    entries = [(entry.arrived_ms, topic, entry.value) for topic in TOPICS for entry in log.entries(topic, 0, 0, 10**6)]
    for arrived, topic, value in sorted(entries, key=lambda one: (one[0], TOPICS.index(one[1]) != 1)):
        wall.now = arrived
        add(copied, topic, [value])
    again = live_on(copied, wall, room.plan, FAR)
    for step in steps:
        told = {name: value for name, value in step.items() if name != "at_ms"}
        while sum(map(sum, again.offsets.values())) < sum(step["offsets"]):
            again.feed.fetch(1)
            while not again.run.drained:
                again.run.take_turn()
        again.take(Step(**{**told, "offsets": tuple(step["offsets"]), "shown": tuple(step["shown"]), "resting": tuple(step["resting"])}))
    again.commit()
    got = topics_of(copied, room.plan)
    again.close()
    copied.close()
    assert got["alarms"] == expected["alarms"][: len(got["alarms"])]
    assert b'"raise"' in got["alarms"]
    assert len(got["alarms"].splitlines()) >= len(expected["alarms"].splitlines()) - 2


@pytest.mark.long
def test_a_pipeline_of_alarms_is_proved_by_kills(tmp_path: Path) -> None:
    script = tmp_path / "plant.py"
    script.write_text("""
import headrace as hr

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}


@hr.pipeline("plant", version="1")
def plant():
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return hr.alarm(readings, hr.alarm_definitions(), hr.alarm_commands(), hr.alarm_conditions()).topics()
""")
    inputs = []
    for topic, lines in happenings(3, 120).items():
        (tmp_path / f"{topic}.ndjson").write_bytes(b"".join(one + b"\n" for one in lines))
        inputs += ["--input", f"{topic}={tmp_path / topic}.ndjson"]
    words = [sys.executable, "-m", "headrace", "prove", f"{script}:plant", "--kills", "2", *inputs]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "output, dead letters and ledger are identical" in done.stdout
