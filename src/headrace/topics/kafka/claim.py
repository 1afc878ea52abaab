"""A pipeline that this process owns, on Kafka: its transactions, and the state beside them.

A commit writes the state's new parts and a manifest to the disk, then sends output and offsets in one transaction; the
offsets name the manifest. So what Kafka has committed says which state belongs to it, whenever the process died.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.errors import EnvironmentFault
from headrace.topics.failpoints import passing
from headrace.topics.kafka import client
from headrace.topics.kafka.client import FENCED, SILENT, Deliveries, error_of, lasting, let_go
from headrace.topics.owner import locked
from headrace.topics.protocol import Away, Commit
from headrace.topics.store import Store

if TYPE_CHECKING:
    from headrace.topics.kafka.log import KafkaLog

__all__ = ["KafkaClaim", "mark_of"]

COMMIT_SECONDS = 30.0
TRANSACTION_SECONDS = 60.0
_MARK = re.compile(r"(\d+);([0-9a-f]{64})")


class KafkaClaim:
    """A pipeline that this process owns, on Kafka.

    A lock that dies with the process keeps a second one of this home out; the transactional id keeps out a process that
    lost the lock without noticing, or runs elsewhere.
    """

    def __init__(self, log: KafkaLog, pipeline: str) -> None:
        self._log, self.pipeline = log, pipeline
        self._deliveries = Deliveries()
        self._broken: EnvironmentFault | None = None
        self._cursors: dict[tuple[str, int], int] = {}
        self._epoch = 0
        self._manifest: bytes | None = None
        self._lock = locked(log.folder / "pipelines", pipeline)
        try:
            self._store = Store(log.folder, pipeline)
            self._open()
        except BaseException:
            self.release()
            raise

    def _open(self) -> None:
        """Resume from the last commit, if its state is in this home; if not, nothing is done to the process that has that state."""
        self._broken = self._fault_of(self._log.groups.committed(self.pipeline, 0), pending=True)
        if self._broken is None:
            self._fence()
            committed = self._committed()
            self._broken = self._fault_of(committed)
        # Whoever asks for the manifest is told; whoever forgets it need not be.
        if self._broken is None:
            mark = mark_of(self.pipeline, committed)
            self._manifest = self._store.resume(mark)
            self._epoch = mark[0] if mark else 0
            self._cursors = {(one.topic, one.partition): one.offset for one in committed}

    def _fault_of(self, committed: Sequence[TopicPartition], *, pending: bool = False) -> EnvironmentFault | None:
        """Return what is wrong if this home does not have the state that committed offsets name; a later commit may still be `pending`."""
        try:
            mark = mark_of(self.pipeline, committed)
            if mark is not None:
                self._store.look(*mark)
        except EnvironmentFault as fault:
            return fault
        if mark is None and self._store.begun and not pending:
            return EnvironmentFault(
                f"Kafka no longer has the offsets of pipeline {self.pipeline}, though there is state of it",
                where=str(self._store.folder),
                fix="raise the brokers' offsets.retention.minutes, and forget the state: headrace run --anew",
            )
        return None

    def _fence(self) -> None:
        """Abort what an earlier process has begun, and keep that process out from now on."""
        if hasattr(self, "_producer"):
            return
        log, limit = self._log, int(TRANSACTION_SECONDS * 1000)
        with log.connection.blaming(f"take pipeline {self.pipeline}"):
            seconds = min(COMMIT_SECONDS, TRANSACTION_SECONDS)
            self._producer = lasting(log.writing.producer(self._deliveries, seconds, transactional_id=self.pipeline, transaction_timeout_ms=limit))
            log.connection.until(time.monotonic() + COMMIT_SECONDS, self._producer.init_transactions)
            group = Consumer(log.connection.settings(group_id=self.pipeline, enable_auto_commit=False))
            self._group = group.consumer_group_metadata()
            group.close()

    def _committed(self) -> list[TopicPartition]:
        """Return the offsets that are committed, once no transaction is pending any more."""
        try:
            return self._log.groups.committed(self.pipeline, inf)
        except Away:
            # A broker that was killed just after a commit may call that transaction ended and yet keep its offsets pending for ever.
            self._abort_one()
            return self._log.groups.committed(self.pipeline, inf)

    def _abort_one(self) -> None:
        """Put an end, in the group, to whatever is open there."""
        topics = [one.topic for one in self._log.groups.committed(self.pipeline, 0)] or self._log.catalog.names()
        give_up_at = time.monotonic() + client.ANSWER_SECONDS
        with self._log.connection.blaming(f"take pipeline {self.pipeline}"):
            self._producer.begin_transaction()
            self._log.connection.until(
                give_up_at, partial(self._producer.send_offsets_to_transaction, [TopicPartition(topics[0], 0, 0)], self._group)
            )
            self._log.connection.until(give_up_at, self._producer.abort_transaction)

    @property
    def manifest(self) -> bytes | None:
        """The last commit's, or None before the first. Raises EnvironmentFault if it is lost."""
        if self._broken is not None:
            raise self._broken
        return self._manifest

    def load(self, name: str) -> bytes:
        """Return a part of the state that the last commit stored."""
        return self._store.load(name)

    def commit(self, commit: Commit) -> None:
        """Make a step of work durable: the state first, then output and offsets in one transaction that names it."""
        if self._broken is not None:
            raise self._broken
        counts = {one.topic: self._log.catalog.partitions_of(one.topic) for one in commit.outgoing}
        passing("commit.begun")
        epoch = self._epoch + 1
        checksum = self._store.write(epoch, commit.manifest, commit.state, commit.kept)
        moved = {**self._cursors, **commit.cursors}
        offsets = [TopicPartition(*key, offset, metadata=f"{epoch};{checksum}") for key, offset in moved.items()]
        give_up_at = time.monotonic() + COMMIT_SECONDS
        self._deliveries.begin()
        try:
            self._producer.begin_transaction()
            for one in commit.outgoing:
                self._log.writing.produce(
                    self._producer,
                    one.topic,
                    one.lines.split(b"\n"),
                    one.key_bytes,
                    None if one.partition is None else one.partition % counts[one.topic],
                )
            passing("commit.output")
            self._log.connection.until(give_up_at, partial(self._producer.send_offsets_to_transaction, offsets, self._group), patient=False)
            passing("commit.cursors")
        except KafkaException as exception:
            raise self._aborted(error_of(exception)) from None
        except BaseException as exception:
            self._aborted(None)
            if isinstance(exception, EnvironmentFault):
                self._broken = exception
            raise
        self._finish(give_up_at)
        self._epoch, self._manifest, self._cursors = epoch, commit.manifest, moved
        passing("commit.done")
        self._store.settle(epoch)

    def _finish(self, give_up_at: float) -> None:
        try:
            self._log.connection.until(give_up_at, self._producer.commit_transaction, patient=False)
        except KafkaException as exception:
            error = error_of(exception)
            if error.txn_requires_abort() or _is_fenced(error):
                raise self._aborted(error) from None
            self._broken = Away(
                f"does not say whether the last commit of pipeline {self.pipeline} stands: {error.str()}",
                where=self._log.connection.where,
                fix="start the pipeline again once it answers: it goes on from what was committed",
            )
            raise self._broken from None
        except BaseException:
            self._broken = self._interrupted()
            raise

    def _aborted(self, error: KafkaError | None) -> EnvironmentFault:
        """Take back what was begun, and return what to raise for it. Nothing more is committed: what comes next is for the next owner.

        Of a broker that has gone away nothing can be taken back: the next owner sees to that as well.
        """
        if error is None or error.code() not in SILENT:
            with suppress(KafkaException):
                self._producer.purge()
                self._log.connection.until(time.monotonic() + client.ANSWER_SECONDS, self._producer.abort_transaction, patient=False)
        failed = self._deliveries.failed
        if error is None:
            self._broken = self._interrupted()
        elif _is_fenced(error):
            self._broken = self._fenced()
        elif failed is not None and failed.error.code() not in {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}:
            self._broken = self._log.writing.undelivered(failed)
        else:
            self._broken = self._log.connection.fault(error, f"commit pipeline {self.pipeline}")
        return self._broken

    def _fenced(self) -> EnvironmentFault:
        """Return what to raise once Kafka takes no more from this producer.

        A transaction that lasted too long ends so, which happens to a process that stood still or a machine that is too busy;
        so does one whose pipeline another process has taken. Only a commit of that other process tells the two apart.
        """
        try:
            committed = self._log.groups.committed(self.pipeline, 0)
        except EnvironmentFault as fault:
            return fault
        if self._fault_of(committed, pending=True) is not None:
            return EnvironmentFault("belongs to another process now", where=f"pipeline {self.pipeline}", fix="let that one run, or end it first")
        return Away(
            f"aborted a transaction of pipeline {self.pipeline}: it took longer than {TRANSACTION_SECONDS:.0f} s, or another process took the pipeline",
            where=self._log.connection.where,
            fix="give the machine more room, or raise transaction.timeout.ms; the pipeline resumes from its last commit",
        )

    def _interrupted(self) -> EnvironmentFault:
        return EnvironmentFault("was interrupted while it committed", where=f"pipeline {self.pipeline}", fix="start it again")

    def forget(self) -> None:
        """Forget what the pipeline has committed: it starts anew."""
        self._fence()
        self._log.groups.forget(self.pipeline)
        self._store.forget()
        self._manifest, self._epoch, self._cursors, self._broken = None, 0, {}, None

    def release(self) -> None:
        """Give the pipeline up."""
        if hasattr(self, "_producer"):
            let_go(self._producer)
            del self._producer
        self._lock.close()


def _is_fenced(error: KafkaError) -> bool:
    return error.code() in FENCED or (error.code() == KafkaError._FATAL and "fenced" in error.str().lower())


def mark_of(pipeline: str, committed: Sequence[TopicPartition]) -> tuple[int, str] | None:
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
