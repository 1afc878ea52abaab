"""A batch on its way to a target: what is sent next, and which records are set aside. Sans-IO.

Records are sent in their order, and a record is not sent before those before it are settled: applied, or set aside. So a target that
keeps the last value of a key ends with the last one, whatever was refused in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.connectors.protocol import Record
from headrace.connectors.retries import Retries

__all__ = ["Delivery"]

TRIES = 5


@dataclass(slots=True)
class Delivery:
    """A batch of records that is sent until all are settled.

    Attributes
    ----------
    settled
        How many records, from the first, are applied or set aside.
    aside
        The records that were set aside, each with the reason.
    """

    records: Sequence[Record]
    tries: int = TRIES
    settled: int = 0
    aside: list[tuple[Record, str]] = field(default_factory=list)
    _width: int = 0
    _tried: int = 0
    _outage: Retries = field(default_factory=Retries)
    _refusals: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        """Begin with all records."""
        self._width = len(self.records)

    @property
    def done(self) -> bool:
        """Whether all records are settled."""
        return self.settled == len(self.records)

    @property
    def waits(self) -> bool:
        """Whether the last try failed because the target was unavailable."""
        return self._outage.failures > 0

    def sending(self) -> Sequence[Record]:
        """Return the records to be sent now."""
        return self.records[self.settled : self.settled + self._width]

    def applied(self, never: Mapping[int, str]) -> None:
        """Note that the target has answered: the records are applied, but those that it can never take, by their place."""
        sent = self.sending()
        self.aside += [(sent[place], never[place]) for place in sorted(never) if 0 <= place < len(sent)]
        self._settle(len(sent))
        self._width = min(2 * self._width, len(self.records))

    def refused(self, reason: str, at: int | None, now: float) -> float:
        """Note that a record was refused, and return how many seconds to wait before the next try.

        Where the target does not say which record it was, half of them are sent next, until there is one.
        """
        sent = self.sending()
        if at is None or not 0 <= at < len(sent):
            if len(sent) > 1:
                self._answered()
                self._width = len(sent) // 2
                return 0.0
            at = 0
        if at:
            self._settle(at)
        self._outage.succeeded()
        self._width, self._tried = 1, self._tried + 1
        if self._tried < self.tries:
            return self._refusals.failed(now) or 0.0
        self.aside.append((self.records[self.settled], reason))
        self._settle(1)
        self._width = len(self.records)
        return 0.0

    def unavailable(self, now: float) -> float:
        """Note that the target was unavailable, and return how many seconds to wait before the same records are sent again."""
        return self._outage.failed(now) or 0.0

    def _settle(self, count: int) -> None:
        self.settled += count
        self._answered()

    def _answered(self) -> None:
        self._tried = 0
        self._outage.succeeded()
        self._refusals.succeeded()
