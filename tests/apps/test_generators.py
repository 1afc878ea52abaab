"""The generators pipeline (G3): its statistics against plain Python, on files and live, and the whole chain as processes."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from broker import Shared
from calling import called
from forking import started
from headrace.cli import main
from headrace.simulate import Generators
from headrace.simulate.generators import START_MS
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from serving import LIMIT, Server
from waiting import wait_for

MINUTE = 60_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "WINDOW_SECONDS", "WATERMARK_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def number_of(given: Any, unit: str) -> float:
    """A value of a record, with or without its unit."""
    return float(str(given).removesuffix(unit))


def statistics_of(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """G3, in plain Python."""
    records = list(records)
    powers = [number_of(one["PowerOutput"], "MW") for one in records]
    return {
        "readings": len(records),
        "unreadable": 0,
        "average_power": pytest.approx(statistics.fmean(powers), rel=1e-12),
        "minimum_power": min(powers),
        "maximum_power": max(powers),
        "average_fuel": pytest.approx(statistics.fmean(number_of(one["FuelLevel"], "%") for one in records), rel=1e-12),
        "average_voltage": pytest.approx(statistics.fmean(number_of(one["Voltage"], "V") for one in records), rel=1e-12),
        "faults": sum(one["FaultAlarms"] != "No" for one in records),
    }


def iso(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def expected(records: Iterable[dict[str, Any]], window_ms: int = MINUTE) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the two outputs hold: the windows' statistics, and those of all time."""
    windows, totals = defaultdict(list), defaultdict(list)
    for one in records:
        windows[one["timestamp"] // window_ms * window_ms, one["GeneratorID"]].append(one)
        totals[one["GeneratorID"]].append(one)
    return (
        [
            {"GeneratorID": generator, "window_start": iso(start), "window_end": iso(start + window_ms), **statistics_of(windows[start, generator])}
            for start, generator in sorted(windows)
        ],
        [{"GeneratorID": generator, **statistics_of(totals[generator])} for generator in sorted(totals)],
    )


def run(lines: Iterable[bytes], *options: str) -> tuple[list[Any], list[Any], list[Any], dict[str, int]]:
    """Run the pipeline over a file; return both outputs, the dead letters and the ledger."""
    Path("in.ndjson").write_bytes(b"\n".join(lines))
    assert main(["run", "generators", "--input", "in.ndjson", "--output", "out", *options]) == 0
    names = ("generator-stats", "generator-totals", "scada_data_topic.dead-letter")
    stats, totals, dead = ([json.loads(line) for line in Path(f"out/{name}.ndjson").read_text().splitlines()] for name in names)
    return stats, totals, dead, json.loads(Path("out/ledger.json").read_text())["sources"]["scada_data_topic"]


def record(time_ms: int = START_MS, **fields: Any) -> bytes:
    whole = {"GeneratorID": "G1", "PowerOutput": 100, "FuelLevel": 50, "Voltage": 230, "FaultAlarms": "No", "timestamp": time_ms}
    return json.dumps(whole | fields).encode()


# on files


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_statistics_are_those_of_plain_python(seed: int, units: bool) -> None:
    plant = Generators(seed, fault_probability=0.1, units=units)
    records = [plant.record(number) for number in range(5000)]
    stats, totals, dead, ledger = run(plant.line(number) for number in range(5000))
    assert (stats, totals) == expected(records)
    assert (dead, ledger["received"], ledger["accepted"]) == ([], 5000, 5000)
    assert sum(one["faults"] for one in stats) > 400


def test_disorder_within_the_watermark_changes_nothing() -> None:
    dice, plant = random.Random(3), Generators(3)
    order = sorted(range(3000), key=lambda number: plant.record(number)["timestamp"] + dice.uniform(0, 4999))
    stats, totals, _, ledger = run(map(plant.line, order))
    assert (stats, totals) == expected(plant.record(number) for number in range(3000))
    assert ledger["late"] == 0


def test_what_is_late_for_its_window_still_counts_in_all_time() -> None:
    late = record(START_MS, PowerOutput=90)
    stats, totals, _, ledger = run([record(START_MS + 30_000), record(START_MS + 70_000), late])
    assert [(one["window_start"], one["readings"]) for one in stats] == [("2024-01-01T00:00:00Z", 1), ("2024-01-01T00:01:00Z", 1)]
    assert [(one["readings"], one["minimum_power"]) for one in totals] == [(3, 90)]
    assert (ledger["accepted"], ledger["late"]) == (3, 0), "a window took it"


def test_windows_are_as_long_as_asked() -> None:
    plant = Generators(4)
    stats, _, _, _ = run((plant.line(number) for number in range(2000)), "--set", "window_seconds=20")
    assert stats == expected((plant.record(number) for number in range(2000)), 20_000)[0]


@pytest.mark.parametrize(
    ("given", "power"),
    [
        (101.3, 101.3),
        ("101.3", 101.3),
        ("101.3 MW", 101.3),
        ("101.3MW", 101.3),
        ("  1.013e2  MW ", 101.3),
        (".5 MW", 0.5),
        ("-3 MW", -3.0),
        ("101.3 kW", None),
        ("MW", None),
        ("1.2.3 MW", None),
        ("", None),
        ("n/a", None),
        (None, None),
        (True, None),
        ([1], None),
    ],
)
def test_a_power_is_a_number_with_or_without_its_unit(given: Any, power: float | None) -> None:
    (one,) = run([record(PowerOutput=given)])[1]
    assert (one["average_power"], one["minimum_power"], one["maximum_power"]) == (power, power, power)
    assert one["unreadable"] == (power is None)
    assert (one["average_fuel"], one["average_voltage"]) == (50, 230)


def test_each_value_has_its_own_unit() -> None:
    (one,) = run([record(FuelLevel="40 %", Voltage="231.5 V"), record(FuelLevel="40 V", Voltage="231.5 %")])[1]
    assert (one["average_fuel"], one["average_voltage"], one["unreadable"]) == (40, 231.5, 1)


@pytest.mark.parametrize(("alarm", "faults"), [("No", 0), ("Yes: LowFuel", 1), ("Yes: HighVoltage", 1), ("Yes: Fire", 1), (None, 0)])
def test_no_is_not_a_fault(alarm: str | None, faults: int) -> None:
    assert [one["faults"] for one in run([record(FaultAlarms=alarm)])[1]] == [faults]


def test_what_cannot_be_read_is_a_dead_letter_and_costs_nothing_else() -> None:
    bad = [b"not json", b'"cut', record(timestamp="soon"), record(GeneratorID=None), record(timestamp=5)]
    stats, _, dead, ledger = run([record(), *bad, record()])
    assert [one["readings"] for one in stats] == [2]
    assert [one["raw"].encode() for one in dead] == bad
    assert (ledger["accepted"], ledger["malformed"]) == (2, 5)


# the whole chain, as processes: server, bridge, pipeline


def read(log: Log, topic: str) -> list[Any]:
    entries, offset = [], 0
    while more := log.entries(topic, 0, offset, 100_000):
        entries += more
        offset = more[-1].offset + 1
    return [json.loads(entry.value) for entry in entries]


@pytest.fixture
def served() -> Iterator[Server]:
    with Server().running() as one:
        yield one


def chain(log: Log, served: Server, scheme: str, options: list[str]) -> None:
    """Run the three commands side by side, the bridge killed once, and check what comes out."""
    count, query = 8000, "count=8000&rate=2000&seed=5&units=true&fault_probability=0.05"
    bridge = ["bridge", served.url(query), f"{scheme}:scada_data_topic", *options]
    first = started(*bridge, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("headrace bridge: "), first.communicate(timeout=LIMIT)[1]
        pipeline = started("run", "generators", *options, "--drain", "--records", str(count), stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: sum(one.end - one.first for one in log.topic("scada_data_topic").partitions) > count // 8, seconds=LIMIT)
            first.kill()
            first.wait(LIMIT)
            done = called(*bridge)
            assert done.returncode == 0, done.stderr
            _, err = pipeline.communicate(timeout=LIMIT)
        finally:
            pipeline.kill()
    assert pipeline.returncode == 0, err
    assert "scada_data_topic: 8,000 received = 8,000 accepted" in err
    plant = Generators(5, fault_probability=0.05, units=True)
    records = [plant.record(number) for number in range(count)]
    assert read(log, "scada_data_topic") == records
    stats, totals = expected(records)
    assert sorted(read(log, "generator-stats"), key=lambda one: (one["window_start"], one["GeneratorID"])) == stats
    assert read(log, "generator-totals") == totals


def test_the_chain_through_the_sqlite_log(folder: Path, served: Server) -> None:
    with closing(SqliteLog(folder / ".headrace" / "log.db")) as log:
        chain(log, served, "topic", [])


def test_the_chain_through_kafka(kafka: Shared, folder: Path, served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.topics.kafka import KafkaLog
    from headrace.topics.prefixed import PrefixedLog

    prefix = f"{uuid.uuid4().hex}."
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", prefix)
    with closing(KafkaLog(kafka.servers, folder / ".headrace")) as log:
        chain(PrefixedLog(log, prefix), served, "kafka", ["--kafka-servers", kafka.servers])
