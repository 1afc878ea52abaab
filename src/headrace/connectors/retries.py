"""When to try again after a failure: sans-IO, so that a test runs through hours of outage in no time.

A library for retries sleeps by itself. Here the runner sleeps, because it also has to stop, to commit what it has, and to be tested
with a clock of the test's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

__all__ = ["Retries"]

FIRST_SECONDS = 0.1
MOST_SECONDS = 5.0


@dataclass(slots=True)
class Retries:
    """Exponential backoff with jitter: 0.1 s after the first failure, then twice as long each time, up to 5 s.

    Attributes
    ----------
    patience
        How many seconds after the first failure to give up; None is never.
    dice
        Shortens each wait by up to a half, so that many clients do not come back at the same moment.
    failures
        How many failures there were since the last success.
    """

    patience: float | None = None
    dice: Random = field(default_factory=Random, repr=False)
    failures: int = 0
    _since: float = 0.0

    def failed(self, now: float) -> float | None:
        """Note a failure, and return how many seconds to wait; None if it is time to give up."""
        if self.failures == 0:
            self._since = now
        self.failures += 1
        wait = min(FIRST_SECONDS * 2.0 ** min(self.failures - 1, 30), MOST_SECONDS) * self.dice.uniform(0.5, 1.0)
        if self.patience is None:
            return wait
        left = self._since + self.patience - now
        return min(wait, left) if left > 0 else None

    def succeeded(self) -> None:
        """Note a success: the next failure is the first one again."""
        self.failures = 0
