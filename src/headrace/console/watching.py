"""The data of the page of a plant: latest values of tags, topics, ledgers and dead letters, read from the log by a thread of its own."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from headrace._clock import now_ms
from headrace._json import NOT_JSON
from headrace.connectors.progress import ledger_of
from headrace.errors import HeadraceError
from headrace.plant.units import unit_symbol
from headrace.topics.protocol import Log, TopicInfo

__all__ = ["Group", "Watching"]

_LOOK_SECONDS = 1.0
_SLOW_LOOKS = 2  # of which one also looks at ledgers and dead letters
_AT_ONCE = 5_000
_BEHIND = 20_000  # the page skips to the latest records when it is further behind
_HISTORY = 600
_ALL_HISTORY = 300_000
_MOST_TAGS = 50_000
_LETTERS = 20
_LONGEST = 400


_Moment = Annotated[int, msgspec.Meta(ge=-62_135_596_800_000, lt=253_402_300_800_000)]  # ms since the epoch, of the years 1 to 9999
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Seen(msgspec.Struct):
    """A record that may be a reading."""

    tag: Annotated[str, msgspec.Meta(max_length=1000)]
    time: _Moment
    value: float | str | bool | None = None
    quality: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    unit: str | None = None


class _Letter(msgspec.Struct):
    """The fields of a dead letter that are shown."""

    pipeline: str | None = None
    topic: str | None = None
    partition: _Number | None = None
    offset: _Number | None = None
    reason: str | None = None
    detail: str | None = None
    raw: str | None = None
    raw_base64: str = ""


_decode = msgspec.json.Decoder(_Seen).decode
_decode_letter = msgspec.json.Decoder(_Letter).decode


@dataclass(slots=True)
class _Latest:
    """The latest value of a tag, and the numbers before it."""

    number: int
    row: tuple[str, int, float | int | str | bool | None, int, str | None]
    history: deque[tuple[int, float | None, int]]


@dataclass(frozen=True)
class Group:
    """A part that reads or writes the log: its name there, and what it is."""

    name: str
    kind: str
    part: str


@dataclass
class Watching:
    """Reads a plant's topics until it is closed.

    Parameters
    ----------
    open_log
        Opens the log.
    topics
        The topics whose records are looked at.
    tags
        How many tags are expected, by which the length of their history is chosen.
    groups
        Returns the parts whose ledgers are shown.
    no_readings
        Those of the topics whose records are no readings, whatever their fields.
    look
        Is given the log at each look.
    """

    open_log: Callable[[], Log]
    topics: Sequence[str]
    tags: int
    groups: Callable[[], Iterable[Group]]
    no_readings: AbstractSet[str] = frozenset()
    look: Callable[[Log], None] = lambda _: None
    fault: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _latest: dict[str, _Latest] = field(default_factory=dict)
    _number: int = 0
    _shown: dict[str, Any] = field(default_factory=lambda: {"topics": [], "ledgers": {}, "letters": []})

    def __post_init__(self) -> None:
        """Begin to read."""
        self._next: dict[tuple[str, int], int] = {}
        self._last: dict[str, tuple[int, str]] = {}
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read no more."""
        self._ended.set()
        self._thread.join(timeout=10)

    # what is shown

    def values(self, since: int) -> dict[str, Any]:
        """Return the tags whose values have changed since a number that was returned before: path, time, value, quality, symbol of the unit."""
        with self._lock:
            rows = [one.row for one in self._latest.values() if one.number > since]
            return {"number": self._number, "now": now_ms(), "fault": self.fault, "values": rows}

    def trend(self, tag: str) -> list[tuple[int, float | None, int]]:
        """Return the last values of a tag: time, number or None, quality."""
        with self._lock:
            latest = self._latest.get(tag)
            return [] if latest is None else list(latest.history)

    def state(self) -> Mapping[str, Any]:
        """Return topics, ledgers and dead letters."""
        with self._lock:
            return self._shown

    # reading

    def _run(self) -> None:
        looks = 0
        while not self._ended.is_set():
            try:
                with closing(self.open_log()) as log:
                    log.heed(self._ended.is_set)
                    while not self._ended.wait(_LOOK_SECONDS if looks else 0):
                        self._look(log)
                        self.look(log)
                        if looks % _SLOW_LOOKS == 0:
                            self._look_slowly(log)
                        self.fault = ""
                        looks += 1
            except HeadraceError as fault:
                self.fault = str(fault)
                self._ended.wait(_LOOK_SECONDS * _SLOW_LOOKS)

    def _look(self, log: Log) -> None:
        """Take in the records that have come to the topics."""
        there = {info.name: info for info in log.topics()}
        for topic in self.topics:
            if topic not in there:
                continue
            for part in there[topic].partitions:
                place = (topic, part.number)
                offset = max(self._next.get(place, part.end - _AT_ONCE), part.first, part.end - _BEHIND)
                while offset < part.end and not self._ended.is_set():
                    entries = log.entries(topic, part.number, offset, _AT_ONCE)
                    if not entries:
                        break
                    offset = entries[-1].offset + 1
                    if topic not in self.no_readings:
                        self._take(one.value for one in entries)
                    self._last[topic] = (entries[-1].arrived_ms, _cut(entries[-1].value))
                self._next[place] = offset

    def _take(self, values: Iterable[bytes]) -> None:
        """Note the readings among records; others are no readings, and passed over."""
        with self._lock:
            for value in values:
                with suppress(*NOT_JSON):
                    self._note(_decode(value))

    def _note(self, seen: _Seen) -> None:
        latest = self._latest.get(seen.tag)
        if latest is None:
            if len(self._latest) >= _MOST_TAGS:
                return
            length = max(min(_HISTORY, _ALL_HISTORY // max(self.tags, len(self._latest) + 1)), 30)
            latest = self._latest[seen.tag] = _Latest(0, ("", 0, None, 0, None), deque(maxlen=length))
        value = _shortened(seen.value) if isinstance(seen.value, str) else seen.value
        usable = isinstance(value, int | float) and math.isfinite(value)
        latest.history.append((seen.time, float(value) if usable and value is not None else None, seen.quality))
        if seen.time >= latest.row[1]:
            self._number += 1
            latest.number, latest.row = self._number, (seen.tag, seen.time, value, seen.quality, seen.unit and unit_symbol(seen.unit))

    def _look_slowly(self, log: Log) -> None:
        """Look at all topics, ledgers and dead letters."""
        infos = log.topics()
        lags: dict[str, int] = {}
        for cursor in log.cursors():
            lags[cursor.group] = lags.get(cursor.group, 0) + max(cursor.end - cursor.offset, 0)
        ledgers = {one.part: self._ledger(log, one, lags) for one in self.groups()}
        letters = [letter for info in infos if info.name.endswith(".dead-letter") for letter in _letters(log, info)]
        letters.sort(key=lambda one: -one.get("arrived_ms", 0))
        with self._lock:
            self._shown = {"topics": [self._topic(info) for info in infos], "ledgers": ledgers, "letters": letters[:_LETTERS]}

    def _topic(self, info: TopicInfo) -> dict[str, Any]:
        arrived, last = self._last.get(info.name, (None, None))
        return {"name": info.name, "records": sum(part.end - part.first for part in info.partitions), "arrived_ms": arrived, "last": last}

    def _ledger(self, log: Log, group: Group, lags: Mapping[str, int]) -> dict[str, Any]:
        """Return what a part has committed."""
        manifest = log.manifest(group.name)
        if manifest is None:
            return {"ledger": {}, "lag": None}
        found: dict[str, Any] = {"ledger": ledger_of(manifest), "lag": None if group.kind == "in" else lags.get(group.name)}
        if group.kind == "pipeline":
            whole = json.loads(manifest)
            found |= {"epoch": whole.get("epoch"), "committed_ms": whole.get("committed_ms")}
        return found


def _letters(log: Log, info: TopicInfo) -> Iterable[dict[str, Any]]:
    """Yield the last dead letters of a topic."""
    for part in info.partitions:
        for entry in log.entries(info.name, part.number, max(part.end - _LETTERS, part.first), _LETTERS) if part.end > part.first else []:
            with suppress(*NOT_JSON):
                letter = _decode_letter(entry.value)
                shown = {key: getattr(letter, key) for key in ("pipeline", "topic", "partition", "offset", "reason", "detail")}
                raw = letter.raw_base64 if letter.raw is None else letter.raw
                yield {**shown, "arrived_ms": entry.arrived_ms, "raw": raw[:_LONGEST]}


def _cut(value: bytes) -> str:
    return _shortened(value[: _LONGEST + 1].decode(errors="replace"))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
