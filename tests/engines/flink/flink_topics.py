"""A pipeline's topics on the broker that tests share, under a prefix of their own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import waiting
from flink import BUILD
from headrace.cli import main
from headrace.engines.flink.client import pyflink
from headrace.engines.flink.places import Kafka
from headrace.engines.flink.rest import Rest
from headrace.plan.pipeline import Plan
from headrace.topics.kafka import KafkaLog

LIMIT = 600.0


class Topics:
    """The topics of a plan. The first that it reads has so many partitions, the first that it writes two, the others one."""

    def __init__(self, servers: str, folder: Path, plan: Plan, partitions: int) -> None:
        self.prefix = f"t{uuid.uuid4().hex[:8]}."
        self.servers, self.partitions, self._pipeline = servers, partitions, plan.pipeline
        self.sources = {source.topic: 1 if number else partitions for number, source in enumerate(plan.sources)}
        self.source = plan.sources[0].topic
        self.log = KafkaLog(servers, folder)
        self._read: dict[tuple[str, int], tuple[list[bytes], int | None]] = {}
        dead = [f"{source}.dead-letter" for source in self.sources]
        made = self.sources | {topic: 2 if topic == plan.topics[0] else 1 for topic in (*plan.topics, *dead, f"{plan.pipeline}.ledger")}
        for topic, count in made.items():
            self.log.create(f"{self.prefix}{topic}", partitions=count)

    def values(self, topic: str, partition: int) -> list[bytes]:
        """Return the records of a partition; those that have been read before are not read again."""
        found, at = self._read.get((topic, partition), ([], None))
        if at is None:
            at = self.log.topic(self.prefix + topic).partitions[partition].first
        while entries := self.log.entries(self.prefix + topic, partition, at, 1000):
            found += [entry.value for entry in entries]
            at = entries[-1].offset + 1
        self._read[topic, partition] = found, at
        return list(found)

    def rows(self, topic: str) -> list[Any]:
        count = len(self.log.topic(self.prefix + topic).partitions)
        return [json.loads(value) for partition in range(count) for value in self.values(topic, partition)]

    def all_counted(self) -> bool:
        """Return whether the ledger has every record of the sources."""
        there = sum(len(self.values(source, partition)) for source, count in self.sources.items() for partition in range(count))
        return sum(entry.get("received") or 0 for entry in self.rows(f"{self._pipeline}.ledger")) == there

    def places(self, **more: Any) -> Kafka:
        given: Mapping[str, Any] = {"max_ahead_ms": None, "prefix": self.prefix, "checkpoint_seconds": 1, **more}
        return Kafka(self.servers, self._pipeline, self.sources, **given)


def jobs_command(rest: Rest, topics: Topics, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs `headrace jobs` of a cluster on the plan's topics, and returns what it prints."""
    surroundings = {
        "HEADRACE_HOME": str(home),
        "HEADRACE_ENGINES": str(BUILD / "engines"),
        "HEADRACE_FLINK_PYTHON": str(pyflink(BUILD)),
        "HEADRACE_TOPIC_PREFIX": topics.prefix,
        "KAFKA_SERVERS": topics.servers,
        "FLINK_REST_URL": rest.url,
    }
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        assert main(["jobs", *arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out.strip()

    return run


wait_for = partial(waiting.wait_for, seconds=LIMIT, every=0.5)


def workers(folder: Path) -> list[int]:
    """Return the Python workers of a cluster whose files are below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"beam_boot" in (entry / "cmdline").read_bytes() and str(folder).encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found
