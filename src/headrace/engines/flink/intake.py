"""A source as tables and views: the records as they came, read by the one rule, each with the watermark before it, and the dead letters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from textwrap import indent

from headrace.engines.flink.block import Block, named
from headrace.engines.flink.expression import Item, sql
from headrace.engines.flink.places import Given, Places
from headrace.engines.flink.refuse import check_metadata
from headrace.engines.flink.words import comment, duration, listed, name, text, type_name
from headrace.errors import PlanError
from headrace.plan.expression import columns_of
from headrace.plan.functions import FUNCTIONS, sql_call
from headrace.plan.operators import Source
from headrace.plan.schema import TIMESTAMP

__all__ = ["MS", "Intake", "Marks", "epoch_ms", "fresh"]

MS = "INTERVAL '0.001' SECOND"
_WATERMARK = "the watermark that a record's own partition had before it: what it had passed is late"
_LONGEST_DAYS = 999_999  # of a window in Flink
_DAY_MS = 86_400_000
_EMPTY = "not JSON: it is blank"
_FUTURE = "event time is too far past its arrival"


def fresh(wanted: str, taken: Collection[str]) -> str:
    """Return the name wanted, or that with a number, which is none of those taken."""
    taken = set(taken)
    return next(one for number in range(1, len(taken) + 2) if (one := wanted if number == 1 else f"{wanted}_{number}") not in taken)


@dataclass(frozen=True)
class Marks:
    """The names of the columns that records carry besides the plan's own.

    Attributes
    ----------
    time
        Event time, from which Flink's watermark is made.
    watermark
        The watermark of the record's own partition before it, as a time.
    topic, partition, offset
        Where the record stands.
    now
        Flink's clock, in whose order rows are numbered.
    arrived
        When a record was appended; processes are told.
    way, order
        Where a process must know: on which way a row has come from its record, and what orders the rows of one place and way.
    carried
        Those that go with the rows.
    ever
        What stands in TUMBLE for one window that holds all times of a bounded input.
    ascending
        Whether Flink's watermark stays one ms behind headrace's, of whose very time there may still be records that processes take.
    """

    time: str
    watermark: str
    topic: str
    partition: str
    offset: str
    now: str
    arrived: str
    way: str
    order: str
    carried: tuple[str, ...]
    ever: str
    ascending: bool = False

    @classmethod
    def beside(cls, taken: Collection[str], *, sources: Collection[Source], bounded: bool, processes: bool = False) -> Marks:
        """Return names that are none of those taken.

        Raises
        ------
        PlanError
            If no window of Flink is as long as the event times that are believed.
        """
        named = ("event_time", "watermark", "topic", "partition", "offset", "now", "arrived", "way", "order")
        time, watermark, topic, partition, offset, now, arrived, way, order = (fresh(one, taken) for one in named)
        carried = [time, watermark, partition, offset, *([topic] if len(sources) > 1 else []), *([] if bounded else [now])]
        carried += [arrived] if processes else []
        return cls(time, watermark, topic, partition, offset, now, arrived, way, order, tuple(carried), _ever(sources), ascending=processes)


def _ever(sources: Collection[Source]) -> str:
    """Return size and offset of the window that holds all event times."""
    first = (min(source.range_ms[0] for source in sources) - 1) // _DAY_MS
    if max(source.range_ms[1] for source in sources) > (first + _LONGEST_DAYS) * _DAY_MS:
        raise PlanError(
            f"event times of more than {_LONGEST_DAYS // 365} years, for which Flink has no window",
            where="event_time_range",
            fix="name a narrower event_time_range",
        )
    return f"INTERVAL '{_LONGEST_DAYS}' DAY(6), INTERVAL '{first}' DAY(6)"


def _unmoved(source: Source) -> str:
    """Return the time of what moves no watermark: it is before any that is believed."""
    return f"TO_TIMESTAMP_LTZ({source.range_ms[0] - 1}, 3)"


@dataclass(frozen=True)
class Intake:
    """The statements of a source.

    Attributes
    ----------
    table, views
        The statements.
    block
        The SELECT of the records that could be read.
    judged
        The view that it reads: all records, `fault` saying what is wrong with one.
    fault, is_future
        What is wrong with a record; whether it is that its event time is too far past its arrival, None where that is never.
    dead
        The SELECT of the dead letters, as JSON text.
    """

    table: str
    views: tuple[str, ...]
    block: Block
    judged: str
    fault: str
    is_future: str | None
    dead: str

    @classmethod
    def of(cls, pipeline: str, source: Source, places: Places, marks: Marks, prefix: str, said: str) -> Intake:
        """Return the intake of a pipeline's source; `prefix` stands before the names of its tables."""
        given = places.source(source.topic, set(dict(source.metadata).values()))
        check_metadata(source, given)
        own = _Names.beside({*source.schema().names, marks.topic, marks.now, marks.arrived, *marks.carried})
        reading, judged = f"{prefix}{source.topic} read", f"{prefix}{source.topic} judged"
        table = _table(source, given, marks, own, prefix, places.max_ahead_ms)
        view = "CREATE TEMPORARY VIEW {} AS\n{};"
        views = (
            view.format(name(reading), _reading(source, given, marks, own, prefix, places.max_ahead_ms)),
            comment(_WATERMARK) + view.format(name(judged), _judged(source, given, marks, own, reading)),
        )
        carried = {mark: name(mark) for mark in marks.carried}
        columns = {column: Item(name(column)) for column in source.schema().names}
        block = Block(
            name(judged), columns, carried, None, frozenset([*columns, *carried, own.fault, own.record]), where=(f"{name(own.fault)} IS NULL",)
        )
        told = source.event_time is not None and _tells_future(given, places.max_ahead_ms)
        future = f"{name(own.fault)} = {text(_FUTURE)}" if told else None
        dead = _dead(pipeline, source, given, marks, own, judged, future)
        return cls(f"{comment(said)}{table}", views, block, judged, name(own.fault), future, dead)


