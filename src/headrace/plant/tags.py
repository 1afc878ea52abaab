"""The tags of a plant and its asset tree, from a list in one CSV or TOML file.

A CSV file has a column for each attribute of `Tag`; its first line names them. A TOML file has a table `[[tag]]` for each tag.
All mistakes of a file are reported at once, each with its line and column.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from headrace._toml import parse_toml, read_text
from headrace.errors import HeadraceError, Mistakes, PlanError, near
from headrace.plant.quality import Quality, is_bad, is_good
from headrace.plant.reading import Reading, reading_of
from headrace.plant.units import UNITS, is_unit, unit_code, unit_hint, unit_symbol

__all__ = ["COLUMNS", "Asset", "Tag", "Tags", "csv_of_tags", "load"]

COLUMNS = ("path", "name", "class", "unit", "low", "high", "ll", "l", "h", "hh", "deadband", "interpolation", "source", "spellings")
_NUMBERS = ("low", "high", "ll", "l", "h", "hh", "deadband")
_INTERPOLATIONS = ("stepped", "sloped")
_DELIMITERS = ";\t,"

Where = Callable[[str], str]
"""From the name of a column to its place in the file."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A measured or set value of a plant.

    Attributes
    ----------
    path
        Its place in the asset tree after ISA-95: site/area/line/unit/tag, or fewer levels.
    name
        What people call it; the last part of the path if there is no other name.
    tag_class
        The class of the sensor or signal, such as temperature; empty if it is unknown. It is never guessed from a name.
    unit
        The code of its unit by UNECE Recommendation 20, such as CEL; None if it has none.
    low, high
        The range of measurement, in its unit. A value outside has uncertain quality.
    ll, l, h, hh
        The limits low-low, low, high and high-high, in its unit.
    deadband
        A change that is smaller is no change, in its unit.
    interpolation
        How values go from one reading to the next: `stepped` if they stay until it, `sloped` if they change evenly.
    source
        Its address in the source: an MQTT topic or `topic#$.json.path`, an OPC UA NodeId, a Modbus register. None if it has none.
    spellings
        Other names under which it comes.
    """

    path: str
    name: str = ""
    tag_class: str = ""
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    ll: float | None = None
    l: float | None = None  # noqa: E741  (so the limit is called)
    h: float | None = None
    hh: float | None = None
    deadband: float | None = None
    interpolation: Literal["stepped", "sloped"] = "sloped"
    source: str | None = None
    spellings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Give it a name."""
        if not self.name:
            object.__setattr__(self, "name", self.path.rpartition("/")[2])

    @property
    def symbol(self) -> str:
        """The symbol of its unit, such as °C; empty if it has none."""
        return "" if self.unit is None else unit_symbol(self.unit)

    def reading(
        self, value: object, arrival_time: int, *, source_time: int | None = None, quality: int = Quality.GOOD, unit: str | None = None
    ) -> Reading:
        """Return a reading of a value as it came, with a quality that the tag list has judged.

        A number outside the range has uncertain quality. A value in another unit than the tag's has bad quality, and no value.

        Parameters
        ----------
        unit
            The unit in which the source measures, if the source says so: its code, or its symbol.

        Raises
        ------
        TypeError
            If the value is none of number, text, truth value and None.
        """
        if unit is not None and self.unit is not None and not is_unit(unit, self.unit):
            quality = quality if is_bad(quality) else Quality.BAD_CONFIGURATION_ERROR
            return reading_of(self.path, None, arrival_time, source_time=source_time, quality=quality, unit=unit_code(unit))
        if is_good(quality) and isinstance(value, (int, float)) and not isinstance(value, bool) and self._is_outside(value):
            quality = Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED
        return reading_of(self.path, value, arrival_time, source_time=source_time, quality=quality, unit=self.unit or unit)

    def _is_outside(self, value: float) -> bool:
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)


@dataclass(slots=True)
class Asset:
    """A node of the asset tree: a site, an area, a line, a unit or a tag.

    Attributes
    ----------
    path
        From the root to here; empty for the root.
    tag
        The tag, if one has this path.
    children
        The nodes under it, by name.
    """

    path: str = ""
    tag: Tag | None = None
    children: dict[str, Asset] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def tags(self) -> Iterator[Tag]:
        """Yield the tags of this node and those under it."""
        if self.tag is not None:
            yield self.tag
        for child in self.children.values():
            yield from child.tags()


