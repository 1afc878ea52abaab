"""What every log does, shown on each: topics, feeds, cursors, claims, and commits that a kill cannot tear."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace._clock import now_ms
from headrace.cli.prove import _FORKING
from headrace.engines.embedded.live import Live, run_live
from headrace.engines.embedded.run import Limits, run_files
from headrace.errors import EnvironmentFault, PlanError
from headrace.kernels.reading.batch import Lines
from headrace.plan.pipeline import Plan
from headrace.topics import failpoints
from headrace.topics.failpoints import POINTS
from headrace.topics.protocol import Commit, Cursor, Feed, Log, Outgoing
from headrace.topics.sqlite import SqliteLog

SECOND, MINUTE = 1000, 60_000
START = 1_705_314_600_000


@dataclass
class Place:
    """Where logs are opened: again and again the same one. Names are made for it, since the broker is shared."""

    servers: str | None
    folder: Path
    mark: str

    def open(self) -> Log:
        if self.servers is None:
            return SqliteLog(self.folder / "log.db")
        from headrace.topics.kafka import KafkaLog

        return KafkaLog(self.servers, self.folder)

    def name(self, name: str) -> str:
        return f"{name}-{self.mark}"


@pytest.fixture(params=["sqlite", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    servers = request.getfixturevalue("kafka").servers if request.param == "kafka" else None
    return Place(servers, tmp_path / "home", uuid.uuid4().hex[:12])


@pytest.fixture
def log(place: Place) -> Iterator[Log]:
    with closing(place.open()) as log:
        yield log


@pytest.fixture
def topic(place: Place, log: Log) -> str:
    name = place.name("t")
    log.create(name)
    return name


def fetched(feed: Feed, count: int, seconds: float = 10) -> dict[tuple[str, int], list[tuple[int, Any]]]:
    """Fetch until there were so many records, and return what the readers gave: offsets and records."""
    found: dict[tuple[str, int], list[tuple[int, Any]]] = {}
    give_up_at = time.monotonic() + seconds
    while sum(map(len, found.values())) < count:
        assert time.monotonic() < give_up_at, found
        feed.fetch()
        for name, readers in feed.readers.items():
            for number, reader in enumerate(readers):
                while not reader.drained:
                    lines = reader.read()
                    assert isinstance(lines, Lines)
                    assert lines.stamps is not None
                    found.setdefault((name, number), []).extend(zip(lines.stamps.offsets, (lines.raw(at) for at in range(len(lines))), strict=True))
    return found


def soon(true: Callable[[], bool], seconds: float = 180) -> bool:
    give_up_at = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return now


def values(log: Log, topic: str, partition: int = 0) -> list[bytes]:
    return [entry.value for entry in log.entries(topic, partition, 0, 1_000_000)]


def comes(found: Callable[[], Any], expected: Any) -> bool:
    """Wait until something is found as expected: what Kafka has committed it shows some ms later."""
    soon(lambda: found() == expected)
    assert found() == expected
    return True


# Topics


def test_a_topic_is_made_listed_described_and_deleted(place: Place, log: Log) -> None:
    name = place.name("made")
    log.create(name, 3, retention_ms=3_600_000, retention_bytes=1 << 20)
    info = log.topic(name)
    assert (info.name, info.replication, info.retention_ms, info.retention_bytes) == (name, 1, 3_600_000, 1 << 20)
    assert [(part.number, part.first, part.end) for part in info.partitions] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert info in log.topics()
    assert not any(one.name.startswith("__") for one in log.topics())
    log.delete(name)
    assert name not in {one.name for one in log.topics()}
    with pytest.raises(PlanError, match="no topic"):
        log.topic(name)
    log.create(name)
    assert log.topic(name).retention_ms is log.topic(name).retention_bytes is None
    assert [part.end for part in log.topic(name).partitions] == [0]


def test_retention_is_altered(log: Log, topic: str) -> None:
    for ms, size in ((60_000, 10_000), (None, 20_000), (None, None)):
        log.alter(topic, retention_ms=ms, retention_bytes=size)
        assert comes(lambda: (log.topic(topic).retention_ms, log.topic(topic).retention_bytes), (ms, size))
    with pytest.raises(PlanError, match="is 0"):
        log.alter(topic, retention_ms=0, retention_bytes=None)
    with pytest.raises(PlanError, match="no topic"):
        log.alter(f"{topic}-no", retention_ms=1, retention_bytes=None)


@pytest.mark.parametrize("name", ["", "a/b", "..\\x", "new\nline"])
def test_a_name_that_cannot_be_is_refused(log: Log, name: str) -> None:
    with pytest.raises(PlanError, match="cannot be used"):
        log.create(name)


@pytest.mark.parametrize("numbers", [{"partitions": 0}, {"partitions": -1}, {"replication": 7}, {"retention_ms": 0}, {"retention_bytes": -1}])
def test_a_number_that_cannot_be_is_refused(place: Place, log: Log, numbers: dict[str, int]) -> None:
    with pytest.raises(PlanError):
        log.create(place.name("t"), **numbers)
    assert place.name("t") not in {one.name for one in log.topics()}


def test_a_topic_is_made_once(log: Log, topic: str) -> None:
    with pytest.raises(PlanError, match="already"):
        log.create(topic)


def test_an_unknown_topic_is_named_with_a_near_one(log: Log, topic: str) -> None:
    wrong = topic + "x"
    for call in (
        lambda: log.topic(wrong),
        lambda: log.delete(wrong),
        lambda: log.append(wrong, [b"1"]),
        lambda: log.entries(wrong, 0, 0, 1),
        lambda: log.feed([wrong]),
        lambda: log.move("g", {(wrong, 0): 1}),
    ):
        with pytest.raises(PlanError, match=f"no topic '{wrong}'.*did you mean '{topic}'"):
            call()


def test_an_unknown_partition_is_named(log: Log, topic: str) -> None:
    for call in (lambda: log.entries(topic, 5, 0, 1), lambda: log.move("g", {(topic, 5): 1})):
        with pytest.raises(PlanError, match=r"no partition 5.*it has 1, from 0"):
            call()


# Records


def test_what_is_appended_can_be_read(log: Log, topic: str) -> None:
    before = now_ms()
    log.append(topic, [b"a", b"b", b"c"], [b"k", None, b"k"])
    after = now_ms()
    entries = log.entries(topic, 0, 0, 10)
    assert [(one.topic, one.partition, one.offset, one.key, one.value) for one in entries] == [
        (topic, 0, 0, b"k", b"a"),
        (topic, 0, 1, None, b"b"),
        (topic, 0, 2, b"k", b"c"),
    ]
    assert all(before - 50 <= one.arrived_ms <= after + 50 for one in entries)
    assert [one.value for one in log.entries(topic, 0, 1, 1)] == [b"b"]
    assert log.entries(topic, 0, 3, 10) == log.entries(topic, 0, 99, 10) == log.entries(topic, 0, 0, 0) == []
    assert log.topic(topic).partitions[0].end == 3


def test_records_of_a_key_stay_together_and_in_order(place: Place, log: Log) -> None:
    topic = place.name("keys")
    log.create(topic, 4)
    log.append(topic, [b"none"])
    keys = [f"key{number % 20}".encode() for number in range(400)]
    log.append(topic, [b"%d" % number for number in range(400)], keys)
    log.append(topic, [b"none too", b"last"], [None, b"key7"])
    parts = {number: log.entries(topic, number, 0, 1000) for number in range(4)}
    homes: dict[bytes | None, set[int]] = {}
    for number, entries in parts.items():
        for one in entries:
            homes.setdefault(one.key, set()).add(number)
    assert len(homes) == 21
    assert homes[None] == {0}
    assert all(len(home) == 1 for home in homes.values())
    assert sum(map(bool, parts.values())) > 2
    for key in set(keys):
        (home,) = homes[key]
        mine = [int(one.value) for one in parts[home] if one.key == key and one.value != b"last"]
        assert mine == sorted(mine)
        assert len(mine) == 20


ODD = {
    "empty": [b"", b"x", b"", b""],
    "alone and empty": [b""],
    "line ends": [b"a\nb", b"\n", b"c\r\n", b"", b"d"],
    "not UTF-8": [b"\xff\xfe", b"ok", b"\x00\xc3"],
    "5 MB": [b"x" * 5_000_000, b"small"],
}


@pytest.mark.parametrize("records", ODD.values(), ids=ODD)
def test_any_bytes_are_a_record(log: Log, topic: str, records: list[bytes]) -> None:
    log.append(topic, records)
    assert values(log, topic) == records
    with closing(log.feed([topic])) as feed:
        read = fetched(feed, len(records))[topic, 0]
    assert [offset for offset, _ in read] == list(range(len(records)))
    assert [record if isinstance(record, bytes) else record.encode() for _, record in read] == records


def test_many_records_in_one_call(log: Log, topic: str) -> None:
    records = [b'{"n":%d}' % number for number in range(120_000)]
    log.append(topic, records)
    assert log.topic(topic).partitions[0].end == len(records)
    with closing(log.feed([topic], latest=True)) as feed:
        read = fetched(feed, len(records))[topic, 0]
    assert [record.encode() for _, record in read] == records


def test_the_offsets_of_a_time_are_those_of_the_first_records_that_arrived_then(place: Place, log: Log) -> None:
    name = place.name("timed")
    log.create(name, 2)
    for number in range(6):
        log.append(name, [b"%d" % number, b"%d" % -number], [b"%d" % (number % 3), b"x"])
        time.sleep(0.003)
    parts = log.topic(name).partitions
    there = [log.entries(name, part.number, 0, 100) for part in parts]
    times = sorted({entry.arrived_ms for entries in there for entry in entries})
    assert len(times) > 1
    for ms in {0, *times, *(one + 1 for one in times)}:
        expected = [next((entry.offset for entry in there[part.number] if entry.arrived_ms >= ms), part.end) for part in parts]
        assert log.offsets_at(name, ms) == expected
    with pytest.raises(PlanError, match="no topic"):
        log.offsets_at(place.name("none"), 0)


# Feeds


def test_a_feed_begins_at_the_first_record_and_waits_for_more(log: Log, topic: str) -> None:
    log.append(topic, [b"1", b"2"])
    with closing(log.feed([topic])) as feed:
        reader = feed.readers[topic][0]
        assert reader.columns is reader.separator is None
        assert (reader.position["record"], reader.position["size"]) == (0, None)
        assert fetched(feed, 2) == {(topic, 0): [(0, "1"), (1, "2")]}
        assert not feed.fetch()
        assert reader.drained
        assert not reader.finished
        assert reader.position["record"] == 2
        log.append(topic, [b"3"])
        assert fetched(feed, 1) == {(topic, 0): [(2, "3")]}


def test_a_quiet_feed_answers_at_once(log: Log, topic: str) -> None:
    with closing(log.feed([topic])) as feed:
        feed.fetch()
        began = time.monotonic()
        for _ in range(50):
            assert not feed.fetch()
        assert time.monotonic() - began < 60


def test_stamps_say_when_records_arrived(place: Place, log: Log) -> None:
    topic = place.name("stamped")
    log.create(topic, 2)
    before = now_ms()
    for number in range(20):
        log.append(topic, [b"%d" % number], [b"%d" % number])
    entries = {(number, one.offset): one.arrived_ms for number in range(2) for one in log.entries(topic, number, 0, 100)}
    with closing(log.feed([topic])) as feed:
        seen = 0
        while seen < 20:
            feed.fetch()
            for number, reader in enumerate(feed.readers[topic]):
                while not reader.drained:
                    stamps = reader.read().stamps
                    seen += len(stamps.offsets)
                    assert stamps.order.is_sorted()
                    for offset, arrived in zip(stamps.offsets, stamps.arrived_ms, strict=True):
                        assert entries[number, offset] == arrived
                        assert before - 50 <= arrived <= now_ms() + 50


def test_a_feed_goes_on_from_a_position(log: Log, topic: str) -> None:
    log.append(topic, [b"%d" % number for number in range(10)])
    with closing(log.feed([topic])) as feed:
        feed.readers[topic][0].seek({"record": 7, "size": None})
        assert fetched(feed, 3) == {(topic, 0): [(7, "7"), (8, "8"), (9, "9")]}


def test_a_feed_of_what_is_there_now_ends_there(place: Place, log: Log) -> None:
    topic = place.name("ends")
    log.create(topic, 3)
    log.append(topic, [b"1", b"2", b"3"], [b"a", b"b", b"c"])
    with closing(log.feed([topic], latest=True)) as feed:
        log.append(topic, [b"later"] * 30, [b"%d" % number for number in range(30)])
        readers = feed.readers[topic]
        assert [reader.finished for reader in readers] == [info.end == 0 for info in feed_ends(readers)]
        read = fetched(feed, 3)
        assert sorted(record for part in read.values() for _, record in part) == ["1", "2", "3"]
        assert soon(lambda: not feed.fetch() and all(reader.finished for reader in readers))
        assert all(reader.drained for reader in readers)
        assert [reader.position["record"] for reader in readers] == [reader.position["size"] for reader in readers]


def feed_ends(readers: Any) -> list[Any]:
    return [type("End", (), {"end": reader.position["size"]}) for reader in readers]


def test_a_fetch_takes_no_more_than_it_is_to(log: Log, topic: str) -> None:
    log.append(topic, [b"%d" % number for number in range(10)])
    with closing(log.feed([topic])) as feed:
        seen: list[str] = []
        while len(seen) < 10:
            if feed.fetch(4):
                lines = feed.readers[topic][0].read()
                assert len(lines) <= 4
                seen += [str(lines.raw(place)) for place in range(len(lines))]
        assert seen == [str(number) for number in range(10)]


def test_a_feed_of_several_topics(place: Place, log: Log) -> None:
    one, two = place.name("one"), place.name("two")
    log.create(one)
    log.create(two, 2)
    log.append(one, [b"1"])
    log.append(two, [b"2"])
    with closing(log.feed([one, two])) as feed:
        assert [len(feed.readers[name]) for name in (one, two)] == [1, 2]
        assert fetched(feed, 2) == {(one, 0): [(0, "1")], (two, 0): [(0, "2")]}


def test_lag(log: Log, topic: str) -> None:
    log.append(topic, [b"1", b"2", b"3"])
    with closing(log.feed([topic])) as feed:
        assert feed.lag() == {(topic, 0): 3}
        fetched(feed, 3)
        assert feed.lag() == {(topic, 0): 0}
        log.append(topic, [b"4"])
        assert soon(lambda: feed.lag() == {(topic, 0): 1})


def test_a_topic_deleted_while_read_ends_the_feed(log: Log, topic: str) -> None:
    log.append(topic, [b"1"])
    with closing(log.feed([topic])) as feed:
        fetched(feed, 1)
        log.delete(topic)
        with pytest.raises(EnvironmentFault, match="deleted"):
            soon(feed.fetch)


# Cursors


def test_cursors_are_kept_by_name(place: Place, log: Log) -> None:
    topic, group, other = place.name("t"), place.name("readers"), place.name("others")
    log.create(topic, 2)
    log.append(topic, [b"1", b"2", b"3"])
    mine = lambda: [one for one in log.cursors() if one.group in {group, other}]  # noqa: E731
    assert mine() == []
    log.move(group, {(topic, 0): 2, (topic, 1): 0})
    log.move(other, {(topic, 0): 1})
    assert mine() == sorted([Cursor(group, topic, 0, 2, 3), Cursor(group, topic, 1, 0, 0), Cursor(other, topic, 0, 1, 3)], key=lambda one: one.group)
    log.move(group, {(topic, 0): 1})
    assert Cursor(group, topic, 0, 1, 3) in mine()
    log.delete(topic)
    assert soon(lambda: mine() == [])


# Claims and commits


@pytest.fixture
def pipeline(place: Place) -> str:
    return place.name("pipe")


@pytest.fixture
def out(place: Place, log: Log) -> str:
    name = place.name("out")
    log.create(name)
    return name


def test_a_second_owner_is_refused_and_told_of_the_first(place: Place, log: Log, pipeline: str) -> None:
    claim = log.claim(pipeline)
    with closing(place.open()) as second, pytest.raises(EnvironmentFault, match=f"process {os.getpid()} already"):
        second.claim(pipeline)
    log.claim(pipeline + "2").release()
    claim.release()
    log.claim(pipeline).release()


def test_who_has_lost_the_pipeline_cannot_commit(place: Place, log: Log, pipeline: str, topic: str, out: str) -> None:
    first = log.claim(pipeline)
    first.commit(Commit(b"m1", {"a": b"A"}, ["a"], [Outgoing(out, b"1", 1)], {(topic, 0): 1}))
    (place.folder / "pipelines" / f"{pipeline}.lock").unlink()
    with closing(place.open()) as another:
        second = another.claim(pipeline)
        # Kafka does not say who took a transaction from whom: a run asks, and learns it from the committed mark.
        with pytest.raises(EnvironmentFault, match=r"belongs to .* now|another process took the pipeline"):
            first.commit(Commit(b"m2", {}, ["a"], [Outgoing(out, b"lost", 1)], {(topic, 0): 2}))
        assert second.manifest == b"m1"
        second.commit(Commit(b"m3", {}, ["a"], [Outgoing(out, b"2", 1)], {(topic, 0): 3}))
        with pytest.raises(EnvironmentFault, match=r"belongs to .* now|another process took the pipeline"):
            first.commit(Commit(b"m4", {}, ["a"], [Outgoing(out, b"lost", 1)], {(topic, 0): 4}))
        assert comes(lambda: values(another, out), [b"1", b"2"])
        second.release()
        first.release()
        again = another.claim(pipeline)
        assert again.manifest == b"m3"
        assert again.load("a") == b"A"
        again.release()


def test_a_commit_shows_all_at_once(place: Place, log: Log, pipeline: str, topic: str, out: str) -> None:
    log.append(topic, [b"x", b"y"])
    claim = log.claim(pipeline)
    assert claim.manifest is log.manifest(pipeline) is None
    claim.commit(
        Commit(b"one", {"a": b"A", "b": b"\x00" * 100_000}, ["a", "b"], [Outgoing(out, b"1\n2", 2), Outgoing(topic, b"z", 1)], {(topic, 0): 1})
    )
    assert comes(lambda: values(log, out), [b"1", b"2"])
    assert comes(lambda: values(log, topic), [b"x", b"y", b"z"])
    assert comes(lambda: [one.offset for one in log.cursors() if one.group == pipeline], [1])
    assert log.manifest(pipeline) == b"one"
    claim.commit(Commit(b"two", {"c": b""}, ["a", "c"], [], {(topic, 0): 3}))
    assert log.manifest(pipeline) == b"two"
    claim.release()
    with closing(place.open()) as again:
        claim = again.claim(pipeline)
        assert claim.manifest == b"two"
        assert (claim.load("a"), claim.load("c")) == (b"A", b"")
        with pytest.raises(EnvironmentFault):
            claim.load("b")
        claim.release()


def test_output_has_its_keys(place: Place, log: Log, pipeline: str, topic: str) -> None:
    out = place.name("keyed")
    log.create(out, 3)
    claim = log.claim(pipeline)
    keys = [f"k{number % 7}" if number % 8 else None for number in range(56)]
    claim.commit(Commit(b"m", {}, [], [Outgoing(out, b"\n".join(b"%d" % number for number in range(56)), 56, keys)], {(topic, 0): 0}))
    claim.release()
    assert soon(lambda: sum(len(values(log, out, number)) for number in range(3)) == 56)
    found = {int(one.value): (one.key, number) for number in range(3) for one in log.entries(out, number, 0, 100)}
    assert {number: key for number, (key, _) in found.items()} == {number: key and key.encode() for number, key in enumerate(keys)}
    log.append(out, [b"100"], [b"k3"])
    appended = {int(one.value): number for number in range(3) for one in log.entries(out, number, 0, 100)}
    assert appended[100] == found[3][1]
    assert all(number == 0 for key, number in found.values() if key is None)


def test_a_commit_that_fails_leaves_nothing(place: Place, log: Log, pipeline: str, topic: str, out: str) -> None:
    claim = log.claim(pipeline)
    claim.commit(Commit(b"one", {"a": b"A"}, ["a"], [Outgoing(out, b"1", 1)], {(topic, 0): 1}))
    with pytest.raises((PlanError, EnvironmentFault)):
        claim.commit(Commit(b"two", {"b": b"B"}, ["b"], [Outgoing(out, b"2", 1), Outgoing(place.name("none"), b"2", 1)], {(topic, 0): 2}))
    assert comes(lambda: values(log, out), [b"1"])
    claim.commit(Commit(b"three", {"c": b"C"}, ["a", "c"], [Outgoing(out, b"3", 1)], {(topic, 0): 3}))
    claim.release()
    claim = log.claim(pipeline)
    assert claim.manifest == b"three"
    assert (claim.load("a"), claim.load("c")) == (b"A", b"C")
    assert comes(lambda: values(log, out), [b"1", b"3"])
    claim.release()


def test_what_is_forgotten_is_gone(log: Log, pipeline: str, topic: str, out: str) -> None:
    claim = log.claim(pipeline)
    claim.forget()
    claim.commit(Commit(b"one", {"a": b"A"}, ["a"], [Outgoing(out, b"1", 1)], {(topic, 0): 1}))
    claim.release()
    claim = log.claim(pipeline)
    claim.forget()
    assert claim.manifest is None
    assert log.manifest(pipeline) is None
    assert comes(lambda: [one for one in log.cursors() if one.group == pipeline], [])
    claim.commit(Commit(b"anew", {"a": b"B"}, ["a"], [], {(topic, 0): 0}))
    claim.release()
    claim = log.claim(pipeline)
    assert (claim.manifest, claim.load("a")) == (b"anew", b"B")
    assert comes(lambda: values(log, out), [b"1"])
    claim.release()


def damage(place: Place, what: bytes) -> None:
    """Change a byte of what lies on the disk."""
    files = [path for path in place.folder.rglob("*") if path.is_file() and what in path.read_bytes()]
    assert files
    for path in files:
        data = path.read_bytes()
        path.write_bytes(data.replace(what, bytes([what[0] ^ 1]) + what[1:]))


@pytest.mark.parametrize("what", ["manifest", "state"])
def test_damaged_state_is_refused_by_name(place: Place, pipeline: str, what: str) -> None:
    topic = place.name("t")
    with closing(place.open()) as log:
        log.create(topic)
        claim = log.claim(pipeline)
        for _ in range(2):
            claim.commit(Commit(b"the manifest of it", {"a": b"the state of it"}, ["a"], [], {(topic, 0): 1}))
        claim.release()
    damage(place, f"the {what} of it".encode())
    with closing(place.open()) as log:
        claim = log.claim(pipeline)
        with pytest.raises(EnvironmentFault, match=r"damaged.*--anew"):
            assert claim.manifest
            claim.load("a")
        claim.forget()
        assert claim.manifest is None
        claim.commit(Commit(b"new", {"a": b"n"}, ["a"], [], {(topic, 0): 1}))
        claim.release()
        claim = log.claim(pipeline)
        assert (claim.manifest, claim.load("a")) == (b"new", b"n")
        claim.release()


# Pipelines


def plan(mark: str) -> Plan:
    """Return a pipeline like the kiln's, with names of its own."""

    @hr.pipeline(f"kiln-{mark}", version="1")
    def kiln() -> dict[str, hr.Stream]:
        readings = hr.stream(
            f"in-{mark}",
            schema={"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"},
            event_time="TO_TIMESTAMP_LTZ(timestamp, 3)",
            watermark=hr.seconds(10),
        )
        per_sensor = (
            readings.unnest("data", key="sensor", value="raw")
            .derive(value="TRY_CAST(raw AS DOUBLE)")
            .where("value IS NOT NULL")
            .window(hr.tumbling(hr.minutes(1)), by=["equip_id", "sensor"])
            .aggregate(min="MIN(value)", mean="AVG(value)", std_dev="STDDEV_POP(value)")
        )
        return {
            f"out-{mark}": per_sensor.aggregate(by=["equip_id"], data="MAP_AGG(sensor, STRUCT(min, mean, std_dev))").select(
                equip_id="equip_id", start_ms="EPOCH_MS(window_start)", data="data"
            )
        }

    return kiln.plan()


