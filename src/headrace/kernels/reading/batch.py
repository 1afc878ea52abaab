"""A batch of records: as they came, and as they were read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from headrace.kernels.reading.text import in_calendar

_BOM = b"\xef\xbb\xbf"
_BLANK = r"^[ \t\r\x0b\x0c]*$"

__all__ = ["Lines", "Read", "Records", "Rows", "Stamps", "TextLines", "values_of"]


@dataclass(frozen=True, slots=True)
class Stamps:
    """Offsets and times that a log has of its records.

    Attributes
    ----------
    offsets
        Their offsets in the partition.
    arrived_ms
        When the log took them.
    order
        Their place among the records of all partitions that are read together; it never falls within a partition.
    keys
        Their keys, as bytes; None where they were not asked for, or no record has one.
    headers
        Their headers, MAP<STRING, STRING>; None where they were not asked for, or the log has none.
    """

    offsets: pl.Series
    arrived_ms: pl.Series
    order: pl.Series
    keys: pl.Series | None = None
    headers: pl.Series | None = None


class Lines:
    """Records as text, without their line ends.

    Attributes
    ----------
    text
        The records; NULL where one is not UTF-8.
    odd
        The bytes of those that are not UTF-8, by place.
    stamps
        What the log that they come from says of each, if it is one.
    """

    stamps: Stamps | None = None

    def __init__(self, text: pl.Series, odd: Mapping[int, bytes]) -> None:
        self.text, self.odd = text, odd

    @classmethod
    def of(cls, records: Sequence[bytes]) -> Lines:
        """Return a batch of separate records."""
        odd = {}
        texts: list[str | None] = []
        for place, record in enumerate(records):
            try:
                texts.append(record.decode())
            except UnicodeDecodeError:
                texts.append(None)
                odd[place] = record
        return cls(pl.Series("line", texts, dtype=pl.String), odd)

    def __len__(self) -> int:
        return len(self.text)

    def raw(self, place: int) -> str | bytes:
        """Return a record as it came."""
        return self.odd[place] if place in self.odd else str(self.text[place])


class TextLines(Lines):
    """The lines of one text, cut only when a line is asked for; blank ones are no records, unless `records` says how many there are.

    A reader that has found every line of `whole` to be a record says so with `take_whole`, which saves the cutting.
    """

    def __init__(self, whole: bytes, records: int | None = None) -> None:
        self.whole = whole
        self._count = records
        self._every = records is not None

    def take_whole(self, count: int) -> None:
        """Note that there are `count` lines, and none of them is blank."""
        self._count = count

    def __len__(self) -> int:
        return len(self.text) if self._count is None else self._count

    @cached_property
    def _cut(self) -> Lines:
        try:
            lines = Lines(_split(self.whole), {})
        except pl.exceptions.PolarsError:
            lines = Lines.of(self.whole.split(b"\n"))
        if self._every:
            return lines
        if b"\r" in self.whole:
            lines = Lines(lines.text.str.strip_suffix("\r"), {place: line.removesuffix(b"\r") for place, line in lines.odd.items()})
        other = ~lines.text.str.starts_with("{").fill_null(value=True)
        if not lines.text.filter(other).str.contains(_BLANK).any():
            return lines
        kept = ~lines.text.str.contains(_BLANK).fill_null(value=False)
        moved = {int(old): new for new, old in enumerate(kept.arg_true())} if lines.odd else {}
        return Lines(lines.text.filter(kept), {moved[old]: line for old, line in lines.odd.items()})

    @property
    def text(self) -> pl.Series:  # type: ignore[override]
        """The records; NULL where one is not UTF-8."""
        return self._cut.text

    @property
    def odd(self) -> Mapping[int, bytes]:  # type: ignore[override]
        """The bytes of those that are not UTF-8, by place."""
        return self._cut.odd


def _split(text: bytes) -> pl.Series:
    """Return the lines of a text. Raises PolarsError if it is not UTF-8."""
    if b"\0" in text or b"\r" in text or text[:3] == _BOM or text[-1:] in (b"", b"\n"):  # where a table of one column would not be the lines
        return pl.Series("line", [text]).cast(pl.String).str.split("\n").explode()
    return pl.read_csv(text, has_header=False, separator="\0", quote_char=None, empty_string_is_null=False, schema={"line": pl.String})["line"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Records as typed columns."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def raw(self, place: int) -> str:
        """Return a record as one JSON object; what JSON has no form for, as text."""
        row = {column.name: _for_json(values_of(column)[0]) for column in self.frame[place]}
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)


def values_of(column: pl.Series) -> list[Any]:
    """Return a column's values, but the plain numbers behind its times if Python has no time for one of them."""
    if isinstance(column.dtype, pl.Date | pl.Datetime) and not in_calendar(column).all():
        return column.to_physical().to_list()
    return column.to_list()


def _for_json(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case dict():
            return {str(_for_json(key)): _for_json(inner) for key, inner in value.items()}
        case list():
            return [_for_json(inner) for inner in value]
    return value


Records = Lines | Rows


@dataclass(frozen=True, slots=True)
class Read:
    """A batch as read: the rows of the readable records, `@record` being a record's place in the batch; and why not the others."""

    frame: pl.DataFrame
    malformed: dict[int, str]
