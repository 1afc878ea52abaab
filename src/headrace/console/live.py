"""The live page of one pipeline: its latest output, its throughput and its ledger, with `/health` and `/metrics` beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from headrace.errors import EnvironmentFault
from headrace.gateway.pages import Answer, Pages, Paths, json_answer

__all__ = ["LivePage"]


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
    beside
        What answers further paths, as in `Pages`. Where it has `/`, `/health` and `/metrics`, these go before; this page is at `/kiln` too.
    """

    port: int
    health: Callable[[], dict[str, Any]]
    state: Callable[[], dict[str, Any]]
    metrics: Callable[[], bytes]
    beside: Paths = field(default_factory=lambda: ({}, {}, {}))

    def __post_init__(self) -> None:
        """Begin to serve.

        Raises
        ------
        EnvironmentFault
            If the port is in use or may not be taken.
        """
        page, script = ((files("headrace.console") / name).read_bytes() for name in ("live.html", "live.js"))
        shown, asked, posted = self.beside

        def kiln() -> Answer:
            return HTTPStatus.OK, "text/html; charset=utf-8", page

        pages: dict[str, Callable[[], Answer]] = {
            "/": kiln,
            "/health": self._health,
            "/state": lambda: json_answer(self.state()),
            "/metrics": lambda: (HTTPStatus.OK, "text/plain; version=0.0.4", self.metrics()),
            **shown,
            "/kiln": kiln,
            "/live.js": lambda: (HTTPStatus.OK, "text/javascript", script),
        }
        try:
            self._pages = Pages(self.port, pages, asked, posted)
        except (OSError, OverflowError) as error:
            raise EnvironmentFault(f"cannot be served: {error}", where=f"port {self.port}", fix="name a free one: --port 8001") from None
        self.port = self._pages.port

    def _health(self) -> Answer:
        said = self.health()
        return json_answer(said, HTTPStatus.OK if said["status"] == "ok" else HTTPStatus.SERVICE_UNAVAILABLE)

    def close(self) -> None:
        """Serve no more."""
        self._pages.close()
