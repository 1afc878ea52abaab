"""The state of a window kernel, and what feeding one gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from headrace.kernels.columnar.watermark import NEVER

__all__ = ["Fed", "WindowState", "left_of", "of_groups", "with_more"]


@dataclass(frozen=True, slots=True)
class Fed:
    """The result of feeding rows to a window kernel."""

    emitted: list[pl.DataFrame]
    late: pl.DataFrame
    taken: pl.Series


@dataclass
class WindowState:
    """The state of a window kernel.

    Attributes
    ----------
    clock
        The clock it has worked up to, in ms.
    buffer
        Rows that wait for the end of their slice, by partition, in the order of offsets.
    folded
        States by `@slice` and key, of slices that an open window may still need.
    stragglers
        Rows kept apart, with `@from`, the end of the first window that takes them.
    revisions
        How often each group of a closed window within its lateness was given: `@end`, the keys, `@revision`.
    blocks
        States of blocks of 2, 4, 8 … slices, `@slice` their first; None until worked out from `folded`, of which they follow.
    """

    clock: int = NEVER
    buffer: dict[int, list[pl.DataFrame]] = field(default_factory=dict)
    folded: pl.DataFrame | None = None
    stragglers: pl.DataFrame | None = None
    revisions: pl.DataFrame | None = None
    blocks: list[pl.DataFrame] | None = None


def of_groups(rows: pl.DataFrame, groups: pl.DataFrame | None, by: list[str]) -> pl.DataFrame:
    """Return the rows of the groups alone, if they are given and there is a key."""
    return rows if groups is None or not by else rows.join(groups, on=by, how="semi", nulls_equal=True, maintain_order="left")


def with_more(rows: pl.DataFrame | None, more: pl.DataFrame) -> pl.DataFrame:
    """Return rows and more rows."""
    return more if rows is None else pl.concat([rows, more])


def left_of(rows: pl.DataFrame, needed: pl.Expr) -> pl.DataFrame | None:
    """Return the rows that are needed, the very frame if all are, so that it need not be stored again."""
    kept = rows.filter(needed)
    return rows if len(kept) == len(rows) else kept if len(kept) else None
