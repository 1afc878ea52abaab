"""Topics in Kafka: a log for plants that have one, with a pipeline's state beside it in the home's folder.

A commit writes the state's new parts and a manifest to the disk, then sends output and offsets in one transaction; the
offsets name the manifest. So what Kafka has committed says which state belongs to it, whenever the process died.
"""

from __future__ import annotations

import ctypes
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, islice, repeat
from operator import itemgetter
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import polars as pl

from headrace._clock import now_ms
from headrace.errors import EnvironmentFault, PlanError, near
from headrace.kernels.reading.batch import Lines, Stamps, TextLines
from headrace.topics.failpoints import passing
from headrace.topics.owner import locked
from headrace.topics.protocol import Cursor, Entry, Outgoing, PartitionInfo, TopicInfo
from headrace.topics.store import Store

try:
    from confluent_kafka import (
        Consumer,
        ConsumerGroupTopicPartitions,
        IsolationLevel,
        KafkaError,
        KafkaException,
        Message,
        Producer,
        TopicCollection,
        TopicPartition,
    )
    from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package confluent-kafka", where="Kafka", fix="pip install 'headrace[kafka]'") from None

__all__ = ["KafkaLog"]

FETCH_BYTES = 6 << 20
FETCH_RECORDS = 50_000
MESSAGE_BYTES = 64 << 20
ANSWER_SECONDS = 10.0
APPEND_SECONDS = 30.0
COMMIT_SECONDS = 30.0
_QUIET_SECONDS = 0.005
_GROUP_SECONDS = 2.0
_TOPICS_SECONDS = 2.0
_MARK = re.compile(r"(\d+);([0-9a-f]{64})")

_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
_SILENT = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._PURGE_QUEUE,
    KafkaError._PURGE_INFLIGHT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
}
_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,
}
_UNKNOWN_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
_MOVING = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH}
_SETTLING = {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_NOT_THERE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}

_UNDERSCORED = {"log_level", "error_cb", "on_delivery"}
# What Kafka's library has to say comes back as errors: on a user's terminal stands one line, and it is ours.
_SILENCE = logging.getLogger("headrace.kafka")
_SILENCE.setLevel(logging.CRITICAL + 1)

# What the clients of some servers last complained of: a wait that ends in vain says it.
_complaints: dict[str, str] = {}

_T = TypeVar("_T")


def _settings(servers: str, **more: str | float | Callable[..., object]) -> dict[str, Any]:
    common: dict[str, Any] = {
        "bootstrap_servers": servers,
        "log_level": 0,
        "logger": _SILENCE,
        "error_cb": lambda error: _complaints.update({servers: error.str()}),
        "retry_backoff_ms": 5,
        "reconnect_backoff_max_ms": 1000,
    }
    return {name if name in _UNDERSCORED else name.replace("_", "."): value for name, value in (common | more).items()}


@cache
def _admin_of(servers: str) -> AdminClient:
    """Return the client for whatever is neither read nor written. There is one, since it is never taken down."""
    return _lasting(AdminClient(_settings(servers)))


