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
from headrace.detect.history import LARGEST
from headrace.detect.measures import Planes
from headrace.detect.model import (
    CHOICES,
    PARAMETERS,
    Bounds,
    Combination,
    Covariance,
    Fitted,
    Forecast,
    Model,
    Parameter,
    Plane,
    Scale,
    Training,
    is_possible,
)
from headrace.detect.scorer import Scored, scorer_of
from headrace.detect.vectors import Lagged, Scaled
from headrace.errors import DataError, EnvironmentFault, PlanError, first_of, near

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["calibrated", "fit"]

_FLOORS = {"rate": 1.0, "stuck": 1.0, "adwin": 1.0}
_NEEDS_CHANGE = frozenset(PARAMETERS) - {"range", "states"}
_ROBUST = 1.4826  # of the median absolute deviation to the standard deviation of a normal distribution
_TINY = 1e-9
_LEAST_ROWS = 20


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
    np = _numpy()
    chosen = _parameters(kind, parameters)
    how = Calibration() if calibration is None else calibration
    rows, moments = _checked(np, values, tags, times)
    held = int(len(rows) * how.holdout)
    first = len(rows) - held
    least = _least_rows(kind, chosen, len(tags))
    if first < least or held < _LEAST_ROWS:
        what = f"there are {first} rows to fit and {held} to calibrate the threshold; {kind} of {len(tags)} tags needs {least} and {_LEAST_ROWS}"
        raise DataError(what, where="fit", fix="give more normal history, or fewer tags")
    _check_columns(np, rows[:first], tags, change=kind in _NEEDS_CHANGE)
    period = int(np.median(np.diff(moments)))
    digest = sha256(moments.tobytes() + np.ascontiguousarray(rows, dtype="<f8").tobytes()).hexdigest()
    training = Training(first, held, excluded, int(moments[0]), int(moments[-1]), period, digest, 0.0, 0.0, 0)
    fitted = _Fit(np, rows[:first], moments[:first], chosen).of(kind)
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
    np = _numpy()
    rows, moments = _checked(np, values, model.tags, times)
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
        return sorted(scores)[max(ceil((1 - how.false_alarm_rate) * len(scores) - _TINY) - 1, 0)]
    logs = [log(max(one, _TINY)) for one in scores]
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
            name: max(float(np.quantile(distance, 1 - rate, method="higher")), _TINY)
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


