"""One record read by the rule, in plain Python: what the vectorised path must equal, and where it sends what it doubts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.kernels.reading.rules import UNREADABLE, JsonNumber, read_value
from headrace.plan.schema import STRING, Schema, Type, map_of

__all__ = ["Malformed", "json_object", "read_fields", "read_record", "read_texts", "shown"]

TEXTS = map_of(STRING, STRING)

_decode_texts = msgspec.json.Decoder(dict[str, str]).decode
_decode = msgspec.json.Decoder(float_hook=JsonNumber).decode


@dataclass(frozen=True, slots=True)
class Malformed:
    """Why a record cannot be read."""

    detail: str


_TOO_DEEP = Malformed("nested too deeply to read")


def json_object(raw: str | bytes) -> dict[str, Any] | Malformed:
    """Return the JSON object that the record is."""
    try:
        value = _decode(raw.decode() if isinstance(raw, bytes) else raw)
    except UnicodeDecodeError as error:
        return Malformed(f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}")
    except RecursionError:
        return _TOO_DEEP
    except (msgspec.DecodeError, ValueError) as error:
        return Malformed(f"not JSON: {_reason(str(error))}")
    return value if isinstance(value, dict) else Malformed(f"not a JSON object but {_kind(value)}")


def _reason(text: str) -> str:
    return "it ends too early or holds a lone surrogate" if text == "Input data was truncated" else text.removeprefix("JSON is malformed: ")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case JsonNumber() | int() | float():
            return "a number"
        case str():
            return "a text"
    return "an array"


def read_record(raw: str | bytes, schema: Schema, rest: str | None = None, rest_type: Type = TEXTS) -> dict[str, Any] | Malformed:
    """Return the record's values by column, `rest` among them."""
    found = json_object(raw)
    try:
        return found if isinstance(found, Malformed) else read_fields(found, schema, rest, rest_type)
    except RecursionError:
        return _TOO_DEEP


def read_fields(found: dict[str, Any], schema: Schema, rest: str | None, rest_type: Type) -> dict[str, Any] | Malformed:
    """Return the values of a JSON object's fields by column."""
    row = {}
    for field in schema.fields:
        value = found.get(field.name)
        row[field.name] = read = read_value(value, field.type)
        if read is UNREADABLE:
            return Malformed(f"field {field.name!r} is not a {field.type.kind}: {shown(value)}")
    if rest is not None:
        others = {name: value for name, value in found.items() if value is not None and name not in row}
        row[rest] = read_value(others, rest_type)
    return row


def read_texts(raw: str, schema: Schema, rest: str) -> dict[str, Any] | None:
    """Return what `read_record` does for an object of texts alone, under columns that are texts; None if the record is another one."""
    try:
        found = _decode_texts(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    row: dict[str, Any] = {field.name: found.pop(field.name, None) for field in schema.fields}
    row[rest] = found
    return row


def shown(value: object) -> str:
    """Return a value as an error shows it, cut short if it is long."""
    text = value if isinstance(value, JsonNumber) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
