"""What a real Kafka holds, worked through by a real Spark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import headrace as hr
from broker import Shared
from headrace.apps.fingerprint import fingerprint
from headrace.cli import main
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.entries import added_up, ledger_topic
from headrace.engines.spark.run import run_files, run_latest, run_live
from headrace.errors import EnvironmentFault
from headrace.plan.graph import Node, rebuilt
from headrace.plan.operators import Operator, Source
from headrace.plan.pipeline import Plan
from headrace.topics.making import make_topics
from spark import FOLDER, HOME, missing, plain, same

SECONDS = 180
LONG = 240
COUNTS = """
import headrace as hr

@hr.pipeline("counts-{plant}", version="1")
def counts():
    schema = {{"equip_id": "STRING NOT NULL", "timestamp": "BIGINT"}}
    messages = hr.stream({plant!r}, schema=schema, event_time="TO_TIMESTAMP_LTZ(`timestamp`, 3)", watermark=hr.seconds(10))
    return {{"{plant}-out": messages.window(hr.tumbling(hr.minutes(1)), by=["equip_id"]).aggregate(n="COUNT(*)")}}
"""


def fingerprints(plant: str) -> Plan:
    """Return the fingerprint's plan on topics of its own."""

    @hr.pipeline("fingerprint", version="1")
    def made() -> dict[str, hr.Stream]:
        (stream,) = fingerprint.function().values()
        return {f"{plant}-out": on_topic(stream, plant)}

    return made.plan()


def on_topic(stream: hr.Stream, topic: str) -> hr.Stream:
    """Return the stream with another topic read."""

    def moved(node: Node[Operator], _: object) -> Operator:
        return replace(node.operator, topic=topic) if isinstance(node.operator, Source) else node.operator

    return hr.Stream(rebuilt([stream.node], moved)[-1], topic)


def create(servers: str, plan: Plan | None = None, **partitions: int) -> None:
    """Make topics, and those that a plan writes."""
    from headrace.topics.kafka import KafkaLog

    with closing(KafkaLog(servers, Path())) as log:
        for topic, count in partitions.items():
            log.create(topic, count)
        if plan:
            make_topics(log, plan, ledger_topic(plan))


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
    create(kafka.servers, plan, **{plant: 3, f"{plant}.dead-letter": 1})
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


def test_metadata_of_records_is_what_kafka_has_and_can_be_the_event_time(kafka: Shared, tmp_path: Path) -> None:
    skip_unless_there()
    from known import METADATA, counted, in_ms, known_rows, send_known

    topic = f"known-{uuid.uuid4().hex[:8]}"

    def plan(name: str) -> Plan:
        stream = hr.stream(topic, schema={"v": "BIGINT NOT NULL"}, metadata=METADATA, event_time="received")
        counts = stream.window(hr.tumbling(hr.hours(876_000)), by=["part"]).aggregate(n="COUNT(*)", last="MAX(at)")
        outputs = {f"{topic}-{name}": stream} | ({f"{topic}-counts": counts.select("part", "n", "last")} if name == "batch" else {})
        return hr.pipeline(f"{topic}-{name}", version="1")(lambda: outputs).plan()

    create(kafka.servers, plan("batch"), **{topic: 2, f"{topic}.dead-letter": 1, f"{topic}-live": 1, f"{topic}-live.ledger": 1})
    send_known(kafka.servers, topic)
    run_latest(plan("batch"), kafka.servers, home=HOME)
    run_live(plan("live"), kafka.servers, checkpoint=tmp_path / "checkpoint", trigger="available-now", home=HOME)
    expected = known_rows(kafka.servers, topic)
    for name in ("batch", "live"):
        assert in_ms(map(json.loads, everything(kafka.servers, f"{topic}-{name}"))) == expected
    counts = [json.loads(value) for value in everything(kafka.servers, f"{topic}-counts")]
    assert sorted(counts, key=lambda row: row["part"]) == counted(expected)
    assert len(everything(kafka.servers, f"{topic}.dead-letter")) == 2, "the malformed record, of each run"


def test_a_live_run_goes_on_from_its_checkpoint_and_closes_the_same_windows(kafka: Shared, tmp_path: Path) -> None:
    skip_unless_there()
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    plan = fingerprints(plant)
    create(kafka.servers, plan, **{plant: 1})
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
    ledger = added_up(plan, map(json.loads, everything(kafka.servers, "fingerprint.ledger")))[plant]
    assert (ledger["received"], ledger["malformed"], ledger["future"], ledger["late"]) == (1500, len(letters), 0, None)


def test_a_live_run_that_is_stopped_has_written_all_once_and_tells_what_it_received(
    kafka: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_there()
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    create(kafka.servers, **{plant: 1, f"{plant}-out": 1})
    records = simulate(tmp_path / "kiln.ndjson", "--records", "1500")
    (tmp_path / "counts.py").write_text(COUNTS.format(plant=plant))
    run = ["run", str(tmp_path / "counts.py")]
    live = [*run, "--engine", "spark", "--kafka-servers", kafka.servers, "--commit-every", "1s"]
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_ENGINES", str(FOLDER))

    def said_by(wanted: int) -> str:
        """Return what a run says that is stopped when so much has been written."""
        over = threading.Event()

        def stop() -> None:
            give_up_at = time.monotonic() + LONG
            while not over.wait(0.5) and len(everything(kafka.servers, f"{plant}-out")) < wanted and time.monotonic() < give_up_at:
                pass
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

        stopping = threading.Thread(target=stop)
        stopping.start()
        try:
            assert main(live) == 0
        finally:
            over.set()
            stopping.join()
        return capsys.readouterr().err

    short = [sys.executable, "-m", "headrace", *live, "--duration", "1s"]
    ended = subprocess.run(short, capture_output=True, text=True, check=True, timeout=LONG)
    assert f"{plant}: 0 received" in ended.stderr
    assert main([*run, "--input", str(tmp_path / "kiln.ndjson"), "--output", str(tmp_path / "embedded")]) == 0
    expected = (tmp_path / "embedded" / f"{plant}-out.ndjson").read_bytes().splitlines()[:-5]  # the last window of each equipment stays open
    produce(kafka.servers, plant, records[:700])
    assert f"{plant}: 700 received = ? accepted + " in said_by(1)
    produce(kafka.servers, plant, records[700:])
    assert f"{plant}: 1,500 received = ? accepted + " in said_by(len(expected))
    got = everything(kafka.servers, f"{plant}-out")
    assert [json.loads(one) for one in got] == [json.loads(one) for one in expected], "each once"


def test_a_run_over_files_can_be_stopped(tmp_path: Path) -> None:
    skip_unless_there()
    simulate(tmp_path / "kiln.ndjson", "--records", "10")
    with pytest.raises(EnvironmentFault, match="was stopped before its end"):
        run_files(fingerprints("plant"), {"plant": [tmp_path / "kiln.ndjson"]}, tmp_path / "out", home=HOME, stop=lambda: True)
    assert not (tmp_path / "out" / "ledger.json").exists()
