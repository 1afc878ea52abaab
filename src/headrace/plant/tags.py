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

from headrace._toml import read_text
from headrace.errors import HeadraceError, Mistakes, PlanError
from headrace.plant.tag import Tag
from headrace.plant.tag_files import COLUMNS, Where, csv_rows, toml_rows
from headrace.plant.tag_rows import NUMBERS, tag_of

__all__ = ["Asset", "Tag", "Tags", "csv_of_tags", "load"]


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
