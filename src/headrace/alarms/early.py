"""Conditions that arrive before their alarm's definition. They are held, and looked at again until the definition comes.

The definitions of a pipeline are known to each tag, but nothing tells a tag that one has come. So a tag that holds a condition looks by itself: after
1, 3, 7, 15, 31 and 63 s, and then each minute.
"""

from __future__ import annotations

from headrace.alarms.condition import Memory, Seen

__all__ = ["MOST_HELD", "hold", "let_go", "next_look"]

MOST_HELD = 100  # conditions of a tag
_DOUBLING = 6


def hold(memory: Memory, time: int, arrived: int, seen: list[Seen]) -> None:
    """Hold it that the condition of an alarm without a definition became active."""
    memory.active, memory.kind, memory.looks = True, "custom", 0
    memory.since, memory.since_arrived, memory.seen = time, arrived, seen


def let_go(memory: Memory) -> None:
    """Hold the condition no more."""
    memory.active, memory.kind, memory.looks = False, "", None
    memory.since, memory.given, memory.seen = None, None, []


def next_look(memory: Memory) -> tuple[int, int] | None:
    """Return when an alarm is looked at again, by event time and by the wall clock; None if its condition is not held."""
    if memory.looks is None or memory.since is None:
        return None
    after = (2 ** (min(memory.looks, _DOUBLING - 1) + 1) - 1) * 1000 + max(0, memory.looks - _DOUBLING + 1) * 60_000
    return memory.since + after, memory.since_arrived + after
