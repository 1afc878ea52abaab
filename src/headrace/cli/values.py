"""Values of options: durations, and names with their values."""

from __future__ import annotations

import re

from headrace.errors import PlanError

__all__ = ["duration_ms", "pair_of"]

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "": 1000}
_MOST_MS = 365_000 * _UNITS_MS["d"]


def duration_ms(text: str, option: str) -> int:
    """Return a duration such as `30s`, `5m`, `7d` or bare seconds, in ms. Raises PlanError if it is none, or too long."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip())
    if not match:
        raise PlanError(f"{text!r} is not a duration", where=option, fix="write 30s, 5m, 2h, or bare seconds")
    found = float(match[1]) * _UNITS_MS[match[2]]
    if found > _MOST_MS:
        raise PlanError(f"{text[:40]!r} is too long", where=option, fix="write 365000d at most")
    return round(found)


def pair_of(text: str, option: str, example: str, form: str = "KEY=VALUE") -> tuple[str, str]:
    """Return the name and the value of a text such as `lags=3`. Raises PlanError if it is no such text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise PlanError(f"{text!r} is not {form}", where=option, fix=f"write {option} {example}")
    return name, value
