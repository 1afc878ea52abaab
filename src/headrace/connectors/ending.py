"""Ending tasks that run inside libraries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

__all__ = ["ended"]

_AGAIN_SECONDS = 0.1


async def ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: where a library calls `asyncio.wait_for`, Python 3.11 forgets a cancellation that comes together with the result.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()
