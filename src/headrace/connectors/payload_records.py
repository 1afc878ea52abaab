"""What a message becomes: records, and those that cannot be one with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from headrace.connectors.address import Address

__all__ = ["MAX_BYTES", "Made", "Shape", "UnfitError", "limit_of", "too_long"]

MAX_BYTES = 1 << 20
_CUT_BYTES = 65_536


class Made(NamedTuple):
    """A record made of a message, with its key; or what came, and why it cannot be a record."""

    value: bytes
    key: str | None = None
    malformed: str | None = None


Shape = Callable[[str, bytes, int], Sequence[Made]]
"""Returns what a message becomes, of its topic, its payload and the time of its arrival (ms since the epoch)."""


def limit_of(address: Address, default: int = MAX_BYTES) -> int:
    """Return how many bytes a payload may have, by the parameter `max_bytes`."""
    return int(address.number("max_bytes", default, 1, 256 << 20))


def too_long(topic: str, payload: bytes, size: int, limit: int) -> Made:
    """Return what a payload of too many bytes becomes, of which at least the first are there."""
    return Made(payload[: min(_CUT_BYTES, limit)], None, f"{topic}: has {size:,} bytes, more than {limit:,}; the first of them are here")


class UnfitError(Exception):
    """A payload cannot be a record."""
