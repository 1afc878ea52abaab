"""From a topic to a target: nothing lost, nothing twice where the target knows idempotency keys, and poison set aside."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outside import LIMIT, SEEDS, FaultyLog, Store, run_with_kills, value, values_of

from broker import Shared
from headrace.cli import main
from headrace.connectors import delivery, forward, runner
from headrace.connectors.delivery import Delivery
from headrace.connectors.forward import Forward
from headrace.connectors.metrics import Metrics
from headrace.connectors.progress import Moved, ledger_of
from headrace.connectors.protocol import Record, Unavailable
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.protocol import Away, Log
from headrace.topics.sqlite import SqliteLog

NAME = "forward:numbers:store"
pytestmark = pytest.mark.usefixtures("quick")


def fill(log: Log, count: int, partitions: int = 3, topic: str = "numbers") -> None:
    log.create(topic, partitions)
    for first in range(0, count, 70):
        numbers = range(first, min(first + 70, count))
        log.append(topic, [value(number) for number in numbers], [f"k{number % 7}".encode() for number in numbers])


def run(log: Any, target: Any, topic: str = "numbers", name: str = NAME, **options: Any) -> int:
    limits = {one: options.pop(one) for one in ("duration", "records", "stop") if one in options}
    with closing(Forward(log, topic, target, name, **({"latest": True, "told": lambda _: None} | options))) as one:
        return asyncio.run(asyncio.wait_for(one.run(**limits), LIMIT))


def letters(log: Log, topic: str = "numbers") -> list[dict[str, Any]]:
    return [json.loads(one) for one in values_of(log, f"{topic}.dead-letter")]


# what is sent next


@given(
    count=st.integers(1, 12),
    poison=st.sets(st.integers(0, 11)),
    tells=st.booleans(),
    script=st.lists(st.sampled_from(["well", "away", "refused", "cut"]), max_size=40),
)
def test_a_delivery_settles_each_record_once_and_in_order(count: int, poison: set[int], tells: bool, script: list[str]) -> None:
    """Against a plain model of a target: whatever it answers, poison alone is set aside, and no record passes an unsettled one."""
    records = [Record("t", 0, number, 0, None, b"%d" % number) for number in range(count)]
    one = Delivery(records, tries=len(script) + 3)
    applied: list[int] = []
    sends = 0
    while not one.done:
        sends += 1
        assert sends < 10_000
        sent = one.sending()
        assert sent, "there is something to send until all is settled"
        assert sent[0].offset == one.settled
        fate = script.pop() if script else "well"
        bad = next((place for place, record in enumerate(sent) if record.offset in poison), None)
        clean = sent if bad is None else sent[:bad] if tells else []
        if fate == "away":
            assert one.unavailable(0.0) > 0
        elif fate == "refused":
            one.refused("busy", 0 if tells else None, 0.0)
        else:
            applied += [record.offset for record in clean]
            if fate == "cut":
                assert one.unavailable(0.0) > 0
            elif bad is not None:
                one.refused("poison", bad if tells else None, 0.0)
            else:
                one.applied({})
    assert [record.offset for record, _ in one.aside] == sorted(poison & set(range(count)))
    assert list(dict.fromkeys(applied)) == sorted(set(range(count)) - poison), "in their order"
    assert all(reason == "poison" for _, reason in one.aside)


def test_records_that_can_never_be_taken_are_not_tried_again() -> None:
    one = Delivery([Record("t", 0, number, 0, None, b"") for number in range(5)])
    one.applied({3: "no", 1: "never", 9: "not sent"})
    assert one.done
    assert [(record.offset, reason) for record, reason in one.aside] == [(1, "never"), (3, "no")]


def test_poison_is_tried_so_often_with_growing_waits() -> None:
    one, waits = Delivery([Record("t", 0, 0, 0, None, b"")]), []
    while not one.done:
        waits.append(one.refused("no", 0, 0.0))
    assert len(waits) == delivery.TRIES
    assert all(waits[:-1])
    assert waits[-1] == 0.0


def test_the_idempotency_key_names_the_record() -> None:
    assert Record("a/b", 2, 17, 0, None, b"").id == "a/b/2/17"


# what fails


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tells", ["all", "first", "nothing"])
def test_whatever_fails_the_store_is_exact_and_poison_is_set_aside(log: SqliteLog, seed: int, tells: str) -> None:
    dice = Random(seed)
    fill(log, 500)
    poison = {value(number) for number in dice.sample(range(500), 9)}
    store = Store(dice, faults=0.15, poison=poison, tells=tells, most_records=20)
    faulty = FaultyLog(log, dice, 0.3)
    told: list[str] = []
    moved: list[Moved] = []
    run(faulty, store, told=told.append, committed=moved.append)
    assert faulty.failed, "the log did fail"
    assert any("tried again until it answers" in one for one in told), "the store did fail"
    there = {f"numbers/{part}/{entry.offset}": entry.value for part in range(3) for entry in log.entries("numbers", part, 0, 1000)}
    assert store.rows == {name: one for name, one in there.items() if one not in poison}
    for part in range(3):
        mine = [one.offset for one in store.order if one.partition == part]
        assert mine == sorted(mine), "the order of each partition is kept"
    dead = letters(log)
    assert {(one["partition"], one["offset"]) for one in dead} == {
        tuple(map(int, name.split("/")[1:])) for name, one in there.items() if one in poison
    }
    assert len(dead) == 9, "each is set aside once"
    assert {(one["pipeline"], one["topic"], one["reason"], one["detail"]) for one in dead} == {(NAME, "numbers", "refused", "it is poison")}
    assert {one["raw"].encode() for one in dead} == poison
    assert ledger_of(log.manifest(NAME) or b"") == {"numbers": {"received": 500, "accepted": 491, "refused": 9}}
    assert all((line := one.ledger["numbers"])["received"] == line["accepted"] + line["refused"] for one in moved)
    assert {(one.partition, one.offset) for one in log.cursors() if one.group == NAME} == {
        (info.number, info.end) for info in log.topic("numbers").partitions
    }
    assert max(map(len, store.sent)) <= 20
    assert store.closed == 1


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_a_run_that_ends_at_a_fault_of_the_log_is_resumed_by_the_next(log: SqliteLog, seed: int) -> None:
    dice, runs = Random(seed), 0
    fill(log, 300)
    store = Store(dice, poison={value(17)})
    while True:
        runs += 1
        try:
            run(FaultyLog(log, dice, 0.6, EnvironmentFault), store)
        except EnvironmentFault as fault:
            assert "the log: does not" in str(fault)
        else:
            break
    assert runs > 1
    assert sorted(store.rows.values()) == sorted(value(number) for number in range(300) if number != 17)
    assert len(letters(log)) == 1


def test_a_target_that_is_away_is_tried_for_ever_and_the_topic_is_the_buffer(log: SqliteLog) -> None:
    fill(log, 10)
    store, told, sends = Store(Random(0)), list[str](), 0
    take = store.send

    async def send(records: Any) -> Any:
        nonlocal sends
        sends += 1
        if sends < 300:
            raise Unavailable("connection refused")
        return await take(records)

    store.send = send  # type: ignore[method-assign]
    with closing(Forward(log, "numbers", store, NAME, latest=True, told=told.append)) as one:
        states = []

        def stop() -> bool:
            states.append((one.health.state, one.health.reason))
            return False

        assert asyncio.run(asyncio.wait_for(one.run(stop), LIMIT)) == 10
        assert one.health.state == "ended"
    assert ("waiting", "connection refused") in states
    assert told == ["store:: connection refused; tried again until it answers"]
    assert len(store.rows) == 10


def test_stop_ends_a_run_whose_target_is_away_and_keeps_what_is_settled(log: SqliteLog) -> None:
    fill(log, 100, partitions=1)
    store = Store(Random(0), most_records=30)
    take = store.send

    async def send(records: Any) -> Any:
        if records[-1].offset > 59:
            raise Unavailable("connection refused")
        return await take(records)

    store.send = send  # type: ignore[method-assign]
    with closing(Forward(log, "numbers", store, NAME, told=lambda _: None)) as one:
        assert asyncio.run(asyncio.wait_for(one.run(lambda: one.health.state == "waiting"), LIMIT)) == 60
    assert [(one.offset, one.end) for one in log.cursors()] == [(60, 100)]


def test_a_log_that_stays_away_is_given_up(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "AWAY_SECONDS", 0.05)
    fill(log, 10)
    with pytest.raises(Away):
        run(FaultyLog(log, Random(0), 2.0), Store(Random(0)))
    store = Store(Random(0))
    run(log, store)
    assert len(store.rows) == 10


def test_a_fault_that_is_the_surroundings_ends_the_run(log: SqliteLog) -> None:
    class Full(Store):
        async def send(self, _records: Any) -> Any:
            raise EnvironmentFault("the disk is full", where="store")

    fill(log, 10)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        run(log, Full(Random(0)))
    assert log.cursors() == []


# limits, names and reports


def test_it_ends_after_so_many_records_and_resumes_there(log: SqliteLog) -> None:
    fill(log, 100)
    store = Store(Random(0), most_records=7)
    assert [run(log, store, records=25), run(log, store, records=1), run(log, store)] == [25, 1, 74]
    assert sum(map(len, store.sent)) == 100
    assert sorted(store.rows.values()) == sorted(map(value, range(100)))


def test_batches_are_bounded_by_bytes(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MOST_BYTES", 100)
    log.create("numbers")
    log.append("numbers", [b"x" * size for size in (40, 40, 40, 500, 10)])
    store = Store(Random(0))
    run(log, store)
    assert [len(one) for one in store.sent] == [2, 1, 1, 1]


def test_another_target_is_refused_until_it_begins_anew(log: SqliteLog) -> None:
    fill(log, 10)
    run(log, Store(Random(0)))
    other = Store(Random(0))
    other.name = "other:"
    with pytest.raises(PlanError, match=f"name {NAME}: has been used to send records to store:; give that target, another name, or --anew"):
        run(log, other)
    run(log, other, name="forward:numbers:other")
    assert run(log, other, anew=True) == 10


def test_two_of_one_name_are_one_too_many(log: SqliteLog) -> None:
    fill(log, 10)
    with closing(Forward(log, "numbers", Store(Random(0)), NAME)), pytest.raises(EnvironmentFault, match="is run by process"):
        Forward(log, "numbers", Store(Random(0)), NAME)


def test_a_topic_that_is_not_there_is_said(log: SqliteLog) -> None:
    with pytest.raises(PlanError, match="no topic 'numbers'"):
        Forward(log, "numbers", Store(Random(0)), NAME)


def test_what_retention_took_is_told(tmp_path: Path) -> None:
    now, told = 1_700_000_000_000, list[str]()
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: now)) as log:
        log.create("numbers", retention_ms=1000)
        log.append("numbers", [value(0)])
        run(log, Store(Random(0)), told=told.append)
        log.append("numbers", [value(1), value(2)])
        now += 2000
        log.append("numbers", [value(3)])
        log.expire_now(now)
        store = Store(Random(0))
        run(log, store, told=told.append)
        assert ledger_of(log.manifest(NAME) or b"") == {"numbers": {"received": 4, "accepted": 2, "refused": 0, "shed": 2}}
        log.append("numbers", [value(4)])
        run(log, store, told=told.append)
        assert ledger_of(log.manifest(NAME) or b"") == {"numbers": {"received": 5, "accepted": 3, "refused": 0, "shed": 2}}
    assert list(store.rows) == ["numbers/0/3", "numbers/0/4"]
    assert told == ["numbers partition 0: records 1 to 2 are gone, by retention: they are not sent"]


def test_keys_values_and_arrival_times_come_as_the_log_has_them(log: SqliteLog) -> None:
    log.create("numbers")
    log.append("numbers", [b"\xff\n", b"", b"{}"], [b"\xfe", None, b"k"])
    store = Store(Random(0), poison={b"\xff\n"})
    run(log, store)
    entries = log.entries("numbers", 0, 0, 10)
    assert [(one.key, one.value, one.arrived_ms, one.offset) for one in store.order] == [
        (e.key, e.value, e.arrived_ms, e.offset) for e in entries[1:]
    ]
    assert letters(log)[0]["raw_base64"] == "/wo="


def test_metrics_lag_and_the_ledger_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    with closing(SqliteLog(tmp_path / ".headrace/log.db")) as log:
        fill(log, 100, partitions=1)
        metrics, moved = Metrics(NAME), list[Moved]()
        store = Store(Random(0), poison={value(3)}, most_records=40)
        run(log, store, committed=lambda one: (metrics.note(one), moved.append(one)))
    assert [one.lag for one in moved] == [60, 20, 0]
    told = dict(line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if line[0] != "#")
    assert told[f'headrace_ledger_records{{fate="refused",pipeline="{NAME}",topic="numbers"}}'] == "1.0"
    assert told[f'headrace_lag_records{{pipeline="{NAME}"}}'] == "0.0"
    assert main(["ledger", NAME]) == 0
    assert capsys.readouterr().out.split() == ["numbers", "received", "100", "accepted", "99", "refused", "1"]


# as a process that is killed

CHILD = """
import asyncio, json, os, sqlite3, sys
from contextlib import closing
from pathlib import Path
from forking import begin
from headrace.connectors.forward import Forward
from headrace.connectors.protocol import Target
from headrace.topics.sqlite import SqliteLog

