"""What is dropped of a backlog that is more than its limit: against a plain queue, by invariants, and as a process that is killed."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outside import LIMIT, FaultyLog, Store, run_with_kills, value, values_of

from headrace.cli import main
from headrace.cli.buffering import buffer_for, buffer_of
from headrace.connectors.backlog import Backlog
from headrace.connectors.buffer import POLICIES, Buffer, Policy
from headrace.connectors.forward import Forward
from headrace.connectors.progress import ledger_of
from headrace.connectors.protocol import Record, Unavailable
from headrace.errors import PlanError
from headrace.plant.file import parse_plant
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog

NAME = "forward:numbers:store"
pytestmark = pytest.mark.usefixtures("quick")


class Driven:
    """A backlog over a topic in memory, which is read in small portions and sent in small batches."""

    def __init__(self, buffer: Buffer, partitions: int, dice: Random) -> None:
        self.backlog, self._dice, self._partitions = Backlog(buffer), dice, partitions
        self.log: list[Record] = []
        self.positions = dict.fromkeys(range(partitions), 0)
        self._ends = Counter[int]()
        self._read = self.shed = 0
        self.sent: list[Record] = []

    def arrive(self, key: bytes | None, at_ms: int) -> Record:
        number = self._dice.randrange(self._partitions)
        record = Record("t", number, self._ends[number], at_ms, key, b"", len(self.log))
        self._ends[number] += 1
        self.log.append(record)
        return record

    def _bound(self) -> None:
        self.backlog.bound({number: (at, self._ends[number]) for number, at in self.positions.items()})

    def batch(self, most: int) -> list[Record]:
        """Take a batch as the runner does: bound, then read until something is pending."""
        self._bound()
        while not self.backlog.pending and self._read < len(self.log):
            self._bound()
            portion = self.log[self._read : self._read + self._dice.randint(1, 7)]
            self._read += len(portion)
            for one in portion:
                self.positions[one.partition] = one.offset + 1
            self.backlog.take(portion)
            self._bound()
            self._count()
        return self.backlog.pending[:most]

    def settle(self, batch: list[Record]) -> None:
        self.sent += batch
        self.backlog.settle(len(batch))
        self._count()

    def _count(self) -> None:
        cursors = self.backlog.cursors(self.positions)
        self.shed += self.backlog.passed(cursors)
        settled = sum(cursors.values())
        assert settled <= len(self.sent) + self.shed <= len(self.log), "what lies before the cursors is accounted for"


@given(
    st.sampled_from(["oldest", "newest"]),
    st.integers(1, 12),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=30),
    st.integers(0, 1000),
)
def test_oldest_and_newest_send_what_a_bounded_queue_would(
    policy: Policy, most: int, partitions: int, rounds: list[tuple[int, int]], seed: int
) -> None:
    """Records come while a batch is sent, which may last as long as an outage. The queue drops at once, the backlog when it is read."""
    driven, queue, sent = Driven(Buffer(most, policy), partitions, Random(seed)), deque[Record](), list[Record]()
    for arrivals, size in [*rounds, *[(0, 5)] * (most + 2)]:
        batch = driven.batch(size)
        assert batch == [queue.popleft() for _ in batch]
        sent += batch
        for _ in range(arrivals):  # while the batch is sent
            record = driven.arrive(None, 0)
            if len(queue) == most and policy == "oldest":
                queue.popleft()
            if len(queue) < most:
                queue.append(record)
        driven.settle(batch)
    assert not queue
    assert driven.batch(1) == []
    assert driven.sent == sent
    assert len(driven.log) == len(sent) + driven.shed


@given(
    st.integers(1, 12),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=20),
    st.integers(0, 1000),
)
def test_reduce_keeps_the_last_of_each_key_and_all_while_there_is_room(most: int, partitions: int, rounds: list[tuple[int, int]], seed: int) -> None:
    dice = Random(seed)
    driven, at_ms, full = Driven(Buffer(most, "reduce", 10), partitions, dice), 0, False
    for arrivals, size in [*rounds, *[(0, 5)] * sum(count for count, _ in rounds)]:
        full |= len(driven.log) - len(driven.sent) - driven.shed > most
        batch = driven.batch(size)
        for _ in range(arrivals):
            at_ms += dice.randint(0, 4)
            driven.arrive(dice.choice([None, b"a", b"b"]), at_ms)
        driven.settle(batch)
    sent = set(driven.sent)
    assert len(driven.log) == len(sent) + driven.shed
    assert full or not driven.shed
    assert all(one in sent for one in driven.log if one.key is None), "without a key nothing can be said of it"
    last = {(one.partition, one.key): one for one in driven.log}
    assert sent.issuperset(last.values()), "the last value of each key is sent"
    for number in range(partitions):
        mine = [one.offset for one in driven.sent if one.partition == number]
        assert mine == sorted(mine)


def test_reduce_lengthens_its_interval_so_that_about_the_limit_remains() -> None:
    backlog = Backlog(Buffer(100, "reduce", 1000))
    records = [Record("t", 0, 10 * second + tag, second * 1000, b"tag-%d" % tag, b"", second) for second in range(80) for tag in range(10)]
    backlog.bound({0: (0, 800)})
    backlog.take(records)
    backlog.bound({0: (800, 800)})
    assert len(backlog.pending) == 100, "ten tags at ten intervals of 8 s"
    assert [one.arrived_ms for one in backlog.pending if one.key == b"tag-3"] == [1000 * second for second in range(7, 80, 8)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_backlog_within_its_limit_is_as_it_was(policy: Policy) -> None:
    backlog = Backlog(Buffer(10, policy))
    records = [Record("t", 0, number, 0, b"k", b"", number) for number in range(10)]
    backlog.bound({0: (0, 10)})
    backlog.take(records)
    backlog.bound({0: (10, 10)})
    assert backlog.pending == records
    assert not backlog.due({0: 10})


# the runner


class Away(Store):
    """A store that is away until something happens."""

    away = True

    async def send(self, records: Any) -> Any:
        if self.away:
            raise Unavailable("connection refused")
        return await super().send(records)


def fill(log: Log, numbers: range, partitions: int = 1) -> None:
    if not any(info.name == "numbers" for info in log.topics()):
        log.create("numbers", partitions)
    log.append("numbers", [value(number) for number in numbers], [f"k{number % 7}".encode() for number in numbers])


def run(log: Any, store: Store, buffer: Buffer | None, told: Callable[[str], object] = lambda _: None) -> Forward:
    with closing(Forward(log, "numbers", store, NAME, buffer=buffer, latest=True, told=told)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    return one


def counts(log: Log) -> dict[str, int]:
    return {**ledger_of(log.manifest(NAME) or b"")["numbers"]}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("oldest", [0, 1, 2, *range(80, 100)]), ("newest", [0, 1, 2, *range(3, 23)]), ("reduce", [0, 1, 2, *range(93, 100)])],
)
def test_a_full_buffer_is_told_and_counted(log: SqliteLog, policy: Policy, expected: list[int]) -> None:
    """An outage begins with a batch of three under way, which the store may have: 97 more come, and 20 may wait."""
    store, told, reasons = Away(Random(0), most_records=3), list[str](), set[str]()
    log.create("numbers")
    fill(log, range(3))
    with closing(Forward(log, "numbers", store, NAME, buffer=Buffer(20, policy), told=told.append)) as one:

        def stop() -> bool:
            if one.health.state == "waiting" and log.topic("numbers").partitions[0].end == 3:
                fill(log, range(3, 100))
            reasons.add(one.health.reason)
            store.away = not any("records wait" in reason for reason in reasons)
            return not store.away and log.manifest(NAME) is not None and sum(v for k, v in counts(log).items() if k != "received") == 100

        asyncio.run(asyncio.wait_for(one.run(stop), LIMIT))
        assert one.shed == 100 - len(expected)
    assert sorted(json.loads(one)["number"] for one in store.rows.values()) == expected
    assert counts(log) == {"received": 100, "accepted": len(expected), "refused": 0, "shed": 100 - len(expected)}
    assert f"connection refused; more than 20 records wait: {POLICIES[policy]}" in reasons
    assert [line for line in told if "records wait" in line] == [f"store:: more than 20 records wait: {POLICIES[policy]}"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_until_latest_ends_although_records_come_while_it_sends(log: SqliteLog, policy: Policy) -> None:
    class Arriving(Store):
        async def send(self, records: Any) -> Any:
            fill(log, range(100, 110))
            return await super().send(records)

    fill(log, range(100))
    run(log, Arriving(Random(0), most_records=3), Buffer(5, policy))
    assert counts(log)["received"] == 100


@pytest.mark.parametrize("policy", POLICIES)
def test_whatever_fails_each_record_is_written_set_aside_or_shed(log: SqliteLog, policy: Policy) -> None:
    dice = Random(3)
    log.create("numbers", 2)
    for first in range(0, 600, 50):
        fill(log, range(first, first + 50))
    poison = {value(number) for number in dice.sample(range(600), 60)}
    store = Store(dice, faults=0.2, poison=poison, most_records=20)
    run(FaultyLog(log, dice, 0.3), store, Buffer(150, policy))
    letters = values_of(log, "numbers.dead-letter")
    found = counts(log)
    assert found == {"received": 600, "accepted": len(store.rows), "refused": len(letters), "shed": 600 - len(store.rows) - len(letters)}
    assert found["shed"] > 100
    sent = found["accepted"] + found["refused"]
    if policy == "oldest":
        assert 150 <= sent < 300, "the first batch after each fault of the log is not dropped"
    if policy == "newest":
        assert sent == 150


@pytest.mark.parametrize(("policy", "then"), [("oldest", range(250, 300)), ("newest", range(130, 180)), ("reduce", range(293, 300))])
def test_the_first_batch_of_a_run_is_not_dropped_since_the_target_may_have_it(log: SqliteLog, policy: Policy, then: range) -> None:
    fill(log, range(100))
    store = Store(Random(0), most_records=30)
    run(log, store, Buffer(100))
    fill(log, range(100, 300))
    run(log, store, Buffer(50, policy))
    assert [json.loads(one)["number"] for one in store.rows.values()] == [*range(130), *then]
    sent = 130 + len(then)
    assert counts(log) == {"received": 300, "accepted": sent, "refused": 0, "shed": 300 - sent}


class Crashing(Store):
    crashes = True

    async def send(self, records: Any) -> Any:
        await super().send(records)
        if self.crashes:
            raise RuntimeError("crashed before the commit")


@pytest.mark.parametrize("before", [None, Buffer(1000), Buffer(1000, "newest"), Buffer(1000, "reduce")])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_sent_before_a_crash_is_not_dropped_by_a_later_limit(log: SqliteLog, before: Buffer | None, policy: Policy) -> None:
    store = Crashing(Random(0), most_records=30)
    store.crashes = False
    fill(log, range(5))
    run(log, store, before)
    store.crashes = True
    fill(log, range(5, 35))
    with pytest.raises(RuntimeError, match="crashed"):
        run(log, store, before)
    assert len(store.rows) == 35
    store.crashes = False
    fill(log, range(35, 200))
    run(log, store, Buffer(10, policy))
    found = counts(log)
    assert found == {"received": 200, "accepted": len(store.rows), "refused": 0, "shed": 200 - len(store.rows)}
    assert found["shed"] >= 150


@pytest.mark.parametrize("between", [None, Buffer(5, "oldest"), Buffer(5, "reduce")])
def test_a_decision_that_is_not_taken_over_does_not_come_back(log: SqliteLog, between: Buffer | None) -> None:
    store = Crashing(Random(0), most_records=30)
    fill(log, range(100))
    for buffer in (Buffer(5, "newest"), between):
        with pytest.raises(RuntimeError, match="crashed"):
            run(log, store, buffer)
    store.crashes = False
    run(log, store, Buffer(5, "newest"))
    assert counts(log) == {"received": 100, "accepted": len(store.rows), "refused": 0, "shed": 100 - len(store.rows)}


def test_newest_resumes_on_a_topic_that_has_a_partition_more() -> None:
    one = Backlog(Buffer(2, "newest"))
    one.bound({0: (0, 5)})
    one.take([Record("t", 0, offset, 0, None, b"", offset) for offset in range(5)])
    again = Backlog(Buffer(2, "newest"), resumed=True)
    again.restore(one.saved())
    again.bound({0: (0, 5), 1: (0, 9)})
    again.take([Record("t", number, offset, 0, None, b"", 10 * number + offset) for number in (0, 1) for offset in range(4)])
    assert [(record.partition, record.offset) for record in again.pending[:3]] == [(0, 0), (0, 1), (1, 0)]
    again.saved()
    again.settle(2)
    again.bound({0: (5, 5), 1: (4, 9)})
    assert [(record.partition, record.offset) for record in again.pending] == [(1, 0), (1, 1)]


def test_what_retention_took_behind_pending_records_is_counted_once(tmp_path: Path) -> None:
    """A run that has read past a gap and is killed finds the gap again."""
    now = 1_700_000_000_000
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: now)) as log:
        log.create("numbers", retention_ms=1000)
        log.append("numbers", [value(number) for number in range(3)])
        store = Store(Random(0), most_records=1)
        with closing(Forward(log, "numbers", store, NAME, latest=False, told=lambda _: None)) as one:
            asyncio.run(one.step())
            now += 2000
            log.append("numbers", [value(3)])
            log.append("numbers", [value(4)])
            now += 2000
            log.append("numbers", [value(5)])
            log.expire_now(now)
            one._look()
            asyncio.run(one.step())  # record 1, and record 2 is pending before the gap
        run(log, store, None)
        first = log.topic("numbers").partitions[0].first
        assert first > 3
        found = counts(log)
        assert found["received"] == log.topic("numbers").partitions[0].end == sum(n for name, n in found.items() if name != "received")


# options


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((0, None, None), "--buffer: the limit is 0; give 1 or more records"),
        ((None, "newest", None), "--when-full: is only for a buffer with a limit; give the limit too, a number of records: buffer"),
        ((5, "newset", None), "--when-full: the policy is 'newset'; did you mean 'newest'"),
        ((5, "oldest", "1s"), "--reduce-to: an interval is only for the policy reduce; leave it out"),
        ((5, "reduce", "0s"), "--reduce-to: the interval is '0s'; give a duration such as 1s"),
        ((5, "reduce", "soon"), "--reduce-to: 'soon' is not a duration"),
        ((5, "reduce", "9" * 400 + "d"), "99' is too long; write 365000d at most"),
    ],
)
def test_options_that_do_not_fit(given: tuple[int | None, str | None, str | None], says: str) -> None:
    with pytest.raises(PlanError) as error:
        buffer_of(*given)
    assert says in str(error.value)


def test_a_plant_file_and_a_bridge_take_a_limit(log: SqliteLog, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = '[plant]\nexternal = ["numbers"]\n[[out]]\nfrom = "numbers"\nto = "files:out"\nbuffer = 20\nwhen_full = "reduce"\nreduce_to = "5s"\n'
    plant, mistakes = parse_plant(text)
    assert not mistakes
    assert buffer_for(plant.outs[0]) == Buffer(20, "reduce", 5000)
    assert [str(one) for one in parse_plant(text.replace("20", '"20"'))[1]] == [
        "headrace.toml line 6, column 1: buffer is '20'; give a number of records, 1 or more"
    ]
    (tmp_path / "headrace.toml").write_text(text.replace('"reduce"', '"least"'))
    assert main(["check"]) == 2
    assert "line 7, column 1: the policy is 'least'; did you mean 'oldest'?" in capsys.readouterr().err
    fill(log, range(100))
    assert main(["bridge", "topic:numbers", "files:out?format=ndjson", "--buffer", "10", "--when-full", "newest", "--until", "latest"]) == 0
    assert "headrace: 10 records sent; 90 more were dropped, and are counted as shed" in capsys.readouterr().err
    assert main(["ledger", "forward:numbers:files"]) == 0
    assert capsys.readouterr().out.split() == ["numbers", "received", "100", "accepted", "10", "refused", "0", "shed", "90"]


# as a process that is killed

CHILD = """
import asyncio, sqlite3, sys
from contextlib import closing
from pathlib import Path
from forking import begin
from headrace.cli import main
from headrace.cli.buffering import buffer_for, buffer_of
from headrace.connectors.backlog import Buffer
from headrace.connectors.forward import Forward
from headrace.connectors.protocol import Target
from headrace.topics.sqlite import SqliteLog

