"""The process behind `over`: running aggregates and the rows before, for each key in event-time order.

Each call keeps for each key what it needs and no more. A frame of rows or of time keeps the values of its rows, and each result is
computed from them anew. A frame without a beginning keeps accumulators. LAG keeps as many values as it goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from headrace.plan.expression import Call, Column, Expression, Literal, rebuild
from headrace.plan.process import List, Map, Value
from headrace.plan.running import Running, running_of
from headrace.plan.schema import Schema, Type

__all__ = ["Frame", "RunningAggregates", "is_accumulated", "plain_calls", "reads_another_row"]

Named = tuple[tuple[str, Expression], ...]
Row = dict[str, Any]
Slots = dict[str, Value | List | Map]
# A call for one row: the row and the state of its key to the value.
Step = Callable[[Row, Any], Any]
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Frame:
    """The rows of a key that an aggregate is over, of which the row itself is the last.

    `rows` is their number, `time_ms` the greatest distance of their event times from the row's, ends included. Without both, these are all rows
    from the first one on.
    """

    rows: int | None = None
    time_ms: int | None = None

    @property
    def ends(self) -> bool:
        """Whether rows leave the frame."""
        return self.rows is not None or self.time_ms is not None

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.rows is not None else f"{self.time_ms} ms" if self.time_ms is not None else "all rows"


class RunningAggregates:
    """Emits each record with the values of calls.

    `calls` are aggregate calls by the name of their column, over columns and constants alone; `columns` are the other columns
    emitted, without the keys.
    """

    __slots__ = ("__dict__", "_columns", "_steps")

    def __init__(self, calls: Sequence[tuple[str, Call]], columns: Schema, frame: Frame) -> None:
        self.calls, self.frame = tuple(calls), frame
        self.output = {field.name: f"{field.type}{'' if field.nullable else ' NOT NULL'}" for field in columns.fields}
        self._columns = tuple(self.output)
        self.state: Slots = {}
        self._steps: list[tuple[str, Step]] = []
        for number, (name, call) in enumerate(calls):
            slots, step = _step(call, frame, f"call_{number}")
            self.output[name] = str(call.type)
            self.state |= slots
            self._steps.append((name, step))

    def __reduce__(self) -> tuple[Any, ...]:
        columns = Schema.parse({name: self.output[name] for name in self._columns})
        return type(self), (self.calls, columns, self.frame)

    def on_record(self, row: Row, state: Any) -> Row:  # noqa: ANN401
        """Emit the record with the values of the calls."""
        emitted = {name: row[name] for name in self._columns}
        for name, step in self._steps:
            emitted[name] = step(row, state)
        return emitted


def is_accumulated(call: Call) -> bool:
    """Return whether a call over a frame without a beginning is computed without all the values in it."""
    return reads_another_row(call) or _running_of(call).start is not None


def reads_another_row(call: Call) -> bool:
    """Return whether a call is no aggregate: it reads another row, whatever the frame."""
    return call.function == "LAG"


def plain_calls(calls: Mapping[str, Call], columns: Named, taken: Collection[str]) -> tuple[Named, list[tuple[str, Call]], Named]:
    """Return the arguments to be computed first, the calls over columns and constants by name, and the columns over these names.

    `columns` are over `calls` by hidden names. The new names are none of those `taken`.
    """
    arguments: dict[Expression, str] = {}
    whole = {expression.name: name for name, expression in columns if isinstance(expression, Column)}  # a column that is nothing but a call
    names = {hidden: whole[hidden] if hidden in whole else _fresh(f"call_{number}", taken) for number, hidden in enumerate(calls)}

    def plain(argument: Expression) -> Expression:
        if isinstance(argument, Column | Literal):
            return argument
        return Column(arguments.setdefault(argument, _fresh(f"argument_{len(arguments)}", taken)), argument.type)

    def named(expression: Expression) -> Expression:
        if isinstance(expression, Column) and expression.name in names:
            return replace(expression, name=names[expression.name])
        return rebuild(expression, named)

    made = [(names[hidden], replace(call, arguments=tuple(map(plain, call.arguments)))) for hidden, call in calls.items()]
    return tuple((name, expression) for expression, name in arguments.items()), made, tuple((name, named(column)) for name, column in columns)


def _fresh(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _running_of(call: Call) -> Running:
    return running_of(call.function, call.arguments[0].type if call.arguments else None)


def _step(call: Call, frame: Frame, slot: str) -> tuple[Slots, Step]:
    """Return the state that a call has, in slots whose names begin with `slot`, and how it is computed."""
    if reads_another_row(call):
        return _lag(call, slot)
    return _framed(call, frame, slot) if frame.ends else _accumulated(call, slot)


def _lag(call: Call, slot: str) -> tuple[Slots, Step]:
    given, *others = call.arguments
    count = others[0].value if others and isinstance(others[0], Literal) else 1
    read, default = _reader((given,)), _reader(tuple(others[1:2]))
    assert isinstance(count, int)
    if count == 0:
        return {}, lambda row, state: read(row)  # noqa: ARG005

    def step(row: Row, state: Any) -> Any:  # noqa: ANN401
        before = getattr(state, slot)
        values = before.values
        found = values[0] if len(values) == count else default(row) if others[1:] else None
        before.append(read(row))
        if len(values) > count:
            del values[0]
        return found

    return {slot: List(str(given.type))}, step


def _framed(call: Call, frame: Frame, slot: str) -> tuple[Slots, Step]:
    """Return a call over a frame that rows leave: all values in it are kept, one list for each argument."""
    given, limit, of = call.arguments or (None,), frame.rows, _running_of(call).of
    names = [f"{slot}_{place}" if place else slot for place in range(len(given))]
    reads = [_reader(() if one is None else (one,)) for one in given]
    # Values go when so much event time has passed; those of the first ms of the frame are still in it.
    ttl = None if frame.time_ms is None else frame.time_ms * _MS + _MS
    slots: Slots = {name: List("BOOLEAN" if one is None else str(one.type), ttl=ttl) for name, one in zip(names, given, strict=True)}

    def step(row: Row, state: Any) -> Any:  # noqa: ANN401
        columns = []
        for name, read in zip(names, reads, strict=True):
            kept = getattr(state, name)
            kept.append(read(row))
            if limit is not None and len(kept.values) > limit:
                del kept[0]
            columns.append(kept.values)
        if len(columns) == 1:
            return of([value for value in columns[0] if value is not None])
        return of([values for values in zip(*columns, strict=True) if values[0] is not None])

    return slots, step


def _accumulated(call: Call, slot: str) -> tuple[Slots, Step]:
    """Return a call over a frame without a beginning: its accumulators are kept."""
    running = _running_of(call)
    assert running.start is not None
    add, result, read = running.add, running.result, _reader(call.arguments)
    names, slots = [], Slots()
    for place, (text, first) in enumerate(running.start):
        names.append(name := f"{slot}_{place}")
        kind = _of_arguments(text, call.arguments)
        slots[name] = Map(kind.removeprefix("MAP<STRING, ")[:-1]) if text.startswith("MAP") else Value(kind, first)
    several = len(call.arguments) > 1

    def step(row: Row, state: Any) -> Any:  # noqa: ANN401
        accumulators = [getattr(state, name) for name in names]
        value = read(row)
        if (value[0] if several else value) is not None:
            add(accumulators, value)
            for name, kept in zip(names, accumulators, strict=True):
                setattr(state, name, kept)
        return result(accumulators)

    return slots, step


def _of_arguments(text: str, arguments: Sequence[Expression]) -> str:
    types: Mapping[str, Type] = {"T": arguments[0].type, "V": arguments[-1].type} if arguments else {}
    inner = text.removeprefix("MAP<STRING, ").removesuffix(">")
    return text.replace(inner, str(types[inner])) if inner in types else text


def _reader(arguments: Sequence[Expression]) -> Callable[[Row], Any]:
    """Return what reads the arguments of a call from a row: True for none, else the value of the one, or a tuple of several."""
    if not arguments:
        return lambda row: True  # noqa: ARG005
    if len(arguments) > 1:
        reads = [_reader((one,)) for one in arguments]
        return lambda row: tuple([read(row) for read in reads])
    match arguments[0]:
        case Column(name=name):
            return lambda row: row[name]
        case Literal(value=value):
            return lambda row: value  # noqa: ARG005
    raise AssertionError(f"{arguments[0]} is neither a column nor a constant")
