"""Novelty: distances to the nearest value that was there, against a computation from all rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.detect.fitting import fit
from headrace.detect.model import Model
from headrace.detect.novelty import Novelty
from headrace.detect.scorer import scorer_of


def scores(values: list[float], *, remembered: int = 100, level: int = 3, rest: int = 0) -> list[float]:
    novelty, memory = Novelty(remembered, level, rest), []
    return [novelty.score([one], memory) for one in values]  # type: ignore[misc]


def computed(values: list[float], apart: int, remembered: int) -> list[float]:
    """Distances to the nearest of the last `remembered` values that are `apart` rows older or more, in deviations of all distances before."""
    distances, found = [], []
    for row, value in enumerate(values):
        past = values[max(row - apart - remembered + 1, 0) : max(row - apart + 1, 0)]
        distance = min((abs(value - one) for one in past), default=0.0)
        mean, deviation = (np.mean(distances), np.std(distances)) if len(distances) >= 2 else (0.0, math.inf)
        found.append(float((distance - mean) / max(deviation, 1e-6 + 0.01 * mean)))
        distances.append(distance)
    return found


@pytest.mark.parametrize("remembered", [10, 1000])
def test_scores_are_those_computed_from_all_rows(remembered: int) -> None:
    values = np.random.default_rng(1).normal(size=120).round(1).tolist()
    levels = [float(np.mean(values[max(row - 2, 0) : row + 1])) for row in range(len(values))]
    expected = [one + other for one, other in zip(computed(values, 1, remembered), computed(levels, 3, remembered), strict=True)]
    assert scores(values, remembered=remembered) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_value_that_was_never_there_scores_high_and_is_remembered() -> None:
    usual = [math.sin(row / 5) for row in range(300)]
    found = scores([*usual, 3.0, *usual[:20], 3.0])
    assert max(found[20:]) == found[300]
    assert found[321] < 0.2 * found[300]


def test_a_value_in_a_gap_between_usual_values_scores_high() -> None:
    usual = [(row % 2) * 10 + math.sin(row) for row in range(300)]
    found = scores([*usual, 5.0], level=1)
    assert found[300] == max(found[20:])


def test_a_score_as_high_as_one_within_the_rest_is_not_reported_again() -> None:
    values = [math.sin(row / 5) for row in range(300)] + [3.0, 0.0, 9.0, 0.1, 6.0] + [math.sin(row / 5) for row in range(60)] + [-4.0]
    plain, rested = scores(values), scores(values, rest=50)
    assert rested[300] == plain[300]
    assert rested[302] == plain[302] > plain[300]  # higher than the first
    assert rested[304] == 0.0 < plain[304] < plain[302]
    assert rested[-1] == plain[-1] > 0  # after the rest


def test_a_missing_value_changes_no_memory_of_its_tag() -> None:
    novelty, memory, whole = Novelty(100, 3, 0), [], []
    for row in range(40):
        novelty.score([math.sin(row), 1.0], whole)
        novelty.score([math.sin(row), 1.0], memory)
    novelty.score([None, 1.0], memory)
    assert memory[2][0][1:3] == whole[2][0][1:3]
    novelty.score([9.0, 1.0], memory)
    shares = novelty.parts([9.0, 1.0], memory)
    assert shares[0] > shares[1] == 0.0


def test_a_fitted_model_finds_what_is_new_in_any_tag() -> None:
    rows = np.column_stack([np.sin(np.arange(400) / 5), np.cos(np.arange(400) / 7)])
    model = fit("novelty", rows, ["a", "b"])
    assert isinstance(model, Model)
    later = rows.copy()
    later[350, 1] = 5.0
    scorer = scorer_of(model)
    found = scorer.score_block(later, range(0, 400_000, 1000), scorer.start())
    assert found[350].anomaly
    assert found[350].shares[1] > 0.9
