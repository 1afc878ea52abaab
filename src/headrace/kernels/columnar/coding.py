"""Texts of keys as numbers: rows with the same few texts are multiplied, moved and grouped by 4 bytes instead of by a text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

__all__ = ["Coding", "as_texts", "coded_in", "concat", "group_number"]

_MOST = 100_000
_LEAST_ROWS = 4


class Coding:
    """Gives columns of texts as categoricals, which have a number for each text that has come.

    It begins anew when it knows `most` texts, so its memory is bounded. It ends for good where so many texts came in few rows: there,
    numbers cost more than they save.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._rows = most, 0
        self._categories: pl.Categories | None = pl.Categories.random()

    def __call__(self, column: pl.Series) -> pl.Series:
        """Return a column of texts as a categorical; any other as it is."""
        if self._categories is None or column.dtype != pl.String:
            return column
        coded = column.cast(pl.Categorical(self._categories))
        self._rows += len(coded)
        greatest = coded.to_physical().max()
        if greatest is not None and int(greatest) >= self._most:  # type: ignore[arg-type]
            self._categories = pl.Categories.random() if self._rows >= _LEAST_ROWS * self._most else None
            self._rows = 0
        return coded

    def of(self, rows: pl.DataFrame, names: Collection[str]) -> pl.DataFrame:
        """Return rows with the named columns coded."""
        return rows.with_columns(self(rows[name]) for name in rows.columns if name in names) if names else rows


def coded_in(rows: pl.DataFrame) -> list[str]:
    """Return the names of the columns that are coded."""
    return [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Categorical)]


def as_texts(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows without codes, the very frame if there are none."""
    coded = coded_in(rows)
    return rows.with_columns(pl.col(coded).cast(pl.String)) if coded else rows


def concat(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of all parts: without codes, if theirs are not of one sort."""
    alike = all(part.schema == parts[0].schema for part in parts)
    return pl.concat(parts if alike else map(as_texts, parts))


def group_number(rows: pl.DataFrame, by: Sequence[str]) -> pl.Expr | None:
    """Return a number that is the same for the rows of a group, and for no others; None if the keys are not all coded or integers.

    The number is computed, so Polars never takes it for sorted, and aggregates every group in the order of its rows.
    """
    number, count = pl.lit(0, pl.Int64), 1
    for name in by:
        column, place = rows[name], pl.col(name)
        if isinstance(column.dtype, pl.Categorical):
            column, place = column.to_physical(), place.to_physical()
        if column.dtype not in {pl.UInt32, pl.Int64}:
            return None
        some = column.null_count() < len(column)
        least, greatest = (int(column.min()), int(column.max())) if some else (1, 0)  # type: ignore[arg-type]
        span = greatest - least + 2
        number = number * span + (place.cast(pl.Int64) - (least - 1)).fill_null(0)
        count *= span
    return number if count < 2**63 else None
