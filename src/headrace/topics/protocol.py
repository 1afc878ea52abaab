"""The protocol of topics for engines, connectors and commands: files, the SQLite log and Kafka."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from headrace.errors import EnvironmentFault

if TYPE_CHECKING:
    from headrace.kernels.reading.batch import Records

__all__ = [
    "Away",
    "Claim",
    "Commit",
    "Cursor",
    "Entry",
    "Feed",
    "HeaderedReader",
    "KeyedReader",
    "Log",
    "Outgoing",
    "PartitionInfo",
    "PartitionReader",
    "TopicInfo",
]


class Away(EnvironmentFault):
    """A log does not answer, or does not say whether a commit stands. Who opens anew once it answers goes on from what it has."""


class PartitionReader(Protocol):
    """Reads one partition from front to back.

    Attributes
    ----------
    name
        What errors call it.
    columns
        The columns it says it has, or None where each record is a JSON object with keys of its own.
    separator
        What stands between the cells of a record, where records are text and have cells.
    finished
        Whether nothing more will come.
    drained
        Whether nothing more is there now. What is finished is drained.
    """

    name: str

    @property
    def columns(self) -> list[str] | None:
        """See above."""

    @property
    def separator(self) -> str | None:
        """See above."""

    @property
    def finished(self) -> bool:
        """See above."""

    @property
    def drained(self) -> bool:
        """See above."""

    @property
    def position(self) -> dict[str, Any]:
        """Where the next record stands, its number as `record`; `seek` takes it."""

    def seek(self, position: dict[str, Any]) -> None:
        """Go on reading at a position."""

    def read(self) -> Records:
        """Return the next records, few when few are there; none at the end, or where there were blank lines only."""

    def close(self) -> None:
        """Let go of what is open."""


@runtime_checkable
class KeyedReader(Protocol):
    """A reader of a log whose records have keys; their stamps tell them if `keyed` is set."""

    keyed: bool


@runtime_checkable
class HeaderedReader(Protocol):
    """A reader of a log whose records have headers; their stamps tell them if `headered` is set."""

    headered: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a log."""

    topic: str
    partition: int
    offset: int
    arrived_ms: int
    key: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition of a log's topic: its number, its first offset, the one behind its last, and its bytes where they are known."""

    number: int
    first: int
    end: int
    size: int | None = None


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic of a log; how long its records are kept, in ms, and up to how many bytes a partition: None is without end."""

    name: str
    partitions: tuple[PartitionInfo, ...]
    replication: int
    retention_ms: int | None
    retention_bytes: int | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a named reader, a pipeline say, has come in a partition: the offset it will read next."""

    group: str
    topic: str
    partition: int
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Records to be written to a topic, as lines of JSON without the last line end.

    `keys` are their keys, if they have any. `partition` is the partition that they all go to, whatever their keys; a topic of
    fewer partitions takes them in the one that is left of it by division.
    """

    topic: str
    lines: bytes
    count: int
    keys: Sequence[str | bytes | None] | None = None
    partition: int | None = None

    @property
    def key_bytes(self) -> list[bytes | None] | None:
        """The keys as a log keeps them."""
        return None if self.keys is None else [key.encode() if isinstance(key, str) else key for key in self.keys]


@dataclass(frozen=True, slots=True)
class Commit:
    """A step of work that is to be made durable, all of it or nothing.

    Attributes
    ----------
    manifest
        What the pipeline is now.
    state
        New parts of its state, by name.
    kept
        The names of all parts that it needs from now on.
    outgoing
        What it has to say.
    cursors
        The next offset to read, by topic and partition.
    """

    manifest: bytes
    state: Mapping[str, bytes]
    kept: Collection[str]
    outgoing: Sequence[Outgoing]
    cursors: Mapping[tuple[str, int], int]


class Feed(Protocol):
    """The partitions of some topics of a log, read together.

    Attributes
    ----------
    readers
        A reader of each partition, by topic, in the order of their numbers.
    identities
        What distinguishes each topic from a later one of the same name.
    """

    @property
    def readers(self) -> Mapping[str, Sequence[PartitionReader]]:
        """See above."""

    @property
    def identities(self) -> Mapping[str, str]:
        """See above."""

    def fetch(self, most: int | None = None) -> bool:
        """Take in what is there, up to some MB or `most` records, and return whether there was anything.

        Readers give what was fetched.
        """

    def hold(self, partitions: Collection[tuple[str, int]]) -> None:
        """Fetch nothing of these partitions, by topic and number, and of all others again, where partitions are fetched separately."""

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Return how many records of each partition are still to be fetched."""

    def close(self) -> None:
        """Let go of what is open."""


class Claim(Protocol):
    """A pipeline that this process owns, and what it has committed.

    Attributes
    ----------
    manifest
        The last commit's, or None before the first.
    """

    @property
    def manifest(self) -> bytes | None:
        """See above. Raises EnvironmentFault if it is damaged."""

    def load(self, name: str) -> bytes:
        """Return a part of the state that the last commit stored."""

    def commit(self, commit: Commit) -> None:
        """Make a step of work durable, all of it or nothing.

        Raises
        ------
        Away
            If the log does not answer: whether the commit stands may not be known, and this claim makes no other.
        EnvironmentFault
            If it cannot be done, or another process has taken the pipeline. What was committed before stands.
        """

    def forget(self) -> None:
        """Forget what the pipeline has committed: it starts anew."""

    def release(self) -> None:
        """Give the pipeline up."""


class Log(Protocol):
    """Topics with partitions and offsets. What `append` and `commit` took is durable when they return."""

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Create a topic.

        Raises
        ------
        PlanError
            If there is one of that name, or a number cannot be.
        """

    def alter(self, topic: str, *, retention_ms: int | None, retention_bytes: int | None) -> None:
        """Set how long a topic keeps its records, and how many bytes a partition; None is for ever."""

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records."""

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name."""

    def topic(self, name: str) -> TopicInfo:
        """Return one topic.

        Raises
        ------
        PlanError
            If there is none of that name.
        """

    def append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None) -> None:
        """Append records; those of one key go to one partition, in their order."""

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""

    def offsets_at(self, topic: str, arrived_ms: int) -> list[int]:
        """Return, for each partition, the offset of the first record that arrived at a time or after it; the end if there is none.

        Raises
        ------
        PlanError
            If there is no topic of that name.
        """

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, by topic and partition."""

    def feed(self, topics: Sequence[str], *, latest: bool = False, skip_gone: bool = False) -> Feed:
        """Return a feed of topics from their first records on; with `latest` it ends where the topics end now.

        What retention takes before it was read is an error, unless `skip_gone`.
        """

    def manifest(self, pipeline: str) -> bytes | None:
        """Return what a pipeline's last commit said of it, whoever owns it; None if there is none."""

    def claim(self, pipeline: str) -> Claim:
        """Make this process the owner of a pipeline.

        Raises
        ------
        EnvironmentFault
            If another process owns it.
        """

    def heed(self, stop: Callable[[], bool]) -> None:
        """Have whatever waits for a server end within seconds, in vain, once `stop` says so."""

    def close(self) -> None:
        """Let go of what is open."""
