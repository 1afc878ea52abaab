"""The factory's preprocessor (S2) against plain Python, on simulated controllers with faults, and live behind a broker."""

from __future__ import annotations

import itertools
import json
import signal
import tomllib
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from broker import kafka
from headrace.apps.factory import RANGES
from headrace.cli import main
from headrace.plant.quality import Quality
from headrace.simulate import Plc
from headrace.simulate.plc import VARIABLES
from mongo import Mongo, mongo
from mosquitto import Mosquitto, mosquitto
from mosquitto import missing as no_mosquitto
from ports import free_port
from running_plant import Up, up
from serving import LIMIT

__all__ = ["kafka", "mongo", "mosquitto"]

START = 1_704_067_200_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "HEADRACE_TOPIC_PREFIX", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "WATERMARK_SECONDS"):
        monkeypatch.delenv(name, raising=False)


def sent(count: int) -> list[bytes]:
    plant = Plc(3, 2, anomalies=0.3, anomalies_after_s=0, dropouts=0.05, spikes=0.05, bad_values=0.1)
    return [line for batch in itertools.islice(plant.line_batches(START), count) for line in batch]


def processed(message: dict[str, Any]) -> list[dict[str, Any]]:
    """S2, in plain Python."""
    rows = []
    for variable, given in message["variables"].items():
        low, high, unit = RANGES.get(variable, (None, None, None))
        value, quality = given.get("value"), Quality.GOOD
        if value is None or value == "Bad Input":
            quality = Quality.BAD_NO_DATA
        elif not isinstance(value, int | float):
            quality = Quality.BAD_TYPE_MISMATCH
        elif low is None or high is None or given.get("unit") != unit:
            quality = Quality.BAD_CONFIGURATION_ERROR
        elif not low <= value <= high:
            quality = Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED
        usable = quality < Quality.BAD
        row = {"plc_id": message["plc_id"], "timestamp": message["timestamp"], "variable": variable}
        row |= {"value": float(value) if usable else None, "unit": given.get("unit")}
        normalized = (value - low) / (high - low) if usable else None
        rows.append({**row, "normalized": normalized, "quality": int(quality)})
    return rows


def test_the_ranges_are_those_of_the_simulated_controllers() -> None:
    assert RANGES == VARIABLES


def test_each_value_gets_its_place_in_the_range_and_its_quality() -> None:
    odd = {
        "motor_speed": {"value": 60, "unit": "RPS"},
        "power_output": {"value": None, "unit": "kW"},
        "system_pressure": {"value": "much", "unit": "bar"},
        "oil_temperature": {"value": 20, "unit": "°C"},
        "humidity": {"value": 1.0, "unit": "%"},
    }
    lines = [*sent(100), json.dumps({"plc_id": "PLC_003", "timestamp": START / 1000 + 100, "variables": odd}).encode()]
    bad = [b"no JSON", b'{"plc_id": "PLC_001", "timestamp": 1}', b'{"timestamp": 1, "variables": {}}']
    Path("raw.ndjson").write_bytes(b"\n".join([*lines, *bad, b""]))
    assert main(["run", "factory", "--input", "raw.ndjson", "--output", "out"]) == 0
    found = [json.loads(line) for line in Path("out/plc_data.ndjson").read_text().splitlines()]

    def order(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["timestamp"], one["plc_id"], one["variable"]

    wanted = [row for line in lines for row in processed(json.loads(line))]
    assert sorted(found, key=order) == [{**row, "normalized": pytest.approx(row["normalized"])} for row in sorted(wanted, key=order)]
    assert {row["quality"] for row in found} == {
        Quality.GOOD,
        Quality.BAD_NO_DATA,
        Quality.BAD_TYPE_MISMATCH,
        Quality.BAD_CONFIGURATION_ERROR,
        Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED,
    }
    assert len(Path("out/plc_raw.dead-letter.ndjson").read_text().splitlines()) == 3


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_clusters_have_a_script_for_it(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "factory", "--engine", engine]) == 0
    assert "plc_data" in capsys.readouterr().out


