"""Novelty: values that are unlike all that a tag has had, learned while running.

Of each tag two signals are followed: its values, and their mean over the last `level` of them. The surprise of a signal is the distance from its
value to the nearest one that is remembered, in deviations of such distances up to now. A tag's score is the sum of the surprises of both. What is
new is remembered, so that a new normal is normal after a while.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import sqrt
from typing import Any

__all__ = ["Novelty"]

_LEAST = 2  # distances that are needed to judge one
_FLOOR, _SHARE = 1e-6, 0.01  # the least deviation of distances: in normal spreads of the tag, and as a share of their mean

Memory = list[Any]


class Novelty:
    """The greatest score of any tag.

    A score within `rest` rows of a score as high counts 0: what was new is not reported again.

    Memory: the number of rows, those scores of the last `rest` rows that no later one exceeds, each with its row; and by tag its last `level`
    values, and both signals. A signal is how many distances there were, their sum and the sum of their squares; its last values, which are not
    compared yet; the values that are remembered by age, and the same sorted.
    """

    stateless = False

    def __init__(self, remembered: int, level: int, rest: int) -> None:
        self._remembered, self._level, self._rest = remembered, level, rest

    def score(self, vector: Sequence[float | None], memory: Memory) -> float | None:
        """Return the score of a vector; a tag that is missing keeps its memory."""
        if not memory:
            memory[:] = [0, [], [[[], _signal(), _signal(), 0.0] for _ in vector]]
        for one, tag in zip(vector, memory[2], strict=True):
            tag[3] = 0.0 if one is None else self._surprise(one, tag)
        memory[0] += 1
        return self._reported(float(max(tag[3] for tag in memory[2])), memory)

    def parts(self, vector: Sequence[float | None], memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the scores of the tags."""
        return [max(tag[3], 0.0) for tag in memory[2]]

    def _surprise(self, value: float, tag: list[Any]) -> float:
        last, values, levels, _ = tag
        last.append(value)
        del last[: -self._level]
        return self._distance(value, values, 1) + self._distance(sum(last) / len(last), levels, self._level)

    def _distance(self, value: float, signal: list[Any], apart: int) -> float:
        """Return the surprise of a value; it is compared with values that are `apart` rows before it or more."""
        count, total, squares, pending, aged, ordered = signal
        if len(pending) == apart:
            self._remember(pending.pop(0), aged, ordered)
        pending.append(value)
        found = _nearest(value, ordered)
        surprise = 0.0
        if count >= _LEAST:
            mean = total / count
            deviation = sqrt(max(squares / count - mean * mean, 0.0))
            surprise = (found - mean) / max(deviation, _FLOOR + _SHARE * mean)
        signal[:3] = count + 1, total + found, squares + found * found
        return surprise

    def _remember(self, value: float, aged: list[float], ordered: list[float]) -> None:
        aged.append(value)
        insort(ordered, value)
        if len(aged) > self._remembered:
            del ordered[bisect_left(ordered, aged.pop(0))]

    def _reported(self, score: float, memory: Memory) -> float:
        """Return the score, or 0 if one as high was reported within the last `rest` rows."""
        row, recent, _ = memory
        while recent and recent[0][0] < row - self._rest:
            del recent[0]
        found = score if not recent or score > recent[0][1] else 0.0
        while recent and recent[-1][1] <= score:
            del recent[-1]
        recent.append([row, score])
        return found


def _signal() -> list[Any]:
    return [0, 0.0, 0.0, [], [], []]


def _nearest(value: float, ordered: Sequence[float]) -> float:
    """Return the distance to the nearest of some sorted values; 0 if there are none."""
    place = bisect_left(ordered, value)
    return min((abs(one - value) for one in ordered[max(place - 1, 0) : place + 1]), default=0.0)