def _lasting(client: _T) -> _T:
    """Return a client that the interpreter does not take down when it ends: with its broker gone, that can wait for ever."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
    return client


def _let_go(client: object) -> None:
    """Take a lasting client down, aside; who calls must not hold it any longer."""
    Thread(target=ctypes.pythonapi.Py_DecRef, args=(ctypes.py_object(client),), daemon=True).start()


def _error(exception: KafkaException) -> KafkaError:
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def _check_each(partitions: Iterable[TopicPartition]) -> None:
    """Raise the first error of some partitions."""
    for one in partitions:
        if one.error is not None:
            raise KafkaException(one.error)


class KafkaLog:
    """The log of a Kafka cluster.

    Arrival times are the topic's timestamps: when the broker took the record in the topics that `create` makes
    (LogAppendTime); what its producer said in a topic made elsewhere that has CreateTime, Kafka's default.

    Parameters
    ----------
    servers
        Where some brokers listen: `host:port`, with commas between several.
    folder
        The home: the state of pipelines goes to `state/PIPELINE`, their locks to `pipelines`.
    clock
        Gives the CreateTime of what is appended, ms since the epoch.

    Raises
    ------
    EnvironmentFault
        If no broker answers.
    """

    def __init__(self, servers: str, folder: Path, clock: Callable[[], int] = now_ms) -> None:
        self.servers, self.folder, self._clock = servers, folder, clock
        self._counts: dict[str, int] = {}
        self._appender: Producer | None = None
        self._deliveries = _Deliveries()
        with self._blaming("be reached"):
            self._admin = _admin_of(servers)
            self._admin.list_topics(timeout=ANSWER_SECONDS)

    def settings(self, **more: str | float | Callable[..., object]) -> dict[str, Any]:
        """Return the settings of a client; a name's `_` stands for a dot."""
        return _settings(self.servers, **more)

    # errors

    @property
    def _where(self) -> str:
        return f"Kafka at {self.servers}"

    @contextmanager
    def _blaming(self, doing: str) -> Iterator[None]:
        """Make of an error of Kafka's one that names the servers and the mend."""
        try:
            yield
        except KafkaException as error:
            raise self.fault(_error(error), doing) from None
        except TimeoutError:
            raise self.fault(KafkaError(KafkaError._TIMED_OUT), doing) from None

    def fault(self, error: KafkaError, doing: str) -> EnvironmentFault:
        """Return what to raise for an error of Kafka's."""
        if error.code() in _SILENT:
            with suppress(KafkaException, AttributeError):
                self._admin.poll(0)
            said = f": {_complaints[self.servers]}" if self.servers in _complaints else ""
            return EnvironmentFault(f"cannot {doing}: it does not answer{said}", where=self._where, fix="start it, and see `headrace doctor`")
        if error.code() in _REFUSED:
            return EnvironmentFault(f"cannot {doing}: {error.str()}", where=self._where, fix="give this user the right, and see `headrace doctor`")
        return EnvironmentFault(f"cannot {doing}: {error.str()}", where=self._where, fix="see the broker's log and `headrace doctor`")

    def _await(self, future: Future[_T]) -> _T:
        return future.result(ANSWER_SECONDS + 5)

    # topics

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Make a topic. Raises PlanError if there is one of that name, or a number cannot be."""
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
                [NewTopic(topic, partitions, replication, config=config)], request_timeout=ANSWER_SECONDS, operation_timeout=ANSWER_SECONDS
            )
            try:
                self._await(made[topic])
            except KafkaException as error:
                raise self._refusal(topic, _error(error)) from None
        self._await_topic(topic, there=True)

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
        ready_by = time.monotonic() + ANSWER_SECONDS
        while (topic in self._described([topic])) is not there:
            if time.monotonic() > ready_by:
                raise self.fault(KafkaError(KafkaError._TIMED_OUT), f"{'make' if there else 'delete'} topic {topic!r}")
            time.sleep(0.02)

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        self._partitions_of(topic, anew=True)
        self._counts.pop(topic, None)
        with self._blaming(f"delete topic {topic!r}"):
            gone = self._admin.delete_topics([topic], request_timeout=ANSWER_SECONDS, operation_timeout=ANSWER_SECONDS)
            self._await(gone[topic])
        self._await_topic(topic, there=False)

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name, without Kafka's own."""
        return list(self._infos(self._names()).values())

    def _names(self) -> list[str]:
        with self._blaming("list its topics"):
            return sorted(name for name in self._admin.list_topics(timeout=ANSWER_SECONDS).topics if not name.startswith("__"))

    def topic(self, name: str) -> TopicInfo:
        """Return one topic. Raises PlanError if there is none of that name."""
        found = self._infos([name])
        if name not in found:
            raise self._unknown(name)
        return found[name]

    def _unknown(self, name: str) -> PlanError:
        names = self._names()
        return PlanError(f"no topic {name!r}", where=self._where, fix=near(name, names) if names else "make it: headrace topics create")

    def _described(self, topics: Sequence[str]) -> dict[str, Any]:
        """Return the descriptions of those topics that there are."""
        found = {}
        with self._blaming("describe its topics"):
            for name, one in self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=ANSWER_SECONDS).items():
                try:
                    description = self._await(one)
                except KafkaException as error:
                    if _error(error).code() not in {*_UNKNOWN_TOPIC, KafkaError.TOPIC_EXCEPTION}:
                        raise
                else:
                    if all(part.leader is not None for part in description.partitions):
                        found[name] = description
        return found

    def _infos(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        described = self._described(topics) if topics else {}
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
            asked = self._admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=ANSWER_SECONDS)
            for resource, one in asked.items():
                try:
                    config = self._await(one)
                except KafkaException as error:
                    if _error(error).code() in _UNKNOWN_TOPIC:
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
        left, give_up_at = set(partitions), time.monotonic() + ANSWER_SECONDS
        with self._blaming("say where its topics end"):
            while left:
                asked = self._admin.list_offsets(
                    {TopicPartition(*one): which for one in left}, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_SECONDS
                )
                for one, future in asked.items():
                    try:
                        found[one.topic, one.partition] = int(self._await(future).offset)
                    except KafkaException as error:
                        if _error(error).code() in _MOVING and time.monotonic() < give_up_at:
                            continue
                        if _error(error).code() not in _UNKNOWN_TOPIC:
                            raise
                    left.discard((one.topic, one.partition))
                time.sleep(0.02 if left else 0)
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

    def producer(self, deliveries: _Deliveries, seconds: float, **more: str | float) -> Producer:
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
            while len(self._appender) and time.monotonic() < give_up_at:
                self._appender.flush(0.5)
            if len(self._appender):
                self._appender.purge()
                self._appender.flush(1)
        if self._deliveries.failed is not None:
            self._appender = None
            self._counts.pop(topic, None)
            raise self.undelivered(self._deliveries.failed)

    def produce(self, producer: Producer, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None) -> None:
        """Hand records to a producer. Raises EnvironmentFault for one that no broker could take."""
        largest = max(map(len, values), default=0)
        if largest > MESSAGE_BYTES - 1024:
            raise self.undelivered(_Failed(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), topic, largest))
        named = zip(values, repeat(None) if keys is None else keys, strict=keys is not None)
        for keyless, run in groupby(named, _is_keyless):
            partition = 0 if keyless else -1
            while part := list(islice(run, FETCH_RECORDS)):
                if self._clock is now_ms:
                    messages = [{"value": value, "key": key} for value, key in part]
                    if producer.produce_batch(topic, messages, partition) < len(messages):
                        raise next(KafkaException(one["_error"]) for one in messages if "_error" in one)
                else:
                    for value, key in part:
                        producer.produce(topic, value, key, partition, timestamp=self._clock())
                producer.poll(0)

    def undelivered(self, failed: _Failed) -> EnvironmentFault:
        """Return what to raise for a record that was not delivered."""
        where = f"topic {failed.topic!r}"
        if failed.error.code() in _TOO_LARGE:
            return EnvironmentFault(
                f"a record of {failed.size:,} bytes is larger than the broker takes",
                where=where,
                fix="raise the topic's max.message.bytes or the brokers' message.max.bytes, or send less at once",
            )
        if failed.error.code() in _UNKNOWN_TOPIC:
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
        give_up_at = time.monotonic() + ANSWER_SECONDS
        with self._blaming(doing):
            consumer = self.consumer()
            try:
                consumer.assign([TopicPartition(topic, partition, at)])
                while len(found) < most and at < end:
                    if time.monotonic() > give_up_at:
                        raise self.fault(KafkaError(KafkaError._TIMED_OUT), doing)
                    for message in consumer.consume(min(most - len(found), FETCH_RECORDS), 0) or consumer.consume(1, 0.1):
                        error, offset = message.error(), message.offset() or 0
                        give_up_at = time.monotonic() + ANSWER_SECONDS
                        if error is None:
                            found.append(Entry(topic, partition, offset, message.timestamp()[1], message.key(), message.value() or b""))
                            at = offset + 1
                        elif error.code() == KafkaError._PARTITION_EOF:
                            at = max(at, offset)
                        elif error.code() in _NOT_THERE and (first := self._bounds([(topic, partition)])[topic, partition][0]) > at:
                            # They have been dropped since.
                            at = first
                            consumer.assign([TopicPartition(topic, partition, at)])
                        elif error.code() not in _SILENT:
                            raise self.fault(error, doing)
            finally:
                consumer.close()
        return found

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        with self._blaming("list its groups"):
            groups = sorted(group.group_id for group in self._await(self._admin.list_consumer_groups(request_timeout=ANSWER_SECONDS)).valid)
            asked = {group: self._ask_committed(group) for group in groups}
            told = {(group, one.topic, one.partition): one.offset for group in groups for one in self._await(asked[group]).topic_partitions}
        there = set(self._names())
        ends = self._offsets(sorted({(topic, number) for _, topic, number in told if topic in there}), OffsetSpec.latest()) if told else {}
        return [Cursor(*key, offset, ends[key[1:]]) for key, offset in sorted(told.items()) if key[1:] in ends and offset >= 0]

    def _ask_committed(self, group: str, *, stable: bool = False) -> Future[Any]:
        asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], require_stable=stable, request_timeout=_GROUP_SECONDS)
        return asked[group]

    def committed(self, group: str, patience: float = 1.0) -> list[TopicPartition]:
        """Return the committed offsets of a group. So many seconds, transactions that are open may come to an end first.

        The first group that a new broker is asked for has it make its topic of groups, and that question stays unanswered:
        it is asked again.
        """
        began = time.monotonic()
        with self._blaming(f"say what group {group!r} has committed"):
            while True:
                waited = time.monotonic() - began
                try:
                    found = self._await(self._ask_committed(group, stable=waited <= patience)).topic_partitions
                    _check_each(found)
                except KafkaException as error:
                    code = _error(error).code()
                    if code != KafkaError.UNSTABLE_OFFSET_COMMIT and (code not in _SILENT | _SETTLING or waited > ANSWER_SECONDS):
                        raise
                    time.sleep(0.005)
                else:
                    return [one for one in found if one.offset >= 0]

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, by topic and partition."""
        for topic, number in cursors:
            self._check_partition(topic, number)
        moved = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, number, offset) for (topic, number), offset in cursors.items()])
        with self._blaming(f"move group {group!r}"):
            done = self._await(self._admin.alter_consumer_group_offsets([moved], request_timeout=ANSWER_SECONDS)[group])
            _check_each(done.topic_partitions)

    def feed(self, topics: Sequence[str], *, latest: bool = False, skip_gone: bool = False) -> KafkaFeed:
        """Return a feed of topics from their first records on; with `latest` it ends where the topics end now.

        What retention takes before it was read is an error, unless `skip_gone`.
        """
        return KafkaFeed(self, topics, latest=latest, skip_gone=skip_gone)

    def manifest(self, pipeline: str) -> bytes | None:
        """Return what a pipeline's last commit said of it, whoever owns it."""
        give_up_at = time.monotonic() + ANSWER_SECONDS
        while True:
            mark = _mark_of(pipeline, self.committed(pipeline))
            if mark is None:
                return None
            try:
                return Store(self.folder, pipeline).look(*mark).manifest
            except EnvironmentFault:
                # The pipeline may have committed twice in between.
                if mark == _mark_of(pipeline, self.committed(pipeline)) or time.monotonic() > give_up_at:
                    raise

    def claim(self, pipeline: str) -> KafkaClaim:
        """Make this process the owner of a pipeline. Raises EnvironmentFault if another process owns it."""
        return KafkaClaim(self, pipeline)

    def close(self) -> None:
        """Let go of the connections."""
        self._appender = None