class _Fit:
    """A model that is being fitted to rows."""

    def __init__(self, np: Any, rows: Array, moments: Any, parameters: Mapping[str, Parameter]) -> None:  # noqa: ANN401
        self._np, self._rows, self._moments, self._parameters = np, rows, moments, parameters

    def of(self, kind: str) -> Fitted:
        """Return what a kind needs."""
        bounds = {"range": self._range, "rate": self._rate, "stuck": self._unchanged, "states": self._states}
        if kind in bounds:
            return Fitted(bounds=bounds[kind]())
        match kind:
            case "robust_z":
                return Fitted(scale=self._scale(robust=True))
            case "ewma" | "cusum" | "page_hinkley":
                return self._residual(str(self._parameters["residual"]))
            case "ar":
                return self._residual("ar")
            case "var":
                return self._var()
            case "pca" | "lagged_pca":
                return self._planes()
            case "mahalanobis":
                scale = self._scale()
                return Fitted(scale=scale, covariance=self._covariance(self._scaled(scale)))
        return Fitted(scale=self._scale())

    def _scale(self, *, robust: bool = False) -> Scale:
        np = self._np
        if not robust:
            return Scale(_vector(np.nanmean(self._rows, axis=0)), _vector(np.nanstd(self._rows, axis=0)))
        center = np.nanmedian(self._rows, axis=0)
        spread = _ROBUST * np.nanmedian(np.abs(self._rows - center), axis=0)
        return Scale(_vector(center), _vector(np.where(spread > 0, spread, np.nanstd(self._rows, axis=0))))

    def _scaled(self, scale: Scale) -> Array:
        found: Array = (self._rows - self._np.array(scale.center)) / self._np.array(scale.spread)
        return found

    def _complete(self, rows: Array, tags: int) -> Array:
        """Return the rows that have all tags."""
        complete: Array = rows[~self._np.isnan(rows).any(axis=1)]
        if len(complete) <= tags:
            raise DataError(f"only {len(complete)} rows have all tags", where="fit", fix="leave out tags that are often missing")
        return complete

    def _covariance(self, rows: Array) -> Covariance:
        found = _learn().LedoitWolf(assume_centered=True).fit(self._complete(rows, rows.shape[1])).covariance_
        return Covariance(_matrix(found))

    def _residual(self, residual: str) -> Fitted:
        scale = self._scale(robust=residual == "robust")
        if residual in {"center", "robust"}:
            return Fitted(scale=scale)
        forecast, _ = self._forecast(self._scaled(scale), joint=residual == "var", ridge=0.001)
        return Fitted(scale=scale, forecast=forecast)

    def _var(self) -> Fitted:
        scale = self._scale()
        forecast, errors = self._forecast(self._scaled(scale), joint=True, ridge=float(self._parameters["ridge"]))
        whole = msgspec.structs.replace(forecast, deviation=(1.0,) * errors.shape[1])
        return Fitted(scale=scale, forecast=whole, covariance=self._covariance(errors))

    def _forecast(self, rows: Array, *, joint: bool, ridge: float) -> tuple[Forecast, Array]:
        """Return the forecast by ridge regression on the last rows, and its errors, of which the mean is 0."""
        np, lags = self._np, int(self._parameters["lags"])
        count = rows.shape[1]
        past = np.hstack([rows[lags - lag : len(rows) - lag] for lag in range(1, lags + 1)])
        now = rows[lags:]
        complete = ~(np.isnan(past).any(axis=1) | np.isnan(now).any(axis=1))
        past, now = past[complete], now[complete]
        if len(now) <= past.shape[1]:
            what = f"only {len(now)} rows have all tags, as have the {lags} rows before them"
            raise DataError(what, where="fit", fix="give more normal history, fewer lags, or fewer tags")
        coefficients, intercept = [], []
        for tag in range(1 if joint else count):
            columns = past if joint else past[:, tag::count]
            design = np.hstack([np.ones((len(columns), 1)), columns])
            target = now if joint else now[:, tag : tag + 1]
            found = np.linalg.solve(design.T @ design + ridge * len(design) * np.eye(design.shape[1]), design.T @ target)
            intercept.append(found[0])
            coefficients.append(found[1:].T)
        start, matrix = np.concatenate(intercept), np.vstack(coefficients)
        expected = start + (past @ matrix.T if joint else np.column_stack([past[:, tag::count] @ matrix[tag] for tag in range(count)]))
        errors = now - expected
        start, errors = start + errors.mean(axis=0), errors - errors.mean(axis=0)
        deviation = np.maximum(errors.std(axis=0), _TINY)
        return Forecast(lags, _vector(start), _matrix(matrix), _vector(deviation), joint), errors

    def _planes(self) -> Fitted:
        np, lags = self._np, int(self._parameters.get("lags", 0))
        scale = self._scale()
        rows = self._scaled(scale)
        count = rows.shape[1]
        if lags:
            rows = np.hstack([rows[lags - lag : len(rows) - lag] for lag in range(lags + 1)])
        rows = self._complete(rows, rows.shape[1])
        each = self._parameters.get("blocks") == "each"
        blocks = [range(tag, rows.shape[1], count) for tag in range(count)] if each else [range(rows.shape[1])]
        return Fitted(scale=scale, planes=tuple(self._plane(rows[:, list(block)], tuple(block)) for block in blocks))

    def _plane(self, rows: Array, columns: tuple[int, ...]) -> Plane:
        np = self._np
        wanted: int | float = int(self._parameters["components"])
        found = _learn().PCA(svd_solver="full").fit(rows)
        usable = int((found.explained_variance_ > _TINY * found.explained_variance_[0]).sum())
        if not wanted:
            wanted = int(np.searchsorted(np.cumsum(found.explained_variance_ratio_), float(self._parameters["variance"])) + 1)
        number = min(wanted, usable, len(columns))
        return Plane(columns, _matrix(found.components_[:number]), _vector(found.explained_variance_[:number]))

    def _range(self) -> Bounds:
        np = self._np
        low, high = np.nanmin(self._rows, axis=0), np.nanmax(self._rows, axis=0)
        margin = float(self._parameters["margin"]) * (high - low)
        return Bounds(low=_vector(low - margin), high=_vector(high + margin))

    def _rate(self) -> Bounds:
        np = self._np
        found = []
        for column in self._rows.T:
            there = ~np.isnan(column)
            steps = np.abs(np.diff(column[there])) / np.diff(self._moments[there]) * 1000.0
            found.append(steps.max())
        return Bounds(rate=_vector(found))

    def _unchanged(self) -> Bounds:
        np = self._np
        found = []
        for column in self._rows.T:
            there = ~np.isnan(column)
            times, values = self._moments[there], column[there]
            changes = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values) - 1]])
            found.append(max(np.diff(times[changes]).max(), 1))
        return Bounds(unchanged=_vector(found))

    def _states(self) -> Bounds:
        np, most = self._np, int(self._parameters["discrete"])
        distinct = [np.unique(column[~np.isnan(column)]) for column in self._rows.T]
        discrete = tuple(place for place, values in enumerate(distinct) if len(values) <= most)
        others = [place for place in range(self._rows.shape[1]) if place not in discrete]
        if not discrete:
            raise DataError(f"no tag has {most} different values or fewer", where="fit states", fix="raise discrete=, or take another kind")
        states = self._rows[:, list(discrete)]
        there = ~np.isnan(states).any(axis=1)
        found, inverse = np.unique(states[there], axis=0, return_inverse=True)
        rows = self._rows[there][:, others]
        combinations = [self._combination(one, rows[inverse.ravel() == number]) for number, one in enumerate(found)]
        return msgspec.structs.replace(self._range(), discrete=discrete, combinations=tuple(combinations))

    def _combination(self, states: Array, rows: Array) -> Combination:
        np = self._np
        low = np.where(np.isnan(rows), np.inf, rows).min(axis=0, initial=np.inf)
        high = np.where(np.isnan(rows), -np.inf, rows).max(axis=0, initial=-np.inf)
        unknown = low > high  # never there in these states: nothing is outside
        low, high = np.where(unknown, -1e300, low), np.where(unknown, 1e300, high)
        margin = np.where(unknown, 0.0, float(self._parameters["margin"]) * (high - low))
        return Combination(_vector(states), len(rows), _vector(low - margin), _vector(high + margin))


