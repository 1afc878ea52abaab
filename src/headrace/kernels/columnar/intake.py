"""From records as read to rows of a stream: what must be there is there, and every row has its event time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.reading.batch import Read
from headrace.plan.expression import columns_of
from headrace.plan.operators import Source

__all__ = ["Intake"]


@dataclass
class Intake:
    """What a source asks of its records beyond being readable."""

    source: Source
    _time: pl.Expr | None = field(init=False)

    def __post_init__(self) -> None:
        event_time = self.source.event_time
        self._time = None if event_time is None else compile_expression(event_time).dt.epoch("ms").alias("@time")

    def __call__(self, read: Read) -> Read:
        """Return the batch with `@time` (ms since the epoch), and the records found malformed taken out."""
        frame, malformed = read.frame, dict(read.malformed)
        bad = [
            _note(frame, frame[column.name].is_null(), f"NULL in NOT NULL column {column.name!r}", malformed)
            for column in self.source.declared.fields
            if not column.nullable and frame[column.name].null_count()
        ]
        if self._time is not None:
            frame = frame.with_columns(self._time)
            bad += self._badly_timed(frame, malformed)
        # Once: filtering nested columns is dear.
        return Read(frame.filter(~pl.any_horizontal(bad)) if bad else frame, malformed)

    def _badly_timed(self, frame: pl.DataFrame, malformed: dict[int, str]) -> Iterator[pl.Series]:
        times = frame["@time"]
        if times.null_count():
            names = sorted(columns_of(self.source.event_time)) if self.source.event_time else []
            missing = times.is_null()
            for row in frame.select("@record", *names).filter(missing).iter_rows():
                detail = "no event time: " + ", ".join(f"{name} is {value!r}" for name, value in zip(names, row[1:], strict=True))
                malformed.setdefault(row[0], detail)
            yield missing
        first, last = self.source.range_ms
        absurd = (times < first) | (times >= last)
        if absurd.any():
            for record, time in frame.select("@record", "@time").filter(absurd).iter_rows():
                malformed.setdefault(record, f"event time {_shown(time)} is outside {_shown(first)} to {_shown(last)}")
            yield absurd.fill_null(value=False)


def _note(frame: pl.DataFrame, bad: pl.Series, detail: str, malformed: dict[int, str]) -> pl.Series:
    """Note why the `bad` records are malformed, unless that is known, and return which they are."""
    for record in frame["@record"].filter(bad):
        malformed.setdefault(record, detail)
    return bad


def _shown(time: int) -> str:
    try:
        return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time} ms"
