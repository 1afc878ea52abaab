"""Which of many readings may move an alarm, found for all of them at once.

Theory of operation
-------------------
A tag is *steady* where a reading of good quality between two values leaves all its alarms alone (`Tag.steady`). Such a reading changes the tag's
last reading and, with it, the time at which the tag will have been silent for too long. Of several in a row the last one is enough, as long as
nothing sees the others: the next reading that is not like that (its row names the last one), and the timer of silence, which an event time
between two readings must not set off. So needed are:

* a reading that is not like that, and all of its tag after it: how the tag then is, only the state machine knows;
* a reading that is older than the last one, which is reported, and changes nothing else;
* the reading before one that is needed;
* where silence is watched, the last reading in each three quarters of its time, so that it does not become due.

Whether the tag is never found silent between the readings that are left is checked. If it might be, all its readings are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from headrace.plant.quality import Quality

if TYPE_CHECKING:
    from headrace.alarms.process import KeySteady

__all__ = ["needed"]

_STEADY = {
    "low": pl.Float64, "high": pl.Float64, "silence": pl.Int64, "by_time": pl.Int64, "by_clock": pl.Int64, "last_time": pl.Int64,
    "last_now": pl.Int64, "live": pl.Boolean,
}  # fmt: skip
_group, _time, _now, _due = map(pl.col, ("@group", "@time", "@now", "@due"))


def needed(rows: pl.DataFrame, tags: Sequence[KeySteady | None], *, clock: bool) -> pl.Series | None:
    """Return which readings may move an alarm; None if all may.

    Parameters
    ----------
    rows
        Readings by tag: `value`, `quality` if there is one, and the columns of `headrace.engines.embedded.skipping`.
    tags
        How each tag is before them; None if any reading may move an alarm of it.
    clock
        Whether what is due goes by the wall clock in live runs.
    """
    if "quality" in rows.columns and rows["quality"].dtype != pl.Int64:
        return None
    if all(tag is None for tag in tags):
        return None
    nothing = (None,) * len(_STEADY)
    table = pl.DataFrame([nothing if tag is None else tag for tag in tags], schema=_STEADY, orient="row")
    every = rows.select("value", *(["quality"] if "quality" in rows.columns else []), "@group", "@time", "@now", "@due")
    every = every.hstack(table[every["@group"]]).with_columns(
        first=_group != _group.shift(1, fill_value=-1), reached=pl.max_horizontal(_time.cum_max().over("@group"), "last_time")
    )
    before = pl.when("first").then("last_time").otherwise(pl.col("reached").shift(1))
    every = every.with_columns(before=before, older=(_time < before).fill_null(value=False))
    upto: int = rows.select(pl.max_horizontal(_due.max(), _time.max())).item()
    every = every.with_columns(woken=~pl.col("older") & ~_calm(every, upto, clock=clock).fill_null(value=False))
    every = every.with_columns(needed=pl.col("older") | pl.col("woken").cum_max().over("@group") | pl.col("before").is_null())
    before_needed = pl.col("needed").shift(-1, fill_value=False) & (_group == _group.shift(-1))
    span = _time // pl.max_horizontal(pl.col("silence") * 3 // 4, 1)
    moves_timer = pl.col("silence").is_not_null() & (span != span.shift(-1))
    last = _group != _group.shift(-1, fill_value=-1)
    every = every.with_columns(needed=pl.col("needed") | before_needed.fill_null(value=False) | moves_timer.fill_null(value=False) | last)
    late = _late(every)
    return every["needed"] if late.is_empty() else every.select(pl.col("needed") | _group.is_in(late.implode())).to_series()


def _calm(every: pl.DataFrame, upto: int, *, clock: bool) -> pl.Expr:
    """Return whether a reading leaves all alarms of its tag alone, if those before it did."""
    value = pl.col("value")
    good = value.is_finite() & value.is_between("low", "high")
    if "quality" in every.columns:
        good &= ((pl.col("quality") & int(Quality.BAD)) == 0).fill_null(value=True)
    # Neither this reading nor an event time before it finds that the tag has been silent for too long.
    spoken = pl.max_horizontal(_time, _due) - pl.col("before") <= pl.col("silence")
    if not clock:
        return good & (pl.col("by_time") > upto) & (spoken | pl.col("silence").is_null())
    # After an older reading, which is not the last one, the arrival of the last one is not at hand.
    before_now = pl.when("first").then("last_now").otherwise(pl.when(~pl.col("older").shift(1)).then(_now.shift(1)))
    live = pl.col("live")
    spoken = pl.when(live).then(_now - before_now <= pl.col("silence")).otherwise(spoken)
    in_time = pl.when(live).then(pl.col("by_clock") > _now.max()).otherwise((pl.col("by_time") > upto) & (_now == _time))
    return good & in_time & (spoken | pl.col("silence").is_null())


def _late(every: pl.DataFrame) -> pl.Series:
    """Return the tags that would be found silent between two readings that are needed, because those between them are left out."""
    place = pl.int_range(pl.len())
    kept = every.with_columns(place=place, begin=pl.when("first").then(place).forward_fill()).filter("needed")
    first = _group != _group.shift(1, fill_value=-1)
    pairs = kept.with_columns(
        since=pl.when(first).then("last_time").otherwise(pl.col("reached").shift(1)),
        since_now=pl.when(first).then("last_now").otherwise(pl.when(~pl.col("older").shift(1)).then(_now.shift(1))),
        left_out=pl.col("place") - pl.when(first).then(pl.col("begin") - 1).otherwise(pl.col("place").shift(1)) > 1,
    )
    passed = pl.when("live").then(_now - pl.col("since_now")).otherwise(pl.max_horizontal(_time, _due) - pl.col("since"))
    return pairs.filter(pl.col("left_out") & pl.col("silence").is_not_null() & (passed <= pl.col("silence")).not_().fill_null(value=True))["@group"]
