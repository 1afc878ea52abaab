"""A topic of another Kafka cluster: `kafka://HOST:PORT/TOPIC`, its records as they are, or decoded by a schema registry."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from headrace.connectors.address import Address
from headrace.connectors.mirror import Mirror
from headrace.topics.cluster import Cluster, properties_of_environment, properties_of_file
from headrace.topics.protocol import Log

__all__ = ["source"]

_EXAMPLE = "kafka://127.0.0.1:9092/readings"
_PARAMETERS = frozenset({"config", "registry", "registry_ca"})
_ADDRESS = re.compile(r"kafka://([^/?#@\s]+)/([^/?#\s]+)(?:\?(.*))?", re.DOTALL)


def source(address: str) -> Mirror:
    """Return the topic of an address `kafka://HOST:PORT,…/TOPIC?config=FILE&registry=URL`.

    Raises
    ------
    PlanError
        If the address is wrong, or a property of Kafka's clients.
    EnvironmentFault
        If a package, a file or a variable is not there.
    """
    match = _ADDRESS.fullmatch(address)
    given = Address(f"kafka://here/topic?{(match and match[3]) or ''}", _PARAMETERS, _EXAMPLE)
    if match is None:
        raise given.wrong("is not the address of a topic of Kafka")
    servers, topic = match[1], unquote(match[2])
    config = given.get("config")
    properties = properties_of_environment(os.environ) if config is None else properties_of_file(Path(config), os.environ)
    cluster = Cluster(servers, tuple(one for one in properties if one.name != "bootstrap.servers"), given.where)
    registry = given.get("registry")
    if registry is None:
        return Mirror(f"kafka://{servers}/{topic}", topic, lambda: _opened(cluster))
    from headrace.connectors.schema_registry import Schemas

    schemas = Schemas(registry, given.get("registry_ca"))
    return Mirror(f"kafka://{servers}/{topic}", topic, lambda: _opened(cluster), decoded=schemas.decoded, closed=schemas.close)


def _opened(cluster: Cluster) -> Log:
    from headrace.topics.kafka import KafkaLog

    return KafkaLog(cluster, folder=Path(os.environ.get("HEADRACE_HOME", ".headrace")))  # nothing is written there by a reader
