"""Whether the condition of an alarm is active: limits with deadband, k of n, and what else is watched on one tag."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from headrace.alarms.definition import Definition
from headrace.alarms.machine import Alarm

__all__ = ["Memory", "Seen", "active_by", "evidence_of", "note", "settle_evidence"]

_MOST_SEEN = 100


class Seen(NamedTuple):
    """A record that counts for a condition: where it is, and its event time."""

    topic: str
    partition: int
    offset: int
    time: int


class Memory(msgspec.Struct, omit_defaults=True):
    """The state of one alarm and its condition.

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
    kind
        The kind of the condition that `bits`, `at`, `since`, `given` and `seen` are of; empty where nothing is retained of it.
    given
        The value with which a rule last found the condition of a custom alarm.
    version
        The version of the definition at which the occurrence began.
    transitions
        How many transitions and refusals were written.
    raises, chattering, stale
        The times of the last raises; whether the alarm chatters; whether this occurrence was found to be stale.
    seen
        The records that count for the next transition, where evidence is asked for: at most 100, the first one and the latest.
    looks
        How often it was looked whether the alarm has a definition, while its condition is held without one; None if it is not.
    """

    alarm: Alarm = msgspec.field(default_factory=Alarm)
    active: bool = False
    since: int | None = None
    since_arrived: int = 0
    bits: int = 0
    at: int | None = None
    value: float = 0.0
    kind: str = ""
    given: float | None = None
    version: str = ""
    transitions: int = 0
    raises: list[int] = msgspec.field(default_factory=list)
    chattering: bool = False
    stale: bool = False
    seen: list[Seen] = msgspec.field(default_factory=list)
    looks: int | None = None

    def watch(self, kind: str) -> None:
        """Take the kind of the definition, and forget what is retained of a condition of another kind."""
        if self.kind and self.kind != kind:
            self.active, self.since, self.bits, self.at, self.value, self.given, self.seen = self.alarm.active, None, 0, None, 0.0, None, []
        self.kind = kind

    def forget_kind(self) -> None:
        """Forget the kind if nothing is retained of the condition."""
        if self.kind == "custom" and self.active:
            return  # no reading will say it again
        if not (self.bits or self.seen) and self.active == self.alarm.active and self.since is None and self.at is None and self.given is None:
            self.kind = ""


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


def note(definition: Definition, memory: Memory, seen: Seen, *, active: bool) -> None:
    """Retain a record by which the condition was found to be active or not, as far as it counts for the next transition."""
    if definition.kind == "frozen" and definition.n == 1:
        del memory.seen[1:]  # the first reading and the last: a value that stays the same for hours would have many
    memory.seen.append(seen)
    if active == memory.alarm.active:
        settle_evidence(definition, memory)
    elif len(memory.seen) > _MOST_SEEN:
        del memory.seen[1]


def settle_evidence(definition: Definition, memory: Memory) -> None:
    """Forget the records that no longer count: no delay runs, the condition is as the alarm has it."""
    kept = 0
    if definition.n > 1:
        # The readings of the last n from the first one that speaks for a change; a reading's bit is 1 if it was beyond the limit.
        every = (1 << min(definition.n, len(memory.seen))) - 1
        kept = ((~memory.bits if memory.alarm.active else memory.bits) & every).bit_length()
    if definition.kind == "rate_of_change":
        kept += 1
    elif definition.kind == "frozen" and not memory.alarm.active and memory.at is not None:
        kept = max(kept, sum(one.time >= memory.at for one in memory.seen))
    del memory.seen[: max(0, len(memory.seen) - kept)]


def evidence_of(seen: list[Seen]) -> dict[str, object] | None:
    """Return records as the column `evidence` has them: those of the last one's topic."""
    if not seen:
        return None
    mine = [one for one in seen if one.topic == seen[-1].topic]
    window = {"start": mine[0].time, "end": mine[-1].time}
    return {"topic": seen[-1].topic, "records": [[one.partition, one.offset] for one in mine], "window": window}


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
