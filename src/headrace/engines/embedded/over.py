"""Running aggregates, as a process whose rows are computed many at once where that pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import polars as pl

from headrace.engines.embedded.processing import ProcessStage
from headrace.engines.embedded.stage import Emitted, Setting, Turn
from headrace.kernels.columnar.order import due_before
from headrace.kernels.columnar.over import OverKernel
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.columnar.window import key_text
from headrace.kernels.reading.text import polars_type
from headrace.plan.graph import Node
from headrace.plan.operators import Over

__all__ = ["OverStage"]

_MANY = 512  # rows from which on the columnar kernel pays


class OverStage(ProcessStage):
    """A process of running aggregates. Its state is that of the keyed kernel, whichever kernel worked on it."""

    def __init__(self, node: Node[Over], setting: Setting) -> None:
        super().__init__(node, setting)
        self._columnar = OverKernel(node.operator)
        self._open = True  # whether rows may wait for later ones

    def settle(self, turn: Turn) -> Iterator[Emitted]:
        """Judge the rows that came, and emit those that are due; where the input ends, those too that wait for later ones."""
        yield from super().settle(turn)
        if self.kernel.at_end is None:
            return
        self._open = self._open or turn.ends_with is None
        if turn.ends_with is not None and self.watermark >= self._end_of(turn.ends_with):
            yield from self._frames(self.scheduler.end(self.watermark))
            self._open = False

    def next_firing_time(self, upto: float, ends_with: Mapping[str, int] | None) -> int | None:
        """Return the watermark at which all that is due before has been done; at the end of the input rows may wait that emits."""
        found = super().next_firing_time(upto, ends_with)
        if found is None and ends_with is not None and self.kernel.at_end is not None and self._open:
            return max(self._end_of(ends_with), self.watermark)
        return found

    def _advance(self, clock: int) -> list[tuple[str, pl.DataFrame]]:
        """Move the clock, and return the rows of all times before it."""
        if clock <= self.watermark:
            return []
        self._watermark = clock
        port = self._ports[self.node.input]
        due = due_before(port.buffer, clock)
        if due is None or len(due) < _MANY or not self._columnar.suits:
            records = () if due is None else self._records([(len(due), port.run(due, port.number))])
            return self._frames(chain(self.scheduler.run(records), self.scheduler.advance(clock)))
        self._handled += len(due)
        emitted = self._computed(due)
        self._frames(self.scheduler.advance(clock))
        return [("", emitted)]

    def _computed(self, due: pl.DataFrame) -> pl.DataFrame:
        results = self._columnar(due, self.keyspace.states_of)
        columns = [
            results[field.name].cast(polars_type(field.type)) if field.name in results else due[field.name] for field in self._schemas[""].fields
        ]
        time = due["@time"]
        frame = pl.DataFrame([time, time.alias("@record"), *columns])
        hidden: list[Any] = [
            pl.lit(NEVER, pl.Int64).alias("@watermark"),
            pl.lit(-1, pl.Int64).alias("@partition"),
            pl.lit(None, pl.Int64).alias("@offset"),
        ]
        key = [key_text(self.operator.keys)] if self._keyed else []
        return frame.with_columns(*hidden, pl.lit(None, pl.Int64).alias("@arrived"), *key)
