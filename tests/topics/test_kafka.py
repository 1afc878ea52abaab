"""What only Kafka has: brokers that go away, offsets with gaps, transactions of unknown outcome, state beside the log."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

import headrace as hr
from broker import Broker, Shared, missing
from headrace.engines.embedded import live as engine
from headrace.engines.embedded.live import Live, run_live
from headrace.errors import EnvironmentFault, PlanError
from headrace.plan.pipeline import Plan
from headrace.topics import store
from headrace.topics.protocol import Away, Commit, Outgoing
from ports import free_port
from topics.test_logs import from_files, left, plan, readings, without_arrival

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition  # noqa: E402
from confluent_kafka.admin import NewPartitions, NewTopic, OffsetSpec  # noqa: E402

from headrace.topics.kafka import (  # noqa: E402
    KafkaLog,
    client,
    writing,
)
from headrace.topics.kafka import claim as claims  # noqa: E402
from headrace.topics.kafka.connection import KafkaConnection  # noqa: E402
from headrace.topics.kafka.feed import KafkaReader  # noqa: E402

READ_COMMITTED, READ_UNCOMMITTED = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Return a broker that tests may stop and kill."""
    if (why := missing()) is not None:
        pytest.skip(why)
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.end()


@pytest.fixture
def log(kafka: Shared, tmp_path: Path) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka.servers, tmp_path / "home")) as log:
        yield log


@pytest.fixture
def mine(own: Broker, tmp_path: Path) -> Iterator[KafkaLog]:
    """Return a log on the broker that the test may stop, as soon as that is well again after the test before."""
    with closing(KafkaLog(own.servers, tmp_path / "home")) as log:
        assert soon(lambda: makes_topics(log))
        yield log


def makes_topics(log: KafkaLog) -> bool:
    try:
        new_topic(log)
    except Away:
        return False
    return True


def new_topic(log: KafkaLog, partitions: int = 1) -> str:
    name = f"t-{uuid.uuid4().hex[:12]}"
    log.create(name, partitions)
    return name


def read(feed: Any, topic: str, count: int, seconds: float = 180) -> list[str]:
    found: list[str] = []
    give_up_at = time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < give_up_at, found
        feed.fetch()
        for reader in feed.readers[topic]:
            lines = reader.read()
            found += [str(lines.raw(place)) for place in range(len(lines))]
    return found


def fault_of(feed: Any, seconds: float = 180) -> str:
    """Return what a feed ends with within some seconds."""
    give_up_at = time.monotonic() + seconds
    with pytest.raises(EnvironmentFault) as caught:
        while time.monotonic() < give_up_at:
            feed.fetch()
    return str(caught.value)


def soon(true: Callable[[], bool], seconds: float = 180) -> bool:
    give_up_at = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return now


# Brokers that are not there


def test_a_broker_that_is_not_there_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    servers = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=rf"Kafka at {servers}: cannot be reached: .*refused.*headrace doctor"):
        KafkaLog(servers, tmp_path)
    assert time.monotonic() - began < 120
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("servers", ["", "no such host.:1", ",", "host:notaport"])
def test_servers_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 1.0)
    with pytest.raises(EnvironmentFault, match="Kafka at"):
        KafkaLog(servers, tmp_path)


def test_reading_goes_on_when_a_killed_broker_is_back(own: Broker, mine: KafkaLog, capfd: pytest.CaptureFixture[str]) -> None:
    topic = new_topic(mine)
    mine.append(topic, [b"1", b"2"])
    with closing(mine.feed([topic])) as feed:
        assert read(feed, topic, 2) == ["1", "2"]
        own.end()
        gone_until = time.monotonic() + 4
        while time.monotonic() < gone_until:
            assert not feed.fetch()
        own.start()
        mine.append(topic, [b"3"])
        assert read(feed, topic, 1) == ["3"]
    assert capfd.readouterr() == ("", "")


