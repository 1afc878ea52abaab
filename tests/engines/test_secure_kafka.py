"""A broker with TLS and a password, read and written by Flink and by Spark: the same properties, by their own clients' names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import flink
import spark
from broker import PASSWORD, USER, SecureBroker, missing
from headrace.topics.cluster import Cluster, Property

LIMIT = 900
APP = """
import headrace as hr

@hr.pipeline("through", version="1")
def through():
    events = hr.stream("events", schema={"t": "BIGINT", "k": "STRING"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"out": events.select("k")}
"""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    pytest.importorskip("confluent_kafka")
    if (why := missing()) is not None or (why := None if shutil.which("openssl") else "no openssl to make certificates with"):
        pytest.skip(why)
    broker = SecureBroker(tmp_path_factory.mktemp("secure"))
    broker.start()
    yield broker
    broker.end()


@pytest.mark.long  # each starts an engine of its own
@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_records_pass_through_an_engine_over_tls_with_a_password(secure: SecureBroker, tmp_path: Path, engine: str) -> None:
    if (why := {"flink": flink, "spark": spark}[engine].missing()) is not None:
        pytest.skip(why)
    from headrace.topics.kafka import KafkaLog
    from headrace.topics.kafka.client import Deliveries

    properties = {
        "security.protocol": "SASL_SSL", "ssl.ca.location": str(secure.ca), "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER, "sasl.password": PASSWORD,
    }  # fmt: skip
    config = tmp_path / "kafka.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()).replace(PASSWORD, "${PLANT_PASSWORD}"))
    (tmp_path / "app.py").write_text(APP)
    home = tmp_path / "home"
    with closing(KafkaLog(Cluster(secure.secure, tuple(Property(*one, "") for one in properties.items())), home)) as log:
        for topic in ("events", "out"):
            if topic in {info.name for info in log.topics()}:
                log.delete(topic)
        log.create("events")
        log.append("events", [b'{"t":%d,"k":"%d"}' % (1_700_000_000_000 + at, at) for at in range(20)])
        tombstones = log.writing.producer(Deliveries(), LIMIT)
        tombstones.produce("events", None, b"gone", 0)
        log.append("events", [b'{"t":%d,"k":"%d"}' % (1_700_000_000_020, 20)])
        tombstones.produce("events", b"", b"empty", 0)
        assert tombstones.flush(60) == 0
        command = [sys.executable, "-m", "headrace", "run", "app.py", "--engine", engine, "--until", "latest"]
        given = {"HEADRACE_HOME": str(home), "HEADRACE_ENGINES": str(flink.BUILD / "engines"), "PLANT_PASSWORD": PASSWORD}
        ran = subprocess.run(
            [*command, "--kafka-servers", secure.secure, "--kafka-config", str(config)],
            check=False, cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert "22 received = 21 accepted + 1 malformed" in ran.stderr
        assert PASSWORD not in ran.stdout + ran.stderr
        assert sorted(int(entry.value.split(b'"')[3]) for entry in log.entries("out", 0, 0, 99)) == list(range(21))
    assert [path for path in home.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()] == []
