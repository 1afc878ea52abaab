"""From a row of a list to a tag; what is wrong with it is reported with its column."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal

from headrace.errors import HeadraceError, PlanError, near
from headrace.plant.tag import Tag
from headrace.plant.tag_files import Where
from headrace.plant.units import UNITS, unit_hint

__all__ = ["NUMBERS", "tag_of"]

NUMBERS = ("low", "high", "ll", "l", "h", "hh", "deadband")
_INTERPOLATIONS = ("stepped", "sloped")


def tag_of(row: Mapping[str, Any], where: Where, mistakes: list[HeadraceError]) -> Tag | None:
    """Return the tag of a row; None if it has no path. What is wrong with it is added to the mistakes."""

    def wrong(column: str, what: str, fix: str) -> None:
        mistakes.append(PlanError(what, where=where(column), fix=fix))

    def text(column: str) -> str:
        value = row.get(column, "")
        if isinstance(value, str):
            return value.strip()
        wrong(column, f"{column} is {value!r}, not a text", 'write it between quotes: "…"')
        return ""

    numbers = {column: None if column not in row else _number(column, row[column], wrong) for column in NUMBERS}
    _check_order(numbers, wrong)
    unit = text("unit") or None
    if unit is not None and unit not in UNITS:
        wrong("unit", f"unknown unit {unit!r}", unit_hint(unit))
    interpolation = text("interpolation") or "sloped"
    if interpolation not in _INTERPOLATIONS:
        wrong("interpolation", f"interpolation is {interpolation!r}", near(interpolation, _INTERPOLATIONS))
    path = text("path")
    fault = _path_fault(path)
    if fault:
        wrong("path", fault, "write site/area/line/unit/tag, or fewer levels")
    stepped: Literal["stepped", "sloped"] = "stepped" if interpolation == "stepped" else "sloped"
    name, tag_class, source = text("name"), text("class"), text("source") or None
    spellings = _spellings(row.get("spellings", ""), wrong)
    if fault:
        return None
    low, high, ll, l, h, hh, deadband = (numbers[column] for column in NUMBERS)  # noqa: E741
    return Tag(path, name, tag_class, unit, low, high, ll, l, h, hh, deadband, stepped, source, spellings)


def _path_fault(path: str) -> str:
    if not path:
        return "no path"
    if any(not part.strip() or part != part.strip() for part in path.split("/")):
        return f"path {path!r} has an empty level, or one with blanks at its ends"
    return "" if path.isprintable() else f"path {path!r} contains a control character"


def _number(column: str, value: object, wrong: Callable[[str, str, str], None]) -> float | None:
    fix = "write digits and a point, such as 12.5, or leave it out"
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (isinstance(value, str) and "_" in value):
        wrong(column, f"{column} is {value!r}, not a number", fix)
        return None
    if column == "deadband" and number < 0:
        wrong(column, f"deadband is {number:g}, less than 0", "write 0 or more")
    return number


def _check_order(numbers: Mapping[str, float | None], wrong: Callable[[str, str, str], None]) -> None:
    """Report a range that is empty, limits outside the range, and limits in the wrong order."""
    given = {column: number for column, number in numbers.items() if number is not None and column != "deadband"}
    low, high = given.get("low", -math.inf), given.get("high", math.inf)
    if low >= high:
        wrong("high", f"high is {high:g}, and low is {low:g}", "high must be greater than low")
        return
    limits = [(column, given[column]) for column in ("ll", "l", "h", "hh") if column in given]
    for column, limit in limits:
        if not low <= limit <= high:
            wrong(column, f"{column} is {limit:g}, outside the range {low:g} to {high:g}", "change the limit, or the range")
    for (before, lower), (after, upper) in pairwise(limits):
        if lower > upper:
            wrong(after, f"{after} is {upper:g}, and {before} is {lower:g}", "the limits rise in the order ll, l, h, hh")


def _spellings(given: object, wrong: Callable[[str, str, str], None]) -> tuple[str, ...]:
    parts = given.split("|") if isinstance(given, str) else given
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        wrong("spellings", f"spellings is {given!r}", 'write "FIT 101|FIT101.Pv", or a list of texts')
        return ()
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
