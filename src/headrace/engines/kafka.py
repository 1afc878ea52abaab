"""How Kafka's clients in Java, which Flink and Spark have, name what librdkafka's properties say."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.errors import PlanError
from headrace.topics.cluster import Cluster, Property

__all__ = ["java_properties"]

_ALIKE = frozenset(
    [
        "client.dns.lookup", "client.id", "client.rack", "compression.type", "connections.max.idle.ms", "metadata.max.age.ms",
        "reconnect.backoff.max.ms", "reconnect.backoff.ms", "request.timeout.ms", "retry.backoff.max.ms", "retry.backoff.ms",
        "sasl.kerberos.service.name", "security.protocol", "ssl.key.password",
    ]
)  # fmt: skip
_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
_BLOCK = re.compile(r"-----BEGIN [^-]+-----[^-]+-----END [^-]+-----")
_TRUST = ("ssl.ca.location", "ssl.ca.pem")
_CHAIN = ("ssl.certificate.location", "ssl.certificate.pem")
_KEY = ("ssl.key.location", "ssl.key.pem")
_PASSWORD = ("sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password")


def java_properties(cluster: Cluster, engine: str, *, shaded: str = "") -> dict[str, str]:
    """Return the properties of a cluster as clients in Java take them. Certificates go into them, since workers have no such files.

    Parameters
    ----------
    engine
        Flink or Spark: whose connector it is, for errors.
    shaded
        What stands before the names of Kafka's classes in that connector.

    Raises
    ------
    PlanError
        If those clients have no such property.
    """
    by_name = {one.name: one for one in cluster.properties}
    java = {name: by_name.pop(name).value for name in _ALIKE & by_name.keys()}
    if "security.protocol" in java:
        java["security.protocol"] = java["security.protocol"].upper()
    if (algorithm := by_name.pop("ssl.endpoint.identification.algorithm", None)) is not None:
        java["ssl.endpoint.identification.algorithm"] = "" if algorithm.value == "none" else algorithm.value
    found = {names: _first(by_name, names) for names in (_TRUST, _CHAIN, _KEY)}
    if (trust := found[_TRUST]) is not None:
        java |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": _pem(trust)}
    if (chain := found[_CHAIN]) is not None and (key := found[_KEY]) is not None:
        java |= {"ssl.keystore.type": "PEM", "ssl.keystore.certificate.chain": _pem(chain), "ssl.keystore.key": _pem(key)}
    java |= _login({name: by_name.pop(name).value for name in _PASSWORD if name in by_name}, cluster, engine, shaded)
    for one in by_name.values():
        raise PlanError(f"Kafka's property {one.name} is not for {engine}", where=one.place, fix="leave it out, or run on the embedded engine")
    return java


def _first(by_name: dict[str, Property], names: tuple[str, str]) -> Property | None:
    return next((by_name.pop(name) for name in names if name in by_name), None)


def _login(said: dict[str, str], cluster: Cluster, engine: str, shaded: str) -> dict[str, str]:
    mechanism = (said.get("sasl.mechanism") or said.get("sasl.mechanisms") or "").upper()
    if not mechanism:
        return {}
    if mechanism not in _MODULES:
        fix = f"use one of {', '.join(_MODULES)}, or run on the embedded engine"
        raise PlanError(f"sasl.mechanism {mechanism} is not for {engine}", where=cluster.place("sasl.mechanism", "sasl.mechanisms"), fix=fix)
    user, password = (_quoted(said.get(name, "")) for name in ("sasl.username", "sasl.password"))
    login = f"{shaded}{_MODULES[mechanism]} required username={user} password={password};"
    return {"sasl.mechanism": mechanism, "sasl.jaas.config": login}


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pem(one: Property) -> str:
    """Return certificates or a key, each on one line, as Kafka's clients take them too."""
    text = one.value
    if one.name.endswith(".location"):
        try:
            text = Path(one.value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is not PEM"
            raise PlanError(f"{one.name} names {one.value}, which cannot be read: {said}", where=one.place, fix="name a PEM file") from None
    blocks = [" ".join(block.split("\n")).replace("\r", "") for block in _BLOCK.findall(text)]
    if not blocks:
        raise PlanError(f"{one.name} has no certificate or key in PEM form", where=one.place, fix="name a PEM file")
    return " ".join(blocks)
