"""What a pipeline gives, told record by record: the contract of the design (sections 4 to 7) with no thought of speed or memory.

Whatever an engine does in batches, it must come to this. Nothing of headrace is used here.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, cached_property
from itertools import count, pairwise
from typing import Any
from zoneinfo import ZoneInfo

Row = dict[str, Any]

NEVER, FOREVER = -math.inf, math.inf
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FATES = ("accepted", "malformed", "future", "duplicate", "late", "filtered", "shed")

# Reading (section 4)

DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)?", re.ASCII)
EVENT_TIMES = range(946_684_800_000, 4_102_444_800_000)  # 2000 to 2100


class Number(str):
    """A JSON number's own text."""

    __slots__ = ()


class Instant(int):
    """A time, in ms since the epoch."""

    __slots__ = ()


def value_of(found: Any, kind: str) -> Any:
    """Return a JSON value read as a type that is no ROW. Raises ValueError if it cannot be."""
    if found is None:
        return None
    if kind == "STRING":
        if isinstance(found, Number):
            return str(int(found)) if re.fullmatch(r"-?\d+", found) else repr(value_of(found, "DOUBLE"))
        return found if isinstance(found, str) else json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    if kind.startswith("MAP<STRING, ") and isinstance(found, dict):
        return {key: value_or_null(inner, kind[len("MAP<STRING, ") : -1]) for key, inner in found.items()}
    if kind.startswith("ARRAY<") and isinstance(found, list):
        return [value_of(inner, kind[len("ARRAY<") : -1]) for inner in found]
    if kind == "BOOLEAN" and isinstance(found, bool):
        return found
    if isinstance(found, str):
        return value_of_text(found.strip(" \t\n\r\v\f"), kind, number=isinstance(found, Number))
    raise ValueError(found)


