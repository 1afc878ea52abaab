"""From a stream of server-sent events to a topic: every event once, over lost connections and `kill -9`.

An event's id tells where the source is to go on. It is committed together with the records, in one step of the log, so the
topic never has a record that is not acknowledged, nor lacks one that is.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from math import inf
from urllib.parse import urlsplit

import msgspec

from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.topics.protocol import Claim, Commit, Log, Outgoing

try:
    import httpx
    import stamina
    from httpx_sse import EventSource
except ModuleNotFoundError:
    raise EnvironmentFault("needs the packages httpx, httpx-sse and stamina", where="the bridge", fix="pip install 'headrace[http]'") from None

__all__ = ["HttpBridge", "only_told", "passed_before"]

MOST_RECORDS = 10_000
MOST_BYTES = 4 << 20
EVENT_BYTES = 1 << 20
BATCH_SECONDS = 0.1
_TICK_SECONDS = 0.1
_AHEAD = 64  # events read and not yet in a batch
_PAUSE_SECONDS = 1.0
_TIMEOUT = httpx.Timeout(10.0, read=60.0)
_UNREADY = frozenset({408, 425, 429})

_NUMBER = re.compile(r"[0-9]{1,18}")

_Event = tuple[str, bytes]


def _warn(text: str) -> None:
    print(f"headrace: {text}", file=sys.stderr, flush=True)


def only_told() -> None:
    """Have this process hear of lost connections from the bridge alone, and not a second time from what asks again."""
    stamina.instrumentation.set_on_retry_hooks(())


class _Position(msgspec.Struct, frozen=True):
    """How far the bridge has come: the id of the last event committed, None before the first, and how many there were."""

    source: str
    last: str | None = None
    passed: int = 0


def passed_before(log: Log, topic: str) -> int:
    """Return how many records bridges have brought into a topic."""
    manifest = log.manifest(_name(topic))
    return 0 if manifest is None else msgspec.json.decode(manifest, type=_Position).passed


def _name(topic: str) -> str:
    """Return the name that a topic's bridge has among those who read and write."""
    return f"bridge:{topic}"


class _Unready(Exception):
    """The source answers that it cannot serve now."""


