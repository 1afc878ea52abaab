"""Rows of a history as a table of numbers: which columns are tags, which texts are states, and what is normal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from math import isnan, nan
from sys import intern
from typing import Any, NamedTuple

from headrace.errors import DataError, PlanError, near, shortened
from headrace.kernels.reading.rules import double_of
from headrace.plant.quality import is_bad, quality_of_text

__all__ = ["LARGEST", "History", "Span", "Table", "moment_of"]

_TIMES = ("t_stamp", "timestamp", "time", "datetime", "date")
_MOST_STATES = 20
_LEAST_ROWS = 20  # with fewer, that a column is constant means nothing
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999  # of the years 1 to 9999
LARGEST = 1e100
"""Values that are larger are missing in a history: no square of them overflows."""
_UNITS = ((10**17, 1_000_000), (10**14, 1000), (10**11, 1))  # from which number on a time is in ns, µs and ms; below: seconds


class Span(NamedTuple):
    """A stretch of time, both ends in ms since the epoch and part of it."""

    start: int
    end: int
    name: str = ""


class Table(NamedTuple):
    """A history: a value for each time and tag, NaN where it is missing.

    `states` has the texts of tags that are states, `left_out` the columns that are no tags, with the reason, and `excluded` the number of rows that
    are not normal.
    """

    tags: tuple[str, ...]
    times: list[int]
    values: list[list[float]]
    states: dict[str, tuple[str, ...]]
    left_out: dict[str, str]
    excluded: int

    def missing(self) -> dict[str, int]:
        """Return how many values are missing, by tag."""
        counts = {tag: sum(isnan(row[place]) for row in self.values) for place, tag in enumerate(self.tags)}
        return {tag: count for tag, count in counts.items() if count}


class History:
    """Collects rows: either a column for each tag, or readings with `tag`, `value` and, if there is one, `quality`.

    Parameters
    ----------
    time
        The column with the time; by default the first of t_stamp, timestamp, time, datetime and date that there is.
    values
        A column with an object of all tags.
    only
        What columns must be for a row to count.

    Attributes
    ----------
    repeated
        How many rows had a time that there was already, and were left out.
    """

    def __init__(self, *, time: str | None = None, values: str | None = None, only: Mapping[str, str] | None = None) -> None:
        self._time, self._values, self._only = time, values, dict(only or {})
        self._places: dict[str, int] = {}  # of columns
        self._rows: dict[int, list[Any]] = {}
        self._other: Mapping[str, Any] | None = None  # the first row that is not one of `only`
        self.repeated = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Add a row. Raises DataError if it has no time."""
        if any(str(row.get(name)) != text for name, text in self._only.items()):
            self._other = self._other or row
            return
        moment = self._moment(row, where)
        if self._values is not None:
            fields = row.get(self._values)
            self._put(moment, fields if isinstance(fields, Mapping) else {})
        elif isinstance(row.get("tag"), str) and "value" in row:
            self._set(self._rows.setdefault(moment, []), {row["tag"]: None if _is_bad(row.get("quality")) else row["value"]})
        else:
            self._put(moment, {name: value for name, value in row.items() if name != self._time and name not in self._only})

    def _moment(self, row: Mapping[str, Any], where: str) -> int:
        """Return a row's time. The first row says in which column it is, if nobody has."""
        if self._time is None:
            self._time = next((name for name in _TIMES if name in row), None)
        if self._time is None or self._time not in row:
            what = "has no column with a time" if self._time is None else f"has no time in column {self._time!r}"
            raise DataError(what, where=where, fix=f"name it: --time; {near(self._time or 'time', row)}")
        moment = moment_of(row[self._time])
        if moment is None:
            what = f"{shortened(str(row[self._time]))!r} is not a time"
            raise DataError(what, where=f"{where}, column {self._time}", fix="write ISO 8601, or a number of s, ms, µs or ns since 1970")
        return moment

    def _put(self, moment: int, fields: Mapping[str, Any]) -> None:
        if moment in self._rows:
            self.repeated += 1
        else:
            self._set(self._rows.setdefault(moment, []), fields)

    def _set(self, row: list[Any], fields: Mapping[str, Any]) -> None:
        """Put fields into a row, which has a place for each column so far."""
        for name, value in fields.items():
            place = self._places.setdefault(name, len(self._places))
            if place >= len(row):
                row += [None] * (len(self._places) - len(row))
            row[place] = _read(value)

    def table(
        self,
        *,
        tags: Sequence[str] = (),
        without: Collection[str] = (),
        normal: Sequence[Span] = (),
        labels: Sequence[Span] = (),
        changing: float = 1.0,
    ) -> Table:
        """Return the normal rows in the order of time.

        Parameters
        ----------
        tags
            The tags; by default all columns that are numbers or states.
        without
            Columns that are no tags.
        normal
            When operation was normal; by default always.
        labels
            When it was not.
        changing
            Tags that are constant in this share of the rows, the first ones, are left out; 0: none is.

        Raises
        ------
        DataError
            If there are no rows or tags, or a tag that was named cannot be used.
        PlanError
            If a tag is not there, or no label or no normal stretch is within the history.
        """
        if not self._rows:
            raise self._empty()
        kept = self._normal(normal, labels)
        rows = [self._rows[time] for time in kept]
        usable, left_out = _usable(rows, self._wanted(tags, without), changing if len(rows) >= _LEAST_ROWS else 0.0)
        if tags and left_out:
            name, why = next(iter(left_out.items()))
            raise DataError(f"column {name!r} cannot be used: {why}", where="--tags", fix="leave it out")
        if not usable:
            raise self._without_tags(left_out)
        values = [list(row) for row in zip(*(column for column, _ in usable.values()), strict=True)]
        states = {name: texts for name, (_, texts) in usable.items() if texts}
        return Table(tuple(usable), kept, values, states, left_out, len(self._rows) - len(kept))

    def _normal(self, normal: Sequence[Span], labels: Sequence[Span]) -> list[int]:
        """Return the times of the normal rows."""
        times = sorted(self._rows)
        _check_spans(labels, times, "--labels")
        _check_spans(normal, times, "--normal")
        kept = [time for time in times if (not normal or _within(time, normal)) and not _within(time, labels)]
        if not kept:
            raise DataError("no row of the history is normal", where="fit", fix="widen --normal, or give a history that is not labelled throughout")
        if len(times) < _LEAST_ROWS and self.repeated:
            what = f"{len(times) + self.repeated} rows have only {len(times)} different times"
            raise DataError(what, where="fit", fix="name the column with the time: --time; or the rows of one asset: --only")
        return kept

    def _wanted(self, tags: Sequence[str], without: Collection[str]) -> dict[str, int]:
        """Return the places of the columns that may be tags."""
        names = list(self._places)
        for name in (*tags, *without):
            if name not in names:
                raise PlanError(f"there is no column {name!r}", where="--tags" if name in tags else "--without", fix=near(name, names))
        return {name: self._places[name] for name in tags or [name for name in names if name not in without]}

    def _without_tags(self, left_out: Mapping[str, str]) -> DataError:
        """Return why no column is a tag."""
        if not self._places and self._values is not None:
            return DataError(f"no row has an object in column {self._values!r}", where="--values", fix="name the column with the object of all tags")
        fix = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:5])
        return DataError("no column is a tag", where="fit", fix=fix or None)

    def _empty(self) -> DataError:
        """Return why there are no rows."""
        if self._other is None:
            return DataError("the history has no rows", where="fit", fix="name a file with rows: --input")
        wanted, other = ", ".join(f"{name}={text}" for name, text in self._only.items()), self._other
        unknown = next((name for name in self._only if name not in other), None)
        if unknown is not None:
            return DataError(f"the first row has no column {unknown!r}", where="--only", fix=near(unknown, other))
        first = ", ".join(f"{name}={shortened(str(other[name]))}" for name in self._only)
        return DataError(f"no row has {wanted}", where="--only", fix=f"the first row has {first}")


