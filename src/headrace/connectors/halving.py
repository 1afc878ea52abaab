"""Sending a batch: records that cannot be what the target writes are left out, and those that it refuses are found by halving."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from headrace.connectors.objects import fitting
from headrace.connectors.protocol import Record

__all__ = ["halved", "sent"]

_Part = TypeVar("_Part")


async def sent(
    records: Sequence[Record], make: Callable[[Record], _Part], write: Callable[[Sequence[_Part]], Awaitable[str | None]]
) -> dict[int, str]:
    """Write what `make` makes of records, as `halved` does, and return by their places why some cannot be made or are refused."""
    made, unfit = fitting(records, make)
    never = {place: str(error) for place, error in unfit}
    if made:
        await halved(made, write, never)
    return never


async def halved(parts: Sequence[tuple[int, _Part]], write: Callable[[Sequence[_Part]], Awaitable[str | None]], never: dict[int, str]) -> None:
    """Write the parts of a batch in their order, and note why the target refuses some of them, by their places.

    Of a batch that is refused the halves are written, until there is one part. So parts are written again: that must change nothing.

    Parameters
    ----------
    parts
        What is written, each with its place in the batch.
    write
        Writes parts, and returns why they are refused; None if they are written.
    never
        Is given the place and the reason of each refused part.
    """
    refused = await write([part for _, part in parts])
    if refused is None:
        return
    if len(parts) == 1:
        never[parts[0][0]] = refused
        return
    half = len(parts) // 2
    await halved(parts[:half], write, never)
    await halved(parts[half:], write, never)
