"""Records as JSON objects, for targets that write their fields. Sans-IO."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Unfit", "object_of"]

_decode = msgspec.json.Decoder().decode


class Unfit(Exception):
    """A record cannot be what the target writes: the reason."""


def object_of(value: bytes) -> dict[str, Any]:
    """Return the fields of a record. Raises Unfit if it is not a JSON object."""
    try:
        content = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unfit("is not JSON") from None
    if type(content) is not dict:
        raise Unfit("is not a JSON object")
    return content
