"""Clients of Kafka: how they are set up, what their errors mean, and how long an answer may take."""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.errors import PlanError
from headrace.topics.cluster import Cluster

__all__ = [
    "ANSWER_SECONDS",
    "FENCED",
    "FETCH_RECORDS",
    "MOVING",
    "NOT_THERE",
    "REFUSED",
    "SETTLING",
    "SILENT",
    "TOO_LARGE",
    "UNKNOWN_TOPIC",
    "UNWELL",
    "Deliveries",
    "Failed",
    "admin_of",
    "check_each",
    "complaints",
    "error_of",
    "lasting",
    "let_go",
    "protocol_of",
    "refusal_of",
    "renew_admin",
    "settings_of",
]

FETCH_RECORDS = 50_000
ANSWER_SECONDS = 10.0

FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
SILENT = {
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
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,
}
UNKNOWN_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
MOVING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError._NOENT,  # what list_offsets says where a broker that comes back names no leaders yet
}
SETTLING = {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR}
# What a broker says that was away or is not well: who begins anew may fare better.
UNWELL = {
    *MOVING,
    *SETTLING,
    KafkaError._FATAL,
    KafkaError._STATE,
    KafkaError._INCONSISTENT,
    KafkaError._GAPLESS_GUARANTEE,
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
NOT_THERE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}

_NAME = re.compile(r"[a-z]+(?:\.[a-z]+)+")
_UNDERSCORED = {"log_level", "error_cb", "on_delivery"}
# What Kafka's library has to say comes back as errors: on a user's terminal stands one line, and it is ours.
_SILENCE = logging.getLogger("headrace.kafka")
_SILENCE.setLevel(logging.CRITICAL + 1)

# What the clients of a cluster last complained of: a wait that ends in vain says it.
complaints: dict[Cluster, KafkaError] = {}
_admins: dict[Cluster, AdminClient] = {}

_T = TypeVar("_T")


def _complain(cluster: Cluster, error: KafkaError) -> None:
    """Keep what a client complains of; that no broker is left says nothing of why."""
    if error.code() != KafkaError._ALL_BROKERS_DOWN or cluster not in complaints:
        complaints[cluster] = error


def settings_of(cluster: Cluster, **more: str | float | Callable[..., object]) -> dict[str, Any]:
    """Return the settings of a client; a name's `_` stands for a dot. The cluster's own properties come before ours."""
    common: dict[str, Any] = {
        "bootstrap_servers": cluster.servers,
        "log_level": 0,
        "logger": _SILENCE,
        "error_cb": lambda error: _complain(cluster, error),
        "retry_backoff_ms": 5,
        "reconnect_backoff_max_ms": 1000,
    }
    ours = {name if name in _UNDERSCORED else name.replace("_", "."): value for name, value in (common | more).items()}
    return ours | cluster.settings


def admin_of(cluster: Cluster) -> AdminClient:
    """Return the client for whatever is neither read nor written. It is never taken down.

    Raises
    ------
    PlanError
        If Kafka's library does not know a property of the cluster's, or cannot use its value.
    """
    if cluster not in _admins:
        try:
            _admins[cluster] = lasting(AdminClient(settings_of(cluster)))
        except KafkaException as exception:
            said = cluster.without_secrets(error_of(exception).str())
            raise PlanError(f"Kafka's client cannot be set up: {said}", where=cluster.place(*_NAME.findall(said)), fix="correct it") from None
    return _admins[cluster]


def renew_admin(cluster: Cluster) -> None:
    """Have another client from now on: one that knew where groups were kept before a broker went away fails an assertion of its own."""
    _admins.pop(cluster, None)


def lasting(client: _T) -> _T:
    """Return a client that the interpreter does not take down when it ends: with its broker gone, that can wait for ever."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
    return client


def let_go(client: object) -> None:
    """Take a lasting client down, aside; who calls must not hold it any longer."""
    Thread(target=ctypes.pythonapi.Py_DecRef, args=(ctypes.py_object(client),), daemon=True).start()


def error_of(exception: KafkaException) -> KafkaError:
    """Return what an exception of Kafka's is about."""
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def refusal_of(cluster: Cluster, said: KafkaError) -> tuple[str, str] | None:
    """Return what a broker or a client refuses of the other for as long as properties are what they are, and the fix; None if it is nothing such."""
    text = said.str()
    match said.code():
        case KafkaError._AUTHENTICATION | KafkaError.SASL_AUTHENTICATION_FAILED:
            names = ("sasl.username", "sasl.password", "sasl.mechanism", "sasl.mechanisms")
            return (
                f"it refuses the user or the password: {text}",
                f"correct sasl.username, sasl.password or sasl.mechanism in {cluster.place(*names)}",
            )
        case KafkaError._SSL if "certificate" in text and "verif" in text:
            place = cluster.place("ssl.ca.location", "ssl.ca.pem")
            return (
                "its certificate is not signed by a known CA, or is of another host",
                f"set ssl.ca.location to the CA's certificate (PEM) in {place}",
            )
    return None


def protocol_of(cluster: Cluster, said: KafkaError) -> tuple[str, str] | None:
    """Return what it looks like when the two sides do not speak the same protocol, and the fix; None where nothing says so."""
    protocol, place = cluster.settings.get("security.protocol", "PLAINTEXT").upper(), cluster.place("security.protocol")
    # A connection that was refused, or a name that is not known, would have been complained of.
    if protocol.endswith("PLAINTEXT") and said.code() == KafkaError._ALL_BROKERS_DOWN:
        return "it closes every connection", f"if the listener has TLS or asks for a password, set security.protocol (SSL, SASL_SSL) in {place}"
    if protocol.endswith("SSL") and (said.code() == KafkaError._SSL or "PLAINTEXT broker listener" in said.str()):
        return f"there is no TLS with it: {said.str()}", f"if the listener has no TLS, set another security.protocol in {place}"
    return None


def check_each(partitions: Iterable[TopicPartition]) -> None:
    """Raise the first error of some partitions."""
    for one in partitions:
        if one.error is not None:
            raise KafkaException(one.error)


@dataclass(frozen=True, slots=True)
class Failed:
    """A record that was not delivered."""

    error: KafkaError
    topic: str
    size: int


class Deliveries:
    """Keeps the first failure of a producer's deliveries; it is told of no others."""

    failed: Failed | None = None

    def begin(self) -> None:
        """Forget what failed before."""
        self.failed = None

    def hear(self, error: KafkaError | None, message: Message) -> None:
        """Take note of a delivery."""
        if error is not None and self.failed is None:
            self.failed = Failed(error, message.topic() or "", len(message.value() or b""))
