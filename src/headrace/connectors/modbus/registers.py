"""The register map: which registers of which devices are which tags. A CSV file, whose mistakes are all told at once."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from headrace._toml import read_text
from headrace.errors import Mistakes, PlanError, near

__all__ = ["COLUMNS", "TABLES", "TYPES", "Register", "load"]

TABLES: Final = ("coil", "discrete", "input", "holding")
TYPES: Final = {
    "bool": 1,
    "int16": 1,
    "uint16": 1,
    "int32": 2,
    "uint32": 2,
    "int64": 4,
    "uint64": 4,
    "float32": 2,
    "float64": 4,
    "string": 0,
}
"""How many registers a value of each type has; that of a string is its `length`."""

COLUMNS: Final = (
    *("tag", "host", "unit_id", "table", "address", "type", "word_order", "byte_order"),
    *("bit", "length", "scale", "offset", "deadband", "unit"),
)
_NEEDED = ("tag", "table", "address", "type")
_PORT = 502

_T = TypeVar("_T")


class Register(NamedTuple):
    """A tag and where its value is.

    Attributes
    ----------
    host, port, unit_id
        The device, or the gateway to it.
    table
        Coil, discrete, input or holding.
    address
        As in the request: the first is 0.
    size
        How many registers, coils or discrete inputs the value has.
    low_word_first, low_byte_first
        The order of words in the value and of bytes in each word.
    bit
        Which bit of a register a truth value is, 0 the lowest; None for others.
    scale, offset
        The value is raw · scale + offset.
    deadband
        With `report=changes`: smaller changes are not reported; None: as the address says.
    unit
        A UNECE code.
    """

    tag: str
    host: str
    port: int
    unit_id: int
    table: str
    address: int
    type: str
    size: int = 1
    low_word_first: bool = False
    low_byte_first: bool = False
    bit: int | None = None
    scale: float | None = None
    offset: float | None = None
    deadband: float | None = None
    unit: str | None = None


class _Wrong(Exception):
    """A cell that is wrong, with a fix."""


class _Row:
    """A line of the map, with what is wrong in it."""

    def __init__(self, where: str, cells: Mapping[str, str]) -> None:
        self._where, self._cells = where, cells
        self.mistakes: list[PlanError] = []

    def wrong(self, column: str, what: str, fix: str | None = None) -> None:
        """Note a mistake."""
        self.mistakes.append(PlanError(what, where=f"{self._where}, column {column}", fix=fix))

    def text(self, column: str) -> str:
        """Return a cell's text; empty if it has none."""
        return self._cells.get(column, "")

    def get(self, column: str, read: Callable[[str], _T], default: _T) -> _T:
        """Return a cell as a value; the default if it is empty, or wrong, which is noted."""
        text = self.text(column)
        if not text:
            return default
        try:
            return read(text)
        except _Wrong as error:
            self.wrong(column, *error.args)
            return default


def load(path: Path, host: tuple[str, int] | None = None, unit_id: int = 1) -> list[Register]:
    """Return the registers of a map.

    Parameters
    ----------
    path
        The file.
    host
        Host and port of the registers whose line names none.
    unit_id
        The unit of those whose line names none.

    Raises
    ------
    PlanError
        If it cannot be read or has mistakes: all of them, with line and column.
    """
    registers, mistakes = parse(read_text(path), str(path), host, unit_id)
    Mistakes.report(mistakes)
    return registers


