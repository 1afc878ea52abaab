"""What a connector supplies: a source of events or a target of records. The runners `Ingest` and `Forward` do the rest.

Connectors are asynchronous, because the clients of MQTT, OPC UA, HTTP and most databases are, and because one process runs many
connectors at once. Topics are synchronous, so a runner calls its log in a thread. A connector whose library blocks does the
same: `await asyncio.to_thread(write, batch)`.

A connector never sees the log. It does not commit, retry or count; it reports what the outside system said, by returning or by
raising `Unavailable` or `Refused`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from headrace.errors import EnvironmentFault

__all__ = ["Event", "Source", "Unavailable"]


class Unavailable(EnvironmentFault):
    """The outside system does not answer, or cannot serve now. The runner waits and tries again."""


class Event(NamedTuple):
    """An event of a source.

    Attributes
    ----------
    value
        The record that the topic gets: one JSON object. A line feed in it becomes a carriage return, which is white space in JSON too.
    position
        Where the source resumes after this event, as a value of JSON. None: the source has no positions.
    key
        The record's key, which chooses its partition.
    id
        A name that no other event of the source has. Needed if the source may deliver an event again (`Source.redelivers`).
    token
        Anything that the source needs to acknowledge the event.
    """

    value: bytes
    position: Any = None
    key: str | None = None
    id: str | None = None
    token: Any = None


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
    pause_seconds
        How long to wait before the source is opened again if it gave no event: the interval of a source that is polled.
    """

    name: str
    redelivers: int = 0
    pause_seconds: float = 1.0

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
