"""All keys of a process: cut into saves and loads anywhere, they give what one pass gives, and that is what a simple search gives."""

# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.errors import ProcessError
from headrace.kernels.keyed import keyspace
from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.process import Given, Place, ProcessKernel

COLUMNS = {"k": "STRING", "n": "BIGINT", "t": "BIGINT"}
PLACE = Place("readings", 0, 1)
TTL = 10
here = hr.stream("readings", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")
rules = hr.stream("rules", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")


def made(code: Any, by: list[str] | None = None, **options: Any) -> Keyspace:
    return Keyspace(ProcessKernel(here.process(code, by=by or ["k"], **options).operator))


def restarted(space: Keyspace, code: Any, parts: list[bytes], *, migrate: bool = False, **options: Any) -> Keyspace:
    """Save what was touched behind the other parts, and load all of them."""
    parts.append(space.encoded(space.take_touched()))
    new = made(code, **options)
    new.load(parts)
    new.wake(migrate=migrate)
    return new


# a process that uses everything, and the same written as a search through all that there is

FOLLOWS = {"x": ("y", 3), "p": ("q", -4), "y": ("x", 30)}


class Everything:
    output = {"what": "STRING", "total": "BIGINT", "recent": "ARRAY<BIGINT>", "last": "BIGINT"}
    state = {
        "total": hr.Value("BIGINT", 0),
        "recent": hr.List("BIGINT", ttl=hr.milliseconds(TTL)),
        "last": hr.Value("BIGINT", -1, ttl=hr.milliseconds(TTL // 2)),
    }

    def on_record(self, row, state):
        state.total += row["n"]
        if row["n"]:
            state.recent.append(row["n"])
            state.last = row["n"]
        for name, at in row["timers"].items():
            if at is None:
                state.clear_timer(name)
            else:
                state.set_timer(name, at)
        return self.seen("record", state)

    def on_timer(self, name, state):
        if name in FOLLOWS:
            state.set_timer(FOLLOWS[name][0], state.time + FOLLOWS[name][1])
        if name == "q":
            state.total = 0
        yield self.seen(name, state)

    def seen(self, what, state):
        return {"what": what, "total": state.total, "recent": state.recent, "last": state.last}


class Key:
    """What one key holds, of each thing with the time it came."""

    def __init__(self) -> None:
        self.time, self.total, self.timers = 0, 0, {}
        self.recent: list[tuple[int, int]] = []
        self.last: tuple[int, int] | None = None

    def age(self, now: int) -> None:
        self.recent = [(at, n) for at, n in self.recent if at + TTL > now]
        self.last = self.last if self.last and self.last[0] + TTL // 2 > now else None

    def seen(self, key: str, what: str) -> Given:
        return "", self.time, (key,), [what, self.total, [n for _, n in self.recent], self.last[1] if self.last else -1]

    def move(self, time: int) -> None:
        self.age(max(self.time, time))
        self.time = time

    def ring(self, key: str, upto: int) -> Iterator[Given]:
        while self.timers and (first := min((at, name) for name, at in self.timers.items()))[0] <= upto:
            at, name = first
            del self.timers[name]
            self.move(max(at, self.time))
            if name in FOLLOWS:
                self.timers[FOLLOWS[name][0]] = self.time + FOLLOWS[name][1]
            if name == "q":
                self.total = 0
            yield self.seen(key, name)


def expected(records: list[tuple[int, int, str, dict[str, Any]]], end: int, *, arrival: bool) -> list[Given]:
    """What is given for (clock before it, time, key, row), each in its turn, and up to the end."""
    keys: dict[str, Key] = {}
    given: list[Given] = []

    def pass_to(clock: int) -> None:
        while due := [(min(held.timers.values()), key) for key, held in keys.items() if held.timers and min(held.timers.values()) < clock]:
            at, key = min(due)
            given.extend(keys[key].ring(key, at))

    for clock, time, key, row in records:
        pass_to(clock)
        held = keys.setdefault(key, Key())
        held.age(clock - 1)
        held.move(time)
        held.total += row["n"]
        if row["n"]:
            held.recent.append((time, row["n"]))
            held.last = time, row["n"]
        held.timers = {name: at for name, at in {**held.timers, **row["timers"]}.items() if at is not None}
        given.append(held.seen(key, "record"))
        if not arrival:
            given.extend(held.ring(key, time - 1))
    pass_to(end)
    return given


@st.composite
def inputs(draw: st.DrawFn, *, arrival: bool) -> list[tuple[int, int, str, dict[str, Any]]]:
    clock, records = 0, []
    for step in draw(st.lists(st.integers(0, 8), max_size=15)):
        clock += step
        time = clock + draw(st.integers(-8, 8)) if arrival else clock
        timers = draw(
            st.dictionaries(st.sampled_from("pqxyz"), st.none() | st.integers(-3, 12).map(lambda after, time=time: time + after), max_size=2)
        )
        records.append((clock, time, draw(st.sampled_from("ab")), {"n": draw(st.integers(0, 3)), "timers": timers}))
    return records


# Before each record: whether to save and load, and up to how long before it to fire the timers once more.
cuts = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), max_size=3)), min_size=16, max_size=16)


