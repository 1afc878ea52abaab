"""One partition of a source while it is read: its place, its event time, and the batch at hand."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import polars as pl

from headrace.kernels.columnar.intake import Intake
from headrace.kernels.columnar.watermark import NEVER, watermark_before
from headrace.kernels.reading.batch import Lines, Read, Records, Stamps
from headrace.kernels.reading.columns import ColumnReader
from headrace.kernels.reading.json import JsonReader
from headrace.kernels.reading.metadata import metadata_column
from headrace.plan.operators import Source
from headrace.topics.dead_letters import DeadLetter
from headrace.topics.protocol import PartitionReader

__all__ = ["Partition", "Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """The part of a partition's batch whose turn it is.

    `rows` are its readable records, with `@record`, `@time`, `@watermark`, `@shown` (the greatest event time so far) and
    `@order`; `received` counts all, and `first` is the `@record` of the first of them. `keys` are those of all, if they have any.
    """

    partition: Partition
    rows: pl.DataFrame
    first: int
    received: int
    dead: list[DeadLetter]
    keys: pl.Series | None = None


class Partition:
    """Reads a partition batch by batch.

    Parameters
    ----------
    source
        The source it belongs to.
    number
        Its number among the source's partitions.
    rank
        Its number among all partitions of the run: ties between partitions fall in this order.
    unread
        Columns MAP<STRING, DOUBLE> that are only unnested, so that their texts may be read then.
    max_ahead_ms
        How far past its arrival a record's event time may lie; one further is set aside as `future`.
    placed
        Whether rows tell their `@offset` and when they `@arrived`.

    Attributes
    ----------
    greatest
        The greatest event time that it has shown, a step of the clock among what it shows.
    heard
        That of its records alone.
    arrived
        When the last record that was read arrived.
    order
        The place in the order of the input of the last record that was taken; of one before a restart where the log says it.
    """

    def __init__(
        self,
        source: Source,
        number: int,
        rank: int,
        reader: PartitionReader,
        unread: Collection[str] = (),
        max_ahead_ms: int | None = None,
        *,
        placed: bool = False,
    ) -> None:
        self._placed = placed
        self._max_ahead_ms = max_ahead_ms
        self.source, self.number, self.rank, self.reader = source, number, rank, reader
        self.greatest = self.heard = self.arrived = self.order = NEVER
        self._intake = Intake(source)
        self._decode = _decoder(source, reader, unread)
        self._start = reader.position
        self._batch: Records = Lines.of([])
        self._rows: pl.DataFrame | None = None
        self._set_aside: dict[int, tuple[str, str]] = {}
        self._used = 0

    @property
    def delay(self) -> int:
        """How far its watermark stays behind, in ms."""
        return self.source.delay_ms

    @property
    def finished(self) -> bool:
        """Whether nothing more will come, and nothing is at hand."""
        return self.reader.finished and self._used >= len(self._batch)

    @property
    def ends_with_batch(self) -> bool:
        """Whether nothing that is there now comes behind the batch at hand."""
        return self.reader.drained

    @property
    def drained(self) -> bool:
        """Whether nothing more is there now, and nothing is at hand."""
        return self.reader.drained and self._used >= len(self._batch)

    def fill(self) -> pl.DataFrame:
        """Return the rows at hand, having read the next batch if there were none left."""
        if self._rows is None or self._used >= len(self._batch):
            self._start = self.reader.position
            self._batch = self.reader.read()
            self._used = 0
            if self._stamps is not None and len(self._stamps.arrived_ms):
                self.arrived = int(self._stamps.arrived_ms[-1])
            read = self._intake(self._with_metadata(self._decode(self._batch)))
            self._set_aside = {place: ("malformed", detail) for place, detail in read.malformed.items()}
            rows = self._believed(read.frame)
            self._rows = self._timed(self._told(rows) if self._placed else rows)
        return self._rows

    def _with_metadata(self, read: Read) -> Read:
        """Return the batch with the columns of what the topic knows of its records."""
        if not self.source.metadata:
            return read
        records = read.frame["@record"]
        columns = [metadata_column(kind, records, self.number, self._start["record"], self._stamps).alias(n) for n, kind in self.source.metadata]
        return Read(read.frame.with_columns(columns), read.malformed)

    def _told(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with their offsets and times of arrival."""
        records = rows["@record"]
        if self._stamps is None:
            offset = (records.cast(pl.Int64) + self._start["record"]).alias("@offset")
            return rows.with_columns(offset, pl.lit(None, pl.Int64).alias("@arrived"))
        offset, arrived = (self._of(one, rows).cast(pl.Int64) for one in (self._stamps.offsets, self._stamps.arrived_ms))
        return rows.hstack([offset.alias("@offset"), arrived.alias("@arrived")])

    @property
    def _stamps(self) -> Stamps | None:
        return getattr(self._batch, "stamps", None)

    def _believed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows whose event time does not lie too far past their arrival; the others are set aside."""
        if self._stamps is None or self._max_ahead_ms is None or self.source.event_time is None:
            return rows
        ahead = rows["@time"] - self._of(self._stamps.arrived_ms, rows)
        future = ahead > self._max_ahead_ms
        if not future.any():
            return rows
        for record, by in zip(rows["@record"].filter(future), ahead.filter(future), strict=True):
            self._set_aside[record] = "future", f"event time is {by / 1000:.0f} s past its arrival"
        return rows.filter(~future)

    def _of(self, every: pl.Series, rows: pl.DataFrame) -> pl.Series:
        """Return what a column of the whole batch has for rows of it."""
        return every if len(rows) == len(every) else every[rows["@record"]]

    def _timed(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self.source.event_time is None:
            rows = rows.with_columns(pl.lit(NEVER, pl.Int64).alias(name) for name in ("@time", "@watermark", "@shown"))
            times = []
        else:
            before, so_far = watermark_before(rows["@time"], self.greatest, self.delay)
            times = [before.alias("@watermark"), so_far.alias("@shown")]
        order = (times or [rows["@shown"]])[-1] if self._stamps is None else self._of(self._stamps.order, rows)
        times.append(order.alias("@order"))
        return rows.with_columns(times) if "@order" in rows.columns else rows.hstack(times)

    def show(self, greatest: int) -> None:
        """Take it that the partition has shown an event time, as a step of the clock does."""
        self.greatest = max(self.greatest, greatest)
        if self._rows is not None and len(self._rows):
            self._rows = self._timed(self._rows)

    def reach(self, count: int) -> list[int]:
        """Return how many records of the batch at hand are done after each of the next `count` rows, malformed ones among them."""
        behind = [*self.fill()["@record"][1 : count + 1], len(self._batch)][:count]
        return [int(place) - self._used for place in behind]

    @property
    def at_hand(self) -> int:
        """How many records of the batch at hand are still to be taken."""
        return len(self._batch) - self._used

    def take(self, count: int | None = None, most: int | None = None) -> Turn:
        """Return the next `count` rows of the batch at hand, all by default, with the malformed records among them; at most so many records."""
        rows = self.fill()
        taken = rows if count is None else rows[:count]
        upto = len(self._batch) if len(taken) == len(rows) else int(rows["@record"][len(taken)])
        if most is not None and upto - self._used > most:
            upto = self._used + most
            taken = taken.filter(pl.col("@record") < upto)
        dead = self._dead(self._used, upto)
        start, self._used = self._used, upto
        if len(taken):
            self.greatest, self.order = int(taken["@shown"][-1]), int(taken["@order"][-1])
            if self._placed:
                self.heard = max(self.heard, int(taken["@time"].max()))  # type: ignore[arg-type]
        self._rows = rows[len(taken) :]
        keys = None if self._stamps is None or self._stamps.keys is None else self._stamps.keys.slice(start, upto - start)
        return Turn(self, taken, start, upto - start, dead, keys)

    def _dead(self, first: int, behind: int) -> list[DeadLetter]:
        """Return the records of [first, behind) that were set aside, in their order."""
        letters, stamps = [], self._stamps
        for place in sorted(place for place in self._set_aside if first <= place < behind):
            offset = self._start["record"] + place if stamps is None else int(stamps.offsets[place])
            arrived = None if stamps is None else int(stamps.arrived_ms[place])
            letters.append(DeadLetter(self.source.topic, self.number, offset, *self._set_aside[place], arrived, self._batch.raw(place)))
        return letters

    # commits

    @property
    def next_offset(self) -> int:
        """The offset of the next record to work through."""
        if self._used >= len(self._batch):
            return int(self.reader.position["record"])
        return self._start["record"] + self._used if self._stamps is None else int(self._stamps.offsets[self._used])

    def begin_at(self, offset: int) -> None:
        """Begin to read at an offset, before anything has been read."""
        self.reader.seek({**self.reader.position, "record": offset})
        self._start = self.reader.position

    def saved(self) -> dict[str, Any]:
        """Return where it is, for a commit."""
        at = self.reader.position if self._used >= len(self._batch) else self._start
        skip = 0 if self._used >= len(self._batch) else self._used
        return {"position": at, "skip": skip, "greatest": self.greatest, "heard": self.heard}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where a commit left off."""
        self.reader.seek(saved["position"])
        self.order = saved["position"].get("order", NEVER)
        skip = saved["skip"]
        while skip:
            rows = self.fill()
            self._used = min(skip, len(self._batch))
            self._rows = rows.filter(pl.col("@record") >= self._used)
            skip -= self._used
        self.greatest, self.heard = saved["greatest"], saved["heard"]
        if self._rows is not None:
            self._rows = self._timed(self._rows)


def _decoder(source: Source, reader: PartitionReader, unread: Collection[str]) -> Callable[[Any], Read]:
    if reader.columns is None:
        return JsonReader(source.declared, source.rest, source.rest_type, unread).read
    return ColumnReader(
        source.declared,
        source.rest,
        source.rest_type,
        name=reader.name,
        columns=reader.columns,
        separator=reader.separator,
        decimal=source.decimal,
        unread=unread,
    ).read
