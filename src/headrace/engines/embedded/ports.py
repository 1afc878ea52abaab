"""The inputs of a process while it runs: what came in a turn is judged there, and waits until it is due."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import polars as pl

from headrace.engines.embedded.skipping import Skipping
from headrace.kernels.columnar.order import due_before, gathered, in_order, in_time
from headrace.kernels.keyed.compiled import row_maker
from headrace.kernels.keyed.schedule import BROADCAST, RECORDS, Record, overdue
from headrace.kernels.reading.text import polars_type
from headrace.plan.graph import Node
from headrace.plan.operators import Operator, Process
from headrace.plan.schema import Schema

__all__ = ["Port", "in_arrival", "ports_of"]

_HIDDEN = ("@time", "@record", "@partition", "@offset", "@arrived")
_Frames = dict[int, list[pl.DataFrame]]


@dataclass
class Port:
    """An input of a process. Frames are by rank.

    Attributes
    ----------
    number
        Its number in the order of the scheduler.
    keys
        The columns of the key; None of the broadcast.
    late
        What becomes of late records: `drop`, `take` or `side`. Derived rows are never late, and of no record: then it is None.
    late_topic
        Where late records are written.
    clock_column
        Where it does not hold the watermark back: the column with the watermark of the process before each record.
    waiting
        The rows of this turn.
    buffer
        Buffered rows, in the order of offsets.
    overdue
        Rows behind the watermark of the process, which are due there.
    skipping
        What leaves out the records that the process need not be called with; None if all are handed over.
    """

    number: int
    schema: Schema
    keys: tuple[str, ...] | None
    late: str | None
    late_topic: str | None = None
    clock_column: str | None = None
    name: str = ""
    waiting: _Frames = field(default_factory=dict)
    buffer: _Frames = field(default_factory=dict)
    overdue: _Frames = field(default_factory=dict)
    skipping: Skipping | None = None

    def admit(self, watermark: int, reached: list[pl.Series], taken: list[pl.Series]) -> pl.DataFrame | None:
        """Buffer what came in this turn as far as it is not late; return what is to be written as late, in the order of the input.

        `watermark` is how far the process has worked. The records that came, and those that are accepted, are added to `reached` and `taken`.
        """
        late = []
        for rank, rows in gathered(self.waiting):
            accepted = rows
            if self.late is not None:
                on_time = None if self.late == "take" else pl.col("@time") >= self._behind(watermark)
                accepted = rows if on_time is None else rows.filter(on_time)
                reached.append(rows["@record"])
                taken.append(accepted["@record"])
                if self.late_topic is not None and on_time is not None:
                    late.append(rows.filter(~on_time))
            self._buffer(rank, accepted, watermark)
        return in_order(late) if sum(map(len, late)) else None

    def _behind(self, watermark: int) -> pl.Expr:
        """Return the watermark that a record must not be behind of. An input that is new in a pipeline must not be behind the process."""
        if self.number <= RECORDS:
            return pl.col("@watermark")
        return pl.max_horizontal("@watermark", self._reached(watermark))

    def _reached(self, watermark: int) -> pl.Expr:
        return pl.lit(watermark) if self.clock_column is None else pl.max_horizontal(self.clock_column, pl.lit(watermark))

    def _buffer(self, rank: int, rows: pl.DataFrame, watermark: int) -> None:
        if self.late == "take":
            if self.clock_column is not None:
                reached = self._reached(watermark)
                behind = (pl.col("@time") < reached) & (pl.col("@watermark") <= reached)
                self._add(self.overdue, rank, rows.filter(behind).with_columns(reached.alias("@time")))
                rows = rows.filter(~behind)
            rows = rows.with_columns(pl.max_horizontal("@time", self._behind(watermark)).alias("@time"))
        self._add(self.buffer, rank, rows)

    def _add(self, frames: _Frames, rank: int, rows: pl.DataFrame) -> None:
        if len(rows):
            frames.setdefault(rank, []).append(in_time(_kept(rows, self.schema.names)))

    @property
    def overdue_until(self) -> int | None:
        """The watermark at which the last of the overdue rows is due."""
        return max((int(rows["@time"][-1]) for parts in self.overdue.values() for rows in parts), default=None)

    @property
    def span(self) -> Iterator[int]:
        """The first and the last time of each frame of buffered rows."""
        for parts in self.buffer.values():
            for rows in parts:
                if len(rows):
                    yield int(rows["@time"][0])
                    yield int(rows["@time"][-1])

    def __len__(self) -> int:
        return sum(len(rows) for parts in self.buffer.values() for rows in parts)

    def due(self, clock: int) -> Iterator[tuple[int, Iterable[Record]]]:
        """Take out the rows of times before the clock, and the overdue ones: their number, and they as sorted records."""
        for number, frames, upto in ((overdue(self.number), self.overdue, clock + 1), (self.number, self.buffer, clock)):
            rows = due_before(frames, upto) if frames else None
            if rows is not None:
                yield len(rows), self.run(rows, number)

    def run(self, rows: pl.DataFrame, number: int) -> Iterable[Record]:
        """Return its sorted rows as the scheduler takes them, as an author's process sees them; in the order of arrival they have `@at` and `@due`."""
        due = "@due" if "@due" in rows.columns else "@time"
        if self.skipping is None:
            return self._handed(rows, number, due)
        if number == RECORDS:
            return chain.from_iterable(self._handed(part, number, due) for part in self.skipping.parts(rows, due))
        self.skipping.note(rows, self.keys)
        return self._handed(rows, number, due)

    def _handed(self, rows: pl.DataFrame, number: int, due: str) -> Iterable[Record]:
        at = "@at" if "@at" in rows.columns else "@time"
        hidden = {name: rows[name].to_list() for name in ("@partition", "@offset", "@time", "@arrived", at, due)}
        columns = {one.name: rows[one.name].cast(_plain(polars_type(one.type))).to_list() for one in self.schema.fields}
        passed = [rows["@passed"].to_list()] if "@passed" in rows.columns else []
        made = map(row_maker([*self.schema.names, *(["@passed"] if passed else [])]), *columns.values(), *passed)
        of_keys = repeat(None) if self.keys is None else zip(*[columns[key] for key in self.keys], strict=True)
        place = hidden["@partition"], repeat(0), hidden["@offset"], repeat(None)
        return zip(hidden[at], repeat(number), *place, hidden[due], hidden["@time"], hidden["@arrived"], of_keys, made)