# what is asked, and what is given


def _parameters(kind: str, given: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return all parameters of a kind."""
    if kind not in PARAMETERS:
        raise PlanError(f"unknown kind {kind!r}", where="fit", fix=near(kind, PARAMETERS))
    chosen = dict(PARAMETERS[kind])
    for name, value in given.items():
        where = f"fit {kind} {name}"
        if name not in chosen:
            raise PlanError(f"{kind} has no parameter {name!r}", where=f"fit {kind}", fix=near(name, chosen) if chosen else "leave it out")
        if name in CHOICES and value not in CHOICES[name]:
            raise PlanError(f"is {value!r}", where=where, fix=f"give {', '.join(CHOICES[name])}")
        default = chosen[name]
        if isinstance(default, float) and type(value) is int:
            value = float(value)  # noqa: PLW2901
        if type(value) is not type(default):
            raise PlanError(f"is {value!r}", where=where, fix=f"give a {'text' if isinstance(default, str) else 'number'} such as {default}")
        if not is_possible(name, value):
            raise PlanError(f"is {value}", where=where, fix=f"give a number such as {default}")
        chosen[name] = value
    return chosen


def _least_rows(kind: str, parameters: Mapping[str, Parameter], tags: int) -> int:
    """Return how many rows are needed to fit a kind."""
    lags = int(parameters.get("lags", 0))
    match kind:
        case "pca" | "mahalanobis":
            return max(2 * tags, _LEAST_ROWS)
        case "lagged_pca" | "var":
            return max(2 * tags * (1 + lags), _LEAST_ROWS)
    return _LEAST_ROWS + lags


def _checked(np: Any, values: object, tags: Sequence[str], times: Sequence[int] | None) -> tuple[Array, Any]:  # noqa: ANN401
    """Return rows and their times as arrays."""
    if not tags or len(set(tags)) < len(tags):
        raise PlanError("there are no tags, or one of them is there twice", where="fit", fix="name each tag once")
    try:
        rows = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("the values are not numbers", where="fit", fix="give an array of numbers, with NaN where one is missing") from None
    if rows.ndim != 2 or rows.shape[1] != len(tags):
        raise DataError(
            f"the values have the shape {rows.shape}, and there are {len(tags)} tags", where="fit", fix="give a row of all tags for each time"
        )
    with np.errstate(invalid="ignore"):
        rows[~(np.abs(rows) <= LARGEST)] = np.nan
    moments = np.arange(len(rows), dtype=np.int64) * 1000 if times is None else np.array(times, dtype=np.int64)
    if len(moments) != len(rows):
        raise DataError(f"there are {len(rows)} rows and {len(moments)} times", where="fit")
    if (np.diff(moments) <= 0).any():
        place = int(np.flatnonzero(np.diff(moments) <= 0)[0]) + 1
        raise DataError(f"row {place + 1} is not later than the row before it", where="fit", fix="order the rows by time, and drop duplicates")
    return rows, moments


def _check_columns(np: Any, rows: Array, tags: Sequence[str], *, change: bool) -> None:  # noqa: ANN401
    """Raise DataError if a tag has too few values, or, where that matters, always the same."""
    counts = (~np.isnan(rows)).sum(axis=0)
    empty = [tag for tag, count in zip(tags, counts, strict=True) if count < _LEAST_ROWS]
    if empty:
        raise DataError(f"too few values of {first_of(empty)}", where="fit", fix="leave them out")
    if change:
        constant = [tag for tag, low, high in zip(tags, np.nanmin(rows, axis=0), np.nanmax(rows, axis=0), strict=True) if low == high]
        if constant:
            raise DataError(f"the same value in all rows: {first_of(constant)}", where="fit", fix="leave them out: nothing is learned from them")


def _vector(values: Any) -> tuple[float, ...]:  # noqa: ANN401
    return tuple(float(one) for one in values)


def _matrix(values: Any) -> tuple[tuple[float, ...], ...]:  # noqa: ANN401
    return tuple(_vector(row) for row in values)


# packages of the extra


def _numpy() -> Any:  # noqa: ANN401
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise EnvironmentFault("needs the package numpy", where="fit", fix="pip install 'headrace[learn]'") from None
    return np


class _Learn:
    """The part of scikit-learn that is used."""

    def __init__(self) -> None:
        from sklearn.covariance import LedoitWolf
        from sklearn.decomposition import PCA

        self.LedoitWolf, self.PCA = LedoitWolf, PCA


def _learn() -> Any:  # noqa: ANN401
    try:
        return _Learn()
    except ModuleNotFoundError:
        raise EnvironmentFault("needs the package scikit-learn", where="fit", fix="pip install 'headrace[learn]'") from None
