"""The state machine of one alarm: each row of its table, what is refused, and random events against a plain reference."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.alarms.machine import COMMANDS, LATCHING, LIFE_CYCLE, SET_ASIDES, STATES, TABLE, Alarm, Event, apply

LATCHED = ("latched_unacknowledged", "latched_acknowledged")
# The contract's table, row by row: the state, the event, whether the alarm latches (None: either way), the state then, and whether an occurrence begins.
ROWS: list[tuple[str, str, bool | None, str, bool]] = [
    ("normal", "raise", None, "unacknowledged", True),
    ("unacknowledged", "acknowledge", None, "acknowledged", False),
    ("unacknowledged", "clear", False, "returned", False),
    ("unacknowledged", "clear", True, "latched_unacknowledged", False),
    ("acknowledged", "clear", False, "normal", False),
    ("acknowledged", "clear", True, "latched_acknowledged", False),
    ("returned", "acknowledge", None, "normal", False),
    ("returned", "raise", None, "unacknowledged", True),
    ("latched_unacknowledged", "acknowledge", None, "latched_acknowledged", False),
    ("latched_unacknowledged", "reset", None, "returned", False),
    ("latched_unacknowledged", "raise", None, "unacknowledged", True),
    ("latched_acknowledged", "raise", None, "unacknowledged", True),
    ("latched_acknowledged", "reset", None, "normal", False),
    *[(state, command, None, aside, False) for state in LIFE_CYCLE for command, aside, _ in SET_ASIDES],
]


def event(name: str, at: int = 10, **more: Any) -> Event:
    named = {"by": "ada", "reason": "a test"} if name in COMMANDS else {}
    if name == "shelve" and "one_shot" not in more:
        named["until"] = more.pop("until", at + 1_000)
    return Event(name, at, at + 1, **{**named, **more})


@pytest.mark.parametrize("latching", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_each_row_of_the_table_holds(row: tuple[str, str, bool | None, str, bool], latching: bool) -> None:
    before, name, only, after, begins = row
    alarm = Alarm(state=before, sequence=7)
    if only is not None and only != latching:
        return
    (found,) = apply(alarm, event(name), latching=latching)
    assert (found.event, found.before, found.after, alarm.shown) == (name, before, after, after)
    assert alarm.sequence == found.sequence == (8 if begins else 7)
    assert (found.time, found.arrived) == (10, 11)
    assert (found.by, found.reason) == (("ada", "a test") if name in COMMANDS else ("system", None))


def test_the_table_has_these_rows_and_no_others() -> None:
    moves = {(state, name): after for state, name, only, after, _ in ROWS if only is not True and name not in {one for one, _, _ in SET_ASIDES}}
    assert moves == TABLE
    assert {(state, name): after for state, name, only, after, _ in ROWS if only is True} == LATCHING
    assert {state for state, *_ in ROWS} | {after for *_, after, _ in ROWS} == set(STATES)


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize(("begin", "aside", "end"), SET_ASIDES)
def test_what_ends_a_set_aside_has_the_alarm_start_by_its_condition(begin: str, aside: str, end: str, active: bool) -> None:
    for before in LIFE_CYCLE:
        alarm = Alarm(state=before, sequence=7)
        apply(alarm, event(begin))
        for name in ("raise", "clear") if not active else ("clear", "raise"):
            for hidden in apply(alarm, event(name)):
                assert hidden.suppressed
                assert hidden.reason == f"the alarm is {aside}"
        (found,) = apply(alarm, event(end))
        assert (found.before, found.after, alarm.state) == (aside, alarm.state, "unacknowledged" if active else "normal")
        assert alarm.sequence == found.sequence == (8 if active else 7)


def test_set_asides_overlap_and_each_ends_by_itself() -> None:
    alarm = Alarm(state="acknowledged", sequence=1)
    shown = [apply(alarm, event(name))[0].after for name in ("shelve", "out_of_service", "suppress")]
    assert shown == ["shelved", "out_of_service", "out_of_service"]
    shown = [apply(alarm, event(name))[0].after for name in ("in_service", "shelve", "unshelve", "unsuppress")]
    assert shown == ["suppressed", "refused", "suppressed", "unacknowledged"]
    assert alarm.sequence == 2


def test_a_one_shot_shelve_ends_at_the_next_clear() -> None:
    alarm = Alarm(state="normal")
    apply(alarm, event("shelve", one_shot=True))
    (hidden,) = apply(alarm, event("raise", 20))
    hidden_clear, ended = apply(alarm, event("clear", 30))
    assert hidden.suppressed
    assert hidden_clear.suppressed
    assert (ended.event, ended.before, ended.after, ended.by, ended.time) == ("unshelve", "shelved", "normal", "system", 30)
    assert alarm == Alarm()


REFUSALS = [
    (Alarm(), event("acknowledge"), "the alarm is normal"),
    (Alarm(state="acknowledged", sequence=1), event("acknowledge"), "the alarm is acknowledged"),
    (Alarm(state="acknowledged", sequence=1), event("reset"), "the alarm is acknowledged"),
    (Alarm(state="unacknowledged", sequence=2), event("acknowledge", sequence=1), "occurrence 1 is over"),
    (Alarm(state="unacknowledged", sequence=2), event("acknowledge", sequence=3), "there is no occurrence 3; the last is 2"),
    (Alarm(state="normal", sequence=2), event("comment", sequence=2), "occurrence 2 is over"),
    (Alarm(), event("acknowledge", by=None), "the command does not say by whom"),
    (Alarm(), event("shelve", reason=None), "shelve needs a reason"),
    (Alarm(), event("out_of_service", reason=""), "out_of_service needs a reason"),
    (Alarm(), event("shelve", until=10), "the time at which the shelve ends is over"),
    (Alarm(), event("shelve", until=None), "a shelve is either one-shot or has a time at which it ends"),
    (Alarm(shelved=True, until=99), event("shelve"), "the alarm is shelved already"),
    (Alarm(state="unacknowledged", sequence=1, suppressed=True), event("acknowledge"), "the alarm is suppressed"),
    (Alarm(), event("unshelve"), "the alarm is not shelved"),
    (Alarm(), event("comment", reason=""), "the comment is empty"),
    (Alarm(), Event("explode", 1, 1, by="ada"), "unknown command 'explode'; the commands are acknowledge,"),
]


@pytest.mark.parametrize(("alarm", "command", "why"), REFUSALS, ids=[why for *_, why in REFUSALS])
def test_a_command_that_does_not_fit_changes_nothing_and_is_refused(alarm: Alarm, command: Event, why: str) -> None:
    before = repr(alarm)
    (found,) = apply(alarm, command)
    assert (found.before, found.after, found.event) == (alarm.shown, "refused", command.name)
    assert re.match(re.escape(why), found.reason or "")
    assert repr(alarm) == before


@pytest.mark.parametrize("events", [["acknowledge", "clear", "suppress", "raise"], ["suppress", "clear", "raise"]])
def test_an_occurrence_is_over_when_the_condition_became_active_anew_while_the_alarm_is_set_aside(events: list[str]) -> None:
    alarm = Alarm()
    for name in ("raise", *events):
        apply(alarm, Event(name, 1, 1, "ada"))
    for name in ("comment", "shelve", "unsuppress"):
        (found,) = apply(alarm, Event(name, 2, 2, "ada", "a test", sequence=1, one_shot=name == "shelve"))
        assert (found.after, found.reason) == ("refused", "occurrence 1 is over")
    (found,) = apply(alarm, Event("unsuppress", 3, 3, "ada"))
    assert (found.after, found.sequence) == ("unacknowledged", 2)
    (found,) = apply(alarm, Event("acknowledge", 4, 4, "ada", sequence=2))
    assert found.after == "acknowledged"


def test_a_comment_and_an_escalation_move_to_the_same_state() -> None:
    alarm = Alarm(state="unacknowledged", sequence=1)
    found = [*apply(alarm, event("comment")), *apply(alarm, event("escalate", priority=1)), *apply(alarm, event("escalate", priority=1))]
    assert [(one.event, one.before, one.after) for one in found] == [
        ("comment", "unacknowledged", "unacknowledged"),
        ("escalate", "unacknowledged", "unacknowledged"),
    ]
    assert alarm.priority == 1
    apply(alarm, event("clear"))
    apply(alarm, event("raise"))
    assert (alarm.priority, alarm.escalated, alarm.sequence) == (None, False, 2)


def test_a_withdrawn_alarm_is_normal_and_its_occurrences_count_on() -> None:
    alarm = Alarm(state="acknowledged", sequence=4, shelved=True, until=9)
    (found,) = apply(alarm, event("withdraw"))
    assert (found.before, found.after) == ("shelved", "normal")
    assert alarm == Alarm(sequence=4)
    assert not apply(alarm, event("withdraw"))


class Plain:
    """The contract once more, by what the words say instead of a table."""

    def __init__(self, latching: bool) -> None:
        self.latching, self.asides, self.one_shot = latching, set[str](), False
        self.active, self.seen, self.held, self.owed, self.sequence = False, True, False, False, 0

    @property
    def shown(self) -> str:
        for aside in ("out_of_service", "suppressed", "shelved"):
            if aside in self.asides:
                return aside
        if self.active:
            return "acknowledged" if self.seen else "unacknowledged"
        if self.held:
            return "latched_acknowledged" if self.seen else "latched_unacknowledged"
        return "returned" if self.owed else "normal"

    def step(self, name: str, one_shot: bool) -> list[str]:
        """Return what an operator is told: the states moved to, and refusals."""
        if name in {"raise", "clear"}:
            return self._follow(name == "raise")
        begins = {"shelve": "shelved", "suppress": "suppressed", "out_of_service": "out_of_service"}
        ends = {"unshelve": "shelved", "unsuppress": "suppressed", "in_service": "out_of_service"}
        if name in begins:
            if begins[name] in self.asides:
                return ["refused"]
            self.asides.add(begins[name])
            self.one_shot = one_shot if name == "shelve" else self.one_shot
        elif name in ends:
            if ends[name] not in self.asides:
                return ["refused"]
            self._end(ends[name])
        elif name == "acknowledge":
            if self.asides or self.seen:
                return ["refused"]
            self.seen, self.owed = True, False
        elif name == "reset":
            if self.asides or not self.held:
                return ["refused"]
            self.held, self.owed = False, not self.seen
        return [self.shown]

    def _follow(self, active: bool) -> list[str]:
        if active == self.active:
            return []
        self.active = active
        if active:
            self.seen, self.held, self.owed = False, False, False
            self.sequence += not self.asides
        elif self.latching:
            self.held = True
        else:
            self.owed = not self.seen
        if not self.asides:
            return [self.shown]
        if not active and "shelved" in self.asides and self.one_shot:
            self._end("shelved")
            return [self.shown]
        return []

    def _end(self, aside: str) -> None:
        self.asides.remove(aside)
        if not self.asides:
            self.seen, self.held, self.owed = not self.active, False, False
            self.sequence += self.active


STEPS = st.lists(st.tuples(st.sampled_from(["raise", "clear", *COMMANDS]), st.booleans()), max_size=30)


def check_against_the_reference(steps: list[tuple[str, bool]], latching: bool) -> None:
    alarm, plain = Alarm(), Plain(latching)
    for at, (name, one_shot) in enumerate(steps, 1):
        more: dict[str, Any] = {"one_shot": True} if name == "shelve" and one_shot else {}
        before = alarm.shown
        found = apply(alarm, event(name, at, **more), latching=latching)
        told = [one for one in found if not one.suppressed]
        assert [one.after for one in told] == plain.step(name, one_shot)
        assert (alarm.shown, alarm.active, alarm.sequence) == (plain.shown, plain.active, plain.sequence)
        assert all(one.before == before for one in told)
        assert alarm.state in LIFE_CYCLE


@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans())
def test_random_events_move_it_as_the_reference(steps: list[tuple[str, bool]], latching: bool) -> None:
    check_against_the_reference(steps, latching)


@pytest.mark.long
@settings(max_examples=20_000, deadline=None)
@given(STEPS, st.booleans())
def test_many_random_events_move_it_as_the_reference(steps: list[tuple[str, bool]], latching: bool) -> None:
    check_against_the_reference(steps, latching)
