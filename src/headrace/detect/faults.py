"""What contradicts itself in a model, so that scoring cannot fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

import msgspec

from headrace.detect.kinds import PARAMETERS, is_possible
from headrace.detect.model import Bounds, Fitted, Forecast, Model, Plane

__all__ = ["faults_of"]

_MOST_N = 60
_NEEDS = {
    "range": ("bounds",), "rate": ("bounds",), "stuck": ("bounds",), "states": ("bounds",), "robust_z": ("scale",), "ewma": ("scale",), "cusum": ("scale",),
    "page_hinkley": ("scale",), "ar": ("scale", "forecast"), "var": ("scale", "forecast", "covariance"), "pca": ("scale", "planes"),
    "mahalanobis": ("scale", "covariance"), "lagged_pca": ("scale", "planes"), "adwin": ("scale",), "replayed": ("scale",), "novelty": ("scale",),
}  # fmt: skip
_BOUNDS = {"range": ("low", "high"), "rate": ("rate",), "stuck": ("unchanged",), "states": ("low", "high", "discrete", "combinations")}


def faults_of(model: Model) -> Iterator[str]:
    """Yield what contradicts itself in a model, so that scoring cannot fail."""
    count, fitted = len(model.tags), model.fitted
    yield from _unlike_kind(model)
    if not count or len(set(model.tags)) < count:
        yield "it has no tags, or one of them twice"
    if not 1 <= model.k <= model.n <= _MOST_N:
        yield f"k is {model.k} and n is {model.n}; they are 1 to {_MOST_N}, and k is not greater than n"
    if not 0 < model.smoothing <= 1 or not 0 <= model.max_missing <= 1:
        yield "smoothing is not in (0, 1], or max_missing is not in [0, 1]"
    yield from (f"{name} does not fit the tags" for name in _misfits(fitted, count, count * (1 + _lags(model))))
    if not all(map(isfinite, _numbers(msgspec.to_builtins(model)))):
        yield "a number is not finite"
    if not model.name:
        yield "it has no name"
    if any(tag not in model.tags or len(set(texts)) < len(texts) for tag, texts in model.states.items()):
        yield "states are those of another tag, or one of them is there twice"


def _unlike_kind(model: Model) -> Iterator[str]:
    """Yield what a model lacks for its kind."""
    if model.kind not in PARAMETERS:
        yield f"unknown kind {model.kind!r}"
        return
    for name, default in PARAMETERS[model.kind].items():
        value = model.parameters.get(name)
        if value is None:
            yield f"{model.kind} needs the parameter {name!r}"
        elif type(value) is not type(default) or not is_possible(name, value):
            yield f"the parameter {name} is {value!r}"
    for part in _NEEDS[model.kind]:
        if not getattr(model.fitted, part):
            yield f"{model.kind} needs {part}"
        elif part == "bounds" and not all(getattr(model.fitted.bounds, one) for one in _BOUNDS[model.kind]):
            yield f"{model.kind} needs the bounds {' and '.join(_BOUNDS[model.kind])}"


def _misfits(fitted: Fitted, count: int, columns: int) -> Iterator[str]:
    """Yield the parts that are not of the size of a row."""
    scale, forecast, bounds = fitted.scale, fitted.forecast, fitted.bounds
    if scale is not None and not (len(scale.center) == len(scale.spread) == count and all(one > 0 for one in scale.spread)):
        yield "scale"
    if forecast is not None and not _fits_forecast(forecast, count):
        yield "forecast"
    if fitted.covariance is not None and not _is_matrix(fitted.covariance.matrix, count, count):
        yield "covariance"
    if not all(_fits_plane(plane, columns) for plane in fitted.planes):
        yield "a plane"
    if bounds is not None and not _fits_bounds(bounds, count):
        yield "bounds"


def _lags(model: Model) -> int:
    found = model.parameters.get("lags", 0) if model.kind == "lagged_pca" else 0
    return found if type(found) is int and found >= 0 else 0


def _is_matrix(matrix: Sequence[Sequence[float]], rows: int, columns: int) -> bool:
    return len(matrix) == rows and all(len(row) == columns for row in matrix)


def _fits_forecast(forecast: Forecast, count: int) -> bool:
    width = forecast.lags * (count if forecast.joint else 1)
    lengths = len(forecast.intercept) == len(forecast.deviation) == count
    return forecast.lags >= 1 and lengths and _is_matrix(forecast.coefficients, count, width) and all(one > 0 for one in forecast.deviation)


def _fits_plane(plane: Plane, columns: int) -> bool:
    places = all(0 <= one < columns for one in plane.columns) and all(a < b for a, b in pairwise(plane.columns))
    limits = all(one is None or one > 0 for one in (plane.t2, plane.q))
    sized = _is_matrix(plane.components, len(plane.variances), len(plane.columns))
    return places and limits and sized and bool(plane.variances) and all(one > 0 for one in plane.variances)


def _fits_bounds(bounds: Bounds, count: int) -> bool:
    others = count - len(bounds.discrete)
    lists = all(len(one) in {0, count} for one in (bounds.low, bounds.high, bounds.rate, bounds.unchanged))
    places = all(0 <= one < count for one in bounds.discrete) and len(set(bounds.discrete)) == len(bounds.discrete)
    divisors = all(one > 0 for one in (*bounds.rate, *bounds.unchanged))
    return lists and places and divisors and all(len(c.states) == count - others and len(c.low) == len(c.high) == others for c in bounds.combinations)


def _numbers(value: Any) -> Iterator[float]:  # noqa: ANN401
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)
