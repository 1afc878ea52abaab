"""A server to which records are posted: `http+post://…`, made by `http`. It answers when they are durable."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import h11
import msgspec

from headrace._clock import now_ms
from headrace._json import NOT_JSON
from headrace.connectors.address import Address, secret, secret_file
from headrace.connectors.payloads import PARAMETERS, Made, Shape, shape_of
from headrace.connectors.protocol import Event, Source, Unavailable
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["Received", "received"]

_EXAMPLE = "http+post://127.0.0.1:8090/records?token=${POST_TOKEN}"
_OWN = PARAMETERS | {"token", "token_file", "cert", "key", "max_body", "remember"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
HEAD_SECONDS, BODY_SECONDS, COMMIT_SECONDS, IDLE_SECONDS, LINGER_SECONDS = 10.0, 30.0, 30.0, 60.0, 2.0
CONNECTIONS = 200
_PENDING_BYTES = 64 << 20
_MOST_RECORDS = 10_000
_JSON, _LINES = frozenset({"application/json"}), frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_KEY_BYTES = 200


def received(address: str) -> Received:
    """Return what is posted to an address `http+post://host:port/path?token=…`; https+post with `cert` and `key`.

    Raises
    ------
    PlanError
        If the address is wrong, or has no token.
    EnvironmentFault
        If a secret or certificate is not there.
    """
    one = Address(address, _OWN, _EXAMPLE)
    if one.port is None or one.user is not None:
        raise one.wrong("names no port" if one.port is None else "has a user, where a token is asked for")
    token, file = one.get("token"), one.get("token_file")
    if (token is None) == (file is None):
        what = "needs a token" if token is None else "parameters token and token_file are both given"
        raise PlanError(what, where="FROM", fix="give token=${NAME} or token_file=FILE")
    known = secret(token, "FROM") if token is not None else secret_file(file or "")
    if len(known) < 8:
        raise PlanError("has a token of fewer than 8 characters", where="FROM", fix="take a longer one, such as that of: openssl rand -hex 24")
    made: Received = Received(
        f"{one.scheme}://{one.host or _LOOPBACK[0]}:{one.port}{one.path or '/'}",
        (one.host or _LOOPBACK[0], one.port),
        one.path or "/",
        known,
        shape_of(one, lambda line: made.tell(line)),  # noqa: PLW0108  (what the runner sets later)
        tls=_tls(one),
        most_bytes=int(one.number("max_body", 8 << 20, 1, 256 << 20)),
        remember=int(one.number("remember", 1000, 1, 100_000)),
    )
    return made


def _tls(one: Address) -> ssl.SSLContext | None:
    cert, key = one.get("cert"), one.get("key")
    if one.scheme != "https+post":
        if cert or key:
            raise PlanError("parameters cert and key are only for TLS", where="FROM", fix="give https+post://…")
        return None
    if cert is None or key is None:
        raise PlanError("needs a certificate", where="FROM", fix="give cert=FILE and key=FILE, in PEM's form")
    return _renewing(cert, key)


def _renewing(cert: str, key: str) -> ssl.SSLContext:
    """Return what listens with a certificate. Its files are read again at the first connection after they have changed."""
    context = _with_certificate(cert, key)
    stamp, newest = _stamp(cert, key), context

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal stamp, newest
        if (now := _stamp(cert, key)) != stamp:
            with suppress(EnvironmentFault):  # while one of them is being written, the old ones serve
                stamp, newest = now, _with_certificate(cert, key)
        connection.context = newest

    context.sni_callback = renew
    return context


def _with_certificate(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password="")  # without one OpenSSL would ask on the terminal
    except OSError as error:
        raise EnvironmentFault(f"cannot be used: {error.strerror or error}", where=cert, fix="give files in PEM's form") from None
    return context


def _stamp(*files: str) -> list[int]:
    """Return what tells whether files have changed."""
    with suppress(OSError):
        return [Path(file).stat().st_mtime_ns for file in files]
    return []


class _RefusedError(Exception):
    """A request is answered with an error."""

    def __init__(self, status: HTTPStatus, what: str, **headers: str) -> None:
        self.status, self.what, self.headers = status, what, headers
        super().__init__(what)


def _too_long(most: int) -> _RefusedError:
    return _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {most:,} bytes; send fewer records at once")


@dataclass(eq=False)
class _Request:
    """Records that were posted together."""

    made: Sequence[Made]
    size: int
    key: str | None
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    left: int = 0


class Received(Source):
    """Records that clients post. Each request is answered when its records are committed.

    A client that got no answer posts again. With the header `Idempotency-Key` the records that are known are dropped.

    Parameters
    ----------
    name
        The address without the token.
    where
        Host and port.
    path
        The path that is served.
    token
        What clients have to show.
    shape
        What becomes of a record.
    tls
        For https.
    most_bytes
        How long a body may be.
    remember
        How many ids to remember.

    Attributes
    ----------
    port
        At which it listens.
    """

    batch_seconds = 0.02

    def __init__(
        self,
        name: str,
        where: tuple[str, int],
        path: str,
        token: str,
        shape: Shape,
        *,
        tls: ssl.SSLContext | None = None,
        most_bytes: int = 8 << 20,
        remember: int = 1000,
    ) -> None:
        self.name, self._where, self._path, self._token, self._shape = name, where, path, token.encode(), shape
        self._tls, self.most_bytes = tls, most_bytes
        self.redelivers, self.window = remember, _MOST_RECORDS
        self.port = where[1]
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._pending: set[_Request] = set()
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()

    async def open(self, position: object) -> AsyncGenerator[Event] | None:  # noqa: ARG002  (clients post again)
        """Listen. Raises Unavailable if the port cannot be had."""
        self._drop("was not committed; post it again")
        self._queue = asyncio.Queue()
        if self._server is None:
            host, port = self._where
            try:
                self._server = await asyncio.start_server(self._connected, host, port, ssl=self._tls, limit=1 << 16)
            except OSError as error:
                raise Unavailable(f"cannot listen: {(error.strerror or str(error)).lower()}", fix="give a free port of this machine") from None
            self.port = self._server.sockets[0].getsockname()[1]
            if host not in _LOOPBACK and self._tls is None:
                self.tell("records and the token are sent without TLS, beyond this machine")
        return self._events()

    async def _events(self) -> AsyncGenerator[Event]:
        while True:
            request = await self._queue.get()
            for number, one in enumerate(request.made):
                name = None if request.key is None else f"{request.key}/{number}"
                yield Event(one.value, None, one.key, name, request, malformed=one.malformed)

    async def acknowledge(self, events: Sequence[Event]) -> None:
        """Answer the requests of which all records are committed."""
        for event in events:
            request: _Request = event.token
            request.left -= 1
            if not request.left and not request.done.done():
                request.done.set_result(None)

    def _drop(self, why: str) -> None:
        """Have all requests that are not committed fail."""
        for request in self._pending:
            if not request.done.done():
                request.done.set_exception(_RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why, retry_after="1"))

    async def close(self) -> None:
        """Listen no more, and answer what is pending."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        self._drop("the server ends; post it again later")
        if self._pending:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.gather(*(asyncio.wait([one.done]) for one in self._pending))
                    await asyncio.sleep(0)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()

    # connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(reader, writer, self).serve(full=len(self._connections) > CONNECTIONS)
        except (OSError, h11.ProtocolError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client has gone, speaks no HTTP, or is too slow
        except asyncio.CancelledError:
            pass  # `close` ends it; of a task that was cancelled CPython 3.11 would print a traceback
        finally:
            self._connections.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def check(self, request: h11.Request) -> tuple[bool, str | None]:
        """Return whether a request has lines, and its idempotency key. Raises _RefusedError."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if request.target.partition(b"?")[0].decode("latin-1") != self._path:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"post to {self._path}")
        if request.method != b"POST":
            raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "post records here", allow="POST")
        if not token or scheme.lower() != "bearer":
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, "send the token: Authorization: Bearer TOKEN", www_authenticate="Bearer")
        if not hmac.compare_digest(token.strip().encode("latin-1"), self._token):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "the token is another one")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _JSON | _LINES:
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json, or application/x-ndjson")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding")
        if int(headers.get("content-length", "0")) > self.most_bytes:
            raise _too_long(self.most_bytes)
        if sum(one.size for one in self._pending) > _PENDING_BYTES:
            raise _RefusedError(HTTPStatus.TOO_MANY_REQUESTS, "too much is being committed; post it again later", retry_after="1")
        key = headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= _KEY_BYTES:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"Idempotency-Key has more than {_KEY_BYTES} characters, or none")
        return kind in _LINES, key

    async def take(self, body: bytes, key: str | None, *, lines: bool) -> tuple[int, int]:
        """Return how many records were accepted and how many malformed, once they are committed. Raises _RefusedError."""
        at_ms = now_ms()
        values = [line for line in body.split(b"\n") if line and not line.isspace()] if lines else _values(body)
        made = [one for value in values for one in self._shape(self._path, value, at_ms)]
        if key is not None and len(made) > self.redelivers:
            what = f"a request with Idempotency-Key has at most {self.redelivers:,} records"
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, what)
        if made:
            request = _Request(made, len(body), key, left=len(made))
            self._pending.add(request)
            self._queue.put_nowait(request)
            try:
                async with asyncio.timeout(COMMIT_SECONDS):
                    await asyncio.shield(request.done)
            except TimeoutError:
                raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "is not committed yet, and may be later", retry_after="5") from None
            finally:
                self._pending.discard(request)
                request.done.cancel()
        bad = sum(one.malformed is not None for one in made)
        return len(made) - bad, bad


def _values(body: bytes) -> list[bytes]:
    """Return the text of each record. Raises _RefusedError if it is not JSON."""
    text = body.strip()
    try:
        if text[:1] == b"[":
            return [bytes(one) for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
        if text[:1] == b"{":
            msgspec.json.decode(text)
            return [text]
    except NOT_JSON as error:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, f"is not JSON: {error}") from None
    raise _RefusedError(HTTPStatus.BAD_REQUEST, "is no JSON object and no array")


class _Connection:
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
            except _RefusedError as error:
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
                        raise _too_long(self._source.most_bytes)
        except h11.RemoteProtocolError as error:
            raise _RefusedError(HTTPStatus(error.error_status_hint), str(error)) from None
        except TimeoutError:
            raise _RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {BODY_SECONDS:g} s") from None
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
