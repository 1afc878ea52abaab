"""`headrace browse`: what a server of OPC UA, a Modbus device and an MQTT broker have."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plant_servers import PlantServer

from forking import started
from headrace.cli import main
from headrace.cli.browse import _print, _table
from headrace.connectors.leaves import leaves, tags_at
from headrace.connectors.modbus.registers import load as load_map
from headrace.connectors.payload_paths import Path as Places
from headrace.plant.quality import Quality
from headrace.plant.tags import csv_of_tags, load
from mosquitto import LIMIT, Mosquitto, mosquitto

__all__ = ["mosquitto"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()}


def test_a_terminal_gets_no_control_characters_and_no_endless_texts(capsys: pytest.CaptureFixture[str]) -> None:
    payloads = [b"\x1b]0;title\x07\x1b[2J", b"one\ntwo\rthree", "\u202e\x9b31m".encode(), b"x" * 1_000_000]
    places = [f"t{number}\x1b[31m" for number in range(4)]
    readings = [json.loads(made.value) for place, one in zip(places, payloads, strict=True) for made in leaves(place, one, 0)]
    _print(_table({one["tag"]: one for one in readings}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(payloads)
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert "\\x1b]0;title\\x07" in lines[1] and "one\\ntwo" in lines[2]


def test_variables_are_shown_and_written_as_a_list_of_tags(capsys: pytest.CaptureFixture[str]) -> None:
    definition = json.dumps({"values": {"Temp": 21.5, "NaN": {"nan": 1}}, "units": {"Temp": "CEL"}})
    with PlantServer("opc_server", definition) as server:
        address = f"opc.tcp://127.0.0.1:{server.port}/plant/?timeout=60s"
        assert main(["browse", address, "--tags", "tags.csv"]) == 0
        said = capsys.readouterr()
        shown = rows(said.out)
        assert shown["tag"] == ["value", "quality", "unit", "time"]
        assert shown["Line1/Temp"][:3] == ["21.5", "GOOD", "CEL"] and shown["Line1/NaN"][0] == "BAD_NO_DATA"
        assert said.err == "headrace: 3 tags written to tags.csv\n"
        assert [(one.path, one.unit, one.source) for one in load("tags.csv")] == [
            ("Line1/Temp", "CEL", "ns=2;s=Temp"),
            ("Line1/NaN", None, "ns=2;s=NaN"),
            ("Line1/Count", None, "ns=2;i=1000"),
        ]
        assert main(["browse", f"{address}&tags=tags.csv", "--json"]) == 0
        found = {one["tag"]: one["value"] for one in map(json.loads, capsys.readouterr().out.splitlines())}
        assert found == {"Line1/Temp": 21.5, "Line1/NaN": None, "Line1/Count": 0}
        assert main(["browse", f"{address}&tags=tags.csv", "--tags", "tags.csv"]) == 2
        assert capsys.readouterr().err == "headrace: tags.csv: exists already; name a new file, so that nothing is overwritten\n"


def test_registers_of_a_range_are_shown_and_written_as_a_map(capsys: pytest.CaptureFixture[str]) -> None:
    with PlantServer("modbus_server", json.dumps({"1": {"holding": {"0": [5, 6], "7": [9]}, "coil": {"3": [True]}}})) as server:
        address = f"modbus://127.0.0.1:{server.port}"
        assert main(["browse", f"{address}?timeout=60s", "--range", "holding:0-8", "--range", "coil:3", "--tags", "map.csv"]) == 0
        shown = rows(capsys.readouterr().out)
        assert shown["holding/1"][:2] == ["6", "GOOD"] and shown["holding/2"][0] == "BAD_CONFIGURATION_ERROR" and shown["coil/3"][0] == "True"
        found = load_map(Path("map.csv"), ("127.0.0.1", server.port))
        assert [one.tag for one in found] == ["holding/0", "holding/1", "holding/7", "coil/3"]
        assert main(["browse", f"{address}?map=map.csv&timeout=60s"]) == 0
        assert set(rows(capsys.readouterr().out)) == {"tag", *(one.tag for one in found)}


def test_messages_are_shown_value_by_value_and_written_as_a_list_of_tags(mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    messages = {
        "plant/oil/T-1": "21.5", "plant/valve": "Open", "plant/raw": b"\xff\x00",
        "plant/plc": '{"id": 7, "oil temp": {"value": 64.2, "unit": "CEL"}, "alarms": [true, null], "none": {}}',
    }  # fmt: skip
    for topic, payload in messages.items():
        mosquitto.publish(topic, payload, retain=True)
    expected = {
        "plant/oil/T-1": (21.5, 0), "plant/valve": ("Open", 0), "plant/raw": (None, Quality.BAD_TYPE_MISMATCH), "plant/plc#$.id": (7, 0),
        "plant/plc#$['oil temp'].value": (64.2, 0), "plant/plc#$['oil temp'].unit": ("CEL", 0), "plant/plc#$.alarms[0]": (True, 0),
        "plant/plc#$.alarms[1]": (None, Quality.BAD_NO_DATA),
    }  # fmt: skip
    command = ["browse", f"{mosquitto.address}/plant/#", "--json", "--tags", "tags.csv", "--duration", "1h"]
    with started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown: dict[str, tuple[Any, int]] = {}
        for line in process.stdout:
            one = json.loads(line)
            shown[one["tag"]] = one["value"], one["quality"]
            if len(shown) == len(expected):
                process.send_signal(signal.SIGTERM)
                break
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err, shown) == (0, "headrace: 8 tags written to tags.csv\n", expected)
    tags = {one.source: (one.path, one.interpolation) for one in load("tags.csv")}
    assert tags == {
        "plant/oil/T-1": ("plant/oil/T-1", "sloped"), "plant/valve": ("plant/valve", "stepped"), "plant/raw": ("plant/raw", "stepped"),
        "plant/plc#$.id": ("plant/plc/id", "sloped"), "plant/plc#$['oil temp'].value": ("plant/plc/oil temp/value", "sloped"),
        "plant/plc#$['oil temp'].unit": ("plant/plc/oil temp/unit", "stepped"), "plant/plc#$.alarms[0]": ("plant/plc/alarms/0", "stepped"),
        "plant/plc#$.alarms[1]": ("plant/plc/alarms/1", "stepped"),
    }  # fmt: skip
    assert main(["bridge", f"{mosquitto.address}/plant/#?as=reading&tags=tags.csv", "topic:readings", "--records", "7"]) == 0
    capsys.readouterr()
    assert main(["topics", "tail", "readings"]) == 0
    bridged = {one["tag"]: one["value"] for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert bridged == {tags[place][0]: value for place, (value, _) in expected.items() if place != "plant/raw"}


def test_tags_are_counted_as_they_are_written(mosquitto: Mosquitto) -> None:
    mosquitto.publish("plant/plc/id", "8", retain=True)
    mosquitto.publish("plant/plc", '{"id": 7}', retain=True)  # its place would have the same path as the topic before
    command = ["browse", f"{mosquitto.address}/plant/#", "--json", "--tags", "tags.csv", "--duration", "1h"]
    with started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert {json.loads(process.stdout.readline())["value"] for _ in range(2)} == {7, 8}
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err, len(load("tags.csv"))) == (0, "headrace: 1 tag written to tags.csv\n", 1)


def test_the_values_of_a_broker_are_a_table_after_a_while(mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    mosquitto.publish("plant/T-1", "21.5", retain=True)
    shown: dict[str, list[str]] = {}
    give_up_at = time.monotonic() + LIMIT
    while "plant/T-1" not in shown:
        assert time.monotonic() < give_up_at
        if main(["browse", mosquitto.address, "--duration", "1s"]) == 1:
            assert capsys.readouterr().err.endswith("/#: no message arrived; give a longer --duration, or another topic filter\n")
        shown = rows(capsys.readouterr().out)
    assert (shown["tag"], shown["plant/T-1"][:2]) == (["value", "quality", "unit", "time"], ["21.5", "GOOD"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab.'\"[]* #é/\n", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.text("ab/é #\n", min_size=1, max_size=6).filter(lambda text: "#" not in text), json_values)
@example("/", {"": 1, "'\"": 2, "a": {"b": 1}, "a/b": 2})
@example("a", [[0] * 2000, 1])
def test_each_value_is_at_its_place_and_the_list_of_tags_can_be_loaded(topic: str, content: Any) -> None:
    found = {one["tag"]: one for one in (json.loads(made.value) for made in leaves(topic, json.dumps(content).encode(), 5))}
    assert 1 <= len(found) <= 1000
    for place, one in found.items():
        name, _, path = place.partition("#")
        assert name == topic
        if one["quality"] == Quality.GOOD:
            assert one["value"] == Places(path or "$", "source", "test").find(content)
    with NamedTemporaryFile("w", suffix=".csv", encoding="utf-8", newline="") as file:
        tags = list(tags_at(found))
        file.write(csv_of_tags(tags))
        file.flush()
        assert [one.source for one in (load(file.name) if tags else ())] == [one.source for one in tags]


@given(st.binary(max_size=20))
def test_any_payload_has_readings(payload: bytes) -> None:
    for made in leaves("t", payload, 5):
        assert json.loads(made.value)["arrival_time"] == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["foo:x"], "ADDRESS: cannot be browsed: 'foo'; give opc.tcp://…, modbus://…, mqtt://… or sparkplug://…"),
        (["modbus://h"], "FROM: names no register map; add map=FILE.csv, or --range holding:0-200"),
        (["modbus://h", "--range", "holding:9-3"], "--range: 'holding:9-3' is not a range of registers; write TABLE:FIRST-LAST"),
        (["modbus://h?map=x", "--range", "coil:1"], "--range: has a map already; leave out one of the two"),
        (["modbus://?unit=1", "--range", "coil:1"], "FROM: names no host; "),
        (["opc.tcp://h", "--range", "coil:1"], "--range: is only for modbus; leave it out"),
        (["mqtt://h/a", "--range", "coil:1"], "--range: is only for modbus; leave it out"),
        (["sparkplug://h/G", "--range", "coil:1"], "--range: is only for modbus; leave it out"),
        (["mqtt://h/a#"], "ADDRESS: has a topic filter with level 'a#'; + stands for one whole level"),
        (["mqtt://h/a?qos=1"], "ADDRESS: has no parameter 'qos'"),
        (["mqtt://127.0.0.1:1"], "mqtt://127.0.0.1:1/#: "),
        (["opc.tcp://127.0.0.1:1"], "opc.tcp://127.0.0.1:1: connection refused; is its server running, and the address right?"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["browse", *arguments]) in {1, 2}
    err = capsys.readouterr().err
    assert err.startswith(f"headrace: {says}") and err.count("\n") == 1
