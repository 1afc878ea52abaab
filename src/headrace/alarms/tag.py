"""All alarms of one tag: readings, commands and the passing of time go in, rows come out.

Theory of operation
-------------------
A reading of the tag moves event time; what was due before it, such as the end of an on-delay, happens first, with its own time. When readings
stop, time passes by the wall clock: a delay that would have ended 3 s after the last reading ends 3 s after its arrival. So each thing that is
due has two times, one of each axis. What an operator waits for (a shelve, an escalation, silence) goes by the wall clock alone, unless there is
none: in a run over files, and where only event time is to count.

Nothing here reads a clock or waits: `Tag` is made for one call, with what is retained and two times.

Most readings change nothing. So the text that is retained of an alarm begins with a mark: at rest, it is inactive and nothing is due, and a
reading within the limits passes it by unread. Another mark says that the alarm has no definition yet, and its condition is held until there is one.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.alarms.condition import Memory, Seen, active_by, evidence_of, note, settle_evidence
from headrace.alarms.definition import Definition
from headrace.alarms.early import MOST_HELD, hold, let_go, look, next_look
from headrace.alarms.machine import Event, Transition, apply

__all__ = ["CURRENT", "EVIDENCE", "FOREVER", "NUISANCE", "OLDER", "TRANSITION", "Command", "Last", "Row", "Steady", "Tag"]

Row = tuple[str, dict[str, Any]]

TRANSITION = {
    "event_id": "STRING NOT NULL",
    "alarm_id": "STRING NOT NULL",
    "definition": "STRING NOT NULL",
    "version": "STRING",
    "asset": "STRING NOT NULL",
    "kind": "STRING",
    "priority": "BIGINT",
    "event": "STRING NOT NULL",
    "from": "STRING NOT NULL",
    "to": "STRING NOT NULL",
    "time": "BIGINT NOT NULL",
    "arrived": "BIGINT NOT NULL",
    "value": "DOUBLE",
    "limit": "DOUBLE",
    "by": "STRING NOT NULL",
    "reason": "STRING",
    "sequence": "BIGINT NOT NULL",
    "transition": "BIGINT",
}
# The records that moved an alarm: their event times, and where they are, each as [partition, offset].
EVIDENCE = {"evidence": "ROW<topic STRING, records ARRAY<ARRAY<BIGINT>>, `window` ROW<`start` BIGINT, `end` BIGINT>>"}
CURRENT = {
    "alarm_id": "STRING NOT NULL",
    "definition": "STRING NOT NULL",
    "asset": "STRING NOT NULL",
    "kind": "STRING",
    "priority": "BIGINT",
    "state": "STRING NOT NULL",
    "active": "BOOLEAN NOT NULL",
    "sequence": "BIGINT NOT NULL",
    "time": "BIGINT NOT NULL",
    "arrived": "BIGINT NOT NULL",
    "value": "DOUBLE",
    "limit": "DOUBLE",
    "by": "STRING NOT NULL",
    "reason": "STRING",
    "until": "BIGINT",
    "class": "STRING",
    "consequence": "STRING",
    "action": "STRING",
    "time_to_respond": "DOUBLE",
    "attack": "ARRAY<STRING>",
    "attack_version": "STRING",
    "ne107": "STRING",
}
NUISANCE = {
    "alarm_id": "STRING NOT NULL",
    "nuisance": "STRING NOT NULL",
    "time": "BIGINT NOT NULL",
    "arrived": "BIGINT NOT NULL",
    "sequence": "BIGINT NOT NULL",
}
OLDER = {"time": "BIGINT NOT NULL", "last_time": "BIGINT NOT NULL", "arrived": "BIGINT NOT NULL", "value": "DOUBLE", "older": "BIGINT NOT NULL"}

CHATTERING_RAISES, CHATTERING_MS, STALE_MS = 3, 60_000, 24 * 3_600_000
FOREVER = 2**62  # later than any time
_NAMESPACE = uuid.UUID(bytes=b"headrace.uuid.v5")
_decode = msgspec.json.Decoder(Memory).decode
_encode = msgspec.json.Encoder().encode
_AT_REST, _BUSY, _EARLY = "-", "+", "?"
_NOTHING = _AT_REST + _encode(Memory()).decode()


class Last(NamedTuple):
    """The last reading of a tag: event time, arrival time, the value of the last usable one, and whether its quality was bad."""

    time: int
    arrived: int
    value: float | None
    bad: bool


class Command(NamedTuple):
    """A command as it came: for which definition, what, by whom, why, and for which occurrence."""

    definition: str
    name: str
    by: str | None
    reason: str | None
    sequence: int | None
    until: int | None
    one_shot: bool


class _Due(NamedTuple):
    """Something that happens by itself: its order, when it happens by event time and by the wall clock, and what."""

    at: int
    rank: int
    time: int
    clock: int
    what: str


class Steady(NamedTuple):
    """Readings that leave all alarms of a tag alone: of good quality, from `low` to `high`, at most `silence` ms after the last one, not after a due time.

    `by_time` and `by_clock` are the first due times by event time and by the wall clock, without those of silence.
    """

    low: float
    high: float
    silence: int | None
    by_time: int
    by_clock: int


class Tag:
    """All alarms of a tag during one call.

    Attributes
    ----------
    last
        The last reading; None before the first.
    last_seen, evidence
        Where the last reading is, if that is known; whether rows say which records moved an alarm.
    rows
        The rows that are emitted, each with the name of its output.
    """

    last_seen: Seen | None = None
    evidence = False

    def __init__(
        self,
        tag: str,
        definitions: Sequence[tuple[str, Definition]],
        texts: MutableMapping[str, str],
        last: Last | None,
        *,
        time: int,
        now: int,
        clock: bool,
        live: bool = False,
    ) -> None:
        self.tag, self.last, self.rows = tag, last, list[Row]()
        self._definitions, self._texts = definitions, texts
        self._held: Mapping[str, str] = getattr(texts, "values_", texts)
        self._time, self._now = time, now
        # In a run over files arrival is event time: what is due goes by event time, and is noticed when it is due.
        self._files = now == time and not live
        self._by_time = self._files or not clock
        self._memories: dict[str, Memory] = {}
        if self._held:
            known = {one.definition: (version, one) for version, one in definitions}
            for name in [name for name, text in self._held.items() if (name in known) == (text[0] == _EARLY)]:
                if name in known:
                    self._adopt(*known[name])
                else:
                    self._withdraw(name)

    # what comes

    def reading(self, value: float | None, *, bad: bool, older: int, seen: Seen | None = None) -> bool:
        """Take a reading; return whether it is older than the last one, which changes nothing. `seen` says where it is."""
        time, now, last = self._time, self._now, self.last
        if last is not None and time < last.time:
            row = {"time": time, "last_time": last.time, "arrived": now, "value": value, "older": older + 1}
            self.rows.append(("older", row))
            return True
        usable = None if bad else value
        self._settle(time, now, by_time=self._by_time, delays_by_time=True)
        self.last = Last(time, now, last.value if usable is None and last is not None else usable, usable is None)
        self.last_seen = seen
        for version, one in self._definitions:
            if _is_plain(one, usable) and self._rests(one.definition):
                continue
            memory = self._memory(one)
            active = active_by(one, memory, usable, time)
            if active is not None:
                self._judge(version, one, memory, time, now, active=active, seen=seen)
        return False

    def condition(self, definition: str, *, active: bool, value: float | None, seen: Seen | None = None) -> None:
        """Take it that the condition of a custom alarm is active, or is not."""
        self._settle(self._time, self._now, by_time=self._by_time, delays_by_time=self._by_time)
        for version, one in self._definitions:
            if one.definition == definition:
                if one.kind == "custom":
                    memory = self._memory(one)
                    memory.given = memory.given if value is None else value
                    self._judge(version, one, memory, self._time, self._now, active=active, seen=seen)
                return
        self._hold(definition, active=active, value=value, seen=seen)

    def command(self, command: Command) -> None:
        """Carry out a command, or refuse it."""
        self._settle(self._time, self._now, by_time=self._by_time, delays_by_time=self._by_time)
        event = Event(command.name, self._time, self._now, command.by, command.reason, command.sequence, command.until, one_shot=command.one_shot)
        for version, one in self._definitions:
            if one.definition == command.definition:
                self._apply(version, one, self._memory(one), event)
                return
        there_is = f"tag {self.tag!r} has no alarm {command.definition!r}"
        refused = Transition(command.name, "normal", "refused", self._time, self._now, command.by or "unknown", there_is, 0)
        self.rows.append(("", self._row("", Definition(command.definition, self.tag, ""), Memory(), refused)))

    def pass_time(self, *, by_clock: bool) -> None:
        """Do all that is due, by the wall clock or, where that counts, by event time."""
        by_time = self._by_time and not by_clock
        self._settle(self._time + 1, self._now + 1, by_time=by_time, delays_by_time=by_time)
        for memory, (at, clock) in [*self._looks()]:
            if at <= self._time if by_time else clock <= self._now:
                look(memory, self._time if by_time else self._now, by_time=by_time)

    def steady(self) -> Steady | None:
        """Return which readings leave all alarms alone; None if any reading may move one."""
        if self.rows:  # a definition was withdrawn
            return None
        low, high, silence, by_time, by_clock = -math.inf, math.inf, None, FOREVER, FOREVER
        for _, one in self._definitions:
            band = _steady_band(one, None if self._rests(one.definition) else self._memory(one))
            if band is None:
                return None
            low, high = max(low, band[0]), min(high, band[1])
            for due in self._dues(one, by_time=True, delays_by_time=True):
                by_time, by_clock = (by_time, by_clock) if due.what == "silence" else (min(by_time, due.time), min(by_clock, due.clock))
            if one.kind == "no_data":
                silence = min(_ms(one.after or 0.0), FOREVER if silence is None else silence)
        for _, (time, clock) in self._looks():
            by_time, by_clock = min(by_time, time), min(by_clock, clock)
        return Steady(low, high, silence, by_time, by_clock)

    # what is due

    def next_due(self) -> tuple[int | None, int] | None:
        """Return when the first thing is due, by event time if that counts here, and by the wall clock; None if nothing is."""
        dues = [(due.time, due.clock) for _, one in self._watched() for due in self._dues(one, by_time=True, delays_by_time=True)]
        dues += [due for _, due in self._looks()]
        if not dues:
            return None
        return (min(time for time, _ in dues) if self._by_time else None), min(clock for _, clock in dues)

    def _settle(self, time: int, now: int, *, by_time: bool, delays_by_time: bool) -> None:
        """Do what was due before, in the order in which it was due; what that makes due too."""
        while True:
            dues = [
                (due, version, one)
                for version, one in self._watched()
                for due in self._dues(one, by_time=by_time, delays_by_time=delays_by_time)
                if (due.time < time if (delays_by_time if due.what == "delay" else by_time) else due.clock < now)
            ]
            if not dues:
                return
            due, version, one = min(dues, key=lambda found: (found[0][:2], found[2].definition))
            self._happen(due, version, one)

    def _rests(self, name: str) -> bool:
        """Whether an alarm is inactive and nothing of it is due."""
        return name not in self._memories and ((text := self._held.get(name)) is None or text[0] == _AT_REST)

    def _watched(self) -> list[tuple[str, Definition]]:
        """Return the definitions of which something may be due."""
        return [pair for pair in self._definitions if pair[1].kind == "no_data" or not self._rests(pair[1].definition)]

    def _dues(self, one: Definition, *, by_time: bool, delays_by_time: bool) -> Iterator[_Due]:
        """Yield what is due of an alarm some time."""
        name = one.definition
        if self._rests(name):
            if one.kind == "no_data" and self.last is not None:
                yield self._silence(one, by_time=by_time)
            return
        memory = self._memory(one)
        alarm = memory.alarm
        if one.kind == "no_data" and not memory.active and self.last is not None:
            yield self._silence(one, by_time=by_time)
        held = self.last is not None and self.last.bad and one.kind not in {"bad_quality", "no_data", "custom"}
        if memory.since is not None and not held:
            delay = _ms(one.on_delay if memory.active else one.off_delay)
            yield _due(2, memory.since + delay, memory.since_arrived + delay, "delay", by_time=delays_by_time)
        if alarm.shelved and alarm.until is not None:
            yield _due(0, alarm.until, alarm.until, "unshelve", by_time=by_time)
        if alarm.shown == "unacknowledged" and not alarm.escalated and one.escalate_after is not None:
            after = _ms(one.escalate_after)
            yield _due(3, alarm.raised + after, alarm.raised_arrived + after, "escalate", by_time=by_time)
        if alarm.active and not alarm.set_aside and not memory.stale:
            yield _due(4, alarm.raised + STALE_MS, alarm.raised_arrived + STALE_MS, "stale", by_time=by_time)

    def _silence(self, one: Definition, *, by_time: bool) -> _Due:
        assert self.last is not None
        after = _ms(one.after or 0.0)
        return _due(1, self.last.time + after, self.last.arrived + after, "silence", by_time=by_time)

    def _happen(self, due: _Due, version: str, one: Definition) -> None:
        """Have something happen that was due."""
        memory, arrived = self._memory(one), due.time if self._files else self._now
        match due.what:
            case "silence":
                self._judge(version, one, memory, due.time, arrived, active=True, since_arrived=due.clock, seen=self.last_seen)
            case "delay":
                memory.since = None
                self._apply(version, one, memory, Event("raise" if memory.active else "clear", due.time, arrived))
            case "unshelve":
                self._apply(version, one, memory, Event("unshelve", due.time, arrived, reason="its time is over"))
            case "escalate":
                why = f"unacknowledged for {one.escalate_after:g} s"
                self._apply(version, one, memory, Event("escalate", due.time, arrived, reason=why, priority=one.escalate_to))
            case _:
                memory.stale = True
                self._nuisance("stale", memory, one, due.time, arrived)

    def _judge(
        self,
        version: str,
        one: Definition,
        memory: Memory,
        time: int,
        now: int,
        *,
        active: bool,
        since_arrived: int | None = None,
        seen: Seen | None = None,
    ) -> None:
        """Take it that a condition is active or not, and raise or clear its alarm unless a delay runs."""
        if seen is not None:
            note(one, memory, seen, active=active)
        if active == memory.alarm.active:
            memory.active, memory.since = active, None
            return
        if memory.active != active or memory.since is None:
            memory.active, memory.since, memory.since_arrived = active, time, now if since_arrived is None else since_arrived
        if time - memory.since >= _ms(one.on_delay if active else one.off_delay):
            memory.since = None
            self._apply(version, one, memory, Event("raise" if active else "clear", time, now))

    # what is emitted

    def _apply(self, version: str, one: Definition, memory: Memory, event: Event) -> None:
        alarm, sequence = memory.alarm, memory.alarm.sequence
        found = apply(alarm, event, latching=one.latching)
        if alarm.sequence != sequence:
            memory.version, memory.stale = version, False
        for transition in found:
            if transition.kind == "suppressed":
                self.rows.append(("journal", self._row(version, one, memory, transition)))
            else:
                memory.transitions += 1
                self.rows.append(("", self._row(version, one, memory, transition)))
        if found and found[-1].kind != "refused":
            self.rows.append(("current", self._current(one, memory, found[-1])))
        if memory.seen and event.name in {"raise", "clear"}:
            settle_evidence(one, memory)
        if event.name == "raise" and found and not found[0].suppressed:
            self._count_raise(one, memory, event)

    def _count_raise(self, one: Definition, memory: Memory, event: Event) -> None:
        memory.raises = [*memory.raises, event.time][-CHATTERING_RAISES:]
        often = len(memory.raises) == CHATTERING_RAISES and memory.raises[-1] - memory.raises[0] <= CHATTERING_MS
        if often and not memory.chattering:
            self._nuisance("chattering", memory, one, event.time, event.arrived)
        memory.chattering = often

    def _nuisance(self, what: str, memory: Memory, one: Definition, time: int, arrived: int) -> None:
        row = {"alarm_id": one.alarm_id, "nuisance": what, "time": time, "arrived": arrived, "sequence": memory.alarm.sequence}
        self.rows.append(("nuisances", row))

    def _row(self, version: str, one: Definition, memory: Memory, transition: Transition) -> dict[str, Any]:
        began_at = memory.version or version
        name = "\x1f".join((one.definition, began_at, self.tag, str(transition.sequence)))
        row: dict[str, Any] = {
            "event_id": str(uuid.uuid5(_NAMESPACE, name)),
            "alarm_id": one.alarm_id,
            "definition": one.definition,
            "version": began_at or None,
            "asset": one.asset_path,
            "kind": one.kind or None,
            "priority": (memory.alarm.priority or one.priority) if one.kind else None,
            "event": transition.event,
            "from": transition.before,
            "to": transition.after,
            "time": transition.time,
            "arrived": transition.arrived,
            "value": self._value(one, memory),
            "limit": one.limit,
            "by": transition.by,
            "reason": transition.reason,
            "sequence": transition.sequence,
            "transition": None if transition.suppressed else memory.transitions or None,
        }
        if self.evidence:
            row["evidence"] = evidence_of(memory.seen) if transition.event in {"raise", "clear"} else None
        return row

    def _value(self, one: Definition, memory: Memory) -> float | None:
        """Return the value that a row shows: of a custom alarm the one that came with its condition, else the tag's."""
        if one.kind in {"custom", ""} and memory.given is not None:
            return memory.given
        return None if self.last is None else self.last.value

    def _current(self, one: Definition, memory: Memory, transition: Transition) -> dict[str, Any]:
        alarm = memory.alarm
        return {
            "alarm_id": one.alarm_id,
            "definition": one.definition,
            "asset": one.asset_path,
            "kind": one.kind or None,
            "priority": (alarm.priority or one.priority) if one.kind else None,
            "state": alarm.shown,
            "active": alarm.active,
            "sequence": alarm.sequence,
            "time": transition.time,
            "arrived": transition.arrived,
            "value": self._value(one, memory),
            "limit": one.limit,
            "by": transition.by,
            "reason": transition.reason,
            "until": alarm.until,
            "class": one.alarm_class,
            "consequence": one.consequence,
            "action": one.action,
            "time_to_respond": one.time_to_respond,
            "attack": one.attack,
            "attack_version": one.attack_version,
            "ne107": one.ne107,
        }

    # what is retained

    def _memory(self, one: Definition) -> Memory:
        memory = self._memories.get(one.definition)
        if memory is None:
            text = self._held.get(one.definition)
            memory = self._memories[one.definition] = Memory() if text is None else _decode(text[1:])
            if one.kind:
                memory.watch(one.kind)
        return memory

    def _withdraw(self, name: str) -> None:
        """End an alarm that has no definition any more."""
        gone = Definition(name, self.tag, "")
        memory = self._memory(gone)
        self._apply("", gone, memory, Event("withdraw", self._time, self._now, reason="its definition was withdrawn"))
        left = self._memories[name] = Memory(alarm=memory.alarm, transitions=memory.transitions)
        if memory.active and memory.kind == "custom":
            left.given = memory.given
            hold(left, self._time, self._now, memory.seen)

    # conditions without a definition

    def _hold(self, name: str, *, active: bool, value: float | None, seen: Seen | None) -> None:
        """Hold the condition of an alarm that has no definition."""
        gone = Definition(name, self.tag, "")
        memory = self._memory(gone)
        if not active:
            if memory.looks is not None:
                let_go(memory)
            return
        if memory.looks is None:
            if sum(1 for _ in self._looks()) >= MOST_HELD:
                self._nuisance("lost", memory, gone, self._time, self._now)
                return
            hold(memory, self._time, self._now, [] if seen is None else [seen])
            self._nuisance("undefined", memory, gone, self._time, self._now)
        memory.given = memory.given if value is None else value

    def _adopt(self, version: str, one: Definition) -> None:
        """Take the condition that was held for a definition that has come."""
        memory = self._memory(one)
        memory.looks = None
        if memory.active and memory.since is not None:  # else the alarm is of another kind
            self._judge(version, one, memory, memory.since, self._now, active=True)

    def _looks(self) -> Iterator[tuple[Memory, tuple[int, int]]]:
        """Yield the alarms whose condition is held, and when they are looked at again, by event time and by the wall clock."""
        names = [name for name, text in self._held.items() if text[0] == _EARLY and name not in self._memories]
        for memory in [*self._memories.values(), *(self._memory(Definition(name, self.tag, "")) for name in names)]:
            if (due := next_look(memory, by_time=self._by_time)) is not None:
                yield memory, due

    def save(self) -> None:
        """Put what is retained back as texts."""
        for name, memory in self._memories.items():
            memory.forget_kind()
            mark = _EARLY if memory.looks is not None else _AT_REST if _is_at_rest(memory) else _BUSY
            text = mark + _encode(memory).decode()
            if text == _NOTHING:
                self._texts.pop(name, None)
            elif self._held.get(name) != text:
                self._texts[name] = text


