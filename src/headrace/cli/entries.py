"""The ledger of a run on a cluster, from its topic."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import msgspec

from headrace.cli.logs import KafkaOptions, open_log
from headrace.engines.entries import Ledger, added_up, ledger_topic
from headrace.plan.pipeline import Plan

__all__ = ["ledger_ends", "ledger_on_topic"]

_ENTRIES = 1000


def ledger_ends(plan: Plan, kafka: KafkaOptions) -> dict[int, int]:
    """Return by partition where the topic of the ledger ends."""
    with closing(open_log(kafka)) as log:
        return {partition.number: partition.end for partition in log.topic(ledger_topic(plan)).partitions}


def ledger_on_topic(plan: Plan, kafka: KafkaOptions, before: Mapping[int, int]) -> Ledger:
    """Return the ledger that the entries on its topic come to, less those that were there before."""
    topic = ledger_topic(plan)
    entries = []
    with closing(open_log(kafka)) as log:
        for partition in log.topic(topic).partitions:
            at = before.get(partition.number, partition.first)
            while at < partition.end and (found := log.entries(topic, partition.number, at, _ENTRIES)):
                entries += [msgspec.json.decode(entry.value) for entry in found]
                at = found[-1].offset + 1
    return added_up(plan, entries)
