"""JSON from outside, which may be anything."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["NOT_JSON", "json_object"]

NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not JSON, not of the type that is expected, not UTF-8, or nested too deeply."""


def json_object(value: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a value is; None if it is none."""
    try:
        found = msgspec.json.decode(value)
    except NOT_JSON:
        return None
    return found if isinstance(found, dict) else None
