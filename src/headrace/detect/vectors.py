"""From the values of a row to the vector that a detector measures: in units of the normal spread, as errors of a forecast, or with past rows.

A value that is missing is None. `step` takes one row; `block` takes arrays of complete rows, a column each, and gives the same numbers.
`memory` is what is retained from row to row; it is changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from headrace.detect.linear import Number, dot
from headrace.detect.model import Forecast, Scale

__all__ = ["Errors", "Lagged", "Scaled", "Vectors"]

_FAR = 1e6  # what is further away is as far, so that no square overflows

Values = Sequence[float | None]
Memory = list[Any]


class Vectors(Protocol):
    """The maker of vectors."""

    def step(self, values: Values, memory: Memory) -> Sequence[float | None] | None:
        """Return the vector of a row; None while there are too few rows before it."""

    def block(self, columns: Sequence[Number], memory: Memory) -> tuple[list[Number], int]:
        """Return the columns of the vectors of rows that are complete, and how many of the first rows have none."""


class Scaled:
    """Distances from the center, in units of the spread."""

    def __init__(self, scale: Scale) -> None:
        self._parts = list(zip(scale.center, scale.spread, strict=True))

    def step(self, values: Values, memory: Memory) -> list[float | None]:  # noqa: ARG002
        """Return the vector of a row."""
        found: list[float | None] = []
        for value, (center, spread) in zip(values, self._parts, strict=True):
            if value is None:
                found.append(None)
                continue
            found.append(_within((value - center) / spread))
        return found

    def block(self, columns: Sequence[Number], memory: Memory) -> tuple[list[Number], int]:  # noqa: ARG002
        """Return the columns of the vectors."""
        return [((values - center) / spread).clip(-_FAR, _FAR) for values, (center, spread) in zip(columns, self._parts, strict=True)], 0


def _within(one: float) -> float:
    return one if -_FAR < one < _FAR else _FAR if one > 0 else -_FAR


class Lagged:
    """A row with its predecessors, the newest first. Memory: those, the newest last."""

    def __init__(self, scaled: Scaled, lags: int) -> None:
        self._scaled, self._lags = scaled, lags

    def step(self, values: Values, memory: Memory) -> list[float | None] | None:
        """Return the vector of a row; None while there are fewer than `lags` rows before it."""
        now = self._scaled.step(values, memory)
        before = memory[-self._lags :]
        memory[:] = [*before, now][-self._lags :]
        return None if len(before) < self._lags else [*now, *(one for row in reversed(before) for one in row)]

    def block(self, columns: Sequence[Number], memory: Memory) -> tuple[list[Number], int]:
        """Return the columns of the vectors."""
        now, _ = self._scaled.block(columns, memory)
        lagged, missing = _with_past(now, memory, self._lags)
        return [*(column[missing:] for column in now), *lagged], missing


class Errors:
    """Errors of a forecast, in units of its deviation. Memory: the last rows, the newest last; forecasts where values were missing."""

    def __init__(self, scaled: Scaled, forecast: Forecast) -> None:
        self._scaled, self._forecast, self._lags = scaled, forecast, forecast.lags

    def step(self, values: Values, memory: Memory) -> list[float | None] | None:
        """Return the vector of a row; None while there are fewer than `lags` rows before it."""
        now = self._scaled.step(values, memory)
        before = memory[-self._lags :]
        if len(before) < self._lags:
            memory.append([0.0 if one is None else one for one in now])  # the center, while there is no forecast
            return None
        expected = self._expected([*reversed(before)])
        known = [_within(there) if one is None else one for one, there in zip(now, expected, strict=True)]
        memory[:] = [*before, known][-self._lags :]
        deviation = self._forecast.deviation
        return [None if one is None else (one - there) / spread for one, there, spread in zip(now, expected, deviation, strict=True)]

    def block(self, columns: Sequence[Number], memory: Memory) -> tuple[list[Number], int]:
        """Return the columns of the vectors."""
        now, _ = self._scaled.block(columns, memory)
        past, missing = _with_past(now, memory, self._lags)
        count = len(now)
        expected = self._expected([past[lag * count : (lag + 1) * count] for lag in range(self._lags)])
        found = [(one[missing:] - there) / spread for one, there, spread in zip(now, expected, self._forecast.deviation, strict=True)]
        return found, missing

    def _expected(self, before: Sequence[Sequence[Number]]) -> list[Number]:
        """Return the forecast from the last rows, the newest first."""
        one = self._forecast
        if one.joint:
            joined = [value for row in before for value in row]
            return [dot(row, joined) + start for row, start in zip(one.coefficients, one.intercept, strict=True)]
        return [dot(row, past) + start for row, past, start in zip(one.coefficients, zip(*before, strict=True), one.intercept, strict=True)]


def _with_past(now: Sequence[Number], memory: Memory, lags: int) -> tuple[list[Number], int]:
    """Return the columns of each lag for the rows that have so many before them, how many have not, and have memory end with the last rows."""
    import numpy as np

    before = memory[-lags:]
    rows = len(now[0])
    missing = min(lags - len(before), rows)
    whole = [np.concatenate([[row[place] for row in before], column]) for place, column in enumerate(now)]
    length = len(before) + rows
    memory[:] = [[float(column[at]) for column in whole] for at in range(max(length - lags, 0), length)]
    usable = rows - missing
    return [column[lags - lag : lags - lag + usable] for lag in range(1, lags + 1) for column in whole], missing