def readings(count: int, seed: int = 1) -> list[bytes]:
    dice = random.Random(seed)
    records = []
    for number in range(count):
        if dice.random() < 0.01:
            records.append(dice.choice([b"{", b"", b"null", b'{"equip_id":1}', b"\xff"]))
            continue
        time = START + number * 200 - int(dice.random() * (30_000 if dice.random() < 0.02 else 5_000))
        data = {f"s{sensor}": dice.choice([round(dice.gauss(10, 3), 3), "x", None, "7.5"]) for sensor in range(3)}
        records.append(json.dumps({"equip_id": f"e{dice.randrange(4)}", "timestamp": time, "data": data}).encode())
    return records


def left(log: Log, mark: str) -> dict[str, list[bytes]]:
    """Return what a pipeline has written, the steps of its clock left out."""
    return {name: values(log, f"{name}-{mark}") if name == "out" else values(log, f"in-{mark}.dead-letter") for name in ("out", "dead")}


def from_files(folder: Path, mark: str, *partitions: list[bytes]) -> tuple[dict[str, list[bytes]], dict[str, Any]]:
    """Return what the pipeline gives on files."""
    folder.mkdir()
    paths = []
    for number, records in enumerate(partitions):
        paths.append(folder / f"{number}.ndjson")
        paths[-1].write_bytes(b"".join(record + b"\n" for record in records))
    ledger = run_files(plan(mark), {f"in-{mark}": paths}, folder / "done")
    out, dead = ((folder / "done" / f"{name}.ndjson").read_bytes().splitlines() for name in (f"out-{mark}", f"in-{mark}.dead-letter"))
    return {"out": out, "dead": dead}, ledger[f"in-{mark}"].counts()


