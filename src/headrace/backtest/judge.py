"""Alarms judged by labels: which events were found and how soon, which alarms were false, and what *always alarm* and *random* would reach.

Definitions
-----------
An alarm counts for an event if it is raised from the event's start to its end, or within the grace after it. Several alarms of one event count
once; an alarm that counts for no event is false. Events may overlap: an alarm then counts for each of them.

*Always alarm* is in alarm the whole time: it raises an alarm every 30 s, and at the start of every event. *Random* raises as many alarms as
the pipeline did, at times drawn uniformly; its figures are means over many draws of one seed.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Any, NamedTuple

from headrace.alarms.kpi import floods
from headrace.alarms.process import Flood
from headrace.backtest.labels import Label

__all__ = ["Alarm", "Backtest", "Found"]

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_ALWAYS_MS = 30_000
_DRAWS, _DRAWN = 100, 200_000  # draws at most, and alarms drawn at most


class Alarm(NamedTuple):
    """An alarm that was raised: its time in ms since the epoch, and the rule that raised it."""

    time: int
    rule: str


class Found(NamedTuple):
    """An event, and its alarms by time; none if it was missed."""

    label: Label
    alarms: Sequence[Alarm]

    @property
    def delay_s(self) -> float | None:
        """The time from its start to its first alarm, in seconds."""
        return (self.alarms[0].time - self.label.start) / 1000 if self.alarms else None


@dataclass(frozen=True)
class Backtest:
    """The alarms of a pipeline over a history, and its labels.

    Parameters
    ----------
    alarms
        What was raised, in any order.
    labels
        The events.
    start, end
        The first and the last event time of the history, ms since the epoch.
    grace_ms
        How long after the end of an event an alarm counts for it.
    operators
        How many operators share the alarms.
    seed
        The seed of *random*.
    """

    alarms: Sequence[Alarm]
    labels: Sequence[Label]
    start: int
    end: int
    grace_ms: int = 0
    operators: int = 1
    seed: int = 0

    @property
    def hours(self) -> float:
        """How long the history is; at least a second."""
        return max(self.end - self.start, 1000) / _HOUR_MS

    @cached_property
    def _sorted(self) -> list[Alarm]:
        return sorted(self.alarms)

    @cached_property
    def events(self) -> list[Found]:
        """The events with their alarms, by start."""
        times = [alarm.time for alarm in self._sorted]
        return [Found(label, self._sorted[slice(*self._within(label, times))]) for label in sorted(self.labels)]

    @cached_property
    def false_alarms(self) -> list[Alarm]:
        """The alarms that count for no event, by time."""
        times = [alarm.time for alarm in self._sorted]
        kept, at = list[Alarm](), 0
        for first, behind in self._covered(times):
            kept += self._sorted[at:first]
            at = behind
        return kept + self._sorted[at:]

    def report(self) -> dict[str, Any]:
        """Return the figures, those of each rule, and those of *always alarm* and *random*; None is a figure that there is not."""
        return {
            **self._figures([alarm.time for alarm in self._sorted]),
            "by_rule": self._by_rule(),
            "always_alarm": self._always(),
            "random": self._random(),
        }

    def _by_rule(self) -> dict[str, dict[str, int]]:
        rules = sorted({alarm.rule for alarm in self.alarms})
        found = {rule: {"alarms": 0, "detected": 0, "detected_alone": 0, "false_alarms": 0} for rule in rules}
        for alarm in self.alarms:
            found[alarm.rule]["alarms"] += 1
        for alarm in self.false_alarms:
            found[alarm.rule]["false_alarms"] += 1
        for event in self.events:
            mine = {alarm.rule for alarm in event.alarms}
            for rule in mine:
                found[rule]["detected"] += 1
                found[rule]["detected_alone"] += len(mine) == 1
        return found

    def _always(self) -> dict[str, Any]:
        """Return the figures of alarms every 30 s and at the start of every event. They are counted, as a history of decades has millions."""
        steps = range(self.start, self.end + 1, _ALWAYS_MS)
        between = sorted({start for label in self.labels if (start := max(label.start, self.start)) not in steps})
        counted = sum(behind - first for times in (steps, between) for first, behind in self._covered(times))
        delays = [max(self.start - label.start, 0) / 1000 for label in self.labels if self.start <= label.end + self.grace_ms]
        flooding = sorted([*steps[: Flood.most + 1], *between[: Flood.most + 1]])[Flood.most :][:1]  # the first alarm too many; a flood never ends
        count = len(steps) + len(between)
        return self._of(count, count - counted, delays, sum(max(self.end - time, 0) for time in flooding))

    def _random(self) -> dict[str, Any]:
        """Return the means of the figures over the draws; times to detection are those of all draws together."""
        dice, count = random.Random(self.seed), len(self.alarms)  # noqa: S311  (repeatable, not secret)
        draws = max(1, min(_DRAWS, _DRAWN // max(count, 1)))
        every = [sorted(dice.randint(self.start, self.end) for _ in range(count)) for _ in range(draws)]
        figures = [self._figures(times) for times in every]
        means = {name: _mean([one[name] for one in figures]) for name in figures[0] if name != "time_to_detection_s"}
        return {**means, "time_to_detection_s": _spread([delay for times in every for delay in self._delays(times)])}

    def _figures(self, times: Sequence[int]) -> dict[str, Any]:
        """Return the figures of alarms raised at these times, which are sorted."""
        false = len(times) - sum(behind - first for first, behind in self._covered(times))
        return self._of(len(times), false, self._delays(times), self._flooded(times))

    def _of(self, alarms: int, false: int, delays: Sequence[float], flooded_ms: int) -> dict[str, Any]:
        """Return the figures of so many alarms, of which so many are false, with the time to detection of each event that is found."""
        detected, count = len(delays), len(self.labels)
        length = self.hours * _HOUR_MS
        return {
            "events": count,
            "detected": detected,
            "event_recall": detected / count if count else None,
            "precision": detected / (detected + false) if alarms else None,
            "time_to_detection_s": _spread(delays),
            "false_alarms_per_day": false / (length / _DAY_MS),
            "alarms_per_operator_hour": alarms / self.hours / self.operators,
            "flood_share": min(1.0, flooded_ms / length),
        }

    def _flooded(self, times: Sequence[int]) -> int:
        """Return how long there was a flood, in ms."""
        return sum(min(self.end if ended is None else ended, self.end) - began for began, ended in floods([*times]))

    def _delays(self, times: Sequence[int]) -> list[float]:
        """Return the time to detection of each event that is found, in seconds."""
        places = ((label, *self._within(label, times)) for label in self.labels)
        return [(times[first] - label.start) / 1000 for label, first, behind in places if first < behind]

    def _within(self, label: Label, times: Sequence[int]) -> tuple[int, int]:
        """Return which of the sorted times count for an event: the first, and the one behind the last."""
        return bisect_left(times, label.start), bisect_right(times, label.end + self.grace_ms)

    @cached_property
    def _intervals(self) -> list[tuple[int, int]]:
        """The times that belong to events, those that overlap joined."""
        joined: list[tuple[int, int]] = []
        for label in sorted(self.labels):
            start, end = label.start, label.end + self.grace_ms
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], end)
            else:
                joined.append((start, end))
        return joined

    def _covered(self, times: Sequence[int]) -> list[tuple[int, int]]:
        """Return which of the sorted times belong to events, as places from and to before."""
        return [(bisect_left(times, start), bisect_right(times, end)) for start, end in self._intervals]


def _spread(delays: Iterable[float]) -> dict[str, float | None]:
    """Return the median, and the 90th percentile by nearest rank."""
    found = sorted(delays)
    return {"median": median(found) if found else None, "p90": found[-(-len(found) * 9 // 10) - 1] if found else None}


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
