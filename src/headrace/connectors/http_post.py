"""A server to which records are posted: `http+post://…`, made by `http`. It answers when they are durable."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

from headrace._clock import now_ms
from headrace.connectors.address import Address, secret, secret_file
from headrace.connectors.http_connection import PostConnection
from headrace.connectors.http_post_tls import tls_of
from headrace.connectors.http_refusals import RefusedError, too_long, values_of
from headrace.connectors.payload_records import Made, Shape
from headrace.connectors.payloads import PARAMETERS, shape_of
from headrace.connectors.protocol import Event, Source, Unavailable
from headrace.errors import PlanError

__all__ = ["Received", "received"]

_EXAMPLE = "http+post://127.0.0.1:8090/records?token=${POST_TOKEN}"
_OWN = PARAMETERS | {"token", "token_file", "cert", "key", "max_body", "remember"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
COMMIT_SECONDS = 30.0
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
        tls=tls_of(one),
        most_bytes=int(one.number("max_body", 8 << 20, 1, 256 << 20)),
        remember=int(one.number("remember", 1000, 1, 100_000)),
    )
    return made


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
                request.done.set_exception(RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why, retry_after="1"))

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
            await PostConnection(reader, writer, self).serve(full=len(self._connections) > CONNECTIONS)
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
            raise RefusedError(HTTPStatus.NOT_FOUND, f"post to {self._path}")
        if request.method != b"POST":
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "post records here", allow="POST")
        if not token or scheme.lower() != "bearer":
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "send the token: Authorization: Bearer TOKEN", www_authenticate="Bearer")
        if not hmac.compare_digest(token.strip().encode("latin-1"), self._token):
            raise RefusedError(HTTPStatus.FORBIDDEN, "the token is another one")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _JSON | _LINES:
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json, or application/x-ndjson")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding")
        if int(headers.get("content-length", "0")) > self.most_bytes:
            raise too_long(self.most_bytes)
        if sum(one.size for one in self._pending) > _PENDING_BYTES:
            raise RefusedError(HTTPStatus.TOO_MANY_REQUESTS, "too much is being committed; post it again later", retry_after="1")
        key = headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= _KEY_BYTES:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"Idempotency-Key has more than {_KEY_BYTES} characters, or none")
        return kind in _LINES, key

    async def take(self, body: bytes, key: str | None, *, lines: bool) -> tuple[int, int]:
        """Return how many records were accepted and how many malformed, once they are committed. Raises _RefusedError."""
        at_ms = now_ms()
        values = [line for line in body.split(b"\n") if line and not line.isspace()] if lines else values_of(body)
        made = [one for value in values for one in self._shape(self._path, value, at_ms)]
        if key is not None and len(made) > self.redelivers:
            what = f"a request with Idempotency-Key has at most {self.redelivers:,} records"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, what)
        if made:
            request = _Request(made, len(body), key, left=len(made))
            self._pending.add(request)
            self._queue.put_nowait(request)
            try:
                async with asyncio.timeout(COMMIT_SECONDS):
                    await asyncio.shield(request.done)
            except TimeoutError:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "is not committed yet, and may be later", retry_after="5") from None
            finally:
                self._pending.discard(request)
                request.done.cancel()
        bad = sum(one.malformed is not None for one in made)
        return len(made) - bad, bad