def _is_at_rest(memory: Memory) -> bool:
    alarm = memory.alarm
    return not (memory.active or alarm.active or memory.bits) and memory.since is None and alarm.until is None


def _is_plain(one: Definition, value: float | None) -> bool:
    """Whether a reading leaves an alarm alone that is at rest: the common case, at the price of a comparison."""
    if value is None:
        return one.kind != "bad_quality"
    match one.kind:
        case "HH" | "H":
            return value <= one.limit  # type: ignore[operator]
        case "L" | "LL":
            return value >= one.limit  # type: ignore[operator]
        case "deviation":
            return abs(value - one.setpoint) <= one.limit  # type: ignore[operator]
        case "state_mismatch":
            return value == one.expected
        case "no_data" | "bad_quality" | "custom":
            return True
    return False


def _steady_band(one: Definition, memory: Memory | None) -> tuple[float, float] | None:
    """Return between which values an alarm stays as it is, which is at rest if there is no memory; None if that is not known."""
    active = memory is not None and memory.active
    if memory is not None and (memory.since is not None or active != memory.alarm.active or memory.seen or one.n > 1):
        return None
    limit, within = one.limit or 0.0, one.deadband if active else 0.0
    match one.kind:
        case "HH" | "H":
            return (math.nextafter(limit - within, math.inf), math.inf) if active else (-math.inf, limit)
        case "L" | "LL":
            return (-math.inf, math.nextafter(limit + within, -math.inf)) if active else (limit, math.inf)
        case "deviation" if not active:
            setpoint = one.setpoint or 0.0
            low, high = setpoint - limit, setpoint + limit
            while setpoint - low > limit:
                low = math.nextafter(low, math.inf)
            while high - setpoint > limit:
                high = math.nextafter(high, -math.inf)
            return low, high
        case "state_mismatch" if not active and one.expected is not None:
            return one.expected, one.expected
        case "custom":
            return -math.inf, math.inf
        case "no_data" | "bad_quality" if not active:
            return -math.inf, math.inf
    return None


def _due(rank: int, time: int, clock: int, what: str, *, by_time: bool) -> _Due:
    return _Due(time if by_time else clock, rank, time, clock, what)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
