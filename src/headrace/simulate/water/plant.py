"""A water treatment plant of six stages in the manner of SWaT: each tick, one row of 51 tags, or a reading of each.

    {"t_stamp":"1704067200000000000","FIT101":"4.2013","LIT101":"600.4","MV101":"Open","P101":"2", …}

`t_stamp` is the event time in ns since the epoch. Values are texts. Valves are "Open" or "Closed", pumps and the lamp "2" (on) or "1" (off), and a
sensor without a value shows "Bad Input". The same seed gives the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from random import Random

from headrace.errors import PlanError
from headrace.plant.quality import Quality
from headrace.plant.tags import Tag, Tags, load
from headrace.simulate.generators import _dice, _triangle
from headrace.simulate.kiln import ticks
from headrace.simulate.water.process import ACTUATORS, SENSORS, VALVES, Control, Process, Raw
from headrace.simulate.water.scenarios import Drift, Event, Force, Hold, NoValue, Replay, Scenario, chosen, events

__all__ = ["NOISE", "Row", "Water", "water_tags"]

NO_VALUE = "Bad Input"
NOISE = {
    "FIT101": 0.02, "LIT101": 0.5, "AIT201": 0.4, "AIT202": 0.01, "AIT203": 1.0, "FIT201": 0.02, "DPIT301": 0.2, "FIT301": 0.02, "LIT301": 0.5,
    "AIT401": 0.3, "AIT402": 1.0, "FIT401": 0.01, "LIT401": 0.5, "AIT501": 0.01, "AIT502": 1.0, "AIT503": 0.4, "AIT504": 0.1, "FIT501": 0.01,
    "FIT502": 0.01, "FIT503": 0.01, "FIT504": 0.005, "PIT501": 1.0, "PIT502": 0.02, "PIT503": 1.0, "FIT601": 0.02,
}  # fmt: skip
"""The greatest error of each sensor, in its unit. A value is never below 0: the error is not greater than the value itself."""

_DECIMALS = {"LIT": 1, "AIT": 2, "DPI": 2, "FIT": 4, "PIT": 2}
_REPLAYED = 300  # ticks
_LONGEST_STEP_S = 1.0
_SHORTEST_BAD, _LONGEST_BAD = 1, 20  # ticks
_PLACES = {name: place for place, name in enumerate(SENSORS)}


@lru_cache(maxsize=1)
def water_tags() -> Tags:
    """Return the tag list of the plant: units, ranges, limits, and the spellings of SWaT's exports."""
    return load(Path(__file__).with_name("tags.csv"), loose=True)


@dataclass(frozen=True, slots=True)
class Row:
    """All tags at one tick.

    Attributes
    ----------
    values
        What each sensor shows: a number, or "Bad Input".
    states
        Whether each actuator is shown as on (a valve: open).
    true
        What each sensor would show without noise, fault or attack.
    events
        What happens at this moment.
    """

    time_ms: int
    values: Mapping[str, float | str]
    states: Mapping[str, bool]
    true: Mapping[str, float]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Water:
    """A water treatment plant.

    Attributes
    ----------
    scenarios
        The names of attacks and faults, which follow each other, one an hour, again and again.
    after_s
        When the first of them begins, in seconds after the first tick.
    bad_share
        How often a sensor shows "Bad Input" for a while: the share of ticks at which this begins.
    maintenance
        Whether an analyser is calibrated or a standby pump used once an hour.
    marked
        Whether a row that comes during an attack has its name as `attack_type`.
    readings
        Whether the lines are readings, one of each tag a tick, instead of rows.
    """

    seed: int = 0
    scenarios: tuple[str, ...] = ()
    after_s: float = 900.0
    bad_share: float = 0.0005
    maintenance: bool = True
    marked: bool = False
    readings: bool = False
    _tags: tuple[Tag, ...] = field(default_factory=lambda: tuple(water_tags()), repr=False)

    def __post_init__(self) -> None:
        """Refuse a plant that cannot be.

        Raises
        ------
        PlanError
            If there is no such scenario, the share lies outside 0 to 1, or the first scenario begins before the first tick.
        """
        chosen(self.scenarios)
        if not 0 <= self.bad_share <= 1:
            raise PlanError(f"bad_share is {self.bad_share}", where="water plant", fix="a share lies between 0 and 1")
        if not 0 <= self.after_s < math.inf:
            raise PlanError(f"after_s is {self.after_s}", where="water plant", fix="give 0 or more seconds")
        if self.marked and self.readings:
            raise PlanError("readings have no place for the name of an attack", where="water plant", fix="leave --marked and --attacks-to out")

    @property
    def equipment(self) -> tuple[str, ...]:
        """The senders, in this order: the plant a row, or each tag a reading."""
        return tuple(tag.path for tag in self._tags) if self.readings else ("water",)

    def planned(self) -> Iterator[Event]:
        """Yield the attacks, faults and maintenance in the order in which they begin; without end, unless there are none."""
        if not self.scenarios and not self.maintenance:
            return iter(())
        return events(self.seed, chosen(self.scenarios), self.after_s, maintenance=self.maintenance)

    def rows(self, start_ms: int, interval_ms: float = 1000) -> Iterator[Row]:
        """Yield the rows of all ticks without end, with what is true beside what is shown."""
        run = _Run(self, interval_ms)
        for time in ticks(start_ms, interval_ms):
            values, states = run.tick()
            yield Row(time, dict(zip(SENSORS, values, strict=True)), states, dict(zip(SENSORS, run.true, strict=True)), tuple(run.active))
            run.advance()

    def line_batches(self, start_ms: int, interval_ms: float = 1000) -> Iterator[list[bytes]]:
        """Yield without end the lines of each tick."""
        run = _Run(self, interval_ms)
        write = _Readings(self._tags) if self.readings else _Rows(self._tags)
        for time in ticks(start_ms, interval_ms):
            values, states = run.tick()
            attacks = [event.name for event in run.active if event.kind == "attack"] if self.marked else ()
            yield write(time, values, states, attacks)
            run.advance()


