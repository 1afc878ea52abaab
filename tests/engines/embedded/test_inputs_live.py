"""Processes with several inputs over topics: commands that come late, or after an hour of silence, and what holds the watermark back."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
import waiting
from broker import Shared
from engines.embedded.processes import COLUMNS, START, line, source
from engines.embedded.test_live import Wall, live_on, raw, run_for, written
from engines.embedded.test_processes import KEYS, deeds
from engines.embedded.test_processes_live import FAR, add, topics_of
from headrace.engines.embedded.live import NO_CLOCK, Limits, Live, Patience, Step, run_live
from headrace.errors import EnvironmentFault
from headrace.plan.pipeline import Plan
from headrace.topics.sqlite import SqliteLog
from repeated import examples


@pytest.fixture
def wall() -> Wall:
    return Wall(START)


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "home" / "log.db", clock=wall)
    yield made
    made.close()


class Alarm:
    """Says what it is called with, the time, and whether a command has acknowledged."""

    output = {"at": "DOUBLE NOT NULL", "said": "STRING NOT NULL", "by": "STRING"}
    state = {"by": hr.Value("STRING"), "count": hr.Value("BIGINT", 0)}

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        state.count += 1
        if row["do"] and row["do"].startswith("timer"):
            state.set_timer("timer", state.time + 1_000)
        return self._said("record", state)

    def on_command(self, row: dict[str, Any], state: Any) -> Any:
        state.by = row["do"]
        return self._said("command", state)

    def on_timer(self, name: str, state: Any) -> Any:
        return self._said(name, state)

    def _said(self, what: str, state: Any) -> dict[str, Any]:
        return {"at": (state.time - START) / 1000, "said": what, "by": state.by}


def alarms(
    log: SqliteLog | None = None, *, late: Any = "take", holds: bool = False, partitions: int = 1, order: str = "event_time", **more: Any
) -> Plan:
    """Return the plan of alarms over `one` that takes commands, and make its topics."""
    if log is not None:
        for topic in ("one", "commands"):
            log.create(topic, partitions)

    def build() -> dict[str, hr.Stream]:
        told = hr.input(source("commands", 0), late=late, holds=holds, late_to="late" if late == "side" else None)
        return {"out": source("one", 1_000).process(Alarm, by=["k"], order=order, inputs={"command": told}, **more)}

    return hr.pipeline("alarms", version="1")(build).plan()


def said(log: SqliteLog) -> list[tuple[float, str, str | None]]:
    return [(row["at"], row["said"], row["by"]) for row in written(log, "out")]


def worked(live: Live) -> Live:
    live.work()
    live.commit()
    return live


def readings(log: SqliteLog, wall: Wall, live: Live, seconds: range) -> None:
    for second in seconds:
        wall.now = START + second * 1_000
        add(log, "one", [line(second)])
        worked(live)


# A topic that was silent


def test_a_command_on_a_topic_that_was_silent_for_an_hour_takes_effect_at_once(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, alarms(log))
    readings(log, wall, live, range(0, 3_600, 60))
    assert said(log)[-1] == (3_480, "record", None)  # the watermark is a second before the last of them, and nothing waits for commands
    add(log, "commands", [line(3_500, do="ada")])  # older than the watermark, which stands at 3539
    worked(live)
    assert said(log)[-1] == (3_539, "command", "ada")
    readings(log, wall, live, range(3_600, 3_700, 60))
    assert said(log)[-2:] == [(3_540, "record", "ada"), (3_600, "record", "ada")]
    assert live.run.ledger["commands"].counts() | {"received": 1, "accepted": 1, "late": 0} == live.run.ledger["commands"].counts()
    live.close()


def test_the_first_command_of_all_takes_effect_at_once(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, alarms(log), Patience(idle_after=None, close_quiet_after=None))
    readings(log, wall, live, range(10))
    add(log, "commands", [line(-3_600, do="ada")])
    worked(live)
    assert said(log)[-1] == (8, "command", "ada")
    live.close()


def test_a_command_takes_effect_at_once_while_all_readings_are_idle(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, alarms(log, partitions=2), Patience(idle_after=5_000, close_quiet_after=None))
    readings(log, wall, live, range(10))
    wall.now += 3_600_000
    worked(live)
    add(log, "commands", [line(5, do="ada")])
    worked(live)
    assert said(log)[-1] == (8, "command", "ada")
    live.close()


def test_a_command_ahead_of_the_watermark_waits_for_it_as_a_record_does(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, alarms(log))
    readings(log, wall, live, range(10))
    add(log, "commands", [line(9.5, do="ada")])
    worked(live)
    assert said(log)[-1] == (7, "record", None)
    readings(log, wall, live, range(10, 12))
    assert said(log)[-3:] == [(8, "record", None), (9, "record", None), (9.5, "command", "ada")]
    live.close()


def test_in_the_order_of_arrival_every_command_takes_effect_at_once(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, alarms(log, order="arrival"), Patience(idle_after=5_000, close_quiet_after=None))
    add(log, "one", [line(0, do="timer")])
    worked(live)
    for second in (50, -50):
        add(log, "commands", [line(second, do="ada")])
        worked(live)
    wall.now += 3_600_000
    worked(live)
    add(log, "commands", [line(60, do="bob")])
    worked(live)
    assert [row[1:] for row in said(log)] == [("record", None), ("command", "ada"), ("command", "ada"), ("command", "bob")]
    add(log, "one", [line(2.5), line(3)])
    worked(live)
    assert [row[1] for row in said(log)][-3:] == ["record", "timer", "record"]  # no command has moved the clock that timers go by
    live.close()


def test_a_command_on_a_silent_topic_of_kafka_takes_effect_at_once_also_behind_a_restart(kafka: Shared, tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")
    from headrace.topics.kafka import KafkaLog

    named = uuid.uuid4().hex[:8]

    def build() -> dict[str, hr.Stream]:
        told = hr.input(source(f"{named}.commands", 0), late="take", holds=False)
        return {f"{named}.out": source(f"{named}.one", 1_000).process(Alarm, by=["k"], inputs={"command": told})}

    plan = hr.pipeline(f"alarms-{named}", version="1")(build).plan()
    with closing(KafkaLog(kafka.servers, tmp_path)) as log:
        for topic in (f"{named}.one", f"{named}.commands"):
            log.create(topic, 1)

        def told_by(live: Live, count: int) -> list[tuple[float, str, str | None]]:
            def rows() -> list[Any]:
                live.work()
                live.commit()
                return written(log, f"{named}.out")  # type: ignore[arg-type]

            waiting.wait_for(lambda: len(rows()) >= count, seconds=400)
            return [(row["at"], row["said"], row["by"]) for row in rows()]

        live = Live(plan, log, Patience(idle_after=None, close_quiet_after=None, max_ahead=None))
        log.append(f"{named}.one", [line(second) for second in range(10)])
        assert told_by(live, 8)[-1] == (7, "record", None)
        log.append(f"{named}.commands", [line(-3_600, do="ada")])
        assert told_by(live, 9)[-1] == (8, "command", "ada")
        live.close()
        live = Live(plan, log, Patience(idle_after=None, close_quiet_after=None, max_ahead=None))
        log.append(f"{named}.commands", [line(8.5, do="bob")])
        waiting.wait_for(lambda: (live.work(), live.received == 12)[1], seconds=400)
        log.append(f"{named}.one", [line(11)])
        assert told_by(live, 12)[-3:] == [(8, "record", "ada"), (8.5, "command", "bob"), (9, "record", "bob")]
        live.close()


# Time policies


def test_an_input_that_holds_is_waited_for_until_it_is_idle(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, alarms(log, holds=True), Patience(idle_after=20_000, close_quiet_after=None))
    readings(log, wall, live, range(10))
    assert said(log) == []
    add(log, "commands", [line(5, do="ada")])
    worked(live)
    assert said(log)[-1] == (4, "record", None)
    readings(log, wall, live, range(10, 29))
    assert said(log)[-1] == (4, "record", None)
    readings(log, wall, live, range(29, 31))
    assert said(log)[-1] == (28, "record", "ada")
    live.close()


@pytest.mark.parametrize("late", ["drop", "side"])
def test_a_record_behind_the_watermark_of_a_process_that_does_not_wait_for_it_is_late(late: str, log: SqliteLog, wall: Wall) -> None:
    plan = alarms(log, late=late)
    live = live_on(log, wall, plan)
    readings(log, wall, live, range(10))
    add(log, "commands", [line(7.9, do="ada"), line(8, do="bob"), b"{"])
    worked(live)
    readings(log, wall, live, range(10, 12))
    assert [(at, by) for at, what, by in said(log) if what == "command"] == [(8, "bob")]
    counts = live.run.ledger["commands"].counts()
    assert (counts["received"], counts["accepted"], counts["late"], counts["malformed"]) == (3, 1, 1, 1)
    if late == "side":
        assert [row["do"] for row in written(log, "late")] == ["ada"]
        assert set(written(log, "late")[0]) == set(COLUMNS)
    live.close()


def test_what_stands_behind_does_not_wait_for_the_commands_either(log: SqliteLog, wall: Wall) -> None:
    for topic in ("one", "commands"):
        log.create(topic)

    def build() -> dict[str, hr.Stream]:
        made = source("one", 1_000).process(Alarm, by=["k"], inputs={"command": hr.input(source("commands", 0), late="take", holds=False)})
        return {"out": made.window(hr.tumbling(hr.seconds(5)), by=["k"]).aggregate(n="COUNT(*)", last="MAX(at)")}

    live = live_on(log, wall, hr.pipeline("alarms", version="1")(build).plan())
    readings(log, wall, live, range(30))
    assert [row["n"] for row in written(log, "out")] == [5] * 5
    add(log, "commands", [line(-100, do="ada")])
    readings(log, wall, live, range(30, 40))
    assert [row["n"] for row in written(log, "out")] == [5] * 5 + [6, 5]
    live.close()


# The same, however the input is cut and the run is broken off


@st.composite
def appended(draw: st.DrawFn) -> list[tuple[str, int, bytes]]:
    """Lines of both topics in the order in which they were appended: commands are silent for long, and then come from the past or the future."""
    second, found = 0.0, []
    for _ in range(draw(st.integers(0, 40))):
        second += draw(st.sampled_from([0, 0, 0.25, 1, 2, 20]))
        if draw(st.integers(0, 3)):
            back = draw(st.sampled_from([0, 0, 0.5, 1, 3]))
            found.append(("one", draw(st.integers(0, 1)), line(second - back, draw(st.sampled_from(KEYS)), draw(st.sampled_from(["", "timer"])))))
        else:
            away = draw(st.sampled_from([0, -0.5, -1, -5, -1_000, 1, 5]))
            found.append(("commands", draw(st.integers(0, 1)), line(second + away, draw(st.sampled_from(KEYS)), draw(deeds(failing=False)))))
    return found


def on_topics(entries: list[tuple[str, int, bytes]], plan: Plan, stops: list[int], chance: random.Random) -> tuple[dict[str, bytes], Any]:
    """Return what a run gives that is broken off there, which reads while the topics are written."""
    wall = Wall(START)
    with TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder) / "log.db", clock=wall)
        for topic in ("one", "commands"):
            log.create(topic, 2)
        left = list(entries)

        def append(count: int) -> None:
            for topic, partition, value in left[:count]:
                add(log, topic, [value], partition)
            del left[:count]

        append(len(left) if not stops else chance.randint(0, 5))
        for most in stops:
            live = Live(plan, log, FAR, clock=wall, tick=wall.tick, batch_records=chance.choice([None, 1, 3]))
            run_live(live, Limits(records=most, duration=5), sleep=wall.sleep, commit_seconds=0 if most % 2 else 60)
            append(chance.randint(0, 9))
        append(len(left))
        live = Live(plan, log, FAR, clock=wall, tick=wall.tick, batch_records=chance.choice([None, 1, 3]))
        ledger = run_live(live, Limits(duration=5, drain=True), sleep=wall.sleep)
        found = {topic: b"".join(one + b"\n" for one in raw(log, topic)) for topic in plan.topics}
        log.close()
    return found, {topic: account.counts() for topic, account in ledger.items()}


@examples(18, 500)
@given(appended(), st.sampled_from(["take", "drop", "side"]), st.sampled_from(["event_time", "arrival"]),
       st.lists(st.integers(1, 12), max_size=4), st.randoms(use_true_random=False))  # fmt: skip
def test_results_depend_on_the_order_of_appending_alone(entries: Any, late: str, order: str, stops: list[int], chance: random.Random) -> None:
    if order == "arrival" and late == "side":
        late = "take"
    plan = alarms(late=late, order=order)
    whole, ledger = on_topics(entries, plan, [], chance)
    assert on_topics(entries, plan, stops, chance) == (whole, ledger)
    for topic, counts in ledger.items():
        assert counts["received"] == counts["accepted"] + counts["late"] == sum(one[0] == topic for one in entries)
    if late == "take":
        assert ledger["commands"]["late"] == 0
        commands = sum(b'"said":"command"' in row for row in whole["out"].splitlines())
        assert commands == ledger["commands"]["received"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 12))])
def test_a_replay_that_takes_the_written_steps_gives_the_same(seed: int, log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    plan, chance = alarms(log), random.Random(seed)
    patience = Patience(idle_after=4_000, close_quiet_after=8_000)
    live = live_on(log, wall, plan, patience)
    for _ in range(120):
        topic, away = chance.choice([("one", 1), ("one", 1), ("one", 3), ("commands", 0), ("commands", 20)])
        if chance.random() < 0.5:
            add(log, topic, [line((wall.now - START) / 1000 - chance.random() * away, chance.choice("abc"), chance.choice(["timer", ""]))])
        wall.now += chance.choice([10, 300, 1_000, 1_000, 9_000])
        worked(live)
        if chance.random() < 0.1:
            live.close()
            live = live_on(log, wall, plan, patience)
    worked(live).close()
    steps = written(log, "alarms.clock")
    assert steps
    assert {row["said"] for row in written(log, "out")} == {"record", "command", "timer"}

    again = SqliteLog(tmp_path / "again" / "log.db", clock=(then := Wall()))
    entries = [(entry.arrived_ms, topic, entry.value) for topic in ("one", "commands") for entry in log.entries(topic, 0, 0, 10**6)]
    for topic in ("one", "commands"):
        again.create(topic)
    for then.now, topic, value in sorted(entries, key=lambda entry: entry[0]):
        add(again, topic, [value])
    live = Live(plan, again, NO_CLOCK, clock=then)
    for step in steps:
        while live.run.partitions and tuple(p.next_offset for p in live.run.partitions) != tuple(step["offsets"]):
            live.work(1)
        live.take(Step(tuple(step["offsets"]), tuple(step["shown"]), tuple(step["resting"]), step["clock_ms"], step["ended"]))
    worked(live).close()
    assert topics_of(again, plan) == topics_of(log, plan)
    again.close()


# A pipeline that changes


def test_an_input_can_be_added_and_not_taken_away(log: SqliteLog, wall: Wall) -> None:
    class Before(Alarm):
        on_command = None

    def before() -> dict[str, hr.Stream]:
        return {"out": source("one", 1_000).process(Before, by=["k"], name="alarm")}

    plan = alarms(log, name="alarm")
    live = live_on(log, wall, hr.pipeline("alarms", version="1")(before).plan())
    readings(log, wall, live, range(10))
    live.close()
    live = live_on(log, wall, plan)
    assert live.changes.kept == ("alarm",)
    add(log, "commands", [line(3, do="ada")])
    readings(log, wall, live, range(10, 12))
    assert said(log)[-3:] == [(8, "command", "ada"), (8, "record", "ada"), (9, "record", "ada")]
    live.close()
    with pytest.raises(EnvironmentFault, match=r"alarm cannot keep its state: (it no longer reads commands|input command no longer exists)"):
        live_on(log, wall, hr.pipeline("alarms", version="1")(before).plan())


def test_pending_records_of_an_input_are_kept_from_one_run_to_the_next(log: SqliteLog, wall: Wall) -> None:
    plan = alarms(log)
    live = live_on(log, wall, plan)
    readings(log, wall, live, range(3))
    add(log, "commands", [line(20, do="ada"), line(4, do="bob")])  # the second counts at the 20th second: its partition has been there
    worked(live).close()
    live = live_on(log, wall, plan)
    readings(log, wall, live, range(3, 23))
    assert [row for row in said(log) if row[1] == "command"] == [(20, "command", "ada"), (20, "command", "bob")]
    live.close()
    add(log, "commands", [line(30, do="cid")])
    run_for(live_on(log, wall, plan), wall, 1, drain=True)
    assert said(log)[-1] == (30, "command", "cid")
