"""Functions of readings: their quality, and aggregates over the time between them, after OPC UA Part 13.

An aggregate over time does not depend on the order in which its readings arrive, nor on slices: it keeps the readings of a window, and
computes its result from those in the order of their times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.errors import PlanError, near
from headrace.plan.functions.base import Aggregate, Function, elementwise, finite, signatures

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["AGGREGATES", "TABLE"]

State = Mapping[str, "pl.Expr"]

_UNCERTAIN, _BAD = 0x40000000, 0x80000000  # the least StatusCode of each severity
_NULLS = "a reading without a time is passed over, one without a value has none until the next reading; NULL if no time is left"
_INTERPOLATIONS = ("sloped", "stepped")


def _between(low: int, high: int) -> tuple[Callable[[pl.Expr], pl.Expr], str]:
    """Return whether a quality is from `low` up to `high`, in Polars and in SQL."""
    return lambda quality: quality.is_between(low, high - 1), f"({{0}} BETWEEN {low} AND {high - 1})"


_is_good, _GOOD_SQL = _between(0, _UNCERTAIN)
_is_uncertain, _UNCERTAIN_SQL = _between(_UNCERTAIN, _BAD)
_GOOD_OF_SPARK = _GOOD_SQL.format("e.v")

TABLE = (
    Function(
        "IS_GOOD", signatures("BIGINT -> BOOLEAN"),
        "Whether a quality, an OPC UA StatusCode, is good.",
        _is_good, flink=_GOOD_SQL, spark=_GOOD_SQL,
        cases=(("IS_GOOD(0)", True), ("IS_GOOD(1073741823)", True), ("IS_GOOD(1073741824)", False), ("IS_GOOD(-1)", False), ("IS_GOOD(NULL)", None)),
    ),
    Function(
        "IS_UNCERTAIN", signatures("BIGINT -> BOOLEAN"),
        "Whether a quality, an OPC UA StatusCode, is uncertain.",
        _is_uncertain, flink=_UNCERTAIN_SQL, spark=_UNCERTAIN_SQL,
        cases=(
            ("IS_UNCERTAIN(1083441152)", True), ("IS_UNCERTAIN(0)", False), ("IS_UNCERTAIN(1073741824)", True), ("IS_UNCERTAIN(2147483648)", False),
            ("IS_UNCERTAIN(NULL)", None),
        ),
    ),
    Function(
        "IS_BAD", signatures("BIGINT -> BOOLEAN"),
        "Whether a quality is bad: neither good nor uncertain.",
        lambda quality: ~quality.is_between(0, _BAD - 1),
        flink=f"({{0}} NOT BETWEEN 0 AND {_BAD - 1})", spark=f"({{0}} NOT BETWEEN 0 AND {_BAD - 1})",
        cases=(("IS_BAD(2157641728)", True), ("IS_BAD(2147483647)", False), ("IS_BAD(2147483648)", True), ("IS_BAD(-1)", True), ("IS_BAD(NULL)", None)),
    ),
)  # fmt: skip


# Polars


def _fold(time: pl.Expr, value: pl.Expr, *interpolation: pl.Expr) -> State:
    readings = pl.struct(time=time, value=value).filter(time.is_not_null()).implode()
    return {"readings": readings, "interpolation": interpolation[0].first()} if interpolation else {"readings": readings}


def _merge(state: State) -> State:
    readings = state["readings"].list.explode(empty_as_null=False, keep_nulls=False).implode()
    return {"readings": readings, **{name: one.drop_nulls().first() for name, one in state.items() if name != "readings"}}


def _in_order(lists: pl.Series) -> pl.DataFrame:
    """Return the readings of all lists in the order of time, of several at one time the greatest.

    The columns are `list`, `time`, `value`, `next`, the value of the next reading, and `span`, the ms until then; NULL in the last one's row.
    """
    lengths = lists.list.len()
    owners = pl.select(pl.int_range(len(lists), dtype=pl.UInt32).repeat_by(lengths)).to_series().explode(empty_as_null=False)
    pairs = lists.explode(empty_as_null=False, keep_nulls=False).struct
    rows = pl.DataFrame([owners.alias("list"), pairs.field("time"), pairs.field("value")]).sort("list", "time", "value")
    last = pl.col("list").ne_missing(pl.col("list").shift(-1))
    rows = rows.filter(last | pl.col("time").ne_missing(pl.col("time").shift(-1)))
    following = pl.when(~last).then(pl.col("value").shift(-1)), pl.when(~last).then(pl.col("time").shift(-1) - pl.col("time"))
    return rows.with_columns(next=following[0], span=following[1])


def _of_lists(lists: pl.Series, columns: list[pl.Expr], value: pl.Expr) -> pl.Series:
    """Return the value of each list's readings, from columns computed first; NULL where there is none."""
    # The key is a struct for the same sums whatever other lists there are, as in the columnar kernel.
    groups = _in_order(lists).with_columns(columns).group_by(pl.struct("list").alias("key"), maintain_order=True).agg(value=value)
    places = pl.Series("list", range(len(lists)), dtype=pl.UInt32).to_frame()
    return places.join(groups.unnest("key"), on="list", how="left", maintain_order="left")["value"]


