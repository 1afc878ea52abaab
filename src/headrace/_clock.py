"""The clock on the wall. What computes with time is given it; only the edges read it, here."""

from __future__ import annotations

import time

__all__ = ["now_ms"]


def now_ms() -> int:
    """Return the time of the clock on the wall, in ms since the epoch."""
    return time.time_ns() // 1_000_000
