"""Processes over topics: what files give, clocks, rules that come while it runs, and state from one run to the next."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.processes import START, Unruled, expected, line, plan_of, source
from engines.embedded.test_live import Wall, live_on, raw, run_for, written
from engines.embedded.test_processes import cases, chained, check, partitions, run, written_files
from headrace.engines.embedded.live import NO_CLOCK, Limits, Live, Patience, Step, run_live
from headrace.errors import EnvironmentFault, ProcessError
from headrace.plan.pipeline import Plan
from headrace.topics.sqlite import SqliteLog
from repeated import examples

FAR = Patience(idle_after=None, close_quiet_after=None)


@pytest.fixture
def wall() -> Wall:
    return Wall(START)


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "home" / "log.db", clock=wall)
    yield made
    made.close()


def add(log: SqliteLog, topic: str, lines: list[bytes], partition: int = 0) -> None:
    with log.catalog.writing():
        log.appending.append_to(log.catalog.partitions_of(topic)[partition], lines, None, log.appending.clock())


def topics_of(log: SqliteLog, plan: Plan) -> dict[str, bytes]:
    return {topic: b"".join(one + b"\n" for one in raw(log, topic)) for topic in plan.topics}


def shuffled(log: SqliteLog, inputs: dict[str, list[list[bytes]]], chance: random.Random) -> None:
    """Make topics of the lines, partition by partition in their order, all of them mixed."""
    for topic, parts in inputs.items():
        log.create(topic, len(parts))
    waiting = [(topic, number, list(lines)) for topic, parts in inputs.items() for number, lines in enumerate(parts)]
    while waiting := [one for one in waiting if one[2]]:
        topic, number, lines = chance.choice(waiting)
        size = chance.randint(1, 9)
        add(log, topic, lines[:size], number)
        del lines[:size]


# The same as on files


@examples(25, 400)
@given(case=cases(), stops=st.lists(st.integers(1, 12), max_size=5), chance=st.randoms(use_true_random=False))
def test_a_run_on_topics_gives_what_the_reference_gives_however_often_it_is_broken_off(case: Any, stops: list[int], chance: random.Random) -> None:
    inputs, delays, options = case
    told = expected(inputs, delays, **options)
    if not options["failing"] and options["rules"]:
        told.failed = []
    plan, wall = plan_of(delays, **options), Wall(START)
    with TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder) / "log.db", clock=wall)
        shuffled(log, inputs, chance)
        for most in stops:
            live = Live(plan, log, latest=True, clock=wall, batch_records=chance.randint(1, 7))
            run_live(live, Limits(records=most), sleep=wall.sleep, commit_seconds=0 if most % 2 else 60)
        ledger = run_live(Live(plan, log, latest=True, clock=wall, batch_records=chance.choice([None, 3])), sleep=wall.sleep)
        found = topics_of(log, plan)
        log.close()
    check(found, {topic: account.counts() for topic, account in ledger.items()}, told)


@examples(15, 300)
@given(partitions(failing=True), st.sampled_from([0, 2_000]), st.lists(st.integers(1, 12), max_size=4), st.randoms(use_true_random=False))
def test_a_process_in_the_order_of_arrival_gives_the_same_however_often_it_is_broken_off(
    lines: list[bytes], delay: int, stops: list[int], chance: random.Random
) -> None:
    inputs, delays = {"one": [lines]}, {"one": delay}
    told = expected(inputs, delays, failing=True, arrival=True)
    plan, wall = plan_of(delays, failing=True, arrival=True), Wall(START)
    with TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder) / "log.db", clock=wall)
        shuffled(log, inputs, chance)
        for most in stops:
            live = Live(plan, log, FAR, clock=wall, tick=wall.tick, batch_records=chance.randint(1, 7))
            run_live(live, Limits(records=most, duration=5), sleep=wall.sleep, commit_seconds=0 if most % 2 else 60)
        ledger = run_live(Live(plan, log, latest=True, clock=wall, batch_records=chance.choice([None, 3])), sleep=wall.sleep)
        found = topics_of(log, plan)
        log.close()
    check(found, {topic: account.counts() for topic, account in ledger.items()}, told)


@examples(10, 200)
@given(cases(), partitions(failing=False), st.lists(st.integers(1, 12), max_size=3), st.randoms(use_true_random=False))
def test_what_stands_behind_a_process_gives_what_it_gives_on_files(case: Any, beside: list[bytes], stops: list[int], chance: random.Random) -> None:
    inputs, delays, options = case
    inputs, plan, wall = {**inputs, "beside": [beside]}, chained(delays, **options), Wall(START)
    with TemporaryDirectory() as folder:
        on_files, _ = run(plan, written_files(Path(folder), inputs))
        log = SqliteLog(Path(folder) / "log.db", clock=wall)
        shuffled(log, inputs, chance)
        for most in stops:
            live = Live(plan, log, latest=True, clock=wall, batch_records=chance.randint(1, 7))
            run_live(live, Limits(records=most), sleep=wall.sleep, commit_seconds=0 if most % 2 else 60)
        run_live(Live(plan, log, latest=True, clock=wall, batch_records=chance.choice([None, 3])), sleep=wall.sleep)
        found = topics_of(log, plan)
        log.close()
    for topic in found.keys() - {"failed"}:
        data, expected = found[topic], on_files.get(topic, b"")
        if topic.startswith("late-") and sum(map(any, inputs[topic.removeprefix("late-")])) > 1:  # the order of partitions is that of the log
            assert sorted(data.splitlines()) == sorted(expected.splitlines()), topic
        else:
            assert data == expected, topic


def said(log: SqliteLog, topic: str = "out") -> list[tuple[float, str]]:
    """Return what was given, as seconds and the first word or timer."""
    return [((row["at"] - START) / 1000, row["said"].split(" [")[0]) for row in written(log, topic)]


def piped(build: Any, name: str = "machine", **delays: int) -> Plan:
    return hr.pipeline(name, version="1")(lambda: build(*(source(topic, delay) for topic, delay in delays.items()))).plan()


def test_timers_go_off_up_to_the_last_event_even_if_that_never_came_to_the_process(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    plan = piped(lambda one: {"out": one.where("x > 0").process(Unruled(), by=["k"])}, one=5_000)
    inputs = {"one": [[line(0, do="timer:1000:p"), line(0, "b", do="timer:4001:q"), line(4, x=-1)]]}
    on_files, _ = run(plan, written_files(tmp_path, inputs))
    log.create("one")
    add(log, "one", inputs["one"][0])
    run_live(live_on(log, wall, plan, latest=True), sleep=wall.sleep)
    assert said(log) == [(0, "timer:1000:p"), (0, "timer:4001:q"), (1, "timer p")]
    assert topics_of(log, plan) == on_files


def test_no_timer_of_the_clock_goes_off_where_the_topics_are_read_as_files_are(log: SqliteLog, wall: Wall) -> None:
    plan = piped(lambda one: {"out": one.process(Clocked(), by=["k"])}, one=0)
    log.create("one")
    add(log, "one", [line(0, do="in:1000")])
    wall.now += 10_000
    run_live(live_on(log, wall, plan, latest=True), sleep=wall.sleep)
    assert said(log) == [(0, "in:1000")]
    run_for(live_on(log, wall, plan, FAR), wall, 1)
    assert said(log) == [(0, "in:1000"), (1, "clock")]


class Clocked:
    """Sets a timer of the clock on the wall so much later than the record's arrival."""

    state = {"count": hr.Value("BIGINT", 0)}
    output = {"at": "BIGINT", "said": "STRING", "time": "BIGINT"}

    def on_record(self, row: Any, state: Any) -> Any:
        state.count += 1
        if row["do"].startswith("in:"):
            state.set_clock_timer("bell", state.now + int(row["do"][3:]))
        elif row["do"] == "clear":
            state.clear_clock_timer("bell")
        return {"at": state.now, "said": row["do"], "time": state.time}

    def on_clock(self, name: str, state: Any) -> Any:
        if state.count > 1:
            state.count -= 1
            state.set_clock_timer(name, state.now + 5_000)
        return {"at": state.now, "said": "clock", "time": state.time}


