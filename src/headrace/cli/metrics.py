"""Where metrics go: a page on the loopback interface, and the file that HEADRACE_METRICS_FILE names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import EnvironmentFault

if TYPE_CHECKING:
    from headrace._metrics import Metrics

__all__ = ["FILE_VARIABLE", "metrics_file", "serve_metrics"]

FILE_VARIABLE = "HEADRACE_METRICS_FILE"
_FILE_SECONDS = 1.0


def serve_metrics(metrics: Metrics, port: int, health: Callable[[], bytes] | None = None) -> None:
    """Serve the metrics on the loopback interface, from threads of their own; and `/health` as JSON, where there is one."""
    from http import HTTPStatus

    from headrace.gateway.pages import Answer, Pages

    def page() -> Answer:
        return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text()

    def state() -> Answer:
        assert health is not None
        return HTTPStatus.OK, "application/json", health()

    try:
        Pages(port, {"/metrics": page, "/": page} | ({} if health is None else {"/health": state}))
    except (OSError, OverflowError) as error:
        raise EnvironmentFault(
            f"cannot be served: {getattr(error, 'strerror', error)}", where=f"metrics on port {port}", fix="name a free --metrics-port"
        ) from None


def metrics_file(metrics: Metrics) -> Callable[[bool], None]:
    """Return a function that writes the metrics to the file that the environment names: at most once a second, or always if it is given True."""
    file = os.environ.get(FILE_VARIABLE)
    written = 0.0

    def leave(always: bool) -> None:  # noqa: FBT001
        nonlocal written
        if file and (always or time.monotonic() - written >= _FILE_SECONDS):
            written = time.monotonic()
            with suppress(OSError):
                metrics.write(Path(file))

    return leave
