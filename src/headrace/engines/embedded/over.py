"""Running aggregates, as a process whose rows are computed many at once where that pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from headrace.engines.embedded.batching import ColumnarStage
from headrace.engines.embedded.stage import Emitted, Setting, Turn
from headrace.kernels.columnar.over import OverKernel
from headrace.plan.graph import Node
from headrace.plan.operators import Over

__all__ = ["OverStage"]

_MANY = 512  # rows from which on the columnar kernel pays


class OverStage(ColumnarStage):
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

    def _pays(self, rows: pl.DataFrame) -> bool:
        """Whether there are many rows, whose values the columnar kernel can take."""
        return len(rows) >= _MANY and self._columnar.suits

    def _computed(self, rows: pl.DataFrame) -> list[Emitted]:
        """Return the rows with the aggregates."""
        return [("", self._emitted(rows, self._columnar(rows, self.keyspace.states_of), self._schemas[""]))]
