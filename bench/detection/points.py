"""Scores of rows: each row is normal or abnormal, and a detector says for each whether it is an anomaly. Nothing is adjusted by events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

__all__ = ["Counts"]


class Counts(NamedTuple):
    """How many rows are abnormal and found, normal and in alarm, abnormal and missed, normal and quiet."""

    found: int = 0
    false: int = 0
    missed: int = 0
    quiet: int = 0

    @classmethod
    def of(cls, alarms: Sequence[bool], abnormal: Sequence[bool]) -> Self:
        """Count the rows of one run."""
        pairs = list(zip(map(bool, alarms), map(bool, abnormal), strict=True))
        return cls(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))

    def plus(self, other: Counts) -> Counts:
        """Return the counts of the rows of both."""
        return Counts(*(one + another for one, another in zip(self, other, strict=True)))

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if nothing is found."""
        return 2 * self.found / max(2 * self.found + self.false + self.missed, 1)

    @property
    def false_alarm_rate(self) -> float:
        """The share of the normal rows that are in alarm."""
        return self.false / max(self.false + self.quiet, 1)

    @property
    def missed_alarm_rate(self) -> float:
        """The share of the abnormal rows that are not in alarm."""
        return self.missed / max(self.missed + self.found, 1)

    @property
    def detection_rate(self) -> float:
        """The share of the abnormal rows that are in alarm."""
        return self.found / max(self.missed + self.found, 1)
