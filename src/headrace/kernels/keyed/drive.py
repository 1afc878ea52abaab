"""A process run over a few records, for tests of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.errors import PlanError, ProcessError, near
from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.process import Given, Place, ProcessKernel
from headrace.plan.operators import Process
from headrace.plan.process import declaration_of, spoken_name
from headrace.plan.schema import STRING, Field, Schema

__all__ = ["drive"]

Row = Mapping[str, Any]


def drive(
    process: object, records: Iterable[Row], *, by: str | Sequence[str], time: str, broadcast: Iterable[Row] = (), upto: int | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Return what a process gives for records, to test it with: in the order of event time, with its timers and times to live.

    Parameters
    ----------
    process
        The process, or its class.
    records
        Dicts of columns, in any order.
    by
        The columns that a key is made of.
    time
        The column that has the event time, ms since the epoch.
    broadcast
        Records that it is told before any of their time or later, `time` among their columns too.
    upto
        Let time pass up to here, ms: timers before it go off. By default it stops at the last event.

    Returns
    -------
    list
        What it gave in that order: the output's name, "" for the main one, and the row with the keys.

    Raises
    ------
    ProcessError
        If the process raises, gives or keeps what it did not declare, or cannot take a record of the broadcast.
    PlanError
        If it declares something that cannot be, or a record lacks a key or its time.
    """
    code = process() if isinstance(process, type) else process
    names = (by,) if isinstance(by, str) else tuple(by)
    keys = Schema(tuple(Field(name, STRING) for name in names))
    declared = declaration_of(code, names, "drive")
    kernel = ProcessKernel(Process(code, spoken_name(code), declared, names, keys))
    space = Keyspace(kernel)
    given: list[Given] = []
    told = [(_of(row, [time])[0], 0, number, row) for number, row in enumerate(broadcast)]
    rows = [(_of(row, [time])[0], 1, number, row) for number, row in enumerate(records)]
    last = 0
    for at, is_record, number, row in sorted(told + rows, key=lambda one: one[:3]):
        last = at
        space.fire(at, given)
        if is_record:
            space.record(_of(row, names), dict(row), at, at, Place("records", 0, number), given)
        else:
            space.tell(dict(row), Place("broadcast", 0, number))
            if kernel.failures:
                raise ProcessError(kernel.failures[0]["detail"], where=f"broadcast {number}")
    space.fire(last + 1 if upto is None else upto, given)
    kernel.check_itself()
    columns = {name: schema.names for name, schema in declared.outputs.items()}
    return [(name, dict(zip((*names, *columns[name]), (*key, *values), strict=True))) for name, _, key, values in given]


def _of(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    for name in names:
        if name not in row:
            raise PlanError(f"a record has no {name!r}", where="drive", fix=near(name, row))
    return tuple(row[name] for name in names)
