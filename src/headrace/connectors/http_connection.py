"""A connection on which records are posted: HTTP as h11 has it, one request after the other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
import msgspec

from headrace.connectors.http_refusals import RefusedError, too_long

if TYPE_CHECKING:
    from headrace.connectors.http_post import Received

__all__ = ["BODY_SECONDS", "HEAD_SECONDS", "IDLE_SECONDS", "LINGER_SECONDS", "PostConnection"]

HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0
IDLE_SECONDS = 60.0
LINGER_SECONDS = 2.0


class PostConnection:
    """A connection of a client: one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: Received) -> None:
        self._reader, self._writer, self._source = reader, writer, source
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)

    async def serve(self, *, full: bool) -> None:
        """Answer requests until the client has no more."""
        seconds = HEAD_SECONDS
        while True:
            async with asyncio.timeout(seconds):
                try:
                    request = await self._next()
                except h11.RemoteProtocolError as error:
                    await self._answer(HTTPStatus(error.error_status_hint), {"error": str(error)}, close=True)
                    return
            if not isinstance(request, h11.Request):
                return
            if full:
                await self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "too many connections"}, close=True, retry_after="1")
                return
            try:
                lines, key = self._source.check(request)
                body = await self._body()
                accepted, malformed = await self._source.take(body, key, lines=lines)
            except RefusedError as error:
                whole = self._http.their_state is h11.DONE
                await self._answer(error.status, {"error": error.what}, close=not whole, **error.headers)
                if not whole:
                    await self._linger()
                    return
            else:
                await self._answer(HTTPStatus.OK, {"accepted": accepted, "malformed": malformed})
            if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()
            seconds = IDLE_SECONDS

    async def _next(self) -> Any:  # noqa: ANN401  (h11's events)
        """Return the next event of HTTP."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(1 << 16))
        return event

    async def _body(self) -> bytes:
        """Return the body. Raises _RefusedError if it is too long, or does not come in time."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while isinstance(event := await self._next(), h11.Data):
                    body += event.data
                    if len(body) > self._source.most_bytes:
                        raise too_long(self._source.most_bytes)
        except h11.RemoteProtocolError as error:
            raise RefusedError(HTTPStatus(error.error_status_hint), str(error)) from None
        except TimeoutError:
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {BODY_SECONDS:g} s") from None
        return bytes(body)

    async def _linger(self) -> None:
        """Read what a client still sends for a moment: a connection that is closed before would cost it the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._reader.read(1 << 16):
                    pass

    async def _answer(self, status: HTTPStatus, content: Any, *, close: bool = False, **headers: str) -> None:  # noqa: ANN401
        body = msgspec.json.encode(content) + b"\n"
        named = {"content-type": "application/json", "content-length": str(len(body)), "server": "headrace"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        if close:
            named["connection"] = "close"
        await self._send(h11.Response(status_code=status, reason=status.phrase, headers=list(named.items())))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: Any) -> None:  # noqa: ANN401
        if data := self._http.send(event):
            self._writer.write(data)
            async with asyncio.timeout(HEAD_SECONDS):
                await self._writer.drain()