def ports_of(node: Node[Process], clock_column: str, *, silences: bool) -> dict[Node[Operator], Port]:
    """Return the inputs of a process by node, the stream itself first. Where topics can fall silent, some do not hold the watermark back."""
    process = node.operator
    ports = {node.input: Port(RECORDS, process.record_schema, process.keys, None if node.input.traits.derived else "drop")}
    if node.broadcast is not None and process.broadcast_schema is not None:
        ports[node.broadcast] = Port(BROADCAST, process.broadcast_schema, None, None if node.broadcast.traits.derived else "take")
    for number, (given, one) in enumerate(node.others, RECORDS + 1):
        unheld = silences and not one.holds and not process.arrival
        late = None if given.traits.derived else one.late
        ports[given] = Port(number, one.schema, one.keys, late, one.late_topic, clock_column if unheld else None, one.name)
    return ports


def in_arrival(ports: Sequence[Port], clock_column: str) -> tuple[pl.Series, list[tuple[Port, pl.DataFrame]]] | None:
    """Take out what came in this turn, in the order of the input: the records, and the rows of each input that has any."""
    parts = {port.number: dict(gathered(port.waiting)) for port in ports}
    hidden = []
    for rank in sorted({rank for frames in parts.values() for rank in frames}):
        mine = [_numbered(frames[rank], clock_column, number) for number, frames in parts.items() if rank in frames]
        hidden.append(mine[0] if len(mine) == 1 else pl.concat(mine).sort("@record", maintain_order=True))
    if not hidden:
        return None
    every = in_order(hidden).with_row_index("@at")
    alone = sum(map(bool, parts.values())) == 1
    found = []
    for port in ports:
        if frames := [_kept(rows, port.schema.names, "@order") for _, rows in sorted(parts[port.number].items())]:
            places = every if alone else every.filter(pl.col("@port") == port.number)
            found.append((port, in_order(frames).hstack(places[["@at", "@due"]])))
    return every["@record"], found


def _numbered(rows: pl.DataFrame, clock_column: str, port: int) -> pl.DataFrame:
    """Return where rows of a port are in the order of the input."""
    number = pl.Series("@port", [port], dtype=pl.Int32).new_from_index(0, len(rows))
    return rows[["@record", "@order"]].hstack([rows[clock_column].alias("@due"), number])


def _kept(rows: pl.DataFrame, names: Sequence[str], *more: str) -> pl.DataFrame:
    return rows[[*_HIDDEN, *more, *names]]


def _plain(kind: Any) -> Any:  # noqa: ANN401
    """Return a type with timestamps as whole numbers of ms."""
    match kind:
        case pl.Datetime():
            return pl.Int64()
        case pl.List(inner=inner):
            return pl.List(_plain(inner))
        case pl.Map(key=key, value=value):
            return pl.Map(key, _plain(value))
        case pl.Struct(fields=fields):
            return pl.Struct({one.name: _plain(one.dtype) for one in fields})
    return kind
