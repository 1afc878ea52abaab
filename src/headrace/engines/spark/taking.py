"""Which windows take a row, and in which order their rows are folded, in Spark SQL."""

from __future__ import annotations

from headrace.plan.window import Window

__all__ = ["floor_of", "slice_order", "taken_by"]


def floor_of(time: str, length: int, window: Window) -> str:
    """Return the last bound, of those `length` apart, that is not after a time."""
    begins = window.offset_ms % length
    return f"{time} - PMOD({time}{f' - {begins}' if begins else ''}, {length})"


def taken_by(window: Window) -> tuple[str, str]:
    """Return whether a window takes a row, and the end of the windows that do."""
    step, size = window.step_ms, window.size_ms
    holds = f"{floor_of('`_time_ms`', step, window)} + {step}"
    if window.kind == "tumbling":
        return f"`_watermark_ms` < {holds} - 1 AS `_taken`", f"{holds} AS `_ends`"
    first = f"GREATEST({holds}, {floor_of('`_watermark_ms` + 1', step, window)} + {step})"
    last = f"{floor_of('`_time_ms`', size, window)} + {size}" if window.kind == "cumulating" else floor_of(f"`_time_ms` + {size}", step, window)
    return f"{first} <= {last} AS `_taken`", f"CASE WHEN {first} <= {last} THEN SEQUENCE({first}, {last}, {step}) END AS `_ends`"


def slice_order(window: Window) -> str:
    """Return by what rows are ordered before the input's order: slice by slice, and those that came after their slice was over behind it."""
    length = window.slice_ms
    start = floor_of("`_time_ms`", length, window)
    return f"{start} AS slice, `_watermark_ms` >= {start} + {length - 1} AS behind, "
