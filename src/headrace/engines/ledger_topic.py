"""The ledger of a run on a cluster, from the topic of its entries."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from headrace.engines.entries import Ledger, added_up, ledger_topic
from headrace.engines.protocol import Topics
from headrace.topics.entries import entries_of
from headrace.topics.protocol import Log

if TYPE_CHECKING:
    from headrace.plan.pipeline import Plan

__all__ = ["begin_ledger", "ledger_on_topic", "told_on_topic"]


class _Begins(msgspec.Struct):
    """Where the ledger of the runs that went on from one another begins, by partition of its topic."""

    log: str
    offsets: dict[int, int]


def begin_ledger(plan: Plan, topics: Topics, home: Path) -> None:
    """Have the ledger begin behind what its topic holds: a run begins that starts from the first records."""
    with closing(topics.open()) as log:
        ends = {partition.number: partition.end for partition in log.topic(ledger_topic(plan)).partitions}
    path = _path(plan, home)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(_Begins(_place(topics), ends)))
    except OSError as error:
        print(f"headrace: {path}: where the ledger begins cannot be kept: {error.strerror}", file=sys.stderr)


def ledger_on_topic(plan: Plan, topics: Topics, home: Path) -> Ledger:
    """Return the ledger that the entries on its topic come to, of the runs that went on from one another."""
    with closing(topics.open()) as log:
        return _told(log, plan, topics, home)[0]


def told_on_topic(plan: Plan, topics: Topics, home: Path, log: Log) -> tuple[Ledger, int] | None:
    """Return the same with the time in ms of the last entry, None where the log has no entry for it."""
    if not any(info.name == ledger_topic(plan) for info in log.topics()):
        return None
    ledger, at = _told(log, plan, topics, home)
    return None if at is None else (ledger, at)


def _told(log: Log, plan: Plan, topics: Topics, home: Path) -> tuple[Ledger, int | None]:
    topic, begins = ledger_topic(plan), _begins(plan, topics, home)
    entries = [*entries_of(log, topic, begins)]
    latest = max((entry.arrived_ms for entry in entries), default=None)
    return added_up(plan, (msgspec.json.decode(entry.value) for entry in entries)), latest


def _begins(plan: Plan, topics: Topics, home: Path) -> Mapping[int, int]:
    with suppress(OSError, msgspec.MsgspecError):
        begins = msgspec.json.decode(_path(plan, home).read_bytes(), type=_Begins)
        if begins.log == _place(topics):
            return begins.offsets
    return {}


def _path(plan: Plan, home: Path) -> Path:
    return home / "ledgers" / f"{plan.pipeline}.begins.json"


def _place(topics: Topics) -> str:
    return f"{topics.kafka.servers if topics.kafka else ''} {topics.prefix}".strip()
