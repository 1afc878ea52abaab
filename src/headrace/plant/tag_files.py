"""The rows of a list of tags in a CSV or TOML file, each with the places of its columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from headrace._toml import parse_toml
from headrace.errors import HeadraceError, PlanError, near

__all__ = ["COLUMNS", "Where", "csv_rows", "toml_rows"]

COLUMNS = ("path", "name", "class", "unit", "low", "high", "ll", "l", "h", "hh", "deadband", "interpolation", "source", "spellings")
_DELIMITERS = ";\t,"

Where = Callable[[str], str]
"""From the name of a column to its place in the file."""


def csv_rows(text: str, file: str, mistakes: list[HeadraceError]) -> Iterator[tuple[dict[str, Any], Where]]:
    """Yield the rows of a CSV file, each with the places of its columns; what is wrong with a line is added to the mistakes."""
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            number, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if not _check_columns(header, f"{file} line {number}", mistakes):
                    return
                continue
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                where = f"{file} line {number}"
                fix = f"quote a value that contains {delimiter!r}"
                mistakes.append(PlanError(f"has {len(cells)} values, and the first line {len(header)}", where=where, fix=fix))
                continue
            row = {name: value.strip() for name, value in zip(header, cells, strict=False) if value.strip()}
            yield row, _csv_place(file, number)
    except csv.Error as error:
        mistakes.append(PlanError(f"is not CSV: {error}", where=f"{file} line {max(reader.line_num, 1)}", fix="fix this line"))
    if header is None and not mistakes:
        mistakes.append(PlanError("is empty", where=file, fix=f"name the columns in its first line: {', '.join(COLUMNS)}"))


def _csv_place(file: str, line: int) -> Where:
    return lambda column: f"{file} line {line}, column {column}"


def _check_columns(header: Sequence[str], where: str, mistakes: list[HeadraceError]) -> bool:
    """Report columns that a list of tags does not have, and return whether it can be read."""
    for name in header:
        if name and name not in COLUMNS:
            mistakes.append(PlanError(f"unknown column {name!r}", where=where, fix=near(name, COLUMNS)))
        elif name and header.count(name) > 1:
            mistakes.append(PlanError(f"two columns {name!r}", where=where, fix="remove one"))
    if "path" not in header:
        mistakes.append(PlanError("no column 'path'", where=where, fix="each tag needs its place in the asset tree: site/area/line/unit/tag"))
    return "path" in header


def toml_rows(text: str, file: str, mistakes: list[HeadraceError]) -> tuple[list[tuple[dict[str, Any], Where]], bool]:
    """Return the rows of a TOML file, each with the places of its columns, and whether spellings are loose."""
    document, places = parse_toml(text, file)
    known = ("tag", "spellings")
    mistakes += [PlanError(f"unknown key {name!r}", where=places.where((name,)), fix=near(name, known)) for name in document if name not in known]
    says = document.get("spellings", "exact")
    if says not in {"exact", "loose"}:
        mistakes.append(PlanError(f"spellings is {says!r}", where=places.where(("spellings",)), fix='write "exact" or "loose"'))
    rows = document.get("tag", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        mistakes.append(PlanError("'tag' is not a list of tables", where=places.where(("tag",)), fix="write [[tag]] above each tag"))
        return [], False
    found: list[tuple[dict[str, Any], Where]] = []
    for number, row in enumerate(rows):

        def where(column: str, number: int = number) -> str:
            return places.where(("tag", number, column))

        mistakes += [PlanError(f"unknown key {name!r}", where=where(name), fix=near(name, COLUMNS)) for name in row if name not in COLUMNS]
        found.append((row, where))
    return found, says == "loose"
