"""A partition of the SQLite log as a feed has fetched it: blocks, and the lines and stamps that they become."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl

from headrace.errors import EnvironmentFault
from headrace.kernels.columnar.watermark import FEW
from headrace.kernels.reading.batch import Lines, Stamps, TextLines

__all__ = ["SqliteReader", "unpack"]

unpack = msgspec.msgpack.Decoder(list[bytes]).decode


class SqliteReader:
    """A partition as a feed has fetched it.

    `follows` is the offset at which the partition's next block in the file must begin; None before the first was met.
    """

    columns = separator = None

    def __init__(self, name: str, key: int, first: int, end: int | None) -> None:
        self.name, self.key = name, key
        self.next, self.end = first, end
        self.follows: int | None = None
        self.keyed = False
        self.blocks: deque[tuple[Any, ...]] = deque()

    @property
    def finished(self) -> bool:
        """Whether it has been read up to where it was to end."""
        return self.end is not None and self.next >= self.end

    @property
    def drained(self) -> bool:
        """Whether all that was fetched has been read."""
        return not self.blocks

    @property
    def waiting(self) -> int:
        """How many records were fetched and have not been read."""
        return sum(block[2] for block in self.blocks)

    @property
    def wanted(self) -> int:
        """The offset of the first record that has not been fetched."""
        return self.blocks[-1][1] + self.blocks[-1][2] if self.blocks else self.next

    @property
    def position(self) -> dict[str, Any]:
        """The offset of the next record, where reading ends, if it does, and which partition of the file it is."""
        return {"record": self.next, "size": self.end, "partition": self.key}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on reading at a position, before anything has been fetched."""
        if position.get("partition", self.key) != self.key:
            raise EnvironmentFault("has been made anew since it was read", where=self.name, fix="start the pipeline with --anew")
        self.next = position["record"]
        self.blocks.clear()

    def read(self) -> Lines:
        """Return what was fetched."""
        if not self.blocks:
            return Lines.of([])
        blocks = list(self.blocks)
        self.blocks.clear()
        self.next = blocks[-1][1] + blocks[-1][2]
        lines = _lines(blocks)
        keys = None
        if any(block[4] is not None for block in blocks):
            keys = pl.Series([key for block in blocks for key in block[4] or [None] * block[2]], dtype=pl.Binary)
        lines.stamps = Stamps(*_stamped(blocks), keys)
        return lines

    def close(self) -> None:
        """Do nothing: the feed has the file."""


def _stamped(blocks: Sequence[tuple[Any, ...]]) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Return the offset of each record, and the arrival and the number of its block."""
    if sum(block[2] for block in blocks) <= FEW:
        every = [(first + nth, arrived, seq) for seq, first, count, arrived, *_ in blocks for nth in range(count)]
        offsets, arrivals, orders = (pl.Series([row[place] for row in every], dtype=pl.Int64) for place in range(3))
        return offsets, arrivals, orders
    frame = pl.DataFrame(
        [(seq, arrived, count, first) for seq, first, count, arrived, *_ in blocks],
        schema={"order": pl.Int64, "arrived": pl.Int64, "count": pl.Int64, "first": pl.Int64},
        orient="row",
    )
    spread = frame.select(
        pl.col("order", "arrived").repeat_by("count").explode(empty_as_null=False),
        pl.int_ranges("first", pl.col("first") + pl.col("count")).explode(empty_as_null=False).alias("offset"),
    )
    return spread["offset"], spread["arrived"], spread["order"]


def _lines(blocks: Sequence[tuple[Any, ...]]) -> Lines:
    if any(packed for *_, packed, _ in blocks):
        return Lines.of([value for *_, packed, body in blocks for value in (unpack(body) if packed else body.split(b"\n"))])
    return TextLines(b"\n".join([body for *_, body in blocks]), sum(block[2] for block in blocks))
