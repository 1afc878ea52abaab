"""A run over history whose rows are collected, and which knows from when to when the history is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from headrace.engines.embedded.run import Progress, Run
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.ledger import Account
from headrace.plan.pipeline import Plan
from headrace.topics.dead_letters import DeadLetter
from headrace.topics.memory import partitions_of
from headrace.topics.protocol import PartitionReader

__all__ = ["History", "run_history"]


@dataclass
class History:
    """The output of a run over history.

    Attributes
    ----------
    rows
        The rows by topic, with the columns that were asked for.
    start, end
        The first and the last event time of the topics that were asked for, ms since the epoch; None if they had none.
    ledger
        What became of the records, by topic that is read.
    """

    rows: dict[str, list[dict[str, Any]]]
    start: int | None = None
    end: int | None = None
    ledger: dict[str, Account] = field(default_factory=dict)

    def note(self, times: pl.Series) -> None:
        """Take in event times."""
        least, greatest = times.min(), times.max()
        if isinstance(least, int) and isinstance(greatest, int) and least > NEVER:
            self.start = least if self.start is None else min(self.start, least)
            self.end = greatest if self.end is None else max(self.end, greatest)


@dataclass(frozen=True)
class _Collected:
    """An output that retains some columns of some topics."""

    rows: dict[str, list[dict[str, Any]]]
    columns: Mapping[str, Sequence[str]]

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None = None) -> None:  # noqa: ARG002
        """Retain rows."""
        if topic in self.columns:
            self.rows[topic] += rows.select(self.columns[topic]).to_dicts()

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Do nothing: the ledger counts them."""


def run_history(
    plan: Plan,
    inputs: Mapping[str, Sequence[Path]],
    columns: Mapping[str, Sequence[str]],
    judged: Collection[str],
    progress: Callable[[Progress], None] | None = None,
) -> History:
    """Run a plan over files, as a run over files does, and return what it has written.

    Parameters
    ----------
    inputs
        Files by topic; several files of one topic are its partitions. A topic without files has no records.
    columns
        Which columns to return, by output topic.
    judged
        The topics whose event times are the history.
    progress
        Called after each turn.

    Raises
    ------
    DataError, EnvironmentFault, ProcessError
        As for a run over files.
    """
    history = History({topic: [] for topic in columns})
    with ExitStack() as stack:
        readers = {source.topic: _readers(inputs.get(source.topic, ()), source.topic, stack) for source in plan.sources}
        run = Run(plan, readers, _Collected(history.rows, columns))
        watched = [partition for partition in run.partitions if partition.source.topic in judged]
        while not run.finished:
            for partition in watched:
                if not partition.drained:
                    history.note(partition.fill()["@time"])
            run.take_turn()
            run.graph.forget_touched()
            if progress:
                progress(run.progress)
        run.finish()
    run.graph.tell_failures()
    history.ledger = run.ledger
    return history


def _readers(files: Sequence[Path], topic: str, stack: ExitStack) -> list[PartitionReader]:
    readers = []
    for reader in partitions_of([*files], f"topic {topic!r}"):
        stack.callback(reader.close)
        readers.append(reader)
    return readers
