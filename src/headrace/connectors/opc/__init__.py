"""OPC UA: variables of a server, by a subscription, with their quality and their source's time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.connectors.address import Address, secret_file
from headrace.connectors.browsing import Browse
from headrace.connectors.tagged import tags_of
from headrace.errors import EnvironmentFault, PlanError
from headrace.plant.tags import Tag, csv_of_tags
from headrace.plant.units import UNITS, unit_code

try:
    from headrace.connectors.opc.security import PARAMETERS, Security
    from headrace.connectors.opc.session import Session
    from headrace.connectors.opc.source import Subscribed
except ModuleNotFoundError as error:
    if error.name is not None and error.name.startswith("headrace"):
        raise
    raise EnvironmentFault("needs the package asyncua", where="the bridge", fix="pip install 'headrace[opcua]'") from None

__all__ = ["TAKES_TAGS", "browse", "source"]

TAKES_TAGS = True

_EXAMPLE = "opc.tcp://192.168.0.10:4840/path?node=ns=2;s=Line1&interval=500ms"
_PARAMETERS = ("node", "tags", "interval", "sampling", "queue", "timeout", "arrays", "password_file", *PARAMETERS)


def source(address: str) -> Subscribed:
    """Return the variables of a server.

    Raises
    ------
    PlanError
        If the address is wrong.
    EnvironmentFault
        If a file or a variable that it names is missing.
    """
    given = Address(address, _PARAMETERS, _EXAMPLE)
    if not given.host or given.scheme != "opc.tcp":
        raise given.wrong("names no server")
    url, make = _session(given)
    interval = given.seconds("interval", 0.5, 0.01, 3600)
    return Subscribed(
        url,
        make,
        node=given.get("node"),
        tags=tags_of(given.get("tags")),
        interval=interval,
        sampling=given.seconds("sampling", min(0.1, interval), 0.001, 3600),
        queue=int(given.number("queue", 100, 1, 1_000_000)),
        expand=given.choice("arrays", ("skip", "expand")) == "expand",
    )


def browse(address: str, ranges: Sequence[str]) -> Browse:
    """Return what a server has."""
    if ranges:
        raise PlanError("is only for modbus", where="--range", fix="leave it out")
    one = source(address)

    def listed(found: Mapping[str, Mapping[str, Any]]) -> str:
        return csv_of_tags(
            node.tag
            or Tag(node.path, unit=code if node.unit and (code := unit_code(node.unit)) in UNITS else None, source=node.id, interpolation="stepped")
            for node in one.nodes
            if node.path in found or node.tag is not None
        )

    return Browse(one, listed, lambda: len(one.nodes))


def _session(given: Address) -> tuple[str, Callable[[], Session]]:
    """Return a server's address without a password, and what makes a session with it."""
    host = f"[{given.host}]" if given.host and ":" in given.host else given.host
    url = f"opc.tcp://{host}:{given.port or 4840}{given.path}"
    security, timeout = Security.of(given), given.seconds("timeout", 4.0, 0.05)
    file = given.get("password_file")
    if (given.password is not None or file is not None) and given.user is None:
        raise given.wrong("has a password and no user")
    password = given.password if file is None else secret_file(file)
    return url, lambda: Session(url, security, given.user, password, timeout)
