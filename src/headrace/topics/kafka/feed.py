"""A feed of Kafka's topics: their partitions, fetched together by one consumer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec

from headrace.errors import EnvironmentFault
from headrace.kernels.reading.batch import Lines, Stamps, TextLines
from headrace.kernels.reading.metadata import headers_of
from headrace.topics.kafka import client
from headrace.topics.kafka.client import FETCH_RECORDS, NOT_THERE, SILENT, UNKNOWN_TOPIC, error_of

if TYPE_CHECKING:
    from headrace.topics.kafka.log import KafkaLog

__all__ = ["KafkaFeed", "KafkaReader"]

_QUIET_SECONDS = 0.005
_TOPICS_SECONDS = 2.0


class KafkaReader:
    """A partition as a feed has fetched it."""

    columns = separator = None

    def __init__(self, topic: str, number: int, first: int, end: int | None) -> None:
        self.topic, self.number, self.name = topic, number, f"{topic} partition {number}"
        self.next, self.end = first, end
        # The offset up to which all was fetched; it passes over what is no record, as the marks of transactions.
        self.reached = first
        self.keyed = self.headered = False
        self._order = 0
        self._messages: list[Message] = []

    @property
    def finished(self) -> bool:
        """Whether it has been read up to where it was to end."""
        return self.end is not None and self.position["record"] >= self.end and not self._messages

    @property
    def drained(self) -> bool:
        """Whether all that was fetched has been read."""
        return not self._messages

    @property
    def position(self) -> dict[str, Any]:
        """The offset of the next record, where reading ends, if it does, and the place in the order of the last record that was read."""
        if not self._messages:
            self.next = self.reached
        return {"record": self.next, "size": self.end, "order": self._order}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on reading at a position, before anything has been fetched."""
        self.next = self.reached = position["record"]
        self._order = position.get("order", 0)
        self._messages.clear()

    def reach(self, offset: int) -> None:
        """Note that all before an offset has been fetched."""
        self.reached = max(self.reached, offset if self.end is None else min(offset, self.end))

    def take(self, messages: list[Message]) -> bool:
        """Take in what was fetched, and return whether any of it is to be read."""
        behind = (messages[-1].offset() or 0) + 1
        if self.end is not None and behind > self.end:
            messages = [message for message in messages if (message.offset() or 0) < self.end]
        self._messages += messages
        self.reach(behind)
        return bool(messages)

    def read(self) -> Lines:
        """Return what was fetched."""
        messages, self._messages = self._messages, []
        if not messages:
            return Lines.of([])
        self.next = self.reached
        values: list[Any] = list(map(Message.value, messages))
        try:
            whole = b"\n".join(values)
        except TypeError:
            # A tombstone, which has no value, is no record.
            messages = [message for message in messages if message.value() is not None]
            if not messages:
                return Lines.of([])
            values = list(map(Message.value, messages))
            whole = b"\n".join(values)
        lines = TextLines(whole, len(values)) if whole.count(b"\n") == len(values) - 1 else Lines.of(values)
        arrived = pl.Series(map(itemgetter(1), map(Message.timestamp, messages)), dtype=pl.Int64)
        order = arrived.cum_max().clip(lower_bound=self._order)
        self._order = int(order[-1])
        keys = list(map(Message.key, messages)) if self.keyed else []
        told = pl.Series(keys, dtype=pl.Binary) if any(key is not None for key in keys) else None
        received: list[Any] = list(map(Message.headers, messages)) if self.headered else []
        headers = headers_of(received) if received else None
        lines.stamps = Stamps(pl.Series(map(Message.offset, messages), dtype=pl.Int64), arrived, order, told, headers)
        return lines

    def close(self) -> None:
        """Do nothing: the feed has the connection."""


