"""Which of many readings may change what rules have found, found for all of them at once.

Theory of operation
-------------------
Most readings of an equipment leave all its conditions as they are. Such a reading changes the last value and the last time of its parameter, and
nothing else; what readings that are left out have changed, the next one that is not left out brings along (`passed`). So needed are:

* a reading at which a condition is another than at the reading before;
* of a condition with durations, or one that reads the run state: all readings after that, since only the kernel knows how it goes on;
* the readings from the first end of a duration on, and the one before them;
* a reading that is older than the last of its parameter, which is reported, and one that makes a parameter known or unknown.

Conditions are computed only at readings of parameters that they read. While a HELD's condition stays as it was, so does the HELD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import polars as pl

from headrace.alarms.formula import RUN_STATE
from headrace.alarms.formula_columns import Columns, Incomputable
from headrace.alarms.rule_definition import Condition
from headrace.plant.quality import Quality

if TYPE_CHECKING:
    from headrace.alarms.rule_process import Settled

__all__ = ["needed", "passed"]

_FEWEST = 256  # readings for which conditions are computed at once
_UNKNOWN = float("nan")  # of a parameter; readings are finite
_group, _time, _now, _due = map(pl.col, ("@group", "@time", "@now", "@due"))


def needed(rows: pl.DataFrame, equipment: Sequence[Settled | None]) -> pl.Series | None:
    """Return which readings may change more than the last value of their parameter; None if all may.

    Parameters
    ----------
    rows
        Readings by equipment: `parameter`, `value`, `quality` if there is one, and the columns of `headrace.engines.embedded.skipping`.
    equipment
        How each equipment is before them; None if any reading may change more.
    """
    if "quality" in rows.columns and rows["quality"].dtype != pl.Int64:
        return None
    if all(one is None for one in equipment):
        return None
    every = rows.select(_parameter(), _value(rows).alias("value"), "@group", "@time", "@now", "@due", pl.int_range(pl.len()).alias("@row"))
    schema = {"due": pl.Int64, "live": pl.Boolean, "settled": pl.Boolean}
    table = pl.DataFrame([(None, None, False) if one is None else (one.due, one.live, True) for one in equipment], schema=schema, orient="row")
    lasts = [(nth, name, time, name in one.values) for nth, one in enumerate(equipment) if one is not None for name, time in one.times.items()]
    last = pl.DataFrame(lasts, schema={"@group": pl.Int64, "parameter": pl.String, "last": pl.Int64, "last_known": pl.Boolean}, orient="row")
    every = every.hstack(table[every["@group"]]).join(last, on=["@group", "parameter"], how="left", maintain_order="left")
    series, known = ["@group", "parameter"], pl.col("value").is_not_null()
    reached = pl.max_horizontal(_time.cum_max().shift(1).over(series), "last")
    odd = (_time < reached) | (known != pl.coalesce(known.shift(1).over(series), "last_known"))
    ends = (pl.max_horizontal(_time, _due - 1) >= pl.col("due")).fill_null(value=False)
    wakes = ends | (~pl.col("live") & (_now != _time)).fill_null(value=False) | ~pl.col("settled")
    every = every.select("parameter", "value", "@group", "@row", odd=odd.fill_null(value=True), wakes=wakes)
    changes, follows = _changes(every, equipment)
    every = every.with_columns(changes.alias("changes"), (every["wakes"] | follows).alias("wakes")).with_columns(
        pl.col("wakes").cum_max().over("@group")
    )
    before_woken = pl.col("wakes").shift(-1, fill_value=False) & (_group == _group.shift(-1))
    return every.select(pl.col("odd") | pl.col("changes") | pl.col("wakes") | before_woken.fill_null(value=False)).to_series()


def passed(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what readings that are left out have changed, by the one that is not left out after them (`@until`): of each parameter the last, in a list."""
    last = rows.select("@until", _parameter(), "@time", _value(rows).alias("value")).group_by("@until", "parameter", maintain_order=True).last()
    return last.group_by("@until").agg(pl.struct("parameter", "@time", "value").alias("@passed"))


def _parameter() -> pl.Expr:
    return pl.col("parameter").fill_null("")


def _value(rows: pl.DataFrame) -> pl.Expr:
    """Return the values, NULL where they are not usable."""
    usable = pl.col("value").is_finite()
    if "quality" in rows.columns:
        usable &= ((pl.col("quality") & int(Quality.BAD)) == 0).fill_null(value=True)
    return pl.when(usable).then("value")


