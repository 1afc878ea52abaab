"""The states of one alarm and what moves them, after ISA-18.2 and IEC 62682.

Theory of operation
-------------------
An alarm has a *life cycle state*, one of six, and can be *set aside*: shelved by an operator, suppressed by design, out of service. Several of
these hold at once, each ends by itself, and while one holds it is the state that is shown. The condition is followed meanwhile: the life
cycle moves on by `raise` and `clear`, but these transitions are suppressed, which means that they are for the journal and not for operators.
When nothing sets the alarm aside any more, it starts again by its condition: a new occurrence, or normal.

Nothing here knows limits, delays, clocks or topics. `apply` takes one event and returns the transitions that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

__all__ = ["COMMANDS", "EVENTS", "LATCHING", "LIFE_CYCLE", "SET_ASIDES", "STATES", "TABLE", "Alarm", "Event", "Transition", "apply"]

LIFE_CYCLE = ("normal", "unacknowledged", "acknowledged", "returned", "latched_unacknowledged", "latched_acknowledged")
# From the first to the last in the order in which they are shown: the command that begins it, the state, the command that ends it.
SET_ASIDES = (
    ("out_of_service", "out_of_service", "in_service"),
    ("suppress", "suppressed", "unsuppress"),
    ("shelve", "shelved", "unshelve"),
)
STATES = (*LIFE_CYCLE, "shelved", "suppressed", "out_of_service")
COMMANDS = ("acknowledge", "reset", "shelve", "unshelve", "suppress", "unsuppress", "out_of_service", "in_service", "comment")
EVENTS = ("raise", "clear", *COMMANDS, "escalate", "withdraw")

# (state, event): state. What does not stand here does not move the life cycle. Entries of LATCHING come first where the alarm latches.
TABLE: Mapping[tuple[str, str], str] = {
    ("normal", "raise"): "unacknowledged",
    ("unacknowledged", "acknowledge"): "acknowledged",
    ("unacknowledged", "clear"): "returned",
    ("acknowledged", "clear"): "normal",
    ("returned", "acknowledge"): "normal",
    ("returned", "raise"): "unacknowledged",
    ("latched_unacknowledged", "acknowledge"): "latched_acknowledged",
    ("latched_unacknowledged", "reset"): "returned",
    ("latched_unacknowledged", "raise"): "unacknowledged",
    ("latched_acknowledged", "raise"): "unacknowledged",
    ("latched_acknowledged", "reset"): "normal",
}
LATCHING: Mapping[tuple[str, str], str] = {
    ("unacknowledged", "clear"): "latched_unacknowledged",
    ("acknowledged", "clear"): "latched_acknowledged",
}

_ACTIVE = frozenset(["unacknowledged", "acknowledged"])
_BEGINS = {command: state for command, state, _ in SET_ASIDES}
_ENDS = {command: state for _, state, command in SET_ASIDES}
_ASKS_WHY = frozenset(["shelve", "out_of_service"])


class Alarm(msgspec.Struct, omit_defaults=True):
    """The state of one alarm.

    Attributes
    ----------
    state
        The life cycle state, also while the alarm is set aside.
    sequence
        The number of the last occurrence; 0 before the first.
    shelved, suppressed, out_of_service
        What sets it aside.
    until
        When a timed shelve ends, ms since the epoch; None for a one-shot shelve, which ends at the next clear.
    priority
        The priority to which this occurrence was escalated; None if it was not.
    escalated
        Whether this occurrence was escalated.
    raised, raised_arrived
        When the occurrence began: its event time, and the wall clock.
    hidden
        Whether the condition became active anew while the alarm was set aside: the last occurrence is over, and the next has no number yet.
    """

    state: str = "normal"
    sequence: int = 0
    shelved: bool = False
    suppressed: bool = False
    out_of_service: bool = False
    until: int | None = None
    priority: int | None = None
    escalated: bool = False
    raised: int = 0
    raised_arrived: int = 0
    hidden: bool = False

    @property
    def active(self) -> bool:
        """Whether the condition is active."""
        return self.state in _ACTIVE

    @property
    def set_aside(self) -> bool:
        """Whether nobody is told of it."""
        return self.shelved or self.suppressed or self.out_of_service

    @property
    def shown(self) -> str:
        """The state that an operator sees."""
        if self.set_aside:
            return next(state for _, state, _ in SET_ASIDES if getattr(self, state))
        return self.state


class Event(msgspec.Struct, frozen=True):
    """An event of an alarm: its condition, a command, or the end of a time.

    Attributes
    ----------
    name
        One of EVENTS. Any other name is a command that is refused.
    time, arrived
        Its event time, and the wall clock when it became known; ms since the epoch.
    by, reason
        Who it was, `system` if nobody; why.
    sequence
        The occurrence that a command is meant for; None for whichever there is.
    until
        When a shelve is to end.
    one_shot
        Whether a shelve is to end at the next clear.
    priority
        What an escalation raises the priority to; None leaves it.
    """

    name: str
    time: int
    arrived: int
    by: str | None = "system"
    reason: str | None = None
    sequence: int | None = None
    until: int | None = None
    one_shot: bool = False
    priority: int | None = None


class Transition(msgspec.Struct, frozen=True):
    """The transition that follows from an event.

    Attributes
    ----------
    event
        The event's name.
    before, after
        The states between which it moves, those shown; `after` is `refused` for a command that changes nothing. Of a suppressed transition
        they are the states of the life cycle.
    sequence
        The occurrence that it belongs to.
    suppressed
        Whether it did not happen for operators, because the alarm is set aside.
    """

    event: str
    before: str
    after: str
    time: int
    arrived: int
    by: str
    reason: str | None
    sequence: int
    suppressed: bool = False

    @property
    def kind(self) -> Literal["refused", "suppressed", "transition"]:
        """The kind of transition: a refusal, an entry for the journal alone, or a transition."""
        return "refused" if self.after == "refused" else "suppressed" if self.suppressed else "transition"


def apply(alarm: Alarm, event: Event, *, latching: bool = False) -> list[Transition]:
    """Move an alarm by an event, and return the transitions; none if a condition is as it was.

    Parameters
    ----------
    alarm
        What is retained of the alarm. It is changed.
    event
        What happens.
    latching
        Whether the alarm stays when its condition clears, until it is reset.
    """
    match event.name:
        case "raise" | "clear":
            return _follow(alarm, event, latching=latching)
        case "escalate":
            return _escalate(alarm, event)
        case "withdraw":
            return _withdraw(alarm, event)
    if (why := _refusal(alarm, event)) is not None:
        return [_transition(event, alarm.shown, "refused", alarm.sequence, reason=why)]
    return _obey(alarm, event)


def _follow(alarm: Alarm, event: Event, *, latching: bool) -> list[Transition]:
    """Follow the condition."""
    if alarm.active == (event.name == "raise"):
        return []
    before, step = alarm.state, (alarm.state, event.name)
    alarm.state = LATCHING[step] if latching and step in LATCHING else TABLE[step]
    if not alarm.set_aside:
        if event.name == "raise":
            _begin(alarm, event)
        return [_transition(event, before, alarm.state, alarm.sequence)]
    alarm.hidden |= event.name == "raise"
    hidden = msgspec.structs.replace(_transition(event, before, alarm.state, alarm.sequence, reason=f"the alarm is {alarm.shown}"), suppressed=True)
    if event.name == "clear" and alarm.shelved and alarm.until is None:
        ended = msgspec.structs.replace(event, name="unshelve", by="system", reason="the condition cleared")
        return [hidden, *_obey(alarm, ended)]
    return [hidden]


def _begin(alarm: Alarm, event: Event) -> None:
    """Begin an occurrence."""
    alarm.sequence += 1
    alarm.priority, alarm.escalated = None, False
    alarm.raised, alarm.raised_arrived = event.time, event.arrived


def _escalate(alarm: Alarm, event: Event) -> list[Transition]:
    if alarm.shown != "unacknowledged" or alarm.escalated:
        return []
    alarm.priority, alarm.escalated = event.priority, True
    return [_transition(event, alarm.state, alarm.state, alarm.sequence)]


def _withdraw(alarm: Alarm, event: Event) -> list[Transition]:
    """End an alarm whose definition was withdrawn. Its occurrences count on, should the definition return."""
    before, sequence = alarm.shown, alarm.sequence
    for name in alarm.__struct_fields__:
        setattr(alarm, name, getattr(Alarm(), name))
    alarm.sequence = sequence
    return [] if before == "normal" else [_transition(event, before, "normal", sequence)]


def _refusal(alarm: Alarm, event: Event) -> str | None:  # noqa: C901
    """Return why a command does not fit; None if it does."""
    name = event.name
    if name not in COMMANDS:
        return f"unknown command {name!r}; the commands are {', '.join(COMMANDS)}"
    if not event.by:
        return "the command does not say by whom"
    if name in _ASKS_WHY and not event.reason:
        return f"{name} needs a reason"
    if event.sequence is not None and (event.sequence != alarm.sequence or alarm.hidden or alarm.state == "normal"):
        if event.sequence > alarm.sequence:
            return f"there is no occurrence {event.sequence}; the last is {alarm.sequence}"
        return f"occurrence {event.sequence} is over"
    if name in _BEGINS:
        if getattr(alarm, _BEGINS[name]):
            return f"the alarm is {_BEGINS[name]} already"
        return _shelve_refusal(event) if name == "shelve" else None
    if name in _ENDS:
        return None if getattr(alarm, _ENDS[name]) else f"the alarm is not {_ENDS[name]}"
    if name == "comment":
        return None if event.reason else "the comment is empty"
    if alarm.set_aside:
        return f"the alarm is {alarm.shown}"
    return None if (alarm.state, name) in TABLE else f"the alarm is {alarm.state}"


def _shelve_refusal(event: Event) -> str | None:
    if event.one_shot == (event.until is not None):
        return "a shelve is either one-shot or has a time at which it ends"
    if event.until is not None and event.until <= event.time:
        return "the time at which the shelve ends is over"
    return None


def _obey(alarm: Alarm, event: Event) -> list[Transition]:
    """Carry out a command that fits."""
    name, before = event.name, alarm.shown
    if name in _BEGINS:
        setattr(alarm, _BEGINS[name], True)
        if name == "shelve":
            alarm.until = event.until
    elif name in _ENDS:
        setattr(alarm, _ENDS[name], False)
        if name == "unshelve":
            alarm.until = None
        if not alarm.set_aside:
            alarm.state, alarm.hidden = "unacknowledged" if alarm.active else "normal", False
            if alarm.active:
                _begin(alarm, event)
    elif name != "comment":
        alarm.state = TABLE[alarm.state, name]
    return [_transition(event, before, alarm.shown, alarm.sequence)]


def _transition(event: Event, before: str, after: str, sequence: int, *, reason: str | None = None) -> Transition:
    return Transition(event.name, before, after, event.time, event.arrived, event.by or "unknown", reason or event.reason, sequence)
