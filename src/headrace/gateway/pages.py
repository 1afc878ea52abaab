"""Pages served over HTTP on the loopback interface, from threads of their own, next to what a process does.

A client has a limited time for each request and for what it takes, there is room for a limited number of them, and only
names that no one else can own are answered.
"""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs

import msgspec

from headrace.gateway.hosts import REFUSED, is_own_host, is_own_origin

__all__ = ["CONNECTIONS", "REQUEST_SECONDS", "Answer", "Pages", "Paths", "json_answer", "number_of", "text_of"]

CONNECTIONS = 64
REQUEST_SECONDS = 10.0
_MOST_POSTED = 65_536
_MOST_SKIPPED = 1_048_576
# Nothing comes from elsewhere, scripts come only from files of ours (a drawing of a plant may contain others), and no page of another origin
# shows this one in a frame, where it could have an operator click unknowingly.
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"

Answer = tuple[HTTPStatus, str, bytes]
Paths = tuple[dict[str, Callable[[], Answer]], dict[str, Callable[[str], Answer]], dict[str, Callable[[bytes], Answer]]]
"""The functions that answer each path: without a query, with a query, and for a body that is posted."""
_NONE: Mapping[str, Callable[[str], Answer]] = MappingProxyType({})
_NOT_POSTED: Mapping[str, Callable[[bytes], Answer]] = MappingProxyType({})


def json_answer(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:  # noqa: ANN401  (a value of JSON)
    """Return an answer of JSON."""
    return status, "application/json", msgspec.json.encode(value)


def text_of(query: str, name: str) -> str:
    """Return a parameter of a query; empty if it is not there."""
    return parse_qs(query).get(name, [""])[0]


def number_of(query: str, name: str) -> int | None:
    """Return a parameter of a query that is a whole number from 0 on; None if it is none."""
    text = text_of(query, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


class Pages:
    """Serves pages until it is closed.

    Parameters
    ----------
    port
        Where; 0 for any that is free.
    pages
        What answers each path: its status, type and content. They are called from several threads.
    asked
        The same for paths with a query, which they are given.
    posted
        The same for paths to which JSON is posted, which they are given. A page of another origin cannot post.
    host
        The address at which it serves. Beyond the loopback interface anyone who reaches the port can read the pages.

    Raises
    ------
    OSError, OverflowError
        If the port is in use, may not be taken, or is none.
    """

    def __init__(
        self,
        port: int,
        pages: Mapping[str, Callable[[], Answer]],
        asked: Mapping[str, Callable[[str], Answer]] = _NONE,
        posted: Mapping[str, Callable[[bytes], Answer]] = _NOT_POSTED,
        *,
        host: str = "127.0.0.1",
    ) -> None:
        self._server = _Server((host, port), _handler(pages, asked, posted))
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="pages", daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A server that takes no more than `CONNECTIONS` at once, and for which a client that leaves is no error."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  (socketserver's own types)
        """Answer a connection in a thread of its own, or close it if there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer a connection, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Say in one line what went wrong, unless the client has left or is too slow."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"headrace: a page: {type(error).__name__}: {error}", file=sys.stderr)


class _Timely(io.RawIOBase):
    """A connection that is read up to a time, which is set for each request as a whole."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (any writable buffer)
        """Read what is there. Raises TimeoutError when the time is over."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            with suppress(OSError):
                self._connection.settimeout(REQUEST_SECONDS)


def _length(headers: Message) -> int:
    """Return the length of a body; 0 if it is not stated, or not so that it can be read."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0


def _refusal(headers: Message, *, known: bool) -> tuple[HTTPStatus, str] | None:
    """Return why a post is refused; None if it is accepted."""
    if not known:
        return HTTPStatus.NOT_FOUND, "nothing is posted there"
    if not is_own_origin(headers):
        return HTTPStatus.FORBIDDEN, "a page of another origin cannot do this"
    if headers.get_content_type() != "application/json":  # which a form cannot send, nor a page of another origin without asking first
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json"
    return None


def _handler(  # noqa: C901  (the methods of a class are in it)
    pages: Mapping[str, Callable[[], Answer]], asked: Mapping[str, Callable[[str], Answer]], posted: Mapping[str, Callable[[bytes], Answer]]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = REQUEST_SECONDS  # also of what is sent

        def setup(self) -> None:
            super().setup()
            self._timely = _Timely(self.connection)
            self.rfile = io.BufferedReader(self._timely)

        def handle_one_request(self) -> None:
            self._timely.until = time.monotonic() + REQUEST_SECONDS
            super().handle_one_request()

        def do_GET(self) -> None:
            if not self._is_for_us():
                return
            path, _, query = self.path.partition("?")
            if path in asked:
                self._answer(*asked[path](query))
                return
            if path not in pages:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", f"there is {', '.join((*pages, *asked))}\n".encode())
                return
            self._answer(*pages[path]())

        do_HEAD = do_GET  # noqa: N815  (so the library calls it)

        def do_POST(self) -> None:
            # All of the body is read before an answer: what is left unread would reset the connection, and the answer could be lost.
            length = _length(self.headers)
            body = self.rfile.read(min(length, _MOST_SKIPPED))
            if not 0 < length <= _MOST_POSTED:
                self.close_connection = True
                self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send a Content-Length of 1 to {_MOST_POSTED}")
                return
            if not self._is_for_us():
                return
            refusal = _refusal(self.headers, known=self.path in posted)
            if refusal is not None:
                self._say(*refusal)
                return
            self._answer(*posted[self.path](body))

        def _is_for_us(self) -> bool:
            """Return whether the request names this server; if not, it is answered."""
            hosts = self.headers.get_all("Host", [])
            if len(hosts) > 1 or not all(map(is_own_host, hosts)):
                self._say(HTTPStatus.MISDIRECTED_REQUEST, REFUSED)
                return False
            return True

        def _say(self, status: HTTPStatus, what: str) -> None:
            self._answer(status, "text/plain; charset=utf-8", f"{what}\n".encode(errors="replace"))

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", _POLICY)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    return Handler
