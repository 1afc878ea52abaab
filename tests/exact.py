"""Values in a form in which they can be compared to the last bit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def shown(value: Any) -> Any:
    """Return a value in a form that is equal only for equal types, bits and order; times as ms since the epoch."""
    match value:
        case datetime():
            return "ms", (value - EPOCH) // timedelta(milliseconds=1)
        case dict():
            return [(key, shown(inner)) for key, inner in value.items()]
        case list():
            return [shown(inner) for inner in value]
        case float():
            return repr(value)
    return type(value).__name__, value
