"""What is kept for a key: its types, its ages, and its way to bytes and back, held against a simple model."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from exact import shown
from headrace.errors import PlanError, ProcessError
from headrace.kernels.keyed.shared import Shared
from headrace.kernels.keyed.state import Keep, fresh_state
from headrace.plan.process import declaration_of

TTL = hr.milliseconds(10)


class Kept:
    """A process with a state of each kind, with and without a ttl."""

    output = {}
    state = {
        "count": hr.Value("BIGINT", 0),
        "mean": hr.Value("DOUBLE", 0.0),
        "seen": hr.Value("TIMESTAMP_LTZ(3)"),
        "name": hr.Value("STRING"),
        "on": hr.Value("BOOLEAN", False),
        "last": hr.Value("ROW<x BIGINT, y ARRAY<DOUBLE>>"),
        "peak": hr.Value("DOUBLE", 5.0, ttl=TTL),
        "recent": hr.Value("MAP<STRING, DOUBLE>", ttl=TTL),
        "values": hr.List("DOUBLE"),
        "events": hr.List("STRING", ttl=TTL),
        "totals": hr.Map("BIGINT"),
        "sensors": hr.Map("DOUBLE", ttl=TTL),
    }

    def on_record(self, row, state): ...


class OnTimer(Kept):
    state_version = 3

    def on_timer(self, name, state): ...


def keep_of(process: Any, migrate: Callable[..., Any] | None = None) -> Keep:
    return Keep(declaration_of(process, ("k",), "here"), migrate)


def keep_with(**state: Any) -> Keep:
    return keep_of(type("Made", (Kept,), {"state": state})())


keep = keep_of(Kept())


def at(state: Any, time: int) -> Any:
    """Move a state to a time, as a record of that time does."""
    keep.begin(state, time, time)
    return state


def test_a_fresh_state_has_its_defaults() -> None:
    state: Any = keep.fresh({"k": "a"})
    assert {name: shown(getattr(state, name)) for name in Kept.state if name not in {"values", "events", "totals", "sensors"}} == {
        "count": shown(0), "mean": shown(0.0), "seen": shown(None), "name": shown(None), "on": shown(False), "last": shown(None),
        "peak": shown(5.0), "recent": shown(None),
    }  # fmt: skip
    assert (list(state.values), list(state.events), dict(state.totals), dict(state.sensors)) == ([], [], {}, {})
    assert (state.key, state.time, state.now, state.timers, state.clock_timers, state.shared) == ({"k": "a"}, 0, 0, {}, {}, None)
    assert keep.encode(state) is None
    assert keep.wake(state) is None


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("count", 2**63 - 1, 2**63 - 1),
        ("mean", 3, 3.0),
        ("seen", -5, -5),
        ("name", "µ", "µ"),
        ("on", True, True),
        ("last", {"y": (1, 2)}, {"x": None, "y": [1.0, 2.0]}),
        ("peak", 3, 3.0),
        ("recent", {"a": 1}, {"a": 1.0}),
    ],
)
def test_a_value_is_kept_as_one_of_its_type_and_may_be_set_to_none(name: str, value: object, read: object) -> None:
    state = keep.fresh({})
    for new, wanted in ((value, read), (None, None)):
        setattr(state, name, new)
        keep.check(state)
        assert shown(getattr(state, name)) == shown(wanted)
        back = keep.decode(keep.encode(state), {})
        assert shown(getattr(back, name)) == shown(wanted)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: setattr(s, "count", 1.0), "state 'count' is set off its type: 1.0 is not a whole number of 64 bits"),
        (lambda s: setattr(s, "count", True), "state 'count' is set off its type: True is not a whole number"),
        (lambda s: setattr(s, "count", 2**63), "state 'count' is set off its type"),
        (lambda s: setattr(s, "mean", float("nan")), "state 'mean' is set off its type: nan is not a finite DOUBLE"),
        (lambda s: setattr(s, "seen", "now"), "state 'seen' is set off its type"),
        (lambda s: setattr(s, "seen", datetime.fromtimestamp(0, UTC)), "ms since the epoch; write round(moment.timestamp() * 1000)"),
        (lambda s: setattr(s, "name", "\ud800"), "state 'name' is set off its type"),
        (lambda s: setattr(s, "on", 1), "state 'on' is set off its type: 1 is not a BOOLEAN"),
        (lambda s: setattr(s, "last", {"z": 1}), "state 'last' is set off its type: {'z': 1} is not a ROW"),
        (lambda s: setattr(s, "peak", "high"), "'high' is not a finite DOUBLE"),
        (lambda s: (setattr(s, "recent", {}), s.recent.update(a="x")), "state 'recent' is set off its type: 'x' is not a finite DOUBLE"),
        (lambda s: s.values.append("x"), "'x' is not a finite DOUBLE"),
        (lambda s: s.values.extend([1, "x"]), "'x' is not a finite DOUBLE"),
        (lambda s: s.values.insert(0, "x"), "'x' is not a finite DOUBLE"),
        (lambda s: (s.values.append(1), s.values.__setitem__(0, "x")), "'x' is not a finite DOUBLE"),
        (lambda s: s.values.__setitem__(slice(0, 0), ["x"]), "'x' is not a finite DOUBLE"),
        (lambda s: setattr(s, "values", [1, "x"]), "'x' is not a finite DOUBLE"),
        (lambda s: s.totals.update(a=1.5), "1.5 is not a whole number"),
        (lambda s: s.totals.__setitem__(5, 1), "5 is not a text, and a map's names are; write str(5)"),
        (lambda s: s.totals.__setitem__("\udfff", 1), "is not a text, and a map's names are"),
        (lambda s: setattr(s, "totals", {"a": "b"}), "'b' is not a whole number"),
        (lambda s: s.set_timer(5, 1), "a timer's name is 5, which is no text"),
        (lambda s: s.set_timer("a", 1.5), "a timer is set to 1.5, which is no whole number of ms since the epoch"),
        (lambda s: s.set_timer("a", datetime.fromtimestamp(0, UTC)), "ms since the epoch; write round(moment.timestamp() * 1000)"),
        (lambda s: s.set_timer("a", True), "a timer is set to True"),
        (lambda s: s.set_timer("a", None), "a timer is set to None"),
        (lambda s: s.set_timer("a", 2**63), "a timer is set to 9223372036854775808"),
        (lambda s: s.set_clock_timer(None, 1), "a timer's name is None"),
        (lambda s: s.set_clock_timer("a", "1"), "a timer is set to '1'"),
        (lambda s: delattr(s, "count"), "state 'count' cannot be deleted; set it to None"),
        (lambda s: delattr(s, "peak"), "state 'peak' cannot be deleted; set it to None"),
    ],
)  # fmt: skip
def test_what_is_off_its_type_is_not_kept(change: Callable[[Any], Any], why: str) -> None:
    state = keep.fresh({})
    with pytest.raises(ValueError, match=re.escape(why)):
        change(state)
        keep.check(state)


@pytest.mark.parametrize("name", ["cuont", "_peak_", "__dict__"])
def test_what_is_not_declared_cannot_be_set(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(keep.fresh({}), name, 1)


def test_what_cannot_be_written_is_told_with_its_key() -> None:
    inner = keep_with(rows=hr.List("ARRAY<DOUBLE>"))
    state: Any = inner.fresh({"k": "a"})
    state.rows.append([1.0])
    state.rows[0].append(object())
    with pytest.raises(
        ProcessError, match=re.escape("state of Made, key {'k': 'a'}: cannot be kept: Encoding objects of type object is unsupported")
    ):
        inner.encode(state)


def test_two_states_share_nothing() -> None:
    one, other = keep.fresh({}), keep.fresh({})
    one.values.append(1)
    one.totals["a"] = 1
    one.set_timer("t", 1)
    assert (list(other.values), dict(other.totals), other.timers) == ([], {}, {})


def test_what_is_kept_shares_nothing_with_what_was_given() -> None:
    state: Any = keep.fresh({})
    row = {"x": 1, "y": [1.0]}
    state.last = row
    keep.check(state)
    row["y"].append(2.0)
    assert state.last == {"x": 1, "y": [1.0]}


# ages: what came at time 0 with a ttl of 10 is there at 9 and gone at 10


def test_a_value_with_a_ttl_is_its_default_again_on_the_edge_and_setting_it_begins_anew() -> None:
    state: Any = keep.fresh({})
    at(state, 0).peak = 9
    assert (at(state, 9).peak, at(state, 10).peak) == (9.0, 5.0)
    at(state, 20).peak = 7
    at(state, 25).peak = 8
    assert (at(state, 34).peak, at(state, 35).peak) == (8.0, 5.0)
    assert keep.encode(state) is None


def test_a_value_with_a_ttl_that_is_set_to_none_is_none_until_it_is_gone() -> None:
    state: Any = keep.fresh({})
    at(state, 0).peak = None
    assert (at(state, 9).peak, at(state, 10).peak) == (None, 5.0)


def test_each_element_of_a_list_goes_at_its_own_time() -> None:
    state: Any = keep.fresh({})
    at(state, 0).events.append("a")
    at(state, 3).events.extend(["b", "c"])
    at(state, 5).events.insert(0, "first")
    state.events[2] = "B"  # was b, which came at 3
    assert list(at(state, 9).events) == ["first", "a", "B", "c"]
    assert list(at(state, 10).events) == ["first", "B", "c"]
    assert list(at(state, 12).events) == ["first", "B", "c"]
    assert list(at(state, 13).events) == ["first", "B"]
    assert list(at(state, 14).events) == ["first", "B"]
    assert list(at(state, 15).events) == []
    assert keep.encode(state) is None


def test_what_is_left_of_a_list_keeps_its_time_and_a_list_that_is_set_begins_anew() -> None:
    state: Any = keep.fresh({})
    at(state, 0).events.append("a")
    at(state, 5).events.append("b")
    del state.events[:1]
    assert list(at(state, 14).events) == ["b"]
    at(state, 14).events = [*state.events, "c"]
    assert list(at(state, 23).events) == ["b", "c"]
    assert list(at(state, 24).events) == []


def test_each_entry_of_a_map_goes_at_its_own_time() -> None:
    state: Any = keep.fresh({})
    at(state, 0).sensors.update(a=1, b=2)
    at(state, 4).sensors["b"] = 3
    at(state, 6).sensors.setdefault("a", 9)  # it is there already
    assert dict(at(state, 9).sensors) == {"a": 1.0, "b": 3.0}
    assert dict(at(state, 10).sensors) == {"b": 3.0}
    assert dict(at(state, 13).sensors) == {"b": 3.0}
    assert dict(at(state, 14).sensors) == {}
    assert keep.encode(state) is None


def test_what_is_changed_inside_a_value_keeps_the_value_s_time() -> None:
    state: Any = keep.fresh({})
    at(state, 0).recent = {"a": 1}
    at(state, 5).recent["b"] = 2
    keep.check(state)
    assert at(state, 9).recent == {"a": 1.0, "b": 2.0}
    assert at(state, 10).recent is None


def test_a_state_wakes_at_its_first_timer_or_when_all_that_ages_is_gone() -> None:
    state: Any = keep.fresh({})
    state.values.append(1)
    assert keep.wake(state) is None
    at(state, 3).events.append("a")
    at(state, 5).sensors["a"] = 1
    assert keep.wake(state) == 15
    state.set_timer("late", 20)
    assert keep.wake(state) == 15
    state.set_timer("soon", 7)
    assert keep.wake(state) == 7
    state.clear_timer("soon")
    state.clear_timer("never set")
    assert keep.wake(state) == 15
    state.set_clock_timer("wall", 1)
    assert keep.wake(state) == 15


def test_an_age_is_counted_from_the_latest_time_where_times_go_back() -> None:
    state: Any = keep.fresh({})
    at(state, 0).events.append("a")
    at(state, 10)
    at(state, 5).events.append("b")
    assert list(state.events) == ["b"]


# bytes, and a model: of each name what there is as (time, value), what has a ttl of 10 gone when it is 10 old

VALUES = {
    "count": st.integers(-2, 2),
    "mean": st.sampled_from([0.0, -0.0, 1.5, 1e300]),
    "name": st.none() | st.text("aµ", max_size=2),
    "on": st.booleans(),
    "peak": st.none() | st.sampled_from([5.0, -0.0, 2.5]),
}
ELEMENTS = {"values": st.sampled_from([0.0, -0.0, 1.5]), "events": st.text("aµ", max_size=2)}
ENTRIES = {"totals": st.integers(-2, 2), "sensors": st.sampled_from([0.0, -0.0, 1.5])}
AGING = {"peak", "events", "sensors"}
places = st.integers(-3, 3)


def one_of_each(strategies: dict[str, Any], *arguments: Callable[[Any], Any]) -> st.SearchStrategy[Any]:
    return st.one_of([st.tuples(st.just(name), *(make(values) for make in arguments)) for name, values in strategies.items()])


changes = st.one_of(
    st.tuples(st.just("set"), one_of_each(VALUES, lambda values: values)),
    st.tuples(st.sampled_from(["append", "insert", "extend", "replace", "assign"]), one_of_each(ELEMENTS, lambda values: st.lists(values, min_size=1, max_size=3), lambda _: places)),
    st.tuples(st.sampled_from(["pop", "cut", "clear"]), one_of_each(ELEMENTS, lambda values: st.lists(values, max_size=0), lambda _: places)),
    st.tuples(st.sampled_from(["put", "fill"]), one_of_each(ENTRIES, lambda values: st.dictionaries(st.sampled_from("abµ"), values, max_size=3))),
    st.tuples(st.just("drop"), one_of_each(ENTRIES, lambda _: st.sampled_from("abµ"))),
    st.tuples(st.sampled_from(["timer", "clock timer"]), st.tuples(st.sampled_from("ab"), st.none() | st.integers(-5, 50))),
)  # fmt: skip
histories = st.lists(st.tuples(st.integers(0, 6), st.lists(changes, max_size=3), st.booleans()), max_size=12)


class Model:
    """What the state is to hold, written as plainly as can be."""

    def __init__(self) -> None:
        self.time = 0
        self.values: dict[str, Any] = {}
        self.lists: dict[str, list[Any]] = {name: [] for name in ELEMENTS}
        self.maps: dict[str, dict[str, Any]] = {name: {} for name in ENTRIES}
        self.timers: dict[str, dict[str, int]] = {"timer": {}, "clock timer": {}}

    def move(self, time: int) -> None:
        self.time = time
        young = lambda held: held[0] + 10 > time  # noqa: E731
        self.values = {name: held for name, held in self.values.items() if name not in AGING or young(held)}
        self.lists["events"] = [*filter(young, self.lists["events"])]
        self.maps["sensors"] = {name: held for name, held in self.maps["sensors"].items() if young(held)}

    def change(self, what: str, name: str, given: Any, place: int = 0) -> None:  # noqa: C901, PLR0912
        new = [(self.time, one) for one in given] if name in ELEMENTS else given
        match what:
            case "set":
                self.values[name] = self.time, given
            case "append":
                self.lists[name].append(new[0])
            case "insert":
                self.lists[name].insert(place, new[0])
            case "extend":
                self.lists[name].extend(new)
            case "assign":
                self.lists[name] = new
            case "replace" if -len(self.lists[name]) <= place < len(self.lists[name]):
                self.lists[name][place] = new[0]
            case "pop" if self.lists[name]:
                self.lists[name].pop()
            case "cut":
                del self.lists[name][:place]
            case "clear":
                self.lists[name].clear()
            case "put" | "fill":
                stamped = {key: (self.time, value) for key, value in given.items()}
                self.maps[name] = stamped if what == "fill" else {**self.maps[name], **stamped}
            case "drop":
                self.maps[name].pop(given, None)
            case "timer" | "clock timer" if given is None:
                self.timers[what].pop(name, None)
            case "timer" | "clock timer":
                self.timers[what][name] = given

    def read(self) -> dict[str, Any]:
        defaults = {"count": 0, "mean": 0.0, "name": None, "on": False, "peak": 5.0}
        return {
            **{name: self.values.get(name, (0, default))[1] for name, default in defaults.items()},
            **{name: [value for _, value in held] for name, held in self.lists.items()},
            **{name: {key: held[key][1] for key in sorted(held)} for name, held in self.maps.items()},
            **self.timers,
        }


def change(state: Any, what: str, name: str, given: Any, place: int = 0) -> None:  # noqa: C901
    """Do the same to the state, as an author would."""
    held = getattr(state, name, None)
    match what:
        case "set" | "assign" | "fill":
            setattr(state, name, given)
        case "append":
            held.append(given[0])
        case "insert":
            held.insert(place, given[0])
        case "extend":
            setattr(state, name, held.__iadd__(given))
        case "replace" if -len(held) <= place < len(held):
            held[place] = given[0]
        case "pop" if held:
            held.pop()
        case "cut":
            del held[:place]
        case "clear":
            held.clear()
        case "put":
            held.update(given)
        case "drop":
            held.pop(given, None)
        case "timer":
            state.clear_timer(name) if given is None else state.set_timer(name, given)
        case "clock timer":
            state.clear_clock_timer(name) if given is None else state.set_clock_timer(name, given)


def read(state: Any) -> dict[str, Any]:
    return {
        **{name: getattr(state, name) for name in VALUES},
        **{name: list(getattr(state, name)) for name in ELEMENTS},
        **{name: {key: getattr(state, name)[key] for key in sorted(getattr(state, name))} for name in ENTRIES},
        "timer": dict(state.timers),
        "clock timer": dict(state.clock_timers),
    }


@given(histories)
def test_a_state_holds_what_a_model_holds_wherever_it_goes_to_bytes_and_back(history: list[Any]) -> None:
    state, model, time = keep.fresh({"k": "a"}), Model(), 0
    for step, made, cut in history:
        time += step
        at(state, time)
        model.move(time)
        for what, arguments in made:
            change(state, what, *arguments)
            model.change(what, *arguments)
        keep.check(state)
        if cut:
            data, woken = keep.encode(state), keep.wake(state)
            state = keep.decode(data, {"k": "a"})
            assert (keep.encode(state), keep.wake(state)) == (data, woken)
            assert data is None or (state.time, state.now) == (time, time)
        assert shown(read(state)) == shown(model.read())
    if not model.timers["timer"] and not model.timers["clock timer"]:
        at(state, time + 10)
        model.move(time + 10)
        empty = shown(model.read()) == shown(Model().read())
        assert (keep.encode(state) is None) == empty


@given(histories)
def test_the_bytes_of_equal_states_are_equal_and_tell_the_version_only_from_the_second_on(history: list[Any]) -> None:
    later, states = keep_of(OnTimer()), []
    for one in (keep, keep, later):
        state = one.fresh({})
        for step, made, _ in history:
            one.begin(state, state.time + step, state.time + step)
            for what, arguments in made:
                change(state, what, *arguments)
            one.check(state)
        states.append(one.encode(state))
    assert states[0] == states[1]
    assert (states[0] is None) == (states[2] is None)
    assert states[0] is None or (b"@version" not in states[0] and b"@version\x03" in states[2])


def test_the_time_is_kept_with_timers_so_that_one_in_the_past_goes_off_at_the_same_time_after_a_restart() -> None:
    plain = keep_with(count=hr.Value("BIGINT", 0))
    state: Any = plain.fresh({})
    plain.begin(state, 100, 130)
    state.count = 1
    back = plain.decode(plain.encode(state), {})
    assert (back.time, back.now) == (0, 0)  # nothing asks for it
    state.set_timer("t", 50)
    back = plain.decode(plain.encode(state), {})
    assert (back.timers, back.time, back.now) == ({"t": 50}, 100, 130)


# versions


def migrated(values: dict[str, Any], migrate: Callable[..., Any] | None, timers: dict[str, int] | None = None) -> Any:
    """State of version 1 as a process of version 3 reads it."""
    first = keep_with(**{name: hr.Value("BIGINT") for name in values})
    state = first.fresh({"k": "a"})
    for name, value in values.items():
        setattr(state, name, value)
    for name, moment in (timers or {}).items():
        state.set_timer(name, moment)
    return keep_of(OnTimer(), migrate).decode(first.encode(state), {"k": "a"})


def test_older_state_is_made_state_of_this_version_and_its_timers_stay() -> None:
    told = []

    def migrate(version, values):
        told.append((version, dict(values)))
        return {
            "mean": values["n"],
            "values": [values["n"]],
            "peak": [7, 2],
            "events": [(1, "a"), [2, "b"]],
            "sensors": {"x": [4, 1]},
            "totals": {"a": 1},
            "name": None,
        }

    state = migrated({"n": 4}, migrate, {"t": 9})
    assert told == [(1, {"n": 4})]
    assert shown([state.mean, list(state.values), state.peak, list(state.events)]) == shown([4.0, [4.0], 2.0, ["a", "b"]])
    assert shown([dict(state.sensors), dict(state.totals), state.name, state.count]) == shown([{"x": 1.0}, {"a": 1}, None, 0])
    assert state.timers == {"t": 9}
    later = keep_of(OnTimer(), migrate)
    again = later.decode(later.encode(state), {"k": "a"})
    assert len(told) == 1
    assert later.encode(again) == later.encode(state)
    assert list(at(again, 11).events) == ["b"]


def test_a_key_of_which_nothing_is_kept_is_not_migrated() -> None:
    state = keep_of(OnTimer(), lambda *_: 1 / 0).decode(None, {"k": "a"})
    assert state.count == 0


@pytest.mark.parametrize(
    ("migrate", "text"),
    [
        (None, "is of version 1, and the process of 3; write migrate(version, values), which makes values of version 3 of them"),
        (lambda *_: 1 / 0, "OnTimer.migrate(1, {'n': 4}) fails: ZeroDivisionError: division by zero; fix migrate; the state is as it was"),
        (lambda _, values: values["m"], "fails: KeyError: 'm'"),
        (lambda *_: None, "fails: TypeError: 'NoneType' object is not iterable"),
        (lambda *_: {"cuont": 1}, "fails: ValueError: gives 'cuont', which is not declared; did you mean 'count'?"),
        (lambda *_: {"count": "4"}, "fails: ValueError: gives 'count' off its type: '4' is not a whole number of 64 bits"),
        (lambda *_: {"values": ["4"]}, "fails: ValueError: gives 'values' off its type: '4' is not a finite DOUBLE"),
        (lambda *_: {"totals": [1]}, "fails: ValueError: gives 'totals' off its type: [1] is not a dict by text"),
        (lambda *_: {"totals": {1: 1}}, "fails: ValueError: gives 'totals' off its type: {1: 1} is not a dict by text"),
        (lambda *_: {"peak": 4.0}, "gives 'peak' off its type: 4.0, which has a ttl, is not [time, value]"),
        (lambda *_: {"events": ["a"]}, "gives 'events' off its type: 'a', which has a ttl, is not [time, value]"),
        (lambda *_: {"sensors": {"a": [1, "x"]}}, "gives 'sensors' off its type: 'x' is not a finite DOUBLE"),
    ],
)  # fmt: skip
def test_a_migration_that_cannot_be_made_is_told_with_the_key(migrate: Callable[..., Any] | None, text: str) -> None:
    with pytest.raises(ProcessError, match=re.escape(text)) as caught:
        migrated({"n": 4}, migrate)
    assert str(caught.value).startswith("state of OnTimer, key {'k': 'a'}: ")


@pytest.mark.parametrize(
    ("kept", "declared", "text"),
    [
        (hr.Value("STRING"), hr.Value("BIGINT"), "has kept 'it' off its type: 'a' is not a whole number of 64 bits"),
        (hr.Value("STRING"), hr.List("STRING"), "has kept 'it' off its type: 'a' is not a list"),
        (hr.Value("STRING"), hr.Value("STRING", ttl=TTL), "has kept 'it' off its type: 'a', which has a ttl, is not [time, value]"),
        (hr.List("STRING"), hr.Map("STRING"), "has kept 'it' off its type: ['a'] is not a dict by text"),
        (hr.Map("STRING"), hr.List("STRING"), "has kept 'it' off its type: {'a': 'a'} is not a list"),
        (hr.List("STRING"), None, "has kept 'it', which is not declared"),
    ],
)
def test_state_of_another_form_under_the_same_version_is_refused(kept: Any, declared: Any, text: str) -> None:
    class Changing(Kept):
        state = {"it": kept}

    first = keep_of(Changing())
    state: Any = first.fresh({"k": "a"})
    state.it = {"value": "a", "list": ["a"], "map": {"a": "a"}}[type(kept).__name__.lower()]
    data = first.encode(state)
    Changing.state = {"it": declared} if declared else {}
    with pytest.raises(ProcessError) as caught:
        keep_of(Changing()).decode(data, {"k": "a"})
    assert str(caught.value).startswith(f"state of Changing, key {{'k': 'a'}}: state_version 1 {text}")
    assert caught.value.fix == "set state_version = 2 and write migrate, or start anew"


def test_state_of_a_newer_version_is_refused() -> None:
    newer = keep_of(OnTimer())
    state: Any = newer.fresh({"k": "a"})
    state.count = 1
    with pytest.raises(ProcessError) as caught:
        keep_of(Kept(), lambda _, values: values).decode(newer.encode(state), {"k": "a"})
    assert str(caught.value) == "state of Kept, key {'k': 'a'}: is of version 3, and the process of 1; run the newer process"


# what all keys share


class Ruled(Kept):
    shared = {"low": hr.Value("DOUBLE", 10.0), "names": hr.List("STRING"), "limits": hr.Map("ROW<low DOUBLE, tags ARRAY<STRING>>")}

    def on_broadcast(self, row, shared): ...


def shared_of() -> Any:
    return Shared(declaration_of(Ruled(), ("k",), "here"))


def test_what_is_shared_comes_back_from_its_bytes_as_of_its_types() -> None:
    shared, back = shared_of(), shared_of()
    assert shown([shared.low, shared.names, dict(shared.limits)]) == shown([10.0, [], {}])
    shared.low, shared.names = 3, ("a", "b")
    shared.limits["x"] = {"low": 1}
    back.restore(shared.encode())
    assert shown([back.low, back.names, dict(back.limits)]) == shown([3.0, ["a", "b"], {"x": {"low": 1.0, "tags": None}}])


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (lambda s: setattr(s, "lwo", 1), AttributeError, "shared has no 'lwo'; did you mean 'low'?"),
        (lambda s: setattr(s, "low", "x"), ValueError, "shared 'low' is off its type: 'x' is not a finite DOUBLE"),
        (lambda s: s.names.append(1), ValueError, "shared 'names' is off its type: 1 is not a STRING"),
        (lambda s: s.limits.update({1: {}}), ValueError, "1 is not a text, and a map's names are; write str(1)"),
        (lambda s: setattr(s, "limits", [1]), ValueError, "shared 'limits' is off its type: [1] is not a dict by text"),
        (lambda s: s.limits.update({"x": {"high": 1}}), ValueError, "shared 'limits' is off its type"),
    ],
)
def test_what_is_shared_has_types_too(change: Callable[[Any], Any], kind: type[Exception], why: str) -> None:
    shared = shared_of()
    with pytest.raises(kind, match=re.escape(why)):
        change(shared)
        shared.encode()


NAMES = st.sampled_from("abcd")
LIMITS = st.fixed_dictionaries(
    {"low": st.none() | st.integers(0, 9) | st.floats(0, 9), "tags": st.none() | st.lists(st.sampled_from("xy"), max_size=2)}
)
CHANGES: list[Callable[..., Any]] = [
    lambda s, _, value: setattr(s, "low", value["low"]),
    lambda s, name, _: s.names.append(name),
    lambda s, name, _: setattr(s, "names", [name]),
    lambda s, _, __: s.names.reverse(),
    lambda s, name, value: s.limits.__setitem__(name, value),
    lambda s, name, _: s.limits.pop(name, None),
    lambda s, name, value: s.limits.get(name, {}).update(low=value["low"]),
    lambda s, name, value: (s.limits.get(name, {}).get("tags") or []).extend(value["tags"] or []),
    lambda s, name, value: s.limits.setdefault(name, value),
    lambda s, name, value: setattr(s, "limits", {name: value, **s.limits}),
    lambda s, _, __: s.limits.clear(),
    lambda s, _, __: [one.update(low=0.0) for one in s.limits.values()],
    lambda s, name, _: s.limits.update({name: {"high": 1}}),  # off its type
]


class PlainlyShared:
    """What is shared as plain values."""

    def __init__(self) -> None:
        self.low, self.names, self.limits = 10.0, [], {}


@given(st.lists(st.tuples(st.lists(st.tuples(st.integers(0, len(CHANGES) - 1), NAMES, LIMITS), max_size=5), st.booleans()), max_size=8))
def test_what_is_shared_is_as_plain_values_would_be(turns: list[tuple[list[tuple[int, str, Any]], bool]]) -> None:
    shared, plain = shared_of(), PlainlyShared()
    view = shared.view()
    for changes, kept in turns:
        before = deepcopy(plain.__dict__)
        for number, name, value in changes:
            CHANGES[number](plain, name, deepcopy(value))
            CHANGES[number](shared, name, deepcopy(value))
        sound = not any("high" in limits for limits in plain.limits.values())
        with nullcontext() if sound or not kept else pytest.raises(ValueError, match="shared 'limits' is off its type"):
            if kept:
                shared.settle()
        if not (sound and kept):
            plain.__dict__.update(before)
            shared.undo()
        back = shared_of()
        back.restore(shared.encode())
        for seen in (view, back.view()):
            assert [seen.low, list(seen.names), list(seen.limits)] == [plain.low, plain.names, list(plain.limits)]
            assert all(seen.limits[name]["low"] == limits["low"] for name, limits in plain.limits.items())
            assert all((seen.limits[name]["tags"] or ()) == tuple(limits["tags"] or ()) for name, limits in plain.limits.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda view: setattr(view, "low", 1),
        lambda view: setattr(view, "lwo", 1),
        lambda view: delattr(view, "low"),
        lambda view: view.names.append("b"),
        lambda view: view.limits.update(y={}),
        lambda view: view.limits.pop("x"),
        lambda view: view.limits["x"].update(low=2.0),
        lambda view: view.limits["x"]["tags"].append("c"),
        lambda view: view.limits.__setitem__("y", {}),
        lambda view: view.limits.__delitem__("x"),
        lambda view: view.limits.__ior__({"y": {}}),
        lambda view: view.limits.setdefault("y", {}),
        lambda view: view.limits.popitem(),
        lambda view: view.limits.clear(),
        lambda view: view.names.__setitem__(0, "b"),
        lambda view: view.names.__delitem__(0),
        lambda view: view.names.__iadd__(["b"]),
        lambda view: view.names.extend(["b"]),
        lambda view: view.names.insert(0, "b"),
        lambda view: view.names.remove("a"),
        lambda view: view.names.pop(),
        lambda view: view.names.sort(key=len),
    ],
)
def test_keys_see_what_is_shared_and_cannot_change_it(change: Callable[[Any], Any]) -> None:
    shared = shared_of()
    shared.names.append("a")
    shared.limits["x"] = {"low": 1.0, "tags": ["b"]}
    view = shared.view()
    assert (view.low, [*view.names], view.limits["x"]["low"], [*view.limits["x"]["tags"]]) == (10.0, ["a"], 1.0, ["b"])
    before = shared.encode()
    with pytest.raises((AttributeError, TypeError), match=r"is written by on_broadcast alone$"):
        change(view)
    assert shared.encode() == before
    assert (view.low, view.names, view.limits) == (10.0, ("a",), {"x": {"low": 1.0, "tags": ("b",)}})


def test_what_keys_see_of_what_is_shared_can_be_copied_and_kept() -> None:
    shared = shared_of()
    shared.names.append("a")
    shared.limits["x"] = {"low": 1.0, "tags": ["b"]}
    view = shared.view()
    mine, names = {**view.limits, "y": {}}, [*view.names, "b"]
    assert (len(mine), names, view.limits.get("y"), view.limits | {"x": 5}) == (2, ["a", "b"], None, {"x": 5})
    state = Keep(declaration_of(Kept(), ("k",), "here")).fresh({"k": "a"})
    state.events, state.totals = view.names, dict.fromkeys(view.limits, 1)
    assert (state.events, dict(state.totals)) == (["a"], {"x": 1})


# an author's tests


def test_an_author_tests_a_process_with_a_fresh_state() -> None:
    state = fresh_state(Ruled(), time=5, k="a", m=None)
    state.shared.limits["x"] = {"low": 1.0}
    state.count += 1
    state.set_timer("t", state.time + 1)
    assert (state.key, state.time, state.now, state.count, state.timers, state.shared.low) == ({"k": "a", "m": None}, 5, 5, 1, {"t": 6}, 10.0)
    with pytest.raises(PlanError, match="has no on_record"):
        fresh_state(object())


@pytest.mark.parametrize("name", ["key", "time", "now", "timers", "clock_timers", "shared"])
def test_what_the_state_says_of_itself_is_read_only(name: str) -> None:
    class Writes:
        output = {"x": "BIGINT"}

        def on_record(self, row: Any, state: Any) -> None:  # noqa: ARG002
            setattr(state, name, getattr(state, name))

    with pytest.raises(ProcessError, match=rf"state\.{name} is read-only"):
        hr.drive(Writes, [{"k": "a", "t": 1}], by="k", time="t")


@pytest.mark.parametrize(("name", "entry"), [("key", "k"), ("timers", "x"), ("clock_timers", "x")])
def test_what_the_state_says_of_itself_cannot_be_written_within(name: str, entry: str) -> None:
    class Writes:
        output = {"x": "BIGINT"}

        def on_record(self, row: Any, state: Any) -> None:  # noqa: ARG002
            getattr(state, name)[entry] = 1

    with pytest.raises(ProcessError, match="does not support item assignment"):
        hr.drive(Writes, [{"k": "a", "t": 1}], by="k", time="t")
