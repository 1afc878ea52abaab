"""Windows in time zones, on engines whose own windows have one length and an offset from UTC."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import PlanError
from headrace.plan.operators import Source
from headrace.plan.window import Window

__all__ = ["without_zone"]


def without_zone(window: Window, origins: Sequence[Source], engine: str) -> Window:
    """Return a window over records of some sources, with an offset alone where the clocks of its zone never change.

    Raises
    ------
    PlanError
        If its bounds are not a fixed time apart.
    """
    ranges = [source.range_ms for source in origins]
    fixed = window.in_utc(min(first for first, _ in ranges), max(last for _, last in ranges))
    if fixed is None:
        why = "months differ in length" if window.monthly else f"the clocks of {window.zone} change"
        fix = "run it on the embedded engine" + ("" if window.monthly else ", or take windows of UTC with offset= alone")
        raise PlanError(f"{why}, and {engine} has windows of one length", fix=fix)
    return fixed