@dataclass(frozen=True)
class _Names:
    """The names of columns that only the intake knows."""

    read: str
    fault: str
    record: str

    @classmethod
    def beside(cls, taken: Collection[str]) -> _Names:
        return cls(*(fresh(one, taken) for one in ("read", "fault", "record")))


def _call(source: Source) -> str:
    columns = ", ".join(f"{name(f.name)} {type_name(f.type)}{'' if f.nullable else ' NOT NULL'}" for f in source.declared.fields)
    rest = f", {text(source.rest)}" if source.rest else ""
    return f"HR_READ(`record`, {text(columns)}{rest})"


def _columns(source: Source, given: Given, read: str) -> dict[str, str]:
    """Return the columns of a record of the table, which `read` is, in SQL."""
    return {column: f"{read}.`row`.{name(column)}" for column in source.schema().names} | {
        column: given.metadata[kind] for column, kind in source.metadata
    }


def _time(source: Source, given: Given, read: str) -> str:
    """Return the event time of what `read` is, in SQL."""
    assert source.event_time is not None
    return sql(source.event_time, {column: Item(made) for column, made in _columns(source, given, read).items()})


def _table(source: Source, given: Given, marks: Marks, own: _Names, prefix: str, ahead: int | None) -> str:
    call = _call(source)
    columns = [*given.columns, f"{name(own.read)} AS {call}"]
    if source.event_time is None:
        time = _unmoved(source)
    else:
        first, last = (text(_date(ms)) for ms in source.range_ms)
        latest = [f"{given.arrived} + {duration(ahead)}"] if given.arrived and ahead is not None else []
        time = listed([_time(source, given, call), first, last, *latest], "HR_TIME({})")
    delay = (f" - {duration(source.delay_ms)}" if source.delay_ms else "") + (f" - {MS}" if marks.ascending else "")
    columns += [f"{name(marks.time)} AS {time}", f"WATERMARK FOR {name(marks.time)} AS {name(marks.time)}{delay}", f"{name(marks.now)} AS PROCTIME()"]
    options = ",\n".join(f"  {text(key)} = {text(value)}" for key, value in given.options.items())
    inner = indent(",\n".join(columns), "  ")
    return f"CREATE TEMPORARY TABLE {name(prefix + source.topic)} (\n{inner}\n) WITH (\n{options}\n);"


