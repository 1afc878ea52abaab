"""Principal components as a measure: distances within planes and from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from headrace.detect.linear import Number, dot, inverse, squares
from headrace.detect.measures import Memory, Vector
from headrace.detect.model import Plane

__all__ = ["Planes"]


class Planes:
    """The distances within planes of principal components (T²) and from them (Q), as multiples of their limits: the greatest of them."""

    stateless = True

    def __init__(self, planes: Sequence[Plane], tags: int) -> None:
        self._planes, self._tags = [_Projection(plane) for plane in planes], tags

    def score(self, vector: Vector, memory: Memory) -> float | None:  # noqa: ARG002
        """Return the score of a vector."""
        ratios = [ratio for plane in self._planes for ratio in plane.ratios(vector) if ratio is not None]
        return max(ratios, default=None)

    def block(self, columns: Sequence[Number]) -> Number:
        """Return the scores of vectors."""
        import numpy as np

        ratios = [ratio for plane in self._planes for ratio in plane.ratios(columns, np.maximum) if ratio is not None]
        return np.stack(ratios).max(axis=0) if ratios else None

    def distances(self, columns: Sequence[Number]) -> list[tuple[Number, Number]]:
        """Return T² and Q of complete vectors, for each plane."""
        return [plane.distances(columns) for plane in self._planes]

    def parts(self, vector: Vector, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the contributions to the distance that is the greatest, each tag's over all its lags."""
        ranked = [(ratio, plane, place) for plane in self._planes for place, ratio in enumerate(plane.ratios(vector)) if ratio is not None]
        if not ranked:
            return [0.0] * self._tags
        _, plane, place = max(ranked, key=lambda one: one[0])
        found = [0.0] * self._tags
        for column, part in plane.parts(vector, within=plane.within[place]):
            found[column % self._tags] += part
        return found


class _Projection:
    """A plane at work.

    Attributes
    ----------
    within
        Of each of its ratios, whether it is that of T².
    """

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._limits = [limit for limit in (plane.t2, plane.q) if limit is not None]
        self.within = [within for within, limit in ((True, plane.t2), (False, plane.q)) if limit is not None]
        self._inverted = [1.0 / one for one in plane.variances]
        self._gain = lru_cache(64)(self._gain_of)

    def _gain_of(self, places: tuple[int, ...]) -> list[list[float]] | None:
        """Return what makes coordinates in the plane of projections, where only some columns are there; None where they are too few."""
        components = [[row[place] for place in places] for row in self.plane.components]
        return inverse([[dot(one, other) for other in components] for one in components])

    def _located(self, vector: Sequence[Number], places: tuple[int, ...]) -> tuple[list[Number], list[Number], list[Number]] | None:
        """Return the values that are there, their projections, and their coordinates in the plane: the nearest point to them."""
        values = [vector[self.plane.columns[place]] for place in places]
        if len(places) == len(self.plane.columns):
            projected = [dot(row, values) for row in self.plane.components]
            return values, projected, projected
        gain = self._gain(places)
        if gain is None:
            return None
        projected = [dot((row[place] for place in places), values) for row in self.plane.components]
        return values, projected, [dot(row, projected) for row in gain]

    def _measured(self, located: tuple[list[Number], list[Number], list[Number]]) -> tuple[Number, Number]:
        values, projected, coordinates = located
        t2 = dot([one * one for one in coordinates], self._inverted)
        return t2, squares(values) - dot(projected, coordinates)

    def _there(self, vector: Sequence[Number]) -> tuple[int, ...]:
        return tuple(place for place, column in enumerate(self.plane.columns) if vector[column] is not None)

    def ratios(self, vector: Sequence[Number], greatest: Any = max) -> list[Any]:  # noqa: ANN401
        """Return the distances as multiples of their limits. Of columns they are arrays, for which `greatest` is numpy's."""
        places = self._there(vector)
        located = self._located(vector, places) if places else None
        return [None] * len(self._limits) if located is None else self._ratios(*self._measured(located), 0.0, greatest)

    def distances(self, columns: Sequence[Number]) -> tuple[Number, Number]:
        """Return T² and Q of complete vectors."""
        located = self._located(columns, tuple(range(len(self.plane.columns))))
        assert located is not None
        return self._measured(located)

    def _ratios(self, t2: Number, q: Number, least: float, greatest: Any) -> list[Any]:  # noqa: ANN401
        distances = [distance for distance, limit in ((t2, self.plane.t2), (q, self.plane.q)) if limit is not None]
        return [greatest(distance, least) / limit for distance, limit in zip(distances, self._limits, strict=True)]

    def parts(self, vector: Vector, *, within: bool) -> list[tuple[int, float]]:
        """Return the contributions of columns to T² or to Q."""
        places = self._there(vector)
        located = self._located(vector, places)
        assert located is not None
        values, _, coordinates = located
        weights = [one * weight for one, weight in zip(coordinates, self._inverted, strict=True)] if within else coordinates
        found = []
        for value, place in zip(values, places, strict=True):
            along = dot((row[place] for row in self.plane.components), weights)
            part = max(value * along, 0.0) if within else (value - along) * (value - along)
            found.append((self.plane.columns[place], part))
        return found
