"""The offsets at which partitions of Kafka begin and end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from confluent_kafka import (
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from headrace.topics.kafka import client
from headrace.topics.kafka.client import (
    MOVING,
    UNKNOWN_TOPIC,
    error_of,
)
from headrace.topics.kafka.connection import KafkaConnection

__all__ = ["KafkaOffsets"]


class KafkaOffsets:
    """Asks a cluster for offsets, of what is committed alone."""

    def __init__(self, to: KafkaConnection) -> None:
        self._to = to

    def bounds(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Return the first offset of partitions, and the one behind the last that is committed."""
        firsts = self.offsets(partitions, OffsetSpec.earliest())
        ends = self.offsets(partitions, OffsetSpec.latest())
        return {one: (firsts[one], ends[one]) for one in partitions if one in firsts and one in ends}

    def offsets(self, partitions: Sequence[tuple[str, int]], which: OffsetSpec) -> dict[tuple[str, int], int]:
        """Return one kind of offset of those partitions that there are."""
        found: dict[tuple[str, int], int] = {}
        left, give_up_at = set(partitions), time.monotonic() + client.ANSWER_SECONDS
        with self._to.blaming("say where its topics end"):
            while left:
                asked = self._to.admin.list_offsets(
                    {TopicPartition(*one): which for one in left},
                    isolation_level=IsolationLevel.READ_COMMITTED,
                    request_timeout=client.ANSWER_SECONDS,
                )
                for one, future in asked.items():
                    try:
                        found[one.topic, one.partition] = int(self._to.wait_for(future).offset)
                    except KafkaException as error:
                        if error_of(error).code() in MOVING and self._to.left(give_up_at) > 0:
                            continue
                        if error_of(error).code() not in UNKNOWN_TOPIC:
                            raise
                    left.discard((one.topic, one.partition))
                if left:
                    time.sleep(0.02)
                for topic in {topic for topic, _ in left}:
                    with suppress(KafkaException, TimeoutError):
                        self._to.names_of(topic)  # else it would know those of before a broker hung for minutes
        return found
