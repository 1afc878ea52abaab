"""A process in Flink SQL: the rows that it takes, what it is told besides, and what it gives, as views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from headrace.engines.flink.block import Block, named
from headrace.engines.flink.expression import Item, json_value
from headrace.engines.flink.intake import Intake, Marks, epoch_ms
from headrace.engines.flink.words import listed, name, text, type_name
from headrace.kernels.keyed.schedule import RECORDS
from headrace.plan.graph import Node
from headrace.plan.operators import KeyedInput, Operator, Process, Source
from headrace.plan.schema import TIMESTAMP, Schema

__all__ = ["given", "is_taken", "json_array", "number_of", "plain", "rows_of", "rows_of_input", "told", "ways"]

_FORM = {"time": "BIGINT", "source": "INT", "partition": "INT", "offset": "BIGINT", "arrived": "BIGINT", "row": "STRING", "order": "STRING"}
_ROW = f"CAST({{}} AS ROW<{', '.join(f'`{field}` {kind}' for field, kind in _FORM.items())}>)"
# of a process with several inputs
_NUMBERED = f"CAST({{}} AS ROW<{', '.join(f'`{field}` {kind}' for field, kind in {**_FORM, 'input': 'INT'}.items())}>)"


def ways(topic: str, node: Node[Operator]) -> int:
    """Return on how many ways rows of a topic come to a node."""
    found: dict[Node[Operator], int] = {}
    for one in node.upstream():
        source = one.operator
        found[one] = int(source.topic == topic) if isinstance(source, Source) else sum(found[given.node] for given in one.inputs)
    return found[node]


def is_taken(marks: Marks) -> str:
    """Return whether a process takes a row: its partition has not passed its event time."""
    return f"{name(marks.time)} >= {name(marks.watermark)}"


def rows_of(process: Process, block: Block, marks: Marks, sources: tuple[Source, ...]) -> str:
    """Return the SELECT of a process's rows: key and record, both as the host reads them."""
    keys = [plain(process.record_schema, key, block.row[key]) for key in process.keys]
    key = named(json_array(keys), "key")
    time, order = name(marks.time), _order(block, marks)
    if process.arrival:
        order = f"CAST({epoch_ms(f'CURRENT_WATERMARK({time})')} AS STRING)"  # it is handled at once, behind the timers that this has passed
    elif marks.watermark in block.hidden:
        block = block.and_where(is_taken(marks))
    number = RECORDS if process.inputs else None
    return block.selecting([key, named(_record(process.record_schema, block, epoch_ms(time), order, marks, sources, number), "record")])


def rows_of_input(process: Process, one: KeyedInput, block: Block, marks: Marks, sources: tuple[Source, ...]) -> str:
    """Return the same of another input of the process."""
    time, order = name(marks.time), _order(block, marks)
    due = epoch_ms(time)
    if process.arrival:
        order = f"CAST({epoch_ms(f'CURRENT_WATERMARK({time})')} AS STRING)"
    elif one.late == "take":
        due = _due(marks)
    elif marks.watermark in block.hidden:
        block = block.and_where(is_taken(marks))
    keys = [plain(one.schema, key, block.row[key]) for key in one.keys]
    number = RECORDS + 1 + process.inputs.index(one)
    return block.selecting([named(json_array(keys), "key"), named(_record(one.schema, block, due, order, marks, sources, number), "record")])


def _due(marks: Marks) -> str:
    """Return when a record is due that is never late."""
    return f"CASE WHEN {is_taken(marks)} THEN {epoch_ms(name(marks.time))} ELSE {epoch_ms(name(marks.watermark))} END"


