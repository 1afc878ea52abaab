"""The limits of what waits for a target, and what is dropped beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["POLICIES", "Buffer", "Policy", "Unread"]

Policy = Literal["oldest", "newest", "reduce"]
POLICIES: Mapping[Policy, str] = {
    "oldest": "the oldest are dropped",
    "newest": "the newest are dropped",
    "reduce": "they are reduced to the last of each key and interval",
}
Unread = Mapping[int, tuple[int, int]]
"""Of each partition the next offset to be read, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """How many records may wait for a target, and what is dropped when there are more.

    Attributes
    ----------
    most
        The limit, in records of all partitions. The batch that is being sent is not dropped, nor the first one after a start: the target
        may have it already.
    policy
        `oldest`: the oldest go. `newest`: those that came while the buffer was full go. `reduce`: the last record of each key in each
        interval stays, by arrival. Records without a key all stay.
    reduce_ms
        The shortest interval of `reduce`. It is lengthened by the power of two that is at least the excess: 8 times for a backlog of 5
        times the limit.
    """

    most: int
    policy: Policy = "oldest"
    reduce_ms: int = 1000
