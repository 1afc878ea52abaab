"""The reports of a runner: its health, and each of its commits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

__all__ = ["Health", "Moved", "ledger_of", "warn"]


def warn(text: str) -> None:
    """Write a line to standard error."""
    print(f"headrace: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a runner.

    Attributes
    ----------
    state
        `connecting` before the outside system has answered; `running`; `waiting` while the outside system or the log is unavailable;
        `ended`; `failed`, with the error as the reason.
    since_ms
        When this state began, ms since the epoch.
    reason
        Why it waits or has failed.
    """

    state: Literal["connecting", "running", "waiting", "ended", "failed"]
    since_ms: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """A commit of a runner.

    Attributes
    ----------
    name
        The runner's name among those who read and write.
    seconds
        How long the commit took.
    records
        How many records it moved.
    ledger
        What became of all records, by source: `received` is the sum of the others.
    lag
        How many records of the topic are still to be forwarded; None where that cannot be known.
    """

    name: str
    seconds: float
    records: int
    ledger: Mapping[str, Mapping[str, int]]
    lag: int | None = None


def ledger_of(manifest: bytes) -> Mapping[str, Mapping[str, int]]:
    """Return the ledger that a runner has committed, by source."""
    return msgspec.json.decode(manifest, type=_Ledger).ledger


class _Ledger(msgspec.Struct):
    ledger: dict[str, dict[str, int]] = {}
