"""A job on the topics of a Kafka: its records are fed as far as each restart, and what it writes is read back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import broker
import waiting
from broker import Broker
from conformance.engine import Job, Ledger, Outcome

LIMIT = 300.0
wait_for = partial(waiting.wait_for, seconds=LIMIT, every=0.3)


def missing() -> str | None:
    """Return what there is not that jobs on topics need, and how to get it."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        return "the package confluent-kafka is not installed"
    return broker.missing()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Start a broker, and yield where it listens."""
    made = Broker(folder)
    try:
        made.start()
        yield made.servers
    finally:
        made.end()


Record = tuple[str, int, bytes]  # its topic, its partition and its value


def append(servers: str, records: Iterable[Record]) -> None:
    """Append records to topics."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers})
    for topic, partition, record in records:
        producer.produce(topic, record, partition=partition)
    assert producer.flush(LIMIT) == 0


class Topics:
    """The topics of one job, whose names on the broker begin with `prefix`; those that are `written`, with `more`, have one partition each."""

    def __init__(self, servers: str, job: Job, prefix: str, *more: str) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        self.servers, self.job, self.prefix = servers, job, prefix
        written = [*job.plan.topics, *(f"{source.topic}.dead-letter" for source in job.plan.sources), *more]
        self.written = [prefix + topic for topic in written]
        read = {prefix + topic: len(partitions) for topic, partitions in job.inputs.items()}
        new = [NewTopic(topic, count, 1) for topic, count in {**read, **dict.fromkeys(self.written, 1)}.items()]
        admin = AdminClient({"bootstrap.servers": servers})
        for made in admin.create_topics(new).values():
            made.result(LIMIT)

    def part(self, number: int) -> Mapping[str, Sequence[Sequence[bytes]]]:
        """Return the records between a restart and the one before it: `number` of them have been."""
        found = {}
        for topic, partitions in self.job.inputs.items():
            ends = [[0] * len(partitions), *(counts[topic] for counts in self.job.restarts), [len(records) for records in partitions]]
            found[topic] = [records[first:end] for records, first, end in zip(partitions, ends[number], ends[number + 1], strict=True)]
        return found

    def records(self, number: int) -> Iterator[Record]:
        """Yield the records of a part as they are appended."""
        for topic, partitions in self.part(number).items():
            for partition, records in enumerate(partitions):
                yield from ((self.prefix + topic, partition, record) for record in records)

    def feed(self, number: int) -> None:
        """Append a part."""
        append(self.servers, self.records(number))

    def outcome(self, rows: Mapping[str, list[Any]], ledger: Ledger) -> Outcome:
        """Return what the job left, of all rows that are written."""
        plan = self.job.plan
        written = {topic: rows[self.prefix + topic] for topic in plan.topics}
        return Outcome(written, {source.topic: rows[f"{self.prefix}{source.topic}.dead-letter"] for source in plan.sources}, ledger)


def rows(servers: str, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return what has been written to topics of one partition, and committed."""
    from confluent_kafka import Consumer, TopicPartition

    quick = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reads", "enable.auto.commit": False, **quick})
    found: dict[str, list[Any]] = {name: [] for name in names}
    try:
        consumer.assign([TopicPartition(name, 0, 0) for name in names])
        ended, give_up_at = set[str](), time.monotonic() + LIMIT
        while len(ended) < len(found):
            assert time.monotonic() < give_up_at, "the topics cannot be read"
            if (message := consumer.poll(1)) is None:
                continue
            if message.error() is not None:
                ended.add(message.topic())
            else:
                found[message.topic()].append(json.loads(message.value()))
    finally:
        consumer.close()
    return found


def are_settled(servers: str, names: Sequence[str]) -> bool:
    """Return whether all that was written to topics of one partition is committed: a transaction's end is told before it shows."""
    from confluent_kafka import IsolationLevel, TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    admin = AdminClient({"bootstrap.servers": servers})
    latest = {TopicPartition(name, 0): OffsetSpec.latest() for name in names}
    levels = (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    committed, written = ([one.result(LIMIT).offset for one in admin.list_offsets(latest, isolation_level=level).values()] for level in levels)
    return committed == written