# Quiet


def test_a_timer_goes_off_when_all_is_quiet_as_the_clock_passes_it_and_no_further(log: SqliteLog, wall: Wall) -> None:
    plan = plan_of({"one": 1_000})
    log.create("one", 2)
    live = live_on(log, wall, plan, Patience(idle_after=5_000, close_quiet_after=60_000))
    add(log, "one", [line(1, do="timer:70000:p"), line(2, "b", do="timer:3600000:q")])
    for _ in range(1_000):
        live.work()
        wall.now += 100
    live.commit()
    assert said(log) == [(1, "timer:70000:p"), (2, "timer:3600000:q"), (71, "timer p")]
    steps = written(log, "machine.clock")
    assert len(steps) < 8, "a step is taken when something is due, not whenever the clock moves"
    add(log, "one", [line(50, "c"), line(75, "c")], 1)
    live.work()
    assert (live.run.ledger["one"].late, live.run.ledger["one"].accepted) == (1, 3)
    wall.now += 3_600_000
    live.work()
    live.commit()
    assert said(log)[3:] == [(75, ""), (3_602, "timer q")]
    live.close()


def test_what_ages_for_long_makes_no_steps_of_the_clock_meanwhile(log: SqliteLog, wall: Wall) -> None:
    class Aging:
        state = {"seen": hr.Value("BIGINT", ttl=hr.seconds(86_400))}
        output = {"at": "BIGINT"}

        def on_record(self, _: Any, state: Any) -> Any:
            state.seen = state.time
            return {"at": state.time}

    plan = piped(lambda one: {"out": one.process(Aging(), by=["k"])}, one=1_000)
    log.create("one")
    add(log, "one", [line(1)])
    live = live_on(log, wall, plan, Patience(idle_after=5_000, close_quiet_after=10_000))
    for _ in range(500):
        live.work()
        wall.now += 1_000
    assert len(live.run.graph.stages[0].keyspace) == 1
    wall.now += 86_400_000
    live.work()
    live.commit()
    assert len(live.run.graph.stages[0].keyspace) == 0
    assert len(written(log, "machine.clock")) < 5
    live.close()


