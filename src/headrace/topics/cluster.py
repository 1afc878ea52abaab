"""A Kafka cluster: where its brokers listen, and with what properties clients connect to it.

Properties are librdkafka's, by its own names. They come from files, which are TOML or lines of NAME=VALUE, and from the environment.
A value may name a secret instead of holding it: `${NAME}` stands for a variable of the environment, `file:PATH` for a file's content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from headrace.errors import PlanError

__all__ = ["SERVERS", "Cluster", "Property", "properties_of_environment", "properties_of_file", "properties_of_table"]

SERVERS = "bootstrap.servers"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_FAMILIES = ("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_")
_ALONE = ("KAFKA_CLIENT_ID", "KAFKA_CLIENT_RACK", "KAFKA_ENABLE_SSL_CERTIFICATE_VERIFICATION")

_ONCE = "headrace sets it so that each record counts exactly once"
_OURS = "headrace sets it for its own errors and limits"
_REFUSED = {
    **dict.fromkeys(
        [
            "acks", "request.required.acks", "allow.auto.create.topics", "auto.commit.enable", "auto.commit.interval.ms", "auto.offset.reset",
            "delivery.timeout.ms", "enable.auto.commit", "enable.auto.offset.store", "enable.gapless.guarantee", "enable.idempotence",
            "enable.partition.eof", "group.id", "group.instance.id", "group.protocol", "isolation.level", "message.timeout.ms", "transactional.id",
        ],
        _ONCE,
    ),
    **dict.fromkeys(
        [
            "debug", "delivery.report.only.error", "log.queue", "log.thread.name", "log_level", "queue.buffering.max.kbytes",
            "queue.buffering.max.messages", "statistics.interval.ms",
        ],
        _OURS,
    ),
}  # fmt: skip
_ELSEWHERE = {
    "metadata.broker.list": f"write {SERVERS}",
    "sasl.jaas.config": "write sasl.username and sasl.password",
    "ssl.truststore.location": "write ssl.ca.location, a PEM file",
    "ssl.truststore.certificates": "write ssl.ca.pem",
    "ssl.keystore.certificate.chain": "write ssl.certificate.pem",
    "ssl.keystore.key": "write ssl.key.pem",
}


class Property(NamedTuple):
    """A property of Kafka's clients, and the place that it comes from."""

    name: str
    value: str
    place: str


@dataclass(frozen=True)
class Cluster:
    """A Kafka cluster. Values of properties, which may be secret, are never shown.

    Attributes
    ----------
    servers
        HOST:PORT of some brokers, with commas between several.
    properties
        What clients connect with, by librdkafka's names, each name once.
    asked
        Where the servers were named.
    """

    servers: str
    properties: tuple[Property, ...] = field(default=(), repr=False)
    asked: str = field(default="the servers", compare=False)

    @property
    def settings(self) -> dict[str, str]:
        """The properties as clients take them."""
        return {one.name: one.value for one in self.properties}

    def place(self, *names: str) -> str:
        """Return the place that properties come from, to be named in an error."""
        places = [one.place for one in self.properties if one.name in names] or [one.place for one in self.properties]
        return ", ".join(dict.fromkeys(places)) or "--kafka-config FILE"

    def without_secrets(self, text: str) -> str:
        """Return a text without the values of properties that may be secret."""
        for one in self.properties:
            if len(one.value) > 3 and any(part in one.name for part in ("password", "secret", "key", "username", "token", "pem", "config")):
                text = text.replace(one.value, "***")
        return text


def properties_of_file(path: Path, environment: Mapping[str, str]) -> list[Property]:
    """Return the properties of a file: TOML if it is called so, else lines of NAME=VALUE.

    Raises
    ------
    PlanError
        If it cannot be read, or a property is refused.
    """
    place = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PlanError(f"cannot be read: {said}", where=f"--kafka-config {place}", fix="name a file with Kafka's properties") from None
    if path.suffix.lower() != ".toml":
        return _checked(_lines(text, place), path.parent, environment)
    try:
        table = msgspec.toml.decode(text)
    except msgspec.DecodeError as error:
        raise PlanError(f"is not TOML: {error}", where=place, fix='write security.protocol = "SASL_SSL", say') from None
    own = table.get("kafka")
    return properties_of_table(own if isinstance(own, dict) else table, place, path.parent, environment)


def properties_of_table(table: Mapping[str, Any], place: str, folder: Path, environment: Mapping[str, str]) -> list[Property]:
    """Return the properties of a TOML table; names of secrets' files are relative to a folder."""
    return _checked(_flat(table, "", place), folder, environment)


def properties_of_environment(environment: Mapping[str, str]) -> list[Property]:
    """Return what KAFKA_SECURITY_…, KAFKA_SASL_…, KAFKA_SSL_… and a few others say. What else begins with KAFKA_ is for others."""
    named = [name for name in environment if name.startswith(_FAMILIES) or name in _ALONE]
    found = [Property(_dotted(name), environment[name], f"environment {name}") for name in sorted(named) if environment[name]]
    return _checked(found, Path(), environment)


def _dotted(name: str) -> str:
    return name.removeprefix("KAFKA_").lower().replace("_", ".")


def _lines(text: str, place: str) -> Iterator[Property]:
    for number, line in enumerate(text.splitlines(), 1):
        if not (bare := line.strip()) or bare[0] in "#!":
            continue
        name, equals, value = bare.partition("=")
        if not equals:
            raise PlanError("is not NAME=VALUE", where=f"{place} line {number}", fix="write security.protocol=SASL_SSL, say")
        yield Property(name.strip(), value.strip(), place)


def _flat(table: Mapping[str, Any], before: str, place: str) -> Iterator[Property]:
    for key, value in table.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.", place)
        elif isinstance(value, bool):
            yield Property(name, str(value).lower(), place)
        elif isinstance(value, (str, int, float)):
            yield Property(name, str(value), place)
        else:
            raise PlanError(f"{name} is not a text, a number, true or false", where=place, fix="write one value for each property")


def _checked(found: Iterable[Property], folder: Path, environment: Mapping[str, str]) -> list[Property]:
    by_name: dict[str, Property] = {}
    for one in found:
        if one.name in _REFUSED:
            raise PlanError(f"Kafka's property {one.name} cannot be set: {_REFUSED[one.name]}", where=one.place, fix="leave it out")
        if one.name in _ELSEWHERE:
            raise PlanError(f"{one.name} is not a property of librdkafka, which headrace uses", where=one.place, fix=_ELSEWHERE[one.name])
        if one.name in by_name:
            raise PlanError(f"Kafka's property {one.name} is there twice", where=one.place, fix="leave one of them out")
        by_name[one.name] = one._replace(value=_revealed(one, folder, environment))
    return list(by_name.values())


def _revealed(one: Property, folder: Path, environment: Mapping[str, str]) -> str:
    """Return a property's value, read from where it says that it is."""

    def variable(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise PlanError(f"{one.name} names ${{{match[1]}}}, which is not set", where=one.place, fix=f"set {match[1]} in the environment")
        return environment[match[1]]

    # What stands in the environment is the value itself: a password may contain anything.
    value = one.value if one.place.startswith("environment ") else _VARIABLE.sub(variable, one.value)
    if not one.value.startswith("file:"):
        return value
    path = folder / value.removeprefix("file:")
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PlanError(
            f"{one.name} names the file {path}, which cannot be read: {said}", where=one.place, fix="name a file with the value"
        ) from None
