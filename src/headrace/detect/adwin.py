"""Adaptive windowing as a measure: whether the recent values have another mean than those before."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from typing import Any

from headrace.detect.charts import begin
from headrace.detect.measures import Memory, Vector

__all__ = ["Adwin"]


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
        begin(memory, [[0, 0.0, []] for _ in vector])
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
