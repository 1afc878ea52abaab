"""A process run over a few records, for tests of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from headrace.errors import PlanError, ProcessError, near
from headrace.kernels.keyed.process import Given, Place, ProcessKernel
from headrace.kernels.keyed.schedule import BROADCAST, RECORDS, Record, Scheduler, ordered
from headrace.plan.inputs import check_input_name
from headrace.plan.operators import KeyedInput, Process
from headrace.plan.process import METHODS, declaration_of, spoken_name
from headrace.plan.schema import DOUBLE, Field, Schema

__all__ = ["drive"]

Row = Mapping[str, Any]


def drive(
    process: object,
    records: Iterable[Row],
    *,
    by: str | Sequence[str],
    time: str,
    broadcast: Iterable[Row] = (),
    inputs: Mapping[str, Iterable[Row]] | None = None,
    upto: int | None = None,
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
    inputs
        Records of other inputs by name, such as `{"command": [...]}` for `on_command`; `by` and `time` are among their columns too.
        An input that is left out has no records.
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
    keys = Schema(tuple(Field(name, DOUBLE) for name in names))  # keys may be of any type: as DOUBLE they are told apart by their bytes alone
    for name in inputs or ():
        check_input_name(name, "drive")
    others = _inputs_of(code, inputs or {})
    declared = declaration_of(code, names, "drive", others)
    kernel = ProcessKernel(Process(code, spoken_name(code), declared, names, keys, inputs=tuple(KeyedInput(name, keys, names) for name in others)))
    called = ("broadcast", "records", *others)
    kernel.key_of = lambda row: [row.get(name) for name in names]
    scheduler = Scheduler(kernel, lambda record: Place(called[record[1]], 0, record[4]))
    given: list[Given] = []
    told = [_record(row, BROADCAST, offset, time) for offset, row in enumerate(broadcast)]
    keyed = [
        _record(row, number, offset, time, names)
        for number, rows in enumerate([records, *others.values()], RECORDS)
        for offset, row in enumerate(rows)
    ]
    rows = ordered(told + keyed)
    end = upto if upto is not None else max((row[0] for row in rows), default=0) + 1
    for _, record in chain(scheduler.run(rows), scheduler.advance(end)):
        given += scheduler.given
        scheduler.given.clear()
        if kernel.failures:
            raise ProcessError(kernel.failures[0]["detail"], where=f"broadcast {record and record[4]}")
    kernel.check_itself()
    columns = {name: schema.names for name, schema in declared.outputs.items()}
    return [(name, dict(zip((*names, *columns[name]), (*key, *values), strict=True))) for name, _, key, values in given]


def _record(row: Row, number: int, offset: int, time: str, names: Sequence[str] | None = None) -> Record:
    (at,) = _of(row, [time])
    return at, number, 0, 0, offset, None, at, at, at, None if names is None else _of(row, names), dict(row)


def _of(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    for name in names:
        if name not in row:
            raise PlanError(f"a record has no {name!r}", where="drive", fix=near(name, row))
    return tuple(row[name] for name in names)


def _inputs_of(code: object, given: Mapping[str, Iterable[Row]]) -> dict[str, Iterable[Row]]:
    """Return the records of all inputs that a process has methods for; none of those that are not given."""
    methods = (name.removeprefix("on_") for name in vars(type(code)) if name.startswith("on_") and name not in METHODS)
    return {**given, **{name: () for name in methods if name not in given}}
