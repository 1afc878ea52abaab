"""The simulated controllers of a factory (S1): ranges and units, anomalies from 60 s on, faults by seed, and MQTT."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main
from headrace.errors import PlanError
from headrace.simulate import Plc
from headrace.simulate.plc import VARIABLES
from mosquitto import Mosquitto, mosquitto

__all__ = ["mosquitto"]

START = 1_704_067_200_000


def messages(plant: Plc, ticks: int) -> list[dict[str, Any]]:
    batches = itertools.islice(plant.line_batches(START), ticks)
    return [json.loads(line) for batch in batches for line in batch]


def values(plant: Plc, ticks: int) -> list[tuple[int, str, Any]]:
    return [(tick, name, one["value"]) for tick, sent in enumerate(messages(plant, ticks)) for name, one in sent["variables"].items()]


def beyond(plant: Plc, ticks: int) -> list[int]:
    """The ticks in which a value is not in the middle of its range."""
    spans = {name: (low, high) for name, (low, high, _) in VARIABLES.items()}
    return [tick for tick, name, value in values(plant, ticks) if not 0.29 <= (value - spans[name][0]) / (spans[name][1] - spans[name][0]) <= 0.71]


def test_a_message_has_the_variables_with_their_units_and_its_time_in_seconds() -> None:
    first, second, third = messages(Plc(count=2), 2)[:3]
    assert (first["plc_id"], second["plc_id"], third["timestamp"]) == ("PLC_001", "PLC_002", 1_704_067_201.0)
    assert {name: one["unit"] for name, one in first["variables"].items()} == {
        "motor_speed": "RPM", "power_output": "kW", "system_pressure": "bar", "oil_temperature": "°C"
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_anomalies_come_from_60_s_on(seed: int) -> None:
    found = beyond(Plc(seed), 2000)
    assert min(found) >= 60
    assert 0.05 < len(found) / 1940 < 0.15
    assert min(beyond(Plc(seed, anomalies=1.0, anomalies_after_s=5), 20)) == 5
    assert beyond(Plc(seed, anomalies=0.0), 500) == []


def test_a_seed_tells_everything() -> None:
    faults: dict[str, Any] = {"dropouts": 0.1, "stuck": 0.1, "spikes": 0.1, "bad_values": 0.1, "clock_drift": 10.0}
    assert messages(Plc(7, 3, **faults), 50) == messages(Plc(7, 3, **faults), 50)
    assert messages(Plc(7), 5) != messages(Plc(8), 5)


def test_each_fault_has_its_share() -> None:
    plant: dict[str, Any] = {"anomalies": 0.0}
    assert 0.15 < 1 - len(values(Plc(dropouts=0.2, **plant), 1000)) / 4000 < 0.25
    assert 0.15 < sum(value == "Bad Input" for *_, value in values(Plc(bad_values=0.2, **plant), 1000)) / 4000 < 0.25
    assert 0.15 < len(beyond(Plc(spikes=0.2, **plant), 1000)) / 4000 < 0.25
    stuck = [one["variables"]["motor_speed"]["value"] for one in messages(Plc(stuck=1.0, **plant), 60)]
    assert (len(set(stuck[:30])), len(set(stuck))) == (1, 2)
    assert messages(Plc(clock_drift=36.0), 101)[-1]["timestamp"] == 1_704_067_301.0


@pytest.mark.parametrize("wrong", [{"count": 0}, {"dropouts": 1.5}, {"clock_drift": 1e9}, {"spikes": float("nan")}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        Plc(**wrong)


def test_controllers_publish_to_a_broker(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    bridge = ["bridge", f"{mosquitto.address}/plc/data", "topic:plc_data"]
    mosquitto.remember(bridge)
    options = ["--plcs", "3", "--seed", "5", "--rate", "1000", "--start", "2024-01-01T00:00:00Z"]
    assert main(["simulate", "plc", "--to", f"{mosquitto.address}/plc/data", "--records", "9", *options]) == 0
    assert main([*bridge, "--records", "9"]) == 0
    assert f"Target: {mosquitto.address}/plc/data" in capsys.readouterr().out
    assert main(["topics", "tail", "plc_data"]) == 0
    sent = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sent == [Plc(5, 3).record(tick, plc, START, 3.0) for tick in range(3) for plc in range(3)]
