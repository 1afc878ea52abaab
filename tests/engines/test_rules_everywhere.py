"""The kiln's rules give the same records on every engine, from files and from Kafka."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import broker
import flink as on_flink
import spark as on_spark
from headrace.cli import main
from headrace.engines.flink.client import pyflink
from headrace.engines.flink.rest import Rest
from headrace.simulate.kiln import Kiln

START = 1_706_123_400_000
TOPICS = ("kiln-events", "kiln-outliers", "kiln-limits.refused")
KILN = Kiln(seed=5, disorder_ms=15_000, bad_share=0.01, number_share=0.2)
SENSORS, LIMITS = list(islice(KILN.lines(START), 3_000)), list(islice(KILN.limits(START), 12))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_ENGINES", str(on_flink.BUILD / "engines"))
    return tmp_path


@pytest.fixture(params=["flink", "spark"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options that choose an engine."""
    if request.param == "spark":
        if (why := on_spark.missing_for_processes()) is not None:
            pytest.skip(why)
        request.getfixturevalue("warm_processes")
        return ["--engine", "spark"]
    rest: Rest = request.getfixturevalue("flink")
    monkeypatch.setenv("HEADRACE_FLINK_PYTHON", str(pyflink(on_flink.BUILD)))
    return ["--engine", "flink", "--cluster", rest.url]


def test_files_give_the_same_records(engine: list[str], folder: Path) -> None:
    parts = {"a": SENSORS[::2], "b": SENSORS[1::2], "limits": LIMITS}
    for name, lines in parts.items():
        (folder / f"{name}.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    inputs = ["--input", "sensor-data=a.ndjson", "--input", "sensor-data=b.ndjson", "--input", "kiln-limits=limits.ndjson"]
    assert main(["run", "rules", *inputs, "--output", "expected"]) == 0
    assert main(["run", "rules", *engine, *inputs, "--output", "out"]) == 0
    for topic in TOPICS:
        expected = sorted((folder / "expected" / f"{topic}.ndjson").read_text().splitlines())
        assert len(expected) >= 1
        assert _read(sorted((folder / "out" / f"{topic}.ndjson").read_text().splitlines())) == _read(expected)
    ledgers = [json.loads((folder / one / "ledger.json").read_bytes())["sources"] for one in ("out", "expected")]
    assert ledgers[0] == ledgers[1]
    assert ledgers[1]["sensor-data"]["late"]


def _read(lines: list[str]) -> list[Any]:
    return sorted((json.loads(line) for line in lines), key=lambda row: json.dumps(row, sort_keys=True))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a broker of these tests' own, with the input on it: Spark takes no prefix of topics' names."""
    if (why := broker.missing()) is not None:
        pytest.skip(why)
    from headrace.topics.kafka import KafkaLog

    home = tmp_path_factory.mktemp("broker")
    one = broker.Broker(home)
    one.start()
    try:
        with closing(KafkaLog(one.servers, home)) as log:
            for topic, partitions, lines in (("sensor-data", 2, SENSORS), ("kiln-limits", 1, LIMITS)):
                log.create(topic, partitions=partitions)
                log.append(topic, lines, [str(number % 7).encode() for number in range(len(lines))])
        yield one.servers
    finally:
        one.end()


@pytest.fixture
def ran(servers: str, folder: Path) -> Callable[..., dict[str, list[Any]]]:
    """Return a function that runs the rules on the topics, and returns and removes what they wrote."""
    from headrace.topics.kafka import KafkaLog

    def run(*options: str) -> dict[str, list[Any]]:
        with closing(KafkaLog(servers, folder)) as log:
            there = {info.name for info in log.topics()}
            for topic in (*TOPICS, "sensor-data.dead-letter", "kiln-limits.dead-letter", "rules.ledger"):
                if topic not in there:
                    log.create(topic, partitions=1)
            assert main(["run", "rules", "--until", "latest", "--kafka-servers", servers, *options]) == 0
            found = {}
            for topic in TOPICS:
                (part,) = log.topic(topic).partitions
                found[topic] = _read([entry.value.decode() for entry in log.entries(topic, 0, part.first, part.end - part.first)])
                log.delete(topic)
        return found

    return run


def test_kafka_gives_the_same_records(engine: list[str], ran: Callable[..., dict[str, list[Any]]], flink_requests: Callable[[], Path]) -> None:
    expected = ran("--anew", "--yes")
    assert all(expected.values())
    with on_flink.warm_client(flink_requests):  # files are run as a user's are
        assert ran(*engine) == expected
