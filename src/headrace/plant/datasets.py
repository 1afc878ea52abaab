"""Public data sets of plants, from the files that users hold: samples with all their values, and the spans of attacks and faults.

Each layout is that of the files as they are published. What is not a number stays text; a line that cannot be read is an error of its own.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec

from headrace.errors import EnvironmentFault, PlanError

__all__ = ["FORMATS", "Sample", "Span", "Spans", "Unread", "samples", "windows_of"]


class Sample(NamedTuple):
    """All values of one time, by tag and as texts; and what is marked as abnormal then, empty if nothing is."""

    time_ms: int
    values: Mapping[str, str]
    marks: tuple[str, ...]


class Unread(NamedTuple):
    """A line that could not be read, and why."""

    line: int
    reason: str


class Span(NamedTuple):
    """Something abnormal from `start_ms` to before `end_ms`."""

    start_ms: int
    end_ms: int
    name: str


@dataclass(frozen=True, slots=True)
class _Table:
    """A CSV file with a sample a line: the names of its columns, and how its times are written. The delimiter may be `;`.

    `marks` are the columns that say whether something is abnormal; `left_out` are those that are not tags. `mark` is
    the name of what is marked, if it is not the column's.
    """

    times: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    marks: str = r"(?!)"
    mark: str = ""
    left_out: str = r"(?!)"


_TABLES = {
    "swat": _Table(("timestamp",), ("%d/%m/%Y %I:%M:%S %p",), marks=r"normal/attack", mark="attack"),
    "hai": _Table(("time", "timestamp"), marks=r"attack(_p\d)?"),
    "batadal": _Table(("datetime",), ("%d/%m/%y %H",), marks=r"att_flag", mark="attack"),
    "skab": _Table(("datetime",), marks=r"anomaly", left_out=r"changepoint"),
    "nab": _Table(("timestamp",)),
}
_TEP = [*(f"XMEAS({number})" for number in range(1, 42)), *(f"XMV({number})" for number in range(1, 12))]
_TEP_STEP_MS, _TEP_NORMAL = 180_000, 160
FORMATS = (*_TABLES, "tep")
"""The data sets whose files can be read."""

_DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)$")  # in files whose delimiter is not the comma
_NORMAL = frozenset({"", "0", "0.0", "normal", "-999"})  # BATADAL: -999 where it is not known


def samples(format: str, path: Path, *, zone: tzinfo = UTC, start_ms: int = 0) -> Iterator[Sample | Unread]:
    """Yield the samples of a file, which may be compressed by gzip, and its unreadable lines.

    Parameters
    ----------
    zone
        The time zone of its times.
    start_ms
        The time of the first sample of a Tennessee Eastman file, which has no times.

    Raises
    ------
    PlanError
        If it is not a file of this data set.
    EnvironmentFault
        If it cannot be read.
    """
    try:
        with path.open("rb") as raw, _text(raw) as file:
            if format == "tep":
                yield from _tep(file.read(), path, start_ms)
            else:
                yield from _rows(_TABLES[format], format, file, path, zone)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise EnvironmentFault(f"is damaged: {error}", where=str(path), fix="download or copy it again") from None
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path), fix="name a file that this user may read") from None


def _text(file: io.BufferedReader) -> TextIO:
    content = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
    return io.TextIOWrapper(content, encoding="utf-8-sig", errors="replace", newline="")


def _uncompressed(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".gz" else path


def _header(table: _Table, format: str, file: TextIO, path: Path) -> tuple[list[str], str, int]:
    """Return the names of the columns, the delimiter, and the number of the header's line: SWaT has its stages above it."""
    for number, line in enumerate(iter(file.readline, ""), 1):
        delimiter = max(",;", key=line.count)
        header = _cells(line, delimiter)
        if set(table.times) & {name.lower() for name in header}:
            return header, delimiter, number
    raise PlanError(f"is not a file of {format}", where=str(path), fix=f"name a file whose header has a column {table.times[0]!r}")


def _rows(table: _Table, format: str, file: TextIO, path: Path, zone: tzinfo) -> Iterator[Sample | Unread]:
    header, delimiter, before = _header(table, format, file, path)
    lines = csv.reader(file, delimiter=delimiter)
    lower = [name.lower() for name in header]
    time = next(lower.index(name) for name in table.times if name in lower)
    marks = [place for place, name in enumerate(lower) if re.fullmatch(table.marks, name)]
    tags = [place for place, name in enumerate(lower) if name and place != time and place not in marks and not re.fullmatch(table.left_out, name)]
    _refuse_repeated([header[place] for place in tags], path)
    # A file of NAB is one series, whose name is that of the file.
    names = {place: _uncompressed(path).stem if format == "nab" else header[place] for place in tags}
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield Unread(before + lines.line_num, str(error))
            continue
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != len(header):
            yield Unread(before + lines.line_num, f"has {len(cells)} cells where the header has {len(header)}")
            continue
        moment = _time(cells[time].strip(), table.patterns, zone)
        if moment is None:
            yield Unread(before + lines.line_num, f"{cells[time]!r} is not a time")
            continue
        marked = tuple(table.mark or lower[place] for place in marks if cells[place].strip().lower() not in _NORMAL)
        texts = [_DECIMAL_COMMA.sub(r"\1.\2", cell.strip()) for cell in cells] if delimiter == ";" else [cell.strip() for cell in cells]
        yield Sample(moment, {name: texts[place] for place, name in names.items()}, marked)


