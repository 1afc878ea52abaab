"""The source of polled registers: one task for each host, all into one queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import groupby
from math import floor

from headrace._clock import now_ms
from headrace.connectors.ending import ended
from headrace.connectors.modbus.connection import Connection, Excepted, Silent
from headrace.connectors.modbus.polling import Found, Poll, Reports
from headrace.connectors.modbus.registers import Register
from headrace.connectors.protocol import Event, Source, Unavailable
from headrace.connectors.retries import Retries

__all__ = ["Polled"]

SILENCES = 3  # after so many requests without any answer a connection is made anew
BUSY_SECONDS = 0.05
TELL_SECONDS = 60.0


class Polled(Source):
    """Registers of one or many hosts, read at a fixed rate.

    Parameters
    ----------
    name
        What tells this source from others.
    registers
        Of all hosts.
    interval
        Seconds from one poll to the next.
    timeout
        Seconds that a connection and each answer may take.
    reports
        Which of the values become readings.
    gap, words
        As in `blocks_of`.

    Attributes
    ----------
    skipped
        How many polls were skipped, because those before them took too long.
    """

    def __init__(
        self,
        name: str,
        registers: Sequence[Register],
        *,
        interval: float,
        timeout: float,
        reports: Reports,
        gap: int,
        words: int,
    ) -> None:
        self.name, self._interval = name, interval
        self._reports = reports
        self.skipped, self._tell_at = 0, 0.0
        ordered = sorted(registers, key=lambda one: (one.host, one.port))
        self._hosts = [
            _Host(host, port, Poll(of_host, gap=gap, words=words), timeout)
            for (host, port), of_host in groupby(ordered, lambda one: (one.host, one.port))
        ]

    async def open(self, position: object) -> AsyncGenerator[Event] | None:  # noqa: ARG002  (registers have no history)
        """Connect to the hosts. Raises Unavailable if none answers, once its tags are reported to be of bad quality."""
        faults = [fault for fault in await asyncio.gather(*(self._try(one) for one in self._hosts)) if fault is not None]
        if len(faults) < len(self._hosts):
            return self._events()
        bad = self._events_of([found for one in self._hosts for found in one.poll.lost()])
        if not bad:
            raise faults[0]
        return self._bad(bad, faults[0])

    @staticmethod
    async def _try(host: _Host) -> Unavailable | None:
        try:
            await host.connect()
        except Unavailable as fault:
            return fault
        return None

    @staticmethod
    async def _bad(events: Sequence[Event], fault: Unavailable) -> AsyncGenerator[Event]:
        for event in events:
            yield event
        raise fault

    def _events_of(self, found: Sequence[Found]) -> list[Event]:
        return self._reports.events(found, now_ms())

    async def _events(self) -> AsyncGenerator[Event]:
        """Yield readings until no host is connected."""
        # As many batches as hosts: where the log is slow, polls are skipped.
        queue: asyncio.Queue[Sequence[Event] | BaseException] = asyncio.Queue(len(self._hosts))
        began, apart = time.monotonic(), self._interval / len(self._hosts)
        running = [asyncio.create_task(self._supervised(host, queue, began + place * apart)) for place, host in enumerate(self._hosts)]
        try:
            while not isinstance(batch := await queue.get(), BaseException):
                for event in batch:
                    yield event
            raise batch
        except (GeneratorExit, asyncio.CancelledError):
            # What was yielded may not have been committed.
            self._reports.forget()
            raise
        finally:
            await ended(running)
            await self.close()

    async def _supervised(self, host: _Host, queue: asyncio.Queue[Sequence[Event] | BaseException], due: float) -> None:
        """Poll a host for ever. An error that ends this ends the events too."""
        try:
            await self._run(host, queue, due)
        except Exception as error:  # noqa: BLE001  (raised again where the events are read)
            await queue.put(error)

    async def _run(self, host: _Host, queue: asyncio.Queue[Sequence[Event] | BaseException], due: float) -> None:
        retries = Retries()
        while True:
            try:
                if not host.connected:
                    await host.connect()
                retries.succeeded()
                due += self._interval * max(0, floor((time.monotonic() - due) / self._interval))
                while True:
                    await asyncio.sleep(due - time.monotonic())
                    async for found in host.read():
                        await queue.put(self._events_of(found))
                    due += self._interval
                    due += self._interval * self._skip(host, time.monotonic() - due)
            except Unavailable as fault:
                host.close()
                if not retries.failures:
                    await queue.put(self._events_of(host.poll.lost()))
                    if not any(one.connected for one in self._hosts):
                        raise
                    self.tell(f"{host.name}: {fault.what}; asked again until it answers")
                await asyncio.sleep(retries.failed(time.monotonic()) or 0)

    def _skip(self, host: _Host, late: float) -> int:
        """Return how many polls are skipped, because the last one took too long, and report them now and then."""
        skipped = max(0, floor(late / self._interval))
        self.skipped += skipped
        now = time.monotonic()
        if skipped and now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            what = f"{self.skipped:,} polls were skipped so far, because a poll takes longer than {self._interval:g} s"
            self.tell(f"{what}; the last of {host.name}")
        return skipped

    async def close(self) -> None:
        """Close the connections."""
        for host in self._hosts:
            host.close()


class _Host:
    """A host, its connection and its polls."""

    def __init__(self, host: str, port: int, poll: Poll, timeout: float) -> None:
        self.name, self.poll = f"{host}:{port}", poll
        self._connection = Connection(host, port, timeout)
        self.connected = False
        self._silences = 0

    async def connect(self) -> None:
        """Connect. Raises Unavailable."""
        await self._connection.open()
        self.connected, self._silences = True, 0

    async def read(self) -> AsyncGenerator[list[Found]]:
        """Read all registers once. Raises Unavailable if the connection is lost."""
        self.poll.begin(time.monotonic())
        while (block := self.poll.next(time.monotonic())) is not None:
            try:
                words = await self._connection.read(block)
            except Excepted as fault:
                self._silences = 0
                yield self.poll.excepted(block, fault.code, time.monotonic())
                if self.poll.busy:
                    await asyncio.sleep(BUSY_SECONDS)
            except Silent:
                self._silences += 1
                yield self.poll.silent(block, time.monotonic())
                if self._silences >= SILENCES:
                    raise Unavailable("does not answer") from None
            else:
                self._silences = 0
                yield self.poll.answered(block, words)

    def close(self) -> None:
        """End the connection."""
        self.connected = False
        self._connection.close()
