"""What is appended to Kafka: records are handed to a producer, and one that was not delivered is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby, islice, repeat

from confluent_kafka import (
    KafkaError,
    KafkaException,
    Producer,
)

from headrace._clock import now_ms
from headrace.errors import EnvironmentFault
from headrace.topics.kafka.client import (
    FETCH_RECORDS,
    TOO_LARGE,
    UNKNOWN_TOPIC,
    Deliveries,
    Failed,
)
from headrace.topics.kafka.connection import KafkaConnection
from headrace.topics.kafka.topics import KafkaTopics

__all__ = ["KafkaWriting"]

MESSAGE_BYTES = 64 << 20
APPEND_SECONDS = 30.0


class KafkaWriting:
    """Appends records. `clock` gives the CreateTime of what is appended, ms since the epoch."""

    def __init__(self, to: KafkaConnection, topics: KafkaTopics, clock: Callable[[], int]) -> None:
        self._to, self._topics, self._clock = to, topics, clock
        self._appender: Producer | None = None
        self._deliveries = Deliveries()

    def producer(self, deliveries: Deliveries, seconds: float, **more: str | float) -> Producer:
        """Return a producer that gives each record up to so many seconds."""
        return Producer(
            self._to.settings(
                enable_idempotence=True,
                linger_ms=5,
                partitioner="murmur2_random",  # Kafka's own, so that a key goes where other clients send it
                message_max_bytes=MESSAGE_BYTES,
                message_timeout_ms=int(seconds * 1000),
                topic_metadata_propagation_max_ms=5000,
                allow_auto_create_topics=False,
                queue_buffering_max_messages=0,
                queue_buffering_max_kbytes=2**31 - 1,
                delivery_report_only_error=True,
                on_delivery=deliveries.hear,
                **more,
            )
        )

    def append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None) -> None:
        """Append records; those of one key go to one partition, in their order, those of none to the first.

        Not all or nothing: when this raises, some may have been appended.
        """
        self._topics.partitions_of(topic)
        with self._to.blaming(f"append to topic {topic!r}"):
            if self._appender is None:
                self._appender = self.producer(self._deliveries, APPEND_SECONDS)
            self._deliveries.begin()
            give_up_at = time.monotonic() + APPEND_SECONDS + 5
            self.produce(self._appender, topic, values, keys)
            while len(self._appender) and self._to.left(give_up_at) > 0:
                self._appender.flush(0.5)
            if len(self._appender):
                self._appender.purge()
                self._appender.flush(1)
        if self._deliveries.failed is not None:
            self._appender = None
            self._topics.forget(topic)
            raise self.undelivered(self._deliveries.failed)

    def produce(
        self, producer: Producer, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None, chosen: int | None = None
    ) -> None:
        """Hand records to a producer, all for one partition if that is chosen. Raises EnvironmentFault for one that no broker could take."""
        largest = max(map(len, values), default=0)
        if largest > MESSAGE_BYTES - 1024:
            raise self.undelivered(Failed(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), topic, largest))
        named = zip(values, repeat(None) if keys is None else keys, strict=keys is not None)
        for keyless, run in groupby(named, _is_keyless):
            partition = chosen if chosen is not None else 0 if keyless else -1
            while part := list(islice(run, FETCH_RECORDS)):
                if self._clock is now_ms:
                    messages = [{"value": value, "key": key} for value, key in part]
                    if producer.produce_batch(topic, messages, partition) < len(messages):
                        raise next(KafkaException(one["error_of"]) for one in messages if "error_of" in one)
                else:
                    for value, key in part:
                        producer.produce(topic, value, key, partition, timestamp=self._clock())
                producer.poll(0)

    def undelivered(self, failed: Failed) -> EnvironmentFault:
        """Return what to raise for a record that was not delivered."""
        where = f"topic {failed.topic!r}"
        if failed.error.code() in TOO_LARGE:
            return EnvironmentFault(
                f"a record of {failed.size:,} bytes is larger than the broker takes",
                where=where,
                fix="raise the topic's max.message.bytes or the brokers' message.max.bytes, or send less at once",
            )
        if failed.error.code() in UNKNOWN_TOPIC:
            return EnvironmentFault("has been deleted while it was written", where=where, fix="make the topic again")
        return self._to.fault(failed.error, f"append to topic {failed.topic!r}")

    def close(self) -> None:
        """Let go of the producer."""
        self._appender = None


def _is_keyless(record: tuple[bytes, bytes | None]) -> bool:
    return record[1] is None
