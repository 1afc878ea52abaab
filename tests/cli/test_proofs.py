"""`headrace prove` at length: hundreds of kills on SQLite, dozens on Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import Shared, kafka
from headrace.cli import main

__all__ = ["kafka"]

PIPELINES = """
import headrace as hr

def events():
    return hr.stream("events", schema={"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(2))

@hr.pipeline("revised", version="1")
def revised():
    window = events().window(hr.sliding(hr.seconds(20), hr.seconds(5)), by=["k"], allowed_lateness=hr.seconds(3)).late_to("late")
    return {"out": window.aggregate(n="COUNT(*)", mean="AVG(v)", last="LAST_VALUE(v)")}

@hr.pipeline("through", version="1")
def through():
    return {"out": events().where("v > 1").derive(double="v * 2")}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(("seed", "partitions"), [(1, 1), (2, 2), (3, 3), (4, 2)])
def test_fifty_kills_on_sqlite(seed: int, partitions: int) -> None:
    assert main(["prove", "fingerprint", "--kills", "50", "--seed", str(seed), "--partitions", str(partitions)]) == 0


def test_kills_of_processes() -> None:
    assert main(["prove", "rules", "--kills", "25", "--records", "20000"]) == 0


@pytest.mark.parametrize("name", ["revised", "through"])
def test_kills_of_pipelines_with_revisions_and_without_windows(name: str, folder: Path) -> None:
    (folder / "apps.py").write_text(PIPELINES)
    lines = [b'{"k":"%d","t":%d,"v":%d}\n' % (n % 3, 1_700_000_000_000 + n * 100 - n % 61 * 150, n % 17) for n in range(4_000)]
    (folder / "events.ndjson").write_bytes(b"".join(lines))
    assert main(["prove", f"apps.py:{name}", "--kills", "15", "--input", "events.ndjson", "--partitions", "2"]) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_a_dozen_and_more_kills_on_kafka(seed: int, kafka: Shared) -> None:
    options = ["--kills", "15", "--seed", str(seed), "--records", "20000", "--partitions", str(seed), "--kafka-servers", kafka.servers]
    assert main(["prove", "fingerprint", *options]) == 0


def test_kills_of_processes_on_kafka(kafka: Shared) -> None:
    assert main(["prove", "rules", "--kills", "10", "--records", "15000", "--kafka-servers", kafka.servers]) == 0
