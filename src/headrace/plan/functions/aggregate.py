"""Aggregates. Each is folded slice by slice and the slices' states merged in time order, which gives what one fold of all rows would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.errors import PlanError
from headrace.plan.functions.base import Aggregate, elementwise, finite, signatures

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["TABLE"]

State = Mapping[str, "pl.Expr"]
Parts = tuple[Callable[..., State], Callable[[State], State], Callable[[State], "pl.Expr"]]

_ENTRIES = (
    "CASE WHEN COUNT({0}) > 0 THEN MAP_FROM_ENTRIES(TRANSFORM("
    "SORT_ARRAY(COLLECT_LIST(STRUCT({0} AS k, {order} AS o, {1} AS v)) FILTER (WHERE {0} IS NOT NULL)), e -> STRUCT(e.k, e.v))) END"
)
_VALUES = (
    "CASE WHEN COUNT({0}) > 0 THEN TRANSFORM(SORT_ARRAY(COLLECT_LIST(STRUCT({order} AS o, {0} AS v)) FILTER (WHERE {0} IS NOT NULL)), e -> e.v) END"
)
_ORDERED = "BIGINT -> BIGINT; DOUBLE -> DOUBLE; STRING -> STRING; TIMESTAMP_LTZ(3) -> TIMESTAMP_LTZ(3)"
_SPREAD = "NULL arguments are passed over; NULL if none is left or the result is beyond DOUBLE"
_OF_TWO = "CASE WHEN COUNT({0}) > 1 THEN {name}({0}) END"  # of one value that Flink knows to be no NULL, the function gives -1
_SAMPLE = "NULL arguments are passed over; NULL if fewer than two are left or the result is beyond DOUBLE"


def _same(take: Callable[[pl.Expr], pl.Expr]) -> Parts:
    """Return the parts of an aggregate whose states merge as its rows fold."""
    return lambda x: {"value": take(x)}, lambda state: {"value": take(state["value"])}, lambda state: state["value"]


def _total(x: pl.Expr) -> pl.Expr:
    return pl.when(x.count() > 0).then(x.sum())


def _size(x: pl.Expr) -> pl.Expr:
    return x.count().cast(pl.Int64)


def _merge_count(state: State) -> State:
    return {"count": state["count"].sum()}


def _fold_mean(x: pl.Expr) -> State:
    return {"sum": x.sum(), "count": _size(x)}


def _merge_mean(state: State) -> State:
    return {"sum": state["sum"].sum(), "count": state["count"].sum()}


def _spread(result: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Parts:
    """Return the parts of an aggregate over the count and `m2`, the sum of the squared distances from the mean."""
    return _fold_spread, _merge_spread, lambda state: finite(result(state["m2"], state["count"]))


def _fold_spread(x: pl.Expr) -> State:
    return {"count": _size(x), "mean": x.mean(), "m2": x.var(ddof=0) * x.count()}


def _merge_spread(state: State) -> State:
    """Merge as Chan, Golub and LeVeque do: sums of squares of values far from zero would lose all their digits."""
    count, mean = state["count"], state["mean"]
    total = count.sum()
    merged = pl.when(total > 0).then((mean * count).sum() / total)
    return {"count": total, "mean": merged, "m2": pl.when(total > 0).then((state["m2"] + count * (mean - merged) ** 2).sum())}


def _fold_values(x: pl.Expr) -> State:
    return {"values": x.drop_nulls().implode()}


def _merge_values(state: State) -> State:
    return {"values": state["values"].list.explode().implode()}


def _if_any(values: pl.Expr, result: pl.Expr) -> pl.Expr:
    return pl.when(values.list.len() > 0).then(result)


def _distinct(x: pl.Expr) -> pl.Expr:
    return x.drop_nulls().unique(maintain_order=True).implode()


def _fold_percentile(x: pl.Expr, share: pl.Expr) -> State:
    return {**_fold_values(x), "share": share.first()}


def _merge_percentile(state: State) -> State:
    return {**_merge_values(state), "share": state["share"].first()}


def _percentile(state: State) -> pl.Expr:
    ordered = state["values"].list.sort()
    place = state["share"] * (ordered.list.len().cast(pl.Float64) - 1)
    below, above = place.floor(), place.ceil()
    low, high = (ordered.list.get(end.cast(pl.Int64), null_on_oob=True) for end in (below, above))
    return pl.when(below == above).then(low).otherwise((above - place) * low + (place - below) * high)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise PlanError(f"PERCENTILE at {share}", fix="give a number from 0 to 1")


def _entries(lists: pl.Series) -> pl.Series:
    """Return each list of pairs sorted by key, of each key the last, without those of no key."""
    pairs = lists.explode(empty_as_null=False, keep_nulls=False)
    keys, lengths = pairs.struct.field("key"), lists.list.len()
    starts = (lengths.cum_sum() - lengths).filter(lengths > 0)
    if (keys > keys.shift(1)).scatter(starts, True).all(ignore_nulls=False) and not keys.null_count():
        return lists
    owners = pl.select(pl.int_range(len(lists), dtype=pl.UInt32).repeat_by(lengths)).to_series().explode(empty_as_null=False)
    rows = pl.DataFrame([owners.alias("list"), keys.alias("key"), pairs.alias("pair")]).filter(keys.is_not_null())
    kept = rows.unique(["list", "key"], keep="last").sort("list", "key").group_by("list", maintain_order=True).agg("pair")
    places = pl.Series("list", range(len(lists)), dtype=pl.UInt32).to_frame()
    return places.join(kept, on="list", how="left", maintain_order="left")["pair"].fill_null([])


def _fold_map(key: pl.Expr, value: pl.Expr) -> State:
    return {"entries": elementwise(pl.struct(key=key, value=value).implode(), _entries)}


def _merge_map(state: State) -> State:
    return {"entries": elementwise(state["entries"].list.explode().implode(), _entries)}


_FOUR = (1000000004.0, 1000000007.0, None, 1000000013.0, 1000000016.0)

TABLE = (
    Aggregate(
        "COUNT", signatures("-> BIGINT; T -> BIGINT"),
        "The number of rows, or of those where the argument is not NULL.",
        lambda *x: {"count": _size(x[0]) if x else pl.len().cast(pl.Int64)}, _merge_count, lambda state: state["count"],
        flink=("COUNT(*)", "COUNT({0})"), nulls="NULL is not counted; never NULL",
        spark=("COUNT(*)", "COUNT({0})"),
        cases=(
            ("COUNT(*)", (1, None, 3), 3),
            ("COUNT(x)", (1, None, 3), 2),
            ("COUNT(x)", (None, None), 0),
            ("COUNT(y)", (("a", ""), ("b", None)), 1),
            ("COUNT(*) FILTER (WHERE x > 1)", (1, 2, 3, None), 2),
        ),
    ),
    Aggregate(
        "COUNT DISTINCT", signatures("S -> BIGINT"),
        "The number of different values, written `COUNT(DISTINCT x)`.",
        lambda x: {"values": _distinct(x)}, lambda state: {"values": _distinct(state["values"].list.explode())},
        lambda state: state["values"].list.len().cast(pl.Int64), flink="COUNT(DISTINCT {0})", nulls="NULL is not counted; never NULL",
        spark="COUNT(DISTINCT {0})",
        cases=(
            ("COUNT(DISTINCT x)", (1, 2, 1, None, 2), 2),
            ("COUNT(DISTINCT x)", ("a", "A", "é", "é"), 3),
            ("COUNT(DISTINCT x)", (0.0, -0.0, 1.5), 2),
            ("COUNT(DISTINCT x)", (None, None), 0),
        ),
    ),
    Aggregate(
        "SUM", signatures("BIGINT -> BIGINT; DOUBLE -> DOUBLE"),
        "The sum; a BIGINT wraps around at 64 bits.",
        lambda x: {"value": _total(x)}, lambda state: {"value": _total(state["value"])}, lambda state: finite(state["value"]),
        nulls=_SPREAD, flink_gaps=("SUM(x * 1e154)",),
        spark=("SUM({0})", "hr_finite(SUM({0}))"),
        cases=(
            ("SUM(x)", (1, None, 2), 3),
            ("SUM(x)", (0.5, 0.25), 0.75),
            ("SUM(x)", (None, None), None),
            ("SUM(x)", (9223372036854775807, 1), -9223372036854775808),
            ("SUM(x * 1e154)", (1e154, 1e154), None),
        ),
    ),
    Aggregate(
        "MIN", signatures(_ORDERED),
        "The least value.",
        *_same(lambda x: x.min()),
        cases=(
            ("MIN(x)", (3, None, 1), 1),
            ("MIN(x)", (2.5, -1.5), -1.5),
            ("MIN(x)", ("a", "B", "é"), "B"),
            ("MIN(x)", (None, None), None),
        ),
    ),
    Aggregate(
        "MAX", signatures(_ORDERED),
        "The greatest value.",
        *_same(lambda x: x.max()),
        cases=(
            ("MAX(x)", (3, None, 1), 3),
            ("MAX(x)", ("z", "é"), "é"),
            ("EPOCH_MS(MAX(TO_TIMESTAMP_LTZ(x, 3)))", (1706123401567, 0), 1706123401567),
            ("MAX(x)", (None, None), None),
        ),
    ),
    Aggregate(
        "AVG", signatures("DOUBLE -> DOUBLE"),
        "The mean, a DOUBLE also of BIGINTs.",
        _fold_mean, _merge_mean, lambda state: finite(state["sum"] / state["count"]), nulls=_SPREAD,
        flink_gaps=("AVG(x * 1e154)",),
        spark="hr_finite(AVG({0}))",
        cases=(
            ("AVG(x)", (1, None, 2), 1.5),
            ("AVG(x)", (0.1, 0.2, 0.6), 0.3),
            ("AVG(x)", (None, None), None),
            ("AVG(x * 1e154)", (1e154, 1e154), None),
        ),
    ),
    Aggregate(
        "VAR_POP", signatures("DOUBLE -> DOUBLE"),
        "The variance of the values.",
        *_spread(lambda m2, count: m2 / count), nulls=_SPREAD,
        spark="hr_finite(VAR_POP({0}))",
        cases=(("VAR_POP(x)", _FOUR, 22.5), ("VAR_POP(x)", (7, None), 0.0), ("VAR_POP(x)", (None, None), None)),
    ),
    Aggregate(
        "VAR_SAMP", signatures("DOUBLE -> DOUBLE"),
        "The variance of what the values are a sample of.",
        *_spread(lambda m2, count: m2 / (count - 1)), nulls=_SAMPLE,
        flink=_OF_TWO, spark="hr_finite(VAR_SAMP({0}))",
        cases=(("VAR_SAMP(x)", _FOUR, 30.0), ("VAR_SAMP(x)", (7, None), None), ("VAR_SAMP(x)", (None, None), None)),
    ),
    Aggregate(
        "STDDEV_POP", signatures("DOUBLE -> DOUBLE"),
        "The standard deviation of the values.",
        *_spread(lambda m2, count: (m2 / count).sqrt()), nulls=_SPREAD, flink_gaps=("STDDEV_POP(x * 1e200)",),
        spark="hr_finite(STDDEV_POP({0}))",
        cases=(
            ("STDDEV_POP(x)", _FOUR, 4.743416490252569),
            ("STDDEV_POP(x)", (2, 4, 4, 4, 5, 5, 7, 9), 2.0),
            ("STDDEV_POP(x)", (7, None), 0.0),
            ("STDDEV_POP(x)", (None, None), None),
            ("STDDEV_POP(x * 1e200)", (1, -1), None),
        ),
    ),
    Aggregate(
        "STDDEV_SAMP", signatures("DOUBLE -> DOUBLE"),
        "The standard deviation of what the values are a sample of.",
        *_spread(lambda m2, count: (m2 / (count - 1)).sqrt()), nulls=_SAMPLE,
        flink=_OF_TWO, spark="hr_finite(STDDEV_SAMP({0}))",
        cases=(
            ("STDDEV_SAMP(x)", _FOUR, 5.477225575051661),
            ("STDDEV_SAMP(x)", (1, 2, None, 3), 1.0),
            ("STDDEV_SAMP(x)", (7, None), None),
            ("STDDEV_SAMP(x)", (None, None), None),
        ),
    ),
    Aggregate(
        "MEDIAN", signatures("DOUBLE -> DOUBLE"),
        "The middle value, or the mean of the two in the middle.",
        _fold_values, _merge_values, lambda state: state["values"].list.median(), flink="PERCENTILE({0}, 0.5)", spark="MEDIAN({0})",
        cases=(
            ("MEDIAN(x)", (3, 1, None, 2), 2.0),
            ("MEDIAN(x)", (4.0, 1.0, 2.0, 9.0), 3.0),
            ("MEDIAN(x)", (1e308, 1.7e308), 1.35e308),
            ("MEDIAN(x)", (None, None), None),
        ),
    ),
    Aggregate(
        "PERCENTILE", signatures("DOUBLE, DOUBLE -> DOUBLE"),
        "The value below which the given share lies, a constant from 0 to 1, interpolated.",
        _fold_percentile, _merge_percentile, _percentile, literal=(1,), check=_check_share,
        cases=(
            ("PERCENTILE(x, 0.25)", (8, 1, None, 2, 7), 1.75),
            ("PERCENTILE(x, 0)", (8, 1, 2, 7), 1.0),
            ("PERCENTILE(x, 1)", (8, 1, 2, 7), 8.0),
            ("PERCENTILE(x, 0.25)", (-1e308, 1e308, 1.7e308), 0.0),
            ("PERCENTILE(x, 0.5)", (None, None), None),
        ),
    ),
    Aggregate(
        "FIRST_VALUE", signatures("T -> T"),
        "The first value: slice after slice, in each the order of arrival.",
        *_same(lambda x: x.first(ignore_nulls=True)),
        spark="MIN_BY({0}, {order}) FILTER (WHERE {0} IS NOT NULL)",
        cases=(("FIRST_VALUE(x)", (None, 2, 1, None), 2), ("FIRST_VALUE(x)", ("b", "a"), "b"), ("FIRST_VALUE(x)", (None, None), None)),
    ),
    Aggregate(
        "LAST_VALUE", signatures("T -> T"),
        "The last value: slice after slice, in each the order of arrival.",
        *_same(lambda x: x.last(ignore_nulls=True)),
        spark="MAX_BY({0}, {order}) FILTER (WHERE {0} IS NOT NULL)",
        cases=(("LAST_VALUE(x)", (None, 2, 1, None), 1), ("LAST_VALUE(x)", ("b", "a"), "a"), ("LAST_VALUE(x)", (None, None), None)),
    ),
    Aggregate(
        "BOOL_AND", signatures("BOOLEAN -> BOOLEAN"),
        "Whether all values are true.",
        *_same(lambda x: x.min()), flink="MIN({0})",
        cases=(("BOOL_AND(x)", (True, None, True), True), ("BOOL_AND(x)", (True, False), False), ("BOOL_AND(x > 0)", (None, None), None)),
    ),
    Aggregate(
        "BOOL_OR", signatures("BOOLEAN -> BOOLEAN"),
        "Whether at least one value is true.",
        *_same(lambda x: x.max()), flink="MAX({0})",
        cases=(("BOOL_OR(x)", (False, None, True), True), ("BOOL_OR(x)", (False, False), False), ("BOOL_OR(x > 0)", (None, None), None)),
    ),
    Aggregate(
        "ARRAY_AGG", signatures("T -> ARRAY<T>"),
        "All values: slice after slice, in each the order of arrival.",
        _fold_values, _merge_values, lambda state: _if_any(state["values"], state["values"]), flink="ARRAY_AGG({0} IGNORE NULLS)",
        spark=_VALUES,
        cases=(
            ("ARRAY_AGG(x)", (3, None, 1, 3), [3, 1, 3]),
            ("ARRAY_AGG(x)", ("é", ""), ["é", ""]),
            ("ARRAY_AGG(x)", (None, None), None),
            ("ARRAY_AGG(x) FILTER (WHERE x > 1)", (3, None, 1), [3]),
        ),
    ),
    Aggregate(
        "MAP_AGG", signatures("STRING, T -> MAP<STRING, T>"),
        "The map of the first argument to the second, keys sorted, the last value of a key.",
        _fold_map, _merge_map, lambda state: _if_any(state["entries"], state["entries"].list.to_map()), flink=None,
        nulls="rows with a NULL key are passed over, a NULL value is kept; NULL if no row is left",
        spark=_ENTRIES,
        cases=(
            ("MAP_AGG(x, y)", (("b", 1), ("a", 2), ("é", 3), ("Z", 4)), {"Z": 4, "a": 2, "b": 1, "é": 3}),
            ("MAP_AGG(x, y)", (("a", 1), ("b", 2), ("a", 3)), {"a": 3, "b": 2}),
            ("MAP_AGG(x, y)", (("a", 1.5), ("a", None), (None, 2.5)), {"a": None}),
            ("MAP_AGG(x, STRUCT(y AS v, y + 1 AS w))", (("b", 1), ("a", 2)), {"a": {"v": 2, "w": 3}, "b": {"v": 1, "w": 2}}),
            ("MAP_AGG(TRY_CAST(x AS STRING), y)", ((None, 1), (None, 2)), None),
        ),
    ),
)  # fmt: skip
