"""The groups of a Kafka cluster: how far each named reader has come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from headrace.topics.kafka import client
from headrace.topics.kafka.client import (
    MOVING,
    SETTLING,
    SILENT,
    check_each,
    error_of,
)
from headrace.topics.kafka.connection import KafkaConnection, aside
from headrace.topics.kafka.offsets import KafkaOffsets
from headrace.topics.kafka.topics import KafkaTopics
from headrace.topics.protocol import Cursor

__all__ = ["KafkaGroups"]

_GROUP_SECONDS = 2.0


class KafkaGroups:
    """Asks a cluster for the offsets that groups have committed, and moves them."""

    def __init__(self, to: KafkaConnection, topics: KafkaTopics, offsets: KafkaOffsets) -> None:
        self._to, self._topics, self._offsets = to, topics, offsets

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        with self._to.blaming("list its groups"):
            groups = sorted(
                group.group_id for group in self._to.wait_for(self._to.admin.list_consumer_groups(request_timeout=client.ANSWER_SECONDS)).valid
            )
            asked = {
                group: self._to.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=_GROUP_SECONDS)[group]
                for group in groups
            }
            told = {(group, one.topic, one.partition): one.offset for group in groups for one in self._to.wait_for(asked[group]).topic_partitions}
        there = set(self._topics.names())
        ends = self._offsets.offsets(sorted({(topic, number) for _, topic, number in told if topic in there}), OffsetSpec.latest()) if told else {}
        return [Cursor(*key, offset, ends[key[1:]]) for key, offset in sorted(told.items()) if key[1:] in ends and offset >= 0]

    def committed(self, group: str, patience: float = 1.0) -> list[TopicPartition]:
        """Return the committed offsets of a group. So many seconds, transactions that are open may come to an end first."""
        began = time.monotonic()
        give_up_at = began + client.ANSWER_SECONDS
        with self._to.blaming(f"say what group {group!r} has committed"):
            while True:
                stable = time.monotonic() - began < patience
                try:
                    found = self._to.wait_for(
                        aside(partial(self._ask_committed, group, stable=stable), min(patience, _GROUP_SECONDS) if stable else _GROUP_SECONDS)
                    )
                    check_each(found)
                except KafkaException as error:
                    if (
                        error_of(error).code() not in {KafkaError.UNSTABLE_OFFSET_COMMIT, *SILENT, *SETTLING, *MOVING}
                        or self._to.left(give_up_at) <= 0
                    ):
                        raise
                    time.sleep(0.005)
                else:
                    return [one for one in found if one.offset >= 0]

    def _ask_committed(self, group: str, seconds: float, *, stable: bool) -> list[TopicPartition]:
        """Ask as a member of the group would: a client of the other kind fails an assertion once their broker has been away."""
        isolation = "read_committed" if stable else "read_uncommitted"
        member = Consumer(self._to.settings(group_id=group, enable_auto_commit=False, isolation_level=isolation))
        try:
            topics = {name: one for name, one in member.list_topics(timeout=seconds).topics.items() if not name.startswith("__")}
            for one in topics.values():
                # Offsets of a topic that is not told whole are not to be taken for none.
                if one.error is not None and one.error.code() in MOVING:
                    raise KafkaException(one.error)
            there = [TopicPartition(name, number) for name, one in topics.items() for number in one.partitions]
            return member.committed(there, timeout=seconds) if there else []
        finally:
            member.close()

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, by topic and partition."""
        for topic, number in cursors:
            self._topics.check_partition(topic, number)
        moved = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, number, offset) for (topic, number), offset in cursors.items()])
        with self._to.blaming(f"move group {group!r}"):
            done = self._to.wait_for(self._to.admin.alter_consumer_group_offsets([moved], request_timeout=client.ANSWER_SECONDS)[group])
            check_each(done.topic_partitions)

    def forget(self, group: str) -> None:
        """Forget how far a named reader has come."""
        with self._to.blaming(f"forget group {group!r}"):
            gone = self._to.admin.delete_consumer_groups([group], request_timeout=client.ANSWER_SECONDS)
            try:
                self._to.wait_for(gone[group])
            except KafkaException as error:
                if error_of(error).code() != KafkaError.GROUP_ID_NOT_FOUND:
                    raise