class KafkaFeed:
    """The partitions of some topics, read together."""

    def __init__(self, log: KafkaLog, topics: Sequence[str], *, latest: bool, skip_gone: bool) -> None:
        self._log, self._skip_gone = log, skip_gone
        described = log.catalog.described(list(topics))
        self.readers: dict[str, list[KafkaReader]] = {}
        for topic in topics:
            if topic not in described:
                raise log.catalog.unknown(topic)
            numbers = range(len(described[topic].partitions))
            bounds = log.offsets.bounds([(topic, number) for number in numbers])
            if len(bounds) < len(numbers):
                raise _not_up(log, topic)
            self.readers[topic] = [
                KafkaReader(topic, number, bounds[topic, number][0], bounds[topic, number][1] if latest else None) for number in numbers
            ]
        self.identities = {topic: str(described[topic].topic_id) for topic in topics}
        self._by_key = {(reader.topic, reader.number): reader for readers in self.readers.values() for reader in readers}
        self._consumer: Consumer | None = None
        self._asked: dict[str, Future[Any]] | None = None
        self._ask_at = time.monotonic() + _TOPICS_SECONDS
        self._missed: set[str] = set()
        self._held: set[tuple[str, int]] = set()

    def fetch(self, most: int | None = None) -> bool:
        """Take in the next records, up to some MB or `most`, and return whether there were any."""
        with self._log.connection.blaming("be read"):
            if self._consumer is None:
                self._consumer = self._begun()
            limit = FETCH_RECORDS if most is None else min(most, FETCH_RECORDS)
            messages = self._consumer.consume(limit, 0)
            if not messages:
                messages = self._consumer.consume(1, _QUIET_SECONDS)
                if messages and limit > 1:
                    messages += self._consumer.consume(limit - 1, 0)
            fetched = self._take_in(messages)
        self._watch_topics()
        return fetched

    def _begun(self) -> Consumer:
        consumer = self._log.reading.consumer()
        consumer.assign([TopicPartition(*key, reader.next) for key, reader in self._by_key.items() if not reader.finished])
        return consumer

    def _take_in(self, messages: list[Message]) -> bool:
        if any(map(Message.error, messages)):
            for message in messages:
                if message.error() is not None:
                    self._hear(message)
            messages = [message for message in messages if message.error() is None]
        fetched = False
        key: Callable[[Message], Any] = Message.partition if len(self.readers) == 1 else _place
        for place, run in groupby(messages, key):
            reader = self._by_key[place] if isinstance(place, tuple) else next(iter(self.readers.values()))[place]
            fetched |= reader.take(list(run))
            if reader.end is not None and reader.reached >= reader.end:
                assert self._consumer is not None
                self._consumer.pause([TopicPartition(reader.topic, reader.number)])
        return fetched

    def _hear(self, message: Message) -> None:
        """Take note of what the consumer says of a partition."""
        error, key = message.error(), _place(message)
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._by_key[key].reach(message.offset() or 0)
        elif code in NOT_THERE:
            self._find(self._by_key[key])
        elif code in UNKNOWN_TOPIC:
            self._ask_at = min(self._ask_at, time.monotonic())
        elif code not in SILENT and (error.fatal() or not error.retriable()):
            raise self._log.connection.fault(error, f"be read, {key[0]!r} partition {key[1]}")

    def _find(self, reader: KafkaReader) -> None:
        """Go on where a partition begins now, if that may be. Raises EnvironmentFault if not."""
        at, key = reader.reached, (reader.topic, reader.number)
        bounds = self._log.offsets.bounds([key])
        if key not in bounds:
            raise _not_up(self._log, reader.topic)
        first, end = bounds[key]
        if at < first and self._skip_gone:
            assert self._consumer is not None
            reader.reach(first)
            self._consumer.incremental_unassign([TopicPartition(reader.topic, reader.number)])
            self._consumer.incremental_assign([TopicPartition(reader.topic, reader.number, first)])
        elif at < first:
            raise EnvironmentFault(
                f"has kept no records before {first}; {at} was to be read next",
                where=reader.name,
                fix="start the pipeline with --anew, and let the topic keep its records longer",
            )
        else:
            raise EnvironmentFault(
                f"ends at {end}; {at} was to be read next: it was made anew, or has lost records",
                where=reader.name,
                fix="start the pipeline with --anew",
            )

    def _watch_topics(self) -> None:
        """Look from time to time whether the topics are those that are read, without waiting for the answer."""
        now = time.monotonic()
        if self._asked is None:
            if now >= self._ask_at:
                self._asked = self._log.connection.admin.describe_topics(TopicCollection(list(self.readers)), request_timeout=client.ANSWER_SECONDS)
        elif all(one.done() for one in self._asked.values()):
            asked, self._asked = self._asked, None
            self._ask_at = now + _TOPICS_SECONDS
            for topic, one in asked.items():
                self._check(topic, one)

    def _check(self, topic: str, asked: Future[Any]) -> None:
        exception = asked.exception()
        if exception is None:
            self._missed.discard(topic)
            found = asked.result()
            there, known = len(found.partitions), len(self.readers[topic])
            if str(found.topic_id) != self.identities[topic]:
                what = "has been made anew while it was read"
            elif there != known:
                what = f"has {there} partitions now, not {known}"
            else:
                return
        elif isinstance(exception, KafkaException) and error_of(exception).code() in UNKNOWN_TOPIC:
            if topic not in self._missed:
                # A broker that has just come back may not know yet.
                self._missed.add(topic)
                self._ask_at = time.monotonic() + 0.5
                return
            what = "has been deleted while it was read"
        else:
            return
        raise EnvironmentFault(what, where=f"topic {topic!r}", fix="start the pipeline with --anew, or with a new version")

    def hold(self, partitions: Collection[tuple[str, int]]) -> None:
        """Fetch nothing of these partitions, and of all others again."""
        if self._consumer is None:
            return
        with self._log.connection.blaming("be read"):
            if more := set(partitions) - self._held:
                self._consumer.pause([TopicPartition(*key) for key in more])
            if again := self._held - set(partitions):
                self._consumer.resume([TopicPartition(*key) for key in again])
        self._held = set(partitions)

    def lag(self) -> dict[tuple[str, int], int]:
        """Return how many offsets of each partition are still to be read, as far as is known."""
        ends = {key: self._known_end(reader) for key, reader in self._by_key.items()}
        if unknown := [key for key, end in ends.items() if end < 0]:
            ends |= self._log.offsets.offsets(unknown, OffsetSpec.latest())
        return {key: max(ends[key] - reader.position["record"], 0) for key, reader in self._by_key.items()}

    def _known_end(self, reader: KafkaReader) -> int:
        if self._consumer is None:
            return -1
        with self._log.connection.blaming("be read"):
            return self._consumer.get_watermark_offsets(TopicPartition(reader.topic, reader.number), cached=True)[1]

    def close(self) -> None:
        """Let go of the connection."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _place(message: Message) -> tuple[str, int]:
    return message.topic() or "", message.partition() or 0


def _not_up(log: KafkaLog, topic: str) -> EnvironmentFault:
    """Return what to raise where a broker knows of a topic and does not have its partitions yet, as one that has just come back."""
    return log.connection.fault(KafkaError(KafkaError.LEADER_NOT_AVAILABLE), f"say where topic {topic!r} ends")
