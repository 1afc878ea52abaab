"""Records as JSON objects, for targets that write their fields. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.protocol import Record

__all__ = ["Unfit", "fitting", "object_of"]

_Made = TypeVar("_Made")

_decode = msgspec.json.Decoder().decode


class Unfit(Exception):
    """A record cannot be what the target writes: the reason."""


def object_of(value: bytes) -> dict[str, Any]:
    """Return the fields of a record. Raises Unfit if it is not a JSON object."""
    try:
        content = _decode(value)
    except NOT_JSON:
        raise Unfit("is not JSON") from None
    if type(content) is not dict:
        raise Unfit("is not a JSON object")
    return content


def fitting(records: Sequence[Record], make: Callable[[Record], _Made]) -> tuple[list[tuple[int, _Made]], list[tuple[int, Unfit]]]:
    """Return what `make` makes of records, and why others cannot be that, each with its place among them."""
    made, unfit = list[tuple[int, _Made]](), list[tuple[int, Unfit]]()
    for place, record in enumerate(records):
        try:
            made.append((place, make(record)))
        except Unfit as error:
            unfit.append((place, error))
    return made, unfit
