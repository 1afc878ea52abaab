"""From a topic to a target: nothing lost, and nothing repeated where the target knows idempotency keys, over outages and `kill -9`.

A runner is a cursor on a topic. It sends a batch, and commits the cursor when all of it is settled. A target that is unavailable is
tried again for ever: the topic is the buffer, without a limit or with that of a `Buffer`. A record that it refuses is tried a few times
and then set aside as a dead letter, in the same commit as the cursor, and its neighbours go on.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from math import inf
from operator import attrgetter
from typing import Any

import msgspec

from headrace.connectors.backlog import Backlog
from headrace.connectors.buffer import POLICIES, Buffer, Unread
from headrace.connectors.delivery import Delivery
from headrace.connectors.progress import Moved, warn
from headrace.connectors.protocol import JoiningTarget, Record, Refused, Target, Unavailable
from headrace.connectors.reading import fresh, records_of
from headrace.connectors.runner import Runner
from headrace.errors import InternalError, PlanError
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.reading.batch import Lines
from headrace.topics.dead_letters import DeadLetter, encode_dead_letter
from headrace.topics.making import RETENTION_MS, make_topic
from headrace.topics.protocol import Commit, KeyedReader, Log, Outgoing

__all__ = ["Forward"]

MOST_BYTES = 4 << 20
_TICK_SECONDS = 0.1
_DAY_SECONDS = 86_400.0
_MOST_WARNINGS = 5


class _Manifest(msgspec.Struct):
    """The manifest of a commit: where the records went, what became of them, the target's own state, the cursors, and what is to be dropped."""

    target: str | None = None
    ledger: dict[str, dict[str, int]] = {}
    saved: Any = None
    cursors: list[tuple[str, int, int]] = []
    buffer: Any = None


