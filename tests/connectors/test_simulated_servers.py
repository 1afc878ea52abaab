"""Simulated controllers as servers: what a bridge reads of them is what the generator says, with its times and qualities (S1)."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from plant_servers import Bridged

from forking import Forked, started
from headrace.cli import main
from headrace.connectors import modbus, opc, sparkplug
from headrace.plant.quality import Quality
from headrace.plant.tags import load
from headrace.simulate import Plc, Water
from headrace.simulate.modbus_server import register_map
from headrace.simulate.opc_server import opc_server
from headrace.simulate.plc import UNIT_CODES, VARIABLES
from headrace.simulate.water.devices import devices
from headrace.topics.sqlite import SqliteLog
from mosquitto import Mosquitto, mosquitto
from ports import free_port
from serving import LIMIT
from waiting import wait_for

__all__ = ["mosquitto"]

START, DAY_MS, INTERVAL_MS, SEED, PLCS = 1_704_067_200_000, 86_400_000, 100, 5, 2
PLANT = Plc(SEED, PLCS, dropouts=0.2, bad_values=0.2, spikes=0.1)
OPTIONS = ["--plcs", str(PLCS), "--seed", str(SEED), "--rate", str(PLCS * 1000 // INTERVAL_MS), "--start", "2024-01-01T00:00:00Z"]
FAULTS = ["--dropouts", "0.2", "--bad-values", "0.2", "--spikes", "0.1"]
NO_DATA = (None, Quality.BAD_NO_DATA)


@contextmanager
def simulated(address: str, *, ended: bool = False, plant: Sequence[str] = ("plc", *OPTIONS, *FAULTS)) -> Iterator[Forked]:
    """Serve a plant at an address, and have SIGTERM end it without an error; `ended`: the test has sent it by then."""
    command = ["simulate", *plant, "--to", address]
    process = started(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
        if not ended:
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, err) == (0, "")
    finally:
        process.kill()
        process.communicate()


def sent(tick: int, plc: int) -> dict[str, tuple[float | None, int]]:
    """Return the values and qualities of a message; a value that is missing is not in it."""
    variables = PLANT.record(tick, plc, START, INTERVAL_MS)["variables"]
    return {name: (one["value"], Quality.GOOD) if isinstance(one["value"], float) else NO_DATA for name, one in variables.items()}


def check_time(one: dict[str, Any]) -> None:
    """Check that a reading has a time of the simulation, unless it says that the server is away."""
    assert one["quality"] == Quality.BAD_NO_COMMUNICATION or START - 1 <= one["source_time"] < START + DAY_MS, one


def test_registers_have_the_values_of_the_last_message(log: SqliteLog, home: Path) -> None:
    address = f"modbus://127.0.0.1:{free_port()}?map={home.parent / 'registers.csv'}"

    def polls(found: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, tuple[Any, int]]]:
        """Return what was read at once of a controller: values and qualities by name."""
        together = defaultdict[tuple[str, int], dict[str, tuple[Any, int]]](dict)
        for one in found:
            plc, name = one["tag"].split("/")
            together[plc, one["time"]][name] = one["value"], one["quality"]
        return {key: one for key, one in together.items() if len(one) == 1 + len(VARIABLES) and one["timestamp"][1] == Quality.GOOD}

    async def run() -> list[dict[str, Any]]:
        async with Bridged(log, modbus.source(f"{address}&interval=50ms&timeout=60s")) as bridge:

            def seen(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
                assert process.poll() is None
                return found if len({(plc, one["timestamp"]) for (plc, _), one in polls(found).items()}) >= 6 else []

            return list(await bridge.until(seen, "six messages"))

    with simulated(address) as process:
        written = register_map(PLANT.devices())
        path = home.parent / "registers.csv"
        wait_for(lambda: path.exists() and path.read_text() == written, "the register map", seconds=LIMIT)
        found = asyncio.run(run())
    for (plc, _), values in polls(found).items():
        tick = round((values.pop("timestamp")[0] * 1000 - START) / INTERVAL_MS)
        expected: dict[str, tuple[Any, int]] = dict.fromkeys(VARIABLES, NO_DATA)
        for earlier in range(tick + 1):
            expected |= sent(earlier, int(plc[-3:]) - 1)
        assert values == expected, (plc, tick)
    units = {one["tag"].split("/")[1]: one["unit"] for one in found}
    assert units == {"timestamp": "SEC", **{name: UNIT_CODES[unit] for name, (_, _, unit) in VARIABLES.items()}}


def test_variables_have_each_value_with_its_time_and_quality(log: SqliteLog) -> None:
    address = f"opc.tcp://127.0.0.1:{free_port()}"

    def received(found: list[dict[str, Any]]) -> dict[str, dict[int, tuple[Any, int]]]:
        """Return by tag the values and qualities by tick. Until its first value a variable has none, at the time before all messages."""
        tags = defaultdict[str, dict[int, tuple[Any, int]]](dict)
        for one in found:
            check_time(one)
            if (one["source_time"] or 0) >= START:
                tags[one["tag"]][(one["source_time"] - START) // INTERVAL_MS] = one["value"], one["quality"]
        return tags

    async def run() -> list[dict[str, Any]]:
        async with Bridged(log, opc.source(f"{address}?interval=100ms&timeout=60s&queue=10000")) as bridge:

            def seen(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
                assert process.poll() is None
                tags = received(found)
                return found if len(tags) == PLCS * len(VARIABLES) and all(len(one) >= 6 for one in tags.values()) else []

            return list(await bridge.until(seen, "six values of each variable"))

    with simulated(address) as process:
        found = asyncio.run(run())
    lost = any(one["quality"] == Quality.BAD_NO_COMMUNICATION for one in found)
    for tag, values in received(found).items():
        plc, name = tag.split("/")
        assert values == {tick: sent(tick, int(plc[-3:]) - 1).get(name) for tick in values}, tag
        if lost:
            continue
        expected: dict[int, tuple[float | None, int]] = {}
        for tick in range(min(values), max(values) + 1):
            value = sent(tick, int(plc[-3:]) - 1).get(name)
            # The same value again is no change.
            if value is not None and (not expected or value != expected[max(expected)]):
                expected[tick] = value
        assert values == expected, tag
    units = {one["tag"].split("/")[1]: one["unit"] for one in found}
    assert units == {name: UNIT_CODES[unit] for name, (_, _, unit) in VARIABLES.items()}


def test_until_its_first_value_a_variable_has_none_at_the_time_before_all_messages(log: SqliteLog) -> None:
    address, shown = f"opc.tcp://127.0.0.1:{free_port()}", replace(PLANT.devices(), empty_ms=START - 1)

    async def run() -> list[dict[str, Any]]:
        async with Bridged(log, opc.source(f"{address}?interval=100ms&timeout=60s")) as bridge:
            return list(await bridge.until(lambda found: found if len(found) >= PLCS * len(VARIABLES) else [], "each variable"))

    with closing(opc_server(address, shown)):
        found = asyncio.run(run())
    assert {(one["source_time"], one["value"], one["quality"]) for one in found} == {(START - 1, *NO_DATA)}


def test_an_edge_node_sends_each_value_with_its_time_and_is_born_again_when_it_is_asked(log: SqliteLog, mosquitto: Mosquitto) -> None:
    address = f"sparkplug://127.0.0.1:{mosquitto.port}/PLANT"

    def received(found: list[dict[str, Any]]) -> dict[str, dict[int, tuple[Any, int]]]:
        """Return by tag the values and qualities by tick; those of no message, which have the time before all, are left out."""
        tags = defaultdict[str, dict[int, tuple[Any, int]]](dict)
        for one in found:
            check_time(one)
            tick = ((one["source_time"] or 0) - START) // INTERVAL_MS
            if 0 <= tick < 1_000_000 and one["quality"] in (Quality.GOOD, Quality.BAD_NO_DATA):
                tags[one["tag"].removeprefix("PLANT/simulate/")][tick] = one["value"], one["quality"]
        return tags

    async def run() -> list[dict[str, Any]]:
        # The edge node was born before this host listened, so the host asks for its births.
        async with Bridged(log, sparkplug.source(address)) as bridge:

            def seen(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
                assert process.poll() is None
                tags = received(found)
                return found if len(tags) == PLCS * len(VARIABLES) and all(len(one) >= 6 for one in tags.values()) else []

            found = list(await bridge.until(seen, "six values of each variable"))
            process.send_signal(signal.SIGTERM)
            await bridge.until(lambda found: any(one["quality"] == Quality.BAD_NO_COMMUNICATION for one in found), "the death")
            return found

    with simulated(address, ended=True) as process:
        wait_for(lambda: "spBv1.0/PLANT/NBIRTH/simulate" in mosquitto.log, "the birth", seconds=LIMIT)
        found = asyncio.run(run())
    for tag, values in received(found).items():
        plc, name = tag.split("/")
        assert values == {tick: sent(tick, int(plc[-3:]) - 1).get(name) for tick in values}, tag
        ticks = sorted(values)[1:]  # the first value is that of the birth
        assert ticks == [tick for tick in range(ticks[0], ticks[-1] + 1) if name in sent(tick, int(plc[-3:]) - 1)], tag
    units = {one["tag"].split("/")[-1]: one["unit"] for one in found}
    assert units == {name: UNIT_CODES[unit] for name, (_, _, unit) in VARIABLES.items()}


def test_the_metrics_of_an_edge_node_are_shown_and_written_as_a_list_of_tags(home: Path, mosquitto: Mosquitto) -> None:
    address, path = f"sparkplug://127.0.0.1:{mosquitto.port}/PLANT", home.parent / "tags.csv"
    names = {f"PLANT/L1/PLC_{plc:03}/{name}": UNIT_CODES[unit] for plc in range(1, PLCS + 1) for name, (_, _, unit) in VARIABLES.items()}
    command = ["browse", address, "--json", "--tags", str(path), "--duration", "1h"]
    with simulated(f"{address}/L1"), started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = set[str]()
        for line in process.stdout:
            shown.add(json.loads(line)["tag"])
            if len(shown) == len(names):
                process.send_signal(signal.SIGTERM)
                break
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err, shown) == (0, f"headrace: {len(names)} tags written to {path}\n", set(names))
    assert {one.source: one.unit for one in load(path)} == names


SCENARIO = "pressure_drop_spoofed"
WATER = Water(SEED, (SCENARIO,), after_s=1.0, bad_share=0.05)


@pytest.mark.parametrize("address", ["modbus://127.0.0.1:{port}?map={map}", "opc.tcp://127.0.0.1:{port}"], ids=["modbus", "opc"])
def test_the_water_plant_is_a_controller_for_each_stage(address: str, log: SqliteLog, home: Path) -> None:
    labels, map_ = home.parent / "labels.csv", home.parent / "map.csv"
    address = address.format(port=free_port(), map=map_)
    options = ["--seed", str(SEED), "--scenarios", SCENARIO, "--scenarios-after", "1s", "--bad-input", "0.05", "--labels", str(labels)]
    options += ["--rate", str(1000 // INTERVAL_MS), "--start", "2024-01-01T00:00:00Z"]
    tags = {f"{stage}/{name}": one.unit for stage, variables in devices().variables.items() for name, one in variables.items()}
    assert len(tags) == 51

    def received(found: list[dict[str, Any]]) -> dict[str, set[tuple[int, float | None, int]]]:
        """Return by tag the ticks, values and qualities; registers that were read together have one tick."""
        clocks = {(one["tag"].split("/")[0], one["time"]): one["value"] for one in found if one["tag"].endswith("/timestamp") and one["value"]}
        values = defaultdict[str, set[tuple[int, float | None, int]]](set)
        for one in found:
            at = clocks.get((one["tag"].split("/")[0], one["time"])) if clocks else (one["source_time"] or 0) / 1000
            if one["tag"] in tags and at and at * 1000 >= START:
                values[one["tag"]].add((round((at * 1000 - START) / INTERVAL_MS), one["value"], one["quality"]))
        return values

    async def run() -> list[dict[str, Any]]:
        source = modbus.source(f"{address}&interval=50ms&timeout=60s") if "map=" in address else opc.source(f"{address}?interval=100ms&timeout=60s")
        async with Bridged(log, source) as bridge:

            def seen(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
                assert process.poll() is None
                values = received(found)
                return found if {*values} == {*tags} and any(tick > 20 for tick, _, _ in values["stage1/LIT101"]) else []

            return list(await bridge.until(seen, "a value of each tag, and the attack"))

    with simulated(address, plant=["water", *options]) as process:
        if "map=" in address:
            wait_for(lambda: map_.exists() and map_.stat().st_size > 0, "the register map", seconds=LIMIT)
        values = received(asyncio.run(run()))
    last = max(tick for one in values.values() for tick, _, _ in one)
    rows = [json.loads(line) for lines in islice(WATER.line_batches(START, INTERVAL_MS), last + 1) for line in lines]
    shown = {"Open": 2.0, "Closed": 1.0}
    for tag, one in values.items():
        for tick, value, quality in one:
            text = rows[tick][tag.split("/")[1]]
            assert (value, quality) == (NO_DATA if text == "Bad Input" else (shown.get(text) or float(text), Quality.GOOD)), (tag, tick)
    assert labels.read_text().splitlines()[1].split(",")[2] == SCENARIO


@pytest.mark.parametrize(
    ("plant", "options", "complaint"),
    [
        ("plc", ["--to", "modbus://127.0.0.1:1"], "names no register map to write"),
        ("plc", ["--to", "modbus://127.0.0.1:1?map=map.csv", "--plcs", "248"], "a Modbus server has up to 247 units"),
        ("plc", ["--to", "modbus://127.0.0.1:1/path?map=map.csv"], "give an address such as modbus://127.0.0.1:5020?map=registers.csv"),
        ("plc", ["--to", "opc.tcp://127.0.0.1:1?node=i=1"], "has no parameter 'node'"),
        ("plc", ["--to", "opc.tcp://127.0.0.1:1", "--history", "1m"], "have only the latest values"),
        ("plc", ["--to", "sparkplug://127.0.0.1:1/a/b/c"], "has the path 'a/b/c'; give a group, or a group and an edge node"),
        ("plc", ["--to", "sparkplug://127.0.0.1:1"], "has the path ''"),
        ("kiln", ["--to", "opc.tcp://127.0.0.1:1"], "a kiln cannot be served"),
        ("water", ["--to", "opc.tcp://127.0.0.1:1", "--readings"], "servers take rows"),
        ("water", ["--attacks-to", "opc.tcp://127.0.0.1:1"], "the rows of attacks cannot be served apart"),
    ],
)
def test_what_cannot_be_served_is_refused(plant: str, options: list[str], complaint: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", plant, *options]) == 2
    assert complaint in capsys.readouterr().err
    assert list(home.parent.glob("*.csv")) == []


@pytest.mark.parametrize("address", ["modbus://127.0.0.1:{port}?map=map.csv", "opc.tcp://127.0.0.1:{port}"])
def test_a_port_in_use_is_reported_in_a_line(address: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["simulate", "plc", "--to", address.format(port=taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "the server cannot listen" in error
    assert "is the port in use" in error
    assert list(home.parent.glob("*.csv")) == []


def test_another_register_map_is_not_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home.parent / "map.csv"
    path.write_text("mine\n")
    assert main(["simulate", "plc", "--to", f"modbus://127.0.0.1:{free_port()}?map={path}"]) == 2
    assert "exists already, and is another register map" in capsys.readouterr().err
    assert path.read_text() == "mine\n"
