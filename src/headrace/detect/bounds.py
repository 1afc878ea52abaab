"""Measures of the values themselves: outside a range, faster than ever, unchanged for too long, impossible states, a replayed signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.detect.model import Bounds

__all__ = ["Range", "Rate", "Replayed", "States", "Stuck"]

Values = Sequence[float | None]
Memory = list[Any]


class Range:
    """How far any tag is outside its range, as a share of the range."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = [(low, high, _span(low, high)) for low, high in zip(bounds.low, bounds.high, strict=True)]

    def score(self, values: Values, time: int, memory: Memory) -> float | None:
        """Return the score of a row."""
        return max(self.parts(values, time, memory))

    def parts(self, values: Values, time: int, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the distance of each tag."""
        return [0.0 if value is None else _outside(value, *bounds) for value, bounds in zip(values, self._bounds, strict=True)]


class Rate:
    """The greatest change of any tag in a second, as a multiple of the greatest in normal operation. Memory by tag: the last value and its time."""

    def __init__(self, bounds: Bounds) -> None:
        self._most = bounds.rate

    def score(self, values: Values, time: int, memory: Memory) -> float | None:
        """Return the score of a row; None at the first."""
        if not memory:
            memory[:] = [[value, time, 0.0] for value in values]
            return None
        for value, most, tag in zip(values, self._most, memory, strict=True):
            before, then, _ = tag
            if value is None:
                tag[2] = 0.0
            elif before is None or time <= then:
                tag[:] = [value, time, 0.0]
            else:
                tag[:] = [value, time, min(abs(value - before) / (time - then) * 1000.0 / most, _MOST)]
        return float(max(tag[2] for tag in memory))

    def parts(self, values: Values, time: int, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the change of each tag."""
        return [tag[2] for tag in memory]


class Stuck:
    """How long any tag has been unchanged, as a multiple of the longest time in normal operation. Memory by tag: the value, and since when."""

    def __init__(self, bounds: Bounds) -> None:
        self._longest = bounds.unchanged

    def score(self, values: Values, time: int, memory: Memory) -> float | None:
        """Return the score of a row; a tag that is missing begins anew."""
        if not memory:
            memory[:] = [[value, time, 0.0] for value in values]
        for value, longest, tag in zip(values, self._longest, memory, strict=True):
            if value is None or value != tag[0]:
                tag[:] = [value, time, 0.0]
            else:
                tag[2] = (time - tag[1]) / longest
        return float(max(tag[2] for tag in memory))

    def parts(self, values: Values, time: int, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the time of each tag."""
        return [tag[2] for tag in memory]


class States:
    """Whether the states of a row occur together, and how far the other tags are outside of their ranges in these states.

    The distance is a share of the whole range of the tag: in some states a tag hardly moves. A combination that did not occur scores 1 for each state in which it differs from the nearest that did.
    """

    def __init__(self, bounds: Bounds, tags: int, fewest: int) -> None:
        self._discrete = bounds.discrete
        self._others = tuple(place for place in range(tags) if place not in set(bounds.discrete))
        self._tags = tags
        spans = [_span(bounds.low[place], bounds.high[place]) for place in self._others]
        self._known: dict[tuple[float | None, ...], list[tuple[float, float, float]] | None] = {
            one.states: None if one.rows < fewest else list(zip(one.low, one.high, spans, strict=True)) for one in bounds.combinations
        }

    def score(self, values: Values, time: int, memory: Memory) -> float | None:
        """Return the score of a row; None if a state is missing."""
        if any(values[place] is None for place in self._discrete):
            return None
        parts = self.parts(values, time, memory)
        return sum(parts) if self._states(values) not in self._known else max(parts)

    def parts(self, values: Values, time: int, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the distance of each tag, or 1 for each state that does not fit the others."""
        found = [0.0] * self._tags
        states = self._states(values)
        if states not in self._known:
            nearest = min(self._known, key=lambda one: (sum(map(float.__ne__, one, states)), one))  # type: ignore[arg-type]
            for place, one, other in zip(self._discrete, states, nearest, strict=True):
                found[place] = float(one != other)
        elif (bounds := self._known[states]) is not None:
            for place, (low, high, span) in zip(self._others, bounds, strict=True):
                value = values[place]
                found[place] = 0.0 if value is None else _outside(value, low, high, span)
        return found

    def _states(self, values: Values) -> tuple[float | None, ...]:
        return tuple(values[place] for place in self._discrete)


class Replayed:
    """For how many changes any tag has repeated an earlier stretch of its own.

    A value repeats one of the last `rows` values if it differs by `tolerance` of the normal spread at most. A stretch grows while the values after
    it repeat those after that one; values that do not change count nothing, so that a signal that rests is no replay.
    Memory by tag: the last values, the newest last; and the stretches that grow, by how many rows they are behind: their number of changes.
    """

    def __init__(self, spread: Sequence[float], rows: int, tolerance: float) -> None:
        self._near = [one * tolerance for one in spread]
        self._rows = rows

    def score(self, values: Values, time: int, memory: Memory) -> float | None:  # noqa: ARG002
        """Return the score of a row; a tag that is missing begins anew."""
        if not memory:
            memory[:] = [[[], []] for _ in values]
        for value, near, tag in zip(values, self._near, memory, strict=True):
            if value is None:
                tag[:] = [[], []]
            else:
                self._follow(value, near, tag)
        return float(max(max((changes for _, changes in growing), default=0) for _, growing in memory))

    def parts(self, values: Values, time: int, memory: Memory) -> list[float]:  # noqa: ARG002
        """Return the longest stretch of each tag."""
        return [float(max((changes for _, changes in growing), default=0)) for _, growing in memory]

    def _follow(self, value: float, near: float, tag: list[Any]) -> None:
        past, growing = tag
        length = len(past)
        moved = not past or abs(value - past[-1]) > near
        found, seen = [], set()
        for behind, changes in growing:
            if behind <= length and abs(value - past[length - behind]) <= near:
                found.append([behind, changes + moved])
                seen.add(behind)
        if moved:  # a stretch begins with a change, to a value that there was
            low, high = value - near, value + near
            found += [[length - at, 1] for at, one in enumerate(past) if low <= one <= high and at and length - at not in seen]
        past.append(value)
        if len(past) > self._rows:
            del past[0]
        tag[1] = found


_MOST = 1e12


def _span(low: float, high: float) -> float:
    return high - low if high > low else max(abs(high), 1.0)


def _outside(value: float, low: float, high: float, span: float) -> float:
    return min(max(low - value, value - high, 0.0) / span, _MOST)
