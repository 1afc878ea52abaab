"""From the command line's options, the environment and `headrace.toml` to a log: the SQLite file of the home, or Kafka."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cyclopts import Parameter

from headrace.cli.apps import home, settings_file, table_of_settings
from headrace.cli.paths import InputPath
from headrace.engines.protocol import Topics
from headrace.errors import PlanError
from headrace.topics.cluster import SERVERS, Cluster, Property, properties_of_environment, properties_of_file, properties_of_table
from headrace.topics.protocol import Log

__all__ = [
    "LOG_FILE",
    "PREFIX_VARIABLE",
    "SERVER_VARIABLES",
    "KafkaOptions",
    "NoLogYet",
    "addresses",
    "asked_cluster",
    "asked_topic",
    "asked_topics",
    "open_log",
]

LOG_FILE = "log.db"
PREFIX_VARIABLE = "HEADRACE_TOPIC_PREFIX"
SERVER_VARIABLES = ("KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS")
_HERE = "127.0.0.1:9092"
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):(\d{1,5})")


class NoLogYet(PlanError):
    """The home has no log, and there is no reason to make one."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class KafkaOptions:
    """The options that name a Kafka cluster.

    Parameters
    ----------
    kafka_servers
        HOST:PORT of Kafka, several with commas between; else KAFKA_SERVERS of the environment, else the SQLite log.
    kafka_config
        File of properties of Kafka's clients, as librdkafka names them: TOML, or lines of NAME=VALUE. For TLS and passwords.
    """

    kafka_servers: str | None = None
    kafka_config: InputPath | None = None


def open_log(asked: KafkaOptions | Cluster | None = None, *, create: bool = True) -> Log:
    """Return the log that the command line and the environment ask for.

    Parameters
    ----------
    asked
        The options that name a Kafka cluster, or the cluster itself.
    create
        Whether to make the SQLite log if there is none.

    Raises
    ------
    NoLogYet
        If there is no SQLite log, and `create` is not set.
    PlanError
        If the servers are no addresses, or Kafka's properties are wrong.
    EnvironmentFault
        If the log cannot be opened.
    """
    cluster = asked if isinstance(asked, Cluster) else asked_cluster(asked)
    if cluster is not None:
        from headrace.topics.kafka import KafkaLog

        return _named(KafkaLog(cluster, folder=home()))
    path = home() / LOG_FILE
    if not create and not path.exists():
        raise NoLogYet("no topics yet", where=str(home()), fix="make one: headrace topics create TOPIC")
    from headrace.topics.sqlite import SqliteLog

    return _named(SqliteLog(path))


def _named(log: Log) -> Log:
    """Return the part of a log that HEADRACE_TOPIC_PREFIX names, if it is set."""
    prefix = os.environ.get(PREFIX_VARIABLE)
    if not prefix:
        return log
    from headrace.topics.prefixed import PrefixedLog

    return PrefixedLog(log, prefix)


def asked_topics(options: KafkaOptions) -> Topics:
    """Return where the topics are that the command line and the environment ask for."""
    return Topics(asked_cluster(options), os.environ.get(PREFIX_VARIABLE, ""), lambda: open_log(options))


def asked_topic(to: str, options: KafkaOptions) -> tuple[str, Cluster | None] | None:
    """Return the topic that `topic:NAME` or `kafka:NAME` stands for, and its Kafka cluster; None if it is neither."""
    kind, colon, topic = to.partition(":")
    if not colon or kind not in {"topic", "kafka"} or topic.startswith("//"):
        return None
    if kind == "topic":
        return topic, None
    return topic, asked_cluster(options, else_servers=_HERE)


def asked_cluster(options: KafkaOptions | None = None, *, else_servers: str | None = None) -> Cluster | None:
    """Return the Kafka cluster that is asked for; None stands for the SQLite log.

    The option comes before the file of --kafka-config, that before the environment, and that before [kafka] in headrace.toml.
    """
    options = options or KafkaOptions()
    in_file = properties_of_file(options.kafka_config, os.environ) if options.kafka_config is not None else []
    in_table = properties_of_table(table_of_settings("kafka"), f"[kafka] in {settings_file()}", settings_file().parent, os.environ)
    option = [Property(SERVERS, options.kafka_servers, "--kafka-servers")] if options.kafka_servers is not None else []
    variables = [Property(SERVERS, os.environ[name], f"environment {name}") for name in SERVER_VARIABLES if os.environ.get(name)]
    # A variable that is set and empty asks for the SQLite log, whatever the table says.
    tabled = [] if any(name in os.environ for name in SERVER_VARIABLES) else _named_so(SERVERS, in_table)
    asked = [*option, *_named_so(SERVERS, in_file), *variables, *tabled]
    if not asked and else_servers is None:
        if options.kafka_config is not None:
            fix = f"give --kafka-servers HOST:PORT, or write {SERVERS} there"
            raise PlanError("names no servers", where=f"--kafka-config {options.kafka_config}", fix=fix)
        return None
    servers = asked[0] if asked else Property(SERVERS, else_servers or "", "default")
    addresses(servers.value, servers.place)
    properties = {one.name: one for one in [*in_table, *properties_of_environment(os.environ), *in_file] if one.name != SERVERS}
    return Cluster(",".join(part.strip() for part in servers.value.split(",")), tuple(properties.values()), servers.place)


def _named_so(name: str, properties: Sequence[Property]) -> list[Property]:
    return [one for one in properties if one.name == name]


def addresses(servers: str, place: str) -> list[tuple[str, int]]:
    """Return hosts and ports. Raises PlanError, blaming `place`, if they cannot be read."""
    found = []
    for one in servers.split(","):
        match = _ADDRESS.fullmatch(one.strip())
        if not match or not 0 < int(match[3]) < 1 << 16:
            raise PlanError(f"{one.strip()!r} is not HOST:PORT", where=place, fix="write localhost:9092, or several with commas between")
        found.append((match[1] or match[2], int(match[3])))
    return found
