"""From a topic to a target: nothing lost, and nothing repeated where the target knows idempotency keys, over outages and `kill -9`.

A runner is a cursor on a topic. It sends a batch, and commits the cursor when all of it is settled. A target that is unavailable is
tried again for ever: the topic is the buffer. A record that it refuses is tried a few times and then set aside as a dead letter, in
the same commit as the cursor, and its neighbours go on.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from math import inf
from operator import attrgetter
from typing import Any

import msgspec

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
    """The manifest of a commit: where the records went, what became of them, the target's own state, and the cursors."""

    target: str | None = None
    ledger: dict[str, dict[str, int]] = {}
    saved: Any = None
    cursors: list[tuple[str, int, int]] = []


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
    latest
        Whether to end where the topics end now.
    anew
        Whether to forget which records were sent.
    told
        Is given a line for each outage, and for records that are set aside or that retention dropped.
    committed
        Is given each commit.

    Attributes
    ----------
    taken, refused
        How many records this runner has settled, and how many of them were set aside.
    idle
        Whether the last step found nothing to do.

    Raises
    ------
    PlanError
        If a topic is not there, or the name has been used for another target.
    EnvironmentFault
        If another process has the name, or the log cannot be used.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        target: Target,
        name: str,
        *,
        latest: bool = False,
        anew: bool = False,
        told: Callable[[str], object] = warn,
        committed: Callable[[Moved], object] = lambda _: None,
    ) -> None:
        super().__init__(log, name, told, committed)
        self._topic, self._target, self._latest = topic, target, latest
        self._beside = tuple(target.beside) if isinstance(target, JoiningTarget) else ()
        self.taken = self.refused = 0
        self.idle = False
        make_topic(log, f"{topic}.dead-letter", len(log.topic(topic).partitions), RETENTION_MS)
        self._open(anew=anew)

    # opening

    def _open(self, *, anew: bool = False) -> None:
        """Claim the name, and resume where the last commit left off, or where retention allows."""
        topics = (*self._beside, self._topic)
        firsts = {(topic, info.number): info.first for topic in topics for info in self._log.topic(topic).partitions}
        self._pending: list[Record] = []
        self._unsettled = Counter[int]()  # how many are pending, by partition
        self._reached: dict[tuple[str, int], int] = {}
        self._claim = self._log.claim(self.name)
        try:
            if anew:
                self._claim.forget()
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
        self._counts = {"received": 0, "accepted": 0, "refused": 0} | last.ledger.get(self._topic, {})
        self._cursors = at
        moved = {(topic, number): offset for topic, number, offset in last.cursors} != at
        if isinstance(self._target, JoiningTarget):
            self._target.restore(None if moved else last.saved)
        for (topic, number), first in firsts.items():
            # Someone moved the cursors, or the topics are new: records beside that lie before them may still be needed.
            offset = first if topic != self._topic and (moved or last.saved is None) else at.get((topic, number), first)
            if offset < first:
                self._report_gone(topic, number, offset, first)
            reader = self._feed.readers[topic][number]
            reader.seek({**reader.position, "record": max(offset, first)})

    def _report_gone(self, topic: str, number: int, first: int, behind: int) -> None:
        """Report records that retention dropped, and enter them in the ledger if they were to be sent."""
        if topic == self._topic:
            gone = behind - first
            self._counts = self._counts | {"received": self._counts["received"] + gone, "shed": self._counts.get("shed", 0) + gone}
        lacking = self._target.lacking if isinstance(self._target, JoiningTarget) and topic != self._topic else "they are not sent"
        self._told(f"{topic} partition {number}: records {first} to {behind - 1} are gone, by retention: {lacking}")

    @property
    def finished(self) -> bool:
        """Whether all has been sent, and nothing more will come."""
        return not self._pending and all(reader.finished for readers in self._feed.readers.values() for reader in readers)

    # work

    async def step(
        self, most: float = inf, stop: Callable[[], bool] = lambda: False, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> int:
        """Send a batch of what is pending, at most so many records, or else read what is there first; return how many were settled."""
        fetched, ready = False, self._ready()
        if not ready:
            fetched = await asyncio.to_thread(self._look)
            ready = self._ready()
        self.idle = not fetched and not ready
        if ready:
            return await self._send(self._batch(ready, most), stop, sleep)
        if time.monotonic() - self._committed_at >= _DAY_SECONDS:  # Kafka forgets the offsets of those who say nothing for a week
            await asyncio.to_thread(self._commit, [])
        return 0

    def _look(self) -> bool:
        """Read what is there, and return whether there was anything."""
        fetched = self._feed.fetch()
        for topic in self._beside:
            assert isinstance(self._target, JoiningTarget)
            for number, lines in self._fresh(topic):
                assert lines.stamps is not None
                self._target.observe(topic, number, lines)
                self._reached[topic, number] = lines.stamps.order[-1]
        for number, lines in self._fresh(self._topic):
            self._pending += records_of(self._topic, number, lines)
            self._unsettled[number] += len(lines)
        self._pending.sort(key=lambda one: (one.order, one.partition, one.offset))
        return fetched

    def _fresh(self, topic: str) -> Iterator[tuple[int, Lines]]:
        def firsts() -> dict[int, int]:
            return {info.number: info.first for info in self._log.topic(topic).partitions}

        return fresh(self._feed.readers[topic], firsts, partial(self._report_gone, topic))

    def _ready(self) -> list[Record]:
        """Return the first of those that are pending, as far as all that came before them beside has been observed."""
        if not self._pending or not self._beside:
            return self._pending
        lag = self._feed.lag()
        behind = [
            self._reached.get((topic, number), NEVER)
            for topic in self._beside
            for number, reader in enumerate(self._feed.readers[topic])
            if not reader.finished and lag[topic, number]
        ]
        return self._pending[: bisect_left(self._pending, min(behind), key=attrgetter("order"))] if behind else self._pending

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
            del self._pending[: delivery.settled]
            self._unsettled.subtract(one.partition for one in batch[: delivery.settled])
            began = time.monotonic()
            self._count(delivery)
            await asyncio.to_thread(self._commit, delivery.aside)
            self.taken += delivery.settled
            self.refused += len(delivery.aside)
            self._report(delivery, time.monotonic() - began)
        return delivery.settled

    async def _try(self, delivery: Delivery) -> float:
        """Send what is to be sent, and return how many seconds to wait then."""
        try:
            never = await self._target.send(delivery.sending())
        except (Unavailable, TimeoutError) as fault:
            what = fault.what if isinstance(fault, Unavailable) else "does not answer in time"
            if not delivery.waits:
                self._told(f"{self._target.name}: {what}; tried again until it answers")
            self._note("waiting", what)
            return delivery.unavailable(time.monotonic())
        except Refused as fault:
            self._note("running")
            return delivery.refused(fault.reason, fault.at, time.monotonic())
        self._note("running")
        delivery.applied(never or {})
        return 0.0

    # commits

    def _count(self, delivery: Delivery) -> None:
        """Enter a batch in the ledger."""
        counts = self._counts
        self._counts = counts | {
            "received": counts["received"] + delivery.settled,
            "accepted": counts["accepted"] + delivery.settled - len(delivery.aside),
            "refused": counts["refused"] + len(delivery.aside),
        }
        if self._counts["received"] != sum(count for name, count in self._counts.items() if name != "received"):
            raise InternalError(f"the ledger of {self.name} does not balance: {self._counts}")

    def _commit(self, aside: Sequence[tuple[Record, str]]) -> None:
        """Make cursors, dead letters and ledger durable together: up to the first record that is pending, or is needed again beside."""
        cursors = {(self._topic, number): reader.position["record"] for number, reader in enumerate(self._feed.readers[self._topic])}
        cursors |= self._first_pending()
        saved = None
        if isinstance(self._target, JoiningTarget):
            for topic in self._beside:
                for number, reader in enumerate(self._feed.readers[topic]):
                    kept = self._target.retained(topic, number)
                    cursors[topic, number] = reader.position["record"] if kept is None else kept
            saved = self._target.saved()
        rows = [(topic, number, offset) for (topic, number), offset in cursors.items()]
        manifest = _Manifest(self._target.name, {self._topic: self._counts}, saved, rows)
        self._claim.commit(Commit(msgspec.json.encode(manifest), {}, (), [*self._letters(aside)], cursors))
        self._cursors, self._committed_at = cursors, time.monotonic()
        self._log_outage.succeeded()

    def _first_pending(self) -> dict[tuple[str, int], int]:
        """Return the first pending offset of each partition that has one; they are pending in the order of their offsets."""
        wanted = sum(count > 0 for count in self._unsettled.values())
        found: dict[tuple[str, int], int] = {}
        for one in self._pending:
            if len(found) == wanted:
                break
            found.setdefault((self._topic, one.partition), one.offset)
        return found

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
        lag = sum(count for (topic, _), count in self._feed.lag().items() if topic == self._topic) + len(self._pending)
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
