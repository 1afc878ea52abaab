"""A detector in a pipeline scores many rows at once, and writes the same bytes as row by row."""

from __future__ import annotations

import random
import sys
from typing import Any, Literal

import numpy as np
import pytest

import headrace as hr
from headrace.detect.calibration import Calibration
from headrace.detect.fitting import fit
from headrace.detect.process import Detector
from headrace.detect.scorer import State, scorer_of

TAGS = ("flow", "level", "valve", "pump")
STATES = {"valve": ("Closed", "Open")}
BEGAN = 1_767_225_600_000
TOPICS = ("alarm-conditions", "tank.scores", "tank.unknown", "tank.older")
KINDS: dict[str, dict[str, Any]] = {"var": {"lags": 2}, "states": {}, "cusum": {}, "stuck": {}, "lagged_pca": {"lags": 2}}
BAD: list[Any] = ["Bad Input", "", " 7.5 ", "+1e2", "1e999", "nan", "0x10", None, "1_0", "-0.0"]


def history(rows: int, seed: int) -> np.ndarray:
    dice = np.random.default_rng(seed)
    flow = np.cumsum(dice.normal(size=rows)) * 0.1
    return np.column_stack([flow, 2 * flow + 0.1 * dice.normal(size=rows), (np.arange(rows) // 25) % 2, (np.arange(rows) // 40) % 2])


def record(dice: random.Random, place: int, values: list[float]) -> dict[str, Any]:
    flow, level, valve, pump = values
    level += 5.0 if place % 60 > 50 else 0.0
    row: dict[str, Any] = {"flow": flow, "level": f"{level:.4f}", "valve": STATES["valve"][int(valve)], "pump": bool(pump)}
    if dice.random() < 0.1:
        row["level"] = dice.choice(BAD)
    if dice.random() < 0.03:
        row |= {"flow": None, "valve": dice.choice(["Ajar", None]), "level": None}
    return {"plant": dice.choice("ab"), "time": BEGAN + 1000 * place - dice.choice([0, 0, 0, 0, 0, 3000]), **row}


def pipeline(kind: str, order: Literal["arrival", "event_time"], form: str) -> hr.Pipeline:
    calibration = Calibration(false_alarm_rate=0.02, k=2, n=3, smoothing=0.5)
    model = fit(kind, history(400, seed=1), TAGS, name="tank", states=STATES, calibration=calibration, **KINDS[kind])
    columns = {"columns": {"flow": "DOUBLE", "level": "STRING", "valve": "STRING", "pump": "BOOLEAN"}, "map": {"fields": "MAP<STRING, STRING>"}}[form]

    @hr.pipeline("detecting", version="1")
    def detecting() -> dict[str, hr.Stream]:
        rows = hr.stream(
            "rows",
            schema={"plant": "STRING NOT NULL", "time": "BIGINT NOT NULL", **columns},
            event_time="TO_TIMESTAMP_LTZ(time, 3)",
            watermark=hr.seconds(2),
        )
        return hr.detect(rows, model, by=["plant"], order=order, values="fields" if form == "map" else None).topics("tank")

    return detecting


def records(form: str) -> list[dict[str, Any]]:
    dice = random.Random(7)
    made = [record(dice, place, values) for place, values in enumerate(history(400, seed=2).tolist())]
    if form == "columns":
        return made
    texts = [{tag: None if row[tag] is None else str(row[tag]) for tag in TAGS if row[tag] is not None or dice.random() < 0.5} for row in made]
    nested = [{"plant": row["plant"], "time": row["time"], "fields": fields | {"other": "1"}} for row, fields in zip(made, texts, strict=True)]
    nested[17]["fields"] = None
    nested[18]["fields"] = {}
    return nested


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("order", "form"), [("arrival", "columns"), ("event_time", "map")])
def test_batches_of_any_size_and_restarts_between_them_give_the_bytes_of_single_rows(
    kind: str, order: Literal["arrival", "event_time"], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detecting, given = pipeline(kind, order, form), records(form)
    batches: list[int] = []
    scored = Detector._on_rows

    def counting(self: Detector, rows: Any, groups: Any) -> Any:
        batches.append(len(rows))
        return scored(self, rows, groups)

    monkeypatch.setattr(Detector, "_on_rows", counting)
    monkeypatch.setattr(Detector, "_in_batches", lambda *_: False)
    by_row = detecting.run({"rows": given})
    assert not batches
    expected = {topic: [repr(row) for row in by_row[topic].rows()] for topic in TOPICS}
    assert expected["tank.scores"]
    assert expected["tank.unknown"]
    assert expected["alarm-conditions"] or kind not in {"var", "lagged_pca"}
    assert bool(expected["tank.older"]) == (order == "arrival")
    monkeypatch.setattr(Detector, "_in_batches", lambda _, rows, _keys: rows > 5)  # batches, and rows by themselves between them
    at_once = detecting.run({"rows": given})
    assert sum(batches) > 300
    assert {topic: [repr(row) for row in at_once[topic].rows()] for topic in TOPICS} == expected
    dice, place = random.Random(3), 0
    found: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    with hr.test(detecting) as live:
        while place < len(given):
            size = dice.choice([1, 3, 30, 90])
            live.feed("rows", given[place : place + size])
            place += size
            live.restart()
        live.drain()
        for topic in TOPICS:
            found[topic] += [repr(row) for row in live.rows(topic)]
    assert found == expected


@pytest.mark.parametrize("kind", ["robust_z", "pca", "mahalanobis", "var"])
def test_values_beyond_all_measure_are_scored_in_a_batch_as_alone_and_without_a_warning(kind: str) -> None:
    scorer = scorer_of(fit(kind, history(400, seed=1), TAGS, name="tank", calibration=Calibration(false_alarm_rate=0.02)))
    rows, times = [[1.7e308, -1.7e308, 0.0, 1e200]] * 6, [*range(0, 6000, 1000)]
    alone, together = State(), State()
    assert scorer.score_block(rows, times, together) == [scorer.score(row, time, alone) for row, time in zip(rows, times, strict=True)]


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize("kind", ["robust_z", "pca", "mahalanobis"])
def test_rows_with_the_same_values_missing_are_scored_together_as_alone(kind: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["headrace.detect.scorer"], "_FEW", few)
    calibration = Calibration(false_alarm_rate=0.05, k=2, n=3, smoothing=0.5)
    scorer = scorer_of(fit(kind, history(400, seed=1), TAGS, name="tank", calibration=calibration))
    dice, rows = np.random.default_rng(4), history(300, seed=2) * 1.3
    rows[dice.random(rows.shape) < 0.15] = np.nan
    rows[40:44] = np.nan
    rows[100:130, 1] = np.inf
    rows[200:240, 1] += 50.0
    times = np.cumsum(dice.choice([0, 1000, 1000, 60_000], p=[0.1, 0.5, 0.35, 0.05], size=len(rows))).tolist()
    alone, together, found, place = State(), State(), [], 0
    expected = [scorer.score([one if np.isfinite(one) else None for one in row], time, alone) for row, time in zip(rows.tolist(), times, strict=True)]
    while place < len(rows):
        size = int(dice.choice([1, 20, 100]))
        found += scorer.score_block(rows[place : place + size], times[place : place + size], together)
        place += size
    assert repr(found) == repr(expected)
    assert together == alone
    assert any(one.shares for one in found)
    assert any(one.score is None for one in found)
