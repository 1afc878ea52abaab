"""What a real Kafka holds, worked through by a real Spark."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

import headrace as hr
from broker import Shared
from headrace.apps.fingerprint import fingerprint
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.spark.run import run_latest, run_live
from headrace.plan.operators import Operator, Source
from headrace.plan.pipeline import Plan
from spark import FOLDER, HOME, missing, plain, same

SECONDS = 60


def fingerprints(plant: str) -> Plan:
    """Return the fingerprint's plan on topics of its own."""

    @hr.pipeline("fingerprint", version="1")
    def made() -> dict[str, hr.Stream]:
        (stream,) = fingerprint.function().values()
        return {f"{plant}-out": on_topic(stream, plant)}

    return made.plan()


def on_topic(stream: hr.Stream, topic: str) -> hr.Stream:
    """Return the stream with another topic read."""

    def moved(operator: Operator) -> Operator:
        return replace(operator, topic=topic) if isinstance(operator, Source) else replace(operator, input=moved(operator.input))

    return hr.Stream(moved(stream.operator), topic)


def create(servers: str, **partitions: int) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics([NewTopic(topic, count, 1) for topic, count in partitions.items()]).values():
        made.result(SECONDS)


def everything(servers: str, topic: str) -> list[bytes]:
    """Return the values that a topic of one partition holds."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=SECONDS)
        consumer.assign([TopicPartition(topic, 0, 0)])
        values: list[bytes] = []
        while len(values) < end:
            message = consumer.poll(SECONDS)
            assert message is not None, f"{topic} says nothing more"
            assert message.error() is None
            values.append(message.value())
        return values
    finally:
        consumer.close()


def skip_unless_there() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    if not list(FOLDER.glob("spark-*-kafka")):
        pytest.skip("Spark's Kafka connector is not in build/engines; get it: python tests/spark.py --fetch")


def simulate(path: Path, *options: str) -> list[bytes]:
    """Return the lines of a kiln, which go to a file."""
    said = ["--bad", "0.01", "--start", "2024-01-24T19:10:00", *options]
    command = [sys.executable, "-m", "headrace", "simulate", "kiln", "--to", str(path), *said]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
    return path.read_bytes().split(b"\n")[:-1]


def produce(servers: str, topic: str, records: list[bytes], partition: int = 0) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers})
    for record in records:
        producer.produce(topic, record, partition=partition)
    assert producer.flush(SECONDS) == 0


def test_what_a_topic_holds_gives_the_embedded_engines_records(kafka: Shared, tmp_path: Path) -> None:
    skip_unless_there()
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    plan = fingerprints(plant)
    create(kafka.servers, **{plant: 3, f"{plant}-out": 1, f"{plant}.dead-letter": 1})
    files = [tmp_path / f"{partition}.ndjson" for partition in range(3)]
    for partition, file in enumerate(files):
        produce(kafka.servers, plant, simulate(file, "--records", "1500", "--disorder", "20s", "--seed", str(partition)), partition)
    ledger = run_latest(plan, kafka.servers, home=HOME)
    expected = run_embedded(plan, {plant: files}, tmp_path / "embedded")
    assert ledger == {plant: expected[plant].counts()}
    rows = [json.loads(line) for line in (tmp_path / "embedded" / f"{plant}-out.ndjson").read_text().splitlines()]
    got = [json.loads(value) for value in everything(kafka.servers, f"{plant}-out")]
    assert len(got) == len(rows) > 0
    assert all(map(same, got, rows))
    letters = [json.loads(line) for line in (tmp_path / "embedded" / f"{plant}.dead-letter.ndjson").read_text().splitlines()]
    found = [json.loads(value) for value in everything(kafka.servers, f"{plant}.dead-letter")]
    assert all(letter["arrived_ms"] > 1_704_067_200_000 for letter in found)
    assert [plain(letter | {"arrived_ms": None}) for letter in found] == [plain(letter) for letter in letters]


def test_a_live_run_goes_on_from_its_checkpoint_and_closes_the_same_windows(kafka: Shared, tmp_path: Path) -> None:
    skip_unless_there()
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    plan = fingerprints(plant)
    create(kafka.servers, **{plant: 1, f"{plant}-out": 1, f"{plant}.dead-letter": 1})
    records = simulate(tmp_path / "kiln.ndjson", "--records", "1500")
    for part in (records[:700], records[700:]):
        produce(kafka.servers, plant, part)
        run_live(plan, kafka.servers, checkpoint=tmp_path / "checkpoint", trigger="available-now", home=HOME)
    run_embedded(plan, {plant: [tmp_path / "kiln.ndjson"]}, tmp_path / "embedded")
    expected = [json.loads(line) for line in (tmp_path / "embedded" / f"{plant}-out.ndjson").read_text().splitlines()]
    got = [json.loads(value) for value in everything(kafka.servers, f"{plant}-out")]
    assert len(expected) - 5 == len(got) > 0, "the last window of each of five equipments is still open"
    assert all(same(one, other) for one, other in zip(got, expected, strict=False))
    letters = (tmp_path / "embedded" / f"{plant}.dead-letter.ndjson").read_text().splitlines()
    assert len(everything(kafka.servers, f"{plant}.dead-letter")) == len(letters) > 0
