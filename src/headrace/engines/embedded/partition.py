"""One partition of a source while it is read: its place, its event time, and the batch at hand."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import polars as pl

from headrace.kernels.columnar.intake import Intake
from headrace.kernels.columnar.watermark import NEVER, watermark_before
from headrace.kernels.reading.batch import Lines, Read, Records
from headrace.kernels.reading.columns import ColumnReader
from headrace.kernels.reading.json import JsonReader
from headrace.plan.operators import Source
from headrace.topics.protocol import PartitionReader

__all__ = ["DeadLetter", "Partition", "Turn"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record set aside, and why."""

    topic: str
    partition: int
    offset: int
    detail: str
    raw: str | bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """The part of a partition's batch whose turn it is.

    `rows` are its readable records, with `@record`, `@time`, `@watermark` and `@order`; `received` counts all, and `first`
    is the `@record` of the first of them.
    """

    partition: Partition
    rows: pl.DataFrame
    first: int
    received: int
    dead: list[DeadLetter]


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
    """

    def __init__(self, source: Source, number: int, rank: int, reader: PartitionReader, unread: Collection[str] = ()) -> None:
        self.source, self.number, self.rank, self.reader = source, number, rank, reader
        self.greatest = NEVER
        self._intake = Intake(source)
        self._decode = _decoder(source, reader, unread)
        self._start = reader.position
        self._batch: Records = Lines.of([])
        self._rows: pl.DataFrame | None = None
        self._malformed: dict[int, str] = {}
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
        """Whether the batch at hand is the last."""
        return self.reader.finished

    def fill(self) -> pl.DataFrame:
        """Return the rows at hand, having read the next batch if there were none left."""
        if self._rows is None or self._used >= len(self._batch):
            self._start = self.reader.position
            self._batch = self.reader.read()
            self._used = 0
            read = self._intake(self._decode(self._batch))
            self._rows, self._malformed = self._timed(read.frame), read.malformed
        return self._rows

    def _timed(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self.source.event_time is None:
            return rows.with_columns(pl.lit(NEVER, pl.Int64).alias(name) for name in ("@time", "@watermark", "@order"))
        before, so_far = watermark_before(rows["@time"], self.greatest, self.delay)
        return rows.with_columns(before.alias("@watermark"), so_far.alias("@order"))

    def take(self, count: int | None = None) -> Turn:
        """Return the next `count` rows of the batch at hand, all by default, with the malformed records among them."""
        rows = self.fill()
        taken = rows if count is None else rows[:count]
        upto = len(self._batch) if len(taken) == len(rows) else int(rows["@record"][len(taken)])
        offset = self._start["record"]
        dead = [
            DeadLetter(self.source.topic, self.number, offset + place, detail, self._batch.raw(place))
            for place, detail in sorted(self._malformed.items())
            if self._used <= place < upto
        ]
        start, self._used = self._used, upto
        if len(taken):
            self.greatest = int(taken["@order"][-1])
        self._rows = rows[len(taken) :]
        return Turn(self, taken, start, upto - start, dead)

    # commits

    def saved(self) -> dict[str, Any]:
        """Return where it is, for a commit."""
        at = self.reader.position if self._used >= len(self._batch) else self._start
        skip = 0 if self._used >= len(self._batch) else self._used
        return {"position": at, "skip": skip, "greatest": self.greatest}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where a commit left off."""
        self.reader.seek(saved["position"])
        skip = saved["skip"]
        while skip:
            rows = self.fill()
            self._used = min(skip, len(self._batch))
            self._rows = rows.filter(pl.col("@record") >= self._used)
            skip -= self._used
        self.greatest = saved["greatest"]
        if self._rows is not None:
            self._rows = self._timed(self._rows)


def _decoder(source: Source, reader: PartitionReader, unread: Collection[str]) -> Callable[[Any], Read]:
    if reader.columns is None:
        return JsonReader(source.declared, source.rest, source.rest_type, unread).read
    return ColumnReader(
        source.declared, source.rest, source.rest_type, name=reader.name, columns=reader.columns, separator=reader.separator, unread=unread
    ).read
