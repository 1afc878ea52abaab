"""A power plant's generators: each tick, one reading from each.

    {"GeneratorID": "G1", "PowerOutput": 101.34, "FuelLevel": 57.2, "Voltage": 231.4, "FaultAlarms": "No", "timestamp": 1704067200000}

`timestamp` is the event time, in ms since the epoch. A record is a function of the plant and its number alone, so whoever has
read so far goes on with the next number, here or in another process. Dice are hashes of seed and number, and nothing is
computed but sums, products and rests: the bytes are the same on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from struct import unpack
from typing import Any

import msgspec

from headrace.errors import PlanError
from headrace.simulate.kiln import ticks

__all__ = ["HIGH_VOLTAGE", "LOW_FUEL", "START_MS", "Generators", "Span", "parse_span"]

Span = tuple[float, float]

START_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
LOW_FUEL, HIGH_VOLTAGE = "Yes: LowFuel", "Yes: HighVoltage"

_MOST_GENERATORS = 10_000
_MOST_VALUE = 1_000_000.0
_LOW_BAND, _HIGH_BAND = 0.1, 0.05  # of fuel and of voltage: what raises an alarm
_SPAN = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,2})?)\s*-\s*([0-9]{1,7}(?:\.[0-9]{1,2})?)")
_UNITS = {"PowerOutput": "MW", "FuelLevel": "%", "Voltage": "V"}

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Generators:
    """Generators G1 to Gn, which send the same for the same seed on every machine.

    Power follows a load that rises and falls. Fuel falls, and is filled up when it is nearly gone: in the lowest tenth of its
    range the alarm is LowFuel. Voltage lies about the middle of its range; in the highest twentieth the alarm is HighVoltage.
    `fault_probability` of the readings have one of these two besides. With `units`, numbers are text: `"101.34 MW"`.
    """

    seed: int = 0
    count: int = 10
    fault_probability: float = 0.0
    power: Span = (80.0, 120.0)
    fuel: Span = (0.0, 100.0)
    voltage: Span = (220.0, 240.0)
    units: bool = False

    def __post_init__(self) -> None:
        """Refuse what no plant can be.

        Raises
        ------
        PlanError
            If there is no generator, the probability lies outside 0 to 1 or a range is none.
        """
        if not 1 <= self.count <= _MOST_GENERATORS:
            raise PlanError(f"there are {self.count} generators", where="generators plant", fix=f"give 1 to {_MOST_GENERATORS}")
        if not 0 <= self.fault_probability <= 1:
            raise PlanError(f"fault_probability is {self.fault_probability}", where="generators plant", fix="a probability lies between 0 and 1")
        for name in ("power", "fuel", "voltage"):
            low, high = getattr(self, name)
            if not 0 <= low <= high - 1 <= _MOST_VALUE or (round(low, 2), round(high, 2)) != (low, high):
                raise PlanError(
                    f"{name} is {low} to {high}", where="generators plant", fix="the higher end is 1 or more above the lower; two decimals at most"
                )

    @property
    def equipment(self) -> tuple[str, ...]:
        """The senders, in this order."""
        return tuple(f"G{number}" for number in range(1, self.count + 1))

    def record(self, number: int, start_ms: int = START_MS, interval_ms: float = 1000) -> dict[str, Any]:
        """Return the record of a number, from 0: the generators send in turns, each once a tick."""
        tick, generator = divmod(number, self.count)
        noise, other_noise, lot, kind = _dice(f"{self.seed} {number}")
        load_phase, load_ticks, fuel_phase, fuel_ticks = _character(self.seed, generator)
        load = _triangle((tick / load_ticks + load_phase) % 1)
        power = _within(self.power, 0.5 + 0.4 * load + 0.1 * (2 * noise - 1))
        burnt = (tick / fuel_ticks + fuel_phase) % 1
        fuel = 1 - 0.95 * burnt
        voltage = 0.5 * (noise + other_noise)
        if lot < self.fault_probability:
            # A margin inside the bands, lest rounding bring the value back to what is no fault.
            if kind < 0.5:
                fuel = 1.8 * kind * _LOW_BAND
            else:
                voltage = 1 - 1.6 * (kind - 0.5) * _HIGH_BAND
        shown = {"PowerOutput": power, "FuelLevel": _within(self.fuel, fuel), "Voltage": _within(self.voltage, voltage)}
        return {
            "GeneratorID": f"G{generator + 1}",
            **({name: f"{value} {_UNITS[name]}" for name, value in shown.items()} if self.units else shown),
            "FaultAlarms": self._alarm(shown["FuelLevel"], shown["Voltage"]),
            "timestamp": start_ms + int(tick * interval_ms),
        }

    def _alarm(self, fuel: float, voltage: float) -> str:
        low, high = self.fuel
        if fuel < low + _LOW_BAND * (high - low):
            return LOW_FUEL
        low, high = self.voltage
        return HIGH_VOLTAGE if voltage > high - _HIGH_BAND * (high - low) else "No"

    def line(self, number: int, start_ms: int = START_MS, interval_ms: float = 1000) -> bytes:
        """Return the record of a number as compact JSON."""
        return _encode(self.record(number, start_ms, interval_ms))

    def line_batches(self, start_ms: int, interval_ms: float = 1000) -> Iterator[list[bytes]]:
        """Yield without end each tick's records as lines."""
        for tick, _ in enumerate(ticks(start_ms, interval_ms)):
            yield [self.line(number, start_ms, interval_ms) for number in range(tick * self.count, (tick + 1) * self.count)]


def _dice(text: str) -> tuple[float, float, float, float]:
    """Return four numbers in [0, 1)."""
    one, two, three, four = unpack("<4Q", blake2b(text.encode(), digest_size=32, person=b"generators").digest())
    return (one >> 11) * 2**-53, (two >> 11) * 2**-53, (three >> 11) * 2**-53, (four >> 11) * 2**-53


@lru_cache(maxsize=_MOST_GENERATORS)
def _character(seed: int, generator: int) -> tuple[float, int, float, int]:
    """Return where a generator stands in its load and in its tank at first, and how many ticks each lasts."""
    load_phase, load_ticks, fuel_phase, fuel_ticks = _dice(f"{seed} G{generator}")
    return load_phase, 300 + int(600 * load_ticks), fuel_phase, 600 + int(600 * fuel_ticks)


def _triangle(phase: float) -> float:
    """Return a wave of period 1 that goes in straight lines from -1 to 1 and back."""
    return 4 * phase - 1 if phase < 0.5 else 3 - 4 * phase


def _within(span: Span, share: float) -> float:
    low, high = span
    return round(low + (high - low) * share, 2)


def parse_span(text: str, where: str) -> Span:
    """Return the range in a text such as `80-120`.

    Raises
    ------
    PlanError
        If it is none.
    """
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise PlanError(f"{text!r} is no range", where=where, fix="write 80-120, two decimals at most")
    return float(match[1]), float(match[2])
