"""Measures of a vector: a score, and how much each tag contributes to it.

`score` takes floats, None where a value is missing. What is missing is left out: each measure is computed of the values that are there.
`block` takes arrays, a column for each part, None where it is missing in all vectors, and gives the same numbers. Both give None where there is no
score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from headrace.detect.linear import Number, dot, factor, squares
from headrace.detect.model import Covariance

__all__ = ["Distance", "Largest", "Measure"]

Vector = Sequence[float | None]
Memory = list[Any]


class Measure(Protocol):
    """A measure of vectors. Memory is what is retained from row to row; it is changed in place."""

    stateless: bool

    def score(self, vector: Vector, memory: Memory) -> float | None:
        """Return the score of a vector; None if it cannot be computed."""

    def parts(self, vector: Vector, memory: Memory) -> list[float]:
        """Return how much each tag contributes to the score that was computed last, none below 0."""


class Stateless(Measure, Protocol):
    """A measure of one vector at a time."""

    def block(self, columns: Sequence[Number]) -> Number:
        """Return the scores of vectors that have the same parts, a column for each, None where it is missing; None if they cannot be computed."""


class Largest:
    """The greatest magnitude of any tag."""

    stateless = True

    def score(self, vector: Vector, memory: Memory) -> float | None:  # noqa: ARG002
        """Return the score of a vector."""
        return max((abs(one) for one in vector if one is not None), default=None)

    def block(self, columns: Sequence[Number]) -> Number:
        """Return the scores of vectors."""
        import numpy as np

        there = [column for column in columns if column is not None]
        return np.abs(np.stack(there)).max(axis=0) if there else None

    def parts(self, vector: Vector, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the squares."""
        return [0.0 if one is None else one * one for one in vector]


class Distance:
    """The Mahalanobis distance from 0, squared."""

    stateless = True

    def __init__(self, covariance: Covariance) -> None:
        self._matrix = covariance.matrix
        self._factor = lru_cache(64)(self._factor_of)

    def _factor_of(self, places: tuple[int, ...]) -> list[list[float]] | None:
        return factor([[self._matrix[i][j] for j in places] for i in places])

    def score(self, vector: Vector, memory: Memory) -> float | None:  # noqa: ARG002
        """Return the score of a vector: by the covariance of the tags that are there."""
        places = tuple(place for place, one in enumerate(vector) if one is not None)
        found = self._factor(places)
        if not found:
            return None
        values = [vector[place] for place in places]
        return float(squares([dot(row, values) for row in found]))

    def block(self, columns: Sequence[Number]) -> Number:
        """Return the scores of vectors."""
        found = self._factor(tuple(place for place, one in enumerate(columns) if one is not None))
        there = [column for column in columns if column is not None]
        return squares([dot(row, there) for row in found]) if found else None

    def parts(self, vector: Vector, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the share of each tag in the sum: its value times its place in the product of the inverse and the vector."""
        places = tuple(place for place, one in enumerate(vector) if one is not None)
        rows = self._factor(places) or []
        values = [vector[place] for place in places]
        lengths = [dot(row, values) for row in rows]
        found = [0.0] * len(vector)
        for at, place in enumerate(places):
            found[place] = max(values[at] * dot((row[at] for row in rows[at:]), lengths[at:]), 0.0)
        return found
