"""Processes of ours whose rows are computed many at once where that pays.

Their state is that of the keyed kernel, so either form may work on the next rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import polars as pl

from headrace.engines.embedded.ports import Port
from headrace.engines.embedded.processing import ProcessStage
from headrace.engines.embedded.stage import Emitted
from headrace.kernels.columnar.order import due_before
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.columnar.window import key_text
from headrace.kernels.keyed.keyspace import ARE_EQUAL_BY_CODE
from headrace.kernels.reading.text import polars_type
from headrace.plan.operators import Process
from headrace.plan.schema import Schema

__all__ = ["BatchStage", "ColumnarStage", "works_in_batches"]

_LEAST = 2


class ColumnarStage(ProcessStage):
    """A process with one input, without timers, of which there is a columnar form too."""

    def _pays(self, rows: pl.DataFrame) -> bool:
        """Whether the columnar form is to compute these rows."""
        raise NotImplementedError

    def _computed(self, rows: pl.DataFrame) -> list[Emitted]:
        """Return what the process emits for rows in their order, and bring its state up to date."""
        raise NotImplementedError

    def _advance(self, clock: int) -> list[Emitted]:
        """Move the clock, and return the rows of all times before it."""
        if clock <= self.watermark:
            return []
        self._watermark = clock
        port = self._ports[self.node.input]
        due = None if self.operator.arrival else due_before(port.buffer, clock)
        if due is None or not self._pays(due):
            records = () if due is None else self._records([(len(due), port.run(due, port.number))])
            return self._frames(chain(self.scheduler.run(records), self.scheduler.advance(clock)))
        emitted = self._batch(due)
        return [*emitted, *self._frames(self.scheduler.advance(clock))]

    def _arrived(self, arrivals: Sequence[tuple[Port, pl.DataFrame]]) -> list[Emitted]:
        """Give the process the rows of its input, and return what it gives."""
        [(_, rows)] = arrivals
        return self._batch(rows) if self._pays(rows) else super()._arrived(arrivals)

    def _batch(self, rows: pl.DataFrame) -> list[Emitted]:
        self._handled += len(rows)
        return self._computed(rows)

    def _emitted(self, rows: pl.DataFrame, columns: Mapping[str, Any], schema: Schema) -> pl.DataFrame:
        """Return a row for each of `rows`: with these columns, and those of `rows` for the others."""
        time = rows["@time"]
        made = []
        for name, kind in ((field.name, polars_type(field.type)) for field in schema.fields):
            column = columns.get(name, rows[name] if name in rows.columns else None)
            made.append(column.cast(kind).alias(name) if isinstance(column, pl.Series) else pl.Series(name, column, dtype=kind))
        hidden = [pl.lit(NEVER, pl.Int64).alias("@watermark"), pl.lit(-1, pl.Int64).alias("@partition"), pl.lit(None, pl.Int64).alias("@offset")]
        key = [key_text(self.operator.keys)] if self._keyed else []
        return pl.DataFrame([time, time.alias("@record"), *made]).with_columns(*hidden, pl.lit(None, pl.Int64).alias("@arrived"), *key)


class Group(NamedTuple):
    """The rows of a key in a batch: its state, and their places."""

    state: Any
    places: list[int]


class BatchStage(ColumnarStage):
    """A process whose code has `_on_rows(rows, groups)`, and `_in_batches(rows, keys)`, which says for how many rows of how many keys that pays.

    It is called with rows in their order and the groups that they are of, one for each key. It returns by the names of outputs the places of the rows
    for which a row is emitted, in their order, and the columns of what is emitted. A column that is not among them is that of the input. If it returns
    None and has changed nothing, the rows are taken one by one.
    """

    def _pays(self, rows: pl.DataFrame) -> bool:
        """Whether there are many rows, of few keys where that matters."""
        code: Any = self.operator.code
        return len(rows) >= _LEAST and code._in_batches(len(rows), rows.select(pl.struct(self.operator.keys).n_unique()).item())

    def _computed(self, rows: pl.DataFrame) -> list[Emitted]:
        """Return what the process emits."""
        code: Any = self.operator.code
        computed = code._on_rows(rows, self._groups(rows))
        if computed is None:
            port = self._ports[self.node.input]
            return self._frames(self.scheduler.run(self._records([(0, port.run(rows, port.number))])))
        found = []
        for output, (places, columns) in computed.items():
            if len(places):
                taken = rows if len(places) == len(rows) else rows[places]
                found.append((output, self._emitted(taken, columns, self._schemas[output])))
        return found

    def _groups(self, rows: pl.DataFrame) -> Iterator[Group]:
        """Yield the groups; the state of one may be changed until the next is asked for."""
        keys = self.operator.keys
        of_keys = rows.select(pl.col(key).to_physical() for key in keys).with_row_index("@row").group_by(keys, maintain_order=True).agg("@row")
        tuples = list(zip(*(of_keys[key].to_list() for key in keys), strict=True))
        yield from map(Group, self.keyspace.states_of(tuples), of_keys["@row"].to_list())


def works_in_batches(operator: Process) -> bool:
    """Whether the code of a process works on many rows at once, and its keys are of types by which rows can be grouped."""
    kinds = {operator.record_schema[key].type.kind for key in operator.keys}
    return hasattr(operator.code, "_on_rows") and ARE_EQUAL_BY_CODE.issuperset(kinds)
