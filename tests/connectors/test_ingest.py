"""From a source to a topic: nothing lost, and nothing twice where events have positions or ids, whatever fails."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import closing
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outside import LIMIT, SEEDS, FaultyLog, Numbers, run_with_kills, value, values_of

from broker import Shared
from forking import Forked, program
from headrace.cli import main
from headrace.connectors import inflow, ingest, retries, runner
from headrace.connectors.inflow import Inflow, Position, resumes
from headrace.connectors.ingest import Ingest, position_before
from headrace.connectors.metrics import Metrics
from headrace.connectors.progress import Moved, ledger_of
from headrace.connectors.protocol import Event, Source
from headrace.connectors.retries import Retries
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.topics.protocol import Away
from headrace.topics.sqlite import SqliteLog


@pytest.fixture(autouse=True)
def often(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Have a runner try again at once, and commit often."""
    monkeypatch.setattr(Source, "batch_seconds", 0.004)
    monkeypatch.setattr(inflow, "MOST_RECORDS", 25)
    monkeypatch.setattr(inflow, "AHEAD", 10)
    monkeypatch.setattr(ingest, "_TICK_SECONDS", 0.01)


def run(log: Any, source: Any, topic: str = "numbers", **options: Any) -> int:
    limits = {name: options.pop(name) for name in ("duration", "records", "stop") if name in options}
    with closing(Ingest(log, source, topic, **({"told": lambda _: None} | options))) as one:
        try:
            return asyncio.run(asyncio.wait_for(one.run(**limits), LIMIT))
        finally:
            assert one.health.state in {"ended", "failed"}


# what fails


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("positions", [True, False])
def test_whatever_fails_each_event_is_in_the_topic_once(log: SqliteLog, seed: int, positions: bool) -> None:
    dice = Random(seed)
    source = Numbers(600, dice, faults=0.02, positions=positions)
    faulty = FaultyLog(log, dice, 0.4)
    told: list[str] = []
    moved: list[Moved] = []
    run(faulty, source, told=told.append, committed=moved.append)
    found = values_of(log, "numbers")
    assert sorted(found) == sorted(map(value, range(600)))
    assert found == list(map(value, range(600))) or not positions, "positions keep the order"
    assert faulty.failed, "the log did fail"
    assert source.opened > 5, "the source did fail"
    known = position_before(log, "numbers")
    assert known is not None
    assert known.passed == 600
    counts = known.ledger
    assert counts["received"] == counts["accepted"] + counts["duplicate"]
    if positions:
        assert (known.last, counts["duplicate"]) == (600, 0)
    else:
        assert counts["duplicate"] > 0, "events did come again"
        assert source.acknowledged == set(range(600))
    for one in moved:
        (line,) = one.ledger.values()
        assert line["received"] == line["accepted"] + line["duplicate"]
    assert sum(one.records for one in moved) <= 600, "a commit whose outcome was unknown is not told"
    assert source.closed <= source.opened
    assert any("opened again until it answers" in one for one in told)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_positions_and_ids_nothing_is_lost(log: SqliteLog, seed: int) -> None:
    dice = Random(seed)
    run(FaultyLog(log, dice, 0.2), Numbers(400, dice, faults=0.03, positions=False, ids=False))
    assert set(values_of(log, "numbers")) == set(map(value, range(400)))


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_run_that_ends_at_a_fault_of_the_log_is_resumed_by_the_next(log: SqliteLog, seed: int) -> None:
    """A full disk ends the run; here each next run is a new one."""
    dice, runs = Random(seed), 0
    while True:
        source = Numbers(300, dice, faults=0.01)
        runs += 1
        try:
            run(FaultyLog(log, dice, 0.5, EnvironmentFault), source)
        except EnvironmentFault as fault:
            assert "the log: does not" in str(fault)
        else:
            break
    assert runs > 2
    assert values_of(log, "numbers") == list(map(value, range(300)))