class _Run:
    """A plant while it runs: `tick` shows it at a moment, `advance` lets the time to the next tick pass."""

    def __init__(self, water: Water, interval_ms: float) -> None:
        self._seconds = interval_ms / 1000
        self._steps = max(math.ceil(self._seconds / _LONGEST_STEP_S), 1)
        self._process, self._control, self._raw = Process(), Control(), Raw()
        self._draw = Random(f"water {water.seed}").random
        self._bad_share = water.bad_share
        self._planned = water.planned()
        self._next = next(self._planned, None)
        self._phases = _dice(f"{water.seed} water raw")
        self._number, self._changes = 0, 0.0
        self._on: dict[str, bool] = {}
        self._noise = [NOISE[name] for name in SENSORS]
        self._bad: dict[int, int] = {}  # the places of sensors that show nothing, and the tick at which they do again
        self._frozen: dict[str, float | str] = {}
        self._before: deque[list[float | str]] = deque(maxlen=_REPLAYED)
        self._replayed: list[list[float | str]] = []
        self.active: list[Event] = []
        self.true: list[float] = []

    def tick(self) -> tuple[list[float | str], Mapping[str, bool]]:
        """Return what the sensors show and which actuators are shown as on; the controllers decide by the former."""
        now = self._number * self._seconds
        if self._number == 0 or now >= self._changes:
            self._change(now)
        self.true = self._process.measured()
        draw = self._draw
        shown: list[float | str] = [
            true + (noise if noise < true else true) * (2 * draw() - 1)  # noqa: FURB136  (a call of min costs a tenth of a row)
            for true, noise in zip(self.true, self._noise, strict=True)
        ]
        # Two numbers are drawn at each tick, whatever comes of them, so that a scenario changes no noise.
        begins, which = draw(), draw()
        if begins < self._bad_share:
            place, long = divmod(which * len(SENSORS), 1)
            self._bad[int(place)] = self._number + _SHORTEST_BAD + int(long * _LONGEST_BAD)
        for place in [place for place, until in self._bad.items() if until <= self._number]:
            del self._bad[place]
        if self.active:
            self._manipulate(shown, now)
        else:
            self._before.append(shown)
        for place in self._bad:
            shown[place] = NO_VALUE
        self._on = self._control.decide(dict(zip(SENSORS, shown, strict=True)), self._seconds)
        return shown, self._force(now) if self.active else self._on

    def advance(self) -> None:
        """Let the time to the next tick pass."""
        now = self._number * self._seconds
        one, two, three, four = self._phases
        raw = self._raw
        raw.conductivity = 242 + 6 * _triangle((now / 17_000 + one) % 1)
        raw.ph = 8.65 + 0.1 * _triangle((now / 23_000 + two) % 1)
        raw.orp = 350 + 15 * _triangle((now / 19_000 + three) % 1)
        raw.hardness = 148 + 4 * _triangle((now / 29_000 + four) % 1)
        for _ in range(self._steps):
            self._process.step(self._on, raw, self._seconds / self._steps)
        self._number += 1

    def _change(self, now: float) -> None:
        """Begin and end what is planned for this moment."""
        self.active = [event for event in self.active if event.end_s > now]
        while self._next is not None and self._next.start_s <= now:
            if self._next.end_s > now:
                self.active.append(self._next)
                self._frozen, self._replayed = {}, list(self._before)
            self._next = next(self._planned, None)
        upcoming = [event.end_s for event in self.active] + ([] if self._next is None else [self._next.start_s])
        self._changes = min(upcoming, default=math.inf)
        scenarios = [event.scenario for event in self.active if event.scenario is not None]
        self._process.worn = _merged(one.worn for one in scenarios)
        self._process.leaks = _merged(one.leaks for one in scenarios)
        self._control = _control(self._control, scenarios, [event for event in self.active if event.scenario is None])

    def _manipulate(self, shown: list[float | str], now: float) -> None:
        """Change what the sensors show, as the events of this moment say."""
        for event in self.active:
            if event.scenario is None:
                for tag in event.tags:
                    if tag in _PLACES:
                        shown[_PLACES[tag]] = NO_VALUE
                continue
            for tag, effect in event.scenario.sensors.items():
                place = _PLACES[tag]
                match effect:
                    case Hold(value):
                        shown[place] = value
                    case NoValue():
                        shown[place] = NO_VALUE
                    case Drift(per_second):
                        shown[place] = self.true[place] + per_second * (now - event.start_s)
                    case Replay() if self._replayed:
                        shown[place] = self._replayed[int((now - event.start_s) / self._seconds) % len(self._replayed)][place]
                    case _:
                        shown[place] = self._frozen.setdefault(tag, shown[place])

    def _force(self, now: float) -> dict[str, bool]:
        """Switch actuators, as the events of this moment say, and return which are shown as on."""
        shown: dict[str, bool] = {}
        for event in self.active:
            if event.scenario is None:
                continue
            for tag, effect in event.scenario.actuators.items():
                self._on[tag] = effect.on if isinstance(effect, Force) else int((now - event.start_s) // effect.seconds) % 2 == 1
            shown |= event.scenario.shown
        return {**self._on, **shown}


def _merged(all_of: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return {name: value for one in all_of for name, value in one.items()}


def _control(control: Control, scenarios: Iterable[Scenario], maintained: Iterable[Event]) -> Control:
    """Give a control its set point and the pumps in service, as what happens says."""
    changed = [one.inlet_stops_mm for one in scenarios if one.inlet_stops_mm is not None]
    control.inlet_stops_mm = changed[0] if changed else Control().inlet_stops_mm
    control.duty = Control().duty
    for event in maintained:
        if event.tags[0] in control.duty:
            control.duty[event.tags[0]] = (event.tags[1], event.tags[0])
    return control


def _text(name: str, value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.{_DECIMALS[name[:3]]}f}"


def _state(name: str, on: bool) -> str:  # noqa: FBT001
    return ("Open" if on else "Closed") if name in VALVES else ("2" if on else "1")


class _Rows:
    """Writes a row of all tags as one line."""

    def __init__(self, tags: Iterable[Tag]) -> None:
        names = [tag.name for tag in tags]
        both = [*SENSORS, *ACTUATORS]
        self._picked = itemgetter(*(both.index(name) for name in names))
        kinds = {name: f"%.{_DECIMALS[name[:3]]}f" for name in SENSORS} | dict.fromkeys(ACTUATORS, "%s")
        self._line = ",".join(f'"{name}":"{kinds[name]}"' for name in names)
        self._states: Mapping[str, bool] = {}
        self._shown: list[float | str] = []
        self._texts = ",".join(f'"{name}":"%s"' for name in names)

    def __call__(self, time_ms: int, values: list[float | str], states: Mapping[str, bool], attacks: Iterable[str]) -> list[bytes]:
        if states != self._states:
            self._states, self._shown = states, [_state(name, states[name]) for name in ACTUATORS]
        if NO_VALUE in values:
            line = self._texts % self._picked([_text(name, value) for name, value in zip(SENSORS, values, strict=True)] + self._shown)
        else:
            line = self._line % self._picked(values + self._shown)
        mark = "".join(f',"attack_type":"{name}"' for name in attacks)
        return [f'{{"t_stamp":"{time_ms}000000",{line}{mark}}}'.encode()]


class _Readings:
    """Writes a reading of each tag, a line each."""

    def __init__(self, tags: Iterable[Tag]) -> None:
        self._tags = [(tag.name, f'{{"tag":"{tag.path}","time":', f'"unit":"{tag.unit}"}}' if tag.unit else '"unit":null}') for tag in tags]

    def __call__(self, time_ms: int, values: list[float | str], states: Mapping[str, bool], _attacks: Iterable[str]) -> list[bytes]:
        sensed = dict(zip(SENSORS, values, strict=True))
        lines = []
        for name, head, unit in self._tags:
            value = sensed.get(name)
            quality = int(Quality.GOOD)
            if value is None:
                text = f'"{_state(name, states[name])}"'
            elif isinstance(value, str):
                text, quality = "null", int(Quality.BAD_NO_DATA)
            else:
                text = _text(name, value)
            lines.append(f'{head}{time_ms},"value":{text},"quality":{quality},{unit}'.encode())
        return lines
