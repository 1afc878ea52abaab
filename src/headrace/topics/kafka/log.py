"""The log of a Kafka cluster: its topics, what is appended to them and read from them, and the clients for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace._clock import now_ms
from headrace.errors import EnvironmentFault
from headrace.topics.cluster import Cluster
from headrace.topics.kafka import client
from headrace.topics.kafka.claim import KafkaClaim, mark_of
from headrace.topics.kafka.connection import KafkaConnection
from headrace.topics.kafka.feed import KafkaFeed
from headrace.topics.kafka.groups import KafkaGroups
from headrace.topics.kafka.offsets import KafkaOffsets
from headrace.topics.kafka.reading import KafkaReading
from headrace.topics.kafka.topics import KafkaTopics
from headrace.topics.kafka.writing import KafkaWriting
from headrace.topics.protocol import Cursor, Entry, TopicInfo
from headrace.topics.store import Store

__all__ = ["KafkaLog"]


class KafkaLog:
    """The log of a Kafka cluster.

    Arrival times are the topic's timestamps: when the broker took the record in the topics that `create` makes
    (LogAppendTime); what its producer said in a topic made elsewhere that has CreateTime, Kafka's default.

    Parameters
    ----------
    cluster
        Where some brokers listen, `host:port`, with commas between several; or that with the properties of clients.
    folder
        The home: the state of pipelines goes to `state/PIPELINE`, their locks to `pipelines`.
    clock
        Gives the CreateTime of what is appended, ms since the epoch.

    Raises
    ------
    EnvironmentFault
        If no broker answers, or one refuses us.
    PlanError
        If a property is unknown or cannot be used.
    """

    def __init__(self, cluster: str | Cluster, folder: Path, clock: Callable[[], int] = now_ms) -> None:
        self.cluster, self.folder = Cluster(cluster) if isinstance(cluster, str) else cluster, folder
        self.connection = KafkaConnection(self.cluster)
        self.offsets = KafkaOffsets(self.connection)
        self.catalog = KafkaTopics(self.connection, self.offsets)
        self.writing = KafkaWriting(self.connection, self.catalog, clock)
        self.reading = KafkaReading(self.connection, self.catalog, self.offsets)
        self.groups = KafkaGroups(self.connection, self.catalog, self.offsets)
        self.connection.reach()

    @property
    def servers(self) -> str:
        """Where some brokers listen."""
        return self.cluster.servers

    # topics

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Create a topic. Raises PlanError if there is one of that name, or a number cannot be."""
        self.catalog.create(topic, partitions, replication, retention_ms=retention_ms, retention_bytes=retention_bytes)

    def alter(self, topic: str, *, retention_ms: int | None, retention_bytes: int | None) -> None:
        """Set how long a topic keeps its records, and how many bytes a partition; None is for ever."""
        self.catalog.alter(topic, retention_ms=retention_ms, retention_bytes=retention_bytes)

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        self.catalog.delete(topic)

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name, without Kafka's own."""
        return self.catalog.topics()

    def topic(self, name: str) -> TopicInfo:
        """Return one topic. Raises PlanError if there is none of that name."""
        return self.catalog.topic(name)

    # records

    def append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None) -> None:
        """Append records; those of one key go to one partition, in their order, those of none to the first.

        Not all or nothing: when this raises, some may have been appended.
        """
        self.writing.append(topic, values, keys)

    def offsets_at(self, topic: str, arrived_ms: int) -> list[int]:
        """Return, for each partition, the offset of the first record that arrived at a time or after it; the end if there is none."""
        return self.reading.offsets_at(topic, arrived_ms)

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""
        return self.reading.entries(topic, partition, offset, most)

    def feed(self, topics: Sequence[str], *, latest: bool = False, skip_gone: bool = False) -> KafkaFeed:
        """Return a feed of topics from their first records on; with `latest` it ends where the topics end now.

        What retention takes before it was read is an error, unless `skip_gone`.
        """
        return KafkaFeed(self, topics, latest=latest, skip_gone=skip_gone)

    # readers and pipelines

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        return self.groups.cursors()

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, by topic and partition."""
        self.groups.move(group, cursors)

    def manifest(self, pipeline: str) -> bytes | None:
        """Return what a pipeline's last commit said of it, whoever owns it."""
        give_up_at = time.monotonic() + client.ANSWER_SECONDS
        while True:
            mark = mark_of(pipeline, self.groups.committed(pipeline))
            if mark is None:
                return None
            try:
                return Store(self.folder, pipeline).look(*mark).manifest
            except EnvironmentFault:
                # The pipeline may have committed twice in between.
                if mark == mark_of(pipeline, self.groups.committed(pipeline)) or time.monotonic() > give_up_at:
                    raise

    def claim(self, pipeline: str) -> KafkaClaim:
        """Make this process the owner of a pipeline. Raises EnvironmentFault if another process owns it."""
        return KafkaClaim(self, pipeline)

    def heed(self, stop: Callable[[], bool]) -> None:
        """Have every wait for a broker end within seconds once `stop` says so."""
        self.connection.heed(stop)

    def close(self) -> None:
        """Let go of the connections."""
        self.writing.close()
