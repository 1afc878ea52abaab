"""A window of a plan while it runs, as a stage around the columnar kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import polars as pl

from headrace.engines.embedded.stage import Emitted, Setting, Stage, Turn
from headrace.engines.embedded.state import Loading, Saving
from headrace.kernels.columnar.coding import as_texts
from headrace.kernels.columnar.order import gathered, in_order
from headrace.kernels.columnar.watermark import FOREVER, NEVER
from headrace.kernels.columnar.window import WindowKernel, WindowState
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Operator, Process, Regroup, Sink, TopN
from headrace.plan.pipeline import Plan

__all__ = ["WindowStage"]

_FRAMES = ("folded", "stragglers", "revisions")


class WindowStage(Stage):
    """A window. Its rows may be derived ones."""

    version: ClassVar[int] = 1
    node: Node[Aggregate]

    def __init__(self, node: Node[Aggregate], setting: Setting) -> None:
        self.node = node
        self.clock_column = f"@clock{node.id}"
        self.kernel = WindowKernel(node.operator, _revise_by(setting.plan, node), self.clock_column, keyed=setting.keyed)
        self.state = WindowState()
        self._write = setting.write
        self._derived, self._behind = node.input.traits.derived, node.input.traits.passed
        self._waiting: dict[int, list[pl.DataFrame]] = {}

    @property
    def watermark(self) -> int:
        """How far it has worked."""
        return self.state.clock

    @property
    def clocked(self) -> bool:
        """With allowed lateness it revises windows as each late row comes."""
        return bool(self.kernel.lateness)

    @property
    def ordered(self) -> bool:
        """Revisions and late rows come in the order of the input."""
        return bool(self.kernel.lateness or self.node.operator.late_topic)

    @property
    def passes_records(self) -> bool:
        """Late rows are written as they came."""
        return bool(self.node.operator.late_topic)

    def wait(self, given: Node[Operator], rank: int, rows: pl.DataFrame) -> None:  # noqa: ARG002
        """Buffer rows for the end of the turn. Derived rows are never late: their watermark is the window's own."""
        if self._derived:
            closed = pl.lit(self.state.clock, pl.Int64)
            rows = rows.with_columns(closed.alias("@watermark"), closed.alias(self.clock_column))
        self._waiting.setdefault(rank, []).append(rows)

    def settle(self, turn: Turn) -> Iterator[Emitted]:
        """Judge the rows that came, write those that are late, and emit the windows that close."""
        late = []
        parts = gathered(self._waiting)
        if self.kernel.lateness and parts:
            parts = [(0, in_order([rows for _, rows in parts]))]
        for rank, rows in parts:
            fed = self.kernel.feed(self.state, rank, rows)
            if not self._derived:
                turn.fates.note(rows["@record"], fed.taken)
            late.append(fed.late)
            for emitted in fed.emitted:
                yield "", emitted
        self._write_late(late, turn.keys)
        # Rows that a process emits for a time come when the watermark is past it.
        behind = self._behind and NEVER < turn.watermark < FOREVER
        for rows in self.kernel.advance(self.state, turn.watermark - 1 if behind else turn.watermark):
            yield "", rows

    def _write_late(self, late: list[pl.DataFrame], keys: pl.Series | None) -> None:
        topic = self.node.operator.late_topic
        if topic and sum(map(len, late)):
            rows = in_order(late)
            theirs = None if keys is None or self._derived else keys.gather(rows["@record"])
            self._write(topic, rows.select(self.node.input.schema.names), theirs)

    def next_firing_time(self, upto: float, ends_with: Mapping[str, int] | None) -> int | None:  # noqa: ARG002
        """Return the watermark at which the last window with rows closes that can close by `upto`."""
        end = self.kernel.last_open_end(self.state)
        if end is None:
            return None
        behind = 0 if self._behind else 1
        clock = self.kernel.window.end_by(int(min(upto + behind, end))) - behind
        return clock if clock + behind - 1 > self.state.clock else None

    def save(self, saving: Saving) -> dict[str, Any]:
        """Return the watermark, the buffered rows and the folded slices."""
        for parts in self.state.buffer.values():
            parts[:] = map(as_texts, parts)
        frames = {name: saving.frame(frame) for name in _FRAMES if (frame := getattr(self.state, name)) is not None}
        return {"clock": self.state.clock, "buffer": saving.buffer(self.state.buffer), **frames}

    def restore(self, state: Mapping[str, Any], loading: Loading) -> None:
        """Take these again."""
        self.state = WindowState(clock=state["clock"], buffer=loading.buffer(state["buffer"]))
        for name in (one for one in _FRAMES if one in state):
            setattr(self.state, name, loading.frame(state[name]))

    def open_counts(self) -> Mapping[str, int]:
        """Return how many windows have rows and have not closed."""
        return {"windows": self.kernel.count_open(self.state)}


def _revise_by(plan: Plan, window: Node[Aggregate]) -> list[str]:
    """Return the keys of the coarsest group into which the window's rows are gathered downstream."""
    common = set(window.operator.keys)
    pending: list[tuple[Node[Operator], dict[str, str]]] = [(window, {key: key for key in window.operator.keys})]
    while pending:
        above, keys = pending.pop()
        for one in plan.consumers(above):
            left = {name: key for old, key in keys.items() for name in one.operator.unchanged(old)}
            if isinstance(one.operator, TopN):
                common &= {key for name, key in keys.items() if name in one.operator.keys}
            elif one.is_a(Regroup):
                common &= set(left.values())
            if not one.is_a(Sink, Process):
                pending.append((one, left))
    return [key for key in window.operator.keys if key in common]