def without_arrival(letters: list[bytes]) -> list[Any]:
    return [{**json.loads(letter), "arrived_ms": None} for letter in letters]


@pytest.mark.parametrize("batch", [None, 300])
def test_a_pipeline_gives_the_bytes_it_gives_on_files(place: Place, log: Log, tmp_path: Path, batch: int | None) -> None:
    mark, records = place.mark, [record for record in readings(3_000) if record]
    log.create(f"in-{mark}")
    log.append(f"in-{mark}", records)
    ledger = run_live(Live(plan(mark), log, latest=True, batch_records=batch), commit_seconds=0)
    expected, counts = from_files(tmp_path / "files", mark, records)
    assert comes(lambda: left(log, mark)["out"], expected["out"])
    found = left(log, mark)
    assert len(found["out"]) > 20
    assert without_arrival(found["dead"]) == without_arrival(expected["dead"])
    assert ledger[f"in-{mark}"].counts() == counts


def test_a_pipeline_on_several_partitions_has_the_same_ledger_and_rows(place: Place, log: Log, tmp_path: Path) -> None:
    mark, records = place.mark, [record for record in readings(3_000, 2) if record]
    log.create(f"in-{mark}", 3)
    log.append(f"in-{mark}", records, [b"%d" % (number % 11) for number in range(len(records))])
    ledger = run_live(Live(plan(mark), log, latest=True, batch_records=200), commit_seconds=0)
    parts = [values(log, f"in-{mark}", number) for number in range(3)]
    assert all(parts)
    expected, counts = from_files(tmp_path / "files", mark, *parts)
    assert ledger[f"in-{mark}"].counts() == counts
    assert comes(lambda: left(log, mark)["out"], expected["out"])
    dead = [values(log, f"in-{mark}.dead-letter", number) for number in range(3)]
    assert all(dead)
    assert without_arrival([letter for letters in dead for letter in letters]) == without_arrival(expected["dead"])