def _result(value: Callable[[], pl.Expr], kind: str = "Int64") -> Callable[[State], pl.Expr]:
    return lambda state: elementwise(state["readings"], lambda lists: _of_lists(lists, [], value()), getattr(pl, kind)())


def _average(state: State) -> pl.Expr:
    if "interpolation" not in state:
        return finite(elementwise(state["readings"], lambda lists: _averages(lists, stepped=False), pl.Float64()))

    def both(parts: pl.Series) -> pl.Series:
        """Return the averages; the interpolation is a constant, NULL only in a state that has no row."""
        lists, interpolation = parts.struct.field("readings"), parts.struct.field("interpolation").drop_nulls()
        return _averages(lists, stepped=len(interpolation) > 0 and interpolation[0] == "stepped")

    return finite(elementwise(pl.struct(readings=state["readings"], interpolation=state["interpolation"]), both, pl.Float64()))


def _averages(lists: pl.Series, *, stepped: bool) -> pl.Series:
    """Return the integral of the values over the time for which there are any, divided by it; of one reading alone its value."""
    height = pl.col("value") if stepped else pl.col("value") / 2 + pl.col("next") / 2
    span = pl.when(height.is_not_null()).then(pl.col("span"))
    columns = [(height * pl.col("span")).alias("area"), span.alias("counted")]
    area, time = pl.col("area").sum(), pl.col("counted").sum()
    return _of_lists(lists, columns, pl.when(pl.len() == 1).then(pl.col("value").first()).when(time > 0).then(area / time))


def _time_of(condition: pl.Expr) -> pl.Expr:
    return pl.col("span").filter(condition).sum().cast(pl.Int64)


def _percent_good() -> pl.Expr:
    good = _is_good(pl.col("value"))
    share = _time_of(good) * 100.0 / pl.col("span").sum()
    return pl.when(pl.len() > 1).then(share).otherwise(pl.when(good.first()).then(100.0).otherwise(0.0))


def _transitions() -> pl.Expr:
    values = pl.col("value").drop_nulls()
    changes = (values != values.shift(1)).sum().cast(pl.Int64)
    return pl.when(values.len() > 0).then(changes)


def _check_interpolation(name: str | None = None) -> None:
    if name is not None and name not in _INTERPOLATIONS:
        raise PlanError(f"there is no interpolation {name!r}", fix=near(name, _INTERPOLATIONS))


# Flink


def _of_jar(function: str, *more: str) -> str:
    """Return a call of a function of the jar, which takes the readings in any order."""
    arrays = (f"ARRAY_AGG({{{place}}}) FILTER (WHERE {{0}} IS NOT NULL)" for place in (0, 1))
    return f"{function}({', '.join((*arrays, *more))})"


# Spark

_SORTED = "SORT_ARRAY(COLLECT_LIST(STRUCT({0} AS t, {1} AS v)) FILTER (WHERE {0} IS NOT NULL))"
_ONE_A_TIME = f"TRANSFORM(ARRAY({_SORTED}), a -> FILTER(a, (e, i) -> i = SIZE(a) - 1 OR e.t <> a[i + 1].t))[0]"


def _folded(start: str, step: str, end: str, *, over: str = _ONE_A_TIME) -> str:
    """Return an expression over the readings `r`: `step` of the state `s` and each reading `e`, then `end` of `s` and `r`."""
    return f"TRANSFORM(ARRAY({over}), r -> CASE WHEN SIZE(r) > 0 THEN AGGREGATE(r, {start}, (s, e) -> {step}, s -> {end}) END)[0]"


def _spans(good: str, end: str) -> str:
    """Return an expression over the ms for which `good` is true of the readings, `s.time`."""
    start = "NAMED_STRUCT('t', CAST(NULL AS BIGINT), 'good', FALSE, 'time', 0L)"
    step = f"NAMED_STRUCT('t', e.t, 'good', COALESCE({good}, FALSE), 'time', s.time + CASE WHEN s.good THEN e.t - s.t ELSE 0L END)"
    return _folded(start, step, end)


