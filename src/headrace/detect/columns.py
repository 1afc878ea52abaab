"""The values of tags in many rows at once, as a matrix: the same as `values` takes from one row. It needs Polars and numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from headrace.kernels.reading.text import read_column
from headrace.plan.schema import DOUBLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["matrix_of", "numbers_of", "series_of"]


def matrix_of(rows: pl.DataFrame, tags: Sequence[str], states: Mapping[str, Sequence[str]], values: str | None) -> NDArray[np.float64]:
    """Return the values of tags, a column each; NaN or infinite where one is missing.

    Tags are columns, or entries of the column `values`. `states` are the texts of tags that stand for numbers, from 0.
    """
    import numpy as np

    if values is None:
        columns = [_states(rows[tag], states[tag]) if tag in states else numbers_of(rows[tag]) for tag in tags]
        return np.column_stack([column.to_numpy() for column in columns])
    entries = rows[values]
    found = _entries(entries, tags)
    for place, tag in enumerate(tags):
        if tag in states:
            found[:, place] = _states(entries.map.get(tag), states[tag]).to_numpy()
    return found


def _entries(entries: pl.Series, tags: Sequence[str]) -> NDArray[np.float64]:
    import numpy as np

    found = np.full((len(entries), len(tags)), np.nan)
    lengths = entries.map.len().fill_null(0).to_numpy()
    if lengths.any():
        names, numbers = (one.explode(empty_as_null=False, keep_nulls=False) for one in (entries.map.keys(), entries.map.values()))
        owners = np.repeat(np.arange(len(entries)), lengths)
        places = names.replace_strict(pl.Series(tags), pl.Series(range(len(tags))), default=len(tags), return_dtype=pl.Int64).to_numpy()
        known = places < len(tags)
        found[owners[known], places[known]] = numbers_of(numbers).to_numpy()[known]
    return found


def series_of(rows: pl.DataFrame, name: str, values: str | None) -> pl.Series:
    """Return a column, or the entries of that name of the column `values`."""
    return rows[name] if values is None else rows[values].map.get(name)


def numbers_of(given: pl.Series) -> pl.Series:
    """Return values as numbers, texts as the rules of reading say; NaN where there is none."""
    if given.dtype == pl.String:
        return read_column(given, DOUBLE).fill_null(float("nan"))
    return given.cast(pl.Float64).fill_null(float("nan"))


def _states(given: pl.Series, texts: Sequence[str]) -> pl.Series:
    """Return the numbers of states; what is no text is none of them."""
    numbers: Any = [float(number) for number in range(len(texts))]
    if given.dtype != pl.String:
        return pl.Series([float("nan")] * len(given), dtype=pl.Float64)
    return given.replace_strict(pl.Series(texts), pl.Series(numbers), default=float("nan"), return_dtype=pl.Float64)
