"""From a source to a topic: nothing lost, and nothing repeated where events have positions or ids, over outages and `kill -9`.

Records and position are committed in one step of the log. The source is acknowledged after that. A few events are read ahead while
a commit is under way, and no more: a slow log slows the source down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from math import inf
from typing import Any

import msgspec

from headrace.connectors.inflow import Inflow, Position, of_session, resumes
from headrace.connectors.progress import Moved, warn
from headrace.connectors.protocol import Source, Unavailable
from headrace.connectors.retries import Retries
from headrace.connectors.runner import Runner
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.making import RETENTION_MS, make_topic
from headrace.topics.protocol import Commit, Log

__all__ = ["Ingest", "name_of", "position_before"]

_TICK_SECONDS = 0.1
_MOST_WARNINGS = 5


def name_of(topic: str) -> str:
    """Return the name that the source of a topic has among those who read and write."""
    return f"bridge:{topic}"


def position_before(log: Log, topic: str) -> Position | None:
    """Return how far a topic's source has been read, whoever does it; None if there is none."""
    manifest = log.manifest(name_of(topic))
    return None if manifest is None else msgspec.json.decode(manifest, type=Position)


class Ingest(Runner):
    """Brings the events of one source into one topic, which is created if it does not exist.

    Parameters
    ----------
    log
        Where the topic is.
    source
        Where the events come from.
    topic
        Its name; the runner is `bridge:NAME` among those who read and write.
    key
        The field of a record by which the log chooses its partition. Without one all go to the first.
    patience
        How many seconds a source that is unavailable is tried again; None is for ever.
    anew
        Whether to forget how far the source was read.
    told
        Is given a line for each outage.
    committed
        Is given each commit.

    Raises
    ------
    PlanError
        If the topic has been filled from another source.
    EnvironmentFault
        If another process fills it, or the log cannot be used.
    """

    def __init__(
        self,
        log: Log,
        source: Source,
        topic: str,
        *,
        key: str | None = None,
        patience: float | None = 60.0,
        anew: bool = False,
        told: Callable[[str], None] = warn,
        committed: Callable[[Moved], None] = lambda _: None,
    ) -> None:
        super().__init__(log, name_of(topic), told, committed)
        self._source, self._topic, self._key, self._patience = source, topic, key, patience
        source.tell = lambda line: told(f"{source.name}: {line}")
        self._lettered, self._warned, self._counted = False, 0, _MOST_WARNINGS
        if key is not None and not source.partitions:
            raise PlanError("parameter key is not for a source with partitions", where=source.name, fix="leave it out: records keep theirs")
        self._created = topic in {info.name for info in log.topics()}
        if source.partitions:
            self._create()
        self._open(anew=anew)

    def _create(self) -> None:
        """Create the topic, unless it is there."""
        if not self._created:
            self._log.create(self._topic, self._source.partitions)
            self._created = True

    def _open(self, *, anew: bool = False) -> None:
        """Take the topic, and resume from its last commit."""
        self._claim = self._log.claim(self.name)
        try:
            if anew:
                self._claim.forget()
            known, source = self._known(self._claim.manifest), self._source
            windows = {"redelivers": source.redelivers, "window": source.window}
            self._inflow = Inflow(self._topic, known, key=self._key, **windows, batch_seconds=source.batch_seconds)
        except BaseException:
            self._claim.release()
            raise

    def _known(self, manifest: bytes | None) -> Position:
        if manifest is None:
            return Position(self.source)
        known = msgspec.json.decode(manifest, type=Position)
        if known.source != self.source:
            last = "" if known.last is None or of_session(known.last) else f", up to event {known.last}"
            raise PlanError(
                f"has been bridged from {known.source}{last}",
                where=f"topic {self._topic!r}",
                fix=f"give that address, or begin with the first event of {self.source}: --anew",
            )
        return known

    @property
    def source(self) -> str:
        """The source's address, without passwords."""
        return self._source.name

    @property
    def passed(self) -> int:
        """How many records have been committed, by this run and those before it."""
        return self._inflow.position.passed

    @property
    def last(self) -> Any:  # noqa: ANN401  (a value of JSON)
        """The position of the last event committed."""
        return self._inflow.position.last

    async def run(self, stop: Callable[[], bool] = lambda: False, *, duration: float | None = None, records: int | None = None) -> int:
        """Bring events over until the source has no more or `stop` returns true, and return how many.

        A log that is unavailable is opened again, and the source resumes from what is committed there.

        Parameters
        ----------
        stop
            Asked several times a second.
        duration
            End after so many seconds.
        records
            End after so many records.

        Raises
        ------
        PlanError, DataError
            If the source says that trying again cannot help.
        EnvironmentFault
            If the source is unavailable for too long, or the log cannot be written to.
        """
        first = self.passed
        end = inf if duration is None else time.monotonic() + duration
        most = inf if records is None else first + records
        try:
            await self._persist(lambda: self._bring(stop, end, most), stop)
        finally:
            await self._source.close()
        return self.passed - first

    async def _bring(self, stop: Callable[[], bool], end: float, most: float) -> None:
        """Commit batches until the end."""
        self._room, self._stirred = asyncio.Event(), asyncio.Event()
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(lambda _: self._stirred.set())
        try:
            while self.passed < most and not stop() and (now := time.monotonic()) < end:
                due_at = self._inflow.due_at
                if due_at is not None and (self._inflow.due(now) or reading.done()):
                    await self._commit(most - self.passed)
                elif reading.done():
                    reading.result()
                    break
                else:
                    await self._nap(min(_TICK_SECONDS, end - now, inf if due_at is None else due_at - now))
            if self._inflow.due_at is not None and self.passed < most:
                await self._commit(most - self.passed)
        finally:
            self._inflow.discard()
            reading.cancel()
            await asyncio.wait([reading])  # an error keeps the traceback that it was raised with
            _ = reading.cancelled() or reading.exception()

    async def _nap(self, seconds: float) -> None:
        """Wait for a time, or until the reader has its first event after a commit, or waits for the next one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        self._stirred.clear()

    async def _commit(self, most: float) -> None:
        """Make records and position durable, together, at most so many; then acknowledge."""
        began, before = time.monotonic(), self.passed
        commit = self._inflow.commit(most)
        self._room.set()
        await asyncio.to_thread(self._write, commit)
        done = self._inflow.committed(time.monotonic())
        self._room.set()
        self._log_outage.succeeded()
        # An acknowledgement that is lost costs nothing: the source delivers the events again, and they are known.
        with suppress(Unavailable):
            await self._source.acknowledge(done)
        self._report_malformed()
        ledger = {self.source: self._inflow.position.ledger}
        self._committed(Moved(self.name, time.monotonic() - began, self.passed - before, ledger))

    def _write(self, commit: Commit) -> None:
        """Make a commit durable. The topic of dead letters is created when the first of them comes."""
        self._create()
        letters = f"{self._topic}.dead-letter"
        if not self._lettered and any(one.topic == letters for one in commit.outgoing):
            make_topic(self._log, letters, len(self._log.topic(self._topic).partitions), RETENTION_MS)
            self._lettered = True
        self._claim.commit(commit)

    def _report_malformed(self) -> None:
        """Tell of the first few events that could not be records, and then of their number, each time it has doubled."""
        for detail in self._inflow.malformed[: max(_MOST_WARNINGS - self._warned, 0)]:
            self._told(f"{self.source}: {detail}; it is in {self._topic}.dead-letter")
            self._warned += 1
        count = self._inflow.position.malformed
        if self._inflow.malformed and self._warned >= _MOST_WARNINGS and count >= 2 * self._counted:
            self._counted = count
            self._told(f"{self.source}: {count:,} events so far could not be records; they are in {self._topic}.dead-letter")

    async def _read(self) -> None:
        """Read events until there are no more."""
        last, retries = self.last, Retries(self._patience)
        while True:
            came = answered = False
            try:
                events = await self._source.open(last)
                if events is None:
                    return
                retries.succeeded()
                answered = True
                self._note("running")
                async with aclosing(events):
                    async for event in events:
                        came = True
                        last = last if event.position is None else event.position
                        idle = self._inflow.due_at is None
                        if self._inflow.offer(event, time.monotonic()):
                            await self._wait_for_room()
                        elif idle:
                            self._stirred.set()
            except Unavailable as fault:
                self._note("waiting", fault.what)
                if not answered:
                    await asyncio.sleep(self._delay(fault, retries))
                    continue
                self._told(f"{self.source}: {fault.what}; asked to go on {resumes(last)}")
            if not came:
                await asyncio.sleep(self._source.pause_seconds)

    async def _wait_for_room(self) -> None:
        """Wait until the events are being committed: a slow log slows the source down."""
        self._room.clear()
        self._stirred.set()
        await self._room.wait()

    def _delay(self, fault: Unavailable, retries: Retries) -> float:
        """Return how long to wait for a source that is unavailable. Raises EnvironmentFault if that was long enough."""
        if not retries.failures:
            self._told(f"{self.source}: {fault.what}{f' ({fault.fix})' if fault.fix else ''}; asked again until it answers")
        wait = retries.failed(time.monotonic())
        if wait is None:
            fix = fault.fix or "is its server running, and the address right?"
            raise EnvironmentFault(f"{fault.what}, for {self._patience:g} s", where=self.source, fix=fix)
        return wait
