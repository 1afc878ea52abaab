"""Modbus TCP: registers of one or many devices, polled at a fixed rate. It only reads."""

from __future__ import annotations

from pathlib import Path

from headrace.connectors.address import Address
from headrace.connectors.modbus.blocks import MOST_WORDS
from headrace.connectors.modbus.polling import Reports
from headrace.connectors.modbus.registers import load
from headrace.connectors.modbus.source import Polled
from headrace.connectors.tagged import tags_of

__all__ = ["TAKES_TAGS", "source"]

TAKES_TAGS = True
_EXAMPLE = "modbus://192.168.0.10:502?map=registers.csv&interval=1s"
_PARAMETERS = ("map", "tags", "unit", "interval", "timeout", "report", "deadband", "gap", "block")


def source(address: str) -> Polled:
    """Return the registers of a map.

    Raises
    ------
    PlanError
        If the address or the map is wrong: all mistakes of the map at once.
    EnvironmentFault
        If the map cannot be read.
    """
    given = Address(address, _PARAMETERS, _EXAMPLE)
    if given.path.strip("/") or given.user is not None:
        raise given.wrong("has a path or a user, and Modbus has none")
    path = given.get("map")
    if path is None:
        raise given.wrong("names no register map")
    registers = load(Path(path), (given.host, given.port or 502) if given.host else None, int(given.number("unit", 1, 0, 255)))
    return Polled(
        _name(given, path),
        registers,
        interval=given.seconds("interval", 1.0, 0.01),
        timeout=given.seconds("timeout", 1.0, 0.01),
        reports=Reports(
            changes=given.choice("report", ("all", "changes")) == "changes",
            deadband=given.number("deadband", 0.0),
            tags=tags_of(given.get("tags")),
        ),
        gap=int(given.number("gap", 8, 0, MOST_WORDS)),
        words=int(given.number("block", MOST_WORDS, 4, MOST_WORDS)),
    )


def _name(given: Address, path: str) -> str:
    """Return what tells one source from another: the host, or the map where that names the hosts."""
    host = f"[{given.host}]" if given.host and ":" in given.host else given.host
    return f"modbus://{host}:{given.port or 502}" if host else f"modbus:{path}"
