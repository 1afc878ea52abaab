"""Conditions that arrive before their alarm's definition. They are held, and looked at again until the definition comes.

The definitions of a pipeline are known to each tag, but nothing tells a tag that one has come. So a tag that holds a condition looks by itself: after
1, 3, 7, 15, 31 and 63 s, and then with each minute of the wall clock. Where event time alone counts, as over files, years may pass in a second: there
the time between two looks doubles up to an hour, and then it looks with each hour. Conditions of a tag that are held for long share their looks.
"""

from __future__ import annotations

from headrace.alarms.condition import Memory, Seen

__all__ = ["MOST_HELD", "hold", "let_go", "look", "next_look"]

MOST_HELD = 100  # conditions of a tag
_BY_CLOCK_MS, _BY_TIME_MS = 60_000, 3_600_000  # between two looks at most


def hold(memory: Memory, time: int, arrived: int, seen: list[Seen]) -> None:
    """Hold it that the condition of an alarm without a definition became active."""
    memory.active, memory.kind, memory.looks = True, "custom", 0
    memory.since, memory.since_arrived, memory.seen = time, arrived, seen


def let_go(memory: Memory) -> None:
    """Hold the condition no more."""
    memory.active, memory.kind, memory.looks = False, "", None
    memory.since, memory.given, memory.seen = None, None, []


def next_look(memory: Memory, *, by_time: bool) -> tuple[int, int] | None:
    """Return when an alarm is looked at again, by event time and by the wall clock; None if its condition is not held."""
    if memory.looks is None or memory.since is None:
        return None
    return _look_at(memory.since, memory.looks, by_time=by_time), _look_at(memory.since_arrived, memory.looks, by_time=by_time)


def look(memory: Memory, now: int, *, by_time: bool) -> None:
    """Note that an alarm whose condition is held was looked at: the next look is after `now`, of event time or of the wall clock."""
    start, most = (memory.since or 0, _BY_TIME_MS) if by_time else (memory.since_arrived, _BY_CLOCK_MS)
    doubled = start + _doubled_ms(most)
    memory.looks = _doublings(most) + now // most - doubled // most if now >= doubled else ((now - start) // 1000 + 1).bit_length() - 1


def _look_at(start: int, looks: int, *, by_time: bool) -> int:
    """Return the time of the look after so many."""
    most = _BY_TIME_MS if by_time else _BY_CLOCK_MS
    if looks < (doublings := _doublings(most)):
        return start + ((1 << looks + 1) - 1) * 1000
    return ((start + _doubled_ms(most)) // most + 1 + looks - doublings) * most


def _doublings(most: int) -> int:
    """Return how many looks there are at the times that double: 1, 3, 7 s, and so on."""
    return (most // 1000).bit_length()


def _doubled_ms(most: int) -> int:
    return ((1 << _doublings(most)) - 1) * 1000
