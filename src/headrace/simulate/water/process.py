"""The water of the plant: what pumps and valves do to levels, flows, pressures and chemistry, and the controllers that switch them.

Nothing is random here, and nothing is computed but sums, products and quotients. A level changes by exactly the flows that are measured at
that moment, so in normal operation the balance of each tank closes:

    tank 1: FIT101 in, FIT201 out      tank 3: FIT201 in, FIT301 out      tank 4: FIT301 in, FIT401 out

The permeate and backwash tanks have no tags and are not simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ACTUATORS", "FULL_MM", "MM_PER_SECOND", "SENSORS", "VALVES", "Control", "Process", "Raw"]

SENSORS = (
    "FIT101", "LIT101", "AIT201", "AIT202", "AIT203", "FIT201", "DPIT301", "FIT301", "LIT301", "AIT401", "AIT402", "FIT401", "LIT401",
    "AIT501", "AIT502", "AIT503", "AIT504", "FIT501", "FIT502", "FIT503", "FIT504", "PIT501", "PIT502", "PIT503", "FIT601",
)  # fmt: skip
VALVES = ("MV101", "MV201", "MV301", "MV302", "MV303", "MV304")
ACTUATORS = (
    *VALVES, "P101", "P102", "P201", "P202", "P203", "P204", "P205", "P206", "P301", "P302", "P401", "P402", "P403", "P404", "UV401",
    "P501", "P502", "P601", "P602", "P603",
)  # fmt: skip

FULL_MM = 1000.0
"""The level at which a tank overflows; what comes then is lost."""
MM_PER_SECOND = 1000 / 3600 / 1.5
"""How fast 1 m³/h fills a tank, whose base is 1.5 m²."""

_EMPTY_MM = 20.0  # below this a pump draws no water
_FLOW_SECONDS = 3.0  # how quickly a flow follows its pump and valve
_INLET, _FEED, _FILTERED, _RO_FEED, _BACKWASH, _RECYCLED = 4.2, 3.2, 2.4, 1.7, 2.0, 1.5  # m³/h
_CLEAN_KPA, _FOULED_KPA = 20.0, 40.0
_FOULING = 0.008  # kPa/s at full flow


@dataclass(slots=True)
class Raw:
    """The water that comes into the plant."""

    conductivity: float = 242.0
    ph: float = 8.7
    orp: float = 350.0
    hardness: float = 148.0


@dataclass(slots=True)
class Process:
    """The flow of the water.

    Attributes
    ----------
    worn, leaks
        Faults: what share of its flow a pump has lost, and how much a tank loses, m³/h.
    """

    level1: float = 600.0
    level3: float = 700.0
    level4: float = 700.0
    inlet: float = 0.0
    feed: float = 0.0
    filtered: float = 0.0
    ro_feed: float = 0.0
    backwash: float = 0.0
    fouling: float = _CLEAN_KPA
    drop: float = 0.0
    conductivity: float = 255.0
    ph: float = 8.4
    orp: float = 440.0
    tank_conductivity: float = 255.0
    tank_ph: float = 8.4
    tank_orp: float = 440.0
    hardness: float = 148.0
    dechlorinated: float = 230.0
    permeate: float = 13.0
    worn: Mapping[str, float] = field(default_factory=dict)
    leaks: Mapping[str, float] = field(default_factory=dict)

    def step(self, on: Mapping[str, bool], raw: Raw, seconds: float) -> None:
        """Let time pass, in which the actuators stay as they are."""
        worn, leaks = self.worn, self.leaks
        follow = min(seconds / _FLOW_SECONDS, 1.0)
        pumped = (on["P101"] and 1 - worn.get("P101", 0.0)) or (on["P102"] and 1.0)
        feed = _FEED * pumped if on["MV201"] and self.level1 > _EMPTY_MM else 0.0
        pushed = (on["P301"] and 1 - worn.get("P301", 0.0)) or (on["P302"] and 1.0)
        lifts = pushed and self.level3 > _EMPTY_MM
        filtered = _FILTERED * pushed if lifts and on["MV302"] else 0.0
        ro_feed = _RO_FEED if (on["P401"] or on["P402"]) and self.level4 > _EMPTY_MM else 0.0
        self.inlet += (_INLET * on["MV101"] - self.inlet) * follow
        self.feed += (feed - self.feed) * follow
        self.filtered += (filtered - self.filtered) * follow
        self.ro_feed += (ro_feed - self.ro_feed) * follow
        self.backwash += (_BACKWASH * (on["P602"] and on["MV301"]) - self.backwash) * follow
        recycled = _RECYCLED if on["P601"] else 0.0
        gain = MM_PER_SECOND * seconds
        self.level1 = _within(self.level1 + gain * (self.inlet + recycled - self.feed - leaks.get("1", 0.0)))
        self.level3 = _within(self.level3 + gain * (self.feed - self.filtered - leaks.get("3", 0.0)))
        self.level4 = _within(self.level4 + gain * (self.filtered - self.ro_feed - leaks.get("4", 0.0)))
        # A filter fouls while water passes it and is rinsed by the backwash; a pump against a closed valve builds up its full pressure.
        self.fouling += _FOULING * (1 + leaks.get("filter", 0.0)) * self.filtered / _FILTERED * seconds
        self.fouling = max(self.fouling - 0.6 * self.backwash * seconds, _CLEAN_KPA)
        drop = 85.0 if lifts and not on["MV302"] else self.fouling * self.filtered / _FILTERED
        self.drop += (drop - self.drop) * follow
        self._mix(on, raw, seconds)

    def _mix(self, on: Mapping[str, bool], raw: Raw, seconds: float) -> None:
        """Dose chemicals into the feed, and mix it into what is in the tanks. Water that stands still keeps its chemistry."""
        fast = seconds / 120 * self.feed / _FEED
        slow = seconds / 900 * self.feed / _FEED
        self.conductivity += (raw.conductivity + 30 * (on["P201"] or on["P202"]) - self.conductivity) * fast
        self.ph += (raw.ph - 0.9 * (on["P203"] or on["P204"]) - self.ph) * fast
        self.orp += (raw.orp + 180 * (on["P205"] or on["P206"]) - self.orp) * fast
        self.tank_conductivity += (self.conductivity - self.tank_conductivity) * slow
        self.tank_ph += (self.ph - self.tank_ph) * slow
        self.tank_orp += (self.orp - self.tank_orp) * slow
        passing = seconds / 60 * self.ro_feed / _RO_FEED
        dechlorinated = self.tank_orp * (0.62 if on["UV401"] else 1.0) - 90 * (on["P403"] or on["P404"])
        self.dechlorinated += (dechlorinated - self.dechlorinated) * passing
        self.hardness += (raw.hardness - self.hardness) * passing / 4
        rejected = 0.05 if on["P501"] or on["P502"] else 0.15
        self.permeate += (rejected * self.tank_conductivity - self.permeate) * passing

    def measured(self) -> list[float]:
        """Return what the sensors would show without noise, in the order of `SENSORS`."""
        feed = self.ro_feed
        pressed = feed / _RO_FEED
        return [
            self.inlet, self.level1, self.conductivity, self.ph, self.orp, self.feed, self.drop, self.filtered, self.level3,
            self.hardness, self.dechlorinated, feed, self.level4,
            self.tank_ph - 0.6, self.dechlorinated - 10, self.tank_conductivity + 4, self.permeate, feed,
            0.735 * feed, 0.445 * feed, 0.18 * feed, 250 * pressed * pressed, 1.2 * pressed, 190 * pressed * pressed, self.backwash,
        ]  # fmt: skip


def _within(level: float) -> float:
    return min(max(level, 0.0), FULL_MM)


@dataclass(slots=True)
class Control:
    """The controllers: they see what the sensors show, and switch the actuators. A sensor without a value changes nothing.

    Attributes
    ----------
    inlet_stops_mm
        The level of tank 1 at which its inlet valve closes.
    duty
        The pump in service of each pair, and the one that stands by.
    """

    inlet_stops_mm: float = 800.0
    duty: dict[str, tuple[str, str]] = field(
        default_factory=lambda: {
            one: (one, f"{one[:-1]}{int(one[-1]) + 1}") for one in ("P101", "P201", "P203", "P205", "P301", "P401", "P403", "P501")
        }
    )
    inlet: bool = True
    feeds: bool = True
    filters: bool = True
    ro: bool = True
    salt: bool = False
    acid: bool = False
    chlorine: bool = False
    sulphite: bool = False
    rinses_s: float = 0.0
    since_rinse_s: float = 0.0

    def decide(self, seen: Mapping[str, float | str], seconds: float) -> dict[str, bool]:
        """Return which actuators are to be on (valves: open), by what the sensors show now."""

        def switch(was: bool, tag: str, on_at: float, off_at: float) -> bool:  # noqa: FBT001
            value = seen[tag]
            if isinstance(value, str):
                return was
            if on_at < off_at:
                return value <= on_at or (was and value < off_at)
            return value >= on_at or (was and value > off_at)

        self.inlet = switch(self.inlet, "LIT101", 500.0, self.inlet_stops_mm)
        self.feeds = switch(self.feeds, "LIT301", 600.0, 850.0)
        has_water = switch(self.feeds, "LIT101", 300.0, 250.0)
        self.filters = switch(self.filters, "LIT401", 600.0, 850.0)
        self.ro = switch(self.ro, "LIT401", 450.0, 280.0)
        flows = not isinstance(seen["FIT201"], str) and seen["FIT201"] > 0.5
        self.salt = switch(self.salt, "AIT201", 248.0, 262.0)
        self.acid = switch(self.acid, "AIT202", 8.5, 8.2)
        self.chlorine = switch(self.chlorine, "AIT203", 410.0, 470.0)
        self.sulphite = switch(self.sulphite, "AIT402", 270.0, 210.0)
        self._rinse(seen, seconds)
        rinses = self.rinses_s > 0
        filters = self.filters and not rinses and switch(True, "LIT301", 350.0, 300.0)
        feeds = self.feeds and has_water
        on = dict.fromkeys(ACTUATORS, False)
        on["MV101"], on["MV201"] = self.inlet, feeds
        on["MV302"] = filters
        on["MV301"] = on["MV303"] = on["P602"] = rinses
        on["MV304"] = 0 < self.rinses_s <= 15
        on["UV401"] = self.ro
        runs = {
            "P101": feeds, "P201": self.salt and flows, "P203": self.acid and flows, "P205": self.chlorine and flows,
            "P301": filters, "P401": self.ro, "P403": self.sulphite and self.ro, "P501": self.ro,
        }  # fmt: skip
        for one, is_on in runs.items():
            on[self.duty[one][0]] = is_on
        return on

    def _rinse(self, seen: Mapping[str, float | str], seconds: float) -> None:
        """Rinse the filter for a minute when it is fouled, or after 40 minutes; not again within two minutes."""
        drop = seen["DPIT301"]
        self.rinses_s = max(self.rinses_s - seconds, 0.0)
        self.since_rinse_s += seconds
        fouled = not isinstance(drop, str) and drop > _FOULED_KPA
        if self.since_rinse_s >= 2400 or (fouled and self.since_rinse_s >= 120):
            self.rinses_s, self.since_rinse_s = 60.0, 0.0
