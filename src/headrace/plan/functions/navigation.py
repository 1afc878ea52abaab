"""Functions that read another row of the same key, in `over`."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.plan.functions.base import Signature, signatures

__all__ = ["NAVIGATION", "Navigation"]


@dataclass(frozen=True, slots=True)
class Navigation:
    """A function that reads another row of the same key."""

    name: str
    signatures: tuple[Signature, ...]
    summary: str
    nulls: str


_STEPS = signatures("T -> T; T, BIGINT -> T; T, BIGINT, T -> T")

NAVIGATION = {
    one.name: one
    for one in (
        Navigation(
            "LAG", _STEPS,
            "The value in the row before, or so many rows before: `LAG(x)`, `LAG(x, 2)`. Where there is no such row, it is the third argument.",
            "NULL if that value is NULL, or if there is no such row and no third argument",
        ),
        Navigation(
            "LEAD",
            _STEPS,
            "The value in the next row, or so many rows later: `LEAD(x)`, `LEAD(x, 2)`. The row waits for that one. Where the input ends before it, it is "
            "the third argument.",
            "NULL if that value is NULL, or if the input ends before that row and there is no third argument",
        ),
    )
}  # fmt: skip
