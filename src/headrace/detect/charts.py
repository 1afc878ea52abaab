"""Control charts as measures, with a memory of what came before: EWMA, CUSUM, Page-Hinkley."""

from __future__ import annotations

from math import sqrt
from typing import Any

from headrace.detect.measures import Memory, Vector

__all__ = ["Cusum", "Ewma", "PageHinkley", "begin"]


class Ewma:
    """The greatest moving average of any tag, in units of its own deviation. Memory: the averages."""

    stateless = False

    def __init__(self, weight: float) -> None:
        self._weight, self._deviation = weight, sqrt(weight / (2.0 - weight))

    def score(self, vector: Vector, memory: Memory) -> float | None:
        """Return the score of a vector; a tag that is missing keeps its average."""
        begin(memory, [0.0] * len(vector))
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
        begin(memory, [0.0] * (2 * count))
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
        begin(memory, [[0, 0.0, 0.0, 0.0] for _ in vector])
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


def begin(memory: Memory, fresh: list[Any]) -> None:
    """Have memory begin with `fresh`."""
    if not memory:
        memory[:] = fresh