def _changes(every: pl.DataFrame, equipment: Sequence[Settled | None]) -> tuple[pl.Series, pl.Series]:
    """Return at which readings a condition changes, and at which one that has durations, or reads the run state."""
    by_rules: dict[str, list[int]] = {}
    for nth, one in enumerate(equipment):
        if one is not None:
            by_rules.setdefault(one.rules.version, []).append(nth)
    found: tuple[list[pl.Series], list[pl.Series]] = ([], [])
    for groups in by_rules.values():
        settled = [one for nth in groups if (one := equipment[nth]) is not None]
        reads = frozenset[str]().union(*(one.reads for one in settled[0].rules.conditions))
        rows = every.filter(_group.is_in(groups) & pl.col("parameter").is_in(reads))
        if len(rows) < _FEWEST and len(by_rules) > 1:
            found[1].append(rows["@row"])
        elif len(rows):
            for places, which in zip(found, _of_rules(rows, dict(zip(groups, settled, strict=True)), reads), strict=True):
                places.append(rows["@row"].filter(which))
    return _at(every["@row"], found[0]), _at(every["@row"], found[1])


def _at(rows: pl.Series, places: Iterable[pl.Series]) -> pl.Series:
    every = [*places]
    return rows.is_in(pl.concat(every).implode()) if every else pl.repeat(value=False, n=len(rows), eager=True)


def _of_rules(rows: pl.DataFrame, settled: Mapping[int, Settled], reads: frozenset[str]) -> tuple[pl.Series, pl.Series]:
    """Return at which readings of equipment with the same rules a condition changes, and at which one does that the kernel has to follow."""
    first, states = next(iter(settled.values())), [*settled.values()]
    names = sorted(reads - {RUN_STATE, *(name for name, _ in first.rules.parameters)})
    lasts = {name: pl.Series([one.values.get(name, _UNKNOWN) for one in states], dtype=pl.Float64) for name in names}
    before = pl.DataFrame({"@group": pl.Series([*settled], dtype=pl.Int64), **lasts})
    now = [pl.when(pl.col("parameter") == name).then(pl.col("value").fill_null(_UNKNOWN)).alias(name) for name in names]
    wide = pl.concat([before.with_columns(before=True), rows.select("@group", *now, before=False)]).sort("@group", maintain_order=True)
    wide = wide.with_columns(pl.col(name).forward_fill().fill_nan(None) for name in names)
    place = wide["@group"].replace_strict([*settled], range(len(settled)), return_dtype=pl.UInt32)
    columns = Columns(
        {**{name: wide[name] for name in names}, RUN_STATE: pl.Series([one.run_state for one in states], dtype=pl.String)[place]}, len(wide)
    )
    for name, formula in first.rules.parameters:
        if name in reads:
            columns.derive(name, formula.tree)
    found: tuple[list[pl.Series], list[pl.Series]] = ([], [])
    for nth, one in enumerate(first.rules.conditions):
        holds = _Holds([state.holds[nth] for state in states], place)
        active = pl.Series([state.active[nth] for state in states], dtype=pl.Boolean)[place]
        found[_follows(one)].append(_condition(one, columns, holds, active, wide["before"]))
    every = [reduce(or_, one, pl.repeat(value=False, n=len(wide), eager=True)).filter(~wide["before"]) for one in found]
    return every[0], every[1]


def _follows(one: Condition) -> bool:
    """Whether a condition depends on more than the values of now."""
    return any(one.durations) or one.rule.kind == "state" or RUN_STATE in one.reads


class _Holds:
    """The HELDs of a condition of several equipment, and where they do not go on as before."""

    def __init__(self, holds: Sequence[Mapping[int, bool | None]], place: pl.Series) -> None:
        self._holds, self._place, self.changed = holds, place, list[pl.Series]()

    def __call__(self, number: int, condition: pl.Series) -> pl.Series:
        """Return a HELD of a condition, as long as it goes on as before."""
        there = pl.Series([number in one for one in self._holds])[self._place]
        over = pl.Series([one.get(number) for one in self._holds], dtype=pl.Boolean)[self._place]
        # One that is over stays so while its condition is unknown; one that runs is held then; and what is held goes on with its condition.
        goes_on = pl.select(
            pl.when(~there).then(~condition.fill_null(value=False)).when(over.is_null()).then(condition.is_null())
            .when(over).then(condition.fill_null(value=True)).otherwise(condition.fill_null(value=False))
        ).to_series()  # fmt: skip
        self.changed.append(~goes_on)
        return pl.select(pl.when(condition.is_not_null()).then(condition & over.fill_null(value=False))).to_series()


def _condition(one: Condition, columns: Columns, holds: _Holds, active: pl.Series, before: pl.Series) -> pl.Series:
    """Return where a condition is another than before, or may be."""
    try:
        found = columns.compute(one.formula.tree, holds)
    except Incomputable:
        return ~before
    if one.durations[-1]:
        found = holds(len(one.durations) - 1, found)
    if _follows(one):
        return reduce(or_, holds.changed, found.ne_missing(active))
    found = pl.select(pl.when(before).then(active).otherwise(found)).to_series()
    return found.ne_missing(found.shift(1))
