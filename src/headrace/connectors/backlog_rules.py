"""What a rule of dropping has to answer, and what it counts with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from headrace.connectors.buffer import Unread
from headrace.connectors.protocol import Record

__all__ = ["Parted", "Rule", "Unbounded", "count_beyond", "ends_of", "has_before", "order_of", "parted", "waiting_of"]


def order_of(one: Record) -> tuple[int, int, int]:
    """Return the place of a record in the order of arrival."""
    return one.order, one.partition, one.offset


def waiting_of(pending: Sequence[Record], unread: Unread) -> int:
    """Return how many records wait."""
    return len(pending) + sum(end - at for at, end in unread.values())


class Parted(NamedTuple):
    """Records that stay, and those that are dropped."""

    kept: list[Record]
    dropped: Sequence[Record] = ()


class Rule(Protocol):
    """What is dropped.

    Attributes
    ----------
    decided
        The last decision about records that are still to be read.
    """

    decided: Any

    def bounded(self, pending: list[Record], unread: Unread) -> Parted:
        """Part what is pending, and decide about what is still to be read."""

    def admitted(self, records: list[Record]) -> Parted:
        """Part what was read."""

    def held(self) -> Iterable[Record]:
        """Return records about which is not decided yet."""

    def released(self, unread: Unread) -> list[Record]:
        """Return those that stay, because all that was to be read with them is read."""

    def saved(self, pending: Sequence[Record]) -> Any:  # noqa: ANN401  (a value of JSON)
        """Return the decisions, as they were before the pending records were read."""

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        """Take decisions back."""


class Unbounded:
    """The rule that drops nothing."""

    decided: Any = None

    def bounded(self, pending: list[Record], unread: Unread) -> Parted:  # noqa: ARG002
        """Keep what is pending."""
        return Parted(pending)

    def admitted(self, records: list[Record]) -> Parted:
        """Keep what was read."""
        return Parted(records)

    def held(self) -> Iterable[Record]:
        """Return none: all is decided."""
        return ()

    def released(self, unread: Unread) -> list[Record]:  # noqa: ARG002
        """Return none."""
        return []

    def saved(self, pending: Sequence[Record]) -> Any:  # noqa: ANN401, ARG002
        """Return None: there is no decision."""
        return None

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        """Do nothing."""


def parted(records: Sequence[Record], stays: Callable[[Record], bool]) -> Parted:
    """Part records by whether they stay."""
    kept: list[Record] = []
    dropped: list[Record] = []
    for one in records:
        (kept if stays(one) else dropped).append(one)
    return Parted(kept, dropped)


def has_before(unread: Unread, pending: Sequence[Record], ends: Mapping[int, int]) -> bool:
    """Return whether a record that is unread or pending is before some ends."""
    return any(at < ends[number] for number, (at, _) in unread.items()) or any(one.offset < ends[one.partition] for one in pending)


def ends_of(unread: Unread) -> dict[int, int]:
    """Return up to where each partition is to be read."""
    return {number: end for number, (_, end) in unread.items()}


def count_beyond(unread: Unread, ends: Mapping[int, int]) -> int:
    """Return how many unread records are not before some ends."""
    return sum(end - max(at, ends.get(number, 0)) for number, (at, end) in unread.items())
