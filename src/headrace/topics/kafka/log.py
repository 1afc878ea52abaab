"""The log of a Kafka cluster: its topics, what is appended to them and read from them, and the clients for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby, islice, repeat
from math import inf
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ClusterMetadata, ConfigEntry, ConfigResource, NewTopic, OffsetSpec, ResourceType

from headrace._clock import now_ms
from headrace.errors import EnvironmentFault, PlanError, near
from headrace.topics.cluster import Cluster
from headrace.topics.kafka import client
from headrace.topics.kafka.claim import KafkaClaim, mark_of
from headrace.topics.kafka.client import (
    FETCH_RECORDS,
    MOVING,
    NOT_THERE,
    REFUSED,
    SETTLING,
    SILENT,
    TOO_LARGE,
    UNKNOWN_TOPIC,
    UNWELL,
    Deliveries,
    Failed,
    admin_of,
    check_each,
    complaints,
    error_of,
    protocol_of,
    refusal_of,
    renew_admin,
    settings_of,
)
from headrace.topics.kafka.feed import KafkaFeed
from headrace.topics.protocol import Away, Cursor, Entry, PartitionInfo, TopicInfo
from headrace.topics.store import Store

__all__ = ["KafkaLog"]

FETCH_BYTES = 6 << 20
MESSAGE_BYTES = 64 << 20
APPEND_SECONDS = 30.0
STOP_SECONDS = 3.0
_SLICE_SECONDS = 0.5
_GROUP_SECONDS = 2.0

_T = TypeVar("_T")


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
        self.cluster, self.folder, self._clock = Cluster(cluster) if isinstance(cluster, str) else cluster, folder, clock
        self._counts: dict[str, int] = {}
        self._appender: Producer | None = None
        self._deliveries = Deliveries()
        self._stop: Callable[[], bool] = lambda: False
        self._stop_at = inf
        self._reach()

    def _reach(self) -> None:
        """Wait for a broker's answer, in vain as soon as one refuses us for good."""
        with self._blaming("be reached"):
            asked(self.cluster, client.ANSWER_SECONDS)

    @property
    def servers(self) -> str:
        """Where some brokers listen."""
        return self.cluster.servers

    @property
    def _admin(self) -> AdminClient:
        return admin_of(self.cluster)

    def settings(self, **more: str | float | Callable[..., object]) -> dict[str, Any]:
        """Return the settings of a client; a name's `_` stands for a dot."""
        return settings_of(self.cluster, **more)

    # waiting

    def heed(self, stop: Callable[[], bool]) -> None:
        """Have every wait for a broker end within seconds once `stop` says so."""
        self._stop, self._stop_at = stop, inf

    def left(self, give_up_at: float) -> float:
        """Return how many seconds of a wait are left."""
        now = time.monotonic()
        if self._stop():
            self._stop_at = min(self._stop_at, now + STOP_SECONDS)
        return min(give_up_at, self._stop_at) - now

    def until(self, give_up_at: float, call: Callable[[float], object], *, patient: bool = True) -> None:
        """Call Kafka until it has done what it is to do; unless `patient`, not again once its broker has gone away."""
        while True:
            try:
                self._wait(_aside(call, max(min(self.left(give_up_at), _SLICE_SECONDS), 0.01)), give_up_at)
            except KafkaException as exception:
                error = error_of(exception)
                gone = error.code() in SILENT - {KafkaError._TIMED_OUT} and not patient
                if gone or not error.retriable() or error.txn_requires_abort() or self.left(give_up_at) <= 0:
                    raise
                time.sleep(0.005)
            except TimeoutError:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
            else:
                return

    def _await(self, future: Future[_T]) -> _T:
        return self._wait(future, time.monotonic() + client.ANSWER_SECONDS + 5)

    def _wait(self, future: Future[_T], give_up_at: float) -> _T:
        while True:
            try:
                return future.result(max(min(self.left(give_up_at), _SLICE_SECONDS), 0))
            except TimeoutError:
                if future.done() or self.left(give_up_at) <= 0:
                    raise

    # errors

    @property
    def _where(self) -> str:
        return f"Kafka at {self.servers}"

    @contextmanager
    def _blaming(self, doing: str) -> Iterator[None]:
        """Make of an error of Kafka's one that names the servers and the fix."""
        try:
            yield
        except KafkaException as error:
            raise self.fault(error_of(error), doing) from None
        except TimeoutError:
            raise self.fault(KafkaError(KafkaError._TIMED_OUT), doing) from None

    def fault(self, error: KafkaError, doing: str) -> EnvironmentFault:
        """Return what to raise for an error of Kafka's."""
        if error.code() in SILENT:
            with suppress(KafkaException, AttributeError):
                self._admin.poll(0)
            renew_admin(self.cluster)
        said = complaints.get(self.cluster) if error.code() in SILENT else error
        if said is not None and (refusal := refusal_of(self.cluster, said)):
            return EnvironmentFault(f"cannot {doing}: {refusal[0]}", where=self._where, fix=refusal[1])
        if error.code() in SILENT:
            why, fix = f"it does not answer{f': {said.str()}' if said is not None else ''}", "start it, and see `headrace doctor`"
            why, fix = (said and protocol_of(self.cluster, said)) or (why, fix)
            return Away(f"cannot {doing}: {why}", where=self._where, fix=fix)
        if error.code() in REFUSED:
            return EnvironmentFault(f"cannot {doing}: {error.str()}", where=self._where, fix="give this user the right, and see `headrace doctor`")
        kind = Away if error.code() in UNWELL else EnvironmentFault
        return kind(f"cannot {doing}: {error.str()}", where=self._where, fix="see the broker's log and `headrace doctor`")

    # topics

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
        with self._blaming("make topics"):
            made = self._admin.create_topics(
                [NewTopic(topic, partitions, replication, config=config)],
                request_timeout=client.ANSWER_SECONDS,
                operation_timeout=client.ANSWER_SECONDS,
            )
            try:
                self._await(made[topic])
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
        with self._blaming(f"change topic {topic!r}"):
            resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
            (made,) = self._admin.incremental_alter_configs([resource], request_timeout=client.ANSWER_SECONDS).values()
            self._await(made)

    def _refusal(self, topic: str, error: KafkaError) -> Exception:
        where = f"topic {topic!r}"
        match error.code():
            case KafkaError.TOPIC_ALREADY_EXISTS:
                return PlanError(f"there is a topic {topic!r} already", where=self._where, fix="delete it first, or name another")
            case KafkaError.INVALID_REPLICATION_FACTOR:
                return PlanError(f"cannot have that replication: {error.str()}", where=where, fix="give no more than there are brokers")
            case KafkaError.INVALID_PARTITIONS | KafkaError.TOPIC_EXCEPTION | KafkaError.INVALID_CONFIG | KafkaError.POLICY_VIOLATION:
                return PlanError(f"Kafka refuses it: {error.str()}", where=where, fix="give what the cluster allows")
        return self.fault(error, f"make topic {topic!r}")

    def _await_topic(self, topic: str, *, there: bool) -> None:
        """Wait until all clients are told that a topic is there, or gone."""
        ready_by = time.monotonic() + client.ANSWER_SECONDS
        while (topic in self._described([topic], patient=False)) is not there:
            if self.left(ready_by) <= 0:
                raise self.fault(KafkaError(KafkaError._TIMED_OUT), f"{'make' if there else 'delete'} topic {topic!r}")
            time.sleep(0.02)

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        self._partitions_of(topic, anew=True)
        self._counts.pop(topic, None)
        with self._blaming(f"delete topic {topic!r}"):
            gone = self._admin.delete_topics([topic], request_timeout=client.ANSWER_SECONDS, operation_timeout=client.ANSWER_SECONDS)
            self._await(gone[topic])
        self._await_topic(topic, there=False)

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name, without Kafka's own."""
        return list(self._infos(self._names(), patient=False).values())

    def _names(self) -> list[str]:
        with self._blaming("list its topics"):
            return sorted(name for name in self._names_of() if not name.startswith("__"))

    def _names_of(self, topic: str | None = None) -> Iterable[str]:
        """Return the names of all topics, or of one; the client learns who leads them."""
        given = {} if topic is None else {"topic": topic}
        return self._await(_aside(lambda seconds: self._admin.list_topics(**given, timeout=seconds).topics, client.ANSWER_SECONDS))

    def topic(self, name: str) -> TopicInfo:
        """Return one topic. Raises PlanError if there is none of that name."""
        found = self._infos([name])
        if name not in found:
            raise self._unknown(name)
        return found[name]

    def _unknown(self, name: str) -> PlanError:
        names = self._names()
        return PlanError(f"no topic {name!r}", where=self._where, fix=near(name, names) if names else "make it: headrace topics create")

    def _described(self, topics: Iterable[str], *, patient: bool = True) -> dict[str, Any]:
        """Return the descriptions of those topics that there are. One without leaders is waited for, or if not `patient`, left out."""
        found, open_ones = {}, set(topics)
        give_up_at = time.monotonic() + client.ANSWER_SECONDS
        with self._blaming("describe its topics"):
            while open_ones:
                for name, one in self._admin.describe_topics(TopicCollection(sorted(open_ones)), request_timeout=client.ANSWER_SECONDS).items():
                    try:
                        description = self._await(one)
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
                if open_ones and self.left(give_up_at) <= 0:
                    raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
                time.sleep(0.02 if open_ones else 0)
        return found

    def _infos(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicInfo]:
        described = self._described(topics, patient=patient)
        if not described:
            return {}
        bounds = self._bounds([(name, part.id) for name, one in described.items() for part in one.partitions])
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
        with self._blaming("describe its topics"):
            asked = self._admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=client.ANSWER_SECONDS)
            for resource, one in asked.items():
                try:
                    config = self._await(one)
                except KafkaException as error:
                    if error_of(error).code() in UNKNOWN_TOPIC:
                        continue
                    raise
                ms, size = (int(config[name].value) for name in ("retention.ms", "retention.bytes"))
                kept[resource.name] = (None if ms < 0 else ms, None if size < 0 else size)
        return kept

    def _bounds(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Return the first offset of partitions, and the one behind the last that is committed."""
        firsts = self._offsets(partitions, OffsetSpec.earliest())
        ends = self._offsets(partitions, OffsetSpec.latest())
        return {one: (firsts[one], ends[one]) for one in partitions if one in firsts and one in ends}

    def _offsets(self, partitions: Sequence[tuple[str, int]], which: OffsetSpec) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        left, give_up_at = set(partitions), time.monotonic() + client.ANSWER_SECONDS
        with self._blaming("say where its topics end"):
            while left:
                asked = self._admin.list_offsets(
                    {TopicPartition(*one): which for one in left},
                    isolation_level=IsolationLevel.READ_COMMITTED,
                    request_timeout=client.ANSWER_SECONDS,
                )
                for one, future in asked.items():
                    try:
                        found[one.topic, one.partition] = int(self._await(future).offset)
                    except KafkaException as error:
                        if error_of(error).code() in MOVING and self.left(give_up_at) > 0:
                            continue
                        if error_of(error).code() not in UNKNOWN_TOPIC:
                            raise
                    left.discard((one.topic, one.partition))
                if left:
                    time.sleep(0.02)
                for topic in {topic for topic, _ in left}:
                    with suppress(KafkaException, TimeoutError):
                        self._names_of(topic)  # else it would know those of before a broker hung for minutes
        return found

    def _partitions_of(self, topic: str, *, anew: bool = False) -> int:
        """Return how many partitions a topic has."""
        if anew or topic not in self._counts:
            found = self._described([topic])
            if topic not in found:
                raise self._unknown(topic)
            self._counts[topic] = len(found[topic].partitions)
        return self._counts[topic]

    def _check_partition(self, topic: str, partition: int) -> None:
        count = self._partitions_of(topic)
        if partition not in range(count):
            raise PlanError(f"no partition {partition}", where=f"topic {topic!r}", fix=f"it has {count}, from 0")

    # writing

    def producer(self, deliveries: Deliveries, seconds: float, **more: str | float) -> Producer:
        """Return a producer that gives each record up to so many seconds."""
        return Producer(
            self.settings(
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
        self._partitions_of(topic)
        with self._blaming(f"append to topic {topic!r}"):
            if self._appender is None:
                self._appender = self.producer(self._deliveries, APPEND_SECONDS)
            self._deliveries.begin()
            give_up_at = time.monotonic() + APPEND_SECONDS + 5
            self.produce(self._appender, topic, values, keys)
            while len(self._appender) and self.left(give_up_at) > 0:
                self._appender.flush(0.5)
            if len(self._appender):
                self._appender.purge()
                self._appender.flush(1)
        if self._deliveries.failed is not None:
            self._appender = None
            self._counts.pop(topic, None)
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
        return self.fault(failed.error, f"append to topic {failed.topic!r}")

    # reading

    def consumer(self, **more: str | float) -> Consumer:
        """Return a consumer that reads what is committed and says where a partition ends. It belongs to no group."""
        return Consumer(
            self.settings(
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
        parts = self.topic(topic).partitions
        found = self._offsets([(topic, part.number) for part in parts], OffsetSpec.for_timestamp(arrived_ms))
        at = [found.get((topic, part.number), -1) for part in parts]
        return [part.end if offset < 0 else max(offset, part.first) for part, offset in zip(parts, at, strict=True)]

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""
        self._check_partition(topic, partition)
        bounds = self._bounds([(topic, partition)])
        if (topic, partition) not in bounds:
            raise self._unknown(topic)
        first, end = bounds[topic, partition]
        at = max(offset, first)
        found: list[Entry] = []
        if at >= end or most < 1:
            return found
        doing = f"read topic {topic!r}"
        give_up_at = time.monotonic() + client.ANSWER_SECONDS
        with self._blaming(doing):
            consumer = self.consumer()
            try:
                consumer.assign([TopicPartition(topic, partition, at)])
                while len(found) < most and at < end:
                    if time.monotonic() > give_up_at:
                        raise self.fault(KafkaError(KafkaError._TIMED_OUT), doing)
                    for message in consumer.consume(min(most - len(found), FETCH_RECORDS), 0) or consumer.consume(1, 0.1):
                        error, offset = message.error(), message.offset() or 0
                        give_up_at = time.monotonic() + client.ANSWER_SECONDS
                        if error is None:
                            found.append(Entry(topic, partition, offset, message.timestamp()[1], message.key(), message.value() or b""))
                            at = offset + 1
                        elif error.code() == KafkaError._PARTITION_EOF:
                            at = max(at, offset)
                        elif error.code() in NOT_THERE and (first := self._bounds([(topic, partition)])[topic, partition][0]) > at:
                            # They have been dropped since.
                            at = first
                            consumer.assign([TopicPartition(topic, partition, at)])
                        elif error.code() not in SILENT:
                            raise self.fault(error, doing)
            finally:
                consumer.close()
        return found

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        with self._blaming("list its groups"):
            groups = sorted(group.group_id for group in self._await(self._admin.list_consumer_groups(request_timeout=client.ANSWER_SECONDS)).valid)
            asked = {
                group: self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=_GROUP_SECONDS)[group]
                for group in groups
            }
            told = {(group, one.topic, one.partition): one.offset for group in groups for one in self._await(asked[group]).topic_partitions}
        there = set(self._names())
        ends = self._offsets(sorted({(topic, number) for _, topic, number in told if topic in there}), OffsetSpec.latest()) if told else {}
        return [Cursor(*key, offset, ends[key[1:]]) for key, offset in sorted(told.items()) if key[1:] in ends and offset >= 0]

    def committed(self, group: str, patience: float = 1.0) -> list[TopicPartition]:
        """Return the committed offsets of a group. So many seconds, transactions that are open may come to an end first."""
        began = time.monotonic()
        give_up_at = began + client.ANSWER_SECONDS
        with self._blaming(f"say what group {group!r} has committed"):
            while True:
                stable = time.monotonic() - began < patience
                try:
                    found = self._await(
                        _aside(partial(self._ask_committed, group, stable=stable), min(patience, _GROUP_SECONDS) if stable else _GROUP_SECONDS)
                    )
                    check_each(found)
                except KafkaException as error:
                    if error_of(error).code() not in {KafkaError.UNSTABLE_OFFSET_COMMIT, *SILENT, *SETTLING, *MOVING} or self.left(give_up_at) <= 0:
                        raise
                    time.sleep(0.005)
                else:
                    return [one for one in found if one.offset >= 0]

    def _ask_committed(self, group: str, seconds: float, *, stable: bool) -> list[TopicPartition]:
        """Ask as a member of the group would: a client of the other kind fails an assertion once their broker has been away."""
        isolation = "read_committed" if stable else "read_uncommitted"
        member = Consumer(self.settings(group_id=group, enable_auto_commit=False, isolation_level=isolation))
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
            self._check_partition(topic, number)
        moved = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, number, offset) for (topic, number), offset in cursors.items()])
        with self._blaming(f"move group {group!r}"):
            done = self._await(self._admin.alter_consumer_group_offsets([moved], request_timeout=client.ANSWER_SECONDS)[group])
            check_each(done.topic_partitions)

    def forget(self, group: str) -> None:
        """Forget how far a named reader has come."""
        with self._blaming(f"forget group {group!r}"):
            gone = self._admin.delete_consumer_groups([group], request_timeout=client.ANSWER_SECONDS)
            try:
                self._await(gone[group])
            except KafkaException as error:
                if error_of(error).code() != KafkaError.GROUP_ID_NOT_FOUND:
                    raise

    def feed(self, topics: Sequence[str], *, latest: bool = False, skip_gone: bool = False) -> KafkaFeed:
        """Return a feed of topics from their first records on; with `latest` it ends where the topics end now.

        What retention takes before it was read is an error, unless `skip_gone`.
        """
        return KafkaFeed(self, topics, latest=latest, skip_gone=skip_gone)

    def manifest(self, pipeline: str) -> bytes | None:
        """Return what a pipeline's last commit said of it, whoever owns it."""
        give_up_at = time.monotonic() + client.ANSWER_SECONDS
        while True:
            mark = mark_of(pipeline, self.committed(pipeline))
            if mark is None:
                return None
            try:
                return Store(self.folder, pipeline).look(*mark).manifest
            except EnvironmentFault:
                # The pipeline may have committed twice in between.
                if mark == mark_of(pipeline, self.committed(pipeline)) or time.monotonic() > give_up_at:
                    raise

    def claim(self, pipeline: str) -> KafkaClaim:
        """Make this process the owner of a pipeline. Raises EnvironmentFault if another process owns it."""
        return KafkaClaim(self, pipeline)

    def close(self) -> None:
        """Let go of the connections."""
        self._appender = None


def asked(cluster: Cluster, seconds: float) -> ClusterMetadata:
    """Return what a cluster says of its brokers and topics, given up early if one side refuses the other for good.

    Raises
    ------
    PlanError
        If a property is unknown or cannot be used.
    KafkaException
        If no broker answers, or one refuses us.
    """
    complaints.pop(cluster, None)
    admin = admin_of(cluster)
    answer = _aside(lambda left: admin.list_topics(timeout=left), seconds)
    while not answer.done():
        admin.poll(0.02)
        said = complaints.get(cluster)
        if said is not None and refusal_of(cluster, said):
            raise KafkaException(said)
    return answer.result()


def _is_keyless(record: tuple[bytes, bytes | None]) -> bool:
    return record[1] is None


def _aside(call: Callable[[float], _T], seconds: float) -> Future[_T]:
    """Call Kafka in a thread of its own: when a broker goes away, some calls keep to no time limit. Who gives one up makes no other."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call(seconds))
        except BaseException as error:  # noqa: BLE001  (whoever waits is told)
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