folder = Path(sys.argv[1])


class Database(Target):
    name, most_records = "database", 20

    async def send(self, records):
        with closing(sqlite3.connect(folder / "store.db")) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, number INTEGER, sent INTEGER DEFAULT 1)")
            for one in records:
                number = json.loads(one.value)["number"]
                if number % 500 != 17:
                    db.execute("INSERT INTO rows (id, number) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET sent = sent + 1", (one.id, number))
        return {place: "17" for place, one in enumerate(records) if json.loads(one.value)["number"] % 500 == 17}


with closing(SqliteLog(folder / "log.db")) as log, closing(Forward(log, "numbers", Database(), "forward:numbers:database", latest=True)) as one:
    begin()
    asyncio.run(one.run())
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 12))])
def test_kill_9_at_any_moment_leaves_the_store_exact(tmp_path: Path, seed: int) -> None:
    import sqlite3

    with closing(SqliteLog(tmp_path / "log.db")) as log:
        fill(log, 3000)
    run_with_kills(CHILD, tmp_path, dice=random.Random(seed), longest=0.12)
    with closing(sqlite3.connect(tmp_path / "store.db")) as db:
        rows = db.execute("SELECT number FROM rows ORDER BY number").fetchall()
    assert [number for (number,) in rows] == [number for number in range(3000) if number % 500 != 17]
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        assert sorted(json.loads(one["raw"])["number"] for one in letters(log)) == list(range(17, 3000, 500))
        assert ledger_of(log.manifest("forward:numbers:database") or b"") == {"numbers": {"received": 3000, "accepted": 2994, "refused": 6}}


def test_on_kafka_faults_and_restarts_leave_the_store_exact(kafka: Shared, tmp_path: Path) -> None:
    from headrace.topics.kafka import KafkaLog

    topic, dice = f"numbers-{uuid.uuid4().hex}", Random(5)
    store = Store(dice, faults=0.05, poison={value(3)}, most_records=40)
    name = f"forward:{topic}"
    with closing(KafkaLog(kafka.servers, tmp_path)) as log:
        fill(log, 300, 2, topic)
        for most in (100, 1, 1000):
            run(log, store, topic, name, records=most)
        assert sorted(store.rows.values()) == sorted(value(number) for number in range(300) if number != 3)
        assert [one["raw"].encode() for one in letters(log, topic)] == [value(3)]
        assert ledger_of(log.manifest(name) or b"") == {topic: {"received": 300, "accepted": 299, "refused": 1}}