def parse(text: str, file: str, host: tuple[str, int] | None = None, unit_id: int = 1) -> tuple[list[Register], list[PlanError]]:
    """Return the registers of a map's text, and its mistakes."""
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        rows = [(lines.line_num, cells) for cells in lines if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        return [], [PlanError(f"is not CSV: {error}", where=f"{file} line {lines.line_num}", fix="fix this line")]
    if mistakes := list(_wrong_header(header, f"{file} line 1")):
        return [], mistakes
    registers, places = [], dict[str, int]()
    for line, cells in rows:
        row = _Row(f"{file} line {line}", dict(zip(header, (cell.strip() for cell in cells), strict=False)))
        if len(cells) > len(header):
            row.wrong(header[-1], f"{len(cells)} values, and the first line has {len(header)}")
        register = _register(row, host, unit_id)
        if register.tag in places:
            row.wrong("tag", f"{register.tag!r} is on line {places[register.tag]} already")
        places.setdefault(register.tag, line)
        mistakes += row.mistakes
        registers.append(register)
    if not registers:
        mistakes.append(PlanError("has no register", where=file, fix="give a line for each tag"))
    return registers, mistakes


def _wrong_header(header: Sequence[str], where: str) -> Iterator[PlanError]:
    for name in dict.fromkeys(header):
        if name not in COLUMNS:
            yield PlanError(f"unknown column {name!r}", where=where, fix=near(name, COLUMNS))
        elif header.count(name) > 1:
            yield PlanError(f"two columns {name!r}", where=where, fix="remove one")
    for name in _NEEDED:
        if name not in header:
            yield PlanError(f"no column {name!r}", where=where, fix=f"each register needs {', '.join(_NEEDED)}")


def _register(row: _Row, host: tuple[str, int] | None, unit_id: int) -> Register:
    for column in _NEEDED:
        if not row.text(column):
            row.wrong(column, "is empty")
    at = row.get("host", _host, host)
    if at is None:
        row.wrong("host", "is empty, and the address names no host")
    table = row.get("table", _word(TABLES), "holding")
    bits = table in {"coil", "discrete"}
    kind = row.get("type", _word(TYPES), "bool" if bits else "uint16")
    length = row.get("length", _integer(1, 125), 0)
    count = 1 if bits else TYPES[kind] or length
    address = row.get("address", _integer(0, 65_535), 0)
    if not row.mistakes:
        _check(row, kind, address, count, bits=bits)
    return Register(
        row.text("tag"),
        *(at or ("", 0)),
        row.get("unit_id", _integer(0, 255), unit_id),
        table,
        address,
        kind,
        max(count, 1),
        row.get("word_order", _word(("big", "little")), "big") == "little",
        row.get("byte_order", _word(("big", "little")), "big") == "little",
        row.get("bit", _integer(0, 15), None),
        row.get("scale", _number, None),
        row.get("offset", _number, None),
        row.get("deadband", _number, None),
        row.text("unit") or None,
    )


def _check(row: _Row, kind: str, address: int, count: int, *, bits: bool) -> None:
    """Note what does not belong together."""
    if bits and kind != "bool":
        row.wrong("type", f"is {kind}, and a {row.text('table')} is a bool")
    if bits and row.text("bit"):
        row.wrong("bit", f"is only for registers, and a {row.text('table')} is a bit already")
    if not bits and (kind == "bool") != bool(row.text("bit")):
        row.wrong("bit", "is needed for the type bool" if kind == "bool" else f"is only for the type bool, and this is {kind}")
    if (kind == "string") != bool(row.text("length")):
        row.wrong("length", "is needed for the type string" if kind == "string" else f"is only for the type string, and this is {kind}")
    if address + count > 65_536:
        row.wrong("address", f"{address} and {count} registers go beyond 65535")
    for column in ("scale", "offset", "deadband"):
        if row.text(column) and kind in {"bool", "string"}:
            row.wrong(column, f"is only for numbers, and this is {kind}")
    if row.text("word_order") and kind == "string":
        row.wrong("word_order", "is only for numbers, and this is string")


def _word(words: Mapping[str, object] | tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise _Wrong(f"{text!r} is not known", near(text, words))
        return text

    return read


def _integer(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            hint = "addresses count from 0, without the digit of the table" if most == 65_535 else None
            raise _Wrong(f"{text!r} is not a whole number from {least} to {most}", hint)
        return int(text)

    return read


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e300:
        raise _Wrong(f"{text!r} is not a number")
    return number


def _host(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/?#\[\]]+)(?::(\d{1,5}))?", text, re.ASCII)
    port = int(match[2] or _PORT) if match else 0
    if not match or not 0 < port < 65_536:
        raise _Wrong(f"{text!r} is not HOST or HOST:PORT")
    return match[1].strip("[]"), port
