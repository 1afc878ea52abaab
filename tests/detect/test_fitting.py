"""Models against formulas written with numpy and scikit-learn, calibration, and history from which nothing can be learned."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from headrace.detect.calibration import Calibration
from headrace.detect.fitting import calibrated, fit
from headrace.detect.model import Model
from headrace.detect.scorer import State, scorer_of
from headrace.errors import DataError, PlanError

TAGS = [f"t{place}" for place in range(5)]


def shrunk_covariance(rows: np.ndarray) -> Any:
    """Return the estimate of scikit-learn, which takes a second to import."""
    from sklearn.covariance import LedoitWolf

    return LedoitWolf(assume_centered=True).fit(rows)


def history(rows: int = 500, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    hidden = np.cumsum(random.normal(size=(rows, 2)), axis=0) * 0.2
    return hidden @ random.normal(size=(2, 5)) + random.normal(size=(rows, 5))


def scores(model: Model, rows: np.ndarray) -> np.ndarray:
    found = scorer_of(model).score_block(rows, range(0, 1000 * len(rows), 1000), State())
    return np.array([np.nan if one.score is None else one.score for one in found])


ROWS = history()
FITTING = ROWS[:350]
NEW = history(60, seed=2)
Z = (FITTING - FITTING.mean(axis=0)) / FITTING.std(axis=0)
NEW_Z = (NEW - FITTING.mean(axis=0)) / FITTING.std(axis=0)


def test_mahalanobis_is_the_distance_by_scikit_learn_s_covariance() -> None:
    expected = shrunk_covariance(Z).mahalanobis(NEW_Z)
    assert np.allclose(scores(fit("mahalanobis", ROWS, TAGS), NEW), expected, rtol=1e-9)


def test_a_missing_tag_leaves_the_distance_of_the_others() -> None:
    covariance = shrunk_covariance(Z).covariance_
    there = [0, 1, 3, 4]
    inverse = np.linalg.inv(covariance[np.ix_(there, there)])
    expected = [row[there] @ inverse @ row[there] for row in NEW_Z]
    lacking = NEW.copy()
    lacking[:, 2] = np.nan
    assert np.allclose(scores(fit("mahalanobis", ROWS, TAGS), lacking), expected, rtol=1e-9)


@pytest.mark.parametrize("lags", [0, 2])
def test_pca_has_the_distances_of_scikit_learn_s_components(lags: int) -> None:
    def with_past(rows: np.ndarray) -> np.ndarray:
        return np.hstack([rows[lags - lag : len(rows) - lag] for lag in range(lags + 1)])

    options: dict[str, Any] = {"lags": lags} if lags else {}
    model = fit("lagged_pca" if lags else "pca", ROWS, TAGS, components=3, **options)
    from sklearn.decomposition import PCA

    pca = PCA(3).fit(with_past(Z))
    rows = with_past(NEW_Z)
    inside = rows @ pca.components_.T
    t2 = (inside**2 / pca.explained_variance_).sum(axis=1)
    q = ((rows - inside @ pca.components_) ** 2).sum(axis=1)
    [plane] = model.fitted.planes
    assert plane.t2 is not None and plane.q is not None
    found = scores(model, NEW)
    assert np.isnan(found[:lags]).all()
    assert np.allclose(found[lags:], np.maximum(t2 / plane.t2, q / plane.q), rtol=1e-9)


def test_a_missing_tag_of_pca_is_projected_by_least_squares() -> None:
    model = fit("pca", ROWS, TAGS, components=2, statistic="q")
    [plane] = model.fitted.planes
    there = [0, 1, 2, 4]
    basis = np.array(plane.components).T[there]
    expected = [np.linalg.lstsq(basis, row[there], rcond=None)[1][0] / plane.q for row in NEW_Z]
    lacking = NEW.copy()
    lacking[:, 3] = np.nan
    assert np.allclose(scores(model, lacking), expected, rtol=1e-6)


def test_var_is_the_distance_of_ridge_regression_s_errors() -> None:
    design = np.hstack([np.ones((348, 1)), Z[1:-1], Z[:-2]])
    found = np.linalg.solve(design.T @ design + 0.001 * 348 * np.eye(11), design.T @ Z[2:])
    errors = Z[2:] - design @ found
    shrunk = shrunk_covariance(errors - errors.mean(axis=0))
    expected = shrunk.mahalanobis(NEW_Z[2:] - np.hstack([np.ones((58, 1)), NEW_Z[1:-1], NEW_Z[:-2]]) @ found - errors.mean(axis=0))
    assert np.allclose(scores(fit("var", ROWS, TAGS, lags=2), NEW)[2:], expected, rtol=1e-8)


def test_ewma_and_cusum_are_their_recursions() -> None:
    average, up, down, ewma, cusum = np.zeros(5), np.zeros(5), np.zeros(5), [], []
    for row in NEW_Z:
        average = 0.8 * average + 0.2 * row
        up, down = np.maximum(up + row - 0.5, 0), np.maximum(down - row - 0.5, 0)
        ewma.append(np.abs(average).max() / np.sqrt(0.2 / 1.8))
        cusum.append(max(up.max(), down.max()))
    assert np.allclose(scores(fit("ewma", ROWS, TAGS, weight=0.2), NEW), ewma)
    model = fit("cusum", ROWS, TAGS)
    assert np.allclose(scores(model, NEW), np.minimum(cusum, 2 * model.threshold))


def test_robust_z_is_not_moved_by_a_few_wild_values() -> None:
    wild = ROWS.copy()
    wild[::40] = 1e6
    plain, found = scores(fit("robust_z", ROWS, TAGS), NEW), scores(fit("robust_z", wild, TAGS), NEW)
    assert np.allclose(plain, found, rtol=0.3)


def test_page_hinkley_and_adwin_find_a_step_and_adwin_the_old_mean_no_more() -> None:
    random = np.random.default_rng(5)
    normal, step = random.normal(size=(600, 1)), random.normal(size=(400, 1)) + np.repeat([0.0, 3.0], 200)[:, None]
    kinds: list[tuple[str, dict[str, Any]]] = [("page_hinkley", {"slack": 1.0}), ("adwin", {}), ("cusum", {"slack": 1.0}), ("ewma", {})]
    for kind, options in kinds:
        model = fit(kind, normal, ["a"], calibration=Calibration(false_alarm_rate=0), **options)
        found = scorer_of(model).score_block(step, range(0, 400_000, 1000), State())
        anomalies = [place for place, one in enumerate(found) if one.anomaly]
        assert len([place for place in anomalies if place < 200]) < 10, kind
        assert next(place for place in anomalies if place >= 200) < 220, kind
        if kind == "adwin":
            assert not found[-1].anomaly


def test_a_replayed_stretch_is_found_and_a_signal_at_rest_is_not() -> None:
    random = np.random.default_rng(7)
    rows = np.round(np.column_stack([random.normal(size=900), np.repeat(random.normal(size=9), 100)]), 3)
    model = fit("replayed", rows[:600], ["noisy", "resting"], rows=300, calibration=Calibration(false_alarm_rate=0))
    rows[800:850, 0] = rows[620:670, 0]
    found = scorer_of(model).score_block(rows[600:], range(0, 300_000, 1000), State())
    places = [place for place, one in enumerate(found) if one.anomaly]
    assert places and min(places) > 200 and max(places) < 250 and len(places) > 40
    assert found[places[-1]].shares == [1.0, 0.0]


def test_states_that_never_occur_together_are_found_with_the_state_that_does_not_fit() -> None:
    pump = np.repeat([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], 50)
    rows = np.column_stack([pump, pump, 2 * pump + np.tile([0.0, 0.1, 0.2], 100)])
    model = fit("states", rows, ["pump", "valve", "flow"])
    scorer = scorer_of(model)
    assert scorer.score([1.0, 1.0, 2.1], 0, State()).score == 0.0
    mismatch = scorer.score([1.0, 0.0, 2.1], 0, State())
    assert (mismatch.score, sum(mismatch.shares)) == (1.0, 1.0)
    closed = scorer.score([0.0, 0.0, 2.1], 0, State())  # a flow with both closed
    assert closed.anomaly and closed.shares == [0.0, 0.0, 1.0]


def test_range_rate_and_stuck_are_multiples_of_what_was_normal() -> None:
    rows = np.column_stack([np.tile([0.0, 1.0, 2.0, 1.0], 50), np.repeat(np.arange(100.0), 2)])
    bounds = [(fit(kind, rows, ["a", "b"]), kind) for kind in ("range", "rate", "stuck")]
    found = {kind: scorer_of(model).score_block([[1, 50], [6, 50], [6, 50], [6, 50]], [0, 1000, 2000, 3000], State()) for model, kind in bounds}
    assert [one.score for one in found["range"]] == [0.0, 2.0, 2.0, 2.0]
    assert [one.score for one in found["rate"]] == [None, 5.0, 0.0, 0.0]
    assert [one.score for one in found["stuck"]] == [0.0, 0.5, 1.0, 2.0]
    assert [one.anomaly for one in found["stuck"]] == [False, False, False, True]


def test_the_threshold_holds_the_rate_of_false_alarms_on_rows_that_were_not_fitted() -> None:
    for rate in (0.0, 0.01, 0.1):
        model = fit("mahalanobis", ROWS, TAGS, calibration=Calibration(false_alarm_rate=rate))
        held = scores(model, ROWS[350:])
        assert (held > model.threshold).mean() == model.training.false_alarms <= rate
        lower = np.sort(held[held < model.threshold])[-1]
        assert (held > lower).mean() > rate
    assert (model.training.rows, model.training.held_out, model.training.period) == (350, 150, 1000)


def test_a_log_normal_tail_gives_a_threshold_that_few_rows_cannot_show() -> None:
    calibration = Calibration(false_alarm_rate=1e-4, tail="lognormal")
    model = fit("mahalanobis", ROWS, TAGS, calibration=calibration)
    logs = np.log(scores(model, ROWS[350:]))
    assert np.isclose(model.threshold, np.exp(logs.mean() + 3.7190164854556804 * logs.std()))
    assert calibrated(model, ROWS[350:], None, calibration).threshold == model.threshold


def test_persistence_lowers_the_share_of_anomalies() -> None:
    one = fit("robust_z", ROWS, TAGS, calibration=Calibration(false_alarm_rate=0.1))
    three = fit("robust_z", ROWS, TAGS, calibration=Calibration(false_alarm_rate=0.1, k=3, n=4))
    assert three.training.anomalies < one.training.anomalies == one.training.false_alarms


def test_the_same_history_gives_the_same_model_and_another_one_another_digest() -> None:
    assert fit("pca", ROWS, TAGS) == fit("pca", ROWS.tolist(), TAGS)
    assert fit("pca", ROWS[:-1], TAGS).training.digest != fit("pca", ROWS, TAGS).training.digest


@pytest.mark.parametrize(
    ("kind", "rows", "options", "message"),
    [
        ("pcs", ROWS, {}, r"fit: unknown kind 'pcs'; did you mean 'pca'\?"),
        ("pca", ROWS, {"lag": 1}, r"fit pca: pca has no parameter 'lag'"),
        ("ar", ROWS, {"lags": 0}, r"fit ar lags: is 0; give a number such as 3"),
        ("ar", ROWS, {"lags": 1.5}, r"fit ar lags: is 1.5"),
        ("ar", ROWS, {"lags": True}, r"fit ar lags: is True"),
        ("ewma", ROWS, {"residual": "none"}, r"fit ewma residual: is 'none'; give center, robust, ar, var"),
        ("pca", ROWS[:20], {}, r"there are 14 rows to fit and 6 to calibrate the threshold; pca of 5 tags needs 20 and 20; give more normal history"),
        ("pca", ROWS[:, :4], {}, r"the values have the shape \(500, 4\), and there are 5 tags"),
        ("pca", [["a"] * 5] * 100, {}, r"the values are not numbers"),
        ("pca", np.where(np.arange(5) == 2, 1.0, ROWS), {}, r"the same value in all rows: t2; leave them out"),
        ("pca", np.where(np.arange(5) == 2, np.nan, ROWS), {}, r"too few values of t2; leave them out"),
        ("states", ROWS, {}, r"no tag has 5 different values or fewer; raise discrete="),
    ],
)  # fmt: skip
def test_history_of_which_nothing_can_be_learned_is_refused(kind: str, rows: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((PlanError, DataError), match=message):
        fit(kind, rows, TAGS, **options)


def test_times_that_go_back_and_impossible_calibrations_are_refused() -> None:
    with pytest.raises(DataError, match="row 3 is not later than the row before it"):
        fit("pca", ROWS, TAGS, [0, 1000, 1000, *range(3000, 500_000, 1000)])
    for options, message in (({"holdout": 1}, "holdout: is 1"), ({"k": 3, "n": 2}, "k is 3 and n is 2"), ({"tail": "normal"}, "tail: is 'normal'")):
        with pytest.raises(PlanError, match=message):
            Calibration(**options)


def test_what_scores_needs_neither_numpy_nor_polars_nor_a_sql_parser() -> None:
    from headrace.detect.model import encoded

    script = """
import json, sys
sys.modules.update(dict.fromkeys(["numpy", "polars", "sqlglot", "sklearn"]))
from headrace.detect.model_file import decoded
from headrace.detect.scorer import State, scorer_of
found = scorer_of(decoded(sys.stdin.buffer.read(), "model"))
state = State()
print(json.dumps([found.score([1.0, None, 0.5, 2.0, -1.0], 1000 * n, state).score for n in range(4)]))
"""
    for kind in ("lagged_pca", "var", "mahalanobis", "adwin", "replayed"):
        model = fit(kind, ROWS, TAGS)
        done = subprocess.run([sys.executable, "-c", script], input=encoded(model), capture_output=True, timeout=300, check=True)
        state = State()
        expected = [scorer_of(model).score([1.0, None, 0.5, 2.0, -1.0], 1000 * n, state).score for n in range(4)]
        assert json.loads(done.stdout) == expected
