"""Modbus TCP: registers of one or many devices, polled at a fixed rate. It only reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.connectors.address import Address
from headrace.connectors.browsing import Browse
from headrace.connectors.modbus.blocks import MOST_WORDS
from headrace.connectors.modbus.polling import Reports
from headrace.connectors.modbus.registers import TABLES, Register, load
from headrace.connectors.modbus.source import Polled
from headrace.connectors.tagged import tags_of
from headrace.errors import PlanError
from headrace.plant.quality import is_bad
from headrace.plant.tags import Tag, csv_of_tags
from headrace.plant.units import UNITS

__all__ = ["TAKES_TAGS", "browse", "source"]

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
    given = _given(address)
    path = given.get("map")
    if path is None:
        raise given.wrong("names no register map")
    return _polled(given, _name(given, path), load(Path(path), _host(given), _unit(given)))


def browse(address: str, ranges: Sequence[str]) -> Browse:
    """Return the registers of a map, or those of ranges such as `holding:0-200`."""
    given = _given(address)
    path = given.get("map")
    if path is not None and ranges:
        raise PlanError("has a map already", where="--range", fix="leave out one of the two")
    if path is not None:
        one = source(address)
        listed = load(Path(path), _host(given), _unit(given))
        return Browse(
            one, lambda _: csv_of_tags(Tag(each.tag, unit=each.unit if each.unit in UNITS else None) for each in listed), lambda: len(listed)
        )
    host = _host(given)
    if host is None:
        raise given.wrong("names no host")
    if not ranges:
        raise PlanError("names no register map", where=given.where, fix="add map=FILE.csv, or --range holding:0-200")
    found = [one for text in ranges for one in registers_in(text, host, _unit(given))]
    return Browse(_polled(given, _name(given, ""), found), lambda seen: _map_of(found, seen), lambda: len(found))


def registers_in(text: str, host: tuple[str, int], unit_id: int) -> list[Register]:
    """Return the registers of a range such as `holding:0-200`. Raises PlanError."""
    match = re.fullmatch(r"(\w+):(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    first, last = (int(match[2]), int(match[3] or match[2])) if match else (0, -1)
    if match is None or match[1] not in TABLES or not first <= last <= 65_535:
        raise PlanError(f"{text!r} is not a range of registers", where="--range", fix=f"write TABLE:FIRST-LAST, with one of {', '.join(TABLES)}")
    kind = "bool" if match[1] in {"coil", "discrete"} else "uint16"
    return [Register(f"{match[1]}/{address}", *host, unit_id, match[1], address, kind) for address in range(first, last + 1)]


def _map_of(registers: Sequence[Register], seen: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a register map of the registers that exist."""
    lines = [
        f"{one.tag},{one.unit_id},{one.table},{one.address},{one.type}"
        for one in registers
        if one.tag in seen and not is_bad(seen[one.tag]["quality"])
    ]
    return "\n".join(["tag,unit_id,table,address,type", *lines, ""])


def _given(address: str) -> Address:
    given = Address(address, _PARAMETERS, _EXAMPLE)
    if given.path.strip("/") or given.user is not None:
        raise given.wrong("has a path or a user, and Modbus has none")
    return given


def _host(given: Address) -> tuple[str, int] | None:
    return (given.host, given.port or 502) if given.host else None


def _unit(given: Address) -> int:
    return int(given.number("unit", 1, 0, 255))


def _polled(given: Address, name: str, registers: Sequence[Register]) -> Polled:
    made: Polled = Polled(
        name,
        registers,
        interval=given.seconds("interval", 1.0, 0.01),
        timeout=given.seconds("timeout", 1.0, 0.01),
        reports=Reports(
            changes=given.choice("report", ("all", "changes")) == "changes",
            deadband=given.number("deadband", 0.0),
            tags=tags_of(given.get("tags")),
            tell=lambda line: made.tell(line),  # noqa: PLW0108  (what the runner sets later)
        ),
        gap=int(given.number("gap", 8, 0, MOST_WORDS)),
        words=int(given.number("block", MOST_WORDS, 4, MOST_WORDS)),
    )
    return made


def _name(given: Address, path: str) -> str:
    """Return what tells one source from another: the host, or the map where that names the hosts."""
    host = f"[{given.host}]" if given.host and ":" in given.host else given.host
    return f"modbus://{host}:{given.port or 502}" if host else f"modbus:{path}"