def test_the_path_from_a_broker_to_readings(mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    bridge = ["bridge", f"{mosquitto.address}/plc/data", "topic:plc_raw"]
    mosquitto.remember(bridge)
    lines = sent(5)
    mosquitto.publish("plc/data", *lines)
    assert main([*bridge, "--records", str(len(lines))]) == 0
    assert main(["run", "factory", "--until", "latest"]) == 0
    capsys.readouterr()
    assert main(["topics", "tail", "plc_data", "--lines", "1000"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == sum(len(json.loads(line)["variables"]) for line in lines)


def publish_by_websocket(port: int, line: bytes) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, transport="websockets")
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        client.publish("plc/data", line, qos=1).wait_for_publish(LIMIT)
    finally:
        client.disconnect()
        client.loop_stop()


DEPLOY = Path(__file__).parents[2] / "deploy" / "factory"


def deployed(broker: Mosquitto, websockets: int) -> None:
    """Give a broker the configuration that the containers have, on ports of this test."""
    text = (DEPLOY / "mosquitto.conf").read_text().replace("/mosquitto/data/", f"{broker.folder}/")
    text = text.replace("listener 1883", f"listener {broker.port} 127.0.0.1").replace("listener 9001", f"listener {websockets} 127.0.0.1")
    (broker.folder / "mosquitto.conf").write_text(f"{text}user root\n")


def test_the_template_is_the_plant_of_the_containers_with_other_hosts() -> None:
    assert main(["init", "factory"]) == 0
    template, plant = (tomllib.loads(path.read_text()) for path in (Path("headrace.toml"), DEPLOY / "headrace.toml"))
    plant["in"][0]["from"] = plant["in"][0]["from"].replace("//broker", "//127.0.0.1")
    plant["out"][0]["to"] = plant["out"][0]["to"].replace("//mongo", "//127.0.0.1")
    del plant["page"]["host"]
    assert template == plant


@pytest.mark.parametrize("log", ["sqlite", pytest.param("kafka", marks=pytest.mark.long)])
def test_the_parts_of_the_factory_are_processes_of_their_own_or_one(
    log: str, tmp_path: Path, mongo: Mongo, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker with two listeners, the bridge, the preprocessor and the target, the last two killed in between; then all in one process."""
    if (why := no_mosquitto()) is not None:
        pytest.skip(why)
    if log == "kafka":
        monkeypatch.setenv("KAFKA_SERVERS", request.getfixturevalue("kafka").servers)
        monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", f"factory-{uuid.uuid4().hex}.")
    socket = free_port()
    broker = Mosquitto(tmp_path / "mosquitto")
    deployed(broker, socket)
    text = (DEPLOY / "headrace.toml").read_text().replace("mqtt://broker:1883", broker.address).replace("mongodb://mongo:27017", mongo.address)
    Path("headrace.toml").write_text(text.replace('/factory"', f'/{log}"'))
    assert main(["check"]) == 0
    lines = sent(20)
    wanted = [row for line in lines for row in processed(json.loads(line))]

    with ExitStack() as ending, mongo.client() as client:
        broker.start()
        ending.callback(broker.end)
        documents = client[log]["processed_data"]

        def ready(running: Up, part: str) -> None:
            running.wait_for(lambda: running.states(part)[-1:] == ["running"], f"{part} runs")

        def arrived(running: Up, count: int) -> None:
            running.wait_for(lambda: documents.count_documents({}) >= count, f"{count} documents")

        bridge = ending.enter_context(up("plc"))
        ready(bridge, "plc")
        first = sum(len(json.loads(line)["variables"]) for line in lines[:20])
        with up("factory") as pipeline, up("documents") as target:
            broker.publish("plc/data", *lines[:20])
            arrived(target, first)
            for one in (pipeline, target):
                assert one.end(signal.SIGKILL) == -signal.SIGKILL
        broker.publish("plc/data", *lines[20:-6])
        publish_by_websocket(socket, lines[-6])
        with up("factory") as pipeline, up("documents") as target:
            arrived(target, len(wanted) - sum(len(json.loads(line)["variables"]) for line in lines[-5:]))
            assert [one.end() for one in (target, pipeline, bridge)] == [0, 0, 0]
        broker.publish("plc/data", *lines[-5:])
        with up() as whole:
            arrived(whole, len(wanted))
            assert whole.end() == 0
        found = list(documents.find({}, {"_id": 0}).sort("_id"))
        indexes = [one["key"].to_dict() for one in documents.list_indexes()]

    def order(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["timestamp"], one["plc_id"], one["variable"]

    stored = [{**one, "timestamp": one["timestamp"].timestamp()} for one in found]
    assert sorted(stored, key=order) == [{**row, "normalized": pytest.approx(row["normalized"])} for row in sorted(wanted, key=order)]
    assert {"plc_id": 1, "variable": 1, "timestamp": -1} in indexes
