"""What Kafka's brokers say to `headrace doctor`, and whether they answer at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.topics.cluster import Cluster as Kafka

__all__ = ["ANSWER_SECONDS", "Cluster", "described", "fault_of_connection"]

ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka cluster: the addresses of its brokers, and its topics with the number of their partitions."""

    brokers: tuple[tuple[str, int], ...]
    topics: Mapping[str, int]


def fault_of_connection(host: str, port: int) -> str | None:
    """Return why a server cannot be reached; to look up its name has a limit as well."""
    fault: list[str | None] = [f"no answer within {ANSWER_SECONDS:.0f} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
            fault.append(None)
        except TimeoutError:
            pass
        except OSError as error:
            fault.append(error.strerror or str(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS + 0.5)
    return fault[-1]


def described(kafka: Kafka) -> Cluster:
    """Return the cluster as its brokers describe it."""
    from headrace.topics.kafka import asked

    said = asked(kafka, ANSWER_SECONDS)
    return Cluster(
        tuple((str(broker.host), int(broker.port)) for broker in said.brokers.values()),
        {str(name): len(topic.partitions) for name, topic in said.topics.items() if not str(name).startswith("__")},
    )
