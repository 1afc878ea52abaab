"""From records as read to rows of a stream: what must be there is there, and every row has its event time."""

from __future__ import annotations

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
        for column in self.source.declared.fields:
            if not column.nullable and frame[column.name].null_count():
                frame = _take_out(frame, frame[column.name].is_null(), f"NULL in NOT NULL column {column.name!r}", malformed)
        if self._time is None:
            return Read(frame, malformed)
        frame = frame.with_columns(self._time)
        if frame["@time"].null_count():
            frame = self._take_out_timeless(frame, malformed)
        first, last = self.source.range_ms
        absurd = (frame["@time"] < first) | (frame["@time"] >= last)
        if absurd.any():
            for record, time in frame.filter(absurd).select("@record", "@time").iter_rows():
                malformed[record] = f"event time {_shown(time)} is outside {_shown(first)} to {_shown(last)}"
            frame = frame.filter(~absurd)
        return Read(frame, malformed)

    def _take_out_timeless(self, frame: pl.DataFrame, malformed: dict[int, str]) -> pl.DataFrame:
        names = sorted(columns_of(self.source.event_time)) if self.source.event_time else []
        missing = frame["@time"].is_null()
        for row in frame.filter(missing).select("@record", *names).iter_rows():
            malformed[row[0]] = "no event time: " + ", ".join(f"{name} is {value!r}" for name, value in zip(names, row[1:], strict=True))
        return frame.filter(~missing)


def _take_out(frame: pl.DataFrame, bad: pl.Series, detail: str, malformed: dict[int, str]) -> pl.DataFrame:
    malformed.update(dict.fromkeys(frame["@record"].filter(bad), detail))
    return frame.filter(~bad)


def _shown(time: int) -> str:
    try:
        return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time} ms"
