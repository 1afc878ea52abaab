"""The calibration of a detector's threshold, as it is asked for: `headrace.detect.fitting` carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.errors import PlanError

__all__ = ["Calibration"]

Tail = Literal["quantile", "lognormal"]

_TINY = 1e-9
_LEAST_RATE = 1e-15  # for which 1 - rate is not 1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a threshold is calibrated.

    Attributes
    ----------
    holdout
        The share of the rows, the last ones in time, that are held out to calibrate the threshold.
    false_alarm_rate
        The share of the held-out rows whose score may be above the threshold.
    tail
        `quantile`: the threshold is a quantile of the scores. `lognormal`: that of the log-normal distribution with the mean and the deviation of
        their logarithms, for a rate that too few rows can show.
    k
        An anomaly begins when the scores of at least `k` of the last `n` rows are above the threshold.
    n
        See `k`.
    smoothing
        The weight of a new score in the moving average of scores; 1: no average.
    max_missing
        A row of which a greater share of the tags is missing has no score.
    """

    holdout: float = 0.3
    false_alarm_rate: float = 0.01
    tail: Tail = "quantile"
    k: int = 1
    n: int = 1
    smoothing: float = 1.0
    max_missing: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, low, high in (
            ("holdout", 0.0, 1.0),
            ("false_alarm_rate", -_TINY, 1.0),
            ("smoothing", 0.0, 1.0 + _TINY),
            ("max_missing", -_TINY, 1.0 + _TINY),
        ):
            if not low < getattr(self, name) < high:
                raise PlanError(f"is {getattr(self, name)}", where=name, fix="give a number between 0 and 1")
        if not 1 <= self.k <= self.n <= 60:
            raise PlanError(f"k is {self.k} and n is {self.n}", where="k of n", fix="give 1 <= k <= n <= 60")
        if self.tail not in ("quantile", "lognormal"):
            raise PlanError(f"is {self.tail!r}", where="tail", fix="give quantile or lognormal")
        if self.tail == "lognormal" and self.false_alarm_rate < _LEAST_RATE:
            raise PlanError(
                f"is {self.false_alarm_rate:g}", where="false_alarm_rate", fix=f"give a rate of {_LEAST_RATE:g} or more, or tail=quantile"
            )
