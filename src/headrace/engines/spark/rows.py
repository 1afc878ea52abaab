"""Rows as JSON, on their way out and between Spark and an author's process."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.engines.spark.prelude import FROM_MS
from headrace.engines.spark.words import listed, name, text, type_name
from headrace.plan.schema import BIGINT, TIMESTAMP, Schema, Type, array_of, map_of, row_of

__all__ = ["json", "plain_json", "read_json", "timed_row"]

_TIME = r"REGEXP_REPLACE(DATE_FORMAT({}, 'yyyy-MM-dd\'T\'HH:mm:ss.SSS\'Z\''), '\\.000Z$', 'Z')"
_MS = "UNIX_MILLIS({})"


def json(row: Mapping[str, str], schema: Schema) -> str:
    """Return the JSON of a row as topics have it: a time is its text."""
    return _object([(field.name, _timed(row[field.name], field.type, "hr_time_text({})", _TIME)) for field in schema.fields])


def plain_json(row: Mapping[str, str], schema: Schema) -> str:
    """Return the JSON of a row as a process is given it: a time is a number of ms."""
    return _object([(field.name, _timed(row[field.name], field.type, _MS, _MS)) for field in schema.fields])


def read_json(value: str, schema: Schema) -> str:
    """Return the row that a process gave as JSON, in which times are numbers yet."""
    row = type_name(_numbered(row_of({field.name: field.type for field in schema.fields})))
    return f"FROM_JSON({value}, {text(row)}, MAP('mode', 'FAILFAST'))"


def timed_row(row: str, schema: Schema) -> dict[str, str]:
    """Return the columns of a row that was read so."""
    return {field.name: _timed(f"{row}.{name(field.name)}", field.type, "hr_timestamp_3({})", FROM_MS) for field in schema.fields}


def _object(pairs: list[tuple[str, str]]) -> str:
    return f"TO_JSON({listed((f'{text(named)}, {value}' for named, value in pairs), 'NAMED_STRUCT({})')}, MAP('ignoreNullFields', 'false'))"


def _holds_time(kind: Type) -> bool:
    return kind == TIMESTAMP or any(map(_holds_time, kind.arguments))


def _numbered(kind: Type) -> Type:
    match kind.kind:
        case "ROW":
            return row_of({field: _numbered(inner) for field, inner in kind.fields()})
        case "ARRAY":
            return array_of(_numbered(kind.element))
        case "MAP":
            return map_of(kind.key, _numbered(kind.element))
    return BIGINT if kind == TIMESTAMP else kind


def _timed(value: str, kind: Type, outer: str, inside: str, depth: int = 0) -> str:
    """Return a value with its times in another form: `outer` makes it of one that stands by itself, `inside` of one within others."""
    if not _holds_time(kind):
        return value
    inner = f"v{depth}"
    match kind.kind:
        case "ROW":
            pairs = (f"{text(field)}, {_timed(f'{value}.{name(field)}', one, outer, inside, depth)}" for field, one in kind.fields())
            return f"CASE WHEN {value} IS NOT NULL THEN NAMED_STRUCT({', '.join(pairs)}) END"
        case "ARRAY":
            return f"TRANSFORM({value}, {inner} -> {_timed(inner, kind.element, outer, inside, depth + 1)})"
        case "MAP":
            return f"TRANSFORM_VALUES({value}, (k{depth}, {inner}) -> {_timed(inner, kind.element, outer, inside, depth + 1)})"
    return (inside if depth else outer).format(value)
