"""A model as it is fitted to rows that are normal: with numpy, and with scikit-learn where a kind needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.detect.kinds import Parameter
from headrace.detect.learned_bounds import BOUNDED, FittedBounds
from headrace.detect.learning import TINY, learn, matrix_of, vector_of
from headrace.detect.model import Covariance, Fitted, Forecast, Plane, Scale
from headrace.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Fit"]

_ROBUST = 1.4826  # of the median absolute deviation to the standard deviation of a normal distribution


class Fit:
    """A model that is being fitted to rows."""

    def __init__(self, np: Any, rows: Array, moments: Any, parameters: Mapping[str, Parameter]) -> None:  # noqa: ANN401
        self._np, self._rows, self._moments, self._parameters = np, rows, moments, parameters

    def of(self, kind: str) -> Fitted:
        """Return what a kind needs."""
        if kind in BOUNDED:
            return Fitted(bounds=FittedBounds(self._np, self._rows, self._moments, self._parameters).of(kind))
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
            return Scale(vector_of(np.nanmean(self._rows, axis=0)), vector_of(np.nanstd(self._rows, axis=0)))
        center = np.nanmedian(self._rows, axis=0)
        spread = _ROBUST * np.nanmedian(np.abs(self._rows - center), axis=0)
        return Scale(vector_of(center), vector_of(np.where(spread > 0, spread, np.nanstd(self._rows, axis=0))))

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
        found = learn().LedoitWolf(assume_centered=True).fit(self._complete(rows, rows.shape[1])).covariance_
        return Covariance(matrix_of(found))

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
        deviation = np.maximum(errors.std(axis=0), TINY)
        return Forecast(lags, vector_of(start), matrix_of(matrix), vector_of(deviation), joint), errors

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
        found = learn().PCA(svd_solver="full").fit(rows)
        usable = int((found.explained_variance_ > TINY * found.explained_variance_[0]).sum())
        if not wanted:
            wanted = int(np.searchsorted(np.cumsum(found.explained_variance_ratio_), float(self._parameters["variance"])) + 1)
        number = min(wanted, usable, len(columns))
        return Plane(columns, matrix_of(found.components_[:number]), vector_of(found.explained_variance_[:number]))
