"""The live page of one pipeline: its latest output, its throughput and its ledger, with `/health` and `/metrics` beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import msgspec

from headrace.errors import EnvironmentFault

__all__ = ["LivePage"]

_TYPES = {"/": "text/html; charset=utf-8", "/health": "application/json", "/state": "application/json", "/metrics": "text/plain; version=0.0.4"}


@dataclass
class LivePage:
    """Serves the page on the loopback interface, from threads of its own, until it is closed.

    Parameters
    ----------
    port
        Where; 0 for any that is free.
    health
        What `/health` says: an object with `status`, which is `ok` or why not.
    state
        What the page shows, asked for once a second by each who looks on.
    metrics
        Prometheus' text.
    """

    port: int
    health: Callable[[], dict[str, Any]]
    state: Callable[[], dict[str, Any]]
    metrics: Callable[[], bytes]

    def __post_init__(self) -> None:
        """Begin to serve.

        Raises
        ------
        EnvironmentFault
            If the port is in use or may not be taken.
        """
        page = (files("headrace.console") / "live.html").read_bytes()
        answers: dict[str, Callable[[], bytes]] = {
            "/": lambda: page,
            "/health": lambda: msgspec.json.encode(self.health()),
            "/state": lambda: msgspec.json.encode(self.state()),
            "/metrics": self.metrics,
        }
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(answers))
        except (OSError, OverflowError) as error:
            raise EnvironmentFault(f"cannot be served: {error}", where=f"port {self.port}", fix="name a free one: --port 8001") from None
        self.port = self._server.server_port
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="page", daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


def _handler(answers: dict[str, Callable[[], bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path not in answers:
                self._answer(HTTPStatus.NOT_FOUND, b"there are /, /health, /state and /metrics\n", "text/plain")
                return
            body = answers[path]()
            healthy = path != "/health" or msgspec.json.decode(body)["status"] == "ok"
            self._answer(HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE, body, _TYPES[path])

        def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    return Handler
