"""Models are fitted to normal history here: the older rows fit a model, the newer ones, which were held out, calibrate its threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from math import ceil, exp, inf, log
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.detect.calibration import Calibration
from headrace.detect.fit_checks import LEAST_ROWS, check_columns, checked_rows, least_rows, parameters_of
from headrace.detect.kinds import PARAMETERS, Parameter
from headrace.detect.learned import Fit
from headrace.detect.learning import TINY, numpy
from headrace.detect.model import Model, Plane, Training
from headrace.detect.planes import Planes
from headrace.detect.scorer import Scored, scorer_of
from headrace.detect.vectors import Lagged, Scaled
from headrace.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["calibrated", "fit"]

_FLOORS = {"rate": 1.0, "stuck": 1.0, "adwin": 1.0}
_NEEDS_CHANGE = frozenset(PARAMETERS) - {"range", "states"}


def fit(  # noqa: PLR0913
    kind: str,
    values: object,
    tags: Sequence[str],
    times: Sequence[int] | None = None,
    *,
    name: str | None = None,
    units: Mapping[str, str] | None = None,
    states: Mapping[str, tuple[str, ...]] | None = None,
    excluded: int = 0,
    calibration: Calibration | None = None,
    **parameters: Parameter,
) -> Model:
    """Return a model that was fitted to normal rows.

    Parameters
    ----------
    kind
        Which kind of detector: see `PARAMETERS`.
    values
        The rows in the order of time, as an array of numpy or a list of lists: a column for each tag. NaN is missing, and so is what is beyond 1e100.
    tags
        The names of the columns.
    times
        When the rows were, in ms since the epoch; by default one a second.
    name
        What the detector is called; by default its kind.
    units
        The units of tags, as UNECE codes.
    states
        The texts that are states of tags, in the order of the numbers that stand for them in `values`.
    excluded
        How many rows were left out because they are not normal, for the record.
    calibration
        How the threshold is calibrated.
    parameters
        Those of the kind.

    Raises
    ------
    PlanError
        If there is no such kind or parameter, or a parameter is impossible.
    DataError
        If there are too few rows, a tag is constant or has no values, or times are not in order.
    EnvironmentFault
        If numpy or scikit-learn is missing.
    """
    np = numpy()
    chosen = parameters_of(kind, parameters)
    how = Calibration() if calibration is None else calibration
    rows, moments = checked_rows(np, values, tags, times)
    held = int(len(rows) * how.holdout)
    first = len(rows) - held
    least = least_rows(kind, chosen, len(tags))
    if first < least or held < LEAST_ROWS:
        what = f"there are {first} rows to fit and {held} to calibrate the threshold; {kind} of {len(tags)} tags needs {least} and {LEAST_ROWS}"
        raise DataError(what, where="fit", fix="give more normal history, or fewer tags")
    check_columns(np, rows[:first], tags, change=kind in _NEEDS_CHANGE)
    period = int(np.median(np.diff(moments)))
    digest = sha256(moments.tobytes() + np.ascontiguousarray(rows, dtype="<f8").tobytes()).hexdigest()
    training = Training(first, held, excluded, int(moments[0]), int(moments[-1]), period, digest, 0.0, 0.0, 0)
    fitted = Fit(np, rows[:first], moments[:first], chosen).of(kind)
    model = Model(
        name or kind, kind, tuple(tags), inf, fitted, training, chosen,
        how.k, how.n, how.smoothing, how.max_missing, dict(units or {}), dict(states or {}),
    )  # fmt: skip
    return calibrated(model, rows[first:], moments[first:], how)


def calibrated(model: Model, values: object, times: Sequence[int] | None, calibration: Calibration) -> Model:
    """Return a model with the threshold, the limits of its planes and the persistence that a calibration on normal rows gives.

    Raises
    ------
    DataError
        If no row has a score.
    """
    np = numpy()
    rows, moments = checked_rows(np, values, model.tags, times)
    how = calibration
    changed: dict[str, Any] = {"k": how.k, "n": how.n, "smoothing": how.smoothing, "max_missing": how.max_missing, "threshold": inf}
    model = msgspec.structs.replace(model, **changed)
    if model.fitted.planes:
        model = _with_limits(np, model, rows, how.false_alarm_rate)
    found = _score(model, rows, moments)
    scores = [one.score for one in found if one.score is not None]
    if not scores:
        raise DataError("no row that was held out has a score", where="fit", fix="give more history, or leave out tags that are often missing")
    threshold = max(_threshold(scores, how), _FLOORS.get(model.kind, 0.0))
    model = msgspec.structs.replace(model, threshold=threshold)
    judged = _score(model, rows, moments)
    false = sum(one.score is not None and one.score > threshold for one in judged) / len(scores)
    flags = [False, *(one.anomaly for one in judged)]
    begun = sum(not before and now for before, now in pairwise(flags))
    training = msgspec.structs.replace(model.training, held_out=len(rows), false_alarms=false, anomalies=sum(flags) / len(judged), begun=begun)
    return msgspec.structs.replace(model, training=training)


def _score(model: Model, rows: Array, moments: Any) -> list[Scored]:  # noqa: ANN401
    scorer = scorer_of(model)
    return scorer.score_block(rows, moments, scorer.start())


def _threshold(scores: Sequence[float], how: Calibration) -> float:
    """Return the threshold for a rate of false alarms."""
    if how.tail == "quantile":
        return sorted(scores)[max(ceil((1 - how.false_alarm_rate) * len(scores) - TINY) - 1, 0)]
    logs = [log(max(one, TINY)) for one in scores]
    mean = sum(logs) / len(logs)
    deviation = (sum((one - mean) ** 2 for one in logs) / len(logs)) ** 0.5
    return exp(mean + NormalDist().inv_cdf(1 - how.false_alarm_rate) * deviation)


def _with_limits(np: Any, model: Model, rows: Array, rate: float) -> Model:  # noqa: ANN401
    """Return a model of planes with the limits of their distances, from rows that are complete."""
    assert model.fitted.scale is not None
    complete = rows[~np.isnan(rows).any(axis=1)]
    lags = int(model.parameters.get("lags", 0))
    scaled = Scaled(model.fitted.scale)
    vectors = Lagged(scaled, lags) if lags else scaled
    if len(complete) <= lags:
        raise DataError("no row that was held out has all tags", where="fit", fix="leave out tags that are often missing")
    columns, _ = vectors.block(list(complete.T), [])
    planes = []
    for plane, distances in zip(model.fitted.planes, Planes(model.fitted.planes, len(model.tags)).distances(columns), strict=True):
        wanted = _statistics(model.parameters, plane)
        limits = {
            name: max(float(np.quantile(distance, 1 - rate, method="higher")), TINY)
            for name, distance in zip(("t2", "q"), distances, strict=True)
            if name in wanted
        }
        planes.append(msgspec.structs.replace(plane, **limits))
    return msgspec.structs.replace(model, fitted=msgspec.structs.replace(model.fitted, planes=tuple(planes)))


def _statistics(parameters: Mapping[str, Parameter], plane: Plane) -> tuple[str, ...]:
    """Return the distances that count: a plane of all directions has none from it."""
    if len(plane.components) == len(plane.columns):
        return ("t2",)
    return ("t2", "q") if parameters["statistic"] == "both" else (str(parameters["statistic"]),)
