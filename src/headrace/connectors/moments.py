"""Times in records: numbers, numbers as texts, and texts in ISO 8601. Sans-IO."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

__all__ = ["NS", "nanoseconds"]

NS = {"ms": 1_000_000, "s": 1_000_000_000, "us": 1_000, "ns": 1, "iso": 0}
"""How many ns each unit of time is; `iso`: numbers are no times."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9}))?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,25}(?:\.\d{1,20})?", re.ASCII)


def nanoseconds(given: Any, factor: int) -> int | None:  # noqa: ANN401  (a value of JSON)
    """Return a time in ns since 1970; None if it is none. A fraction of a ns is rounded; without an offset it is UTC.

    Parameters
    ----------
    given
        A value of JSON.
    factor
        How many ns a number counts; 0: a number is no time.
    """
    if type(given) is int and factor:
        return given * factor
    text = repr(given) if type(given) is float else given
    if type(text) is not str:
        return None
    if type(given) is float or _NUMBER.fullmatch(text):
        if not factor:
            return None
        return round(Decimal(text) * factor)
    if (match := _ISO.fullmatch(text)) is None:
        return None
    try:
        moment = datetime.fromisoformat(match[1].upper() + (match[3] or "Z").upper())
        since = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None
    return since * 1000 + int((match[2] or "").ljust(9, "0"))