@pytest.mark.parametrize("order", ["event_time", "arrival"])
@settings(max_examples=150)
@given(data=st.data())
def test_however_it_is_cut_and_fired_it_gives_what_a_search_gives(data: st.DataObject, order: str) -> None:
    records = data.draw(inputs(arrival=order == "arrival"))
    end = max((time for _, time, _, _ in records), default=0) + 20
    wanted = expected(records, end, arrival=order == "arrival")
    assert one_pass(records, end, [(False, [])] * 16, order) == wanted
    with mock.patch.object(keyspace, "_MOST_AT_HAND", data.draw(st.integers(1, 4))):
        assert one_pass(records, end, data.draw(cuts), order) == wanted


@pytest.mark.parametrize("cut", [False, True])
def test_in_the_order_of_arrival_what_the_clock_has_passed_is_gone_for_older_records_too(*, cut: bool) -> None:
    records = [(clock, time, "a", {"n": n, "timers": {}}) for clock, time, n in ((0, 0, 1), (0, 3, 2), (5, 4, 0), (6, 4, 0), (11, 4, 0), (14, 4, 0))]
    given = one_pass(records, 40, [(cut, [])] * 7, "arrival")
    assert [values[2:] for _, _, _, values in given] == [[[1], 1], [[1, 2], 2], [[1, 2], 2], [[1, 2], 2], [[2], -1], [[], -1]]


def one_pass(records: list[Any], end: int, cuts: list[Any], order: str) -> list[Given]:
    space, given, parts, fired = made(Everything(), order=order), [], [], -1
    for (clock, time, key, row), (cut, early) in zip([*records, (end, end, None, None)], cuts, strict=False):
        for before in sorted(early, reverse=True):
            space.fire(clock - before, given)
        if cut:
            space = restarted(space, Everything(), parts, order=order)
        if clock > fired or order == "arrival":  # among records of one time nothing can be due
            space.fire(fired := clock, given)
        if key is not None:
            space.record((key,), row, time, time, PLACE, given)
    return given


# many keys, and none


class Count:
    output = {"count": "BIGINT"}
    state = {"count": hr.Value("BIGINT", 0)}

    def on_record(self, row, state):
        state.count = 0 if row.get("reset") else state.count + 1
        return {"count": state.count}


def test_more_keys_than_are_at_hand_count_as_few_do() -> None:
    space, given, many = made(Count()), [], keyspace._MOST_AT_HAND * 2 + 5
    for _ in range(2):
        for number in range(many):
            space.record((f"{number}",), {}, 1, 1, PLACE, given)
        assert len(space._at_hand) <= keyspace._MOST_AT_HAND
    assert [values for _, _, _, values in given] == [[1]] * many + [[2]] * many
    assert [key for _, _, key, _ in given[many:]] == [(f"{number}",) for number in range(many)]
    assert len(space) == len(space.take_touched()) == many


