"""The source of monitored variables: a subscription, made again after each outage, and history for what was missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import ceil
from typing import Any

import msgspec
from asyncua import ua

from headrace._clock import now_ms
from headrace.connectors.opc.nodes import Node, describe, discover, found_below, listed, names_nodes
from headrace.connectors.opc.positions import Positions, key_of
from headrace.connectors.opc.session import Session
from headrace.connectors.opc.values import OVERFLOW, SEMANTICS_CHANGED, Plain, microseconds, plain
from headrace.connectors.protocol import Event, Source, Unavailable
from headrace.connectors.tagged import Units, reading_as, tag_of
from headrace.errors import PlanError, first_of
from headrace.plant.quality import Quality
from headrace.plant.reading import Reading
from headrace.plant.tags import Tags

__all__ = ["Subscribed"]

KEEPALIVE_SECONDS = 5.0
MOST_BATCHES = 8  # publish responses that are not read yet; then the server keeps the next ones in its queues
TELL_SECONDS = 60.0
MOST_NAMED = 5
HISTORY_WAITS = (0.0, 0.1, 0.3, 1.0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Subscribed(Source):
    """Variables of one server.

    Parameters
    ----------
    url
        The server's address without a password; the source's name.
    session
        Makes a session that is not connected yet.
    node
        Only the variables below this node. None: those of the list of tags, or all.
    tags
        The list of tags, if there is one.
    interval, sampling
        Seconds from one publish response to the next, and from one look of the server at a value to the next.
    queue
        How many changes of a variable the server keeps between two publish responses.
    expand
        Whether an array becomes a reading for each of its elements.

    Attributes
    ----------
    nodes
        The variables, once the source is open.
    look_seconds
        Seconds from one look at units, and at which nodes are there, to the next.
    """

    look_seconds: float = 60.0

    def __init__(
        self,
        url: str,
        session: Callable[[], Session],
        *,
        node: str | None,
        tags: Tags | None,
        interval: float,
        sampling: float,
        queue: int,
        expand: bool,
    ) -> None:
        self.name, self._make, self._node, self._tags = url, session, node, tags
        self._interval, self._sampling, self._queue, self._expand = interval, sampling, queue, expand
        self._session: Session | None = None
        self._connected_once = False
        self.nodes: Sequence[Node] = ()
        self._units = Units(lambda line: self.tell(line))  # noqa: PLW0108  (what the runner sets later)
        self.overflows, self._tell_at, self._look_at = 0, 0.0, 0.0

    async def open(self, position: Any) -> AsyncGenerator[Event] | None:  # noqa: ANN401  (a value of JSON)
        """Connect and subscribe."""
        await self.close()
        inbox = _Inbox()
        session = self._session = self._make()
        try:
            await session.connect(inbox.lose)
            self.nodes = await self._found(session)
            reader = _Reader(self.nodes, Positions(position), self._units, expand=self._expand, tell=self.tell)
            # A subscription is alive as long as it publishes, if only that nothing has changed.
            keepalive = max(1, ceil(KEEPALIVE_SECONDS / self._interval))
            subscription = await session.subscribe(self._interval, keepalive, inbox.publish)
            statuses = await self._monitor(session, subscription, range(len(self.nodes)))
        except PlanError as fault:
            await self.close()
            # A server that has just started may not have all its nodes yet.
            if self._connected_once:
                raise Unavailable(str(fault.what)) from None
            raise
        except BaseException:
            await self.close()
            raise
        if not self._connected_once and session.sends_plain_password:
            self.tell("the password is sent as it is, because the channel is not encrypted; add security=SignAndEncrypt")
        self._connected_once, self._look_at = True, time.monotonic() + self.look_seconds
        return self._events(session, subscription, inbox, reader, statuses, 3 * keepalive * self._interval)

    async def _monitor(self, session: Session, subscription: int, places: Iterable[int]) -> list[int]:
        return await session.monitor(subscription, [(place, self.nodes[place].node) for place in places], self._sampling, self._queue)

    async def _found(self, session: Session) -> list[Node]:
        if self._tags is not None and self._node is None and names_nodes(self._tags):
            return await listed(session, self._tags)
        nodes = await found_below(session, self._node, self.name)
        for one in nodes:
            one.tag = tag_of(self._tags, one.id) or tag_of(self._tags, one.path)
        return nodes

    async def _events(
        self, session: Session, subscription: int, inbox: _Inbox, reader: _Reader, statuses: Sequence[int], silence: float
    ) -> AsyncGenerator[Event]:
        """Yield refused nodes, what was missed, and changes."""
        try:
            for event in reader.refused(statuses):
                yield event
            held: list[Sequence[Any]] = []
            if reader.positions.known:
                held = await self._first(inbox, reader, silence)
                async for event in self._missed(session, reader, held):
                    yield event
            while True:
                found, held = held or await inbox.take(silence), []
                if time.monotonic() >= self._look_at or reader.announced(found):
                    for event in await self._looked(session, subscription, reader):
                        yield event
                for event in chain.from_iterable(map(reader.changes, found)):
                    yield event
                self._note_overflows(reader)
        except Unavailable:
            for event in reader.lost():
                yield event
            raise
        finally:
            await self.close()

    async def _looked(self, session: Session, subscription: int, reader: _Reader) -> list[Event]:
        """Look again at units and at which nodes are there, monitor those that are there again, and return readings of those that are gone."""
        self._look_at = time.monotonic() + self.look_seconds
        before = [one.gone for one in self.nodes]
        await describe(session, self.nodes)
        back = [place for place, one in enumerate(self.nodes) if before[place] and not one.gone]
        if back:
            await discover(session, [self.nodes[place] for place in back])
            for place, status in zip(back, await self._monitor(session, subscription, back), strict=True):
                self.nodes[place].gone = bool(status & Quality.BAD)
            self.tell(f"has {_named([self.nodes[place] for place in back])} again")
        return reader.gone([place for place, one in enumerate(self.nodes) if one.gone and not before[place]])

    @staticmethod
    async def _first(inbox: _Inbox, reader: _Reader, silence: float) -> list[Sequence[Any]]:
        """Return the first changes: the values that the nodes have now."""
        held: list[Sequence[Any]] = []
        wanted = set(reader.monitored)
        while wanted and (found := await inbox.take(silence)):
            held += found
            wanted -= {item.ClientHandle for items in found for item in items}
        return held

    async def _missed(self, session: Session, reader: _Reader, held: Sequence[Sequence[Any]]) -> AsyncIterator[Event]:
        """Yield the history of what was missed before the first changes, and report a gap where there is none."""
        since, gaps = reader.positions.heard, []
        for node, start, end in reader.missed(held):
            complete = False
            if node.history and start < end:
                for wait in HISTORY_WAITS:
                    # A server stores a value a moment after it has published it.
                    await asyncio.sleep(wait)
                    values = await self._stored(session, node, start, end)
                    complete = values is not None and any(stamp_of(one, 0) >= end for one in values)
                    if complete or values is None or wait == HISTORY_WAITS[-1]:
                        for event in reader.history(node, values or (), start, end):
                            yield event
                        break
            if not complete:
                gaps.append(node)
        if gaps:
            self.tell(f"gap from {since} to now: the server has no history of {_named(gaps)}, changes in between were not seen")

    @staticmethod
    async def _stored(session: Session, node: Node, start: int, end: int) -> list[ua.DataValue] | None:
        """Return what the server has stored of a node, with the value at the end; None if it has no history."""
        try:
            return await session.history(node.node, _EPOCH + timedelta(microseconds=start), _EPOCH + timedelta(microseconds=end + 1))
        except ua.UaStatusCodeError:
            return None
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"connection lost while history was read: {error}") from None

    def _note_overflows(self, reader: _Reader) -> None:
        """Report now and then how often changes were lost in the server's queues."""
        if not reader.overflows:
            return
        self.overflows, reader.overflows = self.overflows + reader.overflows, 0
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TELL_SECONDS
            what = f"changes were lost in the server's queues, {self.overflows:,} times so far"
            self.tell(f"{what}; their readings have the overflow bit; give a longer queue={self._queue} or a shorter interval")

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _named(nodes: Sequence[Node]) -> str:
    return first_of([one.path for one in nodes], MOST_NAMED)


