"""The contract of stages: the nodes that buffer rows until the watermark passes them. Windows and processes are stages.

The graph routes rows to stages and moves their watermark. It knows no stage by kind. A stage says what it emits, which state it has,
and what is open in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import polars as pl

from headrace.engines.embedded.state import Loading, Saving
from headrace.kernels.columnar.watermark import FEW
from headrace.plan.graph import Node
from headrace.plan.operators import Operator
from headrace.plan.pipeline import Plan

__all__ = ["Counts", "Emitted", "Fates", "Setting", "Stage", "Turn", "Write"]

Write = Callable[[str, pl.DataFrame, "pl.Series | None"], None]
# The name of an output, "" for the main one, and rows of it.
Emitted = tuple[str, pl.DataFrame]


@dataclass
class Fates:
    """The records of a turn that reached a terminal, and those of which a terminal accepted a row."""

    reached: list[pl.Series] = field(default_factory=list)
    taken: list[pl.Series] = field(default_factory=list)

    def note(self, reached: pl.Series, taken: pl.Series) -> None:
        """Note the records whose rows reached a terminal, and those it accepted rows of."""
        self.reached.append(reached)
        self.taken.append(taken)

    def count(self, first: int, behind: int) -> tuple[int, int]:
        """Return how many records in [first, behind) reached a terminal, and how many were accepted."""
        return _distinct(self.reached, first, behind), _distinct(self.taken, first, behind)


def _distinct(parts: Sequence[pl.Series], first: int, behind: int) -> int:
    filled = [part for part in parts if len(part)]
    if not filled:
        return 0
    if sum(map(len, filled)) <= FEW:
        return len({record for part in filled for record in part.to_list() if first <= record < behind})
    records = filled[0] if len(filled) == 1 else pl.concat(filled)
    inside = records.filter((records >= first) & (records < behind)) if records.min() < first or records.max() >= behind else records  # type: ignore[operator]
    if inside.is_empty():
        return 0
    return int((inside != inside.shift(1)).sum() + 1) if len(filled) == 1 and inside.is_sorted() else inside.n_unique()


@dataclass(frozen=True, slots=True)
class Setting:
    """The setting in which a stage is created.

    `keyed` says whether derived rows are written with their keys; `silences` whether topics can fall silent, so that an input that does
    not hold is not waited for; `origins` are topic and partition by rank.
    """

    plan: Plan
    write: Write
    keyed: bool
    silences: bool
    origins: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Turn:
    """The end of a turn, for one stage.

    Attributes
    ----------
    watermark
        The least watermark of the stage's sources.
    ends_with
        The last event time of each source, by topic, if the input ends here; else None.
    fates
        Where the stage notes the fates of records.
    keys
        The keys of the turn's records, by `@record`, if they have any.
    """

    watermark: int
    ends_with: Mapping[str, int] | None
    fates: Fates
    keys: pl.Series | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Metrics of a process.

    Keys, their bytes as stored, keys with a timer, and buffered rows; and since the last call: records handled, and failures.
    """

    keys: int
    state_bytes: int
    timers: int
    waiting: int
    handled: int
    failed: int


class Stage(ABC):
    """A stage. What most stages do not have has a default here.

    Attributes
    ----------
    version
        The version of the form in which it saves its state.
    clock_column
        The column in which it reads the watermark before each row, if it is `clocked`.
    code, code_before
        The digests of an author's code in it, and of the code that left its state if that was another.
    """

    version: ClassVar[int]
    node: Node[Any]
    clock_column: str
    code: str | None = None
    code_before: str | None = None

    @property
    @abstractmethod
    def watermark(self) -> int:
        """How far it has worked."""

    @property
    def clocked(self) -> bool:
        """Whether it reads the watermark before each row."""
        return False

    @property
    def ordered(self) -> bool:
        """Whether its results depend on the order of its input across partitions."""
        return False

    @property
    def placed(self) -> bool:
        """Whether rows need their partition and offset."""
        return False

    @property
    def passes_records(self) -> bool:
        """Whether it writes rows of records as they are, with their keys."""
        return False

    @abstractmethod
    def wait(self, given: Node[Operator], rank: int, rows: pl.DataFrame) -> None:
        """Buffer rows of one of its inputs for the end of the turn."""

    @abstractmethod
    def settle(self, turn: Turn) -> Iterator[Emitted]:
        """End a turn: judge the rows that came in it, advance the watermark, and yield what is emitted."""

    @abstractmethod
    def next_firing_time(self, upto: float, ends_with: Mapping[str, int] | None) -> int | None:
        """Return the greatest watermark, at most `upto`, at which something is due; None if nothing is.

        `ends_with` is the last event time of each source, where the input ends with them.
        """

    @property
    def next_clock_timer(self) -> int | None:
        """When its first processing-time timer is due."""
        return None

    def fire_clock(self, now: int) -> Iterable[Emitted]:  # noqa: ARG002
        """Call the processing-time timers that are due, and return what is emitted."""
        return ()

    @abstractmethod
    def save(self, saving: Saving) -> dict[str, Any]:
        """Return its state, with parts stored by `saving`."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any], loading: Loading) -> None:
        """Take a saved state, with parts read by `loading`."""

    def forget_touched(self) -> None:  # noqa: B027  (most have nothing to forget)
        """Forget which parts of its state have changed, where nothing is ever committed."""

    @abstractmethod
    def open_counts(self) -> Mapping[str, int]:
        """Return what is open: `windows` with rows that have not closed, event-time `timers`."""

    def counts(self) -> Counts | None:
        """Return its metrics, if it has any."""
        return None

    def take_duplicates(self) -> Mapping[str, int]:
        """Return how many records of each topic were found to be duplicates since the last call."""
        return {}

    @property
    def failures(self) -> tuple[str, int] | None:
        """The topic of its failures and their number in this run, if there are any."""
        return None