def test_an_event_is_acknowledged_after_its_commit(log: SqliteLog) -> None:
    class Watched(Numbers):
        async def acknowledge(self, events: Any) -> None:
            there = set(values_of(log, "numbers"))
            assert {event.value for event in events} <= there
            await super().acknowledge(events)

    source = Watched(500, Random(3), positions=False)
    run(log, source)
    assert source.acknowledged == set(range(500))


def test_a_source_that_waits_for_acknowledgements_is_not_kept_waiting(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Source, "batch_seconds", 1000.0)
    assert run(log, Numbers(100, Random(0), positions=False, window=20), records=100) == 100


def test_an_event_after_a_pause_is_committed_at_once_and_the_next_ones_together() -> None:
    flow = Inflow("t", Position("s"), batch_seconds=1.0)
    flow.offer(Event(value(0)), 100.0)
    assert not flow.due(100.0), "others may come with it"
    assert flow.due(100.01)
    flow.commit(inf)
    flow.offer(Event(value(1)), 100.02)
    flow.committed(100.05)
    flow.commit(inf)
    flow.committed(100.05)
    flow.offer(Event(value(2)), 100.06)
    assert not flow.due(101.04)
    assert flow.due(101.06)


def test_the_first_event_after_a_pause_is_not_found_by_looking_now_and_then(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_TICK_SECONDS", 10 * LIMIT)

    class One(Numbers):
        async def open(self, position: Any) -> AsyncGenerator[Event] | None:  # noqa: ARG002
            return self._one()

        async def _one(self) -> AsyncGenerator[Event]:
            await asyncio.sleep(0.01)
            yield Event(value(0), 1)
            await asyncio.Event().wait()

    assert run(log, One(1, Random(0)), records=1) == 1


def test_a_slow_log_slows_the_source_down(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflow, "MOST_RECORDS", 10)
    source, ahead = Numbers(2000, Random(0)), []
    commit = log.claim

    def claim(name: str) -> Any:
        taken = commit(name)
        write = taken.commit

        def slowly(one: Any) -> None:
            time.sleep(0.005)  # the reader runs on meanwhile
            ahead.append(source.delivered - json.loads(one.manifest)["passed"])
            write(one)

        monkeypatch.setattr(taken, "commit", slowly)
        return taken

    monkeypatch.setattr(log, "claim", claim)
    assert run(log, source, records=600) == 600
    assert 0 < max(ahead) <= inflow.AHEAD + 10 + 1


def test_a_source_that_stays_away_is_given_up(log: SqliteLog) -> None:
    told: list[str] = []
    with pytest.raises(EnvironmentFault, match=r"numbers:5: connection refused, for 0.05 s; is its server running"):
        run(log, Numbers(5, Random(0), faults=1.0), patience=0.05, told=told.append)
    assert told == ["numbers:5: connection refused; asked again until it answers"]


def test_a_log_that_stays_away_is_given_up(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "AWAY_SECONDS", 0.05)
    with pytest.raises(Away):
        run(FaultyLog(log, Random(0), 2.0), Numbers(5, Random(0)))
    assert run(log, Numbers(5, Random(0))) == 5


def test_what_trying_again_cannot_help_ends_the_run_and_what_came_before_is_kept(log: SqliteLog) -> None:
    class Broken(Numbers):
        async def _events(self, _numbers: Any) -> Any:
            yield Event(value(0), 1)
            raise DataError("sends nonsense", where=self.name)

    with pytest.raises(DataError, match="sends nonsense"):
        run(log, Broken(5, Random(0)))
    assert values_of(log, "numbers") == [value(0)]


def test_health_says_what_it_waits_for(log: SqliteLog) -> None:
    states: list[tuple[str, str]] = []
    source = Numbers(5, Random(0), faults=1.0)
    with closing(Ingest(log, source, "numbers", patience=None, told=lambda _: None)) as one:
        states.append((one.health.state, one.health.reason))

        def stop() -> bool:
            found = one.health.state, one.health.reason
            if found != states[-1]:
                states.append(found)
                source._faults = 0.0
            return one.passed == 5

        asyncio.run(asyncio.wait_for(one.run(stop), LIMIT))
    assert states[:2] == [("connecting", ""), ("waiting", "connection refused")]
    assert one.health.state == "ended"


# what is committed


def test_keys_come_from_the_event_or_from_a_field(log: SqliteLog) -> None:
    class Keyed(Numbers):
        async def _events(self, numbers: Any) -> Any:
            for number in numbers:
                yield Event(value(number), number + 1, "own" if number == 0 else None)

    log.create("numbers", 4)
    run(log, Keyed(30, Random(0)), key="key")
    keys = {(entry.value, entry.key) for part in range(4) for entry in log.entries("numbers", part, 0, 100)}
    assert keys == {(value(0), b"own"), *((value(number), f"k{number % 3}".encode()) for number in range(1, 30))}


def test_a_record_that_is_nested_too_deeply_has_no_key_and_does_not_stop_the_others(log: SqliteLog) -> None:
    class Deep(Numbers):
        async def _events(self, numbers: Any) -> Any:
            for number in numbers:
                yield Event(b'{"key":"k","x":' + b"[" * 50_000 if number == 1 else value(number), number + 1)

    assert run(log, Deep(3, Random(0)), key="key") == 3
    assert [entry.key for entry in log.entries("numbers", 0, 0, 100)] == [b"k0", None, b"k2"]


def test_another_source_is_refused_until_it_begins_anew(log: SqliteLog) -> None:
    run(log, Numbers(3, Random(0)))
    with pytest.raises(PlanError, match=r"topic 'numbers': has been bridged from numbers:3, up to event 3; give that address, or begin"):
        run(log, Numbers(4, Random(0)))
    assert run(log, Numbers(4, Random(0)), anew=True) == 4
    assert len(values_of(log, "numbers")) == 7


def test_a_position_of_the_first_format_is_read() -> None:
    import msgspec

    old = msgspec.json.decode(b'{"source":"http://h/","last":"17","passed":18}', type=Position)
    assert (old, resumes(old.last)) == (Position("http://h/", "17", 18), "after event 17")
    assert resumes({"0": 5}) == 'after event {"0":5}'
    assert resumes({"session": "5a"}) == "in session 5a"


@given(st.lists(st.one_of(st.integers(0, 40), st.sampled_from(["begin", "some", "stands", "fails", "restart"])), max_size=80))
@example(steps=[1, 2, 3, 3, "some", "stands"])
def test_the_inflow_commits_each_id_once_whatever_comes_again(steps: list[int | str]) -> None:
    """Against a plain model: a source that delivers any of its last 50 events again, during commits too, and a log that has what was committed."""
    stored: list[bytes] = []
    position, written, received = Position("s"), None, 0
    flow = Inflow("t", position, redelivers=50)
    for step in steps:
        match step:
            case int():
                flow.offer(Event(b"%d" % step, None, None, str(step)), 0.0)
            case "restart" | "fails":
                flow, written = Inflow("t", position, redelivers=50), None
            case "begin" | "some" if written is None and flow.due_at is not None:
                commit = flow.commit(inf if step == "begin" else 2)
                written = [line for one in commit.outgoing for line in one.lines.split(b"\n")]
            case "stands" if written is not None:
                stored += written
                done = flow.committed()
                received += len(done)
                assert {event.value for event in done} <= set(stored), "no event is acknowledged that is not in the log"
                position, written = flow.position, None
    assert len(stored) == len(set(stored)) == position.passed
    assert position.ledger == {"received": received, "accepted": len(stored), "malformed": 0, "duplicate": received - len(stored)}


def test_a_line_feed_within_a_record_is_another_white_space() -> None:
    flow = Inflow("t", Position("s"))
    flow.offer(Event(b'{"a":\n1}', 1), 0.0)
    flow.offer(Event(b"", 2), 0.0)
    (out,) = flow.commit(inf).outgoing
    assert (out.lines, out.count) == (b'{"a":\r1}\n', 2)


def test_retries_grow_and_end() -> None:
    waits, one, now = [], Retries(60.0, Random(1)), 100.0
    while (wait := one.failed(now)) is not None:
        waits.append(wait)
        now += wait
    assert now == pytest.approx(160.0)
    assert all(early < late for early, late in zip(waits, waits[2:-1], strict=False) if late < retries.MOST_SECONDS / 2)
    assert max(waits) <= retries.MOST_SECONDS
    one.succeeded()
    assert one.failed(now) is not None, "the patience begins anew"
    assert all(Retries().failed(now) is not None for _ in range(10_000))
    endless = Retries()
    assert all(endless.failed(1e9 * number) is not None for number in range(2_000))


# what is reported


def test_metrics_and_health_follow_the_commits(log: SqliteLog) -> None:
    metrics = Metrics("bridge:numbers")
    source = Numbers(50, Random(0))
    with closing(Ingest(log, source, "numbers", committed=metrics.note)) as one:
        metrics.watch(one)
        assert json.loads(metrics.health()) == {"pipeline": "bridge:numbers", "state": "connecting", "since_ms": one.health.since_ms, "reason": ""}
        up: list[bytes] = []
        asyncio.run(one.run(lambda: bool(up.append(metrics.text())) and False))
    told = dict(line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if line[0] != "#")
    assert told['headrace_ledger_records{fate="received",pipeline="bridge:numbers",topic="numbers:50"}'] == "50.0"
    assert told['headrace_ledger_records{fate="accepted",pipeline="bridge:numbers",topic="numbers:50"}'] == "50.0"
    assert told['headrace_written_records_total{pipeline="bridge:numbers"}'] == "50.0"
    assert int(float(told['headrace_commit_seconds_count{pipeline="bridge:numbers"}'])) >= 2
    assert any(b'headrace_connector_up{pipeline="bridge:numbers"} 1.0' in one for one in up)
    assert told['headrace_connector_up{pipeline="bridge:numbers"}'] == "0.0"
    assert ledger_of(log.manifest("bridge:numbers") or b"") == {"numbers:50": {"received": 50, "accepted": 50, "malformed": 0, "duplicate": 0}}


def test_the_ledger_of_a_connector_is_shown_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    with closing(SqliteLog(tmp_path / ".headrace/log.db")) as log:
        run(log, Numbers(1234, Random(0)))
    assert main(["ledger", "bridge:numbers"]) == 0
    assert capsys.readouterr().out.split() == ["numbers:1234", "received", "1,234", "accepted", "1,234", "malformed", "0", "duplicate", "0"]
    assert main(["ledger", "bridge:other"]) == 2
    assert "connector 'bridge:other' has not been run here" in capsys.readouterr().err


# as a process that is killed

CHILD = """
import asyncio, os, sys
from collections import deque
from pathlib import Path
from contextlib import closing
from forking import begin
from headrace.connectors.ingest import Ingest
from headrace.connectors.protocol import Event, Source
from headrace.topics.sqlite import SqliteLog

folder, positions = Path(sys.argv[1]), sys.argv[2] == "positions"


class Durable(Source):
    name, pause_seconds, redelivers = "durable", 0.001, 0 if positions else 30

    async def open(self, position):
        told = folder / "acknowledged"
        done = {int(one) for one in told.read_text().split()} if told.exists() else set()
        left = [one for one in range(position or 0, 3000) if one not in done]
        return self.events(left if positions else left[:30]) if left else None

    async def events(self, numbers):
        for number in numbers:
            yield Event(b'{"number":%d}' % number, number + 1 if positions else None, None, str(number), number)
            if number % 50 == 0:
                await asyncio.sleep(0.002)

    async def acknowledge(self, events):
        if not positions:
            with open(folder / "acknowledged", "a") as file:
                file.write("".join(f"{event.token} " for event in events))


with closing(SqliteLog(folder / "log.db")) as log, closing(Ingest(log, Durable(), "numbers")) as one:
    begin()
    asyncio.run(one.run())
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 12))])
@pytest.mark.parametrize("positions", ["positions", "acknowledgements"])
def test_kill_9_at_any_moment_loses_and_repeats_nothing(tmp_path: Path, positions: str, seed: int) -> None:
    run_with_kills(CHILD, tmp_path, positions, dice=random.Random(seed), longest=0.08)
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        found = [json.loads(one)["number"] for one in values_of(log, "numbers")]
        assert sorted(found) == list(range(3000))
        assert found == sorted(found) or positions != "positions"
        known = position_before(log, "numbers")
        assert known is not None
        assert known.passed == 3000


@pytest.mark.parametrize(
    "point", ["commit.output", "commit.done", *(pytest.param(point, marks=pytest.mark.long) for point in ("commit.begun", "commit.cursors"))]
)
def test_kill_9_at_a_step_of_a_commit_loses_and_repeats_nothing(tmp_path: Path, point: str) -> None:
    command = (program, CHILD, str(tmp_path), "acknowledgements")
    assert Forked(*command, env=os.environ | {"HEADRACE_KILL_AT": f"{point}:2"}).wait(LIMIT) == -signal.SIGKILL
    assert Forked(*command).wait(LIMIT) == 0
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        assert sorted(json.loads(one)["number"] for one in values_of(log, "numbers")) == list(range(3000))


def test_on_kafka_faults_of_the_source_and_restarts_lose_and_repeat_nothing(kafka: Shared, tmp_path: Path) -> None:
    from headrace.topics.kafka import KafkaLog

    topic, dice = f"numbers-{uuid.uuid4().hex}", Random(5)
    source = Numbers(400, dice, faults=0.02, positions=False)
    with closing(KafkaLog(kafka.servers, tmp_path)) as log:
        log.create(topic, 2)
        for most in (100, 1, 299):
            assert run(log, source, topic, records=most, key="key") == most
        found = values_of(log, topic)
    assert sorted(found) == sorted(map(value, range(400)))


def test_the_loop_of_others_goes_on_while_a_log_commits(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log works in a thread of its own: one process may run many connectors."""
    threads: set[int] = set()
    take = log.claim

    def claim(name: str) -> Any:
        taken = take(name)
        write = taken.commit
        monkeypatch.setattr(taken, "commit", lambda one: (threads.add(threading.get_ident()), write(one)))
        return taken

    monkeypatch.setattr(log, "claim", claim)
    run(log, Numbers(5, Random(0)))
    assert threads
    assert threading.get_ident() not in threads


def test_an_event_that_comes_for_the_first_time_is_none_that_came_before_whatever_its_id() -> None:
    flow = Inflow("t", Position("s"), redelivers=10, window=3)
    assert [flow.offer(Event(value(number), id="same", repeats=False), 0.0) for number in range(3)] == [False, False, True], "the window is full"
    (out,) = flow.commit(inf).outgoing
    assert out.count == 3
    flow.committed()
    flow.offer(Event(value(9), id="same"), 0.0)
    assert not flow.commit(inf).outgoing
    flow.committed()
    assert flow.position.ledger == {"received": 4, "accepted": 3, "malformed": 0, "duplicate": 1}


@given(st.lists(st.sampled_from([None, "it is none"]), max_size=30), st.integers(1, 8))
def test_what_cannot_be_a_record_is_a_dead_letter_and_its_neighbours_are_records(reasons: list[str | None], most: int) -> None:
    flow, lines = Inflow("t", Position("s")), {"t": [], "t.dead-letter": []}
    for number, reason in enumerate(reasons):
        flow.offer(Event(value(number), number, malformed=reason), 0.0)
    while flow.due_at is not None:
        for out in flow.commit(most).outgoing:
            lines[out.topic] += out.lines.split(b"\n")
            assert out.count == len(out.lines.split(b"\n"))
        flow.committed()
    assert lines["t"] == [value(number) for number, reason in enumerate(reasons) if reason is None]
    letters = [json.loads(line) for line in lines["t.dead-letter"]]
    assert [one["raw"].encode() for one in letters] == [value(number) for number, reason in enumerate(reasons) if reason is not None]
    assert flow.position.ledger["received"] == len(reasons)
    assert flow.position.last == (len(reasons) - 1 if reasons else None)
