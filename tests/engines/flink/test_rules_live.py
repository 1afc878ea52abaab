"""The kiln's rules live on Flink give what the embedded engine gives: limits that change while it runs, silence, outliers."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from broker import Shared
from conformance.engine import Outcome, differences, left
from flink import client
from headrace.apps.rules import rules
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.entries import added_up
from headrace.engines.flink.rest import Rest
from headrace.engines.flink.run import run_topics, savepoint, submit, wait
from headrace.engines.flink.script import flink_script
from headrace.simulate.kiln import Kiln

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

import flink_topics  # noqa: E402
from flink_topics import LIMIT, jobs_command, wait_for  # noqa: E402

PLAN = rules.plan()
START = 1_706_123_400_000
KILN = Kiln(seed=5, disorder_ms=15_000, bad_share=0.01, number_share=0.2)
NOT_ONE = b'{"equip_id": "111", "timestamp": '


def parts(count: int, ticks: int) -> list[tuple[list[bytes], list[bytes]]]:
    """Return limits and the readings of their times, in so many parts. One equipment is silent for a while in each, and one limit is broken."""
    readings = list(islice(KILN.line_batches(START), count * ticks))
    limits = list(islice(KILN.limits(START, 10_000), count * ticks // 10))
    limits[3] = NOT_ONE
    found = []
    for part in range(count):
        lines = [
            line
            for number, batch in enumerate(readings[part * ticks : (part + 1) * ticks])
            for place, line in enumerate(batch)
            if place != part % 5 or not 20 < number < 70
        ]
        found.append((limits[part * ticks // 10 : (part + 1) * ticks // 10], lines))
    return found


class Topics(flink_topics.Topics):
    """The topics of the rules."""

    def send(self, limits: Sequence[bytes], readings: Sequence[bytes]) -> None:
        self.log.append(f"{self.prefix}kiln-limits", limits)
        self.log.append(f"{self.prefix}sensor-data", readings, [str(number % 7).encode() for number in range(len(readings))])

    def outcome(self) -> Outcome:
        written = {topic: [_plain(row) for row in self.rows(topic)] for topic in PLAN.topics}
        return Outcome(written, {source: [_plain(row) for row in self.rows(f"{source}.dead-letter")] for source in self.sources}, self.ledger())

    def ledger(self) -> dict[str, Any]:
        return dict(added_up(PLAN, self.rows("rules.ledger")))

    def expected(self, folder: Path) -> Outcome:
        """Return what the embedded engine makes of the same partitions."""
        paths: dict[str, list[Path]] = defaultdict(list)
        for source, count in self.sources.items():
            for number in range(count):
                paths[source].append(folder / f"{source}.{number}.ndjson")
                paths[source][-1].write_bytes(b"".join(value + b"\n" for value in self.values(source, number)))
        (folder / "expected").mkdir()
        run_embedded(PLAN, paths, folder / "expected")
        return left(folder / "expected", self.sources)

    def check(self, folder: Path) -> None:
        """See that what was written is what the embedded engine makes of the same partitions, and in the order of each key."""
        expected = self.expected(folder)
        assert not (found := differences(self.outcome(), expected)), "\n".join(found[:5])
        assert {row["event"] for row in expected.written["kiln-events"]} == {"critical", "cleared", "no data", "data again"}
        assert len({(row["low"], row["high"]) for row in expected.written["kiln-events"]}) > 4
        assert all(expected.written.values())
        assert len(expected.dead["kiln-limits"]) == 1
        for partition in range(2):
            times: dict[tuple[str, str], list[str]] = defaultdict(list)
            for row in map(json.loads, self.values("kiln-events", partition)):
                times[row["equip_id"], row["sensor"]].append(row["time"])
            assert times
            assert all(one == sorted(one) for one in times.values())


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"arrived_ms": None} if "arrived_ms" in row else row


@pytest.fixture
def topics(kafka: Shared, tmp_path: Path) -> Iterator[Topics]:
    made = Topics(kafka.servers, tmp_path / "home", PLAN, 2)
    with closing(made.log):
        yield made


@pytest.mark.long  # a process is stopped so in test_process.py, and rules are killed in test_cluster_faults.py
def test_stopped_with_a_savepoint_they_go_on_where_they_were(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    places = topics.places(idle_after_ms=None)
    sent = parts(2, 100)
    for limits, readings in sent:
        topics.send(limits, readings)
        seen = len(topics.rows("kiln-events"))
        run_topics(
            PLAN, places, flink, tmp_path / "kept", client=client(), stop=lambda seen=seen: len(topics.rows("kiln-events")) > seen, seconds=LIMIT
        )
    run_topics(PLAN, places, flink, tmp_path / "kept", client=client(), stop=topics.all_counted, drain=True, seconds=LIMIT)
    topics.check(tmp_path)


def test_a_topic_of_limits_holds_back_no_longer_than_until_it_is_idle(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    """It is empty at first. Then there is one limit, which counts for what comes behind it, and it falls silent again."""
    (_, first), (_, second) = parts(2, 100)
    limit = {"equip_id": "110", "timestamp": START + 101_000, "low": 45.5, "high": 54.5}

    def changed() -> list[Any]:
        return [row for row in topics.rows("kiln-events") if row["low"] == limit["low"]]

    job = submit(flink, flink_script(PLAN, topics.places(idle_after_ms=2000, parallelism=2)), client=client())
    try:
        topics.send([], first)
        wait_for(lambda: topics.rows("kiln-events"))
        topics.send([json.dumps(limit).encode()], [])
        wait_for(lambda: topics.ledger()["kiln-limits"]["received"] == 1)  # a commit behind it: it is where rules wait for their time
        topics.send([], second)
        wait_for(topics.all_counted)  # a drain reads no further
        wait_for(changed)
    finally:
        savepoint(flink, job, f"file://{tmp_path}/savepoints", stop=True, drain=True, seconds=LIMIT)
    wait(flink, job)
    # How far time had passed when a partition was found idle differs from run to run. What counts when does not.
    told = [row for row in topics.rows("kiln-events") if row["value"] is not None]
    counts_from = datetime.fromtimestamp(limit["timestamp"] / 1000, UTC)
    for row in told:
        is_new = row["equip_id"] == "110" and datetime.fromisoformat(row["time"]) >= counts_from
        assert (row["low"], row["high"]) == ((45.5, 54.5) if is_new else (10.0, 90.0))
    assert len({row["equip_id"] for row in told}) == 5


def test_they_are_a_job_of_a_cluster(
    flink: Rest, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = jobs_command(flink, topics, tmp_path / "home", monkeypatch, capsys)

    def submitted(*more: str) -> str:
        return run("submit", "rules", "--engine", "flink", "--max-ahead", "never", "--idle-after", "never", "--commit-every", "1s", *more)

    sent = parts(2, 100)
    topics.send(*sent[0])
    job = submitted()
    wait_for(lambda: topics.rows("kiln-events"))
    assert re.search(rf"^{job} +rules 1 +flink +RUNNING ", run("list"), re.MULTILINE)
    assert "state      RUNNING" in run("status", job[:12])
    assert "flink_task_write_records" in run("metrics", job)
    assert run("logs", job) == ""
    made = run("savepoint", job)
    where = run("savepoint", job, "--stop", "--to", f"file://{tmp_path}/savepoints")
    assert where.startswith(f"file:{tmp_path}/savepoints/")
    assert made != where
    wait_for(lambda: flink.state(job) == "FINISHED")
    before = len(topics.rows("kiln-events"))
    topics.send(*sent[1])
    again = submitted("--from-savepoint", where)
    wait_for(lambda: len(topics.rows("kiln-events")) > before)
    assert run("cancel", again, "--timeout", "60s") == f"{again}: CANCELED"
    got, expected = (Counter(map(_text, rows)) for rows in (topics.rows("kiln-events"), topics.expected(tmp_path).written["kiln-events"]))
    assert got <= expected, f"repeated or never given: {got - expected}"


def _text(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)
