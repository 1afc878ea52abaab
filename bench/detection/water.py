"""The simulated water plant: detectors that were fitted to its normal operation, and the alarms that they raise under attack and on a normal day.

A detector watches a part of the plant, and an alarm is raised when its anomaly has lasted for the on-delay of the alarm; while it lasts, and for ten
minutes after it, it is not raised again. The alarms are judged as `headrace backtest` does. A plant of another seed has other noise, and other times of attacks and maintenance.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from msgspec import structs

from headrace.backtest.judge import Alarm, Backtest
from headrace.backtest.labels import Label
from headrace.detect.calibration import Calibration
from headrace.detect.fitting import fit
from headrace.detect.model import Model
from headrace.detect.scorer import Scored, scorer_of
from headrace.simulate.water import SCENARIOS, Water

__all__ = ["PARTS", "Day", "judged", "raised"]

PARTS = {
    "raw water": "FIT101 LIT101 MV101 P101 P102 FIT201 MV201 FIT601",
    "dosing": "FIT201 MV201 AIT201 AIT202 AIT203 P201 P202 P203 P204 P205 P206",
    "filter": "FIT201 MV201 P101 P102 LIT301 FIT301 DPIT301 MV301 MV302 MV303 MV304 P301 P302 P602",
    "dechlorination": "FIT301 LIT401 FIT401 AIT401 AIT402 P401 P402 P403 P404 UV401",
    "reverse osmosis": "FIT401 P401 P402 AIT501 AIT502 AIT503 AIT504 FIT501 FIT502 FIT503 FIT504 PIT501 PIT502 PIT503 P501 P502",
    "permeate and backwash": "FIT601 P601 P602 P603 MV301 MV303",
}
"""The parts of the plant, each with what flows in and out."""
BALANCES = {"raw water": "FIT101 FIT201 LIT101", "filter": "FIT201 FIT301 LIT301", "reverse osmosis": "FIT301 FIT401 LIT401"}
"""The tanks: what flows in and out, and the level."""
START = 1_767_225_600_000
STARTED_S = 3600  # the plant starts up before
FITTED_S, ATTACKED_S, NORMAL_S = 48 * 3600, 26 * 3600, 24 * 3600
FIT_SEED, ATTACK_SEEDS, NORMAL_SEEDS = 11, (17,), (18, 19)
QUIET_S, GRACE_S, UNKNOWN_S = 600, 900, 60
MARGIN = 1.2
_TEXTS = {"Open": 1.0, "Closed": 0.0, "Bad Input": math.nan}


class Day(NamedTuple):
    """The rows of a plant, one a second: tags, values, and labels."""

    tags: list[str]
    rows: Any
    labels: list[Label]

    def of(self, tags: Sequence[str]) -> Any:
        """Return the values of some tags."""
        return self.rows[:, [self.tags.index(tag) for tag in tags]].astype(np.float64)


def sent(seed: int, seconds: int, scenarios: tuple[str, ...] = ()) -> Day:
    """Return what a plant sends after its first hour."""
    water = Water(seed=seed, scenarios=scenarios, after_s=STARTED_S + 900)
    tags: list[str] = []
    rows = np.empty((seconds, 51), np.float32)
    for place, (line, *_) in zip(range(seconds), islice(water.line_batches(START - 1000 * STARTED_S), STARTED_S, None), strict=False):
        texts = json.loads(line)
        tags = tags or [name for name in texts if name != "t_stamp"]
        rows[place] = [_TEXTS[text] if text in _TEXTS else float(text) for text in (texts[tag] for tag in tags)]
    labels = []
    for event in water.planned():
        start, end = (START + round((moment - STARTED_S) * 1000) for moment in (event.start_s, event.end_s))
        if end > START + 1000 * seconds:
            break
        if event.kind != "maintenance":
            labels.append(Label(start, end, event.name, event.tags))
    return Day(tags, rows, labels)


def raised(anomalies: Sequence[bool], rule: str, on_delay_s: int = 0) -> Iterator[Alarm]:
    """Yield the alarms of rows a second apart: when an anomaly has lasted for the on-delay, and none that has lasted so long was there for ten minutes."""
    last, before, since = -QUIET_S - 1, -2, 0
    for place in np.flatnonzero(np.asarray(anomalies)).tolist():
        since = since if place == before + 1 else place
        before = place
        if place - since < on_delay_s:
            continue
        if place - last > QUIET_S:
            yield Alarm(START + 1000 * place, rule)
        last = place


class Setting(NamedTuple):
    """A kind of detector with its parameters, one for each part of the plant."""

    name: str
    kind: str
    calibration: Calibration
    parameters: dict[str, Any]
    tags: str  # a pattern of their names
    parts: dict[str, str] = PARTS
    on_delay_s: int = 0


SENSORS = {"plant": " ".join(dict.fromkeys(tag for names in PARTS.values() for tag in names.split() if tag[1:2] == "I" or tag[:3] == "DPI"))}
# A threshold is the greatest score of the normal rows that were held out, and a fifth more. Analysers (AIT) drift over days, so that two days do not
# show their range.
SETTINGS = (
    Setting("states", "states", Calibration(false_alarm_rate=0, k=5, n=10), {"margin": 0.1}, "(?!AIT).*", on_delay_s=30),
    Setting("var", "var", Calibration(false_alarm_rate=0, k=3, n=5, smoothing=0.2, max_missing=0.3), {"lags": 2}, ".*"),
    Setting(
        "ewma of balances", "ewma", Calibration(false_alarm_rate=0, k=10, n=15), {"residual": "var", "lags": 2, "weight": 0.005}, ".*", BALANCES, 60
    ),
    Setting("rate", "rate", Calibration(false_alarm_rate=0), {}, ".*", SENSORS),
    Setting("stuck", "stuck", Calibration(false_alarm_rate=0), {}, ".*", SENSORS, 30),
)


AT_ONCE = ", without on-delay"
TOGETHER = {"the first three": ("states", "var", "ewma of balances"), "all": tuple(setting.name for setting in SETTINGS)}


def judged() -> Iterator[tuple[str, dict[str, float | str | None]]]:
    """Yield the figures of each kind of detector, of all together, of *always alarm* and of *random*."""
    normal = sent(FIT_SEED, FITTED_S)
    models = {setting.name: list(_fitted(setting, normal)) for setting in SETTINGS}
    attacked = [_alarms(models, sent(seed, ATTACKED_S, tuple(SCENARIOS))) for seed in ATTACK_SEEDS]
    quiet = [_alarms(models, sent(seed, NORMAL_S)) for seed in NORMAL_SEEDS]
    for name in models:
        yield name, _figures([(day, found[name]) for day, found in attacked], [(day, found[name]) for day, found in quiet])
    for name, members in TOGETHER.items():
        yield name, _figures(_together(attacked, members), _together(quiet, members), misses=True)
    at_once = [f"{member}{AT_ONCE}" for member in TOGETHER["all"]]
    yield f"all{AT_ONCE}", _figures(_together(attacked, at_once), _together(quiet, at_once), misses=True)
    reports = [_backtest(day, alarms).report() for day, alarms in _together(attacked, TOGETHER["the first three"])]
    for name in ("always_alarm", "random"):
        yield name.replace("_", " "), _of([report[name] for report in reports], None)


def _together(days: Sequence[tuple[Day, dict[str, list[Alarm]]]], members: Sequence[str]) -> list[tuple[Day, list[Alarm]]]:
    return [(day, [alarm for member in members for alarm in found[member]]) for day, found in days]


def _fitted(setting: Setting, normal: Day) -> Iterator[Model]:
    times = range(START, START + 1000 * FITTED_S, 1000)
    for part, names in setting.parts.items():
        tags = [name for name in names.split() if re.fullmatch(setting.tags, name)]
        if setting.kind != "states":  # a tag that never changes is a state too
            first = normal.of(tags)[: FITTED_S - int(FITTED_S * setting.calibration.holdout)]
            tags = [tag for tag, column in zip(tags, first.T, strict=True) if np.nanmin(column) < np.nanmax(column)]
        name = f"{setting.name}, {part}"
        model = fit(setting.kind, normal.of(tags), tags, times, name=name, calibration=setting.calibration, **setting.parameters)
        yield structs.replace(model, threshold=model.threshold * MARGIN)


def anomalies(scored: Sequence[Scored]) -> list[bool]:
    """Return for each row whether there is an anomaly, or too many tags have been missing for a minute."""
    found, missing = [], 0
    for one in scored:
        missing = missing + 1 if one.score is None else 0
        found.append(one.anomaly or missing >= UNKNOWN_S)
    return found


def _alarms(models: dict[str, list[Model]], day: Day) -> tuple[Day, dict[str, list[Alarm]]]:
    times = range(START, START + 1000 * len(day.rows), 1000)
    found: dict[str, list[Alarm]] = {f"{name}{how}": [] for name in models for how in ("", AT_ONCE)}
    for setting in SETTINGS:
        for model in models[setting.name]:
            scorer = scorer_of(model)
            there = anomalies(scorer.score_block(day.of(model.tags), times, scorer.start()))
            found[setting.name] += raised(there, model.name, setting.on_delay_s)
            found[f"{setting.name}{AT_ONCE}"] += raised(there, model.name)
    return day, found


def _backtest(day: Day, alarms: Sequence[Alarm]) -> Backtest:
    return Backtest(alarms, day.labels, START, START + 1000 * (len(day.rows) - 1), grace_ms=1000 * GRACE_S)


def _figures(
    attacked: Sequence[tuple[Day, Sequence[Alarm]]], quiet: Sequence[tuple[Day, Sequence[Alarm]]], *, misses: bool = False
) -> dict[str, float | str | None]:
    days = sum(len(day.rows) for day, _ in quiet) / 86_400
    backtests = [_backtest(day, alarms) for day, alarms in attacked]
    missed = sorted({found.label.name for backtest in backtests for found in backtest.events if not found.alarms})
    figures = _of([backtest.report() for backtest in backtests], sum(len(alarms) for _, alarms in quiet) / days)
    return figures | ({"missed": ", ".join(missed) or "none"} if misses else {})


def _of(reports: Sequence[dict[str, Any]], a_day: float | None) -> dict[str, float | str | None]:
    """Return the figures of several runs: sums, and means of medians."""
    delays = [report["time_to_detection_s"]["median"] for report in reports if report["time_to_detection_s"]["median"] is not None]
    return {
        "attacks and faults": sum(report["events"] for report in reports),
        "found": round(sum(report["detected"] for report in reports), 1),
        "median delay s": round(sum(delays) / len(delays)) if delays else None,
        "false alarms a day under attack": round(sum(report["false_alarms_per_day"] for report in reports) / len(reports), 1),
        "a normal day": None if a_day is None else round(a_day, 1),
    }