def value_of_text(text: str, kind: str, *, number: bool) -> Any:
    if kind == "BOOLEAN" and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if kind == "TIMESTAMP_LTZ(3)" and ISO.fullmatch(text) and not number:
        time = datetime.fromisoformat(text)
        return Instant(((time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH) // timedelta(milliseconds=1))
    if kind not in {"DOUBLE", "BIGINT"} or not DECIMAL.fullmatch(text):
        raise ValueError(text)
    value = Decimal(text) if kind == "BIGINT" else float(text)
    if not math.isfinite(value) or (kind == "BIGINT" and (not -(2**63) <= value < 2**63 or value % 1)):
        raise ValueError(text)
    return int(value) if kind == "BIGINT" else value


def value_or_null(found: Any, kind: str) -> Any:
    """Return a value inside a MAP, or under TRY_CAST."""
    try:
        return value_of(found, kind)
    except ValueError:
        return None


@dataclass(frozen=True)
class Source:
    """A topic of NDJSON files, its partitions. The column named `time`, BIGINT and in ms, is the event time, if there is one."""

    topic: str
    columns: Mapping[str, str]
    files: Sequence[bytes]
    delay: int = 0
    time: str | None = "t"

    def read(self, line: bytes) -> Row:
        """Return the record's columns. Raises ValueError if it is malformed."""
        found = json.loads(line.decode(), parse_int=Number, parse_float=Number, parse_constant=int)  # int refuses NaN and Infinity
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is not JSON
        if not isinstance(found, dict):
            raise ValueError(found)  # noqa: TRY004
        row = {name: value_of(found.get(name), kind.removesuffix(" NOT NULL")) for name, kind in self.columns.items()}
        if any(row[name] is None for name, kind in self.columns.items() if kind.endswith(" NOT NULL")):
            raise ValueError(found)
        if self.time and row[self.time] not in EVENT_TIMES:
            raise ValueError(found)
        return row


# Windows (section 5)


@dataclass(frozen=True)
class Window:
    """Windows [start, end). Tumbling: `step` is `size`."""

    kind: str
    size: int
    step: int

    def ends(self, time: int) -> Sequence[int]:
        """Return the ends of the windows that hold `time`."""
        first = time // self.step * self.step + self.step
        last = time // self.size * self.size + self.size if self.kind == "cumulating" else first - self.step + self.size
        return range(first, last + 1, self.step)

    def start(self, end: int) -> int:
        return (end - 1) // self.size * self.size if self.kind == "cumulating" else end - self.size

    def slice_of(self, time: int) -> range:
        """Return the slice that holds `time`: slices are as long as can be, up to a minute, so that windows are made of whole ones (section 7)."""
        grain = math.gcd(self.size, self.step)
        length = next(grain // parts for parts in count(1) if grain % parts == 0 and grain // parts <= 60_000)
        return range(time // length * length, time // length * length + length)


@cache
def first_shown(local: int, zone: str) -> int:
    """Return the first ms at which the clocks of a zone show a local time, or skip it; local times are told as if they were UTC."""
    naive, info = EPOCH + timedelta(milliseconds=local), ZoneInfo(zone)
    # Of a time shown twice fold=0 is the first; of one that is skipped, fold=1 comes before the skip and fold=0 after it.
    after, before = ((naive.replace(tzinfo=info, fold=fold) - EPOCH) // timedelta(milliseconds=1) for fold in (0, 1))
    if shown(after, zone) == local:
        return after
    return next(ms for ms in range(before // 1000 * 1000, after + 1, 1000) if shown(ms, zone) >= local)


def shown(time: int, zone: str) -> int:
    """Return what the clocks of a zone show at an instant, as if it were UTC."""
    moment = (EPOCH + timedelta(milliseconds=time)).astimezone(ZoneInfo(zone))
    return (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


@dataclass(frozen=True)
class LocalWindow(Window):
    """Windows whose bounds are what the clocks of a zone show. Lengths are of local time: ms, or months."""

    offset: int = 0
    zone: str = "UTC"
    months: int = 0

    @cached_property
    def _bounds(self) -> dict[tuple[int, int], int]:
        return {}

    def _bound(self, length: int, number: int) -> int:
        """Return the instant at which the stretch of local time begins that comes so many after 1970."""
        if (length, number) not in self._bounds:
            if self.months:
                year, month = divmod(number * self.months, 12)
                local = int((datetime(1970 + year, 1 + month, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 1000
            else:
                local = number * length
            self._bounds[length, number] = first_shown(local + self.offset, self.zone)
        return self._bounds[length, number]

    def _stretch(self, length: int, time: int) -> int:
        """Return the number of the stretch that holds a time."""
        local = shown(time, self.zone) - self.offset
        moment = EPOCH + timedelta(milliseconds=local)
        number = ((moment.year - 1970) * 12 + moment.month - 1) // self.months if self.months else local // length
        while self._bound(length, number + 1) <= time:
            number += 1
        while self._bound(length, number) > time:
            number -= 1
        return number

    def ends(self, time: int) -> Sequence[int]:
        first, steps = self._stretch(self.step, time), self.size // self.step
        most = steps - first % steps if self.kind == "cumulating" else steps
        bounds = [self._bound(self.step, first + more) for more in range(most + 1)]
        ends = [end for before, end in pairwise(bounds) if before < end]
        return [end for end in ends if self.start(end) <= time]

    def start(self, end: int) -> int:
        last, steps = self._stretch(self.step, end - 1), self.size // self.step
        return self._bound(self.step, last // steps * steps if self.kind == "cumulating" else last + 1 - steps)

    def slice_of(self, time: int) -> range:
        if self.months:
            return LocalWindow("tumbling", 60_000, 60_000, self.offset, self.zone).slice_of(time)
        length = len(super().slice_of(time))
        first = self._stretch(length, time)
        return range(self._bound(length, first), self._bound(length, first + 1))


FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "SUM": sum, "MIN": min, "MAX": max, "AVG": statistics.fmean, "MEDIAN": statistics.median, "STDDEV_POP": statistics.pstdev,
    "FIRST_VALUE": lambda values: values[0], "LAST_VALUE": lambda values: values[-1], "ARRAY_AGG": list,
}  # fmt: skip


def over(function: str, column: str = "*") -> Callable[[Sequence[Row]], Any]:
    """Return an aggregate of rows: COUNT(*), or a function of a column's values that are not NULL; NULL of none, but for COUNT."""

    def aggregate(rows: Sequence[Row]) -> Any:
        values = [row[column] for row in rows if row[column] is not None] if column != "*" else rows
        return len(values) if function == "COUNT" else FUNCTIONS[function](values) if values else None

    return aggregate


@dataclass(frozen=True)
class Branch:
    """Sources → rows → window by keys → aggregates → having → a second aggregate by other keys → sink. Without a window: sources → rows → sink."""

    sink: str
    topics: Sequence[str]
    rows: Callable[[str, Row], list[Row]]
    window: Window | None = None
    keys: Sequence[str] = ()
    aggregates: Mapping[str, Callable[[Sequence[Row]], Any]] = field(default_factory=dict)
    lateness: int = 0
    late_to: str | None = None
    having: Callable[[Row], bool] = lambda _: True
    regroup: tuple[Sequence[str], Mapping[str, Callable[[Sequence[Row]], Any]]] | None = None


def instant(ms: int) -> str:
    text = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds" if ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")


def grouped(rows: Sequence[Row], keys: Sequence[str]) -> list[tuple[Row, list[Row]]]:
    """Return the groups of rows in the order of their keys, NULL first."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return [(dict(zip(keys, key, strict=True)), groups[key]) for key in sorted(groups, key=lambda key: [(v is not None, v) for v in key])]


class Windowing:
    """A branch's windows while they are open, or closed and within their lateness."""

    def __init__(self, branch: Branch, write: Callable[[str, Row], None]) -> None:
        self.branch, self.write = branch, write
        self.closed = NEVER
        self.rows: dict[int, list[tuple[Any, Row]]] = defaultdict(list)
        self.revisions: Counter[tuple[int, Any]] = Counter()

    def close(self, clock: float) -> None:
        """Give the windows whose end - 1 ms the clock has reached."""
        for end in sorted(end for end in self.rows if self.closed < end - 1 <= clock):
            self.give(end)
        self.closed = clock

    def take(self, rows: Sequence[Row], time: int, place: tuple[int, int], watermark: float) -> bool:
        """Give rows of one record to the windows that still take them, and those already closed again. Return whether any took one."""
        window, to_revise, taken = self.branch.window, set(), False
        stage = window.slice_of(time)
        for row in rows:
            ends = [end for end in window.ends(time) if watermark < end - 1 + self.branch.lateness]
            if not ends and self.branch.late_to:
                self.write(self.branch.late_to, row)
            for end in ends:
                taken = True
                self.rows[end].append(((stage[0], watermark >= stage[-1], place), row))
                if end - 1 <= self.closed:
                    to_revise.add((end, self.group(row)))
        for end in sorted({end for end, _ in to_revise}):
            self.give(end, {group for of, group in to_revise if of == end})
        return taken

    def group(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[key] for key in (self.branch.regroup[0] if self.branch.regroup else self.branch.keys))

    def give(self, end: int, only: set[Any] | None = None) -> None:
        """Write a window's groups: rows are folded slice by slice, behind each the late ones, by partition and offset (section 7)."""
        branch = self.branch
        bounds = {"window_start": instant(branch.window.start(end)), "window_end": instant(end)}
        rows = [row for _, row in sorted(self.rows[end], key=lambda entry: entry[0])]
        result = [key | {name: call(group) for name, call in branch.aggregates.items()} | bounds for key, group in grouped(rows, branch.keys)]
        result = [row for row in result if branch.having(row)]
        if branch.regroup:
            keys, calls = branch.regroup
            result = [key | {name: call(group) for name, call in calls.items()} | bounds for key, group in grouped(result, keys)]
        for row in result:
            if only is None or self.group(row) in only:
                self.write(branch.sink, row | {"revision": self.revisions[end, self.group(row)]})
        self.revisions.update((end, group) for group in only or {self.group(row) for row in rows})


# The run


@dataclass
class Outcome:
    written: dict[str, list[Row]]
    dead: dict[str, list[Row]]
    ledger: dict[str, dict[str, int]]


def lines_of(file: bytes) -> list[bytes]:
    """Return a file's records: its lines that are not blank."""
    lines = [line.removesuffix(b"\r") for line in file.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    return [line for line in lines if line.strip()]


def run(sources: Sequence[Source], branches: Sequence[Branch]) -> Outcome:
    """Return what the branches make of the sources: partitions are merged on the event time of their head records, ties in their order."""
    topics = [branch.sink for branch in branches] + [branch.late_to for branch in branches if branch.late_to]
    outcome = Outcome({topic: [] for topic in topics}, {source.topic: [] for source in sources}, {})
    ledger = {source.topic: Counter[str]() for source in sources}
    waiting: list[tuple[Source, deque[tuple[float, int, Row]]]] = []
    for source in sources:
        for partition, file in enumerate(source.files):
            waiting.append((source, records := deque()))
            for offset, line in enumerate(lines_of(file)):
                try:
                    row = source.read(line)
                    records.append((row[source.time] if source.time else NEVER, offset, row))
                except ValueError:
                    ledger[source.topic]["malformed"] += 1
                    letter = {"topic": source.topic, "partition": partition, "offset": offset, "reason": "malformed", "arrived_ms": None, "raw": line}
                    outcome.dead[source.topic].append(letter)

    windowings = {branch.sink: Windowing(branch, lambda topic, row: outcome.written[topic].append(row)) for branch in branches}
    watermarks = {rank: NEVER if records else FOREVER for rank, (_, records) in enumerate(waiting)}
    while heads := [(records[0][0], rank) for rank, (_, records) in enumerate(waiting) if records]:
        _, rank = min(heads)
        source, records = waiting[rank]
        time, offset, record = records.popleft()
        reached = taken = False
        for branch in branches:
            rows = branch.rows(source.topic, record) if source.topic in branch.topics else []
            reached |= bool(rows)
            if branch.window is None:
                outcome.written[branch.sink] += rows
                taken |= bool(rows)
            else:
                windowing = windowings[branch.sink]
                windowing.close(min(mark for of, mark in watermarks.items() if waiting[of][0].topic in branch.topics))
                taken |= windowing.take(rows, time, (rank, offset), watermarks[rank])
        ledger[source.topic]["accepted" if taken else "late" if reached else "filtered"] += 1
        watermarks[rank] = max(watermarks[rank], time - source.delay) if records else FOREVER
    for windowing in windowings.values():
        windowing.close(FOREVER)
    outcome.ledger = {topic: {"received": counts.total()} | {fate: counts[fate] for fate in FATES} for topic, counts in ledger.items()}
    return outcome
