"""A connection to a Kafka cluster: how long its answers are waited for, and what is said when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from math import inf
from threading import Thread
from typing import Any, TypeVar

from confluent_kafka import (
    KafkaError,
    KafkaException,
)
from confluent_kafka.admin import AdminClient, ClusterMetadata

from headrace.errors import EnvironmentFault
from headrace.topics.cluster import Cluster
from headrace.topics.kafka import client
from headrace.topics.kafka.client import (
    REFUSED,
    SILENT,
    UNWELL,
    admin_of,
    complaints,
    error_of,
    protocol_of,
    refusal_of,
    renew_admin,
    settings_of,
)
from headrace.topics.protocol import Away

__all__ = ["KafkaConnection", "aside", "asked"]

STOP_SECONDS = 3.0
_SLICE_SECONDS = 0.5

_T = TypeVar("_T")


class KafkaConnection:
    """The way to a cluster. What waits for it ends soon after `heed` is given a function that says so."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._stop: Callable[[], bool] = lambda: False
        self._stop_at = inf

    def reach(self) -> None:
        """Wait for a broker's answer, in vain as soon as one refuses us for good."""
        with self.blaming("be reached"):
            asked(self.cluster, client.ANSWER_SECONDS)

    @property
    def servers(self) -> str:
        """Where some brokers listen."""
        return self.cluster.servers

    @property
    def admin(self) -> AdminClient:
        """The client that administers the cluster; it is shared."""
        return admin_of(self.cluster)

    def settings(self, **more: str | float | Callable[..., object]) -> dict[str, Any]:
        """Return the settings of a client; a name's `_` stands for a dot."""
        return settings_of(self.cluster, **more)

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
                self._wait(aside(call, max(min(self.left(give_up_at), _SLICE_SECONDS), 0.01)), give_up_at)
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

    def wait_for(self, future: Future[_T]) -> _T:
        """Return what Kafka answers. Raises TimeoutError if it does not."""
        return self._wait(future, time.monotonic() + client.ANSWER_SECONDS + 5)

    def _wait(self, future: Future[_T], give_up_at: float) -> _T:
        while True:
            try:
                return future.result(max(min(self.left(give_up_at), _SLICE_SECONDS), 0))
            except TimeoutError:
                if future.done() or self.left(give_up_at) <= 0:
                    raise

    def names_of(self, topic: str | None = None) -> Iterable[str]:
        """Return the names of all topics, or of one; the client learns who leads them."""
        given = {} if topic is None else {"topic": topic}
        return self.wait_for(aside(lambda seconds: self.admin.list_topics(**given, timeout=seconds).topics, client.ANSWER_SECONDS))

    @property
    def where(self) -> str:
        """What errors call the cluster."""
        return f"Kafka at {self.servers}"

    @contextmanager
    def blaming(self, doing: str) -> Iterator[None]:
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
                self.admin.poll(0)
            renew_admin(self.cluster)
        said = complaints.get(self.cluster) if error.code() in SILENT else error
        if said is not None and (refusal := refusal_of(self.cluster, said)):
            return EnvironmentFault(f"cannot {doing}: {refusal[0]}", where=self.where, fix=refusal[1])
        if error.code() in SILENT:
            why, fix = f"it does not answer{f': {said.str()}' if said is not None else ''}", "start it, and see `headrace doctor`"
            why, fix = (said and protocol_of(self.cluster, said)) or (why, fix)
            return Away(f"cannot {doing}: {why}", where=self.where, fix=fix)
        if error.code() in REFUSED:
            return EnvironmentFault(f"cannot {doing}: {error.str()}", where=self.where, fix="give this user the right, and see `headrace doctor`")
        kind = Away if error.code() in UNWELL else EnvironmentFault
        return kind(f"cannot {doing}: {error.str()}", where=self.where, fix="see the broker's log and `headrace doctor`")


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
    answer = aside(lambda left: admin.list_topics(timeout=left), seconds)
    while not answer.done():
        admin.poll(0.02)
        said = complaints.get(cluster)
        if said is not None and refusal_of(cluster, said):
            raise KafkaException(said)
    return answer.result()


def aside(call: Callable[[float], _T], seconds: float) -> Future[_T]:
    """Call Kafka in a thread of its own: when a broker goes away, some calls keep to no time limit. Who gives one up makes no other."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call(seconds))
        except BaseException as error:  # noqa: BLE001  (whoever waits is told)
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