def _usable(
    rows: Sequence[Sequence[Any]], places: Mapping[str, int], changing: float
) -> tuple[dict[str, tuple[list[float], tuple[str, ...]]], dict[str, str]]:
    """Return the columns that are tags, each with its states, and the others with the reason."""
    usable, left_out = dict[str, tuple[list[float], tuple[str, ...]]](), dict[str, str]()
    first = max(len(rows) - int(len(rows) * (1 - changing)), 1)
    for name, place in places.items():
        found, texts, why = _column([row[place] if place < len(row) else None for row in rows])
        if why is None and changing and len({one for one in found[:first] if not isnan(one)}) <= 1:
            why = "constant"
        if why is None:
            usable[name] = found, texts
        else:
            left_out[name] = why
    return usable, left_out


def _read(value: object) -> float | str | None:
    """Return a value as a number, or as the text of a state; None if it is missing."""
    if isinstance(value, str):
        number = double_of(value)
        return _read(number) if number is not None else None if quality_of_text(value) else intern(value)
    if isinstance(value, int | float | Decimal) and -LARGEST <= value <= LARGEST:
        return float(value)
    return None


def _is_bad(quality: object) -> bool:
    """Whether a quality, a number or its text as in CSV files, is bad."""
    number = double_of(quality) if isinstance(quality, str) else quality
    return isinstance(number, int | float) and is_bad(int(number))


