"""Columns with calls of aggregate functions, parted into the calls, by hidden name, and the columns over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from headrace.errors import PlanError
from headrace.plan.expression import Call, Column, Expression, columns_of, rebuild, walk
from headrace.plan.operators import WINDOW_COLUMNS, Named
from headrace.plan.over import Frame, is_accumulated, reads_another_row
from headrace.plan.schema import BIGINT, check_name
from headrace.plan.window import milliseconds

if TYPE_CHECKING:
    from headrace.plan.stream import Stream

__all__ = ["aggregates_of", "frame_of", "running_of"]


def frame_of(rows: int | None, time: timedelta | None, where: str) -> Frame:
    """Return the frame of `over`. Raises PlanError if there is none such."""
    if rows is not None and time is not None:
        raise PlanError("the frame has rows= and time=", where=where, fix="leave one of them out")
    if rows is not None and (type(rows) is not int or rows < 1):
        raise PlanError(
            f"rows {rows!r} is not a whole number from 1", where=where, fix="the record itself is one: rows=10 are it and the nine before"
        )
    time_ms = None if time is None else milliseconds(time, "time", where)
    if time_ms == 0:
        raise PlanError("time must be greater than 0", where=where, fix="write time=hr.minutes(5), say; rows=1 is the record alone")
    return Frame(rows, time_ms)


def running_of(stream: Stream, frame: Frame, texts: Mapping[str, str]) -> tuple[Named, dict[str, Call]]:
    """Return the columns of `over`, over columns and hidden calls, and the calls."""
    place = f"{stream._path}.over"
    if not texts:
        raise PlanError("over computes no column", where=place, fix='write mean="AVG(value)", say')
    calls: dict[Call, str] = {}
    columns = []
    for name, text in texts.items():
        here = f"{place}({name})"
        if check_name(name, place) in stream.schema:
            raise PlanError(f"column {name!r} is there already", where=place, fix="give the new column another name")
        before = len(calls)
        hidden = _hidden(stream._value(text, f"over({name})", aggregates=True), calls)
        if len(calls) == before and not columns_of(hidden) & set(calls.values()):
            raise PlanError(f"{text!r} calls no aggregate function", where=here, fix="compute it with derive()")
        columns.append((name, hidden))
    _check_flat(calls, place)
    for call in calls:
        if not frame.ends and not is_accumulated(call):
            what = f"{call.function} over all rows before would keep every value for ever"
            raise PlanError(what, where=place, fix="give the frame an end: rows= or time=")
    return tuple(columns), {name: call for call, name in calls.items()}


def _hidden(expression: Expression, calls: dict[Call, str]) -> Expression:
    """Return the expression with hidden columns in place of aggregate calls, which are added to `calls`."""
    if isinstance(expression, Call) and expression.aggregate:
        return Column(calls.setdefault(expression, f"@call{len(calls)}"), expression.type)
    return rebuild(expression, lambda inner: _hidden(inner, calls))


def _check_flat(calls: Iterable[Call], where: str) -> None:
    for call in calls:
        if any(isinstance(inner, Call) and inner.aggregate for argument in call.arguments for inner in walk(argument)):
            raise PlanError(f"{call.function} holds another aggregate", where=where)


def aggregates_of(stream: Stream, keys: tuple[str, ...], texts: Mapping[str, str]) -> tuple[Named, Named]:
    """Return the columns over keys and hidden calls, and the calls."""
    calls: dict[Call, str] = {}
    columns = []
    for name, text in texts.items():
        if name in keys or name in {f.name for f in WINDOW_COLUMNS}:
            raise PlanError(f"{name!r} is a key or a column of the window", where=f"{stream._path}.aggregate", fix="give the aggregate another name")
        hidden = _hidden(stream._value(text, f"aggregate({name})", aggregates=True), calls)
        loose = columns_of(hidden) - set(calls.values()) - set(keys)
        if loose:
            raise PlanError(f"{min(loose)!r} is neither a key nor inside an aggregate", where=f"{stream._path}.aggregate({name})")
        columns.append((check_name(name, f"{stream._path}.aggregate"), hidden))
    for call in calls:
        if reads_another_row(call):
            what = f"{call.function} reads another row, and a window has no order of rows"
            raise PlanError(what, where=f"{stream._path}.aggregate", fix="use over(), before the window")
    _check_flat(calls, f"{stream._path}.aggregate")
    if not calls:
        calls[Call("COUNT", (), BIGINT, aggregate=True)] = "@call0"
    return tuple(columns), tuple((hidden, call) for call, hidden in calls.items())