def _average_of_spark(height: str) -> str:
    start = "NAMED_STRUCT('t', CAST(NULL AS BIGINT), 'v', CAST(NULL AS DOUBLE), 'area', 0D, 'time', 0L)"
    added = f"COALESCE(({height}) * CAST(e.t - s.t AS DOUBLE), 0D)"
    time = f"CASE WHEN ({height}) IS NULL OR s.t IS NULL THEN 0L ELSE e.t - s.t END"
    step = f"NAMED_STRUCT('t', e.t, 'v', e.v, 'area', s.area + {added}, 'time', s.time + {time})"
    end = "CASE WHEN SIZE(r) = 1 THEN r[0].v WHEN s.time > 0 THEN s.area / CAST(s.time AS DOUBLE) END"
    return f"hr_finite({_folded(start, step, end)})"


_SLOPED, _STEPPED = "s.v / 2D + e.v / 2D", "s.v"
_WITH_VALUES = f"FILTER({_ONE_A_TIME}, e -> e.v IS NOT NULL)"
_TRANSITIONS = (
    f"TRANSFORM(ARRAY({_WITH_VALUES}), r -> CASE WHEN SIZE(r) > 0 THEN CAST(SIZE(FILTER(r, (e, i) -> i > 0 AND e.v <> r[i - 1].v)) AS BIGINT) END)[0]"
)