@pytest.mark.parametrize("end", ["quiet", "drained", "latest"])
def test_windows_behind_a_process_close_when_all_is_quiet_and_when_the_run_is_drained(end: str, log: SqliteLog, wall: Wall) -> None:
    def build(one: hr.Stream) -> dict[str, hr.Stream]:
        made = one.process(Unruled(), by=["k"])
        return {"out": made.window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="COUNT(*)", all="ARRAY_AGG(at)")}

    plan = piped(build, one=1_000)
    log.create("one")
    add(log, "one", [line(1, do="timer:8999:p"), line(9.999), line(3), line(12)])
    if end == "quiet":
        live = live_on(log, wall, plan, Patience(idle_after=5_000, close_quiet_after=60_000))
        for _ in range(70):
            live.work()
            wall.now += 1_000
        live.commit()
        live.close()
    elif end == "drained":
        run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    else:
        run_live(live_on(log, wall, plan, latest=True), sleep=wall.sleep)
    assert [row["all"] for row in written(log, "out")] == [[START + 1_000, START + 9_999, START + 9_999], [START + 12_000]]


def test_windows_behind_a_process_may_allow_lateness_though_nothing_is_late_there(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    def build(one: hr.Stream) -> dict[str, hr.Stream]:
        made = one.process(Unruled(), by=["k"])
        windows = made.window(hr.tumbling(hr.seconds(10)), by=["k"], allowed_lateness=hr.seconds(5)).late_to("late")
        return {"out": windows.aggregate(n="COUNT(*)")}

    plan, lines = piped(build, one=1_000), [line(1), line(11), line(10.5), line(30), line(2), line(29.5)]
    on_files, _ = run(plan, written_files(tmp_path, {"one": [lines]}))
    log.create("one")
    add(log, "one", lines)
    run_live(live_on(log, wall, plan, latest=True), sleep=wall.sleep)
    assert [row["n"] for row in written(log, "out")] == [1, 2, 1, 1]
    assert topics_of(log, plan)["out"] == on_files["out"]


# The clock on the wall


def test_timers_of_the_clock_go_off_when_it_passes_them(log: SqliteLog, wall: Wall) -> None:
    plan = piped(lambda one: {"out": one.process(Clocked(), by=["k"])}, one=5_000)
    log.create("one")
    live = live_on(log, wall, plan)
    add(log, "one", [line(1, do="in:3000"), line(2, "b", do="in:2000"), line(7, "c", do="")])
    live.work()
    assert said_by_clock(live, log, wall, 1_999) == [(0, "in:3000", 1)]
    assert said_by_clock(live, log, wall, 1) == []
    assert said_by_clock(live, log, wall, 5_000) == [(3, "clock", 2)]
    live.close()


def said_by_clock(live: Live, log: SqliteLog, wall: Wall, later: int) -> list[tuple[float, str, float]]:
    """Return what is given newly when the clock goes on."""
    before = len(written(log, "out"))
    wall.now += later
    live.work()
    live.commit()
    return [((row["at"] - START) / 1000, row["said"], (row["time"] - START) / 1000) for row in written(log, "out")[before:]]


def day(log: SqliteLog, wall: Wall, plan: Plan, patience: Patience, chance: random.Random) -> None:
    """Have a run read what comes, now and then, be quiet for long, and be stopped and go on."""
    live = live_on(log, wall, plan, patience)
    for _ in range(120):
        if chance.random() < 0.5:
            do = chance.choice(["in:4000", "in:500", "in:-3", "clear", ""])
            add(log, "one", [line((wall.now - START) / 1000 - chance.random() * 5, chance.choice("abc"), do)], chance.randrange(2))
        wall.now += chance.choice([10, 300, 1_000, 1_000, 9_000])
        live.work(chance.choice([None, None, 1]))
        if chance.random() < 0.3:
            live.commit()
            if chance.random() < 0.3:
                live.close()
                live = live_on(log, wall, plan, patience)
    live.work()
    live.commit()
    live.close()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 12))])
