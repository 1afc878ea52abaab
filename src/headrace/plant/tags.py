"""The tags of a plant and its asset tree, from a list in one CSV or TOML file.

A CSV file has a column for each attribute of `Tag`; its first line names them. A TOML file has a table `[[tag]]` for each tag.
All mistakes of a file are reported at once, each with its line and column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headrace._toml import read_text
from headrace.errors import HeadraceError, Mistakes, PlanError
from headrace.plant.quality import Quality, is_bad, is_good
from headrace.plant.reading import Reading, reading_of
from headrace.plant.tag_files import COLUMNS, Where, csv_rows, toml_rows
from headrace.plant.tag_rows import NUMBERS, tag_of
from headrace.plant.units import is_unit, unit_code, unit_symbol

__all__ = ["Asset", "Tag", "Tags", "csv_of_tags", "load"]

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
        found, says = toml_rows(text, str(path), mistakes)
        loose = says if loose is None else loose
    else:
        found = list(csv_rows(text, str(path), mistakes))
    tags = [(tag_of(row, where, mistakes), where) for row, where in found]
    _check_unique([(tag, where) for tag, where in tags if tag is not None], bool(loose), mistakes)
    Mistakes.report(mistakes)
    return Tags([tag for tag, _ in tags if tag is not None], loose=bool(loose))


def csv_of_tags(tags: Iterable[Tag]) -> str:
    """Return a list of tags as the text of a CSV file, which `load` reads."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for tag in tags:
        numbers = [getattr(tag, name) for name in NUMBERS]
        shown = ["" if number is None else repr(number) for number in numbers]
        name = "" if tag.name == tag.path.rpartition("/")[2] else tag.name
        writer.writerow([
            tag.path, name, tag.tag_class, tag.unit or "", *shown, tag.interpolation, tag.source or "", "|".join(tag.spellings)
        ])  # fmt: skip
    return out.getvalue()


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
