"""The loss ledger: what became of every record received.

`received = accepted + malformed + future + duplicate + late + filtered + shed`, each record counted once, at the first
that applies in the order malformed, future, duplicate, filtered (a filter left nothing of it), late (no open window took
any of it), accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from headrace.errors import InternalError

__all__ = ["Account"]


@dataclass
class Account:
    """The ledger of one pipeline's one source."""

    received: int = 0
    accepted: int = 0
    malformed: int = 0
    future: int = 0
    duplicate: int = 0
    late: int = 0
    filtered: int = 0
    shed: int = 0

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
        fates = [count for name, count in asdict(self).items() if name != "received"]
        if sum(fates) != self.received or min(fates) < 0:
            raise InternalError(f"the ledger does not balance: {asdict(self)}")

    def counts(self) -> Mapping[str, int]:
        """Return the counts by name, in the order of the contract."""
        return asdict(self)