class HttpBridge:
    """Brings the events of one source into one topic, which it makes if there is none.

    Parameters
    ----------
    log
        Where the topic is.
    source
        The address of the stream.
    topic
        Its name; the bridge is `bridge:NAME` among those who read and write.
    key
        The field of a record by which the log chooses its partition. Without one they all go to the first.
    patience
        How many seconds a source that cannot be reached is asked again; None is for ever.
    anew
        Forget how far the bridge has come.
    told
        Is given a line for each connection that is lost.
    """

    def __init__(
        self,
        log: Log,
        source: str,
        topic: str,
        *,
        key: str | None = None,
        patience: float | None = 60.0,
        anew: bool = False,
        told: Callable[[str], None] = _warn,
    ) -> None:
        _check_address(source)
        self._address, self._topic, self._key, self._patience, self._told = source, topic, key, patience, told
        self._source = str(httpx.URL(source).copy_with(username=None, password=None))
        if topic not in {info.name for info in log.topics()}:
            log.create(topic)
        self._claim: Claim = log.claim(_name(topic))
        try:
            if anew:
                self._claim.forget()
            self._committed = self._known(self._claim.manifest)
        except BaseException:
            self._claim.release()
            raise
        self._last = self._committed.last

    def _known(self, manifest: bytes | None) -> _Position:
        if manifest is None:
            return _Position(self._source)
        known = msgspec.json.decode(manifest, type=_Position)
        if known.source != self._source:
            raise PlanError(
                f"has been bridged from {known.source}, up to event {known.last}",
                where=f"topic {self._topic!r}",
                fix=f"give that address, or begin with the first event of {self._source}: --anew",
            )
        return known

    @property
    def source(self) -> str:
        """The address, without name and password if it has such."""
        return self._source

    @property
    def passed(self) -> int:
        """How many records have been committed, by this bridge and those before it."""
        return self._committed.passed

    @property
    def last(self) -> str | None:
        """The id of the last event committed."""
        return self._committed.last

    # to the topic

    async def run(self, stop: Callable[[], bool] = lambda: False, *, duration: float | None = None, records: int | None = None) -> int:
        """Bring events over until the source has no more or `stop` says so, and return how many.

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
        PlanError
            If the source refuses what it is asked for.
        DataError
            If what it sends is no stream of events that can be resumed.
        EnvironmentFault
            If it cannot be reached, or the log cannot be written to.
        """
        loop, first = asyncio.get_running_loop(), self.passed
        end = inf if duration is None else loop.time() + duration
        most = inf if records is None else first + records
        queue: asyncio.Queue[_Event] = asyncio.Queue(_AHEAD)
        reading = asyncio.create_task(self._read(queue))
        try:
            while self.passed < most and not stop() and loop.time() < end:
                batch = await self._batch(queue, reading, min(MOST_RECORDS, most - self.passed))
                if batch:
                    await asyncio.to_thread(self._commit, batch)
                elif reading.done():
                    reading.result()
                    break
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reading
        return self.passed - first

    async def _batch(self, queue: asyncio.Queue[_Event], reading: asyncio.Task[None], most: float) -> list[_Event]:
        """Return what has come: as much as is there, or comes in a moment."""
        loop = asyncio.get_running_loop()
        batch: list[_Event] = []
        size, over = 0, loop.time() + _TICK_SECONDS
        while len(batch) < most and size < MOST_BYTES and loop.time() < over:
            if queue.empty():
                if reading.done():
                    break
                try:
                    async with asyncio.timeout_at(over):
                        event = await queue.get()
                except TimeoutError:
                    break
            else:
                event = queue.get_nowait()
            if not batch:
                over = loop.time() + BATCH_SECONDS
            batch.append(event)
            size += len(event[1])
        return batch

    def _commit(self, batch: Sequence[_Event]) -> None:
        """Make records and position durable, together."""
        values = [value for _, value in batch]
        position = _Position(self._source, batch[-1][0], self._committed.passed + len(batch))
        keys = None if self._key is None else [_key_of(value, self._key) for value in values]
        outgoing = Outgoing(self._topic, b"\n".join(values), len(values), keys)
        self._claim.commit(Commit(msgspec.json.encode(position), {}, (), [outgoing], {(self._topic, 0): position.passed}))
        self._committed = position

    # from the source

    async def _read(self, queue: asyncio.Queue[_Event]) -> None:
        """Read events into the queue until there are no more."""
        async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=True) as client:
            while (response := await self._connected(client)) is not None:
                try:
                    before = self._last
                    await self._take(response, queue)
                finally:
                    await response.aclose()
                if self._last == before:
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def _connected(self, client: httpx.AsyncClient) -> httpx.Response | None:
        """Return the stream, which begins after the last event; None if the source says that there is no more."""
        headers = {b"Accept": b"text/event-stream", b"Accept-Encoding": b"identity", b"Cache-Control": b"no-store"}
        if self._last is not None:
            headers[b"Last-Event-ID"] = self._last.encode()
        try:
            async for attempt in stamina.retry_context(on=_may_pass, attempts=None, timeout=self._patience, wait_jitter=0.5):
                with attempt:
                    try:
                        return await self._answer(await client.send(client.build_request("GET", self._address, headers=headers), stream=True))
                    except (httpx.TransportError, _Unready) as error:
                        if attempt.num == 1 and _may_pass(error):
                            self._told(f"{self._source}: {_why(error)}; asked again until it answers")
                        raise
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise PlanError(
                f"cannot be asked: {error}", where=self._source, fix="give an address such as http://127.0.0.1:8001/generator/stream"
            ) from None
        except (httpx.TransportError, _Unready) as error:
            raise EnvironmentFault(
                f"{_why(error)}, for {self._patience:g} s", where=self._source, fix="is its server running, and the address right?"
            ) from None
        raise AssertionError("the last attempt returns or raises")

    async def _answer(self, response: httpx.Response) -> httpx.Response | None:
        """Return the response if it is a stream of events; None if it says that there is no more."""
        status = response.status_code
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if status == 200 and kind == "text/event-stream" and coding in {"", "identity"}:
            return response
        try:
            body = await anext(response.aiter_text(500), "") if 400 <= status < 500 and coding == "identity" else ""
        finally:
            await response.aclose()
        if status == 204:
            return None
        answers = f"answers {status} {response.reason_phrase}"
        if status >= 500 or status in _UNREADY:
            raise _Unready(answers)
        if status >= 400:
            raise PlanError(f"{answers}: {body}" if body else answers, where=self._source, fix="mend the address")
        if status == 200 and kind == "text/event-stream":
            raise DataError(
                f"{answers}, with Content-Encoding {coding}, which was not asked for and may expand without bound",
                where=self._source,
                fix="have the source send events as they are",
            )
        raise DataError(
            f"{answers}, {kind or 'of no type'}, not text/event-stream", where=self._source, fix="give the address of a stream of server-sent events"
        )

    async def _take(self, response: httpx.Response, queue: asyncio.Queue[_Event]) -> None:
        """Read events until the connection ends. An event that was cut is none: it comes again."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Bounded(response.stream, self._source)
        came = False
        try:
            async for event in EventSource(response).aiter_sse():
                if event.data:
                    self._check(event.id, came=came)
                    # Within a record there may be no line feed, and JSON takes one white space for another.
                    await queue.put((event.id, event.data.encode().replace(b"\n", b"\r")))
                    self._last, came = event.id, True
        except httpx.TransportError as error:
            self._told(
                f"{self._source}: {_why(error)}; asked to go on {'from the first event' if self._last is None else f'after event {self._last}'}"
            )

    def _check(self, given: str, *, came: bool) -> None:
        """Raise DataError unless the event is one that comes after the last and can itself be named."""
        if not given or (came and given == self._last):
            what = f"event {given!r}" if given else "an event"
            raise DataError(
                f"after {what} came an event without an id" if given else "sends events without ids",
                where=self._source,
                fix="only with ids can a stream be resumed without loss; have the source send them",
            )
        last = self._last
        if last is not None and (given == last or (_NUMBER.fullmatch(given) and _NUMBER.fullmatch(last) and int(given) < int(last))):
            raise DataError(
                f"sends event {given} after {last}: it was asked by Last-Event-ID to go on there and begins anew",
                where=self._source,
                fix="have the source resume; or begin with its first event: --anew",
            )

    def close(self) -> None:
        """Let the topic go."""
        self._claim.release()


class _Bounded(httpx.AsyncByteStream):
    """A stream in which no event is longer than may be, so that what is kept of one stays small."""

    def __init__(self, stream: httpx.AsyncByteStream, source: str) -> None:
        self._stream, self._source = stream, source

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the bytes as they come."""
        length, tail = 0, b""
        async for piece in self._stream:
            joined = (tail + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            end = joined.rfind(b"\n\n")
            length = length + len(piece) if end < 0 else len(joined) - end
            if length > EVENT_BYTES:
                raise DataError(f"an event is longer than {EVENT_BYTES:,} bytes", where=self._source, fix="have the source send less at once")
            tail = piece[-3:]
            yield piece

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


def _key_of(value: bytes, field: str) -> str | None:
    """Return the text of a record's field; None if it has none, or is no JSON object."""
    try:
        found = msgspec.json.decode(value, type=dict[str, msgspec.Raw]).get(field)
        key = None if found is None else msgspec.json.decode(found, type=str | int | float | None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return None if key is None else str(key)


def _check_address(source: str) -> None:
    """Raise PlanError unless it is the address of a server."""
    try:
        parts = urlsplit(source)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise PlanError(f"cannot be bridged from {source!r}", where="FROM", fix="give an address such as http://127.0.0.1:8001/generator/stream")


def _may_pass(error: Exception) -> bool:
    """Whether it may help to ask again."""
    return isinstance(error, (httpx.TransportError, _Unready)) and not isinstance(error, httpx.UnsupportedProtocol)


def _why(error: BaseException) -> str:
    """Return what went wrong with a connection, in a few words: the system's own, if it has said any."""
    if isinstance(error, httpx.ConnectTimeout):
        return "does not answer"
    if isinstance(error, httpx.ReadTimeout):
        return "has been silent too long"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            # asyncio puts words of its own into strerror; names that are not found have numbers of their own.
            return (os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)).lower()
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause.__context__
    return str(error).rstrip(".") or type(error).__name__
