"""Which tag a name of an outside system is, by the parameter `tags=FILE` of an address, and whether its unit is that of the list."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from headrace.plant.reading import Reading, reading_of
from headrace.plant.tags import Tag, Tags, load
from headrace.plant.units import UNITS, is_unit, unit_code

__all__ = ["Strangers", "Units", "reading_as", "tag_of", "tags_of"]

_MOST_TOLD = 5
_MOST_TAGS = 100_000
_CUT = 200


def tags_of(path: str | None) -> Tags | None:
    """Return the tags of a list, if an address names one. Raises PlanError if it has mistakes."""
    return None if path is None else load(path)


def tag_of(tags: Tags | None, source: str) -> Tag | None:
    """Return the tag whose address in the source, path or spelling is this one."""
    return None if tags is None else tags.by_source(source) or tags.named(source)


def reading_as(tag: Tag | None, source: str) -> Callable[..., Reading]:
    """Return what makes readings of a tag as `Tag.reading` does; without a tag they have the name of the outside system."""
    return partial(reading_of, source) if tag is None else tag.reading


class _Sparing:
    """Tells the first few lines, and of the others how many there were, each time their number has doubled."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._count, self._told = 0, _MOST_TOLD

    def note(self, line: str, many: Callable[[int], str], *, last: bool = False) -> None:
        """Tell a line, or what `many` makes of the number of lines; of the last one in any case."""
        self._count += 1
        if self._count <= _MOST_TOLD:
            self._tell(line)
        elif last or self._count >= 2 * self._told:
            self._told = self._count
            self._tell(many(self._count))


class Strangers:
    """Names that no tag of a list has. Reports the first few, each once, and then how many there were, each time the number has doubled.

    Parameters
    ----------
    tell
        Is given a line.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._sparing = _Sparing(tell)
        self._known: set[int] = set()  # hashes: a name may be long, and whoever publishes chooses it

    def note(self, name: str) -> None:
        """Note a name; of more than so many only the first are."""
        known, which = self._known, hash(name)
        if which in known or len(known) >= _MOST_TAGS:
            return
        known.add(which)
        full = len(known) == _MOST_TAGS
        self._sparing.note(
            f"{name[:_CUT]!r} is in no tag of the list; its readings have this name as their tag",
            lambda count: f"{count:,} names{' or more' if full else ''} so far are in no tag of the list; the last: {name[:_CUT]!r}",
            last=full,
        )


class Units:
    """The units in which tags come. Reports a tag once whose unit is not the list's, or has changed; of many only their number.

    Parameters
    ----------
    tell
        Is given a line.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._sparing = _Sparing(tell)
        self._last: dict[str, str] = {}

    def known(self, tag: Tag | None, name: str, unit: str | None) -> str | None:
        """Return the code of the unit in which a value came, by its code or symbol; note whether it is that of the list.

        An empty text, as many servers have it where nobody entered a unit, is none. Of a long text only the beginning is taken.
        """
        if unit is None or not (unit := unit.strip()[:_CUT]):
            return None
        path = name if tag is None else tag.path
        last = self._last.get(path)
        if last != unit:
            if last is not None or len(self._last) < _MOST_TAGS:
                self._last[path] = unit
            self._compare(path, None if tag is None else tag.unit, last, unit)
        return unit_code(unit)

    def _compare(self, path: str, wanted: str | None, last: str | None, unit: str) -> None:
        if last is not None and unit_code(last) == unit_code(unit):
            return
        if wanted is None:
            if last is not None:
                self._report(f"{path} comes in {_shown(unit)}, before in {_shown(last)}; give its unit in a list of tags to refuse another one")
        elif not is_unit(unit, wanted):
            what = f"{path} comes in {_shown(unit)}, and the list of tags says {_shown(wanted)}"
            self._report(f"{what}; its readings are bad and have no value until both agree")
        elif last is not None and not is_unit(last, wanted):
            self._report(f"{path} comes in {_shown(wanted)} again, as the list of tags says")

    def _report(self, line: str) -> None:
        what = "times so far, a tag came in another unit than before or than in the list of tags; the last"
        self._sparing.note(line, lambda count: f"{count:,} {what}: {line}")


def _shown(unit: str) -> str:
    """Return a unit for a message: its code and symbol, or the text as it came."""
    code = unit_code(unit)
    return f"{code} ({UNITS[code]})" if code in UNITS else repr(unit[:40])
