"""Log lines of a program that goes on: to be read on a terminal, JSON for machines."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["structured"]


def structured() -> Any:  # noqa: ANN401  (structlog's own type)
    """Return a logger to standard error: lines to read on a terminal, JSON for machines."""
    import structlog

    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), renderer],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return structlog.get_logger()
