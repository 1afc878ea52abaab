"""Scores are the same to the byte row by row and in blocks of any size, and from any state that was saved."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.detect.calibration import Calibration
from headrace.detect.fitting import fit
from headrace.detect.kinds import PARAMETERS
from headrace.detect.model import Model, encoded
from headrace.detect.model_file import decoded
from headrace.detect.scorer import Scored, State, scorer_of

TAGS = ("a", "b", "c", "d")
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("ewma", {"residual": "var", "lags": 2}), ("cusum", {"residual": "ar"}), ("page_hinkley", {"residual": "robust"}),
    ("lagged_pca", {"blocks": "each", "lags": 2, "components": 1}), ("pca", {"statistic": "t2"}), ("pca", {"statistic": "q", "components": 1}),
]  # fmt: skip
MODELS: dict[str, Model] = {}


def plant(rows: int, seed: int = 0) -> np.ndarray:
    """Four tags that follow two hidden ones; the last is a state."""
    random = np.random.default_rng(seed)
    hidden = np.zeros((rows, 2))
    for row in range(1, rows):
        hidden[row] = 0.9 * hidden[row - 1] + random.normal(size=2)
    found = hidden @ np.array([[1.0, 0.5, -0.3, 0.0], [0.2, -1.0, 0.7, 1.0]]) + 0.1 * random.normal(size=(rows, 4))
    found[:, 3] = np.round(np.clip(found[:, 3] / 3, -1, 1))
    return found


def model(kind: str, **parameters: Any) -> Model:
    name = f"{kind} {parameters}"
    if name not in MODELS:
        calibration = Calibration(false_alarm_rate=0.02, smoothing=0.4, k=2, n=3)
        MODELS[name] = fit(kind, plant(400), TAGS, calibration=calibration, **parameters)
    return MODELS[name]


def by_row(fitted: Model, rows: np.ndarray, times: list[int], *, saved: bool) -> list[Scored]:
    """Score row by row; with `saved`, each from a state that was written and read, by a scorer of its own, as after a kill."""
    scorer, state, found = scorer_of(fitted), State(), []
    for row, time in zip(rows, times, strict=True):
        if saved:
            scorer, state = scorer_of(decoded(encoded(fitted), "test")), msgspec.json.decode(msgspec.json.encode(state), type=State)
        found.append(scorer.score([None if np.isnan(one) else float(one) for one in row], time, state))
    return found


@pytest.mark.parametrize(("kind", "parameters"), [*((kind, {}) for kind in PARAMETERS), *OTHERS], ids=str)
@settings(max_examples=5)
@given(data=st.data())
def test_scores_are_equal_row_by_row_in_blocks_and_after_a_kill_at_any_row(kind: str, parameters: dict[str, Any], data: st.DataObject) -> None:
    fitted = model(kind, **parameters)
    count = data.draw(st.integers(1, 40))
    rows = plant(count, seed=data.draw(st.integers(0, 5)))
    for _ in range(data.draw(st.integers(0, 6))):
        rows[data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, 3))] = data.draw(st.sampled_from([np.nan, 1e300, -50.0, 3.25]))
    steps = data.draw(st.lists(st.sampled_from([0, 1000, 1000, 1000, 1000, 60_000]), min_size=count, max_size=count))
    times = np.cumsum(steps).tolist()
    expected = by_row(fitted, rows, times, saved=False)
    assert repr(by_row(fitted, rows, times, saved=True)) == repr(expected)
    scorer, state, found, place = scorer_of(fitted), State(), [], 0
    while place < count:
        size = data.draw(st.integers(1, count - place))
        found += scorer.score_block(rows[place : place + size], times[place : place + size], state)
        place += size
    assert repr(found) == repr(expected)
    assert all(one.score is None or np.isfinite(one.score) for one in found)
    assert all(abs(sum(one.shares) - 1) < 1e-9 for one in found if one.shares)


@pytest.mark.parametrize(("kind", "parameters"), [("ar", {"lags": 1}), ("var", {"lags": 1, "ridge": 1e-6}), ("ewma", {"residual": "ar"})], ids=str)
def test_forecasts_that_grow_from_row_to_row_stay_finite_while_a_tag_is_missing(kind: str, parameters: dict[str, Any]) -> None:
    growing = np.column_stack([np.exp(np.arange(200) * 0.5), np.random.default_rng(0).normal(size=200)])
    fitted = fit(kind, growing, ("a", "b"), **parameters)
    scorer, state = scorer_of(fitted), State()
    for place in range(1600):
        scorer.score([1e3 if place < 3 else None, 0.1], 1000 * place, state)
    state = msgspec.json.decode(msgspec.json.encode(state), type=State)
    assert all(abs(one) <= 1e6 for row in state.vectors for one in row)
    found = scorer.score([1.0, 0.1], 1_600_000, state)
    assert found.score is not None
    assert np.isfinite(found.score)
