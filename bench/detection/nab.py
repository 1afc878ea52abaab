"""NAB's score: windows around labelled anomalies, weighted by how early an alarm comes, at the best threshold for all series together.

A series counts from the end of its probationary period: 15 % of its rows, at most 750. Of each window the earliest alarm counts, with a weight that
falls from 1 at the window's start to 0 at its end; a window without an alarm costs the weight of a miss. An alarm outside all windows costs up to the
weight of a false alarm, less shortly after a window. The threshold is the one that is best for all series of the corpus. The score is 0 for a detector
without alarms and 100 for one that finds each window at its first row and raises no false alarm.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["PROFILES", "Best", "Point", "Profile", "Series", "best", "normalised", "points", "probation", "values", "windows"]


class Profile(NamedTuple):
    """The gain of an alarm in a window, and the costs of a false alarm and of a missed window."""

    found: float
    false_alarm: float
    missed: float


class Series(NamedTuple):
    """The scores of the rows of one series, and its windows as first and last row (inclusive)."""

    name: str
    scores: Sequence[float]
    windows: Sequence[tuple[int, int]]


class Point(NamedTuple):
    """A row after probation: its score, what an alarm at it gains, and the window in which it lies."""

    score: float
    gain: float
    window: tuple[str, int] | None


class Best(NamedTuple):
    """The best threshold (an alarm is a row with at least this score), and the sum of gains and costs with it."""

    threshold: float
    total: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}


def probation(rows: int) -> int:
    """Return how many rows at the start of a series are not scored."""
    return math.ceil(min(math.floor(0.15 * rows), 0.15 * 5000))


def weight(position: float) -> float:
    """Return the weight of an alarm at a position relative to a window: -1 at its start, 0 at its end, above 0 behind it in widths of the window."""
    return -1.0 if position > 3 else 2 / (1 + math.exp(5 * position)) - 1


def points(series: Series, profile: Profile) -> Iterator[Point]:
    """Yield the rows after probation with what an alarm at each gains or costs."""
    first = probation(len(series.scores))
    pending = sorted(series.windows)
    last: tuple[int, int] | None = None
    for row, score in enumerate(series.scores):
        if pending and row > pending[0][1]:
            last = pending.pop(0)
        if row < first:
            continue
        if pending and row >= pending[0][0]:
            start, end = pending[0]
            gain = profile.found * weight(-(end - row + 1) / (end - start + 1)) / weight(-1)
            yield Point(score, gain, (series.name, start))
        elif last is None:
            yield Point(score, -profile.false_alarm, None)
        else:
            yield Point(score, profile.false_alarm * weight((row - last[1]) / (last[1] - last[0])), None)


def best(rows: Iterable[Point], profile: Profile) -> Best:
    """Return the best threshold for all these rows together; infinity if no alarm at all is best."""
    ordered = sorted(rows, key=lambda point: -point.score)
    gains = {point.window: -profile.missed for point in ordered if point.window is not None}
    false_alarms, total = 0.0, sum(gains.values())
    found = Best(math.inf, total)
    for place, point in enumerate(ordered):
        if point.window is None:
            false_alarms += point.gain
        else:
            gains[point.window] = max(gains[point.window], point.gain)
        if place + 1 == len(ordered) or ordered[place + 1].score != point.score:
            total = false_alarms + sum(gains.values())
            if total > found.total:
                found = Best(point.score, total)
    return found


def normalised(corpus: Sequence[Series], profile: Profile) -> tuple[float, Best]:
    """Return the score, 0 to 100 (below 0 is not possible at the best threshold), with the best threshold for this corpus."""
    rows = [point for series in corpus for point in points(series, profile)]
    null = -profile.missed * len({point.window for point in rows} - {None})
    perfect = profile.found * sum(len(series.windows) for series in corpus)
    found = best(rows, profile)
    return 100 * (found.total - null) / (perfect - null), found


def values(file: Path, column: str = "value") -> tuple[list[str], list[float]]:
    """Return the timestamps and values of a file of NAB's data or results."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [(row["timestamp"], float(row[column])) for row in csv.DictReader(lines)]
    return [time for time, _ in rows], [value for _, value in rows]


def windows(file: Path) -> Mapping[str, list[tuple[str, str]]]:
    """Return the windows of each series, as timestamps in the manner of the data files."""
    with file.open(encoding="utf-8") as text:
        return {name: [(first[:19], last[:19]) for first, last in found] for name, found in json.load(text).items()}
