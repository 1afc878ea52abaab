"""Kafka: its brokers answer, and those without a password are not open to the network."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from headrace.cli.checks.brokers import fault_of_connection
from headrace.cli.checks.case import Case, Finding
from headrace.cli.logs import addresses
from headrace.cli.tables import counted

__all__ = ["check_kafka"]


def check_kafka(case: Case) -> Iterator[Finding]:
    """Check the brokers of the cluster that is asked for."""
    kafka = case.kafka
    if kafka is None:
        return
    places = addresses(kafka.servers, kafka.asked)
    faults = {place: fault_of_connection(*place) for place in places}
    for (host, port), fault in faults.items():
        where = f"Kafka {host}:{port}"
        if fault is None:
            yield Finding("ok", where, "takes connections")
        else:
            fix = f"start it, or fix {kafka.asked}"
            yield Finding("FAIL", where, f"cannot be reached: {fault}", fix)
    if all(faults.values()):
        return
    where = f"Kafka {kafka.servers}"
    if isinstance(case.cluster, str):
        what, _, fix = case.cluster.partition("; ")
        yield Finding("FAIL", where, f"takes connections, but says nothing of its topics: {what}", fix or "see that it is Kafka, without TLS")
        return
    yield Finding("ok", where, f"{counted(len(case.cluster.brokers), 'broker')}, {counted(len(case.cluster.topics), 'topic')}")
    if kafka.settings.get("security.protocol", "PLAINTEXT").upper() == "PLAINTEXT":
        yield from _open_brokers(dict.fromkeys([*places, *case.cluster.brokers]))


def _open_brokers(places: Iterable[tuple[str, int]]) -> Iterator[Finding]:
    """Warn of brokers that others on the network can reach: headrace talks to them without TLS or a password, and so can they."""
    for host, port in places:
        where = f"Kafka {host}:{port}"
        outside = _listens_outside(port) if _is_loopback(host) else host
        if outside:
            yield Finding(
                "warn",
                where,
                f"is open to the network at {outside}: PLAINTEXT, without a password",
                "bind it to 127.0.0.1, or shut the port to others",
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listens_outside(port: int) -> str | None:
    """Return where this machine takes connections to a port from others, if it does."""
    for file, size in (("/proc/net/tcp", 4), ("/proc/net/tcp6", 16)):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, _, number = local.partition(":")
                if state != "0A" or int(number, 16) != port:
                    continue
                words = bytes.fromhex(address)
                # The kernel writes words of four bytes in the machine's order.
                raw = b"".join(words[at : at + 4][:: -1 if sys.byteorder == "little" else 1] for at in range(0, size, 4))
                found = ipaddress.ip_address(raw)
                mapped = getattr(found, "ipv4_mapped", None) or found
                if not mapped.is_loopback:
                    return f"{mapped}"
    return None