def _refuse_repeated(tags: list[str], path: Path) -> None:
    for tag in tags:
        if tags.count(tag) > 1:
            raise PlanError(f"has two columns {tag!r}", where=str(path), fix="rename one of them")


def _cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of one line."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return []


def _time(text: str, patterns: tuple[str, ...], zone: tzinfo) -> int | None:
    """Return a time in ms since the epoch; None if the text is not a time."""
    for pattern in patterns or ("",):
        with suppress(ValueError, OverflowError):
            found = datetime.strptime(text, pattern) if pattern else datetime.fromisoformat(text)  # noqa: DTZ007  (the zone comes next)
            return round((found if found.tzinfo else found.replace(tzinfo=zone)).timestamp() * 1000)
    return None


def _tep(text: str, path: Path, start_ms: int) -> Iterator[Sample | Unread]:
    """Yield the samples of a file of the Tennessee Eastman process: 52 columns without a header, a sample every three minutes."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if len(rows) == len(_TEP) and len(set(map(len, rows))) == 1 and len(rows[0]) != len(_TEP):
        rows = [list(row) for row in zip(*rows, strict=True)]  # d00.dat has a line for each variable
    if not rows or len(rows[0]) != len(_TEP):
        raise PlanError("is not a file of tep", where=str(path), fix=f"name a file of {len(_TEP)} columns (d00.dat: as many lines) without a header")
    fault = re.fullmatch(r"d(\d\d)(_te)?", _uncompressed(path).stem)
    for number, row in enumerate(rows):
        if len(row) != len(_TEP):
            yield Unread(number + 1, f"has {len(row)} cells where the first line has {len(_TEP)}")
            continue
        # In a testing file the fault begins after eight hours; a training file has it from the first sample on.
        faulty = fault is not None and fault[1] != "00" and (not fault[2] or number >= _TEP_NORMAL)
        yield Sample(start_ms + number * _TEP_STEP_MS, dict(zip(_TEP, row, strict=True)), (f"fault {fault[1]}",) if faulty and fault else ())


class Spans:
    """Joins samples that are marked in the same file and follow each other to spans. Where times go back, a span has the earliest and latest."""

    def __init__(self) -> None:
        self._start: tuple[int, str] | None = None
        self._latest: int | None = None
        self._step = self._end = 0

    def add(self, sample: Sample) -> Iterator[Span]:
        """Take a sample, and yield the span that ends with it. A span lasts until the first sample that is not marked."""
        time = sample.time_ms
        if self._latest is not None and time > self._latest:
            self._step = time - self._latest
        if self._start is not None and not sample.marks:
            yield Span(self._start[0], max(time, self._end), self._start[1])
            self._start = None
        if sample.marks:
            first, name = self._start or (time, sample.marks[-1])
            self._end = max(time, self._end) if self._start else time
            self._start = min(first, time), name
        self._latest = time if self._latest is None else max(time, self._latest)

    def end(self) -> Iterator[Span]:
        """Yield the span that lasts until the end of the file: a step beyond its last sample."""
        if self._start is not None:
            yield Span(self._start[0], self._end + self._step, self._start[1])
        self._start = None


def windows_of(path: Path, series: Path, zone: tzinfo = UTC) -> list[Span]:
    """Return the windows of a file of NAB, `combined_windows.json`, for a series.

    Raises
    ------
    PlanError
        If it is not such a file, or has no such series.
    """
    try:
        windows = msgspec.json.decode(path.read_bytes(), type=dict[str, list[tuple[str, str]]])
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path), fix="name combined_windows.json of NAB") from None
    except msgspec.DecodeError as error:
        raise PlanError(f"is not a file of windows: {error}", where=str(path), fix="name combined_windows.json of NAB") from None
    found = [pairs for name, pairs in windows.items() if name.rpartition("/")[2] == _uncompressed(series).name]
    if not found:
        raise PlanError(f"has no series {series.name!r}", where=str(path), fix="leave --windows out, or name the file as NAB does")
    return [span for first, last in found[0] for span in _window(first, last, zone)]


def _window(first: str, last: str, zone: tzinfo) -> Iterable[Span]:
    start, end = _time(first, (), zone), _time(last, (), zone)
    return [] if start is None or end is None else [Span(start, end, "anomaly")]