def test_a_replay_that_takes_the_written_steps_gives_the_same(seed: int, log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    def build(one: hr.Stream) -> dict[str, hr.Stream]:
        made = one.process(Clocked(), by=["k"])
        windows = made.window(hr.tumbling(hr.seconds(5)), by=["k"]).aggregate(n="COUNT(*)", all="ARRAY_AGG(said)")
        return {"out": made, "windows": windows, "timed": one.process(Unruled(), by=["k"])}

    plan, chance = piped(build, one=3_000), random.Random(seed)
    log.create("one", 2)
    day(log, wall, plan, Patience(idle_after=4_000, close_quiet_after=8_000), chance)
    steps = written(log, "machine.clock")
    assert any(step["clock_ms"] for step in steps)
    assert {row["said"] for row in written(log, "out")} >= {"clock", "in:500"}

    again = SqliteLog(tmp_path / "again" / "log.db", clock=(then := Wall()))
    again.create("one", 2)
    entries = [(entry.arrived_ms, number, entry.value) for number in range(2) for entry in log.entries("one", number, 0, 10**6)]
    for then.now, number, value in sorted(entries):
        add(again, "one", [value], number)
    live = Live(plan, again, NO_CLOCK, clock=then)
    for step in steps:
        replay_to(live, step["offsets"])
        live.take(Step(tuple(step["offsets"]), tuple(step["shown"]), tuple(step["resting"]), step["clock_ms"], step["ended"]))
    live.work()
    live.commit()
    live.close()
    assert topics_of(again, plan) == topics_of(log, plan)
    again.close()


def replay_to(live: Live, offsets: list[int]) -> None:
    """Work up to these offsets and no further."""
    while live.offsets["one"] != offsets:
        before = live.offsets["one"]
        live.work(1)
        assert live.offsets["one"] != before
        assert all(at <= upto for at, upto in zip(live.offsets["one"], offsets, strict=True))


# Rules that come while it runs


def rules_and_one(log: SqliteLog, **options: Any) -> Plan:
    for topic in ("one", "rules"):
        log.create(topic)
    return plan_of({"one": 1_000, "rules": 0}, rules="rules", **options)


def of_records(log: SqliteLog) -> list[Any]:
    """Return the rows that are of records, and not of rules."""
    return [row for row in written(log, "out") if not row["said"].startswith("rule")]


def limits(log: SqliteLog) -> list[Any]:
    """Return the second of each record that was handled, and the limit it saw."""
    return [((row["at"] - START) / 1000, row["said"].rpartition("} ")[2].rpartition("(")[2].split(",")[0]) for row in of_records(log)]


def test_a_rule_holds_from_its_time_on_for_what_has_not_been_handled(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, rules_and_one(log), FAR)
    add(log, "rules", [line(0, x=10)])
    add(log, "one", [line(1), line(2), line(3), line(8)])
    live.work()
    assert limits(log) == []
    add(log, "rules", [line(2, x=20), line(9, x=30)])
    live.work()
    live.commit()
    assert limits(log) == [(1, "10.0"), (2, "20.0"), (3, "20.0")]
    add(log, "rules", [line(4, x=40)])  # too late: it counts from the 9th second on
    add(log, "one", [line(9), line(8.5), line(20)])
    add(log, "rules", [line(21, x=50)])
    live.work()
    live.commit()
    assert limits(log)[3:] == [(8, "20.0"), (8.5, "20.0"), (9, "40.0")]
    live.close()


def test_rules_that_are_silent_hold_nothing_back_for_ever(log: SqliteLog, wall: Wall) -> None:
    live = live_on(log, wall, rules_and_one(log), Patience(idle_after=10_000, close_quiet_after=None))
    for second in range(20):
        add(log, "one", [line(second)])
        wall.now += 1_000
        live.work()
        live.commit()
        assert len(of_records(log)) == (0 if second < 9 else second - 1)
    add(log, "rules", [line(3, x=20)])
    add(log, "one", [line(20), line(30)])
    live.work()
    add(log, "rules", [line(31, x=50)])
    live.work()
    live.commit()
    assert limits(log)[18:] == [(18, "20.0"), (19, "20.0"), (20, "20.0")]
    live.close()


@pytest.mark.parametrize("failing", [False, True])
def test_a_rule_that_cannot_be_applied_is_kept_out_and_the_old_one_stays(
    failing: bool, log: SqliteLog, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    live = live_on(log, wall, rules_and_one(log, failing=failing), FAR)
    add(log, "rules", [line(0, x=10), line(1, "b", "bad", x=None), line(9, "c", "good", x=11)])
    add(log, "one", [line(1), line(8), line(9), line(20)])
    add(log, "rules", [line(21, x=50)])
    live.work()
    live.commit()
    assert [row["said"].split("}] ")[1] for row in of_records(log)] == [
        "(10.0, [''], {'a': 10.0})", "(10.0, [''], {'a': 10.0})", "(11.0, ['', 'good'], {'a': 10.0, 'c': 11.0})",
    ]  # fmt: skip
    if failing:
        (row,) = written(log, "failed")
        assert (row["topic"], row["partition"], row["offset"], row["arrived_ms"], row["process"]) == ("rules", 0, 1, START, "machine")
        assert row["detail"].startswith("Machine.on_broadcast raised ValueError: no limit at processes.py:")
        assert json.loads(row["raw"])["do"] == "bad"
    else:
        assert "Machine.on_broadcast raised ValueError: no limit" in caplog.text
    live.close()
    again = live_on(log, wall, plan_of({"one": 1_000, "rules": 0}, rules="rules", failing=failing), FAR)
    add(log, "one", [line(22), line(40)])
    add(log, "rules", [line(21, "d", "more", x=12), line(40, x=1)])
    again.work()
    again.commit()
    assert "(12.0, ['', 'good', '', 'more'], {'a': 50.0, 'c': 11.0, 'd': 12.0})" in of_records(log)[-1]["said"]
    again.close()


# Ends


def test_a_drained_run_works_up_to_the_last_event_and_goes_on_another_time(log: SqliteLog, wall: Wall) -> None:
    plan = plan_of({"one": 5_000})
    log.create("one")
    add(log, "one", [line(1, do="timer:2000:p"), line(2, "b", do="timer:9000:q"), line(4)])
    run_for(live_on(log, wall, plan, FAR), wall, 1)
    assert written(log, "out") == []
    run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    assert said(log) == [(1, "timer:2000:p"), (2, "timer:9000:q"), (3, "timer p"), (4, "")]
    add(log, "one", [line(4), line(4.001), line(20)])
    ledger = run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    assert said(log)[4:] == [(4.001, ""), (11, "timer q"), (20, "")]
    assert ledger["one"].late == 1


def test_rows_that_wait_for_later_ones_are_emitted_when_these_come_and_at_a_drain(log: SqliteLog, wall: Wall) -> None:
    over = lambda: {"out": source("one", 1_000).over(by=["k"], next="LEAD(x)").select("k", "x", "next")}  # noqa: E731
    plan = hr.pipeline("machine", version="1")(over).plan()
    log.create("one")
    add(log, "one", [line(1, x=1.0), line(2, "b", x=2.0), line(4, x=3.0), line(6, x=4.0)])
    run_for(live_on(log, wall, plan, FAR), wall, 1)
    assert [tuple(row.values()) for row in written(log, "out")] == [("a", 1.0, 3.0)]
    add(log, "one", [line(8, "b", x=5.0)])
    run_for(live_on(log, wall, plan, FAR), wall, 1)
    assert [tuple(row.values()) for row in written(log, "out")] == [("a", 1.0, 3.0), ("a", 3.0, 4.0)]
    run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    rest = [("b", 2.0, 5.0), ("a", 4.0, None), ("b", 5.0, None)]
    assert [tuple(row.values()) for row in written(log, "out")][2:] == rest
    run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    assert len(written(log, "out")) == 5
    add(log, "one", [line(20, x=6.0)])
    run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    assert [tuple(row.values()) for row in written(log, "out")][5:] == [("a", 6.0, None)]


def test_windows_that_were_drained_count_what_a_timer_gives_afterwards_as_late(log: SqliteLog, wall: Wall) -> None:
    def build(one: hr.Stream) -> dict[str, hr.Stream]:
        made = one.process(Unruled(), by=["k"])
        return {
            "out": made.window(hr.tumbling(hr.seconds(10)), by=["k"]).late_to("late").aggregate(n="COUNT(*)"),
            "day": made.window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)"),
        }

    plan = piped(build, one=1_000)
    log.create("one")
    add(log, "one", [line(1, do="timer:30000:p")])
    run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    assert [row["n"] for row in written(log, "out")] == [row["n"] for row in written(log, "day")] == [1]
    add(log, "one", [line(90)])
    run_for(live_on(log, wall, plan, FAR), wall, 1, drain=True)
    assert [row["n"] for row in written(log, "out")] == [row["n"] for row in written(log, "day")] == [1, 1]
    assert [row["at"] for row in written(log, "late")] == [START + 31_000]


# State


class Counting:
    """Counts, and has been written anew."""

    state = {"count": hr.Value("BIGINT", 0)}
    output = {"count": "BIGINT"}

    def on_record(self, _: Any, state: Any) -> Any:
        state.count += 1
        return {"count": state.count}


class Tens(Counting):
    """The same, in tens."""

    state = {"tens": hr.Value("BIGINT", 0), "ones": hr.Value("BIGINT", 0)}
    state_version = 2
    breaks_at: Any = ()

    def on_record(self, _: Any, state: Any) -> Any:
        state.ones += 1
        return {"count": state.tens * 10 + state.ones}

    def migrate(self, version: int, values: dict[str, Any]) -> dict[str, Any]:
        assert version == 1
        if values["count"] in self.breaks_at:
            raise ValueError("too many")
        return {"tens": values["count"] // 10, "ones": values["count"] % 10}


Tens.__name__ = "Counting"


class Broken(Tens):
    """The same, and cannot migrate all."""

    breaks_at = (13,)


Broken.__name__ = "Counting"


def counting(code: Any) -> Plan:
    return piped(lambda one: {"out": one.process(code, by=["k"])}, one=0)


def test_state_of_an_older_version_is_migrated_and_one_of_a_newer_refused(log: SqliteLog, wall: Wall) -> None:
    log.create("one")
    add(log, "one", [line(second, key) for second in range(13) for key in "ab"] + [line(12, "b"), line(13, "c")])
    run_for(live_on(log, wall, counting(Counting()), FAR), wall, 1, drain=True)
    for _ in range(2):
        with pytest.raises(
            ProcessError, match=r"state of Counting, key \{'k': 'a'\}: Counting.migrate\(1, \{'count': 13\}\) fails: ValueError: too many"
        ):
            live_on(log, wall, counting(Broken()), FAR)
    add(log, "one", [line(20, "a")])
    run_for(live_on(log, wall, counting(Counting()), FAR), wall, 1, drain=True)
    assert written(log, "out")[-1] == {"k": "a", "count": 14}
    add(log, "one", [line(30, "a")])
    run_for(live_on(log, wall, counting(Tens()), FAR), wall, 1, drain=True)
    assert written(log, "out")[-1] == {"k": "a", "count": 15}
    with pytest.raises(ProcessError, match=r"is of version 2, and the process of 1; run the newer process"):
        live_on(log, wall, counting(Counting()), FAR)
    add(log, "one", [line(40, "b"), line(41, "c")])
    run_for(live_on(log, wall, counting(Tens()), FAR), wall, 1, drain=True)
    assert written(log, "out")[-2:] == [{"k": "b", "count": 15}, {"k": "c", "count": 2}]


def test_a_commit_writes_the_keys_that_were_touched_not_those_that_are_held(log: SqliteLog, wall: Wall) -> None:
    log.create("one")
    live, said = live_on(log, wall, counting(Counting()), FAR), []
    add(log, "one", [line(1, f"key {number}") for number in range(100_000)] + [line(2)])
    while live.work():
        pass
    said.append(live.commit())
    for second in range(3, 60):
        add(log, "one", [line(second, f"key {number * 7 + second}") for number in range(10)])
        live.work()
        said.append(live.commit())
    sizes = [one.state_bytes for one in said]
    assert sizes[0] > 2_000_000
    assert max(sizes[1:]) < 60_000
    assert sum(sizes[1:]) / len(sizes[1:]) < 15_000
    held = log.file.db.execute("SELECT COUNT(*), SUM(LENGTH(data)) FROM state").fetchone()
    assert held[0] < 25
    assert held[1] < 1.2 * sizes[0]
    live.close()
    again = live_on(log, wall, counting(Counting()), FAR)
    assert len(again.run.graph.stages[0].keyspace) == 100_001
    add(log, "one", [line(100, "key 10"), line(101, "key 99999"), line(102)])
    again.work()
    again.commit()
    assert {(row["k"], row["count"]) for row in written(log, "out")[-2:]} == {("key 10", 4), ("key 99999", 2)}
    again.close()


def test_keys_that_are_damaged_by_a_byte(log: SqliteLog, wall: Wall) -> None:
    log.create("one")
    add(log, "one", [line(1), line(2)])
    run_for(live_on(log, wall, counting(Counting()), FAR), wall, 1)
    for name, data in log.file.db.execute("SELECT name, data FROM state").fetchall():
        log.file.db.execute("UPDATE state SET data = ? WHERE name = ?", (data[:5] + bytes([data[5] ^ 1]) + data[6:], name))
    with pytest.raises(EnvironmentFault, match=r"is damaged.*--anew"):
        live_on(log, wall, counting(Counting()), FAR)
    live_on(log, wall, counting(Counting()), FAR, anew=True).close()


# Code that changes under one version


def by_code(of: type) -> Plan:
    return hr.pipeline("counting", version="1")(lambda: {"out": source("in", 0).process(of(), by=["k"], name="counter")}).plan()


def old_code() -> type:
    class Counter:
        output = {"n": "BIGINT"}
        state = {"n": hr.Value("BIGINT", 0)}

        def on_record(self, row: Any, state: Any) -> Any:  # noqa: ARG002
            state.n += 1
            return {"n": state.n}

    return Counter


def new_code() -> type:
    class Counter:
        output = {"n": "BIGINT"}
        state = {"n": hr.Value("BIGINT", 0)}

        def on_record(self, row: Any, state: Any) -> Any:  # noqa: ARG002
            state.n += 10
            return {"n": state.n}

    return Counter


def test_code_that_changed_under_one_version_is_told_and_written_down_with_its_offsets_once(
    log: SqliteLog, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    log.create("in")
    for code, second in ((old_code(), 0), (old_code(), 10), (new_code(), 20), (new_code(), 30)):
        add(log, "in", [line(second), line(second + 1)])
        live = live_on(log, wall, by_code(code), FAR, latest=True)
        run_live(live, sleep=wall.sleep)
    steps = [step for step in written(log, "counting.clock") if step["code"]]
    assert [row["n"] for row in written(log, "out")] == [1, 2, 3, 4, 14, 24, 34, 44]
    assert [step["offsets"] for step in steps] == [[4]]
    ((before, now),) = [step["code"]["counter"] for step in steps]
    assert before != now
    assert f"process counter: its code has changed under the same version ({before}, now {now})" in caplog.text
    assert caplog.text.count("its code has changed") == 1

    caplog.clear()
    again = live_on(log, wall, by_code(old_code()), FAR, anew=True)
    again.take(Step((4,), (0,), (), code={"counter": (before, now)}))
    again.close()
    assert f"this replay has {before}" in caplog.text


def test_while_a_run_lags_behind_timers_of_the_clock_go_off_by_the_arrival_of_what_was_read(log: SqliteLog, wall: Wall) -> None:
    plan = piped(lambda one: {"out": one.process(Clocked(), by=["k"])}, one=0)
    log.create("one")
    for second in range(10):
        wall.now = START + second * 1_000
        add(log, "one", [line(second, do="in:2500" if second < 8 else "clear")])
    wall.now = START + 60_000
    live = live_on(log, wall, plan, FAR)
    for _ in range(20):
        live.work(1)
    live.commit()
    live.close()
    assert [row["said"] for row in written(log, "out")].count("clock") == 0
