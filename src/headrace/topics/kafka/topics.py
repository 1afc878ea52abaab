"""The topics of a Kafka cluster: made, changed and described."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import (
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from headrace.errors import PlanError, near
from headrace.topics.kafka import client
from headrace.topics.kafka.client import (
    UNKNOWN_TOPIC,
    error_of,
)
from headrace.topics.kafka.connection import KafkaConnection
from headrace.topics.kafka.offsets import KafkaOffsets
from headrace.topics.protocol import PartitionInfo, TopicInfo

__all__ = ["KafkaTopics"]


class KafkaTopics:
    """Asks a cluster for its topics, and changes them. How many partitions they have is remembered."""

    def __init__(self, to: KafkaConnection, offsets: KafkaOffsets) -> None:
        self._to, self._offsets = to, offsets
        self._counts: dict[str, int] = {}

    def forget(self, topic: str) -> None:
        """Ask anew for the partitions of a topic when they are needed next."""
        self._counts.pop(topic, None)

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Create a topic. Raises PlanError if there is one of that name, or a number cannot be."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic) or topic in {".", ".."}:
            raise PlanError(f"topic name {topic!r} cannot be used", fix="use letters, digits, '.', '_' and '-', up to 249 of them")
        numbers = {"partitions": partitions, "replication": replication, "retention": retention_ms, "retention bytes": retention_bytes}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise PlanError(f"{name} is {value}", where=f"topic {topic!r}", fix="give 1 or more")
        config = {
            "retention.ms": str(-1 if retention_ms is None else retention_ms),
            "retention.bytes": str(-1 if retention_bytes is None else retention_bytes),
            "message.timestamp.type": "LogAppendTime",
        }
        with self._to.blaming("make topics"):
            made = self._to.admin.create_topics(
                [NewTopic(topic, partitions, replication, config=config)],
                request_timeout=client.ANSWER_SECONDS,
                operation_timeout=client.ANSWER_SECONDS,
            )
            try:
                self._to.wait_for(made[topic])
            except KafkaException as error:
                raise self._refusal(topic, error_of(error)) from None
        self._await_topic(topic, there=True)

    def alter(self, topic: str, *, retention_ms: int | None, retention_bytes: int | None) -> None:
        """Set how long a topic keeps its records, and how many bytes a partition; None is for ever."""
        self.topic(topic)
        wanted = {"retention.ms": retention_ms, "retention.bytes": retention_bytes}
        for name, value in wanted.items():
            if value is not None and value < 1:
                raise PlanError(f"{name} is {value}", where=f"topic {topic!r}", fix="give 1 or more")
        entries = [
            ConfigEntry(name, str(-1 if value is None else value), incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()
        ]
        with self._to.blaming(f"change topic {topic!r}"):
            resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
            (made,) = self._to.admin.incremental_alter_configs([resource], request_timeout=client.ANSWER_SECONDS).values()
            self._to.wait_for(made)

    def _refusal(self, topic: str, error: KafkaError) -> Exception:
        where = f"topic {topic!r}"
        match error.code():
            case KafkaError.TOPIC_ALREADY_EXISTS:
                return PlanError(f"there is a topic {topic!r} already", where=self._to.where, fix="delete it first, or name another")
            case KafkaError.INVALID_REPLICATION_FACTOR:
                return PlanError(f"cannot have that replication: {error.str()}", where=where, fix="give no more than there are brokers")
            case KafkaError.INVALID_PARTITIONS | KafkaError.TOPIC_EXCEPTION | KafkaError.INVALID_CONFIG | KafkaError.POLICY_VIOLATION:
                return PlanError(f"Kafka refuses it: {error.str()}", where=where, fix="give what the cluster allows")
        return self._to.fault(error, f"make topic {topic!r}")

    def _await_topic(self, topic: str, *, there: bool) -> None:
        """Wait until all clients are told that a topic is there, or gone."""
        ready_by = time.monotonic() + client.ANSWER_SECONDS
        while (topic in self.described([topic], patient=False)) is not there:
            if self._to.left(ready_by) <= 0:
                raise self._to.fault(KafkaError(KafkaError._TIMED_OUT), f"{'make' if there else 'delete'} topic {topic!r}")
            time.sleep(0.02)

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        self.partitions_of(topic, anew=True)
        self._counts.pop(topic, None)
        with self._to.blaming(f"delete topic {topic!r}"):
            gone = self._to.admin.delete_topics([topic], request_timeout=client.ANSWER_SECONDS, operation_timeout=client.ANSWER_SECONDS)
            self._to.wait_for(gone[topic])
        self._await_topic(topic, there=False)

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name, without Kafka's own."""
        return list(self._infos(self.names(), patient=False).values())

    def names(self) -> list[str]:
        """Return the names of the topics, without Kafka's own."""
        with self._to.blaming("list its topics"):
            return sorted(name for name in self._to.names_of() if not name.startswith("__"))

    def topic(self, name: str) -> TopicInfo:
        """Return one topic. Raises PlanError if there is none of that name."""
        found = self._infos([name])
        if name not in found:
            raise self.unknown(name)
        return found[name]

    def unknown(self, name: str) -> PlanError:
        """Return what to raise for a topic that is not there."""
        names = self.names()
        return PlanError(f"no topic {name!r}", where=self._to.where, fix=near(name, names) if names else "make it: headrace topics create")

    def described(self, topics: Iterable[str], *, patient: bool = True) -> dict[str, Any]:
        """Return the descriptions of those topics that there are. One without leaders is waited for, or if not `patient`, left out."""
        found, open_ones = {}, set(topics)
        give_up_at = time.monotonic() + client.ANSWER_SECONDS
        with self._to.blaming("describe its topics"):
            while open_ones:
                for name, one in self._to.admin.describe_topics(TopicCollection(sorted(open_ones)), request_timeout=client.ANSWER_SECONDS).items():
                    try:
                        description = self._to.wait_for(one)
                    except KafkaException as error:
                        if error_of(error).code() not in {*UNKNOWN_TOPIC, KafkaError.TOPIC_EXCEPTION}:
                            raise
                        open_ones.discard(name)
                    else:
                        if all(part.leader is not None for part in description.partitions):
                            found[name] = description
                            open_ones.discard(name)
                if not patient:
                    break
                if open_ones and self._to.left(give_up_at) <= 0:
                    raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
                time.sleep(0.02 if open_ones else 0)
        return found

    def _infos(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicInfo]:
        described = self.described(topics, patient=patient)
        if not described:
            return {}
        bounds = self._offsets.bounds([(name, part.id) for name, one in described.items() for part in one.partitions])
        kept = self._kept(described)
        infos = {}
        for name, one in described.items():
            numbers = sorted(part.id for part in one.partitions)
            if name in kept and all((name, number) in bounds for number in numbers):
                parts = tuple(PartitionInfo(number, *bounds[name, number]) for number in numbers)
                infos[name] = TopicInfo(name, parts, len(one.partitions[0].replicas), *kept[name])
                self._counts[name] = len(numbers)
        return infos

    def _kept(self, topics: Iterable[str]) -> dict[str, tuple[int | None, int | None]]:
        """Return how long topics keep their records, and how many bytes."""
        kept = {}
        with self._to.blaming("describe its topics"):
            asked = self._to.admin.describe_configs(
                [ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=client.ANSWER_SECONDS
            )
            for resource, one in asked.items():
                try:
                    config = self._to.wait_for(one)
                except KafkaException as error:
                    if error_of(error).code() in UNKNOWN_TOPIC:
                        continue
                    raise
                ms, size = (int(config[name].value) for name in ("retention.ms", "retention.bytes"))
                kept[resource.name] = (None if ms < 0 else ms, None if size < 0 else size)
        return kept

    def partitions_of(self, topic: str, *, anew: bool = False) -> int:
        """Return how many partitions a topic has."""
        if anew or topic not in self._counts:
            found = self.described([topic])
            if topic not in found:
                raise self.unknown(topic)
            self._counts[topic] = len(found[topic].partitions)
        return self._counts[topic]

    def check_partition(self, topic: str, partition: int) -> None:
        """Raise PlanError if a topic has no partition of that number."""
        count = self.partitions_of(topic)
        if partition not in range(count):
            raise PlanError(f"no partition {partition}", where=f"topic {topic!r}", fix=f"it has {count}, from 0")
