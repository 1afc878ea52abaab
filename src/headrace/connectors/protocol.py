"""The protocol of connectors: a source of events or a target of records. The runners `Ingest` and `Forward` do the rest.

Connectors are asynchronous, because the clients of MQTT, OPC UA, HTTP and most databases are, and because one process runs many
connectors at once. Topics are synchronous, so a runner calls its log in a thread. A connector whose library blocks does the
same: `await asyncio.to_thread(write, batch)`.

A connector never sees the log. It does not commit, retry or count; it reports what the outside system said, by returning or by
raising `Unavailable` or `Refused`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.errors import EnvironmentFault

if TYPE_CHECKING:
    from headrace.kernels.reading.batch import Lines

__all__ = ["EndingSource", "Event", "JoiningTarget", "Record", "Refused", "Source", "Target", "Unavailable"]


class Unavailable(EnvironmentFault):
    """The outside system does not answer, or cannot serve now. The runner waits and tries again."""


class Event(NamedTuple):
    """An event of a source.

    Attributes
    ----------
    value
        The record that the topic gets: one JSON object. A line feed in it becomes a carriage return, which is white space in JSON too.
    position
        Where the source resumes after this event, as a value of JSON. None: the source has no positions. `{"session": NAME}` is the
        same for all events of a session, in which the outside system delivers again what was not acknowledged.
    key
        The record's key, which chooses its partition.
    id
        A name that no other event of the source has. Needed if the source may deliver an event again (`Source.redelivers`).
    token
        Anything that the source needs to acknowledge the event.
    repeats
        Whether it may be a repetition. False: the source knows that it delivers the event for the first time, so it is none even if its
        id is known.
    malformed
        Why `value` cannot be a record: it goes to TOPIC.dead-letter as it came, with this detail. None: it is a record.
    partition
        The partition that the record goes to, whatever its key; None: the key chooses it.
    shed
        How many events before this one the outside system had dropped before they were read, where that is known.
    """

    value: bytes
    position: Any = None
    key: str | bytes | None = None
    id: str | None = None
    token: Any = None
    repeats: bool = True
    malformed: str | None = None
    partition: int | None = None
    shed: int = 0


class Source(ABC):
    """A connector in: events of one outside system.

    Attributes
    ----------
    name
        The address without passwords. It is committed with the position, so that another address does not resume there.
    redelivers
        How many events the source delivers before it waits for acknowledgements, and may deliver again before new ones if these are
        lost. The runner commits the ids of the last so many events, and drops an event whose id is among them. 0: an event does
        not come again.
    window
        After how many events it waits for acknowledgements, if that is sooner; 0: after `redelivers`.
    pause_seconds
        How long to wait before the source is opened again if it gave no event: the interval of a source that is polled.
    tell
        Reports a line of what the source noticed and went on: a gap, polls that were skipped. The runner sets it.
    batch_seconds
        How long to collect events before they are committed, at most. A shorter time makes more commits.
    partitions
        How many partitions the runner gives a topic that it creates. 0: the source has partitions of its own and sets their number when
        it is opened; its events name them, and no key chooses another.
    """

    name: str
    redelivers: int = 0
    window: int = 0
    pause_seconds: float = 1.0
    tell: Callable[[str], object] = staticmethod(lambda _: None)
    batch_seconds: float = 0.1
    partitions: int = 1

    @abstractmethod
    async def open(self, position: Any) -> AsyncGenerator[Event] | None:  # noqa: ANN401  (a value of JSON)
        """Connect, and return the events after a position; None if there will be no more.

        When the events end, the runner opens the source again, after the last event that it has read.

        Parameters
        ----------
        position
            That of the last event, or None: from the first one.

        Raises
        ------
        Unavailable
            If the outside system does not answer. The events may raise it too: the connection is lost.
        PlanError, DataError
            If trying again cannot help: the address is wrong, or what comes cannot be resumed.
        """

    async def acknowledge(self, events: Sequence[Event]) -> None:  # noqa: B027  (a source without acknowledgements has nothing to do)
        """Acknowledge events to the outside system. They are committed, or are repetitions of committed ones."""

    async def close(self) -> None:  # noqa: B027  (a source may have nothing open)
        """Close connections. The source may be opened again afterwards."""


class EndingSource(Source):
    """A source that can end where the outside system ends now.

    Attributes
    ----------
    latest
        Whether it does.
    """

    latest: bool = False


class Refused(Exception):
    """The target does not take a record now, and another try may help. The runner tries a few times, then sets the record aside.

    Parameters
    ----------
    reason
        Why, in a few words: the detail of the dead letter.
    at
        The place of the refused record among those that were sent: those before it are applied, those after it are not, or may be
        applied again. None: it is not known which record was refused, and nothing is known of the others.
    """

    def __init__(self, reason: str, at: int | None = None) -> None:
        super().__init__(reason, at)
        self.reason, self.at = reason, at


class Record(NamedTuple):
    """A record of a topic on its way out.

    Attributes
    ----------
    arrived_ms
        When the log took it, ms since the epoch.
    order
        Its place among the records of all topics that are read together; it never falls within a partition.
    """

    topic: str
    partition: int
    offset: int
    arrived_ms: int
    key: bytes | None
    value: bytes
    order: int = 0

    @property
    def id(self) -> str:
        """The idempotency key: the same at each try, and after a restart. A topic that is created again uses the same keys again."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class Target(ABC):
    """A connector out: records into one outside system.

    Attributes
    ----------
    name
        The address without passwords. It is committed with the cursor, so that another address does not resume there.
    most_records
        How many records to send at once, at most.
    """

    name: str
    most_records: int = 1000

    @abstractmethod
    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Apply records, in their order, and return when they are durable in the outside system.

        A record may be sent again after it was applied: after an outage, or after `kill -9`. Use its `id` as the idempotency key, so
        that it is then applied once. A send that gets no answer in time must raise `Unavailable`.

        Returns
        -------
        Why records can never be taken, by their place among the records; the others are applied. None is: all are applied.

        Raises
        ------
        Unavailable
            If the outside system does not answer, or says that it cannot serve now: all are sent again, for ever.
        Refused
            If it does not take a record, and another try may help.
        """

    async def close(self) -> None:  # noqa: B027  (a target may have nothing open)
        """Close connections. Records may be sent again afterwards."""


class JoiningTarget(Target):
    """A target that needs the records of other topics, which came into the log before those that it is sent.

    Attributes
    ----------
    beside
        These topics. A record is sent when all that came before it in them has been observed.
    lacking
        What comes of records beside that retention dropped before they were observed, for the line that reports it.
    """

    beside: Sequence[str] = ()
    lacking: str = "they are not observed"

    @abstractmethod
    def observe(self, topic: str, partition: int, lines: Lines) -> None:
        """Take in records of a topic beside, with their stamps. Called in a thread of the runner, never while records are sent."""

    @abstractmethod
    def retained(self, topic: str, partition: int) -> int | None:
        """Return the first offset of a topic beside that has to be observed again after a restart; None if there is none."""

    @abstractmethod
    def saved(self) -> Any:  # noqa: ANN401  (a value of JSON)
        """Return the state to be committed with the cursor."""

    @abstractmethod
    def restore(self, saved: Any) -> None:  # noqa: ANN401
        """Forget what was observed, and resume from a state. None: the topics beside are observed from their first records."""
