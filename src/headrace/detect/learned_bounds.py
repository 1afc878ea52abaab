"""The bounds of normal rows, by tag: of values, of their rates, of how long they stay the same, and of combinations of states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.detect.kinds import Parameter
from headrace.detect.learning import vector_of
from headrace.detect.model import Bounds, Combination
from headrace.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["BOUNDED", "FittedBounds"]

BOUNDED = frozenset({"range", "rate", "stuck", "states"})
"""The kinds whose model is bounds."""


class FittedBounds:
    """The bounds of rows, with `moments`, their times in ms."""

    def __init__(self, np: Any, rows: Array, moments: Any, parameters: Mapping[str, Parameter]) -> None:  # noqa: ANN401
        self._np, self._rows, self._moments, self._parameters = np, rows, moments, parameters

    def of(self, kind: str) -> Bounds:
        """Return what one of the kinds `BOUNDED` needs."""
        match kind:
            case "range":
                return self._range()
            case "rate":
                return self._rate()
            case "stuck":
                return self._unchanged()
        return self._states()

    def _range(self) -> Bounds:
        np = self._np
        low, high = np.nanmin(self._rows, axis=0), np.nanmax(self._rows, axis=0)
        margin = float(self._parameters["margin"]) * (high - low)
        return Bounds(low=vector_of(low - margin), high=vector_of(high + margin))

    def _rate(self) -> Bounds:
        np = self._np
        found = []
        for column in self._rows.T:
            there = ~np.isnan(column)
            steps = np.abs(np.diff(column[there])) / np.diff(self._moments[there]) * 1000.0
            found.append(steps.max())
        return Bounds(rate=vector_of(found))

    def _unchanged(self) -> Bounds:
        np = self._np
        found = []
        for column in self._rows.T:
            there = ~np.isnan(column)
            times, values = self._moments[there], column[there]
            changes = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values) - 1]])
            found.append(max(np.diff(times[changes]).max(), 1))
        return Bounds(unchanged=vector_of(found))

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
        return Combination(vector_of(states), len(rows), vector_of(low - margin), vector_of(high + margin))
