"""Which of many readings may change what rules have found, found for all of them at once.

Theory of operation
-------------------
Most readings of an equipment leave all its conditions as they are. Such a reading changes the last value and the last time of its parameter, and
nothing else; what readings that are left out have changed, the next one that is not left out brings along (`passed`). So needed are:

* a reading at which a condition is another than at the reading before;
* of a condition that must last for so long: the first reading at its end, and the one before, with which what is due at the end finds the values;
* of a condition with a HELD, or one that reads the run state: all readings after one at which it is another, or at which a HELD ends, since only the
  kernel knows how it continues;
* a reading that is older than the last of its parameter, which is reported, and one that makes a parameter known or unknown.

Conditions are computed only at readings of parameters that they read. While a HELD's condition stays as it was, so does the HELD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import polars as pl

from headrace.alarms.formula import RUN_STATE, Formula
from headrace.alarms.formula_columns import Columns, is_computable
from headrace.alarms.rule_definition import Condition, RuleSet
from headrace.plant.quality import Quality

if TYPE_CHECKING:
    from headrace.alarms.rule_process import Settled

__all__ = ["needed", "passed"]

_FEWEST = 256  # readings for which conditions are computed at once
_UNKNOWN = float("nan")  # of a parameter; readings are finite
_NEVER_ENDS = 2**62
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
    schema = {"due": pl.Int64, "live": pl.Boolean, "settled": pl.Boolean, "reached": pl.Int64}
    before = [(None, None, False, None) if one is None else (_first_end(one), one.live, True, one.reached) for one in equipment]
    lasts = [(nth, name, time, name in one.values) for nth, one in enumerate(equipment) if one is not None for name, time in one.times.items()]
    last = pl.DataFrame(lasts, schema={"@group": pl.Int64, "parameter": pl.String, "last": pl.Int64, "last_known": pl.Boolean}, orient="row")
    every = every.hstack(pl.DataFrame(before, schema=schema, orient="row")[every["@group"]])
    every = every.join(last, on=["@group", "parameter"], how="left", maintain_order="left")
    series = ["@group", "parameter"]
    older = (_time < pl.max_horizontal(_time.cum_max().shift(1).over(series), "last")).fill_null(value=False)
    every = every.with_columns(older.alias("older")).with_columns(pl.when(~pl.col("older")).then(pl.col("value").is_not_null()).alias("known"))
    known_before = pl.coalesce(pl.col("known").forward_fill().shift(1).over(series), "last_known")
    odd = pl.col("older") | (pl.col("known") != known_before)
    ends = (pl.max_horizontal(_time, _due - 1) >= pl.col("due")).fill_null(value=False)
    wakes = ends | (~pl.col("live") & (_now != _time)).fill_null(value=False) | ~pl.col("settled")
    reached = pl.max_horizontal(_time.cum_max().over("@group"), "reached")
    every = every.with_columns(odd.fill_null(value=True).alias("odd"), wakes.alias("wakes"), reached.alias("reached"))
    found = _changes(every, equipment)
    woken = pl.DataFrame([every["@group"], every["wakes"] | _at(every, found.follows)]).select(_group, pl.col("wakes").cum_max().over("@group"))
    before_woken = woken.select(pl.col("wakes").shift(-1, fill_value=False) & (_group == _group.shift(-1))).to_series().fill_null(value=False)
    return every["odd"] | _at(every, found.changes) | woken["wakes"] | before_woken


def _first_end(one: Settled) -> int | None:
    """Return when the first duration ends of conditions that only the kernel can follow."""
    ends = [
        since + condition.durations[number]
        for condition, holds in zip(one.rules.conditions, one.holds, strict=True)
        if _follows(condition, one.rules)
        for number, (since, over) in holds.items()
        if over is False
    ]
    return min(ends, default=None)


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


@dataclass
class _Found:
    """The readings at which a condition changes, and those at which one does that only the kernel can follow, as places."""

    changes: list[pl.Series] = field(default_factory=list)
    follows: list[pl.Series] = field(default_factory=list)


def _at(every: pl.DataFrame, places: Sequence[pl.Series]) -> pl.Series:
    return every["@row"].is_in(pl.concat(places).implode()) if places else pl.repeat(value=False, n=len(every), eager=True)


def _changes(every: pl.DataFrame, equipment: Sequence[Settled | None]) -> _Found:
    """Return the readings at which conditions change."""
    by_rules: dict[str, list[int]] = {}
    for nth, one in enumerate(equipment):
        if one is not None:
            by_rules.setdefault(one.rules.version, []).append(nth)
    found = _Found()
    for groups in by_rules.values():
        rows = every if len(groups) == len(equipment) else every.filter(_group.is_in(groups))
        if len(rows) < _FEWEST and len(by_rules) > 1:
            found.follows.append(rows["@row"])
        else:
            _OfRules(rows, {nth: one for nth in groups if (one := equipment[nth]) is not None}).find(found)
    return found


def _follows(one: Condition, rules: RuleSet) -> bool:
    """Whether how a condition continues depends on more than values and how long it lasts."""
    if one.formula.durations or RUN_STATE in one.reads or (one.durations[-1] and not _computable(one.formula, rules)):
        return True
    return one.rule.kind == "state" and any(RUN_STATE in other.reads for other in rules.conditions)


def _computable(formula: Formula, rules: RuleSet) -> bool:
    """Whether a formula can be computed for many readings at once."""
    derived = dict(rules.parameters)
    return is_computable(formula.tree) and all(_computable(derived[name], rules) for name in formula.names & derived.keys())


class _OfRules:
    """The readings of equipment that have the same rules, and their conditions.

    Conditions are computed of `wide`, which has how each equipment is before (`before`), then its readings of parameters that conditions read.
    """

    def __init__(self, rows: pl.DataFrame, settled: Mapping[int, Settled]) -> None:
        self._rows, self._groups, self._states = rows, [*settled], [*settled.values()]
        self._rules = self._states[0].rules
        reads = frozenset[str]().union(*(one.reads for one in self._rules.conditions))
        names = sorted(reads - {RUN_STATE, *(name for name, _ in self._rules.parameters)})
        # Names come with the data: they could be patterns, or those of columns here.
        columns = {name: f"value {number}" for number, name in enumerate(names)}
        lasts = {columns[name]: pl.Series([one.values.get(name, _UNKNOWN) for one in self._states], dtype=pl.Float64) for name in names}
        before = pl.DataFrame({"@group": pl.Series(self._groups, dtype=pl.Int64), **lasts}).with_columns(before=True)
        now = [pl.when(pl.col("parameter") == name).then(pl.col("value").fill_null(_UNKNOWN)).alias(columns[name]) for name in names]
        read = rows.filter(pl.col("parameter").is_in(reads) & ~pl.col("older")).select("@group", "@row", "reached", *now, before=False)
        wide = pl.concat([before, read], how="diagonal").sort("@group", maintain_order=True)
        self._wide = wide.with_columns(pl.col(name).forward_fill().fill_nan(None) for name in lasts)
        self._before = self._wide["before"]
        self._place = self._wide["@group"].replace_strict(self._groups, range(len(self._groups)), return_dtype=pl.UInt32)
        run_states = self._each([one.run_state for one in self._states], pl.String)
        self._columns = Columns({**{name: self._wide[columns[name]] for name in names}, RUN_STATE: run_states}, len(self._wide))
        for name, formula in self._rules.parameters:
            if name in reads and _computable(formula, self._rules):
                self._columns.derive(name, formula.tree)

    def _each(self, values: Iterable[object], kind: type[pl.DataType]) -> pl.Series:
        """Return values of each equipment for the rows of `wide`."""
        return pl.Series([*values], dtype=kind)[self._place]

    def find(self, found: _Found) -> None:
        """Add the readings at which conditions change."""
        ends: list[pl.Series] = []
        nothing = pl.repeat(value=False, n=len(self._wide), eager=True)
        changes, follows = nothing, nothing
        for nth, one in enumerate(self._rules.conditions):
            if not _computable(one.formula, self._rules):
                changes |= ~self._before
                follows |= _follows(one, self._rules) & ~self._before
            elif _follows(one, self._rules):
                follows |= self._followed(nth, one)
            elif one.durations[-1]:
                changed, end = self._lasting(nth, one)
                changes |= changed
                ends.append(end)
            else:
                changes |= self._changed(self._active(nth), self._columns.compute(one.formula.tree))
        found.changes.append(self._wide["@row"].filter(changes & ~self._before))
        found.follows.append(self._wide["@row"].filter(follows & ~self._before))
        if ends:
            found.changes.append(self._at_ends(ends))

    def _active(self, nth: int) -> pl.Series:
        return self._each([one.active[nth] for one in self._states], pl.Boolean)

    def _changed(self, at_first: pl.Series, truths: pl.Series) -> pl.Series:
        """Return where a condition is another than before; `at_first` is how it is before the readings."""
        truths = pl.select(pl.when(self._before).then(at_first).otherwise(truths)).to_series()
        return truths.ne_missing(truths.shift(1))

    def _followed(self, nth: int, one: Condition) -> pl.Series:
        holds = _Holds([state.holds[nth] for state in self._states], self._place)
        found = self._columns.compute(one.formula.tree, holds)
        if one.durations[-1]:
            found = holds(len(one.durations) - 1, found)
        return reduce(or_, holds.changed, found.ne_missing(self._active(nth)))

    def _lasting(self, nth: int, one: Condition) -> tuple[pl.Series, pl.Series]:
        """Return where a condition that must last changes, and its end as far as it is to last on."""
        holds = [state.holds[nth].get(len(one.durations) - 1) for state in self._states]
        frame = pl.DataFrame([self._before, self._wide["reached"]]).with_columns(
            self._columns.compute(one.formula.tree).alias("true"),
            self._each([hold is not None for hold in holds], pl.Boolean).alias("there"),
            self._each([None if hold is None else hold[0] for hold in holds], pl.Int64).alias("since"),
        )
        frame = frame.with_columns(pl.when(pl.col("before") & pl.col("true").is_not_null()).then("there").otherwise("true").alias("true"))
        # While it is unknown it is held.
        held = frame.select(pl.when("before").then("there").otherwise("true").forward_fill().alias("held"))["held"]
        begins = held & ~held.shift(1, fill_value=False) & ~self._before
        since = pl.when("before").then("since").when(begins).then("reached").forward_fill()
        end = pl.when("true").then(since + one.durations[-1]).otherwise(_NEVER_ENDS)
        return frame["true"].ne_missing(frame["true"].shift(1)), frame.select(end.alias(f"end {nth}")).to_series()

    def _at_ends(self, ends: Sequence[pl.Series]) -> pl.Series:
        """Return the first readings at ends, of any parameter, and those before them."""
        wide = self._wide.select("@group", "@row", "before").hstack([*ends])
        rows = self._rows.select("@group", "@row", "@time", "@due", before=False)
        rows = rows.join(wide.filter(~self._before).drop("@group", "before"), on="@row", how="left", maintain_order="left")
        rows = pl.concat([wide.filter(self._before), rows], how="diagonal_relaxed").sort("@group", maintain_order=True)
        found = pl.repeat(value=False, n=len(rows), eager=True)
        for one in ends:
            # What is due before a reading is so by how it was at the one before.
            end = pl.col(one.name).forward_fill()
            passed = pl.max_horizontal(_time, _due - 1) >= end.shift(1)
            settled = rows.select(~pl.col("before") & passed & (end == end.shift(1))).to_series().fill_null(value=False)
            found |= rows.select(~pl.col("before") & passed & ~settled.shift(1, fill_value=False)).to_series().fill_null(value=False)
        found |= found.shift(-1, fill_value=False) & (rows["@group"] == rows["@group"].shift(-1)).fill_null(value=False)
        return rows["@row"].filter(found & ~rows["before"])


class _Holds:
    """The HELDs of a condition of several equipment, and where they do not continue as before."""

    def __init__(self, holds: Sequence[Mapping[int, tuple[int, bool | None]]], place: pl.Series) -> None:
        self._holds, self._place, self.changed = holds, place, list[pl.Series]()

    def __call__(self, number: int, condition: pl.Series) -> pl.Series:
        """Return a HELD of a condition, as long as it continues as before."""
        there = pl.Series([number in one for one in self._holds])[self._place]
        over = pl.Series([one[number][1] if number in one else None for one in self._holds], dtype=pl.Boolean)[self._place]
        # One that is over stays so while its condition is unknown; one that runs is held then; and what is held continues with its condition.
        goes_on = pl.select(
            pl.when(~there).then(~condition.fill_null(value=False)).when(over.is_null()).then(condition.is_null())
            .when(over).then(condition.fill_null(value=True)).otherwise(condition.fill_null(value=False))
        ).to_series()  # fmt: skip
        self.changed.append(~goes_on)
        return pl.select(pl.when(condition.is_not_null()).then(condition & over.fill_null(value=False))).to_series()
