"""What is asked of a fit, and the rows that it is given, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace.detect.history import LARGEST
from headrace.detect.kinds import CHOICES, PARAMETERS, Parameter, is_possible
from headrace.errors import DataError, PlanError, first_of, near

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["LEAST_ROWS", "check_columns", "checked_rows", "least_rows", "parameters_of"]

LEAST_ROWS = 20


def parameters_of(kind: str, given: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return all parameters of a kind."""
    if kind not in PARAMETERS:
        raise PlanError(f"unknown kind {kind!r}", where="fit", fix=near(kind, PARAMETERS))
    chosen = dict(PARAMETERS[kind])
    for name, value in given.items():
        where = f"fit {kind} {name}"
        if name not in chosen:
            raise PlanError(f"{kind} has no parameter {name!r}", where=f"fit {kind}", fix=near(name, chosen) if chosen else "leave it out")
        if name in CHOICES and value not in CHOICES[name]:
            raise PlanError(f"is {value!r}", where=where, fix=f"give {', '.join(CHOICES[name])}")
        default = chosen[name]
        if isinstance(default, float) and type(value) is int:
            value = float(value)  # noqa: PLW2901
        if type(value) is not type(default):
            raise PlanError(f"is {value!r}", where=where, fix=f"give a {'text' if isinstance(default, str) else 'number'} such as {default}")
        if not is_possible(name, value):
            raise PlanError(f"is {value}", where=where, fix=f"give a number such as {default}")
        chosen[name] = value
    return chosen


def least_rows(kind: str, parameters: Mapping[str, Parameter], tags: int) -> int:
    """Return how many rows are needed to fit a kind."""
    lags = int(parameters.get("lags", 0))
    match kind:
        case "pca" | "mahalanobis":
            return max(2 * tags, LEAST_ROWS)
        case "lagged_pca" | "var":
            return max(2 * tags * (1 + lags), LEAST_ROWS)
    return LEAST_ROWS + lags


def checked_rows(np: Any, values: object, tags: Sequence[str], times: Sequence[int] | None) -> tuple[Array, Any]:  # noqa: ANN401
    """Return rows and their times as arrays."""
    if not tags or len(set(tags)) < len(tags):
        raise PlanError("there are no tags, or one of them is there twice", where="fit", fix="name each tag once")
    try:
        rows = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("the values are not numbers", where="fit", fix="give an array of numbers, with NaN where one is missing") from None
    if rows.ndim != 2 or rows.shape[1] != len(tags):
        raise DataError(
            f"the values have the shape {rows.shape}, and there are {len(tags)} tags", where="fit", fix="give a row of all tags for each time"
        )
    with np.errstate(invalid="ignore"):
        rows[~(np.abs(rows) <= LARGEST)] = np.nan
    moments = np.arange(len(rows), dtype=np.int64) * 1000 if times is None else np.array(times, dtype=np.int64)
    if len(moments) != len(rows):
        raise DataError(f"there are {len(rows)} rows and {len(moments)} times", where="fit")
    if (np.diff(moments) <= 0).any():
        place = int(np.flatnonzero(np.diff(moments) <= 0)[0]) + 1
        raise DataError(f"row {place + 1} is not later than the row before it", where="fit", fix="order the rows by time, and drop duplicates")
    return rows, moments


def check_columns(np: Any, rows: Array, tags: Sequence[str], *, change: bool) -> None:  # noqa: ANN401
    """Raise DataError if a tag has too few values, or, where that matters, always the same."""
    counts = (~np.isnan(rows)).sum(axis=0)
    empty = [tag for tag, count in zip(tags, counts, strict=True) if count < LEAST_ROWS]
    if empty:
        raise DataError(f"too few values of {first_of(empty)}", where="fit", fix="leave them out")
    if change:
        constant = [tag for tag, low, high in zip(tags, np.nanmin(rows, axis=0), np.nanmax(rows, axis=0), strict=True) if low == high]
        if constant:
            raise DataError(f"the same value in all rows: {first_of(constant)}", where="fit", fix="leave them out: nothing is learned from them")
