"""A feed of a log that is read up to chosen offsets, again and again further on: records behind them are withheld."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import polars as pl

from headrace.errors import EnvironmentFault
from headrace.kernels.reading.batch import Lines, Stamps
from headrace.topics.protocol import Feed, PartitionReader

__all__ = ["UpTo"]

_FETCHED = 100_000
_AHEAD = 100_000  # records of a partition that are withheld, beyond which none are fetched
_PAUSE_SECONDS = 0.002
_SILENT_SECONDS = 60.0


class UpToReader:
    """A reader of a log's partition that withholds the records from `upto` on. At `end` it is finished, if that is set.

    It is drained once all before `upto` was fetched and read: while it is not, records of other partitions wait for it.
    """

    columns = separator = None

    def __init__(self, reader: PartitionReader, end: int | None) -> None:
        self._reader, self._end, self.name = reader, end, reader.name
        self.upto = 0
        self._pieces: deque[Lines] = deque()

    @property
    def keyed(self) -> bool:
        """Whether keys are asked for."""
        return bool(getattr(self._reader, "keyed", False))

    @keyed.setter
    def keyed(self, asked: bool) -> None:
        self._reader.keyed = asked  # type: ignore[attr-defined]

    @property
    def headered(self) -> bool:
        """Whether headers are asked for."""
        return bool(getattr(self._reader, "headered", False))

    @headered.setter
    def headered(self, asked: bool) -> None:
        self._reader.headered = asked  # type: ignore[attr-defined]

    @property
    def finished(self) -> bool:
        """Whether it has been read up to its end."""
        return self._end is not None and self.position["record"] >= self._end

    @property
    def drained(self) -> bool:
        """Whether all before `upto` has been read."""
        return bool(self.position["record"] >= self.upto)

    @property
    def lacks(self) -> bool:
        """Whether records before `upto` are still to be fetched."""
        return bool(self._reader.position["record"] < self.upto)

    @property
    def withheld(self) -> int:
        """How many records were fetched and have not been read."""
        return sum(map(len, self._pieces))

    @property
    def position(self) -> dict[str, Any]:
        """The offset of the next record."""
        at = self._reader.position
        return {**at, "record": _first(self._pieces[0])} if self._pieces else at

    def seek(self, position: dict[str, Any]) -> None:
        """Go on reading at a position, before anything has been fetched."""
        self._reader.seek({**self._reader.position, "record": position["record"]})

    def take_in(self) -> None:
        """Take over what was fetched."""
        while not self._reader.drained:
            piece = self._reader.read()
            assert isinstance(piece, Lines)
            if len(piece):
                self._pieces.append(piece)

    def read(self) -> Lines:
        """Return the next records before `upto`."""
        if not self._pieces or _first(self._pieces[0]) >= self.upto:
            return Lines.of([])
        piece = self._pieces.popleft()
        count = int(_stamps(piece).offsets.search_sorted(self.upto, side="left"))
        if count == len(piece):
            return piece
        self._pieces.appendleft(_cut(piece, count, len(piece)))
        return _cut(piece, 0, count)

    def close(self) -> None:
        """Do nothing: the feed has the connection."""


class UpTo:
    """The partitions of a feed, each read up to an offset.

    Parameters
    ----------
    feed
        The feed, before anything has been fetched.
    ends
        The offsets at which partitions are finished, by rank; None for partitions that may always have more.
    """

    def __init__(self, feed: Feed, ends: Sequence[int] | None = None) -> None:
        self._feed = feed
        rest = iter(ends or ())
        self.readers = {topic: [UpToReader(one, next(rest, None)) for one in readers] for topic, readers in feed.readers.items()}
        self._all = {(topic, number): one for topic, readers in self.readers.items() for number, one in enumerate(readers)}
        self._heard = time.monotonic()

    def move(self, offsets: Sequence[int]) -> None:
        """Read on up to these offsets, by rank."""
        for reader, offset in zip(self._all.values(), offsets, strict=True):
            reader.upto = offset

    def fetch(self) -> None:
        """Fetch more where records are still to be fetched. Raises EnvironmentFault if none come for long."""
        if not any(reader.lacks for reader in self._all.values()):
            return
        self._feed.hold({key for key, reader in self._all.items() if not reader.lacks and reader.withheld >= _AHEAD})
        if self._feed.fetch(_FETCHED):
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > _SILENT_SECONDS:
            lacking = next(reader for reader in self._all.values() if reader.lacks)
            what = f"gives no records before offset {lacking.upto:,}, though it has them"
            raise EnvironmentFault(what, where=lacking.name, fix="see whether the server answers: headrace doctor")
        else:
            time.sleep(_PAUSE_SECONDS)
        for reader in self._all.values():
            reader.take_in()


def _stamps(piece: Lines) -> Stamps:
    assert piece.stamps is not None
    return piece.stamps


def _first(piece: Lines) -> int:
    return int(_stamps(piece).offsets[0])


def _cut(piece: Lines, start: int, end: int) -> Lines:
    """Return the records of [start, end) of a batch, with their stamps."""
    part = Lines(piece.text[start:end], {place - start: raw for place, raw in piece.odd.items() if start <= place < end})
    stamps = _stamps(piece)
    columns: dict[str, pl.Series | None] = {one.name: getattr(stamps, one.name) for one in fields(stamps)}
    part.stamps = replace(stamps, **{name: column[start:end] for name, column in columns.items() if column is not None})
    return part