AGGREGATES = (
    Aggregate(
        "WORST_QUALITY", signatures("BIGINT -> BIGINT"),
        "The worst quality, of several that are as bad the greatest StatusCode.",
        lambda x: {"value": x.max()}, lambda state: {"value": state["value"].max()}, lambda state: state["value"],
        flink="MAX({0})", spark="MAX({0})",
        cases=(
            ("WORST_QUALITY(x)", (0, 1083441152, None, 2147483648, 0), 2147483648),
            ("WORST_QUALITY(x)", (0, 1073741824), 1073741824),
            ("WORST_QUALITY(x)", (0, None), 0),
            ("WORST_QUALITY(x)", (None, None), None),
        ),
    ),
    Aggregate(
        "TIME_AVERAGE", signatures("BIGINT, DOUBLE -> DOUBLE; BIGINT, DOUBLE, STRING -> DOUBLE"),
        "The average of values at times in ms, each weighted by the time to the next reading: `'sloped'` (the default), a straight line between two "
        "readings with values, or `'stepped'`, a value until the next reading.",
        _fold, _merge, _average, literal=(2,), check=_check_interpolation,
        flink=(_of_jar("HR_TIME_AVERAGE", "'sloped'"), _of_jar("HR_TIME_AVERAGE", "{2}")),
        nulls=f"{_NULLS}; of one reading alone its value; NULL if the integral is beyond DOUBLE",
        spark=(_average_of_spark(_SLOPED), _average_of_spark(f"CASE WHEN {{2}} = 'stepped' THEN {_STEPPED} ELSE {_SLOPED} END")),
        cases=(
            ("TIME_AVERAGE(x, y)", ((0, 10.0), (1000, 20.0), (4000, 20.0)), 18.75),
            ("TIME_AVERAGE(x, y, 'sloped')", ((4000, 20.0), (0, 10.0), (1000, 20.0)), 18.75),
            ("TIME_AVERAGE(x, y, 'stepped')", ((0, 10.0), (1000, 20.0), (4000, 99.0)), 17.5),
            ("TIME_AVERAGE(x, y)", ((0, 1.0), (1000, 3.0), (2000, None), (9000, 5.0), (9500, 7.0), (None, 8.0)), 10 / 3),
            ("TIME_AVERAGE(x, y, 'stepped')", ((0, 1.0), (1000, None), (9000, 5.0), (9500, 7.0)), 7 / 3),
            ("TIME_AVERAGE(x, y, 'stepped')", ((0, 1.0), (0, 4.0), (0, None), (10, 2.0)), 4.0),
            ("TIME_AVERAGE(x, y)", ((5, 7.5), (5, None)), 7.5),
            ("TIME_AVERAGE(x, y)", ((5, 7.5), (6, None)), None),
            ("TIME_AVERAGE(x, y * 1e308)", ((0, 1.0), (1000, 1.0)), None),
            ("TIME_AVERAGE(x, y)", ((None, 1.0), (None, 2.0)), None),
        ),
    ),
    Aggregate(
        "PERCENT_GOOD", signatures("BIGINT, BIGINT -> DOUBLE"),
        "The percentage of time with good quality, of times in ms and qualities; a quality lasts until the next reading.",
        _fold, _merge, _result(_percent_good, "Float64"), flink=_of_jar("HR_PERCENT_GOOD"),
        nulls="a reading without a time is passed over, one without a quality is not good; of one reading alone 0 or 100; NULL if no time is left",
        spark=_spans(
            _GOOD_OF_SPARK,
            "CASE WHEN SIZE(r) > 1 THEN CAST(s.time AS DOUBLE) * 100D / CAST(s.t - r[0].t AS DOUBLE) WHEN s.good THEN 100D ELSE 0D END",
        ),
        cases=(
            ("PERCENT_GOOD(x, y)", ((0, 0), (1000, 2147483648), (4000, 0)), 25.0),
            ("PERCENT_GOOD(x, y)", ((4000, 0), (0, 1083441152), (None, 0), (1000, 192)), 75.0),
            ("PERCENT_GOOD(x, y)", ((0, 0), (0, 2147483648), (10, 0)), 0.0),
            ("PERCENT_GOOD(x, y)", ((5, 0), (None, 0)), 100.0),
            ("PERCENT_GOOD(x, y)", ((5, None), (None, 0)), 0.0),
            ("PERCENT_GOOD(x, y)", ((None, 0), (None, None)), None),
        ),
    ),
    Aggregate(
        "DURATION_GOOD", signatures("BIGINT, BIGINT -> BIGINT"),
        "The milliseconds with good quality, of times in ms and qualities; a quality lasts until the next reading.",
        _fold, _merge, _result(lambda: _time_of(_is_good(pl.col("value")))), flink=_of_jar("HR_DURATION"),
        nulls="a reading without a time is passed over, one without a quality is not good; NULL if no time is left",
        spark=_spans(_GOOD_OF_SPARK, "s.time"),
        cases=(
            ("DURATION_GOOD(x, y)", ((0, 0), (1000, 2147483648), (4000, 0), (4500, 0)), 1500),
            ("DURATION_GOOD(x, y)", ((4000, 0), (0, 0), (1000, None)), 1000),
            ("DURATION_GOOD(x, y)", ((5, 0), (None, 0)), 0),
            ("DURATION_GOOD(x, y)", ((None, 0), (None, None)), None),
        ),
    ),
    Aggregate(
        "DURATION_IN_STATE", signatures("BIGINT, BOOLEAN -> BIGINT"),
        "The milliseconds for which a condition is true, of times in ms: from each reading where it is until the next reading.",
        _fold, _merge, _result(lambda: _time_of(pl.col("value"))), flink=_of_jar("HR_DURATION"),
        nulls="a reading without a time is passed over, NULL is not true; NULL if no time is left",
        spark=_spans("e.v", "s.time"),
        cases=(
            ("DURATION_IN_STATE(x, y)", ((0, True), (1000, False), (4000, True), (4500, True)), 1500),
            ("DURATION_IN_STATE(x, y > 5)", ((0, 7), (1000, None), (4000, 6), (4500, 1), (9000, 9)), 1500),
            ("DURATION_IN_STATE(x, y = 'Open')", ((3000, "Closed"), (0, "Open"), (None, "Open")), 3000),
            ("DURATION_IN_STATE(x, y)", ((0, True), (0, False), (10, True)), 10),
            ("DURATION_IN_STATE(x, y)", ((None, True), (None, None)), None),
        ),
    ),
    Aggregate(
        "NUMBER_OF_TRANSITIONS", signatures("BIGINT, S -> BIGINT"),
        "How often a value differs from that of the reading before, in the order of times in ms.",
        _fold, _merge, _result(_transitions), flink=_of_jar("HR_TRANSITIONS"),
        nulls="readings without a time or a value are passed over; NULL if none is left",
        spark=_TRANSITIONS,
        cases=(
            ("NUMBER_OF_TRANSITIONS(x, y)", ((0, 1), (1000, 1), (2000, 0), (3000, None), (4000, 0), (5000, 1)), 2),
            ("NUMBER_OF_TRANSITIONS(x, y)", ((2000, "Open"), (0, "Open"), (1000, "Closed")), 2),
            ("NUMBER_OF_TRANSITIONS(x, y)", ((0, True), (0, False), (10, False), (None, True)), 1),
            ("NUMBER_OF_TRANSITIONS(x, y)", ((0, 2.5), (None, 1.5)), 0),
            ("NUMBER_OF_TRANSITIONS(x, y)", ((0, None), (1, None), (None, 1)), None),
        ),
    ),
)  # fmt: skip
