"""How one value is read: the rule of every engine, in plain Python.

JSON values come as `msgspec` gives them, numbers with a fraction or an exponent as `JsonNumber`, the text they had.
A value that is there and cannot be read as its type is `UNREADABLE`; absent and null are None.

- DOUBLE: the text, less ASCII white space around it, is a decimal number and finite.
- BIGINT: the same text, of integral value, within 64 bits: never truncated, never overflowing.
- STRING: text as it is; an integer's digits; another number's shortest text that reads back the same; compact JSON of a container.
- BOOLEAN: true and false, also as text of any case.
- TIMESTAMP_LTZ(3): ISO 8601 text, UTC unless it says otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Type

__all__ = ["UNREADABLE", "JsonNumber", "Unreadable", "bigint_of", "double_of", "read_text", "read_value"]

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHITE = " \t\n\r\x0b\x0c"
_HOUR = r"(?:[01]\d|2[0-3]):[0-5]\d"
_ISO = re.compile(rf"(\d{{4}}-\d\d-\d\d)[T ]({_HOUR}:[0-5]\d)(?:\.(\d{{1,9}}))?(Z|[+-]{_HOUR})?", re.ASCII)


class JsonNumber(str):
    """The text of a JSON number that has a fraction or an exponent."""

    __slots__ = ()


class Unreadable:
    """The one value that says: something is there and cannot be read as its type."""

    def __repr__(self) -> str:
        return "UNREADABLE"


UNREADABLE: Final = Unreadable()


def double_of(text: str) -> float | None:
    """Return the text as a finite DOUBLE, or None."""
    trimmed = text.strip(_WHITE)
    if not _DECIMAL.fullmatch(trimmed):
        return None
    value = float(trimmed)
    return value if math.isfinite(value) else None


def bigint_of(text: str) -> int | None:
    """Return the text as a BIGINT, or None if it is no number, not integral, or beyond 64 bits."""
    trimmed = text.strip(_WHITE)
    if not _DECIMAL.fullmatch(trimmed):
        return None
    try:
        number = Decimal(trimmed)
    except InvalidOperation:  # an exponent beyond Decimal's own: only zero is an integer then
        return None if Decimal(re.split("[eE]", trimmed)[0]) else 0
    if number and number.adjusted() > 18:
        return None
    whole = int(number)
    return whole if whole == number and -(2**63) <= whole < 2**63 else None


def _boolean_of(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.strip(_WHITE).lower())


def _timestamp_of(text: str) -> datetime | None:
    match = _ISO.fullmatch(text.strip(_WHITE))
    if not match:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:3]:0<3}{zone or '+00:00'}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_TEXT: dict[Type, Callable[[str], Any]] = {
    DOUBLE: double_of, BIGINT: bigint_of, BOOLEAN: _boolean_of, TIMESTAMP: _timestamp_of, STRING: lambda text: text,
}  # fmt: skip


def read_text(text: str, kind: Type) -> Any:  # noqa: ANN401
    """Return `text` read as the scalar type `kind`, or None where it cannot be."""
    return _TEXT[kind](text)


def read_value(value: Any, kind: Type) -> Any:  # noqa: ANN401
    """Return a JSON value read as `kind`: None if it is null, UNREADABLE if it cannot be read.

    Inside a MAP, what cannot be read is None.
    """
    if value is None:
        return None
    match kind.kind:
        case "MAP":
            if not isinstance(value, dict):
                return UNREADABLE
            element = kind.element
            if element == STRING:  # texts, of which most maps consist, are read as they are
                read = {key: inner if type(inner) is str else read_value(inner, element) for key, inner in value.items()}
            else:
                read = {key: read_value(inner, element) for key, inner in value.items()}
            return {key: None if inner is UNREADABLE else inner for key, inner in read.items()}
        case "ARRAY":
            items = [read_value(inner, kind.element) for inner in value] if isinstance(value, list) else [UNREADABLE]
            return UNREADABLE if UNREADABLE in items else items
        case "ROW":
            if not isinstance(value, dict):
                return UNREADABLE
            row = {name: read_value(value.get(name), inner) for name, inner in kind.fields()}
            return UNREADABLE if UNREADABLE in row.values() else row
    return _scalar(value, kind)


def _scalar(value: Any, kind: Type) -> Any:  # noqa: ANN401
    if isinstance(value, bool):
        return value if kind == BOOLEAN else ("true" if value else "false") if kind == STRING else UNREADABLE
    if isinstance(value, JsonNumber):
        if kind == STRING:
            number = double_of(value)
            return UNREADABLE if number is None else repr(number)
        read = read_text(value, kind) if kind in (DOUBLE, BIGINT) else None
    elif isinstance(value, int):
        read = str(value) if kind == STRING else read_text(str(value), kind) if kind in (DOUBLE, BIGINT) else None
    elif isinstance(value, str):
        read = read_text(value, kind)
    else:
        read = compact_json(value) if kind == STRING else None
    return UNREADABLE if read is None else read


def compact_json(value: Any) -> str:  # noqa: ANN401
    """Return a container's JSON with no white space, its numbers as STRING would have them."""
    return msgspec.json.encode(_plain(value)).decode()


def _plain(value: Any) -> Any:  # noqa: ANN401
    match value:
        case JsonNumber():
            if not _DECIMAL.fullmatch(value):
                return None  # NaN or infinity, which a typed column may hold
            number = double_of(value)
            return msgspec.Raw((value if number is None else repr(number)).encode())
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
    return value
