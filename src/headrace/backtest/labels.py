"""Labels: the events of a history that alarms should find, from a CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from headrace._toml import read_text
from headrace.backtest.figures import iso
from headrace.errors import HeadraceError, Mistakes, PlanError, near, shortened

__all__ = ["COLUMNS", "Label", "labels_of"]

COLUMNS = ("start", "end", "name", "tags")
_NEEDED = COLUMNS[:3]


class Label(NamedTuple):
    """An event: from `start` to `end`, both in ms since the epoch and both part of it; its name, and the tags that it concerns."""

    start: int
    end: int
    name: str
    tags: tuple[str, ...] = ()


def labels_of(path: Path) -> list[Label]:
    """Return the labels of a CSV file `start,end,name[,tags]`, by start.

    Times are ISO 8601; a time without a zone is UTC. Tags are separated by blanks or semicolons. Labels may overlap.

    Raises
    ------
    PlanError
        If the file cannot be read, has no header, or lines are wrong: all mistakes are reported, each with its line and column.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    mistakes: list[HeadraceError] = []
    try:
        header = [cell.strip().lower() for cell in next(lines, [])]
        _check_header(header, str(path))
        found = list(_rows(lines, header, str(path), mistakes))
    except csv.Error as error:
        raise PlanError(f"is not CSV: {error}", where=f"{path} line {lines.line_num}", fix="fix this line") from None
    Mistakes.report(mistakes)
    return sorted(found)


def _check_header(header: list[str], path: str) -> None:
    wanted = f"the first line is {','.join(_NEEDED)} or {','.join(COLUMNS)}"
    if not any(header):
        raise PlanError("is empty", where=path, fix=wanted)
    for place, name in enumerate(header, 1):
        if name not in COLUMNS:
            fix = near(name, COLUMNS) if ";" not in name else "separate the columns with commas"
            raise PlanError(f"unknown column {name!r}", where=f"{path} line 1, column {place}", fix=fix)
        if name in header[: place - 1]:
            raise PlanError(f"column {name!r} is there twice", where=f"{path} line 1, column {place}", fix=wanted)
    for name in _NEEDED:
        if name not in header:
            raise PlanError(f"there is no column {name!r}", where=f"{path} line 1", fix=wanted)


def _rows(lines: Iterator[list[str]], header: list[str], path: str, mistakes: list[HeadraceError]) -> Iterator[Label]:
    """Yield the labels, and add the mistakes of each line to `mistakes`."""
    seen: dict[Label, int] = {}
    for cells in lines:
        number: int = lines.line_num  # type: ignore[attr-defined]
        if not any(cell.strip() for cell in cells):
            continue
        try:
            label = _label(cells, header, f"{path} line {number}")
        except PlanError as error:
            mistakes.append(error)
            continue
        if label in seen:
            mistakes.append(PlanError(f"is the same as line {seen[label]}", where=f"{path} line {number}", fix="remove one of them"))
            continue
        seen[label] = number
        yield label


def _label(cells: list[str], header: list[str], where: str) -> Label:
    if len(cells) != len(header):
        raise PlanError(f"has {len(cells)} cells, and the header {len(header)}", where=where, fix='put a text with a comma in quotes: "…"')
    row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    places = {name: f"{where}, column {header.index(name) + 1} ({name})" for name in header}
    start, end = _time(row["start"], places["start"]), _time(row["end"], places["end"])
    if end < start:
        raise PlanError(f"end {row['end']} is before start {row['start']}", where=places["end"], fix="are they swapped?")
    if not row["name"]:
        raise PlanError("the name is empty", where=places["name"], fix="name the event")
    return Label(start, end, row["name"], tuple(tag for tag in re.split(r"[;\s]+", row.get("tags", "")) if tag))


def _time(text: str, where: str) -> int:
    try:
        time = datetime.fromisoformat(text)
        found = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
        iso(found)  # in UTC it must be in the years 1 to 9999 too
    except (ValueError, OverflowError):
        raise PlanError(f"{shortened(text)!r} is no time", where=where, fix="write 2026-01-01T08:30:00Z, or with a zone +01:00") from None
    return found
