"""Values of a declared type, as an author's Python gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import isfinite
from sys import float_info
from typing import Any

import msgspec

from headrace.errors import ProcessError, near
from headrace.plan.schema import FIRST_MS, LAST_MS, TIMESTAMP, Schema, Type

__all__ = ["Accept", "Compact", "accept_of", "is_text", "key_code", "key_of", "moment_mend", "row_accept_of"]

Accept = Callable[[object], object]

# A key's values as bytes, by which keys are told apart and timers of one time are ordered, and back.
key_code: Callable[[Sequence[Any]], bytes] = msgspec.msgpack.Encoder().encode
key_of: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(list).decode

_LEAST, _MOST = -(2**63), 2**63 - 1
_MOST_OF_DOUBLE = int(float_info.max)


def accept_of(kind: Type) -> Accept:
    """Return the function that gives a value as one of the type, or raises ValueError; None is one of every type.

    A BIGINT is an int, and so is a TIMESTAMP_LTZ(3), in ms since the epoch, in the years 1 to 9999; a DOUBLE a finite float, or an int; a MAP and a
    ROW are dicts, an ARRAY is a list or what else has an order, so no set.
    """
    match kind.kind:
        case "BOOLEAN":
            return _boolean
        case "STRING":
            return _text
        case "DOUBLE":
            return _double
        case "TIMESTAMP_LTZ(3)":
            return _timestamp
        case "MAP":
            return _map_of(accept_of(kind.element), kind)
        case "ARRAY":
            return _list_of(accept_of(kind.element), kind)
        case "ROW":
            return _row_of(kind)
    return _whole


class Compact:
    """Writes values as MessagePack in no more memory than that takes: an encoder's own bytes keep the room that they grew in.

    It is of one thread.
    """

    def __init__(self) -> None:
        self._room = bytearray()
        self._write = msgspec.msgpack.Encoder().encode_into

    def __call__(self, value: object) -> bytes:
        """Return a value as bytes."""
        self._write(value, self._room)
        return bytes(self._room)


def _wrong(value: object, kind: object) -> ValueError:
    shown = repr(value)
    return ValueError(f"{shown if len(shown) < 80 else f'{shown[:77]}…'} is not a {kind}")


def is_text(value: object) -> bool:
    """Whether a value is a text that can be written: half a surrogate pair cannot."""
    if type(value) is not str:
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _boolean(value: object) -> object:
    if value is None or type(value) is bool:
        return value
    raise _wrong(value, "BOOLEAN")


def _text(value: object) -> object:
    if value is None or (type(value) is str and value.isascii()) or is_text(value):
        return value
    raise _wrong(value, "STRING")


def _whole(value: object) -> object:
    if value is None or (type(value) is int and _LEAST <= value <= _MOST):
        return value
    raise _wrong(value, "whole number of 64 bits")


def _timestamp(value: object) -> object:
    if value is None or (type(value) is int and FIRST_MS <= value <= LAST_MS):
        return value
    if type(value) is int:
        raise _wrong(value, f"{TIMESTAMP}: it lies outside the years 1 to 9999")
    raise _wrong(value, f"whole number of ms since the epoch{moment_mend(value)}")


def moment_mend(value: object) -> str:
    """Return how a moment that is no number becomes ms since the epoch; nothing for what is none."""
    if isinstance(value, datetime):
        return "; write round(moment.timestamp() * 1000)"
    return "; write round(datetime.fromisoformat(text).timestamp() * 1000)" if isinstance(value, str) else ""


def _double(value: object) -> object:
    if type(value) is float and isfinite(value):
        return value
    if value is None:
        return None
    if type(value) is int and abs(value) <= _MOST_OF_DOUBLE:
        return float(value)
    raise _wrong(value, "finite DOUBLE")


def _map_of(element: Accept, kind: Type) -> Accept:
    def accept(value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, Mapping) or not all(map(is_text, value)):
            raise _wrong(value, kind)
        return {key: element(one) for key, one in value.items()}

    return accept


def _list_of(element: Accept, kind: Type) -> Accept:
    def accept(value: object) -> object:
        if value is None:
            return None
        if isinstance(value, str | bytes | Mapping | set | frozenset) or not hasattr(value, "__iter__"):
            raise _wrong(value, kind)
        return [element(one) for one in value]

    return accept


def _row_of(kind: Type) -> Accept:
    fields = {name: accept_of(one) for name, one in kind.fields()}

    def accept(value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, Mapping) or not value.keys() <= fields.keys():
            raise _wrong(value, kind)
        return {name: one(value.get(name)) for name, one in fields.items()}

    return accept


def row_accept_of(schema: Schema, what: str) -> Callable[[object], list[object]]:
    """Return the function that gives a row's values in the schema's order, or raises ProcessError; `what` names the rows."""
    columns = [(field.name, accept_of(field.type), field.nullable) for field in schema.fields]
    known = frozenset(schema.names)

    def accept(row: object) -> list[object]:
        if not isinstance(row, Mapping):
            raise ProcessError(f"gives {row!r} as a row of {what}", fix="give a dict of columns")
        if not row.keys() <= known:
            loose = next(name for name in row if name not in known)
            raise ProcessError(f"gives {loose!r}, which {what} does not declare", fix=near(str(loose), known))
        values = []
        for name, one, nullable in columns:
            try:
                value = one(row.get(name))
            except ValueError as error:
                raise ProcessError(f"gives {name!r} of {what} off its type: {error}") from None
            if value is None and not nullable:
                raise ProcessError(f"gives no {name!r}, which {what} declares NOT NULL")
            values.append(value)
        return values

    return accept