class Tags:
    """The tags of a list, found by path, by source and by spelling.

    Parameters
    ----------
    loose
        Whether spellings differ neither by upper and lower case nor by blanks.
    """

    def __init__(self, tags: Iterable[Tag] = (), *, loose: bool = False) -> None:
        self._tags = tuple(tags)
        self.loose = loose
        self._by_path = {tag.path: tag for tag in self._tags}
        self._by_source = {tag.source: tag for tag in self._tags if tag.source is not None}
        self._by_name = {self._as_spelled(spelling): tag for tag in self._tags for spelling in (*tag.spellings, tag.path)}

    def __len__(self) -> int:
        return len(self._tags)

    def __iter__(self) -> Iterator[Tag]:
        return iter(self._tags)

    def by_path(self, path: str) -> Tag | None:
        """Return the tag that has a path."""
        return self._by_path.get(path)

    def by_source(self, source: str) -> Tag | None:
        """Return the tag that has an address in the source."""
        return self._by_source.get(source)

    def named(self, spelling: str) -> Tag | None:
        """Return the tag that has a spelling or a path."""
        return self._by_name.get(self._as_spelled(spelling))

    def of_columns(self, names: Iterable[str]) -> dict[str, Tag | None]:
        """Return the tag of each column: by a spelling or a path, else by a tag's name; None where there is none."""
        called = {tag.name: tag for tag in self._tags}
        return {name: self.named(name) or called.get(name) for name in names}

    @property
    def tree(self) -> Asset:
        """The root of the asset tree, with the nodes in the order of the list."""
        root = Asset()
        for tag in self._tags:
            node = root
            for part in tag.path.split("/"):
                node = node.children.setdefault(part, Asset(f"{node.path}/{part}" if node.path else part))
            node.tag = tag
        return root

    def _as_spelled(self, text: str) -> str:
        return _loosely(text) if self.loose else text


def load(path: str | Path, *, loose: bool | None = None) -> Tags:
    """Return the tags of a list.

    Parameters
    ----------
    path
        A file that ends with .toml, or a CSV file, whose delimiter may also be `;` or a tab.
    loose
        Whether spellings differ neither by upper and lower case nor by blanks. None: as a TOML file says (`spellings = "loose"`), else no.

    Raises
    ------
    PlanError
        If the file cannot be read, or a line of it is wrong. Several mistakes are one error, `Mistakes`.
    """
    path = Path(path)
    mistakes: list[HeadraceError] = []
    text = read_text(path)
    if path.suffix.lower() == ".toml":
        found, says = _toml_rows(text, str(path), mistakes)
        loose = says if loose is None else loose
    else:
        found = list(_csv_rows(text, str(path), mistakes))
    tags = [(_tag(row, where, mistakes), where) for row, where in found]
    _check_unique([(tag, where) for tag, where in tags if tag is not None], bool(loose), mistakes)
    Mistakes.report(mistakes)
    return Tags([tag for tag, _ in tags if tag is not None], loose=bool(loose))


def csv_of_tags(tags: Iterable[Tag]) -> str:
    """Return a list of tags as the text of a CSV file, which `load` reads."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for tag in tags:
        numbers = [getattr(tag, name) for name in _NUMBERS]
        shown = ["" if number is None else repr(number) for number in numbers]
        name = "" if tag.name == tag.path.rpartition("/")[2] else tag.name
        writer.writerow([
            tag.path, name, tag.tag_class, tag.unit or "", *shown, tag.interpolation, tag.source or "", "|".join(tag.spellings)
        ])  # fmt: skip
    return out.getvalue()


# files


def _csv_rows(text: str, file: str, mistakes: list[HeadraceError]) -> Iterator[tuple[dict[str, Any], Where]]:
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


def _toml_rows(text: str, file: str, mistakes: list[HeadraceError]) -> tuple[list[tuple[dict[str, Any], Where]], bool]:
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


# tags


def _tag(row: Mapping[str, Any], where: Where, mistakes: list[HeadraceError]) -> Tag | None:
    """Return the tag of a row; None if it has no path. What is wrong with it is added to the mistakes."""

    def wrong(column: str, what: str, fix: str) -> None:
        mistakes.append(PlanError(what, where=where(column), fix=fix))

    def text(column: str) -> str:
        value = row.get(column, "")
        if isinstance(value, str):
            return value.strip()
        wrong(column, f"{column} is {value!r}, not a text", 'write it between quotes: "…"')
        return ""

    numbers = {column: None if column not in row else _number(column, row[column], wrong) for column in _NUMBERS}
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
    low, high, ll, l, h, hh, deadband = (numbers[column] for column in _NUMBERS)  # noqa: E741
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


def _check_unique(tags: Sequence[tuple[Tag, Where]], loose: bool, mistakes: list[HeadraceError]) -> None:  # noqa: FBT001
    """Report a path, a source or a spelling that two tags have."""
    paths: dict[str, str] = {}
    sources: dict[str, str] = {}
    for tag, where in tags:
        if tag.path in paths:
            mistakes.append(PlanError(f"two tags have the path {tag.path!r}", where=where("path"), fix=f"the other: {paths[tag.path]}"))
        paths.setdefault(tag.path, where("path"))
        if tag.source is not None:
            if tag.source in sources:
                what, fix = f"two tags have the source {tag.source!r}", f"the other: {sources[tag.source]}"
                mistakes.append(PlanError(what, where=where("source"), fix=fix))
            sources.setdefault(tag.source, where("source"))
    owners: dict[str, Tag] = {_loosely(tag.path) if loose else tag.path: tag for tag, _ in reversed(tags)}
    for tag, where in tags:
        for spelling in tag.spellings:
            owner = owners.setdefault(_loosely(spelling) if loose else spelling, tag)
            if owner.path != tag.path:
                what = f"{spelling!r} is a spelling of two tags, {owner.path} and {tag.path}"
                mistakes.append(PlanError(what, where=where("spellings"), fix="remove it from one of them"))


def _loosely(text: str) -> str:
    return "".join(text.split()).casefold()