def test_a_pipeline_goes_on_where_it_was_stopped(place: Place, log: Log, tmp_path: Path) -> None:
    mark, records = place.mark, [record for record in readings(2_000, 3) if record]
    log.create(f"in-{mark}")
    for start in range(0, len(records), 500):
        log.append(f"in-{mark}", records[start : start + 500])
        with closing(place.open()) as again:
            live = Live(plan(mark), again, patience=hr_patience())
            run_live(live, stop=lambda live=live, start=start: live.received >= min(start + 500, len(records)))
    ledger = run_live(Live(plan(mark), log, latest=True))
    expected, counts = from_files(tmp_path / "files", mark, records)
    assert comes(lambda: left(log, mark)["out"], expected["out"])
    assert ledger[f"in-{mark}"].counts() == counts


def hr_patience() -> Any:
    from headrace.engines.embedded.live import NO_CLOCK

    return NO_CLOCK


def child(place: Place, kill_at: str) -> None:
    """Run the pipeline, and be killed at a step of a commit."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with (place.folder / "said").open("wb") as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
    failpoints.arm(kill_at)
    run_live(Live(plan(place.mark), place.open(), latest=True, batch_records=250), commit_seconds=0)


def run_child(place: Place, kill_at: str = "") -> int | None:
    """Run it in a process forked from the one of `headrace prove`, which has imported what it needs."""
    process = _FORKING.Process(target=child, args=(place, kill_at))
    process.start()
    process.join(180)
    process.kill()
    assert process.exitcode in {0, -signal.SIGKILL}, (place.folder / "said").read_text()
    return process.exitcode


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_in_a_commit_loses_nothing_and_repeats_nothing(place: Place, log: Log, tmp_path: Path, point: str) -> None:
    mark, records = place.mark, [record for record in readings(2_000, 4) if record]
    log.create(f"in-{mark}")
    log.append(f"in-{mark}", records)
    assert run_child(place, f"{point}:1") == -signal.SIGKILL
    assert run_child(place, f"{point}:3") == -signal.SIGKILL
    assert run_child(place) == 0
    expected, counts = from_files(tmp_path / "files", mark, records)
    assert comes(lambda: left(log, mark)["out"], expected["out"])
    found = left(log, mark)
    assert without_arrival(found["dead"]) == without_arrival(expected["dead"])
    manifest = log.manifest(f"kiln-{mark}")
    assert manifest is not None
    assert json.loads(manifest)["ledger"][f"in-{mark}"] == counts


# What the SQLite log promises of its own: Kafka's brokers see to theirs


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@contextmanager
def sqlite(tmp_path: Path, topic: Mapping[str, Any]) -> Iterator[tuple[SqliteLog, Clock]]:
    clock = Clock()
    with closing(SqliteLog(tmp_path / "log.db", clock)) as log:
        log.create("t", **topic)
        yield log, clock


def test_records_are_dropped_by_age(tmp_path: Path) -> None:
    with sqlite(tmp_path, {"retention_ms": MINUTE}) as (log, clock):
        for number in range(10):
            log.append("t", [b"%d" % number])
            clock.now += 20 * SECOND
        assert log.topic("t").partitions[0].first > 4
        assert values(log, "t")[-1] == b"9"
        assert log.entries("t", 0, 0, 1)[0].offset == log.topic("t").partitions[0].first
        kept = log.topic("t").partitions[0].first
        with pytest.raises(EnvironmentFault, match=f"kept no records before {kept}; 1 was to be read next"):
            feed = log.feed(["t"])
            feed.readers["t"][0].seek({"record": 1, "size": None})
            feed.fetch()


def test_records_are_dropped_by_size(tmp_path: Path) -> None:
    with sqlite(tmp_path, {"retention_bytes": 5_000}) as (log, clock):
        for number in range(20):
            log.append("t", [b"%d" % number * 500])
            clock.now += 20 * SECOND
        info = log.topic("t").partitions[0]
        assert info.end == 20
        assert info.size is not None
        assert 1_000 < info.size <= 6_000
        log.append("t", [b"x" * 10_000])
        clock.now += 20 * SECOND
        log.append("t", [b"last"])
        assert values(log, "t")[-1] == b"last"


def test_a_reader_that_never_reads_holds_up_neither_writers_nor_the_room(tmp_path: Path) -> None:
    with sqlite(tmp_path, {"retention_bytes": 100_000}) as (log, clock):
        log.move("asleep", {("t", 0): 0})
        with closing(log.feed(["t"])) as feed:
            for _ in range(1_000):
                log.append("t", [b"x" * 5_000])
                clock.now += 20 * SECOND
            size = log.topic("t").partitions[0].size
            assert size is not None
            assert size < 120_000
            assert (tmp_path / "log.db").stat().st_size + (tmp_path / "log.db-wal").stat().st_size < 20_000_000
            assert log.cursors() == [Cursor("asleep", "t", 0, 0, 1_000)]
            with pytest.raises(EnvironmentFault, match=r"has kept no records before \d+; 0 was to be read next"):
                feed.fetch()


def test_a_clock_set_back_does_not_turn_arrivals_around(tmp_path: Path) -> None:
    with sqlite(tmp_path, {"retention_ms": 10 * MINUTE}) as (log, clock):
        log.append("t", [b"1"])
        clock.now -= 5 * MINUTE
        log.append("t", [b"2"])
        clock.now += 6 * MINUTE
        log.append("t", [b"3"])
        assert [one.arrived_ms - START for one in log.entries("t", 0, 0, 9)] == [0, 0, MINUTE]
        with closing(log.feed(["t"])) as feed:
            feed.fetch()
            stamps = feed.readers["t"][0].read().stamps
            assert stamps is not None
            assert stamps.arrived_ms.is_sorted()
            assert stamps.order.is_sorted()


# Keys of records that pass


@pytest.mark.parametrize("most", [None, 2])
def test_records_without_windows_keep_the_keys_that_they_came_with(place: Place, log: Log, topic: str, most: int | None) -> None:
    @hr.pipeline(place.name("passes"), version="1")
    def passes() -> dict[str, hr.Stream]:
        events = hr.stream(topic, schema={"t": "BIGINT", "v": "ARRAY<BIGINT>"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
        return {f"out-{topic}": events.where(f"t > {START}").unnest("v", value="one").select("one")}

    sent = [
        (b"a", START + 1, "[1,2]"), (None, START + 2, "[3]"), (b"dropped", START, "[4]"), (b"bad", 7, "[5]"), (b"", START + 3, "[6]"),
        (b"\xff\x00", START + 4, "[7,8]"), (b"none", START + 5, "[]"), (b"z", START + 6, "[9]"),
    ]  # fmt: skip
    log.append(topic, [b'{"t":%d,"v":%s}' % (time_ms, each.encode()) for _, time_ms, each in sent], [key for key, _, _ in sent])
    ledger = run_live(Live(passes.plan(), log, latest=True, batch_records=most))
    assert {name: count for name, count in ledger[topic].counts().items() if count} == {"received": 8, "malformed": 1, "filtered": 2, "accepted": 5}
    want = [(b"a", 1), (b"a", 2), (None, 3), (b"", 6), (b"\xff\x00", 7), (b"\xff\x00", 8), (b"z", 9)]
    assert soon(lambda: [(one.key, json.loads(one.value)["one"]) for one in log.entries(f"out-{topic}", 0, 0, 99)] == want)


def test_late_records_keep_their_keys_too(place: Place, log: Log) -> None:
    topic = place.name("late")
    log.create(topic, 2)

    @hr.pipeline(place.name("lateness"), version="1")
    def late() -> dict[str, hr.Stream]:
        events = hr.stream(topic, schema={"t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
        windows = events.window(hr.tumbling(hr.seconds(1)), by=["t"]).late_to(f"aside-{topic}")
        return {f"out-{topic}": windows.aggregate(n="COUNT(*)")}

    times = [START + 9_000, START, START + 1, START + 9_001, START + 2, START + 3]
    keys: list[bytes | None] = [None, None, None, b"a", b"a", b"a"]
    log.append(topic, [b'{"t":%d}' % time_ms for time_ms in times], keys)
    run_live(Live(late.plan(), log, latest=True))
    found = [(one.key, json.loads(one.value)["t"]) for one in log.entries(f"aside-{topic}", 0, 0, 99)]
    assert sorted(found, key=str) == sorted([(keys[at], times[at]) for at in (1, 2, 4, 5)], key=str)


# Metadata of records


def with_metadata(place: Place, topic: str) -> Plan:
    known = {"device": "key", "headers": "headers", "part": "partition", "at": "offset", "received": "arrival_time"}

    @hr.pipeline(place.name("metadata"), version="1")
    def metadata() -> dict[str, hr.Stream]:
        events = hr.stream(topic, schema={"v": "BIGINT NOT NULL"}, metadata=known, event_time="received")
        counts = events.window(hr.tumbling(hr.hours(876_000)), by=["device", "part"]).aggregate(n="COUNT(*)", last="MAX(at)")
        return {f"out-{topic}": events, f"counts-{topic}": counts.select("device", "part", "n", "last")}

    return metadata.plan()


def test_what_a_log_knows_of_a_record_is_read_as_columns(place: Place, log: Log) -> None:
    topic = place.name("known")
    log.create(topic, 2)
    keys: list[bytes | None] = [b"a", None, b"b", b"\xff\x00", b"", "é".encode(), b"c", b"d"]
    values = [b'{"v":%d}' % number for number in range(7)] + [b"{}"]
    log.append(topic, values, keys)
    run_live(Live(with_metadata(place, topic), log, latest=True))
    there = [entry for part in (0, 1) for entry in log.entries(topic, part, 0, 99) if entry.value != b"{}"]
    names = {None: None, b"a": "a", b"b": "b", b"\xff\x00": None, b"": "", "é".encode(): "é", b"c": "c"}
    want = [
        {
            "v": json.loads(one.value)["v"], "device": names[one.key], "headers": None if place.servers is None else {},
            "part": one.partition, "at": one.offset, "received": one.arrived_ms,
        }
        for one in there
    ]  # fmt: skip

    def found() -> list[dict[str, Any]]:
        rows = [json.loads(entry.value) for entry in log.entries(f"out-{topic}", 0, 0, 99)]
        return sorted(({**row, "received": _ms(row["received"])} for row in rows), key=lambda row: (row["part"], row["at"]))

    assert comes(found, want)
    counts = [json.loads(entry.value) for entry in log.entries(f"counts-{topic}", 0, 0, 99)]
    assert sum(row["n"] for row in counts) == 7
    assert {row["device"] for row in counts} == set(names.values())


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_metadata_is_the_same_whatever_the_batches_and_restarts(place: Place, log: Log) -> None:
    topic = place.name("same")
    log.create(topic, 2)
    for number in range(0, 60, 6):
        some = range(number, number + 6)
        log.append(topic, [b'{"v":%d}' % one if one % 7 else b"{}" for one in some], [None if one % 5 == 0 else b"k%d" % (one % 3) for one in some])
    plan = with_metadata(place, topic)
    run_live(Live(plan, log, latest=True))
    outputs = [f"{name}-{topic}" for name in ("out", "counts")]

    def found() -> list[list[tuple[bytes | None, bytes]]]:
        rows = [[(one.key, one.value) for one in log.entries(name, 0, 0, 999)] for name in outputs]
        # Between Kafka's partitions there is no order.
        return rows if place.servers is None else [sorted(some, key=str) for some in rows]

    assert soon(lambda: len(found()[0]) == 51)
    once = found()
    for name in outputs:
        log.delete(name)
    run_live(Live(plan, log, anew=True, batch_records=7), Limits(records=11))
    for _ in range(4):
        run_live(Live(plan, log, latest=True, batch_records=5), Limits(records=9))
    run_live(Live(plan, log, latest=True))
    assert comes(found, once)