@dataclass(frozen=True, slots=True)
class _Failed:
    """A record that was not delivered."""

    error: KafkaError
    topic: str
    size: int


class _Deliveries:
    """Keeps the first failure of a producer's deliveries; it is told of no others."""

    failed: _Failed | None = None

    def begin(self) -> None:
        """Forget what failed before."""
        self.failed = None

    def hear(self, error: KafkaError | None, message: Message) -> None:
        """Take note of a delivery."""
        if error is not None and self.failed is None:
            self.failed = _Failed(error, message.topic() or "", len(message.value() or b""))


class KafkaReader:
    """A partition as a feed has fetched it."""

    columns = separator = None

    def __init__(self, topic: str, number: int, first: int, end: int | None) -> None:
        self.topic, self.number, self.name = topic, number, f"{topic} partition {number}"
        self.next, self.end = first, end
        # The offset up to which all was fetched; it passes over what is no record, as the marks of transactions.
        self.reached = first
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
        """The offset of the next record, and where reading ends, if it does."""
        if not self._messages:
            self.next = self.reached
        return {"record": self.next, "size": self.end}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on reading at a position, before anything has been fetched."""
        self.next = self.reached = position["record"]
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
        values = [value or b"" for value in map(Message.value, messages)]
        whole = b"\n".join(values)
        lines = TextLines(whole, len(values)) if whole.count(b"\n") == len(values) - 1 else Lines.of(values)
        arrived = pl.Series(map(itemgetter(1), map(Message.timestamp, messages)), dtype=pl.Int64)
        order = arrived.cum_max().clip(lower_bound=self._order)
        self._order = int(order[-1])
        lines.stamps = Stamps(pl.Series(map(Message.offset, messages), dtype=pl.Int64), arrived, order)
        return lines

    def close(self) -> None:
        """Do nothing: the feed has the connection."""


class KafkaFeed:
    """The partitions of some topics, read together."""

    def __init__(self, log: KafkaLog, topics: Sequence[str], *, latest: bool, skip_gone: bool) -> None:
        self._log, self._skip_gone = log, skip_gone
        described = log._described(list(topics))
        self.readers: dict[str, list[KafkaReader]] = {}
        for topic in topics:
            if topic not in described:
                raise log._unknown(topic)
            numbers = range(len(described[topic].partitions))
            bounds = log._bounds([(topic, number) for number in numbers])
            self.readers[topic] = [
                KafkaReader(topic, number, bounds[topic, number][0], bounds[topic, number][1] if latest else None) for number in numbers
            ]
        self._ids = {topic: str(described[topic].topic_id) for topic in topics}
        self._by_key = {(reader.topic, reader.number): reader for readers in self.readers.values() for reader in readers}
        self._consumer: Consumer | None = None
        self._asked: dict[str, Future[Any]] | None = None
        self._ask_at = time.monotonic() + _TOPICS_SECONDS
        self._missed: set[str] = set()

    def fetch(self, most: int | None = None) -> bool:
        """Take in the next records, up to some MB or `most`, and return whether there were any."""
        with self._log._blaming("be read"):
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
        consumer = self._log.consumer()
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
        elif code in _NOT_THERE:
            self._find(self._by_key[key])
        elif code in _UNKNOWN_TOPIC:
            self._ask_at = min(self._ask_at, time.monotonic())
        elif code not in _SILENT and (error.fatal() or not error.retriable()):
            raise self._log.fault(error, f"be read, {key[0]!r} partition {key[1]}")

    def _find(self, reader: KafkaReader) -> None:
        """Go on where a partition begins now, if that may be. Raises EnvironmentFault if not."""
        at = reader.reached
        first, end = self._log._bounds([(reader.topic, reader.number)]).get((reader.topic, reader.number), (0, 0))
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
                self._asked = self._log._admin.describe_topics(TopicCollection(list(self.readers)), request_timeout=ANSWER_SECONDS)
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
            if str(found.topic_id) != self._ids[topic]:
                what = "has been made anew while it was read"
            elif there != known:
                what = f"has {there} partitions now, not {known}"
            else:
                return
        elif isinstance(exception, KafkaException) and _error(exception).code() in _UNKNOWN_TOPIC:
            if topic not in self._missed:
                # A broker that has just come back may not know yet.
                self._missed.add(topic)
                self._ask_at = time.monotonic() + 0.5
                return
            what = "has been deleted while it was read"
        else:
            return
        raise EnvironmentFault(what, where=f"topic {topic!r}", fix="start the pipeline with --anew, or with a new version")

    def lag(self) -> dict[tuple[str, int], int]:
        """Return how many offsets of each partition are still to be read, as far as is known."""
        ends = {key: self._known_end(reader) for key, reader in self._by_key.items()}
        if unknown := [key for key, end in ends.items() if end < 0]:
            ends |= self._log._offsets(unknown, OffsetSpec.latest())
        return {key: max(ends[key] - reader.position["record"], 0) for key, reader in self._by_key.items()}

    def _known_end(self, reader: KafkaReader) -> int:
        if self._consumer is None:
            return -1
        with self._log._blaming("be read"):
            return self._consumer.get_watermark_offsets(TopicPartition(reader.topic, reader.number), cached=True)[1]

    def close(self) -> None:
        """Let go of the connection."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _is_fenced(error: KafkaError) -> bool:
    return error.code() in _FENCED or (error.code() == KafkaError._FATAL and "fenced" in error.str().lower())


