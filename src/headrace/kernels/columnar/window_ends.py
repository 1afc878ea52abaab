"""The ends of the windows that take a row."""

from __future__ import annotations

import polars as pl

from headrace.plan.window import Window

__all__ = ["first_taken", "last_end", "over_at"]


def first_taken(window: Window, lateness: int, ended: pl.Expr | None = None) -> pl.Expr:
    """Return the end of the first window that takes a row, given its `@time` and `@watermark`; windows have `ended` that end by then."""
    step = window.step_ms
    holds = pl.col("@time").floordiv(step) * step + step
    open_still = (pl.col("@watermark") + (1 - lateness) if ended is None else ended).floordiv(step) * step + step
    return pl.max_horizontal(holds, open_still)


def last_end(window: Window, time: pl.Expr) -> pl.Expr:
    """Return the end of the last window that holds a row of a time."""
    if window.kind == "cumulating":
        return time.floordiv(window.size_ms) * window.size_ms + window.size_ms
    return (time + window.size_ms).floordiv(window.step_ms) * window.step_ms


def over_at(window: Window, clock: int, lateness: int = 0) -> int:
    """Return the window time up to which windows are over at a clock, and with lateness are forgotten."""
    return window.time(clock + 1 - lateness)
