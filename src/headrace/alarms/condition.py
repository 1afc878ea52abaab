"""Whether the condition of an alarm is active: limits with deadband, k of n, and what else is watched on one tag."""

from __future__ import annotations

import msgspec

from headrace.alarms.definition import Definition
from headrace.alarms.machine import Alarm

__all__ = ["Memory", "active_by"]


class Memory(msgspec.Struct, omit_defaults=True):
    """What is retained of one alarm and its condition.

    Attributes
    ----------
    alarm
        The alarm.
    active
        Whether the condition is active, before delays.
    since, since_arrived
        When it became so, while a delay runs: event time, and the wall clock.
    bits
        Which of the last readings were beyond the limit, the latest in the lowest bit.
    at, value
        The reading that the next one is compared with: the last one (rate of change), or the first of an unchanged value (frozen).
    given
        The value with which a rule last found the condition of a custom alarm.
    version
        The version of the definition at which the occurrence began.
    transitions
        How many transitions and refusals were written.
    raises, chattering, stale
        The times of the last raises; whether the alarm chatters; whether this occurrence was found to be stale.
    """

    alarm: Alarm = msgspec.field(default_factory=Alarm)
    active: bool = False
    since: int | None = None
    since_arrived: int = 0
    bits: int = 0
    at: int | None = None
    value: float = 0.0
    given: float | None = None
    version: str = ""
    transitions: int = 0
    raises: list[int] = msgspec.field(default_factory=list)
    chattering: bool = False
    stale: bool = False


def active_by(definition: Definition, memory: Memory, value: float | None, time: int) -> bool | None:
    """Return whether a condition is active at a reading; None if the reading cannot judge it.

    Parameters
    ----------
    definition
        What is watched.
    memory
        What is retained of it, which is brought up to the reading.
    value
        The reading's value; None if its quality is bad.
    time
        The reading's event time, ms.
    """
    if definition.kind == "no_data":
        return False
    if definition.kind == "custom":
        return None
    beyond = value is None if definition.kind == "bad_quality" else None if value is None else _beyond(definition, memory, value, time)
    if beyond is None or definition.n == 1:
        return beyond
    memory.bits = ((memory.bits << 1) | beyond) & ((1 << definition.n) - 1)
    return memory.bits.bit_count() >= definition.k


def _beyond(definition: Definition, memory: Memory, value: float, time: int) -> bool | None:
    """Return whether a value is beyond the limit: once the condition is active, beyond the limit less the deadband."""
    within = definition.deadband if memory.active else 0.0
    limit = definition.limit or 0.0
    match definition.kind:
        case "HH" | "H":
            return value > limit - within
        case "L" | "LL":
            return value < limit + within
        case "deviation":
            return abs(value - (definition.setpoint or 0.0)) > limit - within
        case "rate_of_change":
            return _too_fast(memory, value, time, limit - within)
        case "frozen":
            return _unchanged(definition, memory, value, time)
    return value != definition.expected


def _too_fast(memory: Memory, value: float, time: int, limit: float) -> bool | None:
    if memory.at == time:
        return None
    before, memory.at = memory.at, time
    change, memory.value = abs(value - memory.value), value
    return None if before is None else change * 1000 / (time - before) > limit


def _unchanged(definition: Definition, memory: Memory, value: float, time: int) -> bool:
    if memory.at is None or abs(value - memory.value) > definition.deadband:
        memory.at, memory.value = time, value
    return time - memory.at >= round((definition.after or 0.0) * 1000)
