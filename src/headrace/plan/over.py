"""The process behind `over`: running aggregates and the values of other rows, for each key in event-time order.

Each call keeps for each key what it needs and no more. A frame of rows or of time keeps the values of its rows, and each result is
computed from them anew. A frame without a beginning keeps accumulators. LAG keeps as many values as it goes back. With LEAD
rows wait for those that it reads, at most until the input ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from headrace.plan.expression import Call, Column, Expression, Literal, rebuild
from headrace.plan.process import List, Map, Value
from headrace.plan.running import Running, running_of
from headrace.plan.schema import BOOLEAN, Schema, Type, row_of

__all__ = [
    "Frame",
    "RunningAggregates",
    "framed_arguments",
    "framed_slots",
    "is_accumulated",
    "plain_calls",
    "reads_another_row",
    "rows_between",
    "running_of_call",
    "slots_of",
]

Named = tuple[tuple[str, Expression], ...]
Row = dict[str, Any]
Slots = dict[str, Value | List | Map]
# For each argument in the frame: its values, and those that are not NULL.
InFrame = list[tuple[list[Any], list[Any]]]
# A call for one row: the row, the state of its key and what is in the frame to the value.
Step = Callable[[Row, Any, InFrame], Any]
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

    __slots__ = ("__dict__", "_at_end", "_columns", "_framed", "_leads", "_steps")

    def __init__(self, calls: Sequence[tuple[str, Call]], columns: Schema, frame: Frame) -> None:
        self.calls, self.frame = tuple(calls), frame
        self.output = {field.name: f"{field.type}{'' if field.nullable else ' NOT NULL'}" for field in columns.fields}
        self._columns = tuple(self.output)
        framed = framed_slots(self.calls, frame)
        # Values go when so much event time has passed; those of the first ms of the frame are still in it.
        ttl = None if frame.time_ms is None else frame.time_ms * _MS + _MS
        self.state: Slots = {slot: List(str(argument.type), ttl=ttl) for argument, slot in framed.items()}
        self._framed = [(slot, _reader((argument,))) for argument, slot in framed.items()]
        self._steps: list[tuple[str, Step]] = []
        for number, (name, call) in enumerate(calls):
            slots, step = _step(call, frame, number, [*framed])
            self.output[name] = str(call.type)
            self.state |= slots
            self._steps.append((name, step))
        self._leads = [(f"c{number}", rows_between(call), _reader(call.arguments[:1])) for number, call in self._ahead()]
        self._at_end = self._emit_pending if self._leads else None
        if self._leads:
            kinds = [*(field.type for field in columns.fields), *(call.type for _, call in calls)]
            self.state["pending"] = List(str(row_of({f"c{place}": kind for place, kind in enumerate(kinds)})))

    def _ahead(self) -> Iterator[tuple[int, Call]]:
        """Yield the calls of LEAD, and the places of their columns."""
        for place, (_, call) in enumerate(self.calls, len(self._columns)):
            if call.function == "LEAD":
                yield place, call

    def __reduce__(self) -> tuple[Any, ...]:
        columns = Schema.parse({name: self.output[name] for name in self._columns})
        return type(self), (self.calls, columns, self.frame)

    def on_record(self, row: Row, state: Any) -> Row | None:  # noqa: ANN401
        """Emit the record with the values of the calls."""
        limit, frame = self.frame.rows, []
        for slot, read in self._framed:
            kept = getattr(state, slot)
            kept.append(read(row))
            if limit is not None and len(kept.values) > limit:
                del kept[0]
            frame.append((kept.values, [value for value in kept.values if value is not None]))
        emitted = {name: row[name] for name in self._columns}
        for name, step in self._steps:
            emitted[name] = step(row, state, frame)
        return self._wait(emitted, row, state.pending) if self._leads else emitted

    def _wait(self, emitted: Row, row: Row, pending: Any) -> Row | None:  # noqa: ANN401
        """Have a row wait for those that LEAD reads, which it is for rows before; return the row that has waited long enough."""
        pending.append({f"c{place}": value for place, value in enumerate(emitted.values())})
        rows = pending.values
        for column, count, read in self._leads:
            if len(rows) > count:
                rows[-1 - count][column] = read(row)
        return self._named(pending.pop(0)) if len(rows) > max(count for _, count, _ in self._leads) else None

    def _named(self, waited: Row) -> Row:
        return dict(zip(self.output, waited.values(), strict=True))

    def _emit_pending(self, _: None, state: Any) -> list[Row]:  # noqa: ANN401
        """Emit the rows that wait when the input has ended."""
        rows = [*map(self._named, state.pending)]
        del state.pending[:]
        return rows


def is_accumulated(call: Call) -> bool:
    """Return whether a call over a frame without a beginning is computed without all the values in it."""
    return reads_another_row(call) or running_of_call(call).start is not None


def reads_another_row(call: Call) -> bool:
    """Return whether a call is no aggregate: it reads another row, whatever the frame."""
    return call.function in {"LAG", "LEAD"}


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


def running_of_call(call: Call) -> Running:
    """Return how the aggregate of a call is computed."""
    return running_of(call.function, call.arguments[0].type if call.arguments else None)


def waits(calls: Sequence[tuple[str, Call]]) -> bool:
    """Return whether rows wait for later ones."""
    return any(call.function == "LEAD" for _, call in calls)


def rows_between(call: Call) -> int:
    """Return how many rows LAG goes back, or LEAD ahead."""
    count = call.arguments[1] if len(call.arguments) > 1 else None
    return count.value if isinstance(count, Literal) and isinstance(count.value, int) else 1


def framed_slots(calls: Sequence[tuple[str, Call]], frame: Frame) -> dict[Expression, str]:
    """Return the names of the state of a frame that rows leave: a list for each argument, whichever calls have it."""
    arguments = [one for _, call in calls if frame.ends and not reads_another_row(call) for one in framed_arguments(call)]
    return {one: f"frame_{place}" for place, one in enumerate(dict.fromkeys(arguments))}


def framed_arguments(call: Call) -> tuple[Expression, ...]:
    """Return the arguments of an aggregate; COUNT(*) counts a constant."""
    return call.arguments or (Literal(True, BOOLEAN),)


def slots_of(call: Call, number: int) -> tuple[str, ...]:
    """Return the names of the state of the n-th call, which has no frame that rows leave."""
    parts = 1 if reads_another_row(call) else len(running_of_call(call).start or ())
    return tuple(f"call_{number}_{part}" for part in range(parts))


def _step(call: Call, frame: Frame, number: int, framed: list[Expression]) -> tuple[Slots, Step]:
    """Return the state that the n-th call has beside its frame, and how it is computed; `framed` are the arguments in the frame."""
    if call.function == "LEAD":
        return _lead(call)
    if reads_another_row(call):
        return _lag(call, *slots_of(call, number))
    if frame.ends:
        return {}, _over_frame(call, [framed.index(one) for one in framed_arguments(call)])
    return _accumulated(call, slots_of(call, number))


def _lead(call: Call) -> tuple[Slots, Step]:
    """Return LEAD as long as the row that it reads has not come."""
    default = _reader(call.arguments[2:3])
    return {}, (lambda row, state, frame: default(row)) if len(call.arguments) > 2 else (lambda row, state, frame: None)  # noqa: ARG005


def _lag(call: Call, slot: str) -> tuple[Slots, Step]:
    given, *others = call.arguments
    count, read, default = rows_between(call), _reader((given,)), _reader(tuple(others[1:2]))
    if count == 0:
        return {}, lambda row, state, frame: read(row)  # noqa: ARG005

    def step(row: Row, state: Any, _frame: InFrame) -> Any:  # noqa: ANN401
        before = getattr(state, slot)
        values = before.values
        found = values[0] if len(values) == count else default(row) if others[1:] else None
        before.append(read(row))
        if len(values) > count:
            del values[0]
        return found

    return {slot: List(str(given.type))}, step


def _over_frame(call: Call, places: list[int]) -> Step:
    """Return a call over the values in the frame, which stand at these places."""
    of, first = running_of_call(call).of, places[0]
    if len(places) == 1:
        return lambda row, state, frame: of(frame[first][1])  # noqa: ARG005
    return lambda row, state, frame: of(  # noqa: ARG005
        [values for values in zip(*(frame[place][0] for place in places), strict=True) if values[0] is not None]
    )


def _accumulated(call: Call, names: tuple[str, ...]) -> tuple[Slots, Step]:
    """Return a call over a frame without a beginning: its accumulators are kept."""
    running = running_of_call(call)
    assert running.start is not None
    add, result, read = running.add, running.result, _reader(framed_arguments(call))
    slots = Slots()
    for name, (text, first) in zip(names, running.start, strict=True):
        kind = _of_arguments(text, call.arguments)
        slots[name] = Map(kind.removeprefix("MAP<STRING, ")[:-1]) if text.startswith("MAP") else Value(kind, first)
    several = len(call.arguments) > 1

    def step(row: Row, state: Any, _frame: InFrame) -> Any:  # noqa: ANN401
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
    """Return what reads the arguments of a call from a row: the value of the one, or a tuple of several."""
    if len(arguments) != 1:
        reads = [_reader((one,)) for one in arguments]
        return lambda row: tuple([read(row) for read in reads])
    match arguments[0]:
        case Column(name=name):
            return lambda row: row[name]
        case Literal(value=value):
            return lambda row: value  # noqa: ARG005
    raise AssertionError(f"{arguments[0]} is neither a column nor a constant")