def _is_keyless(record: tuple[bytes, bytes | None]) -> bool:
    return record[1] is None


def _place(message: Message) -> tuple[str, int]:
    return message.topic() or "", message.partition() or 0


def _mark_of(pipeline: str, committed: Sequence[TopicPartition]) -> tuple[int, str] | None:
    """Return the epoch and the checksum of the manifest that committed offsets name; None if there are none of ours."""
    marks = {one.metadata or "" for one in committed}
    if not any(_MARK.fullmatch(mark) for mark in marks):
        return None
    found = _MARK.fullmatch(min(marks))
    if len(marks) > 1 or found is None:
        raise EnvironmentFault(
            f"the offsets of group {pipeline!r} were moved by something else",
            where=f"pipeline {pipeline}",
            fix="forget its state: headrace run --anew",
        )
    return int(found[1]), found[2]


class KafkaClaim:
    """A pipeline that this process owns, on Kafka.

    A lock that dies with the process keeps a second one of this home out; the transactional id keeps out a process that
    lost the lock without noticing, or runs elsewhere.
    """

    def __init__(self, log: KafkaLog, pipeline: str) -> None:
        self._log, self.pipeline = log, pipeline
        self._deliveries = _Deliveries()
        self._broken: EnvironmentFault | None = None
        self._lock = locked(log.folder / "pipelines", pipeline)
        try:
            self._store = Store(log.folder, pipeline)
            limit = int(COMMIT_SECONDS * 1000)
            with log._blaming(f"take pipeline {pipeline}"):
                self._producer = _lasting(log.producer(self._deliveries, COMMIT_SECONDS, transactional_id=pipeline, transaction_timeout_ms=limit))
                # Before anything is looked at: it puts an end to what an earlier process has begun, and keeps that one out.
                _until(time.monotonic() + COMMIT_SECONDS, self._producer.init_transactions)
                group = Consumer(log.settings(group_id=pipeline, enable_auto_commit=False))
                self._group = group.consumer_group_metadata()
                group.close()
            committed = log.committed(pipeline)
        except BaseException:
            self.release()
            raise
        self._cursors = {(one.topic, one.partition): one.offset for one in committed}
        self._epoch = 0
        self._manifest: bytes | None = None
        try:
            self._go_on(_mark_of(pipeline, committed))
        except EnvironmentFault as fault:
            # Whoever asks for the manifest is told; whoever forgets it need not be.
            self._broken = fault

    def _go_on(self, mark: tuple[int, str] | None) -> None:
        if mark is None and self._store.begun:
            raise EnvironmentFault(
                f"Kafka no longer has the offsets of pipeline {self.pipeline}, though there is state of it",
                where=str(self._store.folder),
                fix="raise the brokers' offsets.retention.minutes, and forget the state: headrace run --anew",
            )
        self._manifest = self._store.go_on(mark)
        self._epoch = mark[0] if mark else 0

    @property
    def manifest(self) -> bytes | None:
        """The last commit's, or None before the first. Raises EnvironmentFault if it is lost."""
        if self._broken is not None:
            raise self._broken
        return self._manifest

    def load(self, name: str) -> bytes:
        """Return a part of the state that the last commit stored."""
        return self._store.load(name)

    def commit(
        self,
        manifest: bytes,
        state: Mapping[str, bytes],
        kept: Collection[str],
        outgoing: Sequence[Outgoing],
        cursors: Mapping[tuple[str, int], int],
    ) -> None:
        """Make a step of work durable: the state first, then output and offsets in one transaction that names it."""
        if self._broken is not None:
            raise self._broken
        for one in outgoing:
            self._log._partitions_of(one.topic)
        passing("commit.begun")
        epoch = self._epoch + 1
        checksum = self._store.write(epoch, manifest, state, kept)
        moved = {**self._cursors, **cursors}
        offsets = [TopicPartition(*key, offset, metadata=f"{epoch};{checksum}") for key, offset in moved.items()]
        give_up_at = time.monotonic() + COMMIT_SECONDS
        self._deliveries.begin()
        try:
            self._producer.begin_transaction()
            for one in outgoing:
                self._log.produce(self._producer, one.topic, one.lines.split(b"\n"), one.key_bytes)
            passing("commit.output")
            _until(give_up_at, partial(self._producer.send_offsets_to_transaction, offsets, self._group))
            passing("commit.cursors")
        except KafkaException as exception:
            raise self._aborted(_error(exception)) from None
        except BaseException as exception:
            self._aborted(None)
            if isinstance(exception, EnvironmentFault):
                self._broken = exception
            raise
        self._finish(give_up_at)
        self._epoch, self._manifest, self._cursors = epoch, manifest, moved
        passing("commit.done")
        self._store.settle(epoch)

    def _finish(self, give_up_at: float) -> None:
        try:
            _until(give_up_at, self._producer.commit_transaction)
        except KafkaException as exception:
            error = _error(exception)
            if error.txn_requires_abort() or _is_fenced(error):
                raise self._aborted(error) from None
            self._broken = EnvironmentFault(
                f"does not say whether the last commit of pipeline {self.pipeline} stands: {error.str()}",
                where=self._log._where,
                fix="start the pipeline again once it answers: it goes on from what was committed",
            )
            raise self._broken from None
        except BaseException:
            self._broken = self._interrupted()
            raise

    def _aborted(self, error: KafkaError | None) -> EnvironmentFault:
        """Take back what was begun, and return what to raise for it. Nothing more is committed: what comes next is for the next process."""
        with suppress(KafkaException):
            self._producer.purge()
            _until(time.monotonic() + ANSWER_SECONDS, self._producer.abort_transaction)
        failed = self._deliveries.failed
        if error is None:
            self._broken = self._interrupted()
        elif _is_fenced(error):
            self._broken = EnvironmentFault(
                "belongs to another process now", where=f"pipeline {self.pipeline}", fix="let that one run, or end it first"
            )
        elif failed is not None and failed.error.code() not in {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}:
            self._broken = self._log.undelivered(failed)
        else:
            self._broken = self._log.fault(error, f"commit pipeline {self.pipeline}")
        return self._broken

    def _interrupted(self) -> EnvironmentFault:
        return EnvironmentFault("was interrupted while it committed", where=f"pipeline {self.pipeline}", fix="start it again")

    def forget(self) -> None:
        """Forget what the pipeline has committed: it starts anew."""
        with self._log._blaming(f"forget group {self.pipeline!r}"):
            gone = self._log._admin.delete_consumer_groups([self.pipeline], request_timeout=ANSWER_SECONDS)
            try:
                self._log._await(gone[self.pipeline])
            except KafkaException as error:
                if _error(error).code() != KafkaError.GROUP_ID_NOT_FOUND:
                    raise
        self._store.forget()
        self._manifest, self._epoch, self._cursors, self._broken = None, 0, {}, None

    def release(self) -> None:
        """Give the pipeline up."""
        if hasattr(self, "_producer"):
            _let_go(self._producer)
            del self._producer
        self._lock.close()


def _until(give_up_at: float, call: Callable[[float], object]) -> None:
    """Call Kafka again and again until it has done what it is to do, so that a signal finds its way in between."""
    while True:
        try:
            call(max(min(give_up_at - time.monotonic(), 1.0), 0.01))
        except KafkaException as exception:
            error = _error(exception)
            if not error.retriable() or error.txn_requires_abort() or time.monotonic() >= give_up_at:
                raise
            time.sleep(0.005)
        else:
            return