def test_appending_to_a_broker_that_stands_still_ends(own: Broker, mine: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = new_topic(mine)
    monkeypatch.setattr(writing, "APPEND_SECONDS", 2.0)
    own.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(EnvironmentFault, match="does not answer"):
            mine.append(topic, [b"x"])
        assert time.monotonic() - began < 30
    finally:
        own.signal(signal.SIGCONT)


ENDS = """
import os, signal, sys
from pathlib import Path
from headrace.topics.kafka import KafkaLog, claim as claims, client
from headrace.topics.protocol import Commit
servers, folder, topic, broker = sys.argv[1:]
log = KafkaLog(servers, Path(folder))
feed, claim = log.feed([topic]), log.claim(f"p-{topic}")
claim.commit(Commit(b"m", {}, [], [], {(topic, 0): 0}))
feed.fetch()
claims.COMMIT_SECONDS = client.ANSWER_SECONDS = 3.0
os.kill(int(broker), signal.SIGKILL)
claim.commit(Commit(b"m", {}, [], [], {(topic, 0): 0}))
"""


def test_a_process_whose_broker_is_gone_comes_to_its_end(own: Broker, mine: KafkaLog) -> None:
    topic = new_topic(mine)
    try:
        done = subprocess.run(
            [sys.executable, "-c", ENDS, own.servers, str(mine.folder), topic, str(own.pid)], check=False, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("headrace.topics.protocol.Away: Kafka at")
    finally:
        own.end()
        own.start()


# Topics that change while they are read


def test_partitions_added_while_read_end_the_feed(log: KafkaLog) -> None:
    topic = new_topic(log, 2)
    log.append(topic, [b"1"])
    with closing(log.feed([topic])) as feed:
        assert read(feed, topic, 1) == ["1"]
        log.connection.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(120)
        assert f"topic '{topic}': has 3 partitions now, not 2" in fault_of(feed)


def test_a_topic_made_anew_while_read_ends_the_feed(log: KafkaLog) -> None:
    topic = new_topic(log)
    log.append(topic, [b"1"])
    with closing(log.feed([topic])) as feed:
        assert read(feed, topic, 1) == ["1"]
        log.delete(topic)
        log.create(topic)
        log.append(topic, [b"other", b"other"])
        assert "made anew" in fault_of(feed)


@pytest.mark.parametrize(("at", "said"), [(1, "has kept no records before 3; 1 was to be read next"), (99, "ends at 5; 99 was to be read next")])
def test_an_offset_that_is_not_there_is_never_passed_over(log: KafkaLog, at: int, said: str) -> None:
    topic = new_topic(log)
    log.append(topic, [b"%d" % number for number in range(5)])
    log.connection.admin.delete_records([TopicPartition(topic, 0, 3)])[TopicPartition(topic, 0, 3)].result(120)
    with closing(log.feed([topic])) as feed:
        assert feed.readers[topic][0].position["record"] == 3
        feed.readers[topic][0].seek({"record": at, "size": None})
        told = fault_of(feed)
        assert said in told
        assert "--anew" in told


def test_what_is_gone_is_passed_over_where_that_is_wanted(log: KafkaLog) -> None:
    topic = new_topic(log)
    log.append(topic, [b"%d" % number for number in range(5)])
    log.connection.admin.delete_records([TopicPartition(topic, 0, 3)])[TopicPartition(topic, 0, 3)].result(120)
    with closing(log.feed([topic], skip_gone=True)) as feed:
        feed.readers[topic][0].seek({"record": 1, "size": None})
        assert read(feed, topic, 2) == ["3", "4"]
        assert feed.readers[topic][0].position["record"] == 5


def test_nothing_is_fetched_of_partitions_that_are_held(log: KafkaLog) -> None:
    topic, other = new_topic(log), new_topic(log)
    for name in (topic, other):
        log.append(name, [b"1"])
    with closing(log.feed([topic, other])) as feed:
        assert [*read(feed, topic, 1), *read(feed, other, 1)] == ["1", "1"]
        feed.hold({(topic, 0)})
        for name in (topic, other):
            log.append(name, [b"2"])
        assert read(feed, other, 1) == ["2"]
        assert feed.readers[topic][0].drained
        feed.hold({(other, 0)})
        assert read(feed, topic, 1) == ["2"]


# Records


def test_offsets_have_gaps_and_the_end_is_reached_through_them(log: KafkaLog) -> None:
    source, topic = new_topic(log), new_topic(log)
    claim = log.claim(f"p-{topic}")
    for number in range(3):
        claim.commit(Commit(b"m", {}, [], [Outgoing(topic, b"%d" % number, 1)], {(source, 0): 0}))
    claim.release()
    assert soon(lambda: log.topic(topic).partitions[0].end == 6)
    assert [entry.offset for entry in log.entries(topic, 0, 0, 10)] == [0, 2, 4]
    assert log.entries(topic, 0, 5, 10) == []
    with closing(log.feed([topic], latest=True)) as feed:
        reader = feed.readers[topic][0]
        offsets: list[int] = []
        while not reader.finished:
            if feed.fetch():
                offsets += reader.read().stamps.offsets.to_list()
        assert offsets == [0, 2, 4]
        assert (reader.position["record"], reader.position["size"]) == (6, 6)
        assert feed.lag() == {(topic, 0): 0}
    with closing(log.feed([topic], latest=True)) as feed:
        feed.readers[topic][0].seek({"record": 5, "size": None})
        assert soon(lambda: not feed.fetch() and feed.readers[topic][0].finished)
    with closing(log.feed([topic], latest=True)) as feed:
        feed.readers[topic][0].seek({"record": 6, "size": None})
        assert feed.readers[topic][0].finished


def test_a_tombstone_is_no_record(log: KafkaLog) -> None:
    topic, bare = new_topic(log), new_topic(log)
    producer = Producer({"bootstrap.servers": log.servers})
    for value in (None, b"1", None, None, b"", b"2", None):
        producer.produce(topic, value, b"key")
    producer.produce(bare, None, b"key")
    assert producer.flush(180) == 0
    assert [entry.value for entry in log.entries(topic, 0, 0, 9)] == [b"", b"1", b"", b"", b"", b"2", b""]
    with closing(log.feed([topic, bare], latest=True)) as feed:
        found: list[tuple[int, str]] = []
        while not all(reader.finished for readers in feed.readers.values() for reader in readers):
            feed.fetch()
            for readers in feed.readers.values():
                lines = readers[0].read()
                found += [(int(lines.stamps.offsets[at]), str(lines.raw(at))) for at in range(len(lines)) if lines.stamps is not None]
        assert found == [(1, "1"), (4, ""), (5, "2")]
        assert [feed.readers[name][0].position["record"] for name in (topic, bare)] == [7, 1]


def test_headers_of_records_are_read_where_a_plan_declares_them(log: KafkaLog) -> None:
    topic = new_topic(log)
    producer = Producer({"bootstrap.servers": log.servers})
    sent: list[Any] = [
        [("unit", b"C"), ("line", "Ä".encode()), ("unit", b"K")], None, [("empty", b""), ("null", None), ("broken", b"\xff")], [], [("", b"no name")],
    ]  # fmt: skip
    for number, headers in enumerate(sent):
        producer.produce(topic, b'{"v":%d}' % number, headers=headers)
        producer.produce(topic, None, headers=[("on", b"a tombstone")])
    producer.produce(topic, b"bad", headers=[("on", b"a malformed record")])
    assert producer.flush(180) == 0

    def plan_of(known: dict[str, str]) -> Plan:
        return hr.pipeline(f"with-{topic}", version="1")(lambda: {f"out-{topic}": hr.stream(topic, schema={"v": "BIGINT"}, metadata=known)}).plan()

    want: list[dict[str, Any]] = [
        {"line": "Ä", "unit": "K"}, {}, {"broken": None, "empty": "", "null": None}, {}, {"": "no name"},
    ]  # fmt: skip
    for most in (None, 1, 3):
        run_live(Live(plan_of({"h": "headers", "again": "headers"}), log, latest=True, batch_records=most, anew=True))
        assert soon(lambda: bool(log.entries(f"out-{topic}", 0, 4, 9)))
        rows = [json.loads(one.value) for one in log.entries(f"out-{topic}", 0, 0, 9)]
        assert rows == [{"v": number, "h": headers, "again": headers} for number, headers in enumerate(want)]
        log.delete(f"out-{topic}")
    without = Live(plan_of({"at": "offset"}), log, anew=True)
    assert not any(reader.headered for readers in without.feed.readers.values() for reader in readers if isinstance(reader, KafkaReader))
    without.close()


def test_times_of_producers_are_taken_where_a_topic_keeps_them(kafka: Shared, log: KafkaLog, tmp_path: Path) -> None:
    topic = f"t-{uuid.uuid4().hex}"
    log.connection.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(120)
    now = int(time.time() * 1000)
    said = [now + 5_000, now + 3_000, now + 9_000]
    times = iter(said)
    with closing(KafkaLog(kafka.servers, tmp_path, clock=lambda: next(times))) as slow:
        for _ in range(3):
            slow.append(topic, [b"x"])
    assert [entry.arrived_ms for entry in log.entries(topic, 0, 0, 9)] == said
    with closing(log.feed([topic])) as feed:
        assert soon(feed.fetch)
        stamps = feed.readers[topic][0].read().stamps
        assert stamps is not None
        assert stamps.arrived_ms.to_list() == said
        assert stamps.order.to_list() == [now + 5_000, now + 5_000, now + 9_000]


def test_a_record_that_is_too_large_is_refused_with_its_size(log: KafkaLog) -> None:
    topic = new_topic(log)
    for size in (20_000_000, 70_000_000):
        with pytest.raises(EnvironmentFault, match=rf"topic '{topic}': a record of {size:,} bytes.*message\.max\.bytes"):
            log.append(topic, [b"x" * size])
    log.append(topic, [b"x" * 10_000_000])
    assert len(log.entries(topic, 0, 0, 1)[0].value) == 10_000_000
    claim = log.claim(f"p-{topic}")
    with pytest.raises(EnvironmentFault, match=r"a record of 20,000,000 bytes"):
        claim.commit(Commit(b"m", {}, [], [Outgoing(topic, b"x" * 20_000_000, 1)], {(topic, 0): 0}))
    claim.release()
    claim = log.claim(f"p-{topic}")
    claim.commit(Commit(b"m", {}, [], [Outgoing(topic, b"small", 1)], {(topic, 0): 1}))
    claim.release()
    assert soon(lambda: log.entries(topic, 0, 1, 9)[-1:] != [] and log.entries(topic, 0, 1, 9)[-1].value == b"small")


def test_a_name_that_only_kafka_refuses(log: KafkaLog) -> None:
    for name in ("ä", "a b", "..", "x" * 250):
        with pytest.raises(PlanError, match="cannot be used"):
            log.create(name)


# Transactions


def test_kafkas_own_consumer_sees_what_is_committed_and_nothing_else(kafka: Shared, log: KafkaLog) -> None:
    topic = new_topic(log)
    claim = log.claim(f"p-{topic}")
    claim.commit(Commit(b"1", {}, [], [Outgoing(topic, b"one\ntwo", 2)], {(topic, 0): 0}))
    with pytest.raises(EnvironmentFault):
        claim.commit(Commit(b"2", {}, [], [Outgoing(topic, b"never\n" + b"x" * 20_000_000, 2)], {(topic, 0): 1}))
    claim.release()
    claim = log.claim(f"p-{topic}")
    assert claim.manifest == b"1"
    claim.commit(Commit(b"3", {}, [], [Outgoing(topic, b"three", 1)], {(topic, 0): 2}))
    claim.release()
    told = kafka.run_tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", kafka.servers, "--topic", topic, "--from-beginning",
        "--isolation-level", "read_committed", "--max-messages", "3", "--timeout-ms", "60000",
    )  # fmt: skip
    assert told.split() == ["one", "two", "three"]


def test_every_offset_names_its_manifest(log: KafkaLog) -> None:
    topic = new_topic(log, 2)
    pipeline = f"p-{topic}"
    claim = log.claim(pipeline)
    claim.commit(Commit(b"one", {}, [], [], {(topic, 0): 0, (topic, 1): 0}))
    claim.commit(Commit(b"two", {}, [], [], {(topic, 0): 7}))
    claim.release()
    found = log.groups.committed(pipeline)
    assert sorted((one.partition, one.offset) for one in found) == [(0, 7), (1, 0)]
    (mark,) = {one.metadata for one in found}
    assert mark is not None
    assert mark.startswith("2;")


class Stopper:
    """Has the broker stand still at a point of a commit, when it has taken all that was produced up to there if it is to be `delivered`."""

    def __init__(self, broker: Broker, point: str, monkeypatch: pytest.MonkeyPatch, delivered: Producer | None = None) -> None:
        def stop(at: str) -> None:
            if at == point:
                assert delivered is None or delivered.flush(180) == 0
                broker.signal(signal.SIGSTOP)

        monkeypatch.setattr(claims, "passing", stop)


def test_after_a_commit_of_unknown_outcome_nothing_more_is_done(own: Broker, mine: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, out = new_topic(mine), new_topic(mine)
    claim = mine.claim(f"p-{topic}")
    claim.commit(Commit(b"1", {"a": b"A"}, ["a"], [Outgoing(out, b"one", 1)], {(topic, 0): 1}))
    monkeypatch.setattr(claims, "COMMIT_SECONDS", 4.0)
    with monkeypatch.context() as patch:
        Stopper(own, "commit.cursors", patch, delivered=claim._producer)
        try:
            with pytest.raises(EnvironmentFault, match=r"does not say whether the last commit .* stands.*start the pipeline again"):
                claim.commit(Commit(b"2", {"b": b"B"}, ["a", "b"], [Outgoing(out, b"two", 1)], {(topic, 0): 2}))
            with pytest.raises(EnvironmentFault, match="does not say"):
                claim.commit(Commit(b"3", {}, ["a"], [Outgoing(out, b"never", 1)], {(topic, 0): 3}))
            claim.release()
        finally:
            own.signal(signal.SIGCONT)
    monkeypatch.setattr(claims, "COMMIT_SECONDS", 30.0)
    with closing(KafkaLog(own.servers, mine.folder)) as again:
        claim = again.claim(f"p-{topic}")
        stands = claim.manifest == b"2"
        assert claim.manifest in {b"1", b"2"}
        assert claim.load("a") == b"A"
        assert soon(lambda: [one.value for one in again.entries(out, 0, 0, 9)] == [b"one", b"two"][: 1 + stands])
        claim.commit(Commit(b"4", {}, ["a"], [Outgoing(out, b"four", 1)], {(topic, 0): 4}))
        assert soon(lambda: [one.value for one in again.entries(out, 0, 0, 9)] == [*[b"one", b"two"][: 1 + stands], b"four"])
        claim.release()


def test_a_commit_that_did_not_get_to_its_end_leaves_what_was(own: Broker, mine: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, out = new_topic(mine), new_topic(mine)
    claim = mine.claim(f"p-{topic}")
    claim.commit(Commit(b"1", {"a": b"A"}, ["a"], [Outgoing(out, b"one", 1)], {(topic, 0): 1}))
    monkeypatch.setattr(claims, "COMMIT_SECONDS", 3.0)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 2.0)
    with monkeypatch.context() as patch:
        Stopper(own, "commit.output", patch)
        try:
            with pytest.raises(EnvironmentFault, match="it does not answer"):
                claim.commit(Commit(b"2", {"b": b"B"}, ["a", "b"], [Outgoing(out, b"two", 1)], {(topic, 0): 2}))
            claim.release()
        finally:
            own.signal(signal.SIGCONT)
    monkeypatch.setattr(claims, "COMMIT_SECONDS", 120.0)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 60.0)
    with closing(KafkaLog(own.servers, mine.folder)) as again:
        claim = again.claim(f"p-{topic}")
        assert (claim.manifest, claim.load("a")) == (b"1", b"A")
        assert soon(lambda: [one.value for one in again.entries(out, 0, 0, 9)] == [b"one"])
        claim.release()


class Killer:
    """Kills the broker at points, each in one of the commits from a number on, and has it back when the run has noticed."""

    def __init__(self, broker: Broker, points: dict[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._broker, self._points, self.kills = broker, points, 0
        self._commits, self.noticed = 0, threading.Event()
        self._wanted = threading.Semaphore(0)
        # The broker ends with the thread that has started it.
        self._thread = threading.Thread(target=self._restart, daemon=True)
        self._thread.start()
        for module in (claims, store):
            monkeypatch.setattr(module, "passing", self._pass)

    def _pass(self, point: str) -> None:
        self._commits += point == "commit.begun"
        first = min(self._points, default=self._commits + 1)
        if self._commits >= first and self._points[first] == point:
            del self._points[first]
            self.kills += 1
            self.noticed.clear()
            self._broker.end()
            self._wanted.release()

    def _restart(self) -> None:
        while True:
            self._wanted.acquire()
            assert self.noticed.wait(180)
            self._broker.start()


def test_a_live_run_goes_on_by_itself_when_a_broker_that_was_killed_in_commits_is_back(
    own: Broker, mine: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, records = uuid.uuid4().hex[:12], [record for record in readings(3_000, 5) if record]
    mine.create(f"in-{mark}")
    mine.append(f"in-{mark}", records)
    expected, counts = from_files(tmp_path / "files", mark, records)
    monkeypatch.setattr(claims, "COMMIT_SECONDS", 4.0)
    monkeypatch.setattr(engine, "AWAY_SECONDS", 600.0)  # on a busy machine it starts slowly
    faults: list[str] = []
    # Not at commit.done: a lone broker that dies there may call the transaction ended without having ended it in all partitions.
    killer = Killer(own, {2: "commit.begun", 5: "commit.output", 8: "commit.cursors", 11: "commit.output", 14: "commit.cursors"}, monkeypatch)

    def away(fault: Away | None) -> None:
        faults.append(str(fault))
        if fault is not None:
            killer.noticed.set()

    try:
        live = Live(plan(mark), mine, latest=True, batch_records=100)
        ledger = run_live(live, commit_seconds=0, away=away)
        assert ledger[f"in-{mark}"].counts() == counts
        assert soon(lambda: left(mine, mark)["out"] == expected["out"])
        assert without_arrival(left(mine, mark)["dead"]) == without_arrival(expected["dead"])
        assert killer.kills == 5
        assert sum(fault == "None" for fault in faults) >= 4
        assert any("does not say whether the last commit" in fault for fault in faults)
    finally:
        own.end()
        own.start()


def test_a_live_run_on_a_broker_that_hangs_again_and_again_gives_the_same(
    own: Broker, mine: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, records = uuid.uuid4().hex[:12], [record for record in readings(2_000, 6) if record]
    mine.create(f"in-{mark}")
    mine.append(f"in-{mark}", records)
    expected, counts = from_files(tmp_path / "files", mark, records)
    points, passed = ["commit.begun", "commit.output", "commit.cursors"], 0
    timers: list[threading.Timer] = []

    def hang(point: str) -> None:
        nonlocal passed
        passed += point == "commit.begun"
        if passed % 3 == 1 and point == points[passed // 3 % 3]:
            own.signal(signal.SIGSTOP)
            timers.append(threading.Timer(1.5, own.signal, [signal.SIGCONT]))
            timers[-1].start()

    monkeypatch.setattr(claims, "passing", hang)
    try:
        ledger = run_live(Live(plan(mark), mine, latest=True, batch_records=200), commit_seconds=0)
    finally:
        for timer in timers:
            timer.join(120)
        own.signal(signal.SIGCONT)
    assert len(timers) >= 3
    assert ledger[f"in-{mark}"].counts() == counts
    assert soon(lambda: left(mine, mark)["out"] == expected["out"])


def test_a_live_run_goes_on_by_itself_when_a_broker_whose_disk_was_full_has_room_again(
    own: Broker, mine: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, records = uuid.uuid4().hex[:12], [record for record in readings(2_000, 7) if record]
    mine.create(f"in-{mark}")
    mine.append(f"in-{mark}", records)
    expected, counts = from_files(tmp_path / "files", mark, records)
    monkeypatch.setattr(claims, "COMMIT_SECONDS", 5.0)
    monkeypatch.setattr(engine, "AWAY_SECONDS", 600.0)
    passed, faults = 0, 0

    def fill(point: str) -> None:
        nonlocal passed
        passed += point == "commit.begun"
        if passed == 4 and point == "commit.begun":
            # No file of the broker's may grow any more: to it that is a disk without room, and it ends.
            resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def make_room(fault: Away | None) -> None:
        nonlocal faults
        faults += fault is not None
        if faults == 1 and fault is not None:
            own.end()
            own.start()

    monkeypatch.setattr(claims, "passing", fill)
    try:
        ledger = run_live(Live(plan(mark), mine, latest=True, batch_records=200), commit_seconds=0, away=make_room)
    finally:
        if not faults:
            own.end()
            own.start()
    assert faults
    assert ledger[f"in-{mark}"].counts() == counts
    assert soon(lambda: left(mine, mark)["out"] == expected["out"])


def test_a_broker_that_stays_away_ends_a_live_run_in_the_end(own: Broker, mine: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid.uuid4().hex[:12]
    mine.create(f"in-{mark}")
    mine.append(f"in-{mark}", readings(200))
    for module, name, seconds in ((claims, "COMMIT_SECONDS", 2.0), (client, "ANSWER_SECONDS", 1.0), (engine, "AWAY_SECONDS", 4.0)):
        monkeypatch.setattr(module, name, seconds)
    faults: list[Away | None] = []
    live = Live(plan(mark), mine)
    own.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(Away, match="does not answer"):
            run_live(live, commit_seconds=0, away=faults.append)
        assert time.monotonic() - began > 4
        assert faults
    finally:
        own.signal(signal.SIGCONT)


def test_a_run_that_lost_its_pipeline_to_another_home_does_not_take_it_back(kafka: Shared, log: KafkaLog, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex[:12]
    log.create(f"in-{mark}")
    log.append(f"in-{mark}", readings(200))
    live = Live(plan(mark), log)
    with closing(KafkaLog(kafka.servers, tmp_path / "other")) as elsewhere:
        other = elsewhere.claim(f"kiln-{mark}")
        other.commit(Commit(b"1", {}, [], [], {(f"in-{mark}", 0): 1}))
        with pytest.raises(EnvironmentFault, match="belongs to another process now") as caught:
            run_live(live, commit_seconds=0)
        assert not isinstance(caught.value, Away)
        other.commit(Commit(b"2", {}, [], [], {(f"in-{mark}", 0): 2}))
        other.release()


def test_a_start_with_another_home_leaves_the_process_that_has_the_state_alone(kafka: Shared, log: KafkaLog, tmp_path: Path) -> None:
    topic = new_topic(log)
    pipeline = f"p-{topic}"
    first = log.claim(pipeline)
    first.commit(Commit(b"1", {}, [], [], {(topic, 0): 1}))
    with closing(KafkaLog(kafka.servers, tmp_path / "other")) as elsewhere:
        second = elsewhere.claim(pipeline)
        with pytest.raises(EnvironmentFault, match=rf"other/state/{pipeline}/1-.*\.manifest: .* set HEADRACE_HOME .*--anew"):
            _ = second.manifest
        with pytest.raises(EnvironmentFault, match="set HEADRACE_HOME"):
            second.commit(Commit(b"2", {}, [], [], {(topic, 0): 2}))
        second.release()
        first.commit(Commit(b"2", {}, [], [], {(topic, 0): 2}))
        third = elsewhere.claim(pipeline)
        third.forget()
        assert third.manifest is None
        third.commit(Commit(b"anew", {}, [], [], {(topic, 0): 0}))
        third.release()
        with pytest.raises(EnvironmentFault, match="belongs to another process now"):
            first.commit(Commit(b"3", {}, [], [], {(topic, 0): 3}))
    first.release()


def test_a_live_run_resumes_when_the_broker_has_aborted_a_transaction_that_took_too_long(
    log: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, records = uuid.uuid4().hex[:12], [record for record in readings(1_000, 9) if record]
    log.create(f"in-{mark}")
    log.append(f"in-{mark}", records)
    expected, counts = from_files(tmp_path / "files", mark, records)
    monkeypatch.setattr(claims, "TRANSACTION_SECONDS", 1.0)
    live, faults, stalls = Live(plan(mark), log, latest=True, batch_records=100), list[str](), ["commit.output", "commit.cursors"]
    out = TopicPartition(f"out-{mark}", 0)

    def end(isolation: IsolationLevel) -> int:
        return int(log.connection.admin.list_offsets({out: OffsetSpec.latest()}, isolation_level=isolation)[out].result(120).offset)

    def last_a_long_time(point: str) -> None:
        """Stand still, as a machine without a free processor does, until the broker has aborted the transaction."""
        if point not in stalls[:1] or live.claim._producer.flush(180) or end(READ_UNCOMMITTED) == end(READ_COMMITTED):
            return
        del stalls[0]
        assert soon(lambda: end(READ_UNCOMMITTED) == end(READ_COMMITTED))

    monkeypatch.setattr(claims, "passing", last_a_long_time)
    ledger = run_live(live, commit_seconds=0, away=lambda fault: faults.append(str(fault)))
    assert not stalls
    assert sum("aborted a transaction" in fault for fault in faults) == 2, faults
    assert ledger[f"in-{mark}"].counts() == counts
    assert soon(lambda: left(log, mark)["out"] == expected["out"])


@pytest.mark.parametrize("when", ["idle", "committing", "reopening"])
def test_sigterm_ends_a_run_whose_broker_is_away_within_seconds(own: Broker, mine: KafkaLog, tmp_path: Path, when: str) -> None:
    topic = f"in-{uuid.uuid4().hex[:12]}"
    mine.create(topic)
    (tmp_path / "app.py").write_text(THROUGH.format(topic=topic))
    command = [sys.executable, "-c", HELD, "run", "app.py", "--kafka-servers", own.servers]
    child = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "HEADRACE_HOME": "home"}, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        assert '"started"' in child.stderr.readline()
        mine.append(topic, [b'{"t":1700000000000}'] * 50)
        assert soon(lambda: len(mine.entries(f"out-{topic}", 0, 0, 99)) == 50)
        if when != "idle":
            (tmp_path / "hold").touch()
            mine.append(topic, [b'{"t":1700000000001}'])
            assert soon((tmp_path / "held").exists)
        own.signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        if when == "reopening":
            own.end()
            assert '"away"' in child.stderr.readline()
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=120)  # without the signal it would try for ten minutes
        assert child.returncode == (when != "idle"), said
        if when != "idle":
            assert "headrace: Kafka at" in said
    finally:
        child.kill()
        child.wait(120)
        if when == "reopening":
            own.start()
        own.signal(signal.SIGCONT)


# Runs the command line; a commit that begins when there is a file `hold` waits for a file `go`.
HELD = """
import sys, time
from pathlib import Path
from headrace.cli import main
from headrace.engines.embedded import live
from headrace.topics.kafka import claim

def passing(point):
    if point == "commit.begun" and Path("hold").exists():
        Path("held").touch()
        while not Path("go").exists():
            time.sleep(0.01)

claim.passing = passing
live.AWAY_SECONDS = 600.0
sys.exit(main(sys.argv[1:]))
"""
THROUGH = """
import headrace as hr

@hr.pipeline("through-{topic}", version="1")
def through():
    events = hr.stream("{topic}", schema={{"t": "BIGINT"}}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {{"out-{topic}": events.select("t")}}
"""


def test_of_two_homes_that_begin_a_pipeline_the_one_that_commits_first_has_it(kafka: Shared, log: KafkaLog, tmp_path: Path) -> None:
    topic = new_topic(log)
    first = log.claim(f"p-{topic}")
    with closing(KafkaLog(kafka.servers, tmp_path / "other")) as elsewhere:
        second = elsewhere.claim(f"p-{topic}")
        with pytest.raises(Away, match=f"aborted a transaction of pipeline p-{topic}"):
            first.commit(Commit(b"1", {}, [], [], {(topic, 0): 1}))
        first.release()
        second.commit(Commit(b"2", {}, [], [], {(topic, 0): 1}))
        second.release()
    claim = log.claim(f"p-{topic}")
    with pytest.raises(EnvironmentFault, match=r"1-.*\.manifest: .*--anew"):
        _ = claim.manifest
    claim.release()


# State beside the log


def committed(log: KafkaLog, pipeline: str, topic: str, times: int) -> Path:
    claim = log.claim(pipeline)
    for number in range(1, times + 1):
        claim.commit(Commit(b"m%d" % number, {f"p{number}": b"data %d" % number}, [f"p{number}"], [], {(topic, 0): number}))
    claim.release()
    return log.folder / "state" / pipeline


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files(folder: Path) -> set[str]:
    """Return the names in a folder without the hashes in them."""
    return {re.sub(r"-[0-9a-f]{32,64}", "", name) for name in names(folder)}


def test_two_generations_of_state_are_kept(log: KafkaLog) -> None:
    topic = new_topic(log)
    folder = committed(log, f"p-{topic}", topic, 5)
    assert files(folder) == {"begun", "4.manifest", "5.manifest", "p4.part", "p5.part"}
    (folder / "9.manifest").write_bytes(b"of a commit that did not come to be")
    claim = log.claim(f"p-{topic}")
    assert claim.manifest == b"m5"
    claim.commit(Commit(b"m6", {}, ["p5"], [], {(topic, 0): 6}))
    assert files(folder) == {"begun", "5.manifest", "6.manifest", "p5.part"}
    claim.release()


def test_a_process_that_lost_its_pipeline_touches_nothing_of_its_successors(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = new_topic(log)
    folder = committed(log, f"p-{topic}", topic, 2)
    monkeypatch.setattr(claims, "locked", lambda *_: (folder.parent / "lock").open("wb"))  # a file system whose locks do not hold
    zombie, owner = log.claim(f"p-{topic}"), log.claim(f"p-{topic}")
    owner.commit(Commit(b"owner", {"p3": b"owner's"}, ["p2", "p3"], [], {(topic, 0): 3}))
    with pytest.raises(EnvironmentFault, match="aborted a transaction"):
        zombie.commit(Commit(b"zombie", {"p3": b"zombie's"}, ["p3"], [], {(topic, 0): 4}))
    zombie.release()
    owner.release()
    claim = log.claim(f"p-{topic}")
    assert (claim.manifest, claim.load("p2"), claim.load("p3")) == (b"owner", b"data 2", b"owner's")
    claim.release()


def test_a_process_that_stood_still_after_its_commit_removes_nothing_of_its_successors(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = new_topic(log)
    folder = committed(log, f"p-{topic}", topic, 2)
    monkeypatch.setattr(claims, "locked", lambda *_: (folder.parent / "lock").open("wb"))
    slow = log.claim(f"p-{topic}")

    def be_overtaken(point: str) -> None:
        if point == "commit.done":
            monkeypatch.setattr(claims, "passing", lambda _: None)
            owner = log.claim(f"p-{topic}")
            for number in (4, 5, 6):
                name = f"p{number}"
                owner.commit(Commit(b"owner", {name: b"owner's"}, [name], [], {(topic, 0): number}))
            owner.release()

    monkeypatch.setattr(claims, "passing", be_overtaken)
    slow.commit(Commit(b"m3", {"p3": b"3"}, ["p3"], [], {(topic, 0): 3}))
    slow.release()
    claim = log.claim(f"p-{topic}")
    assert (claim.manifest, claim.load("p6")) == (b"owner", b"owner's")
    claim.release()


def test_state_whose_files_have_no_hash_in_their_names_is_read_and_goes_on(log: KafkaLog) -> None:
    """The first format."""
    topic = new_topic(log)
    folder = log.folder / "state" / f"p-{topic}"
    folder.mkdir(parents=True)
    manifest = msgspec.msgpack.encode({"format": 1, "epoch": 1, "parts": {"a": crc32(b"A"), "b": crc32(b"B")}, "manifest": b"old"})
    for name, data in (("1.manifest", manifest), ("a.part", b"A"), ("b.part", b"B"), ("begun", b"")):
        (folder / name).write_bytes(data)
    producer = Producer({"bootstrap.servers": log.servers, "transactional.id": f"p-{topic}", "log_level": 0})
    group = Consumer({"bootstrap.servers": log.servers, "group.id": f"p-{topic}", "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    offsets = [TopicPartition(topic, 0, 7, metadata=f"1;{hashlib.sha256(manifest).hexdigest()}")]
    producer.send_offsets_to_transaction(offsets, group.consumer_group_metadata(), 30)
    producer.commit_transaction(30)
    group.close()
    claim = log.claim(f"p-{topic}")
    assert (claim.manifest, claim.load("a"), claim.load("b")) == (b"old", b"A", b"B")
    claim.commit(Commit(b"new", {"c": b"C"}, ["a", "c"], [], {(topic, 0): 8}))
    claim.release()
    assert files(folder) == {"begun", "1.manifest", "2.manifest", "a.part", "b.part", "c.part"}
    claim = log.claim(f"p-{topic}")
    assert (claim.manifest, claim.load("a"), claim.load("c")) == (b"new", b"A", b"C")
    claim.commit(Commit(b"newer", {}, ["c"], [], {(topic, 0): 9}))
    claim.commit(Commit(b"newest", {}, ["c"], [], {(topic, 0): 10}))
    claim.release()
    assert files(folder) == {"begun", "3.manifest", "4.manifest", "c.part"}
    (folder / "c.part").write_bytes(b"of no use")
    (part,) = folder.glob("c-*.part")
    part.write_bytes(b"D")
    claim = log.claim(f"p-{topic}")
    with pytest.raises(EnvironmentFault, match="its checksum is another"):
        claim.load("c")
    claim.release()


@pytest.mark.parametrize("name", ["2-*.manifest", "p2-*.part"])
def test_state_that_is_missing_is_named_and_can_be_forgotten(log: KafkaLog, name: str) -> None:
    topic = new_topic(log)
    folder = committed(log, f"p-{topic}", topic, 2)
    (path,) = folder.glob(name)
    path.unlink()
    claim = log.claim(f"p-{topic}")
    with pytest.raises(EnvironmentFault, match=rf"{path.name}: .*--anew"):
        assert claim.manifest
        claim.load("p2")
    claim.forget()
    assert claim.manifest is None
    claim.commit(Commit(b"anew", {}, [], [], {(topic, 0): 1}))
    claim.release()


def test_offsets_that_kafka_has_lost_do_not_start_a_pipeline_over(log: KafkaLog) -> None:
    topic = new_topic(log)
    committed(log, f"p-{topic}", topic, 1)
    log.connection.admin.delete_consumer_groups([f"p-{topic}"])[f"p-{topic}"].result(120)
    claim = log.claim(f"p-{topic}")
    with pytest.raises(EnvironmentFault, match=r"no longer has the offsets.*offsets\.retention\.minutes.*--anew"):
        _ = claim.manifest
    claim.release()


def test_offsets_moved_by_hand_do_not_start_a_pipeline_elsewhere(log: KafkaLog) -> None:
    topic = new_topic(log)
    committed(log, f"p-{topic}", topic, 1)
    log.move(f"p-{topic}", {(topic, 0): 0})
    claim = log.claim(f"p-{topic}")
    with pytest.raises(EnvironmentFault, match="--anew"):
        _ = claim.manifest
    with pytest.raises(EnvironmentFault):
        claim.commit(Commit(b"x", {}, [], [], {(topic, 0): 1}))
    claim.release()


def test_state_that_cannot_be_written_leaves_what_was(log: KafkaLog) -> None:
    topic = new_topic(log)
    folder = committed(log, f"p-{topic}", topic, 1)
    claim = log.claim(f"p-{topic}")
    folder.rename(folder.with_name("aside"))
    folder.write_text("in the way")
    with pytest.raises(EnvironmentFault, match=r"cannot be written.*make room"):
        claim.commit(Commit(b"m2", {"p2": b"2"}, ["p2"], [Outgoing(topic, b"never", 1)], {(topic, 0): 2}))
    claim.release()
    folder.unlink()
    folder.with_name("aside").rename(folder)
    claim = log.claim(f"p-{topic}")
    assert (claim.manifest, claim.load("p1")) == (b"m1", b"data 1")
    assert log.entries(topic, 0, 0, 9) == []
    claim.release()


@pytest.mark.parametrize("full_at", range(8))
def test_a_disk_that_is_full_at_any_write_of_a_commit_leaves_the_last_one(
    log: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    mark, records = uuid.uuid4().hex[:12], [record for record in readings(1_000, 8) if record]
    log.create(f"in-{mark}")
    log.append(f"in-{mark}", records)
    expected, counts = from_files(tmp_path / "files", mark, records)
    writes, put = 0, store.put

    def put_or_not(path: Path, data: bytes, **more: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == full_at + 1:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        put(path, data, **more)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", put_or_not)
        with pytest.raises(EnvironmentFault, match=r"cannot be written: No space left on device; make room"):
            run_live(Live(plan(mark), log, latest=True, batch_records=200), commit_seconds=0)
    ledger = run_live(Live(plan(mark), log, latest=True, batch_records=200), commit_seconds=0)
    assert ledger[f"in-{mark}"].counts() == counts
    assert soon(lambda: left(log, mark)["out"] == expected["out"])


class Forgetful:
    """An admin client that knows of the leaders of before, until it asks for those of now."""

    def __init__(self, admin: Any) -> None:
        self._admin, self.asked = admin, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admin, name)

    def list_topics(self, **options: Any) -> Any:
        self.asked = True
        return self._admin.list_topics(**options)

    def list_offsets(self, which: dict[TopicPartition, Any], **options: Any) -> Any:
        if self.asked:
            return self._admin.list_offsets(which, **options)
        fenced: dict[TopicPartition, Future[Any]] = {one: Future() for one in which}
        for future in fenced.values():
            future.set_exception(KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH)))
        return fenced


def test_who_leads_a_topic_is_asked_again_when_a_broker_that_is_back_does_not_lead_as_before(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = new_topic(log)
    log.append(topic, [b"1", b"2"])
    forgetful = Forgetful(log.connection.admin)
    monkeypatch.setattr(KafkaConnection, "admin", property(lambda _: forgetful))
    assert [entry.value for entry in log.entries(topic, 0, 0, 10)] == [b"1", b"2"]
