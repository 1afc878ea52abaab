"""Aggregates over rows that come one by one, in plain Python: what a running aggregate of `over` is computed with.

Rows are added from the oldest to the newest. So the value of a frame depends on its rows alone, whatever was in the frame before,
and a sum of DOUBLEs is the same on every engine, to the last digit.

This module is sent to the workers of clusters, which need not have what the function table needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import ceil, floor, isfinite, sqrt
from operator import add
from typing import Any

from headrace.plan.schema import BIGINT, Type

__all__ = ["Running", "running_of"]

Accumulators = list[Any]
_WRAP, _HALF = 2**64, 2**63


@dataclass(frozen=True, slots=True)
class Running:
    """How an aggregate is computed from its first argument's values that are not NULL, or from tuples of all its arguments.

    Parameters
    ----------
    of
        The values, oldest first, to the result.
    start
        The accumulators of a frame without a beginning: the type and the first value of each. `T` is the type of the first argument,
        `V` that of the last; a `MAP` is by text. None if the result needs all values.
    add
        One more value into the accumulators.
    result
        The accumulators to the result.
    """

    of: Callable[[Sequence[Any]], Any]
    start: tuple[tuple[str, object], ...] | None = None
    add: Callable[[Accumulators, Any], None] = lambda accumulators, value: None  # noqa: ARG005
    result: Callable[[Accumulators], Any] = lambda accumulators: accumulators[0]


# sums


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _sum(values: Sequence[float]) -> float | None:
    return _finite(reduce(add, values, 0.0)) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return _finite(reduce(add, values, 0.0) / len(values)) if values else None


def _add_to_sum(accumulators: Accumulators, value: float) -> None:
    """Add to the sum, which is None once it has been beyond DOUBLE, and count."""
    total, count = accumulators
    accumulators[:] = None if total is None else _finite(total + value), count + 1


def _wrapped(total: int) -> int:
    return (total + _HALF) % _WRAP - _HALF


def _add_whole(accumulators: Accumulators, value: int) -> None:
    accumulators[0] = _wrapped((accumulators[0] or 0) + value)


# the spread


def _add_to_spread(accumulators: Accumulators, value: float) -> None:
    """Add as Welford does; the sum of the squared distances is None once it has been beyond DOUBLE."""
    count, mean, squares = accumulators
    if squares is None:
        return
    distance = value - mean
    mean += distance / (count + 1)
    squares += distance * (value - mean)
    accumulators[:] = (count + 1, mean, squares) if isfinite(squares) and isfinite(mean) else (count + 1, 0.0, None)


def _spread(result: Callable[[float, int], float], least: int = 1) -> Running:
    def result_of(accumulators: Accumulators) -> float | None:
        count, _, squares = accumulators
        return None if squares is None or count < least else result(squares, count)

    return _folded((("BIGINT", 0), ("DOUBLE", 0.0), ("DOUBLE", 0.0)), _add_to_spread, result_of)


def _folded(start: tuple[tuple[str, object], ...], add: Callable[[Accumulators, Any], None], result: Callable[[Accumulators], Any]) -> Running:
    """Return an aggregate of which a frame is computed as one without a beginning is."""

    def of(values: Sequence[Any]) -> Any:  # noqa: ANN401
        accumulators = [value for _, value in start]
        for value in values:
            add(accumulators, value)
        return result(accumulators)

    return Running(of, start, add, result)


# one of the values


def _one(of: Callable[[Sequence[Any]], Any], better: Callable[[Any, Any], bool]) -> Running:
    """Return an aggregate that is one of its values: `better` says whether another replaces the one at hand."""

    def add(accumulators: Accumulators, value: Any) -> None:  # noqa: ANN401
        if accumulators[0] is None or better(value, accumulators[0]):
            accumulators[0] = value

    return Running(lambda values: of(values) if values else None, (("T", None),), add)


def _add_distinct(accumulators: Accumulators, value: Any) -> None:  # noqa: ANN401
    accumulators[0][value if isinstance(value, str) else repr(value or type(value)())] = True  # -0.0 is 0.0


def _add_entry(accumulators: Accumulators, entry: tuple[str, Any]) -> None:
    accumulators[0][entry[0]] = entry[1]


def _by_key(entries: Mapping[str, Any]) -> dict[str, Any] | None:
    return {key: entries[key] for key in sorted(entries)} or None


# of all values


def _median(values: Sequence[float]) -> float | None:
    if not values:
        return None
    ordered, half = sorted(values), len(values) // 2
    if len(values) % 2:
        return ordered[half]
    low, high = ordered[half - 1], ordered[half]
    middle = (low + high) / 2
    return middle if isfinite(middle) else low / 2 + high / 2


def _percentile(pairs: Sequence[tuple[float, float]]) -> float | None:
    if not pairs:
        return None
    ordered, place = sorted(value for value, _ in pairs), pairs[0][1] * (len(pairs) - 1)
    below, above = floor(place), ceil(place)
    return ordered[below] if below == above else (above - place) * ordered[below] + (place - below) * ordered[above]


# of readings: a time in ms, a value, and what else the call has


def _in_order(readings: Sequence[Sequence[Any]]) -> list[tuple[int, Any]]:
    """Return the times and values in the order of time; of several at one time the greatest value, of which NULL is the least."""
    latest: dict[int, Any] = {}
    for time, value, *_ in readings:
        if latest.get(time) is None or (value is not None and value > latest[time]):
            latest[time] = value
    return sorted(latest.items(), key=lambda reading: reading[0])


def _time_average(readings: Sequence[Sequence[Any]]) -> float | None:
    ordered = _in_order(readings)
    if len(ordered) < 2:
        return ordered[0][1] if ordered else None
    stepped = readings[0][2:] == ("stepped",)
    area, counted = 0.0, 0
    for (time, value), (until, following) in pairwise(ordered):
        if value is not None and (stepped or following is not None):
            span = _wrapped(until - time)
            area += (value if stepped else value / 2 + following / 2) * float(span)
            counted = _wrapped(counted + span)
    return _finite(area / counted) if counted > 0 else None


def _time_where(ordered: Sequence[tuple[int, Any]], is_so: Callable[[Any], bool]) -> int | None:
    """Return for how many ms the values are so; each lasts until the next reading."""
    return _wrapped(sum(until - time for (time, value), (until, _) in pairwise(ordered) if is_so(value))) if ordered else None


def _is_good(quality: int | None) -> bool:
    return quality is not None and 0 <= quality < 0x40000000


def _percent_good(readings: Sequence[Sequence[Any]]) -> float | None:
    ordered = _in_order(readings)
    good = _time_where(ordered, _is_good)
    if good is None:
        return None
    return good * 100.0 / _wrapped(ordered[-1][0] - ordered[0][0]) if len(ordered) > 1 else 100.0 * _is_good(ordered[0][1])


def _transitions(readings: Sequence[Sequence[Any]]) -> int | None:
    values = [value for _, value in _in_order(readings) if value is not None]
    return sum(one != other for one, other in pairwise(values)) if values else None


_COUNT = Running(len, (("BIGINT", 0),), lambda accumulators, _: accumulators.__setitem__(0, accumulators[0] + 1))
_SUM_OF_WHOLE = Running(lambda values: _wrapped(sum(values)) if values else None, (("T", None),), _add_whole)
_OF_SUM: tuple[tuple[str, object], ...] = (("DOUBLE", 0.0), ("BIGINT", 0))

_RUNNING = {
    "COUNT": _COUNT,
    "COUNT DISTINCT": Running(
        lambda values: len(set(values)), (("MAP<STRING, BOOLEAN>", None),), _add_distinct, lambda accumulators: len(accumulators[0])
    ),
    "SUM": Running(_sum, _OF_SUM, _add_to_sum, lambda accumulators: accumulators[0] if accumulators[1] else None),
    "AVG": Running(
        _mean,
        _OF_SUM,
        _add_to_sum,
        lambda accumulators: None if accumulators[0] is None or not accumulators[1] else accumulators[0] / accumulators[1],
    ),
    "MIN": _one(min, lambda new, old: new < old),
    "MAX": _one(max, lambda new, old: new > old),
    "VAR_POP": _spread(lambda squares, count: squares / count),
    "VAR_SAMP": _spread(lambda squares, count: squares / (count - 1), 2),
    "STDDEV_POP": _spread(lambda squares, count: sqrt(squares / count)),
    "STDDEV_SAMP": _spread(lambda squares, count: sqrt(squares / (count - 1)), 2),
    "MEDIAN": Running(_median),
    "PERCENTILE": Running(_percentile),
    "FIRST_VALUE": _one(lambda values: values[0], lambda new, old: False),  # noqa: ARG005
    "LAST_VALUE": _one(lambda values: values[-1], lambda new, old: True),  # noqa: ARG005
    "BOOL_AND": _one(min, lambda new, old: new < old),
    "BOOL_OR": _one(max, lambda new, old: new > old),
    "ARRAY_AGG": Running(lambda values: list(values) or None),
    "MAP_AGG": Running(lambda pairs: _by_key(dict(pairs)), (("MAP<STRING, V>", None),), _add_entry, lambda accumulators: _by_key(accumulators[0])),
    "WORST_QUALITY": _one(max, lambda new, old: new > old),
    "TIME_AVERAGE": Running(_time_average),
    "PERCENT_GOOD": Running(_percent_good),
    "DURATION_GOOD": Running(lambda readings: _time_where(_in_order(readings), _is_good)),
    "DURATION_IN_STATE": Running(lambda readings: _time_where(_in_order(readings), bool)),
    "NUMBER_OF_TRANSITIONS": Running(_transitions),
}


def running_of(function: str, kind: Type | None) -> Running:
    """Return how an aggregate over values of a type is computed; the type is None where it has no argument."""
    return _SUM_OF_WHOLE if function == "SUM" and kind == BIGINT else _RUNNING[function]
