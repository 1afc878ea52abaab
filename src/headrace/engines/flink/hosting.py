"""A process in Flink SQL: the rows that it takes, what it is told besides, and what it gives, as views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headrace.engines.flink.block import Block, named
from headrace.engines.flink.expression import json_value
from headrace.engines.flink.intake import Intake, Marks, epoch_ms
from headrace.engines.flink.words import listed, name, text, type_name
from headrace.errors import PlanError
from headrace.plan.operators import Aggregate, Operator, Process, Regroup, Side, Source, Unnest, inputs_of, upstream
from headrace.plan.schema import TIMESTAMP, Schema

__all__ = ["EVER", "check_process", "given", "is_taken", "number_of", "rows_of", "told", "ways"]

EVER = "INTERVAL '73000' DAY(5)"
_ROW = "CAST({} AS ROW<`time` BIGINT, `source` INT, `partition` INT, `offset` BIGINT, `arrived` BIGINT, `row` STRING>)"


def check_process(process: Process) -> None:
    """Raise PlanError if a process cannot be hosted."""
    if any(isinstance(one, Aggregate | Regroup | Process | Side) for one in upstream(process.input)):
        raise PlanError("a process of rows that windows or processes make", fix="write them to a topic first, or run it on the embedded engine")
    if process.arrival:
        fix = "leave order= out, or run it on the embedded engine"
        raise PlanError(f"{process.name} takes records in the order of arrival, which a cluster does not keep", fix=fix)
    if process.drops_duplicates and any(isinstance(one, Unnest) for one in upstream(process.input)):
        raise PlanError("which records are duplicates cannot be told of rows behind unnest", fix="deduplicate before, or on the embedded engine")
    for given in inputs_of(process):
        for source in {id(one): one for one in upstream(given) if isinstance(one, Source)}.values():
            if ways(source, given) > 1:
                fix = "join what was parted in one stream, or run it on the embedded engine"
                raise PlanError(f"records of {source.topic!r} come to {process.name} by several ways, in no fixed order", fix=fix)


def ways(source: Source, operator: Operator) -> int:
    """Return on how many ways rows of a source come to an operator."""
    if operator is source:
        return 1
    return sum(ways(source, one) for one in inputs_of(operator))


def is_taken(marks: Marks) -> str:
    """Return whether a process takes a row: its partition has not passed its event time."""
    return f"{name(marks.time)} >= {name(marks.watermark)}"


def rows_of(process: Process, block: Block, marks: Marks, sources: tuple[Source, ...]) -> str:
    """Return the SELECT of a process's rows: key and record, both as the host reads them."""
    keys = [_plain(process.input.schema, key, block) for key in process.keys]
    key = named(listed([*keys, "NULL ON NULL"], "JSON_ARRAY({})").replace(", NULL ON NULL", " NULL ON NULL"), "key")
    time = epoch_ms(name(marks.time))
    return block.and_where(is_taken(marks)).selecting([key, named(_record(process.input, block, time, marks, sources), "record")])


def told(process: Process, block: Block | None, marks: Marks, intakes: Mapping[int, Intake], sources: tuple[Source, ...]) -> str:
    """Return the SELECT of what a process is told: the last event time of each source, at its end, and the records of a broadcast."""
    numbers = {id(source) for source in upstream(process) if isinstance(source, Source)}
    ends = [_end(marks, intakes[id(source)]) for source in sources if id(source) in numbers]
    if block is None:
        columns = "SELECT 'end' AS `kind`, `time`, '' AS `text`"
        return "\nUNION ALL\n".join(f"{columns}\nFROM {end}" for end in ends)
    assert process.broadcast is not None
    time, watermark = epoch_ms(name(marks.time)), epoch_ms(name(marks.watermark))
    due = f"CASE WHEN {is_taken(marks)} THEN {time} ELSE {watermark} END"
    records = block.selecting(["'' AS `key`", named(_record(process.broadcast, block, due, marks, sources), "record")])
    nothing = [f"CAST(NULL AS {kind})" for kind in ("INT", "INT", "BIGINT", "BIGINT", "STRING")]
    columns = f"SELECT '' AS `key`, {named(_ROW.format(listed(['`time`', *nothing], 'ROW({})')), 'record')}"
    return "\nUNION ALL\n".join([records, *(f"{columns}\nFROM {end}" for end in ends)])


def _end(marks: Marks, intake: Intake) -> str:
    """Return what gives the last event time of a source's records when there are no more."""
    latest = f"MAX({name(marks.time)}) FILTER (WHERE {intake.fault} IS NULL)"
    windows = f"TABLE(TUMBLE(TABLE {name(intake.judged)}, DESCRIPTOR({name(marks.time)}), {EVER}))"
    inner = f"SELECT {latest} AS `latest`\nFROM {windows}\nGROUP BY `window_start`, `window_end`"
    outer = f"SELECT {epoch_ms('`latest`')} AS `time`\nFROM {listed([inner], '({})')}"
    return listed([outer], "({})")


def _record(operator: Operator, block: Block, time: str, marks: Marks, sources: tuple[Source, ...]) -> str:
    number = "0"
    if len(sources) > 1:
        cases = "".join(f" WHEN {text(source.topic)} THEN {number}" for number, source in enumerate(sources))
        number = f"CASE {name(marks.topic)}{cases} END"
    arrived = epoch_ms(name(marks.arrived))
    pairs = (f"KEY {text(column)} VALUE {json_value(block.row[column])}" for column in operator.schema.names)
    row = listed(pairs, "JSON_OBJECT({})")
    return _ROW.format(listed([time, number, name(marks.partition), name(marks.offset), arrived, row], "ROW({})"))


def _plain(schema: Schema, column: str, block: Block) -> str:
    held = json_value(block.row[column])
    return epoch_ms(held) if schema[column].type == TIMESTAMP else held


def given(table: str, schema: Schema, output: int, key: str | None) -> str:
    """Return the SELECT of the rows of one output, read back from their JSON; with the text of their keys, if that is named."""
    columns = ", ".join(f"{name(field.name)} {type_name(field.type)}{'' if field.nullable else ' NOT NULL'}" for field in schema.fields)
    call = f"HR_READ(CAST(`json` AS BYTES), {text(columns)}) AS `read`"
    inner = f"SELECT {call}, `key`\nFROM {name(table)}\nWHERE `output` = {output}"
    wanted = [f"`read`.`row`.{name(column)} AS {name(column)}" for column in schema.names]
    return f"{listed([*wanted, *_keyed(key)], 'SELECT {}')}\nFROM {listed([inner], '({})')}"


def _keyed(key: str | None) -> Iterable[str]:
    return [named("`key`", key)] if key else []


def number_of(process: Process, output: str) -> int:
    """Return the number of an output."""
    return list(process.declared.outputs).index(output)
