"""Processes that take their records as they come, on a real Flink: the order of a partition is kept, and no record is late."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import flink_processes
import pytest
from test_process import START, both, messy, write

from broker import Shared
from conformance.engine import differences
from flink import client
from headrace.engines.flink.rest import Rest
from headrace.engines.flink.run import savepoint, submit, wait
from headrace.engines.flink.script import flink_script

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

import flink_topics  # noqa: E402
from flink_topics import LIMIT, wait_for  # noqa: E402

NUMBERING = flink_processes.numbering.plan()


def test_of_one_partition_all_is_as_on_the_embedded_engine(flink: Rest, tmp_path: Path) -> None:
    """Timers and times to live too: where there is one partition, the watermark stands in a certain place among its records."""
    inputs = {"readings": [write(tmp_path / "in.ndjson", messy(5, 400))]}
    got, expected = both(flink_processes.arriving.plan(), inputs, tmp_path, flink, 1)
    assert not (found := differences(got, expected)), "\n".join(found[:5])
    assert (got.ledger["readings"]["late"], got.ledger["readings"]["accepted"]) == (0, len(got.written["arrived"]))
    assert {row["name"] for row in got.written["silent"]} == {"silent", "past"}
    assert any(row["lately"] for row in got.written["arrived"])
    assert {row["id"] for row in got.written["arrived"]} == {"a", "b", None, "cü"}
    by_key: dict[str | None, list[int]] = defaultdict(list)
    for row in got.written["arrived"]:
        by_key[row["id"]].append(row["t"])
    assert any(times != sorted(times) for times in by_key.values())


class Topics(flink_topics.Topics):
    """The topics of numbers and limits."""

    def send(self, first: int, count: int) -> None:
        """Send each of seven keys numbers, at times that go to and fro."""
        numbers = [
            {"key": f"k{key}", "t": START + number % 3 * 60_000, "number": number} for number in range(first, first + count) for key in range(7)
        ]
        self.log.append(f"{self.prefix}numbers", [json.dumps(one).encode() for one in numbers], [one["key"].encode() for one in numbers])

    def tell(self, limits: Sequence[Any]) -> None:
        self.log.append(f"{self.prefix}limits", [json.dumps({"t": START, "limit": one}).encode() for one in limits])


@pytest.fixture
def topics(kafka: Shared, tmp_path: Path) -> Iterator[Topics]:
    made = Topics(kafka.servers, tmp_path / "home", NUMBERING, 2)
    with closing(made.log):
        yield made


def test_a_live_run_hands_on_each_record_in_the_order_of_its_partition(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    """What is told counts for all that comes behind it. Nothing waits for the topic of limits, which is empty at first and falls silent then."""
    script, first = flink_script(NUMBERING, topics.places(idle_after_ms=None, parallelism=2)), 40

    def stopped(job: str) -> str:
        where = savepoint(flink, job, f"file://{tmp_path}/savepoints", stop=True, seconds=LIMIT)
        wait(flink, job)
        return where

    topics.send(0, first)
    job = submit(flink, script, client=client())
    wait_for(lambda: len(topics.rows("numbered")) == 7 * first)
    topics.tell([5, 7, None])
    wait_for(lambda: topics.rows("refused"))  # a commit behind them: all tasks have been told
    where = stopped(job)
    topics.send(first, 40)
    job = submit(flink, script, client=client(), savepoint=where)
    wait_for(lambda: len(topics.rows("numbered")) >= 560)
    stopped(job)
    rows = topics.rows("numbered")
    assert len(rows) == 560
    for partition in range(2):
        by_key: dict[str, list[tuple[int, int, int | None]]] = defaultdict(list)
        for row in map(json.loads, topics.values("numbered", partition)):
            by_key[row["key"]].append((row["n"], row["number"], row["limit"]))
        assert by_key
        assert all(one == [(number + 1, number, None if number < first else 7) for number in range(80)] for one in by_key.values())
    (refused,) = topics.rows("refused")
    assert (refused["topic"], refused["reason"]) == ("limits", "failed")