def test_a_key_of_which_nothing_is_left_takes_no_room_here_nor_where_it_was_saved() -> None:
    space, parts = made(Count()), []
    for row in ({}, {"reset": True}):
        space.record(("a",), row, 1, 1, PLACE, [])
        space.record(("b",), {}, 1, 1, PLACE, [])
        space = restarted(space, Count(), parts)
    assert (len(space), space._at_hand, len(space._touched)) == (1, {}, 0)
    assert [len(keys) for keys in made(Count()).load(parts)] == [2, 2]


def test_a_key_that_has_aged_takes_no_room_when_the_clock_has_passed_it() -> None:
    space = made(Everything())
    for key, time in (("a", 0), ("b", 5)):
        space.record((key,), {"n": 1, "timers": {}}, time, time, PLACE, [])
        space.record((key,), {"n": -1, "timers": {}}, time, time, PLACE, [])
    assert (len(space), space.timers, space.last_timer) == (2, 2, 15)
    space.fire(10, [])
    assert (len(space), space.timers) == (2, 2)
    space.fire(11, [])
    assert (len(space), space.timers) == (1, 1)
    space.fire(16, [])
    assert (len(space), space.timers, space.last_timer) == (0, 0, None)
    assert sorted(space.take_touched()) == [b"\x91\xa1a", b"\x91\xa1b"]


def test_only_keys_touched_are_saved() -> None:
    space = made(Count())
    for key in ("a", "b"):
        space.record((key,), {}, 1, 1, PLACE, [])
    first = space.encoded(space.take_touched())
    assert space.take_touched() == []
    space.record(("b",), {}, 2, 2, PLACE, [])
    touched = space.take_touched()
    assert touched == [b"\x91\xa1b"]
    second = space.encoded(touched)
    assert len(second) < len(first)
    new, given = made(Count()), []
    assert [sorted(keys) for keys in new.load([first, second])] == [[b"\x91\xa1a", b"\x91\xa1b"], [b"\x91\xa1b"]]
    new.wake(migrate=False)
    for key in ("a", "b"):
        new.record((key,), {}, 3, 3, PLACE, given)
    assert [values for _, _, _, values in given] == [[2], [3]]


def test_keys_are_told_apart_by_value_and_type_null_among_them() -> None:
    space, given, keys = made(Count(), by=["k", "n"]), [], [("1", 1), (None, 1), ("", 1), ("1", None), (None, None), ("null", 2**62)]
    for key in keys * 2:
        space.record(key, {}, 1, 1, PLACE, given)
    assert [(key, values) for _, _, key, values in given] == [(key, [1]) for key in keys] + [(key, [2]) for key in keys]


# timers


class Alarm:
    output = {"name": "STRING"}

    def on_record(self, row, state):
        for name, at in row.items():
            state.set_timer(name, at)

    def on_timer(self, name, state):
        return {"name": name}


def test_timers_go_off_in_the_order_of_times_then_keys_then_names() -> None:
    space, given = made(Alarm()), []
    for key, timers in {"b": {"y": 5, "x": 5, "w": 7}, "a": {"z": 5, "late": 9}, "c": {"v": 4}}.items():
        space.record((key,), timers, 1, 1, PLACE, given)
    space.fire(9, given)
    assert [(time, key[0], values[0]) for _, time, key, values in given] == [
        (4, "c", "v"), (5, "a", "z"), (5, "b", "x"), (5, "b", "y"), (7, "b", "w"),
    ]  # fmt: skip
    assert (space.timers, space.last_timer, len(space)) == (1, 9, 1)


def test_a_timer_that_is_moved_on_again_and_again_leaves_no_trail() -> None:
    space, given = made(Alarm()), []
    for time in range(1_000):
        space.fire(time, given)
        space.record(("a",), {"silent": time + 30}, time, time, PLACE, given)
    assert len(space.alarms) == 1
    assert given == []
    space.fire(2_000, given)
    assert given == [("", 1_029, ("a",), ["silent"])]


class Clocked:
    output = {"name": "STRING", "now": "BIGINT"}

    def on_record(self, row, state):
        for name, at in row.items():
            if at is None:
                state.clear_clock_timer(name)
            else:
                state.set_clock_timer(name, at)

    def on_clock(self, name, state):
        return {"name": name, "now": state.now}


