"""Attacks and faults of the water plant: what each manipulates, from when to when, and its technique of MITRE ATT&CK for ICS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from headrace.errors import PlanError, near
from headrace.simulate.generators import _dice

__all__ = ["SCENARIOS", "SLOT_S", "Drift", "Event", "Force", "Freeze", "Hold", "NoValue", "Replay", "Scenario", "Toggle", "chosen", "events", "named"]

SLOT_S = 3600
"""A scenario begins in each stretch of so many seconds, so that the plant recovers before the next."""
_MAINTENANCE_S = 300
_LEAD_S = 900  # from the beginning of a slot to the earliest scenario in it: maintenance is over by then


@dataclass(frozen=True, slots=True)
class Hold:
    """A sensor shows this value."""

    value: float


@dataclass(frozen=True, slots=True)
class Freeze:
    """A sensor shows the value that it had when the scenario began."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A sensor shows a value that moves away from the true one, by so much a second."""

    per_second: float


@dataclass(frozen=True, slots=True)
class Replay:
    """A sensor shows the last values before the scenario, again and again."""


@dataclass(frozen=True, slots=True)
class NoValue:
    """A sensor shows "Bad Input"."""


@dataclass(frozen=True, slots=True)
class Force:
    """An actuator is on or off (a valve: open or closed), whatever its controller decides."""

    on: bool


@dataclass(frozen=True, slots=True)
class Toggle:
    """An actuator is switched on and off, each for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """An attack or a fault.

    Attributes
    ----------
    technique
        The id of a technique of MITRE ATT&CK for ICS; empty for a fault.
    seconds
        How long it lasts.
    sensors, actuators
        What it does to them. Controllers see what the sensors show.
    shown
        Actuators that are shown on or off, whatever they are.
    worn, leaks
        What it does to the process; see `Process`.
    inlet_stops_mm
        The set point of the inlet valve's controller, if it is changed.
    seen_at
        Where it can be seen, besides the tags that it manipulates.
    """

    name: str
    kind: Literal["attack", "fault"]
    technique: str
    seconds: int
    description: str
    sensors: Mapping[str, Hold | Freeze | Drift | Replay | NoValue] = field(default_factory=dict)
    actuators: Mapping[str, Force | Toggle] = field(default_factory=dict)
    shown: Mapping[str, bool] = field(default_factory=dict)
    worn: Mapping[str, float] = field(default_factory=dict)
    leaks: Mapping[str, float] = field(default_factory=dict)
    inlet_stops_mm: float | None = None
    seen_at: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The tags that it manipulates, and those where a change of the process itself is seen."""
        return tuple(dict.fromkeys([*self.actuators, *self.shown, *self.sensors, *self.seen_at]))

    @property
    def extent(self) -> str:
        """How far it reaches: single or multiple stage (SS, MS), and in each of them a single or multiple points (SP, MP)."""
        stages = [next(letter for letter in tag if letter.isdigit()) for tag in self.targets]
        single = len(stages) == len(set(stages))
        return f"{'SS' if len(set(stages)) == 1 else 'MS'}{'SP' if single else 'MP'}"


_OFF, _ON = Force(on=False), Force(on=True)

SCENARIOS: Mapping[str, Scenario] = {
    one.name: one
    for one in (
        Scenario(
            "filter_outlet_closed", "attack", "T0855", 300, "The filter's outlet valve is closed while its pump runs.",
            actuators={"MV302": Force(on=False), "P301": _ON},
        ),
        Scenario(
            "inlet_valve_open", "attack", "T0855", 1800, "The inlet valve is opened by command, and the raw water tank fills up.",
            actuators={"MV101": _ON},
        ),
        Scenario(
            "feed_pump_stopped", "attack", "T0855", 900, "The raw water pump is stopped by command while the filter's tank needs water.",
            actuators={"P101": _OFF},
        ),
        Scenario(
            "raw_level_raised", "attack", "T0856", 600, "The raw water level is reported higher and higher, so that the inlet stays closed.",
            sensors={"LIT101": Drift(0.5)},
        ),
        Scenario(
            "filter_level_low", "attack", "T0856", 1200, "The level before the filter is reported as low, so that the feed pump runs on and the tank overflows.",
            sensors={"LIT301": Hold(480.0)},
        ),
        Scenario(
            "ro_level_high", "attack", "T0856", 900, "The level before the reverse osmosis is reported as high, so that filtering stops.",
            sensors={"LIT401": Hold(880.0)},
        ),
        Scenario(
            "pressure_drop_spoofed", "attack", "T0856", 900, "The filter's pressure drop is reported as high, so that it is rinsed again and again.",
            sensors={"DPIT301": Hold(46.0)},
        ),
        Scenario(
            "chlorine_stopped", "attack", "T0831", 1200, "Chlorine dosing is stopped while the analyser shows a usual value.",
            actuators={"P205": _OFF}, sensors={"AIT203": Hold(440.0)},
        ),
        Scenario(
            "acid_overdosed", "attack", "T0831", 1200, "Acid is dosed all the time while the analyser shows the value before.",
            actuators={"P203": _ON}, sensors={"AIT202": Freeze()},
        ),
        Scenario(
            "uv_off_hidden", "attack", "T0832", 1200, "The UV lamp is off and reported as on.",
            actuators={"UV401": _OFF}, shown={"UV401": True},
        ),
        Scenario(
            "raw_tank_drained", "attack", "T0831", 1200, "The feed pump runs with the inlet closed, while the level before the filter is reported as usual.",
            actuators={"MV101": _OFF, "P101": _ON, "MV201": _ON}, sensors={"LIT301": Hold(700.0)},
        ),
        Scenario(
            "feed_pump_toggled", "attack", "T0806", 600, "The feed pump is switched on and off every five seconds.",
            actuators={"P101": Toggle(5.0)},
        ),
        Scenario(
            "inlet_replayed", "attack", "T0856", 900, "The raw water tank is filled while its level and flow are replayed from the minutes before.",
            actuators={"MV101": _ON}, shown={"MV101": False}, sensors={"FIT101": Replay(), "LIT101": Replay()},
        ),
        Scenario(
            "dechlorination_blind", "attack", "T0815", 600, "No sensor of dechlorination delivers a value.",
            sensors={"AIT401": NoValue(), "AIT402": NoValue(), "FIT401": NoValue(), "LIT401": NoValue()},
        ),
        Scenario(
            "ro_shut_down", "attack", "T0816", 600, "The pumps of the reverse osmosis and the UV lamp are shut down.",
            actuators={"P401": _OFF, "UV401": _OFF, "P501": _OFF},
        ),
        Scenario(
            "permeate_recycled", "attack", "T0855", 900, "Permeate is pumped back into the raw water tank; no flow meter sees it.",
            actuators={"P601": _ON},
        ),
        Scenario(
            "inlet_setpoint_changed", "attack", "T0836", 1800, "The level at which the inlet closes is raised to 980 mm.",
            inlet_stops_mm=980.0, seen_at=("MV101",),
        ),
        Scenario(
            "filter_frozen", "attack", "T0832", 900, "Level, flow and pressure drop of the filter are shown frozen.",
            sensors={"LIT301": Freeze(), "FIT301": Freeze(), "DPIT301": Freeze()},
        ),
        Scenario(
            "flows_frozen", "attack", "T0856", 900, "The flow meters between the tanks are shown frozen.",
            sensors={"FIT201": Freeze(), "FIT301": Freeze(), "FIT401": Freeze()},
        ),
        Scenario(
            "filter_tank_leak", "fault", "", 1200, "The tank before the filter leaks 0.6 m³/h.",
            leaks={"3": 0.6}, seen_at=("LIT301",),
        ),
        Scenario(
            "feed_pump_worn", "fault", "", 1800, "The raw water pump delivers 40 % less.",
            worn={"P101": 0.4}, seen_at=("FIT201",),
        ),
        Scenario(
            "filter_clogged", "fault", "", 1500, "The filter fouls six times as fast.",
            leaks={"filter": 5.0}, seen_at=("DPIT301",),
        ),
        Scenario(
            "conductivity_drift", "fault", "", 1800, "The conductivity sensor of the reverse osmosis drifts.",
            sensors={"AIT503": Drift(0.03)},
        ),
        Scenario(
            "ro_level_stuck", "fault", "", 1200, "The level sensor before the reverse osmosis is stuck.",
            sensors={"LIT401": Freeze()},
        ),
        Scenario(
            "feed_valve_stuck", "fault", "", 900, "The valve between the raw water pump and the filter's tank is stuck closed.",
            actuators={"MV201": Force(on=False)},
        ),
    )
}  # fmt: skip
"""All scenarios, by name."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens in the plant from `start_s` to before `end_s`, in seconds from its first tick."""

    start_s: float
    end_s: float
    name: str
    kind: Literal["attack", "fault", "maintenance"]
    tags: tuple[str, ...]
    scenario: Scenario | None = None
    """The manipulation; None for maintenance."""


def named(text: str) -> tuple[str, ...]:
    """Return the names in a text such as `uv_off_hidden, flows_frozen`; `all` stands for all of them."""
    return tuple(SCENARIOS) if text.strip() == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


def chosen(names: Sequence[str]) -> tuple[Scenario, ...]:
    """Return the scenarios of some names.

    Raises
    ------
    PlanError
        If there is no such scenario.
    """
    for name in names:
        if name not in SCENARIOS:
            raise PlanError(f"there is no scenario {name!r}", where="water plant", fix=near(name, SCENARIOS))
    return tuple(SCENARIOS[name] for name in names)


_CALIBRATED = ("AIT201", "AIT202", "AIT203", "AIT401", "AIT402", "AIT501", "AIT502", "AIT503", "AIT504")
_EXCHANGED = ("P101", "P301", "P401", "P501")


def events(seed: int, scenarios: Sequence[Scenario], after_s: float, *, maintenance: bool) -> Iterator[Event]:
    """Yield without end what happens, in the order of time: an hourly maintenance, and one scenario after the other.

    The first scenario begins `after_s` seconds after the first tick, the next ones an hour later each and up to ten minutes more.
    """
    slot = 0
    while True:
        begin = after_s + slot * SLOT_S
        if maintenance:
            at = begin - _LEAD_S + 60
            if at >= 0:
                yield _maintenance(slot, at)
        if scenarios:
            scenario = scenarios[slot % len(scenarios)]
            start = begin + (int(600 * _dice(f"{seed} water slot {slot}")[0]) if slot else 0)
            yield Event(start, start + scenario.seconds, scenario.name, scenario.kind, scenario.targets, scenario)
        slot += 1


def _maintenance(slot: int, at: float) -> Event:
    """Return a calibration of an analyser, or every other time the use of a standby pump."""
    number, odd = divmod(slot, 2)
    if odd:
        one = _EXCHANGED[number % len(_EXCHANGED)]
        return Event(at, at + _MAINTENANCE_S, f"standby_of_{one.lower()}", "maintenance", (one, f"{one[:-1]}2"))
    analyser = _CALIBRATED[number % len(_CALIBRATED)]
    return Event(at, at + _MAINTENANCE_S, f"calibration_of_{analyser.lower()}", "maintenance", (analyser,))
