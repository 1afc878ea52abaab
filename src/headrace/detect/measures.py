"""Measures of a vector: a score, and how much each tag contributes to it.

`score` takes floats, None where a value is missing. What is missing is left out: each measure is computed of the values that are there.
`block` takes arrays of complete vectors, a column each, and gives the same numbers. Both give None where there is no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log, sqrt
from typing import Any, Protocol

from headrace.detect.linear import Number, dot, factor, inverse, squares
from headrace.detect.model import Covariance, Plane

__all__ = ["Adwin", "Cusum", "Distance", "Ewma", "Largest", "Measure", "PageHinkley", "Planes"]

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
        """Return the scores of complete vectors, a column for each part; None if they cannot be computed."""


class Largest:
    """The greatest magnitude of any tag."""

    stateless = True

    def score(self, vector: Vector, memory: Memory) -> float | None:  # noqa: ARG002
        """Return the score of a vector."""
        return max((abs(one) for one in vector if one is not None), default=None)

    def block(self, columns: Sequence[Number]) -> Number:
        """Return the scores of complete vectors."""
        import numpy as np

        return np.abs(np.stack(columns)).max(axis=0)

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
        """Return the scores of complete vectors."""
        found = self._factor(tuple(range(len(columns))))
        return None if found is None else squares([dot(row, columns) for row in found])

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
        """Return the scores of complete vectors."""
        import numpy as np

        return np.stack([ratio for plane in self._planes for ratio in plane.block(columns)]).max(axis=0)

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

    def _there(self, vector: Vector) -> tuple[int, ...]:
        return tuple(place for place, column in enumerate(self.plane.columns) if vector[column] is not None)

    def ratios(self, vector: Vector) -> list[float | None]:
        """Return the distances as multiples of their limits."""
        places = self._there(vector)
        located = self._located(vector, places) if places else None
        return [None] * len(self._limits) if located is None else self._ratios(*self._measured(located), 0.0, max)

    def block(self, columns: Sequence[Number]) -> list[Any]:
        """Return the same of complete vectors."""
        import numpy as np

        return self._ratios(*self.distances(columns), 0.0, np.maximum)

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


class Ewma:
    """The greatest moving average of any tag, in units of its own deviation. Memory: the averages."""

    stateless = False

    def __init__(self, weight: float) -> None:
        self._weight, self._deviation = weight, sqrt(weight / (2.0 - weight))

    def score(self, vector: Vector, memory: Memory) -> float | None:
        """Return the score of a vector; a tag that is missing keeps its average."""
        _begin(memory, [0.0] * len(vector))
        for place, one in enumerate(vector):
            if one is not None:
                memory[place] += self._weight * (one - memory[place])
        return float(max(map(abs, memory)) / self._deviation)

    def parts(self, vector: Vector, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the squares of the averages."""
        return [one * one for one in memory]


class Cusum:
    """The greatest sum of deviations beyond `slack`, up or down, of any tag. Memory: the sums up, then those down.

    A sum is `cap` at most, so that it returns when what caused it is over.
    """

    stateless = False

    def __init__(self, slack: float, cap: float) -> None:
        self._slack, self._cap = slack, cap

    def score(self, vector: Vector, memory: Memory) -> float | None:
        """Return the score of a vector; a tag that is missing keeps its sums."""
        count = len(vector)
        _begin(memory, [0.0] * (2 * count))
        for place, one in enumerate(vector):
            if one is not None:
                memory[place] = min(max(memory[place] + one - self._slack, 0.0), self._cap)
                memory[count + place] = min(max(memory[count + place] - one - self._slack, 0.0), self._cap)
        return float(max(memory))

    def parts(self, vector: Vector, memory: Memory) -> list[float]:
        """Return the greater of both sums of each tag."""
        return [max(memory[place], memory[len(vector) + place]) for place in range(len(vector))]