def test_timers_of_the_clock_go_off_in_order_and_outlast_a_restart() -> None:
    space, given, parts = made(Clocked()), [], []
    assert space.next_clock_timer is None
    for key, timers in {"b": {"x": 100}, "a": {"y": 100, "w": 300}, "c": {"v": 50, "u": 60}}.items():
        space.record((key,), timers, 1, 1, PLACE, given)
    space.record(("c",), {"v": None}, 2, 2, PLACE, given)
    space = restarted(space, Clocked(), parts)
    assert space.next_clock_timer == 60
    space.fire_clock(100, 7, given)
    assert [(time, key[0], *values) for _, time, key, values in given] == [(7, "c", "u", 60), (7, "a", "y", 100), (7, "b", "x", 100)]
    assert space.next_clock_timer == 300
    given.clear()
    space.fire_clock(299, 8, given)
    assert given == []
    space = restarted(space, Clocked(), parts)
    assert (space.next_clock_timer, len(space)) == (300, 1)


# what is broadcast


class Ruled:
    output = {"low": "BIGINT"}
    shared = {"low": hr.Value("BIGINT", 10)}

    def on_broadcast(self, row, shared):
        shared.low = row["low"]

    def on_record(self, row, state):
        return {"low": state.shared.low}


def test_all_keys_see_what_was_told_last_those_at_hand_and_those_that_were_put_away() -> None:
    space, given = made(Ruled(), broadcast=rules), []

    def lows(*keys: str) -> list[int]:
        given.clear()
        for key in keys:
            space.record((key,), {}, 1, 1, PLACE, given)
        return [values[0] for _, _, _, values in given]

    assert lows("a", "b") == [10, 10]
    space.broadcast({"low": 5}, PLACE, 1, given)
    assert lows("a", "b", "new") == [5, 5, 5]
    space.broadcast({"low": "bad"}, PLACE, 1, given)
    assert lows("a") == [5]
    assert [failure["reason"] for failure in space.kernel.failures] == ["failed"]
    saved = space.shared.encode()
    space = made(Ruled(), broadcast=rules)
    space.restore_shared(saved)
    assert lows("a", "c") == [5, 5]


# versions


class Second(Everything):
    state_version = 2

    def migrate(self, version, values):
        if values["total"] == 3:
            raise ValueError("three")
        return {"total": values["total"] * 100, "recent": values.get("recent", [])}


def saved(*totals: int) -> list[bytes]:
    space = made(Everything())
    for number, total in enumerate(totals):
        space.record((f"{number}",), {"n": total, "timers": {"z": 50 + number}}, number, number, PLACE, [])
    return [space.encoded(space.take_touched())]


def test_a_newer_process_makes_all_state_that_of_its_version_and_saves_it() -> None:
    space, given = made(Second()), []
    parts = saved(1, 2)
    space.load(parts)
    space.wake(migrate=True)
    touched = space.take_touched()
    assert len(touched) == 2
    again = made(Second())
    again.load([*parts, space.encoded(touched)])
    again.wake(migrate=False)
    again.fire(60, given)
    assert [(time, key, values) for _, time, key, values in given] == [(50, ("0",), ["z", 100, [], -1]), (51, ("1",), ["z", 200, [], -1])]


def test_a_migration_that_fails_half_way_leaves_what_was_loaded() -> None:
    space, parts = made(Second()), saved(1, 2, 3)
    space.load(parts)
    before = dict(space._stored)
    with pytest.raises(ProcessError, match=r"^state of Second, key \{'k': '2'\}: Second.migrate\(1, .*\) fails: ValueError: three; fix migrate"):
        space.wake(migrate=True)
    assert space._stored == before
    assert space.take_touched() == []


def test_state_of_a_newer_process_is_refused() -> None:
    space = made(Second())
    space.record(("a",), {"n": 1, "timers": {}}, 1, 1, PLACE, [])
    older = made(Everything())
    older.load([space.encoded(space.take_touched())])
    with pytest.raises(ProcessError, match="is of version 2, and the process of 1; run the newer process"):
        older.wake(migrate=True)
