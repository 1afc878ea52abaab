"""The alarm budget: what the alarms of a pipeline must reach over a labelled history, and must not exceed, from a TOML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from sys import float_info
from typing import Any, NamedTuple

from headrace._toml import Place, Places, parse_toml, read_text
from headrace.backtest.figures import AT_LEAST, FIGURES, figure, shown
from headrace.backtest.judge import Backtest
from headrace.backtest.labels import Label
from headrace.errors import PlanError, near

__all__ = ["Breach", "Budget", "budget_of"]

_SPREAD = ("median", "p90")
_SHARES = (*AT_LEAST, "flood_share")
_KEYS = (*dict.fromkeys(name.partition(".")[0] for name in FIGURES), "must_find")


class Breach(NamedTuple):
    """A limit that a backtest breaks: its name, in words what was found, and the limit."""

    name: str
    found: str
    limit: str


@dataclass(frozen=True)
class Budget:
    """Limits by name, and the names of events that must be found.

    Attributes
    ----------
    limits
        The limits by the names of the figures of a report; those of AT_LEAST are the least that is allowed, the others the most.
    must_find
        Names of events. All events of such a name must be found.
    """

    limits: Mapping[str, float] = field(default_factory=dict)
    must_find: Sequence[str] = ()
    file: str = "budget"

    def check(self, backtest: Backtest) -> None:
        """Raise PlanError if no alarms whatever could keep the budget over this history."""
        names = {label.name for label in backtest.labels}
        for name in self.must_find:
            if name not in names:
                raise PlanError(f"must_find names {name!r}, and no event in the data has that name", where=self.file, fix=near(name, names))
        judged = [name for name in self.limits if name == "event_recall" or name.startswith("time_to_detection_s")]
        if judged and not backtest.labels:
            raise PlanError(f"{judged[0]} cannot be judged: there are no events", where=self.file, fix="remove it, or label events")
        if "alarms_per_operator_hour" not in self.limits:
            return
        allowed = self.limits["alarms_per_operator_hour"] * backtest.hours * backtest.operators
        needed = self._needed(backtest.labels, backtest.grace_ms)
        if needed > allowed + 1e-9:
            what = f"cannot be met: alarms_per_operator_hour allows {allowed:.3g} alarms in {backtest.hours:.3g} h, and the events need {needed}"
            raise PlanError(what, where=self.file, fix="allow more alarms, or require fewer events")

    def _needed(self, labels: Sequence[Label], grace_ms: int) -> int:
        """Return how many alarms the events that must be found need at least: one for as many as overlap at any time."""
        least = max(ceil(self.limits.get("event_recall", 0.0) * len(labels) - 1e-9), sum(label.name in self.must_find for label in labels))
        steps = sorted([(label.start, 1) for label in labels] + [(label.end + grace_ms + 1, -1) for label in labels])
        depth = most = 0
        for _, step in steps:
            depth += step
            most = max(most, depth)
        return -(-least // max(most, 1))

    def broken(self, backtest: Backtest, report: Mapping[str, Any]) -> list[Breach]:
        """Return the limits that a backtest breaks, in the order of FIGURES, then the events that must be found and were missed."""
        return [*self._broken_limits(report), *self._missed(backtest)]

    def _broken_limits(self, report: Mapping[str, Any]) -> Iterator[Breach]:
        for name in FIGURES:
            if name not in self.limits:
                continue
            limit, found = self.limits[name], figure(report, name)
            if name == "precision" and found is None:
                continue  # no alarm, so none is false
            if found is None:
                yield Breach(name, "no event was found", f"at most {shown(name, limit)}")
            elif (found < limit) if name in AT_LEAST else (found > limit):
                yield Breach(name, shown(name, found), f"at {'least' if name in AT_LEAST else 'most'} {shown(name, limit)}")

    def _missed(self, backtest: Backtest) -> Iterator[Breach]:
        for name in self.must_find:
            mine = [event for event in backtest.events if event.label.name == name]
            if missed := sum(not event.alarms for event in mine):
                yield Breach(f"must_find: {name}", f"{missed} of {len(mine)} missed", "all found")


def budget_of(path: Path) -> Budget:
    """Return the budget of a TOML file.

    Raises
    ------
    PlanError
        If it cannot be read, a key is unknown, a value is no number that the figure can have, or it limits nothing.
    """
    given, places = parse_toml(read_text(path), str(path))
    flat = dict(_flat(given, places))
    limits = {name: _limit(name, value, places.where(place)) for name, (value, place) in flat.items() if name != "must_find"}
    must_find = flat.get("must_find", ([], ()))[0]
    if not isinstance(must_find, list) or not all(isinstance(name, str) for name in must_find):
        raise PlanError("is no list of names", where=places.where(("must_find",)), fix='write must_find = ["pump trip"]')
    if not limits and not must_find:
        raise PlanError("limits nothing", where=str(path), fix=f"write one of {', '.join(_KEYS)}")
    return Budget(limits, tuple(must_find), str(path))


def _flat(given: Mapping[str, Any], places: Places) -> Iterator[tuple[str, tuple[Any, Place]]]:
    """Yield the keys with their values and places, those of tables joined with a dot."""
    for key, value in given.items():
        if key not in _KEYS:
            raise PlanError(f"unknown key {key!r}", where=places.where((key,)), fix=near(key, _KEYS))
        if key != "time_to_detection_s":
            yield key, (value, (key,))
            continue
        if not isinstance(value, dict):
            raise PlanError("is no table", where=places.where((key,)), fix="write time_to_detection_s = {median = 60, p90 = 300}")
        for part, limit in value.items():
            if part not in _SPREAD:
                raise PlanError(f"unknown key {part!r}", where=places.where((key, part)), fix=near(part, _SPREAD))
            yield f"{key}.{part}", (limit, (key, part))


def _limit(name: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= float_info.max:
        raise PlanError(f"{name} is no number", where=where, fix=f"write {name} = 0.9" if name in _SHARES else f"write {name} = 1")
    if value < 0 or (name in _SHARES and value > 1):
        what = f"{name} = {value:g} cannot be met" if name in AT_LEAST and value > 1 else f"{name} = {value:g} is no limit"
        raise PlanError(what, where=where, fix="it is a share from 0 to 1" if name in _SHARES else "it is 0 or more")
    return float(value)
