"""Programmable logic controllers of a factory: each tick, one message from each.

    {"plc_id": "PLC_001", "timestamp": 1704067200.0, "variables": {"motor_speed": {"value": 1512.4, "unit": "RPM"}, …}}

`timestamp` is the event time, in seconds since the epoch. A message is a function of the plant and its number alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import msgspec

from headrace.errors import PlanError
from headrace.simulate.devices import Devices, Message, Variable
from headrace.simulate.generators import _dice, _triangle
from headrace.simulate.kiln import ticks

__all__ = ["UNIT_CODES", "VARIABLES", "Plc"]

VARIABLES = {
    "motor_speed": (0.0, 3000.0, "RPM"),
    "power_output": (0.0, 500.0, "kW"),
    "system_pressure": (0.0, 10.0, "bar"),
    "oil_temperature": (20.0, 95.0, "°C"),
}
"""The range and the unit of each variable."""

UNIT_CODES = {"RPM": "RPM", "kW": "KWT", "bar": "BAR", "°C": "CEL"}
"""The UNECE codes of these units."""

_MOST_PLCS = 10_000
_STRETCH = 30  # ticks that a stuck value lasts
_ANOMALY = 5  # ticks that an anomaly lasts
_SHARES = ("anomalies", "dropouts", "stuck", "spikes", "bad_values")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Plc:
    """Controllers PLC_001 to PLC_n, which send the same for the same seed on every machine.

    Values lie in the middle of their ranges. From `anomalies_after_s` on, a share of the stretches of five ticks has an anomaly: one
    variable is near the upper end of its range, or up to a fifth of it beyond.

    Attributes
    ----------
    dropouts
        The share of values that are missing.
    stuck
        The share of stretches of thirty ticks in which a value does not change.
    spikes
        The share of values that are far outside their range.
    bad_values
        The share of values that are the text "Bad Input".
    clock_drift
        By how many seconds an hour the clocks of the controllers are fast.
    """

    seed: int = 0
    count: int = 1
    anomalies: float = 0.1
    anomalies_after_s: float = 60.0
    dropouts: float = 0.0
    stuck: float = 0.0
    spikes: float = 0.0
    bad_values: float = 0.0
    clock_drift: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no plant can be.

        Raises
        ------
        PlanError
            If there is no controller, a share lies outside 0 to 1, or a clock is wrong by more than half.
        """
        if not 1 <= self.count <= _MOST_PLCS:
            raise PlanError(f"there are {self.count} controllers", where="plc plant", fix=f"give 1 to {_MOST_PLCS}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise PlanError(f"{name} is {getattr(self, name)}", where="plc plant", fix="a share lies between 0 and 1")
        if not abs(self.clock_drift) <= 1800 or not self.anomalies_after_s >= 0:
            raise PlanError("the clock drift or the time of the anomalies cannot be", where="plc plant", fix="give -1800 to 1800, and 0s or more")

    @property
    def equipment(self) -> tuple[str, ...]:
        """The senders, in this order."""
        return tuple(f"PLC_{number:03}" for number in range(1, self.count + 1))

    def record(self, tick: int, plc: int, start_ms: int, interval_ms: float = 1000) -> dict[str, Any]:
        """Return the message of a controller, from 0, at a tick."""
        seconds = tick * interval_ms / 1000
        named = ((name, self._value(name, tick, plc, interval_ms)) for name in VARIABLES)
        return {
            "plc_id": f"PLC_{plc + 1:03}",
            "timestamp": round((start_ms + int(tick * interval_ms)) / 1000 + seconds * self.clock_drift / 3600, 3),
            "variables": {name: {"value": value, "unit": VARIABLES[name][2]} for name, value in named if value is not None},
        }

    def _value(self, name: str, tick: int, plc: int, interval_ms: float) -> float | str | None:
        """Return a value; None where it is missing."""
        of = f"{self.seed} {plc} {name}"
        if _dice(f"{of} stuck {tick // _STRETCH}")[0] < self.stuck:
            tick -= tick % _STRETCH
        phase, period, _, _ = _dice(of)
        noise, missing, spike, bad = _dice(f"{of} {tick}")
        low, high, _ = VARIABLES[name]
        share = 0.5 + 0.15 * _triangle((tick / (120 + 240 * period) + phase) % 1) + 0.05 * (2 * noise - 1)
        share = self._abnormal(name, tick, plc, interval_ms) or share
        if missing < self.dropouts:
            return None
        if bad < self.bad_values:
            return "Bad Input"
        return round(low + (high - low) * (share + 2 if spike < self.spikes else share), 3)

    def _abnormal(self, name: str, tick: int, plc: int, interval_ms: float) -> float | None:
        """Return where in its range a variable is during an anomaly; None if it has none."""
        stretch = tick // _ANOMALY
        if stretch * _ANOMALY < ceil(self.anomalies_after_s * 1000 / interval_ms):
            return None
        lot, which, size, _ = _dice(f"{self.seed} {plc} anomaly {stretch}")
        return 0.95 + 0.25 * size if lot < self.anomalies and [*VARIABLES][int(which * len(VARIABLES))] == name else None

    def line_batches(self, start_ms: int, interval_ms: float = 1000) -> Iterator[list[bytes]]:
        """Yield without end each tick's messages as lines."""
        for tick, _ in enumerate(ticks(start_ms, interval_ms)):
            yield [_encode(self.record(tick, plc, start_ms, interval_ms)) for plc in range(self.count)]

    def devices(self) -> Devices:
        """Return the controllers as servers show them."""
        variables = {name: Variable(UNIT_CODES[unit], (low, high)) for name, (low, high, unit) in VARIABLES.items()}
        return Devices(dict.fromkeys(self.equipment, variables), _messages)


def _messages(line: dict[str, Any]) -> Iterator[Message]:
    values = {name: one["value"] if isinstance(one["value"], float) else None for name, one in line["variables"].items()}
    yield Message(line["plc_id"], line["timestamp"], values)