folder = Path(sys.argv[1])


class Database(Target):
    name, most_records = "database", 20

    async def send(self, records):
        with closing(sqlite3.connect(folder / "store.db")) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY)")
            db.executemany("INSERT OR IGNORE INTO rows VALUES (?)", [(one.id,) for one in records if one.offset % 100 != 7])
        return {place: "7" for place, one in enumerate(records) if one.offset % 100 == 7}


buffer = Buffer(1500, sys.argv[2])
with closing(SqliteLog(folder / "log.db")) as log, closing(Forward(log, "numbers", Database(), "f", buffer=buffer, latest=True)) as one:
    begin()
    asyncio.run(one.run())
"""


@pytest.mark.parametrize("policy", POLICIES)
def test_kill_9_counts_each_record_once(tmp_path: Path, policy: Policy) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        for first in range(0, 3000, 100):
            fill(log, range(first, first + 100), 3)
    run_with_kills(CHILD, tmp_path, policy, dice=random.Random(1), longest=0.3)
    with closing(sqlite3.connect(tmp_path / "store.db")) as db:
        rows = {one for (one,) in db.execute("SELECT id FROM rows")}
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        letters = [json.loads(one) for one in values_of(log, "numbers.dead-letter")]
        aside = {f"numbers/{one['partition']}/{one['offset']}" for one in letters}
        found = {**ledger_of(log.manifest("f") or b"")["numbers"]}
    assert len(aside) == len(letters), "each is set aside once"
    assert found["received"] == 3000 == found["accepted"] + found["refused"] + found["shed"]
    assert found["shed"] > 0
    assert found["refused"] == len(aside)
    assert found["accepted"] == len(rows), "what is in the store is not counted as shed, nor the other way round"
