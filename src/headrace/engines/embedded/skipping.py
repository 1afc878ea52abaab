"""Records that a process need not be called with, because they change nothing but what the next record of their key changes again.

Most readings of a plant are like that. A process that knows this says so for many records at once, by `_needed`:

    def _needed(self, rows: pl.DataFrame, states: Iterable[State]) -> pl.Series | None

`rows` are records of the process's own stream by key, those of a key in their order: its columns, `@group` (the number of the key, from 0),
`@time`, `@now` (the arrival, or the event time where there is none) and `@due` (before which time timers fire first). `states` are the states of
the keys in that order. It returns which rows are needed; None for all. The last row of each key in `rows` is needed anyway.

Where records do change something, the next one of their key that is not left out brings it along as `@passed`, which `_passed` makes of the records
that are left out and of `@until`, the place of that one:

    def _passed(self, rows: pl.DataFrame) -> pl.DataFrame  # with the columns @until and @passed

The process has one key, a text.

Property: state, timers, rows and failures are those of a process that is called with every record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from headrace.kernels.columnar.watermark import FEW
from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.state import State

__all__ = ["Skipping"]

Needed = Callable[[pl.DataFrame, Iterable[State]], "pl.Series | None"]
Passed = Callable[[pl.DataFrame], pl.DataFrame]
_AT_ONCE, _AGAIN = 131_072, 512
_PER_KEY = 8  # how many rows of a key there must be, at the mean, so that looking at the key first pays


class _Judged(NamedTuple):
    """Rows, those of them that are needed, and the places of these; None if that is all. For each row the place of the one that brings it along."""

    rows: pl.DataFrame
    needed: pl.DataFrame
    places: pl.Series | None = None
    until: pl.Series | None = None

    def behind(self, count: int) -> pl.DataFrame:
        """Return the rows that the first ones of those that are needed do not stand for."""
        if self.places is None or self.until is None:
            return self.needed[count:]
        return self.rows.filter(self.until > self.places[count - 1])


class Skipping:
    """Leaves out the records of a process's own stream that are not needed.

    Where records of other inputs come with them, all records of their keys are needed; where a broadcast record does, all records are.
    """

    def __init__(self, needed: Needed, passed: Passed | None, keyspace: Keyspace, key: str) -> None:
        self._needed, self._passed, self._keyspace, self._key = needed, passed, keyspace, key
        self._aside: set[Any] | None = set()

    def begin(self) -> None:
        """Forget the records of other inputs: new ones are handed over."""
        self._aside = set()

    def note(self, rows: pl.DataFrame, keys: Sequence[str] | None) -> None:
        """Note that records of another input are handed over, of the broadcast if `keys` is None."""
        if keys is None:
            self._aside = None
        elif self._aside is not None:
            self._aside.update(rows[keys[0]].to_list())

    def parts(self, rows: pl.DataFrame, due: str) -> Iterator[pl.DataFrame]:
        """Yield the rows that are needed. Each part is judged when those before it have been worked on."""
        if self._aside is None:
            yield rows
            return
        for part in rows.iter_slices(_AT_ONCE):
            judged, step = self._judged(part, due), _AGAIN
            while (count := len(judged.needed)) > step:
                yield judged.needed[:step]
                # How the keys are now may spare more of the others.
                judged = self._judged(judged.behind(step), due)
                step = _AGAIN if len(judged.needed) * 2 < count - step else step * 2
            yield judged.needed

    def _judged(self, rows: pl.DataFrame, due: str) -> _Judged:
        if len(rows) <= FEW and len(set(rows[self._key].to_list())) * _PER_KEY > len(rows):
            return _Judged(rows, rows)
        codes = rows[self._key].cast(pl.Categorical).to_physical().rename("@code")
        if codes.n_unique() * _PER_KEY > len(rows):
            return _Judged(rows, rows)
        hidden = [pl.coalesce("@arrived", "@time").alias("@now"), pl.col(due).alias("@due"), codes, pl.int_range(pl.len()).alias("@place")]
        by_key = rows.with_columns(hidden).sort("@code", maintain_order=True).with_columns(pl.col("@code").rle_id().cast(pl.Int64).alias("@group"))
        last = by_key["@group"] != by_key["@group"].shift(-1, fill_value=-1)
        keys = by_key[self._key].filter(last).to_list()
        found = self._needed(by_key, self._keyspace.states_of([(key,) for key in keys]))
        if found is None:
            return _Judged(rows, rows)
        needed = found | last
        if self._aside:
            needed |= by_key["@group"].is_in([number for number, key in enumerate(keys) if key in self._aside])
        if needed.all():
            return _Judged(rows, rows)
        places = by_key["@place"].filter(needed).sort()
        return _Judged(rows, rows[places]) if self._passed is None else self._passing(rows, by_key, needed, places)

    def _passing(self, rows: pl.DataFrame, by_key: pl.DataFrame, needed: pl.Series, places: pl.Series) -> _Judged:
        """Have each row that is needed bring along what those that are left out before it have changed."""
        assert self._passed is not None
        until = by_key.select("@place", pl.when(needed).then("@place").backward_fill().alias("@until"))
        passed = self._passed(by_key.with_columns(until["@until"]).filter(~needed))
        brought = rows[places].with_columns(places.alias("@until")).join(passed, on="@until", how="left", maintain_order="left").drop("@until")
        return _Judged(rows, brought, places, until.sort("@place")["@until"])
