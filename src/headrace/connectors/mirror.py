"""A topic of another log as a source: its records with their keys, partition by partition, from where the last commit left off."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from threading import Lock
from typing import Any

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.objects import Unfit
from headrace.connectors.protocol import EndingSource, Event, Record, Unavailable
from headrace.connectors.reading import fresh, records_of
from headrace.errors import EnvironmentFault
from headrace.topics.protocol import Away, Feed, KeyedReader, Log

__all__ = ["Mirror"]

_POLL_SECONDS = 0.05


class Mirror(EndingSource):
    """The records of a topic.

    Parameters
    ----------
    name
        What the source is called, without secrets.
    topic
        The topic's name.
    opened
        Opens its log.
    decoded
        Returns the record for a value, or raises Unfit; None: the value is the record.
    closed
        Closes what `decoded` has open.
    """

    partitions = 0
    pause_seconds = 0.5

    def __init__(
        self,
        name: str,
        topic: str,
        opened: Callable[[], Log],
        *,
        decoded: Callable[[bytes], Awaitable[bytes]] | None = None,
        closed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name, self._topic, self._opened = name, topic, opened
        self._decoded, self._closed = decoded, closed
        self._log: Log | None = None
        self._feed: Feed | None = None
        self._ended_at: tuple[Any] | None = None  # the position of the last record, once the end was reached
        self._gone = Counter[int]()  # records dropped by retention before the next one of a partition
        self._lock = Lock()  # close() may be called while a thread still fetches

    async def open(self, position: Any) -> AsyncGenerator[Event] | None:  # noqa: ANN401  (offsets, and the identity of their topic)
        """Open the log, and return the records from those offsets on; None if the end was reached and only that was asked for.

        Raises EnvironmentFault if they are offsets of an earlier topic of this name.
        """
        if self._ended_at == (position,):
            return None
        try:
            await asyncio.to_thread(self._release)
            known: dict[str, Any] = position if isinstance(position, dict) else {"offsets": position or [], "topic": None}
            offsets = await asyncio.to_thread(self._begin, known["offsets"], known["topic"])
        except Away as fault:
            raise Unavailable(fault.what, fix=fault.fix) from None
        return self._events(offsets, position)

    def _begin(self, offsets: Sequence[int], topic: str | None) -> list[int]:
        """Open the log and the topic, and return the next offset of each partition."""
        with self._lock:
            self._log = self._opened()
            feed = self._feed = self._log.feed([self._topic], latest=self.latest, skip_gone=True)
            self._gone.clear()  # the offsets are those before what is gone, which is found again
            readers, self._identity = feed.readers[self._topic], feed.identities[self._topic]
            if topic not in {None, self._identity}:
                what = "has been deleted and created again since its records were mirrored"
                raise EnvironmentFault(what, where=self.name, fix="mirror the new topic from its first record: --anew")
            firsts = self._firsts()
            for number, reader in enumerate(readers):
                if isinstance(reader, KeyedReader):
                    reader.keyed = True
                at = offsets[number] if number < len(offsets) else firsts.get(number, 0)
                if at < firsts.get(number, 0):
                    self._report_gone(number, at, firsts[number])
                reader.seek({**reader.position, "record": max(at, firsts.get(number, 0))})
            self.partitions = len(readers)
            return [reader.position["record"] for reader in readers]

    def _firsts(self) -> dict[int, int]:
        assert self._log is not None
        return {info.number: info.first for info in self._log.topic(self._topic).partitions}

    def _report_gone(self, number: int, first: int, behind: int) -> None:
        self._gone[number] += behind - first
        self.tell(f"partition {number}: records {first} to {behind - 1} are gone, by retention: they are not mirrored")

    async def _events(self, offsets: list[int], last: Any) -> AsyncGenerator[Event]:  # noqa: ANN401
        while True:
            try:
                records = await asyncio.to_thread(self._look)
            except Away as fault:
                raise Unavailable(fault.what, fix=fault.fix) from None
            if records is None:
                self._ended_at = (last,)
                return
            for record in records:
                offsets[record.partition] = record.offset + 1
                last = {"offsets": offsets.copy(), "topic": self._identity}
                yield await self._event(record, last)
            if not records:
                await asyncio.sleep(_POLL_SECONDS)

    def _look(self) -> list[Record] | None:
        """Return the next records; none if there are none now, None if there will be no more."""
        with self._lock:
            if self._feed is None:  # closed
                return None
            readers = self._feed.readers[self._topic]
            try:
                self._feed.fetch()
            except Away:
                raise
            except EnvironmentFault:
                if len(self._firsts()) == len(readers):
                    raise
                raise Unavailable(f"topic {self._topic!r} has {len(self._firsts())} partitions now, not {len(readers)}") from None
            found = [record for number, lines in fresh(readers, self._firsts, self._report_gone) for record in records_of(self._topic, number, lines)]
            return found if found or not all(reader.finished for reader in readers) else None

    async def _event(self, record: Record, position: dict[str, Any]) -> Event:
        value, malformed = record.value, None
        try:
            value = value if self._decoded is None else await self._decoded(value)
            if not value:
                malformed = "is empty"
            elif b"\n" in value:
                msgspec.json.decode(value)  # line feeds in JSON are white space
        except Unfit as unfit:
            malformed = str(unfit)
        except NOT_JSON:
            malformed = "has a line feed, and is not JSON"
        if malformed is not None:
            malformed = f"partition {record.partition} offset {record.offset}: {malformed}"
        gone = self._gone.pop(record.partition, 0)
        return Event(value, position, record.key, malformed=malformed, partition=record.partition, shed=gone)

    def _release(self) -> None:
        with self._lock:
            feed, log, self._feed, self._log = self._feed, self._log, None, None
            if feed is not None:
                feed.close()
            if log is not None:
                log.close()

    async def close(self) -> None:
        """Close the log."""
        await asyncio.to_thread(self._release)
        if self._closed is not None:
            await self._closed()
