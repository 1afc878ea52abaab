"""The fingerprint system step by step, on a real broker and beside Kafka's own tools: topics, generator, job, saver, clean reset."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import waiting
from broker import Broker, missing
from calling import called

HEADRACE = str(Path(sys.executable).with_name("headrace"))
LIMIT = 400.0
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    if (why := missing()) is not None:
        pytest.skip(why)
    made = Broker(tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.end()


@pytest.fixture
def headrace(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    monkeypatch.setenv("KAFKA_SERVERS", broker.servers)

    def run(*arguments: str) -> str:
        done = called(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    return run


wait_for = partial(waiting.wait_for, seconds=LIMIT, every=0.2)


def test_the_seeds_walk_through(  # noqa: PLR0915  (it is a walk)
    broker: Broker, headrace: Callable[..., str], tmp_path: Path
) -> None:
    def consumed(topic: str, most: int) -> list[Any]:
        where = ["--bootstrap-server", broker.servers, "--topic", topic, "--from-beginning", "--max-messages", str(most)]
        said = broker.run_tool(CONSUMER, *where, "--timeout-ms", "20000", "--isolation-level", "read_committed")
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def fingerprints() -> list[Any]:
        return [json.loads(line)["fingerprint"] for line in headrace("topics", "tail", "fingerprint-output", "--from-beginning").splitlines()]

    # Topics
    assert headrace("topics", "create", "sensor-data", "--partitions", "1", "--replication", "1") == "Created topic sensor-data.\n"
    headrace("topics", "create", "fingerprint-output", "--partitions", "1", "--replication", "1")
    assert [line.split()[0] for line in headrace("topics", "list").splitlines()[1:]] == ["fingerprint-output", "sensor-data"]
    assert {"fingerprint-output", "sensor-data"} <= set(
        broker.run_tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", broker.servers, "--list").split()
    )

    # Generator
    generator = subprocess.Popen(
        [HEADRACE, "simulate", "kiln", "--to", "kafka:sensor-data", "--history", "3m", "--seed", "5"], stdout=subprocess.PIPE, text=True
    )
    assert generator.stdout is not None
    lines = [generator.stdout.readline() for _ in range(8)]
    assert f"Bootstrap servers: {broker.servers}\n" in lines
    assert "Topic: sensor-data\n" in lines
    assert "Batch #1: Sent 5 messages (equip_ids: 110-114)" in "".join(lines)
    try:
        # Job, detached
        job = headrace("jobs", "submit", "fingerprint", "-p", "2").strip()
        assert "RUNNING" in headrace("jobs", "list", "--running")
        wait_for(lambda: len(fingerprints()) >= 10)

        # Input and output, as Kafka's own consumer sees them
        (message,) = consumed("sensor-data", 1)
        assert message.keys() == {"equip_id", "timestamp", "data"}
        prints = [one["fingerprint"] for one in consumed("fingerprint-output", 10)]
        assert {one["equip_id"] for one in prints} == {"110", "111", "112", "113", "114"}
        assert all(one["start_ms"] % 60_000 == 0 and one["end_ms"] == one["start_ms"] + 60_000 for one in prints)

        # Saver
        saved = headrace("run", "fingerprint:saver", "--output", "output", "--until", "latest")
        files = sorted((tmp_path / "output").glob("*.json"))
        assert len(files) == saved.count("Saved ") >= 10
        first = json.loads(files[0].read_bytes())
        print_, data = first["fingerprint"], first["sensor_data"]
        assert files[0].name == f"{print_['uuid']}_{print_['start_ms']}_{print_['end_ms']}.json"
        assert data["equip_id"] == print_["equip_id"]
        assert data["reading_count"] == len(data["readings"]) > 0
        values = [float(value) for one in data["readings"] if (value := one["data"]["0001"]) != "null"]
        assert (min(values), max(values)) == (print_["data"]["0001"]["min"], print_["data"]["0001"]["max"])

        # Looking on
        assert "sensor-data" in headrace("topics", "describe", "sensor-data")
        assert "fingerprint" in headrace("topics", "groups")
        groups = broker.run_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", broker.servers, "--list")
        assert "fingerprint" in groups.split()
        assert "started" in headrace("jobs", "logs", job)
        assert "headrace_ledger_records" in wait_for(lambda: headrace("jobs", "metrics", job))
        assert "RUNNING" in headrace("jobs", "status", job)

        # Cancel, and start again: nothing twice, nothing lost
        headrace("jobs", "cancel", job)
        assert "CANCELED" in headrace("jobs", "list", "--all")
        assert headrace("jobs", "list", "--running").count("RUNNING") == 0
        headrace("run", "fingerprint", "--duration", "2s", "--drain")
        names = [one["uuid"] for one in fingerprints()]
        assert len(names) == len(set(names)) > 10
    finally:
        generator.terminate()
        generator.communicate(timeout=LIMIT)
    assert "accepted" in headrace("ledger", "fingerprint")

    # Clean reset
    for topic in [line.split()[0] for line in headrace("topics", "list").splitlines()[1:]]:
        headrace("topics", "delete", topic)
    shutil.rmtree(tmp_path / ".headrace")
    assert [line for line in headrace("topics", "list").splitlines()[1:] if line] == []
    assert not Path(".headrace/log.db").exists()
