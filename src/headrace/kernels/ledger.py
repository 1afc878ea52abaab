"""The loss ledger: what became of every record received.

`received = accepted + malformed + future + duplicate + late + filtered + shed`, each record counted once, at the first
that applies in the order malformed, future, duplicate, filtered (a filter left nothing of it), late (no open window took
any of it), accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from headrace.errors import InternalError

__all__ = ["Account", "Reason", "Reasons", "balance", "received_in_vain"]

_MOST_REASONS = 100
_OUTSIDE = " is outside "


@dataclass
class Reason:
    """One reason why records were set aside: how many, and the first of them."""

    text: str
    count: int
    partition: int
    offset: int
    detail: str


class Reasons:
    """Why records of one source were set aside. There are at most a hundred reasons; what has a further one counts as `other`."""

    def __init__(self, saved: Sequence[Sequence[Any]] = ()) -> None:
        self._found = {one[0]: Reason(*one) for one in saved}

    def note(self, partition: int, offset: int, detail: str) -> None:
        """Enter a record with the detail that its dead letter has."""
        # What stands behind the colon, or between these words, is the record's own.
        head, outside, bounds = detail.partition(_OUTSIDE)
        text = f"event time{outside}{bounds.partition(': ')[0]}" if outside and head.startswith("event time") else detail.partition(": ")[0]
        if text.startswith("event time is ") and text.endswith("past its arrival"):
            text = "event time is too far past its arrival"
        if text not in self._found and len(self._found) >= _MOST_REASONS:
            text = "other"
        found = self._found.setdefault(text, Reason(text, 0, partition, offset, detail))
        found.count += 1

    def commonest(self) -> list[Reason]:
        """Return the reasons, the commonest first."""
        return sorted(self._found.values(), key=lambda one: -one.count)

    def saved(self) -> list[list[Any]]:
        """Return them for a commit."""
        return [[one.text, one.count, one.partition, one.offset, one.detail] for one in self._found.values()]


@dataclass
class Account:
    """The ledger of one pipeline's one source; `reasons` say why records were set aside, and are no part of what must balance."""

    received: int = 0
    accepted: int = 0
    malformed: int = 0
    future: int = 0
    duplicate: int = 0
    late: int = 0
    filtered: int = 0
    shed: int = 0
    reasons: Reasons = field(default_factory=Reasons, compare=False, repr=False)

    def settle(self, *, received: int, malformed: int, future: int = 0, reached: int, taken: int) -> None:
        """Enter a batch.

        Parameters
        ----------
        received
            Records read.
        malformed
            Those set aside unread.
        future
            Those set aside because their event time lies too far ahead.
        reached
            Those of which a row reached a window or a sink.
        taken
            Those of which a window or a sink took a row.
        """
        self.received += received
        self.malformed += malformed
        self.future += future
        self.filtered += received - malformed - future - reached
        self.late += reached - taken
        self.accepted += taken
        self.check()

    def found_duplicate(self, count: int) -> None:
        """Enter that so many of the records that were accepted are duplicates."""
        self.accepted -= count
        self.duplicate += count
        self.check()

    def check(self) -> None:
        """Raise InternalError if the ledger does not balance."""
        fates = [count for name, count in self.counts().items() if name != "received"]
        if sum(fates) != self.received or min(fates) < 0:
            raise InternalError(f"the ledger does not balance: {self.counts()}")

    def counts(self) -> Mapping[str, int]:
        """Return the counts by name, in the order of the contract."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "reasons"}


def balance(counts: Mapping[str, int | None]) -> str:
    """Return a ledger in one line: what was received, and what of it became what; `?` what was not counted."""
    shown = {name: "?" if count is None else f"{count:,}" for name, count in counts.items()}
    fates = " + ".join(f"{shown[name]} {name}" for name, count in counts.items() if name != "received" and (count != 0 or name == "accepted"))
    return f"{shown['received']} received = {fates}"


def received_in_vain(counts: Iterable[Mapping[str, int | None]]) -> int:
    """Return how many records a run received if it could use none of them, else 0. Filtered and duplicate records were used; None is unknown."""
    sources = list(counts)
    unused = all(one[fate] == 0 for one in sources for fate in ("accepted", "filtered", "duplicate"))
    return sum(one["received"] or 0 for one in sources) if unused else 0
