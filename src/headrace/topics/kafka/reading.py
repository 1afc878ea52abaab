"""Single records of Kafka, by offset and by arrival; a feed reads whole topics."""

from __future__ import annotations

import time

from confluent_kafka import (
    Consumer,
    KafkaError,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from headrace.topics.kafka import client
from headrace.topics.kafka.client import (
    FETCH_RECORDS,
    NOT_THERE,
    SILENT,
)
from headrace.topics.kafka.connection import KafkaConnection
from headrace.topics.kafka.offsets import KafkaOffsets
from headrace.topics.kafka.topics import KafkaTopics
from headrace.topics.protocol import Entry

__all__ = ["KafkaReading"]

FETCH_BYTES = 6 << 20


class KafkaReading:
    """Reads what is committed."""

    def __init__(self, to: KafkaConnection, topics: KafkaTopics, offsets: KafkaOffsets) -> None:
        self._to, self._topics, self._offsets = to, topics, offsets

    def consumer(self, **more: str | float) -> Consumer:
        """Return a consumer that reads what is committed and says where a partition ends. It belongs to no group."""
        return Consumer(
            self._to.settings(
                group_id="headrace",
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                enable_partition_eof=True,
                auto_offset_reset="error",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                fetch_wait_max_ms=100,
                fetch_queue_backoff_ms=20,
                fetch_max_bytes=FETCH_BYTES,
                max_partition_fetch_bytes=FETCH_BYTES,
                queued_max_messages_kbytes=(3 * FETCH_BYTES) >> 10,
                **more,
            )
        )

    def offsets_at(self, topic: str, arrived_ms: int) -> list[int]:
        """Return, for each partition, the offset of the first record that arrived at a time or after it; the end if there is none."""
        parts = self._topics.topic(topic).partitions
        found = self._offsets.offsets([(topic, part.number) for part in parts], OffsetSpec.for_timestamp(arrived_ms))
        at = [found.get((topic, part.number), -1) for part in parts]
        return [part.end if offset < 0 else max(offset, part.first) for part, offset in zip(parts, at, strict=True)]

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""
        self._topics.check_partition(topic, partition)
        bounds = self._offsets.bounds([(topic, partition)])
        if (topic, partition) not in bounds:
            raise self._topics.unknown(topic)
        first, end = bounds[topic, partition]
        at = max(offset, first)
        found: list[Entry] = []
        if at >= end or most < 1:
            return found
        doing = f"read topic {topic!r}"
        give_up_at = time.monotonic() + client.ANSWER_SECONDS
        with self._to.blaming(doing):
            consumer = self.consumer()
            try:
                consumer.assign([TopicPartition(topic, partition, at)])
                while len(found) < most and at < end:
                    if time.monotonic() > give_up_at:
                        raise self._to.fault(KafkaError(KafkaError._TIMED_OUT), doing)
                    for message in consumer.consume(min(most - len(found), FETCH_RECORDS), 0) or consumer.consume(1, 0.1):
                        error, offset = message.error(), message.offset() or 0
                        give_up_at = time.monotonic() + client.ANSWER_SECONDS
                        if error is None:
                            found.append(Entry(topic, partition, offset, message.timestamp()[1], message.key(), message.value() or b""))
                            at = offset + 1
                        elif error.code() == KafkaError._PARTITION_EOF:
                            at = max(at, offset)
                        elif error.code() in NOT_THERE and (first := self._offsets.bounds([(topic, partition)])[topic, partition][0]) > at:
                            # They have been dropped since.
                            at = first
                            consumer.assign([TopicPartition(topic, partition, at)])
                        elif error.code() not in SILENT:
                            raise self._to.fault(error, doing)
            finally:
                consumer.close()
        return found