class _Inbox:
    """Publish responses on their way. The next is asked for when there is room: so a slow log slows the server down, not fills our memory."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Sequence[Any] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MOST_BATCHES)

    def lose(self) -> None:
        """Note that the connection is lost."""
        self._queue.put_nowait(None)

    async def publish(self, result: ua.PublishResult) -> None:
        """Take a publish response. The library asks for the next one when this returns."""
        data = result.NotificationMessage.NotificationData or ()
        if any(isinstance(one, ua.StatusChangeNotification) for one in data):
            self.lose()
        await self._room.acquire()
        self._queue.put_nowait([one.MonitoredItems for one in data if isinstance(one, ua.DataChangeNotification)])

    async def take(self, silence: float) -> Sequence[Any]:
        """Return the changes of the next publish response. Raises Unavailable if the connection is lost, or nothing comes."""
        try:
            async with asyncio.timeout(silence):
                found = await self._queue.get()
        except TimeoutError:
            raise Unavailable("the subscription is silent") from None
        if found is None:
            raise Unavailable("connection lost")
        self._room.release()
        return found


@dataclass(slots=True)
class _Last:
    """The state of a node since the subscription was made."""

    reading: Callable[..., Reading]
    fresh: bool = True
    odd: str = ""
    quality: int = Quality.GOOD


def stamp_of(value: ua.DataValue, default: int) -> int:
    """Return the source's time of a value, or else the server's, µs since the epoch."""
    return microseconds(value.SourceTimestamp) or microseconds(value.ServerTimestamp) or default


class _Reader:
    """Makes events of changes. Sans-IO."""

    def __init__(self, nodes: Sequence[Node], positions: Positions, units: Units, *, expand: bool, tell: Callable[[str], object]) -> None:
        self.nodes, self.positions, self._units, self._expand, self._tell = nodes, positions, units, expand, tell
        self._keys = [key_of(one.id, one.tag.path if one.tag is not None else one.path) for one in nodes]
        # Under another name the value that a node has is a new one.
        self._renamed = positions.rename(dict(zip(self._keys, (one.id for one in nodes), strict=True)))
        self._lasts = [_Last(reading_as(one.tag, one.path)) for one in nodes]
        self._places = {one.id: place for place, one in enumerate(nodes)}
        self.monitored: frozenset[int] = frozenset()
        self.overflows = 0

    def refused(self, statuses: Sequence[int]) -> list[Event]:
        """Return a reading for each node that the server does not monitor."""
        bad = [(place, status) for place, status in enumerate(statuses) if status & Quality.BAD]
        self.monitored = frozenset(range(len(statuses))) - {place for place, _ in bad}
        if bad:
            names = _named([self.nodes[place] for place, _ in bad])
            self._tell(f"does not monitor {names}: {ua.StatusCode(bad[0][1]).name}")
        now = now_ms()
        return [Event(self._lasts[place].reading(None, now, quality=status).encode()) for place, status in bad]

    def gone(self, places: Sequence[int]) -> list[Event]:
        """Return a reading for each node that the server does not have any more, unless it has said so."""
        if places:
            self._tell(f"does not have {_named([self.nodes[place] for place in places])} any more: BadNodeIdUnknown")
        now, found = now_ms(), [place for place in places if not self._lasts[place].quality & Quality.BAD]
        return [Event(self._lasts[place].reading(None, now, quality=ua.StatusCodes.BadNodeIdUnknown).encode()) for place in found]

    def announced(self, found: Iterable[Iterable[ua.MonitoredItemNotification]]) -> bool:
        """Return whether a StatusCode says that properties have changed, and the one before did not."""
        before: dict[int, int] = {}
        for item in chain.from_iterable(found):
            place, code = item.ClientHandle, item.Value.StatusCode
            changed = 0 if code is None else code.value & SEMANTICS_CHANGED
            if changed and not before.get(place, self._lasts[place].quality & SEMANTICS_CHANGED):
                return True
            before[place] = changed
        return False

    def lost(self) -> list[Event]:
        """Return a reading of bad quality for each node that had a value."""
        now = now_ms()
        seen = [place for place, key in enumerate(self._keys) if key in self.positions.known]
        position = self.positions.lose()
        return [Event(self._lasts[place].reading(None, now, quality=Quality.BAD_NO_COMMUNICATION).encode(), position) for place in seen]

    def missed(self, held: Sequence[Sequence[ua.MonitoredItemNotification]]) -> list[tuple[Node, int, int]]:
        """Return the nodes that changed while nobody looked, with the time after their last reading and that of the first change now."""
        firsts: dict[int, int] = {}
        for items in held:
            for item in items:
                firsts.setdefault(item.ClientHandle, stamp_of(item.Value, 0))
        known = ((self.nodes[place], self.positions.last(self._keys[place]), at) for place, at in firsts.items())
        return [(node, last + 1, at) for node, last, at in known if last is not None and at != last]

    def history(self, node: Node, values: Iterable[ua.DataValue], start: int, end: int) -> list[Event]:
        """Return the readings of stored values from one time to before another."""
        place = self._places[node.id]
        found = [(place, value, stamp_of(value, 0)) for value in values]
        return self._events([(place, value, at) for place, value, at in found if start <= at < end])

    def changes(self, items: Iterable[ua.MonitoredItemNotification]) -> list[Event]:
        """Return the readings of a publish response."""
        now_us = 1000 * now_ms()
        found = [(item.ClientHandle, item.Value, stamp_of(item.Value, now_us)) for item in items]
        return self._events([one for one in found if not (self._lasts[one[0]].fresh and self._repeats(one[0], one[2]))])

    def _repeats(self, place: int, at: int) -> bool:
        """Return whether the first value of a subscription is the last one before it, and no outage was reported since."""
        key = self._keys[place]
        if self.positions.last(key) == at and not self.positions.lost(key) and key not in self._renamed:
            self._lasts[place].fresh = False
            return True
        return False

    def _events(self, found: Sequence[tuple[int, ua.DataValue, int]]) -> list[Event]:
        """Return the readings of values, each with the position after it."""
        if not found:
            return []
        arrival = now_ms()
        before = self.positions.known
        positions = self.positions.advance([(self._keys[place], at) for place, _, at in found], 1000 * arrival)
        events = []
        for (place, value, at), position in zip(found, positions, strict=True):
            last = self._lasts[place]
            # The same value as before the outage that was reported: it holds again from now on.
            again = last.fresh and before.get(self._keys[place]) == -at
            last.fresh = False
            readings = self._readings(place, value, at, arrival)
            if again:
                readings = [msgspec.structs.replace(one, time=arrival) for one in readings]
            # The position is that of the whole change, so only the last of its readings has it.
            events += [Event(one.encode(), position if one is readings[-1] else None) for one in readings]
        return events

    def _readings(self, place: int, value: ua.DataValue, at: int, arrival: int) -> list[Reading]:
        node, last = self.nodes[place], self._lasts[place]
        quality = value.StatusCode.value if value.StatusCode is not None else Quality.GOOD
        last.quality = quality
        if quality & OVERFLOW == OVERFLOW:
            self.overflows += 1
        raw = value.Value.Value if value.Value is not None else None
        stamp = at // 1000
        try:
            reading = last.reading(plain(raw), arrival, source_time=stamp, quality=quality, unit=self._unit(node))
        except TypeError as error:
            return self._odd(place, raw, str(error), arrival, stamp, quality)
        last.odd = ""
        return [reading]

    def _unit(self, node: Node) -> str | None:
        return self._units.known(node.tag, node.path, node.unit)

    def _odd(self, place: int, raw: object, what: str, arrival: int, stamp: int, quality: int) -> list[Reading]:
        """Return the readings of an array, or the one that says that a value cannot be read."""
        node, last = self.nodes[place], self._lasts[place]
        if self._expand and isinstance(raw, list):
            elements: list[Plain] = []
            try:
                elements = [plain(one) for one in raw]
            except TypeError:
                what = "an array of structures"
            else:
                make = [reading_as(None, f"{node.tag.path if node.tag else node.path}[{number}]") for number in range(len(elements))]
                return [of(one, arrival, source_time=stamp, quality=quality, unit=self._unit(node)) for of, one in zip(make, elements, strict=True)]
        if last.odd == what:
            return []
        last.odd = what
        self._tell(f"{node.path} is {what} and is left out" + ("; arrays=expand reads its elements" if what == "an array" else ""))
        return [last.reading(None, arrival, source_time=stamp, quality=Quality.BAD_TYPE_MISMATCH, unit=self._unit(node))]
