"""The ledger of a job on a cluster: entries on a topic, each of some of the records, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headrace.kernels.ledger import Account
from headrace.plan.pipeline import Plan

__all__ = ["Ledger", "added_up", "ledger_topic"]

Ledger = Mapping[str, Mapping[str, int | None]]
_COUNTS = ("received", "malformed", "future", "reached", "accepted", "duplicate")


def ledger_topic(plan: Plan) -> str:
    """Return the topic of a plan's ledger."""
    return f"{plan.pipeline}.ledger"


def added_up(plan: Plan, entries: Iterable[Mapping[str, Any]]) -> Ledger:
    """Return the ledger that entries come to: what could not be counted is None.

    An entry that says from which offset on its records are may come again, and counts once. Entries of a topic that the
    plan does not read, as it once did, are left out.
    """
    sums: dict[str, dict[str, int | None]] = {source.topic: dict.fromkeys(_COUNTS) for source in plan.sources}
    known = set()
    for entry in (one for one in entries if one["topic"] in sums):
        if (first := entry.get("first")) is not None:
            if (place := (entry["topic"], entry["partition"], first)) in known:
                continue
            known.add(place)
        counts = sums[entry["topic"]]
        for count in _COUNTS:
            if entry.get(count) is not None:
                counts[count] = (counts[count] or 0) + entry[count]
    return {topic: _fates(counts) for topic, counts in sums.items()}


def _fates(counts: Mapping[str, int | None]) -> dict[str, int | None]:
    if counts["received"] is None:  # nothing came, and nothing was counted
        return dict(Account().counts())
    received, malformed, future = (counts[one] or 0 for one in ("received", "malformed", "future"))
    reached, accepted = counts["reached"], counts["accepted"]
    late = None if reached is None or accepted is None else reached - accepted
    filtered = None if reached is None else received - malformed - future - reached
    duplicate = counts["duplicate"] or 0
    accepted = None if accepted is None else accepted - duplicate
    known = {
        "received": received,
        "accepted": accepted,
        "duplicate": duplicate,
        "malformed": malformed,
        "future": future,
        "late": late,
        "filtered": filtered,
    }
    return {**Account().counts(), **known}