def told(
    process: Node[Process],
    block: Block | None,
    marks: Marks,
    intakes: Mapping[str, Intake],
    sources: tuple[Source, ...],
    topics: frozenset[str],
    times: Sequence[str] = (),
) -> str:
    """Return the SELECT of what a process is told: the last event time of each source, at its end, and the records of a broadcast.

    `topics` are those of the sources that it waits for; `times` are views of the times of derived rows that it takes: no source may have them.
    """
    feeding = [intakes[source.topic] for source in sources if source.topic in topics]
    ends = [_end(marks, intake.judged, intake.fault) for intake in feeding]
    ends += [_end(marks, view) for view in times]
    if block is None:
        columns = "SELECT 'end' AS `kind`, `time`, '' AS `text`"
        return "\nUNION ALL\n".join(f"{columns}\nFROM {end}" for end in ends)
    assert process.operator.broadcast_schema is not None
    due = _due(marks) if marks.watermark in block.hidden else epoch_ms(name(marks.time))
    records = block.selecting(
        ["'' AS `key`", named(_record(process.operator.broadcast_schema, block, due, _order(block, marks), marks, sources), "record")]
    )
    nothing = [f"CAST(NULL AS {kind})" for field, kind in _FORM.items() if field != "time"]
    columns = f"SELECT '' AS `key`, {named(_ROW.format(listed(['`time`', *nothing], 'ROW({})')), 'record')}"
    return "\nUNION ALL\n".join([records, *(f"{columns}\nFROM {end}" for end in ends)])


def _end(marks: Marks, view: str, fault: str | None = None) -> str:
    """Return what gives the last event time of a view's rows when there are no more."""
    latest = f"MAX({name(marks.time)})" + (f" FILTER (WHERE {fault} IS NULL)" if fault else "")
    windows = f"TABLE(TUMBLE(TABLE {name(view)}, DESCRIPTOR({name(marks.time)}), {marks.ever}))"
    inner = f"SELECT {latest} AS `latest`\nFROM {windows}\nGROUP BY `window_start`, `window_end`"
    outer = f"SELECT {epoch_ms('`latest`')} AS `time`\nFROM {listed([inner], '({})')}"
    return listed([outer], "({})")


def _order(block: Block, marks: Marks) -> str:
    """Return what orders rows of one place, in SQL."""
    orders = [block.hidden[mark] for mark in (marks.way, marks.order) if mark in block.hidden]
    return "CAST(NULL AS STRING)" if not orders else orders[0] if len(orders) == 1 else f"CONCAT({', '.join(orders)})"


def _record(schema: Schema, block: Block, time: str, order: str, marks: Marks, sources: tuple[Source, ...], of_input: int | None = None) -> str:
    """Return a row as a record, with the number of its input if there are several; those that windows and processes give are of no place."""
    place = [f"CAST(NULL AS {_FORM[field]})" for field in ("source", "partition", "offset", "arrived")]
    if marks.partition in block.hidden:
        number = "0"
        if len(sources) > 1:
            cases = "".join(f" WHEN {text(source.topic)} THEN {number}" for number, source in enumerate(sources))
            number = f"CASE {name(marks.topic)}{cases} END"
        place = [number, name(marks.partition), name(marks.offset), epoch_ms(name(marks.arrived))]
    pairs = (f"KEY {text(column)} VALUE {json_value(block.row[column])}" for column in schema.names)
    fields = [time, *place, listed(pairs, "JSON_OBJECT({})"), order]
    return _ROW.format(listed(fields, "ROW({})")) if of_input is None else _NUMBERED.format(listed([*fields, str(of_input)], "ROW({})"))


def plain(schema: Schema, column: str, held: Item) -> str:
    """Return a key as a process sees it, in SQL: a time in ms."""
    value = json_value(held)
    return epoch_ms(value) if schema[column].type == TIMESTAMP else value


def json_array(values: Iterable[str]) -> str:
    """Return the values as JSON, in SQL."""
    return listed([*values, "NULL ON NULL"], "JSON_ARRAY({})").replace(", NULL ON NULL", " NULL ON NULL")


def given(table: str, schema: Schema, output: int, kept: Mapping[str, str]) -> str:
    """Return the SELECT of the rows of one output, read back from their JSON; with other columns, by name, of all that is given."""
    columns = ", ".join(f"{name(field.name)} {type_name(field.type)}{'' if field.nullable else ' NOT NULL'}" for field in schema.fields)
    call = f"HR_READ(CAST(`json` AS BYTES), {text(columns)}) AS `read`"
    others = [f", {named(made, column)}" for column, made in kept.items()]
    inner = f"SELECT {call}{''.join(others)}\nFROM {name(table)}\nWHERE `output` = {output}"
    wanted = [f"`read`.`row`.{name(column)} AS {name(column)}" for column in schema.names]
    return f"{listed([*wanted, *map(name, kept)], 'SELECT {}')}\nFROM {listed([inner], '({})')}"


def number_of(process: Process, output: str) -> int:
    """Return the number of an output."""
    return list(process.declared.outputs).index(output)
