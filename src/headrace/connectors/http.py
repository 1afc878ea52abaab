"""HTTP: server-sent events, each with an id that tells the source where to resume; JSON that is polled; records that are posted."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from urllib.parse import urlsplit

from headrace.connectors.http_client import OneClient, unready, why
from headrace.connectors.protocol import Event, Source, Target, Unavailable
from headrace.errors import DataError, EnvironmentFault, PlanError

try:
    import httpx
    from httpx_sse import EventSource
except ModuleNotFoundError:
    raise EnvironmentFault("needs the packages httpx and httpx-sse", where="the bridge", fix="pip install 'headrace[http]'") from None

__all__ = ["ServerSentEvents", "source", "target"]

EVENT_BYTES = 1 << 20
_PAUSE_SECONDS = 1.0
_TIMEOUT = httpx.Timeout(10.0, read=60.0)

_NUMBER = re.compile(r"[0-9]{1,18}")


def source(address: str) -> Source:
    """Return the stream of events at an address of http or https, what is polled at one of http+poll, or posted to one of http+post."""
    match address.partition(":")[0].lower().partition("+")[2]:
        case "poll":
            from headrace.connectors.http_poll import polled

            return polled(address)
        case "post":
            from headrace.connectors.http_post import received

            return received(address)
    return ServerSentEvents(address)


def target(address: str) -> Target:
    """Return what posts records to an address of http+out or https+out."""
    if address.partition(":")[0].lower().partition("+")[2] != "out":
        raise PlanError("is not an address that records are posted to", where="TO", fix="give http+out://HOST/PATH or https+out://HOST/PATH")
    from headrace.connectors.http_out import webhook

    return webhook(address)


class ServerSentEvents(OneClient, Source):
    """A stream of server-sent events that have ids, which is resumed by `Last-Event-ID`.

    Raises
    ------
    PlanError
        If the address is not that of a server.
    """

    def __init__(self, address: str) -> None:
        _check_address(address)
        self._address = address
        self.name = str(httpx.URL(address).copy_with(username=None, password=None))
        self._make = partial(httpx.AsyncClient, timeout=_TIMEOUT, follow_redirects=True)

    @property
    def pause_seconds(self) -> float:  # type: ignore[override]
        """How long to wait before asking again a source that gave no event."""
        return _PAUSE_SECONDS

    async def open(self, position: str | None) -> AsyncGenerator[Event] | None:
        """Ask for the events after an id; None if the source says that there are no more."""
        headers = {b"Accept": b"text/event-stream", b"Accept-Encoding": b"identity", b"Cache-Control": b"no-store"}
        if position is not None:
            headers[b"Last-Event-ID"] = position.encode()
        try:
            response = await self._client.send(self._client.build_request("GET", self._address, headers=headers), stream=True)
            found = await self._answer(response)
        except (httpx.TransportError, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise await self._fault(error, self.name, "http://127.0.0.1:8001/generator/stream") from None
        return None if found is None else self._events(found, position)

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
        if unready(status):
            raise Unavailable(answers)
        if status >= 400:
            raise PlanError(f"{answers}: {body}" if body else answers, where=self.name, fix="fix the address")
        if status == 200 and kind == "text/event-stream":
            raise DataError(
                f"{answers}, with Content-Encoding {coding}, which was not asked for and may expand without bound",
                where=self.name,
                fix="have the source send events as they are",
            )
        raise DataError(
            f"{answers}, {kind or 'of no type'}, not text/event-stream", where=self.name, fix="give the address of a stream of server-sent events"
        )

    async def _events(self, response: httpx.Response, last: str | None) -> AsyncGenerator[Event]:
        """Yield events until the connection ends. One that was cut is not yielded: it comes again."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Bounded(response.stream, self.name)
        came = False
        try:
            async for event in EventSource(response).aiter_sse():
                if event.data:
                    self._check(event.id, last, came=came)
                    last, came = event.id, True
                    yield Event(event.data.encode(), event.id)
        except httpx.TransportError as error:
            raise Unavailable(why(error)) from None
        finally:
            await response.aclose()

    def _check(self, given: str, last: str | None, *, came: bool) -> None:
        """Raise DataError unless the event is one that comes after the last and can itself be named."""
        if not given or (came and given == last):
            what = f"event {given!r}" if given else "an event"
            raise DataError(
                f"after {what} came an event without an id" if given else "sends events without ids",
                where=self.name,
                fix="only with ids can a stream be resumed without loss; have the source send them",
            )
        if last is not None and (given == last or (_NUMBER.fullmatch(given) and _NUMBER.fullmatch(last) and int(given) < int(last))):
            raise DataError(
                f"sends event {given} after {last}: it was asked by Last-Event-ID to go on there and begins anew",
                where=self.name,
                fix="have the source resume; or begin with its first event: --anew",
            )


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


def _check_address(source: str) -> None:
    """Raise PlanError unless it is the address of a server."""
    try:
        parts = urlsplit(source)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise PlanError(f"cannot be bridged from {source!r}", where="FROM", fix="give an address such as http://127.0.0.1:8001/generator/stream")
