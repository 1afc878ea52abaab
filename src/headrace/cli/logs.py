"""From the command line's options and the environment to a log: the SQLite file of the home, or Kafka."""

from __future__ import annotations

import os
import re

from headrace.cli.apps import home
from headrace.errors import PlanError
from headrace.topics.protocol import Log

__all__ = ["LOG_FILE", "PREFIX_VARIABLE", "SERVER_VARIABLES", "NoLogYet", "addresses", "asked_servers", "asked_topic", "kafka_servers", "open_log"]

LOG_FILE = "log.db"
PREFIX_VARIABLE = "HEADRACE_TOPIC_PREFIX"
SERVER_VARIABLES = ("KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):(\d{1,5})")


class NoLogYet(PlanError):
    """The home has no log, and there is no reason to make one."""


def open_log(servers: str | None = None, *, create: bool = True) -> Log:
    """Return the log that the command line and the environment ask for.

    Parameters
    ----------
    servers
        What `--kafka-servers` says, if it was given.
    create
        Whether to make the SQLite log if there is none.

    Raises
    ------
    NoLogYet
        If there is no SQLite log, and `create` is not set.
    PlanError
        If the servers are no addresses.
    EnvironmentFault
        If the log cannot be opened.
    """
    found = kafka_servers(servers)
    if found is not None:
        from headrace.topics.kafka import KafkaLog

        return _named(KafkaLog(found, folder=home()))
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


def asked_topic(to: str, servers: str | None) -> tuple[str, str | None] | None:
    """Return the topic that `topic:NAME` or `kafka:NAME` stands for, and its Kafka servers; None if it is neither."""
    kind, colon, topic = to.partition(":")
    if not colon or kind not in {"topic", "kafka"} or topic.startswith("//"):
        return None
    return topic, (servers or os.environ.get("KAFKA_SERVERS") or "127.0.0.1:9092") if kind == "kafka" else None


def asked_servers(given: str | None) -> tuple[str, str] | None:
    """Return where Kafka was asked for, and what was said there; None where it was not."""
    if given is not None:
        return "--kafka-servers", given
    return next(((f"environment {name}", os.environ[name]) for name in SERVER_VARIABLES if os.environ.get(name)), None)


def kafka_servers(given: str | None) -> str | None:
    """Return the Kafka servers that are asked for, as Kafka's clients take them; None stands for the SQLite log."""
    asked = asked_servers(given)
    if asked is None:
        return None
    place, text = asked
    addresses(text, place)
    return ",".join(part.strip() for part in text.split(","))


def addresses(servers: str, place: str) -> list[tuple[str, int]]:
    """Return hosts and ports. Raises PlanError, blaming `place`, if they cannot be read."""
    found = []
    for one in servers.split(","):
        match = _ADDRESS.fullmatch(one.strip())
        if not match or not 0 < int(match[3]) < 1 << 16:
            raise PlanError(f"{one.strip()!r} is not HOST:PORT", where=place, fix="write localhost:9092, or several with commas between")
        found.append((match[1] or match[2], int(match[3])))
    return found
