"""From records as read to rows of a stream: what must be there is there, and every row has its event time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from headrace.kernels.columnar.compile import compile_expression
from headrace.kernels.reading.batch import Read
from headrace.plan.expression import Call, Column, Literal, columns_of
from headrace.plan.operators import Source
from headrace.plan.schema import BIGINT

__all__ = ["Intake"]


@dataclass
class Intake:
    """The checks of a source's records beyond readability."""

    source: Source
    _time: pl.Expr | None = field(init=False)
    _number: pl.Expr | None = field(init=False, default=None)
    _unit: tuple[str, int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        event_time = self.source.event_time
        match event_time:
            case Call("TO_TIMESTAMP_LTZ", (number, Literal(0 | 3 as unit))) if number.type == BIGINT:
                self._number = compile_expression(number).alias("@number")
                self._unit = number.name if isinstance(number, Column) else "…", int(unit)
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
            numbers = self._numbers(frame, missing)
            for row, number in zip(frame.select("@record", *names).filter(missing).iter_rows(), numbers, strict=True):
                detail = "no event time: " + ", ".join(f"{name} is {value!r}" for name, value in zip(names, row[1:], strict=True))
                malformed.setdefault(row[0], detail + self._hint(number))
            yield missing
        first, last = self.source.range_ms
        absurd = (times < first) | (times >= last)
        if absurd.any():
            numbers = self._numbers(frame, absurd)
            for (record, time), number in zip(frame.select("@record", "@time").filter(absurd).iter_rows(), numbers, strict=True):
                malformed.setdefault(record, f"event time {_shown(time)} is outside {_shown(first)} to {_shown(last)}{self._hint(number)}")
            yield absurd.fill_null(value=False)

    def _numbers(self, frame: pl.DataFrame, bad: pl.Series) -> Iterable[int | None]:
        """Return of the `bad` records the number that their event time is made of; None where it is made of something else."""
        rows = frame.filter(bad)
        return [None] * len(rows) if self._number is None else rows.select(self._number).to_series()

    def _hint(self, number: int | None) -> str:
        """Return what to write if the number is a believable time in another unit."""
        if number is None or self._unit is None:
            return ""
        name, declared = self._unit
        first, last = self.source.range_ms
        for unit, ms, written in (
            ("seconds", number * 1000, f"TO_TIMESTAMP_LTZ({name}, 0)"),
            ("milliseconds", number, f"TO_TIMESTAMP_LTZ({name}, 3)"),
            ("microseconds", number // 1000, f"TO_TIMESTAMP_LTZ({name} / 1000, 3)"),
            ("nanoseconds", number // 1_000_000, f"TO_TIMESTAMP_LTZ({name} / 1000000, 3)"),
        ):
            if first <= ms < last and unit != {0: "seconds", 3: "milliseconds"}[declared]:
                return f": {number} looks like {unit}: write {written}"
        return ""


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
