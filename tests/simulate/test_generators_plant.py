"""The simulated generators (G1)."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.simulate import Generators, parse_span
from headrace.simulate.generators import HIGH_VOLTAGE, LOW_FUEL, START_MS

seeds = st.integers(-(2**70), 2**70)
numbers = st.integers(0, 2**53)


def records(plant: Generators, count: int, first: int = 0) -> list[dict[str, Any]]:
    return [json.loads(plant.line(number)) for number in range(first, first + count)]


@given(seed=seeds, number=numbers, other=numbers)
def test_a_record_is_a_function_of_seed_and_number(seed: int, number: int, other: int) -> None:
    plant = Generators(seed, fault_probability=0.3)
    line = plant.line(number)
    plant.line(other)
    assert plant.line(number) == line == Generators(seed, fault_probability=0.3).line(number)


@given(one=seeds, other=seeds)
def test_other_seeds_send_other_records(one: int, other: int) -> None:
    assert (records(Generators(one), 3) == records(Generators(other), 3)) is (one == other)


def test_the_bytes_are_these_on_every_machine() -> None:
    assert Generators(42).line(0) == (
        b'{"GeneratorID":"G1","PowerOutput":87.4,"FuelLevel":8.44,"Voltage":230.4,"FaultAlarms":"Yes: LowFuel","timestamp":1704067200000}'
    )
    plant = Generators(42, 7, 0.3, (0, 50), (1.5, 99.25), (380, 420), units=True)
    assert (
        hashlib.sha256(b"\n".join(plant.line(number) for number in range(10_000))).hexdigest()
        == "29609326ed7ff81008a2bb275afff6ab65e2d9c116ab3b3436c79217e46e0fc4"
    )


def test_the_generators_send_in_turns_once_a_second() -> None:
    found = records(Generators(), 30)
    assert [one["GeneratorID"] for one in found] == [f"G{number}" for number in range(1, 11)] * 3
    assert [one["timestamp"] for one in found] == [START_MS + 1000 * (place // 10) for place in range(30)]
    assert all(list(one) == ["GeneratorID", "PowerOutput", "FuelLevel", "Voltage", "FaultAlarms", "timestamp"] for one in found)


@given(seed=seeds, fault=st.sampled_from([0.0, 0.5, 1.0]), low=st.integers(0, 500_000), span=st.floats(1, 1e5))
def test_values_stay_in_their_ranges_and_alarms_say_what_the_values_say(seed: int, fault: float, low: int, span: float) -> None:
    high = round(low + max(span, 1), 2)
    plant = Generators(seed, 3, fault, (low, high), (low, high), (low, high))
    for one in records(plant, 50):
        assert all(low <= one[name] <= high for name in ("PowerOutput", "FuelLevel", "Voltage"))
        if one["FuelLevel"] < low + 0.1 * (high - low):
            assert one["FaultAlarms"] == LOW_FUEL
        elif one["Voltage"] > high - 0.05 * (high - low):
            assert one["FaultAlarms"] == HIGH_VOLTAGE
        else:
            assert one["FaultAlarms"] == "No"
            assert fault < 1


def test_power_follows_a_load_over_all_of_its_range() -> None:
    powers = [one["PowerOutput"] for one in records(Generators(3, 1), 3000)]
    assert 80 <= min(powers) < 84
    assert 116 < max(powers) <= 120
    means = [sum(powers[place : place + 100]) / 100 for place in range(0, 3000, 100)]
    assert max(means) - min(means) > 20, "it is a load, not noise"


def test_fuel_falls_slowly_and_is_filled_up_when_nearly_gone() -> None:
    levels = [one["FuelLevel"] for one in records(Generators(4, 1), 5000)]
    steps = [after - before for before, after in pairwise(levels)]
    filled = [place for place, step in enumerate(steps) if step > 0]
    assert 4 <= len(filled) <= 9
    assert all(levels[place] < 6 and levels[place + 1] > 99 for place in filled)
    assert all(-0.2 < step <= 0 for place, step in enumerate(steps) if place not in filled)


def test_faults_come_by_themselves_and_as_often_as_asked_besides() -> None:
    def share(probability: float, what: str) -> float:
        return sum(one["FaultAlarms"] == what for one in records(Generators(5, fault_probability=probability), 20_000)) / 20_000

    assert share(0, LOW_FUEL) == pytest.approx(0.05, abs=0.02)
    assert share(0, HIGH_VOLTAGE) == pytest.approx(0.005, abs=0.003)
    assert share(0.4, "No") == pytest.approx(0.6 * 0.945, abs=0.02)
    assert share(0.4, HIGH_VOLTAGE) == pytest.approx(0.2, abs=0.02)
    assert share(1, "No") == 0


def test_a_fault_changes_nothing_but_what_it_spoils() -> None:
    for calm, faulty in zip(records(Generators(6), 500), records(Generators(6, fault_probability=0.5), 500), strict=True):
        changed = {name for name in calm if calm[name] != faulty[name]}
        assert changed <= {"FuelLevel", "FaultAlarms"} or changed <= {"Voltage", "FaultAlarms"}


def test_units_are_the_numbers_with_their_units() -> None:
    for plain, told in zip(records(Generators(7), 100), records(Generators(7, units=True), 100), strict=True):
        for name, unit in {"PowerOutput": "MW", "FuelLevel": "%", "Voltage": "V"}.items():
            assert re.fullmatch(rf"[0-9]+\.[0-9]{{1,2}} {unit}", told[name])
            assert float(told.pop(name).split()[0]) == plain.pop(name)
        assert told == plain


@pytest.mark.parametrize("interval_ms", [1000, 0.5, 1500.25])
def test_what_simulate_writes_is_the_same_records(interval_ms: float) -> None:
    plant = Generators(8, 3)
    batches = list(islice(plant.line_batches(START_MS, interval_ms), 50))
    assert [line for batch in batches for line in batch] == [plant.line(number, START_MS, interval_ms) for number in range(150)]
    assert {len(batch) for batch in batches} == {len(plant.equipment)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"count": 10_001},
        {"fault_probability": 1.1},
        {"fault_probability": float("nan")},
        {"power": (80, 80.5)},
        {"fuel": (-1, 100)},
        {"voltage": (220.001, 240)},
        {"voltage": (0, float("inf"))},
    ],
)
def test_a_plant_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="generators" if "count" in wrong else next(iter(wrong))):
        Generators(**wrong)


@pytest.mark.parametrize(("text", "span"), [("80-120", (80, 120)), (" 0.5 - 99.25 ", (0.5, 99.25))])
def test_ranges_are_read(text: str, span: tuple[float, float]) -> None:
    assert parse_span(text, "power") == span


@pytest.mark.parametrize("text", ["", "80", "80-", "-1-5", "1e3-1e4", "80–120", "1.001-2", "a-b"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="power"):
        parse_span(text, "power")