class Forward(Runner):
    """Sends the records of one topic to one target.

    Parameters
    ----------
    log
        Where the topic is. What is set aside goes to TOPIC.dead-letter, which is created if it does not exist.
    topic
        Its name.
    target
        Where the records go.
    name
        The runner's name among those who read and write; two targets of one topic need two names.
    buffer
        How many records may wait, and what is dropped when there are more; None: all wait, as long as the topic keeps them.
    latest
        Whether to end where the topics end now.
    anew
        Whether to forget which records were sent.
    told
        Is given a line for each outage, and for records that are set aside, or are dropped by the buffer or by retention.
    committed
        Is given each commit.

    Attributes
    ----------
    taken, refused
        How many records this runner has settled, and how many of them were set aside.
    shed
        How many it has dropped, and retention before it.
    idle
        Whether the last step found nothing to do.

    Raises
    ------
    PlanError
        If a topic is not there, or the name has been used for another target.
    EnvironmentFault
        If another process has the name, or the log cannot be used.
    """

    def __init__(  # noqa: PLR0913
        self,
        log: Log,
        topic: str,
        target: Target,
        name: str,
        *,
        buffer: Buffer | None = None,
        latest: bool = False,
        anew: bool = False,
        told: Callable[[str], object] = warn,
        committed: Callable[[Moved], object] = lambda _: None,
    ) -> None:
        super().__init__(log, name, told, committed)
        self._topic, self._target, self._latest, self._buffer = topic, target, latest, buffer
        self._beside = tuple(target.beside) if isinstance(target, JoiningTarget) else ()
        self.taken = self.refused = self.shed = 0
        self.idle = self._full = False
        make_topic(log, f"{topic}.dead-letter", len(log.topic(topic).partitions), RETENTION_MS)
        self._open(anew=anew)

    # opening

    def _open(self, *, anew: bool = False) -> None:
        """Claim the name, and resume where the last commit left off, or where retention allows."""
        topics = (*self._beside, self._topic)
        firsts = {(topic, info.number): info.first for topic in topics for info in self._log.topic(topic).partitions}
        self._lasts = {info.number: info.end for info in self._log.topic(self._topic).partitions} if self._latest else {}
        self._reached: dict[tuple[str, int], int] = {}
        self._claim = self._log.claim(self.name)
        try:
            if anew:
                self._claim.forget()
            # What was sent before a process ended is not known, but it is not more than a batch.
            self._backlog = Backlog(self._buffer, resumed=self._claim.manifest is not None)
            self._feed = self._log.feed(topics, latest=self._latest, skip_gone=True)
            for reader in self._feed.readers[self._topic]:
                if isinstance(reader, KeyedReader):
                    reader.keyed = True
            self._resume(firsts)
        except BaseException:
            self._claim.release()
            raise
        self._committed_at = time.monotonic()

    def _resume(self, firsts: Mapping[tuple[str, int], int]) -> None:
        at = {(cursor.topic, cursor.partition): cursor.offset for cursor in self._log.cursors() if cursor.group == self.name}
        manifest = self._claim.manifest
        last = _Manifest() if manifest is None else msgspec.json.decode(manifest, type=_Manifest)
        if last.target not in {None, self._target.name}:
            raise PlanError(
                f"has been used to send records to {last.target}", where=f"name {self.name}", fix="give that target, another name, or --anew"
            )
        self._counts = {"received": 0, "accepted": 0, "refused": 0, "shed": 0} | last.ledger.get(self._topic, {})
        self._begun = manifest is not None
        moved = {(topic, number): offset for topic, number, offset in last.cursors} != at
        if isinstance(self._target, JoiningTarget):
            self._target.restore(None if moved else last.saved)
        if not moved:
            self._backlog.restore(last.buffer)
        for (topic, number), first in firsts.items():
            # Someone moved the cursors, or the topics are new: records beside that lie before them may still be needed.
            offset = first if topic != self._topic and (moved or last.saved is None) else at.get((topic, number), first)
            if offset < first:
                self._report_gone(topic, number, offset, first)
            reader = self._feed.readers[topic][number]
            reader.seek({**reader.position, "record": max(offset, first)})

    def _report_gone(self, topic: str, number: int, first: int, behind: int) -> None:
        """Report records that retention dropped; those that were to be sent will be in the ledger."""
        if topic == self._topic:
            self._backlog.gone(number, first, behind)
        lacking = self._target.lacking if isinstance(self._target, JoiningTarget) and topic != self._topic else "they are not sent"
        self._told(f"{topic} partition {number}: records {first} to {behind - 1} are gone, by retention: {lacking}")

    @property
    def finished(self) -> bool:
        """Whether all has been sent, and nothing more will come."""
        return self._backlog.empty and all(reader.finished for readers in self._feed.readers.values() for reader in readers)

    # work

    async def step(
        self, most: float = inf, stop: Callable[[], bool] = lambda: False, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> int:
        """Send a batch of what is pending, at most so many records, or else read what is there first; return how many were settled."""
        if self._buffer is not None:
            await asyncio.to_thread(self._bound)
        fetched, ready = False, self._ready()
        if not ready:
            fetched = await asyncio.to_thread(self._look)
            ready = self._ready()
        self.idle = not fetched and not ready
        if self._needs_commit(ready):
            await self._settle(Delivery([]))
        return await self._send(self._batch(ready, most), stop, sleep) if ready else 0

    def _needs_commit(self, ready: Sequence[Record]) -> bool:
        """Return whether to commit before anything is sent, or although nothing is."""
        if ready:
            return (self._buffer is not None and not self._begun) or self._backlog.undecided(self._positions)
        # Kafka forgets the offsets of those who say nothing for a week.
        return self._backlog.due(self._positions) or time.monotonic() - self._committed_at >= _DAY_SECONDS

    @property
    def _positions(self) -> dict[int, int]:
        """The next offset to be read of each partition."""
        return {number: reader.position["record"] for number, reader in enumerate(self._feed.readers[self._topic])}

    def _unread(self) -> Unread:
        lag, found = self._feed.lag(), dict[int, tuple[int, int]]()
        for number, start in self._positions.items():
            end = start + lag[self._topic, number]
            found[number] = start, max(start, min(end, self._lasts.get(number, end)))  # what came later is for the next run
        return found

    def _bound(self) -> None:
        """Drop what is too much."""
        unread = self._unread()
        self._note_full(unread)
        self._backlog.bound(unread)

    def _note_full(self, unread: Unread, sending: int = 0) -> str:
        """Return what is to be said of a buffer that is full, and tell it once."""
        if self._buffer is None:
            return ""
        most, excess = self._buffer.most, self._backlog.excess(unread, sending)
        text = f"more than {most:,} records wait: {POLICIES[self._buffer.policy]}"
        if excess > 0 and not self._full:
            self._told(f"{self._target.name}: {text}")
        self._full = excess > 0 or (self._full and excess > -most // 2)
        return f"; {text}" if self._full else ""

    def _look(self) -> bool:
        """Read what is there, and return whether there was anything."""
        fetched, found = self._feed.fetch(), list[Record]()
        for topic in self._beside:
            assert isinstance(self._target, JoiningTarget)
            for number, lines in self._fresh(topic):
                assert lines.stamps is not None
                self._target.observe(topic, number, lines)
                self._reached[topic, number] = lines.stamps.order[-1]
        for number, lines in self._fresh(self._topic):
            found += records_of(self._topic, number, lines)
        self._backlog.take(found)
        if self._buffer is not None:
            self._bound()
        return fetched

    def _fresh(self, topic: str) -> Iterator[tuple[int, Lines]]:
        def firsts() -> dict[int, int]:
            return {info.number: info.first for info in self._log.topic(topic).partitions}

        return fresh(self._feed.readers[topic], firsts, partial(self._report_gone, topic))

    def _ready(self) -> list[Record]:
        """Return the first of those that are pending, as far as all that came before them beside has been observed."""
        pending = self._backlog.pending
        if not pending or not self._beside:
            return pending
        lag = self._feed.lag()
        behind = [
            self._reached.get((topic, number), NEVER)
            for topic in self._beside
            for number, reader in enumerate(self._feed.readers[topic])
            if not reader.finished and lag[topic, number]
        ]
        return pending[: bisect_left(pending, min(behind), key=attrgetter("order"))] if behind else pending

    def _batch(self, ready: Sequence[Record], most: float) -> Sequence[Record]:
        batch = ready[: int(min(most, self._target.most_records))]
        sizes = accumulate(len(one.value) for one in batch)
        fits = sum(size <= MOST_BYTES for size in sizes)
        return batch[: max(fits, 1)]

    async def _send(self, batch: Sequence[Record], stop: Callable[[], bool], sleep: Callable[[float], Awaitable[None]]) -> int:
        """Send a batch until it is settled or `stop` returns true, and commit."""
        delivery = Delivery(batch)
        while not delivery.done and not stop():
            until = time.monotonic() + await self._try(delivery)
            while not stop() and (left := until - time.monotonic()) > 0:
                await sleep(min(left, _TICK_SECONDS))
        if delivery.settled:
            await self._settle(delivery)
        return delivery.settled

    async def _settle(self, delivery: Delivery) -> None:
        """Commit what is settled of a batch, and report it."""
        self._backlog.settle(delivery.settled)
        began, before = time.monotonic(), self._counts["shed"]
        await asyncio.to_thread(self._commit, delivery)
        self.taken += delivery.settled
        self.refused += len(delivery.aside)
        self.shed += self._counts["shed"] - before
        self._report(delivery, time.monotonic() - began)

    async def _try(self, delivery: Delivery) -> float:
        """Send what is to be sent, and return how many seconds to wait then."""
        try:
            never = await self._target.send(delivery.sending())
        except (Unavailable, TimeoutError) as fault:
            what, fix = (fault.what, fault.fix) if isinstance(fault, Unavailable) else ("does not answer in time", None)
            if not delivery.waits:
                self._told(f"{self._target.name}: {what}{f' ({fix})' if fix else ''}; tried again until it answers")
            full = "" if self._buffer is None else self._note_full(await asyncio.to_thread(self._unread), len(delivery.records))
            self._note("waiting", what + full)
            return delivery.unavailable(time.monotonic())
        except Refused as fault:
            self._note("running")
            return delivery.refused(fault.reason, fault.at, time.monotonic())
        self._note("running")
        delivery.applied(never or {})
        return 0.0

    # commits

    def _count(self, delivery: Delivery, shed: int) -> None:
        """Enter a batch in the ledger, and records that were dropped before what is still pending."""
        added = {"accepted": delivery.settled - len(delivery.aside), "refused": len(delivery.aside), "shed": shed}
        counts = self._counts | {name: self._counts[name] + more for name, more in added.items()}
        self._counts = counts | {"received": counts["received"] + sum(added.values())}
        if self._counts["received"] != sum(count for name, count in self._counts.items() if name != "received"):
            raise InternalError(f"the ledger of {self.name} does not balance: {self._counts}")

    def _commit(self, delivery: Delivery) -> None:
        """Make cursors, dead letters and ledger durable together: up to the first record that is pending, or is needed again beside."""
        ends = self._backlog.cursors(self._positions)
        self._count(delivery, self._backlog.passed(ends))
        cursors = {(self._topic, number): offset for number, offset in ends.items()}
        saved = None
        if isinstance(self._target, JoiningTarget):
            for topic in self._beside:
                for number, reader in enumerate(self._feed.readers[topic]):
                    kept = self._target.retained(topic, number)
                    cursors[topic, number] = reader.position["record"] if kept is None else kept
            saved = self._target.saved()
        rows = [(topic, number, offset) for (topic, number), offset in cursors.items()]
        counts = {name: count for name, count in self._counts.items() if count or name != "shed"}
        manifest = _Manifest(self._target.name, {self._topic: counts}, saved, rows, self._backlog.saved())
        self._claim.commit(Commit(msgspec.json.encode(manifest), {}, (), [*self._letters(delivery.aside)], cursors))
        self._begun, self._committed_at = True, time.monotonic()
        self._log_outage.succeeded()

    def _letters(self, aside: Sequence[tuple[Record, str]]) -> Iterator[Outgoing]:
        lines = defaultdict[int, list[bytes]](list)
        for one, reason in aside:
            raw: str | bytes = one.value
            with suppress(UnicodeDecodeError):
                raw = one.value.decode()
            letter = DeadLetter(one.topic, one.partition, one.offset, "refused", reason, one.arrived_ms, raw)
            lines[one.partition].append(encode_dead_letter(self.name, letter)[:-1])
        for number, letters in sorted(lines.items()):
            yield Outgoing(f"{self._topic}.dead-letter", b"\n".join(letters), len(letters), None, number)

    def _report(self, delivery: Delivery, seconds: float) -> None:
        lag = sum(count for (topic, _), count in self._feed.lag().items() if topic == self._topic) + len(self._backlog.pending)
        self._committed(Moved(self.name, seconds, delivery.settled, {self._topic: self._counts}, lag))
        for one, reason in delivery.aside[:_MOST_WARNINGS]:
            self._told(f"{one.topic} partition {one.partition} offset {one.offset}: {reason}")
        if (more := len(delivery.aside) - _MOST_WARNINGS) > 0:
            self._told(f"{self._topic}: {more} more were set aside; {self.refused} so far")

    # running

    async def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        *,
        duration: float | None = None,
        records: int | None = None,
        poll_seconds: float = 0.05,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tick: Callable[[], float] = time.monotonic,
    ) -> int:
        """Send records as they come, until `stop` returns true, and return how many were settled.

        Parameters
        ----------
        stop
            Asked before each step, and while the target is unavailable.
        duration
            End after so many seconds.
        records
            End after so many records.
        poll_seconds
            How long to wait before looking for new records again.

        Raises
        ------
        EnvironmentFault
            If the log cannot be used, or the target raises one: a full disk, say.
        """
        first = self.taken
        end = inf if duration is None else tick() + duration
        most = inf if records is None else first + records

        async def work() -> None:
            while not stop() and not self.finished and tick() < end and self.taken < most:
                await self.step(most - self.taken, stop, sleep)
                if self.idle:
                    await sleep(poll_seconds)

        try:
            await self._persist(work, stop)
        finally:
            await self._target.close()
        return self.taken - first

    def close(self) -> None:
        """Release the name."""
        self._feed.close()
        super().close()