def _column(given: Sequence[float | str | None]) -> tuple[list[float], tuple[str, ...], str | None]:
    """Return the numbers of a column, the texts that are states, and why it is not a tag."""
    texts = {one for one in given if isinstance(one, str)}
    numbers = sum(isinstance(one, float) for one in given)
    if texts and numbers:
        if sum(isinstance(one, str) for one in given) > numbers / 10:
            return [], (), f"both numbers and texts, such as {shortened(min(texts))!r}"
        texts = set()
    if len(texts) > _MOST_STATES:
        return [], (), f"{len(texts)} different texts"
    states = {text: float(number) for number, text in enumerate(sorted(texts))}
    found = [nan if one is None else states.get(one, nan) if isinstance(one, str) else one for one in given]
    if all(map(isnan, found)):
        return [], (), "no values"
    return found, tuple(states), None


def moment_of(given: object) -> int | None:
    """Return a time in ms since the epoch: ISO 8601, UTC unless it says otherwise, or a number of s, ms, µs or ns; None if it is not a time."""
    moment = _moment_of(given)
    return moment if moment is not None and _FIRST <= moment <= _LAST else None


def _moment_of(given: object) -> int | None:
    if isinstance(given, datetime):
        return round((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(given, str):
        number = double_of(given)
        if number is None:
            try:
                return _moment_of(datetime.fromisoformat(given.strip()))
            except ValueError:
                return None
        given = int(given) if given.strip().isdigit() else number
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < _UNITS[0][0] * 1000:
        return None
    for least, parts in _UNITS:
        if given >= least:
            return int(given // parts)
    return round(given * 1000)


def _within(time: int, spans: Iterable[Span]) -> bool:
    return any(span.start <= time <= span.end for span in spans)


def _check_spans(spans: Sequence[Span], times: Sequence[int], where: str) -> None:
    """Raise PlanError if there are spans, and none of them is within the history."""
    if spans and not any(span.start <= times[-1] and span.end >= times[0] for span in spans):
        first, last = (
            datetime.fromtimestamp(time / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") for time in (times[0], times[-1])
        )
        raise PlanError(f"no part of it is within the history, which is from {first} to {last}", where=where, fix="are the times in the same zone?")