class PageHinkley:
    """The test of Page and Hinkley for a change of the mean, of each tag, up and down: the greatest distance from the extreme.

    Memory by tag: how many values there were, their mean, and both distances.
    """

    stateless = False

    def __init__(self, slack: float, cap: float) -> None:
        self._slack, self._cap = slack, cap

    def score(self, vector: Vector, memory: Memory) -> float | None:
        """Return the score of a vector; a tag that is missing keeps its distances."""
        _begin(memory, [[0, 0.0, 0.0, 0.0] for _ in vector])
        for one, tag in zip(vector, memory, strict=True):
            if one is not None:
                count, mean, up, down = tag
                mean += (one - mean) / (count + 1)
                up = min(max(up + one - mean - self._slack, 0.0), self._cap)
                down = min(max(down - one + mean - self._slack, 0.0), self._cap)
                tag[:] = [count + 1, mean, up, down]
        return float(max(max(tag[2:]) for tag in memory))

    def parts(self, vector: Vector, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the greater of both distances of each tag."""
        return [max(tag[2:]) for tag in memory]


class Adwin:
    """Adaptive windows (ADWIN): of each tag, whether the mean of the newer part of its window differs from that of the older part.

    The score is the greatest difference as a multiple of what chance allows with probability `delta`. Beyond 1 the older part is dropped.
    A tag is tested at every eighth value, and its ratio stays until the next test.
    Memory by tag: how many values there were, the ratio, and buckets of [values, sum, sum of squared deviations], the oldest first, of which there
    are at most `_SAME` of each size.
    """

    stateless = False
    _SAME, _LEAST, _EVERY = 5, 5, 8

    def __init__(self, delta: float) -> None:
        self._delta = delta

    def score(self, vector: Vector, memory: Memory) -> float | None:
        """Return the score of a vector; a tag that is missing keeps its window."""
        _begin(memory, [[0, 0.0, []] for _ in vector])
        for one, tag in zip(vector, memory, strict=True):
            if one is not None:
                self._add(one, tag)
        return float(max(tag[1] for tag in memory))

    def parts(self, vector: Vector, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the ratios."""
        return [tag[1] for tag in memory]

    def _add(self, value: float, tag: list[Any]) -> None:
        count, _, buckets = tag
        buckets.append([1, value, 0.0])
        self._merge(buckets)
        tag[0] = count + 1
        if tag[0] % self._EVERY == 0:
            tag[1], cut = self._greatest(buckets)
            if tag[1] > 1.0:
                del buckets[:cut]

    def _merge(self, buckets: list[list[float]]) -> None:
        """Merge the two oldest buckets of a size of which there are too many."""
        end = len(buckets)
        while end:
            size = buckets[end - 1][0]
            start = end
            while start and buckets[start - 1][0] == size:
                start -= 1
            if end - start <= self._SAME:
                return
            buckets[start : start + 2] = [_merged(buckets[start], buckets[start + 1])]
            end = start + 1

    def _greatest(self, buckets: list[list[float]]) -> tuple[float, int]:
        """Return the greatest ratio over all cuts, and how many buckets are before its cut."""
        count, total, spread = 0.0, 0.0, 0.0
        for bucket in buckets:
            count, total, spread = _merged([count, total, spread], bucket) if count else bucket
        variance, chance = spread / count, log(2.0 * log(max(count, 3.0)) / self._delta)
        best, cut = 0.0, 0
        older = [0.0, 0.0, 0.0]
        for place, bucket in enumerate(buckets[:-1], 1):
            older = [older[0] + bucket[0], older[1] + bucket[1], 0.0]
            left = count - older[0]
            if older[0] < self._LEAST or left < self._LEAST:
                continue
            m = 1.0 / (1.0 / older[0] + 1.0 / left)
            allowed = sqrt(2.0 / m * variance * chance) + 2.0 / (3.0 * m) * chance
            ratio = abs(older[1] / older[0] - (total - older[1]) / left) / allowed
            if ratio > best:
                best, cut = ratio, place
        return best, cut


def _merged(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return two buckets as one."""
    count = one[0] + other[0]
    apart = one[1] / one[0] - other[1] / other[0]
    return [count, one[1] + other[1], one[2] + other[2] + apart * apart * one[0] * other[0] / count]


def _begin(memory: Memory, fresh: list[Any]) -> None:
    """Have memory begin with `fresh`."""
    if not memory:
        memory[:] = fresh