def _date(ms: int) -> str:
    time = datetime.fromtimestamp(ms / 1000, UTC)
    return time.date().isoformat() if ms % 86_400_000 == 0 else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _reading(source: Source, given: Given, marks: Marks, own: _Names, prefix: str, ahead: int | None) -> str:
    read = name(own.read)
    columns = [named(made, column) for column, made in _columns(source, given, read).items()]
    columns += [f"{_fault(source, given, marks, own, ahead)} AS {name(own.fault)}"]
    columns += [named("`record`", own.record), named(given.partition, marks.partition)]
    columns += [named(given.offset, marks.offset)] if given.offset else []
    columns += [named(given.arrived, marks.arrived)] if given.arrived else []
    columns += [name(marks.time), name(marks.now)]
    there = f"{read} IS NOT NULL" if given.lines else "`record` IS NOT NULL"  # a blank line is no record, and no tombstone
    return f"{listed(columns, 'SELECT {}')}\nFROM {name(prefix + source.topic)}\nWHERE {there}"


def _fault(source: Source, given: Given, marks: Marks, own: _Names, ahead: int | None) -> str:
    """Return what is wrong with a record, NULL if nothing is."""
    read = name(own.read)
    malformed = f"{read}.`malformed`" if given.lines else f"COALESCE({read}.`malformed`, CASE WHEN {read} IS NULL THEN {text(_EMPTY)} END)"
    if source.event_time is None:
        return malformed
    time = _time(source, given, read)
    first, last = source.range_ms
    absent = f"no event time: {', '.join(sorted(columns_of(source.event_time))) or 'it'} cannot be read as one"
    beyond = f"event time is outside {_date(first)} to {_date(last)}"
    cases = [
        f"{malformed} IS NOT NULL THEN {malformed}",
        f"{time} IS NULL THEN {text(absent)}",
        f"{time} < TO_TIMESTAMP_LTZ({first}, 3) OR {time} >= TO_TIMESTAMP_LTZ({last}, 3) THEN {text(beyond)}",
    ]
    if _tells_future(given, ahead):
        cases.append(f"{time} <> {name(marks.time)} THEN {text(_FUTURE)}")
    return "CASE\n" + "".join(f"    WHEN {one}\n" for one in cases) + "  END"


def _tells_future(given: Given, ahead: int | None) -> bool:
    return given.arrived is not None and ahead is not None


def _judged(source: Source, given: Given, marks: Marks, own: _Names, reading: str) -> str:
    time, fault, before = name(marks.time), name(own.fault), f"HR_BEFORE({name(marks.time)}) OVER `so_far`"
    delay = f" - {duration(source.delay_ms)}" if source.delay_ms else ""
    columns = [name(column) for column in source.schema().names]
    columns += [fault, f"CASE WHEN {fault} IS NOT NULL THEN {name(own.record)} END AS {name(own.record)}"]
    columns += [f"{text(source.topic)} AS {name(marks.topic)}", name(marks.partition)]
    columns += [name(marks.offset) if given.offset else f"COUNT(*) OVER `so_far` - 1 AS {name(marks.offset)}"]
    if given.arrived:
        columns.append(name(marks.arrived))
    elif marks.arrived in marks.carried:
        columns.append(named("CAST(NULL AS TIMESTAMP_LTZ(3))", marks.arrived))
    columns += [f"COALESCE({before}, {_unmoved(source)}){delay} AS {name(marks.watermark)}", time, name(marks.now)]
    window = f"WINDOW `so_far` AS (PARTITION BY {name(marks.partition)} ORDER BY {name(marks.now)} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    return f"{listed(columns, 'SELECT {}')}\nFROM {name(reading)}\n{window}"


def _dead(pipeline: str, source: Source, given: Given, marks: Marks, own: _Names, judged: str, future: str | None) -> str:
    fault = name(own.fault)
    reason = f"CASE WHEN {future} THEN 'future' ELSE 'malformed' END" if future else "'malformed'"
    arrived = epoch_ms(name(marks.arrived)) if given.arrived else "CAST(NULL AS BIGINT)"
    parts = [text(pipeline), text(source.topic), name(marks.partition), name(marks.offset), reason, fault, arrived, name(own.record)]
    return f"SELECT {listed(parts, 'HR_DEAD_LETTER({})')} AS `json`\nFROM {name(judged)}\nWHERE {fault} IS NOT NULL"


def epoch_ms(time: str) -> str:
    """Return a time's milliseconds since the epoch, in SQL."""
    return sql_call(FUNCTIONS["EPOCH_MS"], "flink", [time], [TIMESTAMP])
