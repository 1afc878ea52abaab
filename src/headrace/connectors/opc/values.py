"""From values of OPC UA to values of readings."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from asyncua import ua

__all__ = ["GOOD", "OVERFLOW", "SEMANTICS_CHANGED", "Plain", "microseconds", "plain"]

GOOD = 0
OVERFLOW = 0x480
"""In a StatusCode: changes between two publish responses were lost, because the queue of the monitored item was full."""

SEMANTICS_CHANGED = 0x4000
"""In a StatusCode: properties of the variable, such as its unit, are others than before."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Plain = float | int | str | bool | None

_READERS: dict[type, Callable[[Any], Plain]] = {
    datetime: lambda value: value.isoformat().replace("+00:00", "Z"),
    UUID: str,
    bytes: lambda value: base64.b64encode(value).decode(),
    ua.NodeId: lambda value: value.to_string(),
    ua.ExpandedNodeId: lambda value: value.to_string(),
    ua.QualifiedName: lambda value: value.to_string(),
    ua.LocalizedText: lambda value: value.Text,
    ua.StatusCode: lambda value: value.value,
    ua.XmlElement: lambda value: value.Value,
}


def plain(value: object) -> Plain:
    """Return a scalar as a number, a text, a truth value or None. Raises TypeError if it is an array or a structure."""
    kind = type(value)
    if kind in {float, int, str, bool} or value is None:
        return value  # type: ignore[return-value]
    read = _READERS.get(kind) or next((one for known, one in _READERS.items() if isinstance(value, known)), None)
    if read is not None:
        return read(value)
    if isinstance(value, (bool, int, float, str)):  # an enumeration
        return value.value if hasattr(value, "value") else value
    raise TypeError("an array" if isinstance(value, list) else "a structure")


def microseconds(stamp: datetime | None) -> int | None:
    """Return a timestamp in µs since the epoch; None if there is none."""
    if stamp is None or stamp.year < 1900:
        return None
    past = stamp - (_EPOCH if stamp.tzinfo is not None else _EPOCH.replace(tzinfo=None))
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds
