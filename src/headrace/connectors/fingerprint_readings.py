"""The readings of fingerprints: which records the pipeline would read, and those that wait for their fingerprint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.connectors.fingerprints import Fingerprint
from headrace.connectors.reading import offsets_of
from headrace.kernels.columnar.intake import Intake
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.reading.batch import Lines
from headrace.kernels.reading.json import JsonReader
from headrace.plan.operators import Source
from headrace.plan.stream import stream

__all__ = ["MAX_AHEAD_MS", "Buffer", "Judge", "Reading", "Wanted", "believed"]

MAX_AHEAD_MS = 3_600_000

_BUCKET_MS = 60_000
_READING_COST = 400  # bytes that a reading takes besides its text, about


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A fingerprint that is to be saved, and when it came."""

    order: int
    arrived_ms: int
    found: Fingerprint

    @property
    def is_ahead(self) -> bool:
        """Whether the window ends so far past the fingerprint's arrival that no live pipeline can have made it."""
        return self.found.end_ms > self.arrived_ms + MAX_AHEAD_MS


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading: where it stands, its place in the order of arrival, its event time, and its record."""

    partition: int
    offset: int
    order: int
    time_ms: int
    text: str

    @property
    def cost(self) -> int:
        """Roughly how many bytes it takes in memory."""
        return len(self.text) + _READING_COST


class Judge:
    """Finds the records that the pipeline would read, as the pipeline does, with their equipment and event time."""

    def __init__(self, topic: str) -> None:
        source = stream(
            topic,
            schema={"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"},
            event_time="TO_TIMESTAMP_LTZ(timestamp, 3)",
        ).operator
        assert isinstance(source, Source)
        self._intake, self._read = Intake(source), JsonReader(source.declared).read

    def __call__(self, partition: int, lines: Lines, first_ms: int, end_ms: int) -> Iterator[tuple[str, bool, Reading]]:
        """Give the equipment of each readable record of [first_ms, end_ms), whether it is ahead of the time it came, and itself."""
        stamps = lines.stamps
        assert stamps is not None
        rows = (
            self._intake(self._read(lines)).frame.select("@record", "@time", "equip_id").filter(pl.col("@time").is_between(first_ms, end_ms, "left"))
        )
        records = rows["@record"]
        columns = (
            rows["equip_id"],
            rows["@time"],
            offsets_of(lines).gather(records),
            stamps.order.gather(records),
            stamps.arrived_ms.gather(records),
            lines.text.gather(records),
        )
        for equip_id, time_ms, offset, order, arrived_ms, text in zip(*columns, strict=True):
            yield equip_id, time_ms - arrived_ms > MAX_AHEAD_MS, Reading(partition, offset, order, time_ms, text.strip())


@dataclass(slots=True)
class _Bucket:
    """The readings of some event times: by equipment, and the lowest offset among them by partition."""

    readings: dict[str, list[Reading]] = field(default_factory=lambda: defaultdict(list))
    lowest: dict[int, int] = field(default_factory=dict)
    cost: int = 0


class Buffer:
    """Readings that wait for their fingerprint, all that were offered whose event time is not before `floor_ms`."""

    def __init__(self) -> None:
        self.floor_ms = NEVER
        self.cost = 0
        self._buckets: dict[int, _Bucket] = {}

    def add(self, equip_id: str, reading: Reading) -> None:
        """Keep a reading."""
        bucket = self._buckets.setdefault(reading.time_ms // _BUCKET_MS, _Bucket())
        bucket.readings[equip_id].append(reading)
        bucket.lowest.setdefault(reading.partition, reading.offset)
        bucket.cost += reading.cost
        self.cost += reading.cost

    def of(self, wanted: Fingerprint) -> list[Reading]:
        """Return the readings of a fingerprint's equipment and window."""
        numbers = range(wanted.start_ms // _BUCKET_MS, (wanted.end_ms - 1) // _BUCKET_MS + 1)
        there = [number for number in numbers if number in self._buckets] if len(numbers) < len(self._buckets) else set(numbers) & {*self._buckets}
        mine = (reading for number in there for reading in self._buckets[number].readings.get(wanted.equip_id, ()))
        return [reading for reading in mine if wanted.start_ms <= reading.time_ms < wanted.end_ms]

    def let_go(self, before_ms: int) -> None:
        """Let go of what lies before a time."""
        floor = before_ms // _BUCKET_MS
        for number in [number for number in self._buckets if number < floor]:
            self.cost -= self._buckets.pop(number).cost
        self.floor_ms = max(self.floor_ms, floor * _BUCKET_MS)

    def shrink(self, most: int) -> None:
        """Let go of the earliest readings until the rest cost at most so many bytes."""
        while self.cost > most:
            self.let_go((min(self._buckets) + 1) * _BUCKET_MS)

    def lowest(self, partition: int) -> int | None:
        """Return the lowest offset of a partition that is kept."""
        return min((bucket.lowest[partition] for bucket in self._buckets.values() if partition in bucket.lowest), default=None)


def believed(one: Wanted, found: Sequence[tuple[bool, Reading]]) -> list[Reading]:
    """Return the readings less those that are ahead of their time, which a live pipeline sets aside, unless it cannot have been live."""
    on_time = [reading for ahead, reading in found if not ahead]
    return [reading for _, reading in found] if not on_time or one.is_ahead else on_time
