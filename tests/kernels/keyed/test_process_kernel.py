"""A process at work on one key: its methods called with values, and what becomes of what they give, keep and raise."""

# ruff: noqa: ARG001, ARG002, ARG005

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.errors import ProcessError
from headrace.kernels.keyed.process import Given, Place, ProcessKernel
from headrace.plan.pipeline import FAILED

COLUMNS = {"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}
PLACE = Place("readings", 2, 41, 1_700_000_000_000)
here = hr.stream("readings", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")
rules = hr.stream("rules", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")


class Base:
    output = {"n": "BIGINT NOT NULL", "v": "DOUBLE"}
    side_outputs = {"alarms": {"text": "STRING"}}
    state = {"count": hr.Value("BIGINT", 0), "values": hr.List("DOUBLE")}

    def on_record(self, row, state): ...


def made(on_record: Callable[..., Any] | None = None, *, base: type = Base, broadcast: Any = None, **options: Any) -> ProcessKernel:
    body = {name: options.pop(name) for name in [*options] if name.startswith("on_") or name in {"state", "shared"}}
    if on_record is not None:
        body["on_record"] = lambda _, row, state: on_record(row, state)
    return ProcessKernel(here.process(type("Made", (base,), body)(), by=["k"], broadcast=broadcast, **options).operator)


def at_work(kernel: ProcessKernel, *times: int, key: str | None = "a") -> tuple[Any, list[Given]]:
    """The state of a key, and what was given, after records of these times."""
    state, given = kernel.keep.fresh({"k": key}), []
    for time in times:
        kernel.record(state, {"k": key, "t": time, "v": 1.5}, time, time, PLACE, given)
    return state, given


def given_by(rows: Any) -> list[Given]:
    return at_work(made(lambda row, state: rows() if callable(rows) else rows), 7)[1]


ONE = ("", 7, ("a",), [1, None])


# what is given


@pytest.mark.parametrize(
    ("rows", "given"),
    [
        (None, []),
        ([], []),
        ({"n": 1}, [ONE]),
        ({"v": 2, "n": 1}, [("", 7, ("a",), [1, 2.0])]),
        ([{"n": 1}, {"n": 2}], [ONE, ("", 7, ("a",), [2, None])]),
        (({"n": 1}, {"n": 2}), [ONE, ("", 7, ("a",), [2, None])]),
        (lambda: ({"n": n} for n in (1, 2)), [ONE, ("", 7, ("a",), [2, None])]),
        (("alarms", {"text": "!"}), [("alarms", 7, ("a",), ["!"])]),
        ([("alarms", {}), {"n": 1}, ("", {"n": 1})], [("alarms", 7, ("a",), [None]), ONE, ONE]),
    ],
)
def test_what_a_method_may_give(rows: Any, given: list[Given]) -> None:
    assert given_by(rows) == given


def test_what_is_given_has_the_key_and_the_time_of_its_record() -> None:
    kernel = made(lambda row, state: [{"n": row["t"]}])
    state, given = kernel.keep.fresh({"k": None}), []
    for time in (5, 5, 3):
        kernel.record(state, {"t": time}, time, 99, PLACE, given)
    assert given == [("", time, (None,), [time, None]) for time in (5, 5, 3)]
    assert (state.time, state.now) == (3, 99)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (5, "gives 5; yield dicts of columns, or return one"),
        ("alarm", "gives 'alarm'; yield dicts of columns"),
        (b"alarm", "gives b'alarm'; yield dicts of columns"),
        (True, "gives True; yield dicts of columns"),
        (["alarm"], "gives 'alarm' as a row of the output; give a dict of columns"),
        ([None], "gives None as a row of the output"),
        ({"m": 1}, "gives 'm', which the output does not declare; there is: n, v"),
        ({"n": 1, "k": "a"}, "gives 'k', which the output does not declare"),
        ({"n": "1"}, "gives 'n' of the output off its type: '1' is not a whole number of 64 bits"),
        ({"n": 1.0}, "gives 'n' of the output off its type: 1.0 is not a whole number"),
        ({"n": 1, "v": float("nan")}, "gives 'v' of the output off its type: nan is not a finite DOUBLE"),
        ({"v": 1.0}, "gives no 'n', which the output declares NOT NULL"),
        ({"n": None}, "gives no 'n', which the output declares NOT NULL"),
        (("alarms", {"n": 1}), "gives 'n', which output 'alarms' does not declare; there is: text"),
        (("alarms", {"text": 1}), "gives 'text' of output 'alarms' off its type: 1 is not a STRING"),
        (("alarms", 5), "gives 5 as a row of output 'alarms'"),
        (("alrams", {"text": "!"}), "gives a row to output 'alrams'; did you mean 'alarms'?"),
        ([({"n": 1}, {"n": 2})], "gives a row to output {'n': 1}; there is: alarms"),
        ([("alarms", {"text": "!"}, 3)], "gives ('alarms', {'text': '!'}, 3) as a row of the output"),
        (lambda: ({"n": 1 // n} for n in (1, 0)), "raised ZeroDivisionError: integer division or modulo by zero at test_process_kernel.py:"),
    ],
)
def test_what_a_method_may_not_give(rows: Any, text: str) -> None:
    with pytest.raises(ProcessError) as caught:
        given_by(rows)
    assert text in str(caught.value)
    assert str(caught.value).startswith("process made, readings/2 offset 41, key k 'a', time 7, state {}: Made.")
    assert str(caught.value).endswith("; fix the process, or give it failed_to= a topic")


def test_without_side_outputs_none_is_named() -> None:
    kernel = made(lambda row, state: ("alarms", {}), base=type("Bare", (Base,), {"side_outputs": {}}))
    with pytest.raises(ProcessError, match=re.escape("gives a row to output 'alarms'; there is none")):
        at_work(kernel, 1)


# what is raised


def count(row, state):
    state.count += 1
    state.values.append(row["v"])
    state.set_timer("t", 100)


def raising(on: int, doing: Callable[..., Any] = lambda row, state: 1 / 0) -> Callable[..., Any]:
    """Count, and do something else at one of the records."""

    def on_record(row, state):
        yield {"n": state.count}
        count(row, state)
        if row["t"] == on:
            doing(row, state)

    return on_record


MISTAKES: dict[str, tuple[Callable[..., Any], str]] = {
    "raising": (lambda row, state: 1 / 0, r"Made\.<lambda> raised ZeroDivisionError: division by zero at test_process_kernel\.py:\d+"),
    "a state that is not declared": (
        lambda row, state: setattr(state, "cuont", 1),
        r"Made\.<lambda> keeps state it did not declare: 'cuont'; did you mean 'count'\?",
    ),
    "a state read that is not declared": (
        lambda row, state: state.total,
        r"Made\.<lambda> keeps state it did not declare: 'total'; there is: count, values",
    ),
    "an attribute of something else": (
        lambda row, state: row.total,
        r"Made\.<lambda> raised AttributeError: 'dict' object has no attribute 'total' at",
    ),
    "a value off its type": (
        lambda row, state: setattr(state, "count", "1"),
        r"Made\.<lambda> raised ValueError: state 'count' is set off its type: '1' is not a whole number of 64 bits",
    ),
    "an element off its type": (
        lambda row, state: state.values.append("x"),
        r"Made\.<lambda> raised ValueError: 'x' is not a finite DOUBLE at test_process_kernel",
    ),
    "a timer at no time": (
        lambda row, state: state.set_timer("t", 1.5),
        r"Made\.<lambda> raised ValueError: a timer is set to 1\.5, which is no whole number",
    ),
}


@pytest.mark.parametrize(("mistake", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_stops_the_process_with_position_key_time_and_state(mistake: Callable[..., Any], text: str) -> None:
    kernel, given = made(raising(2, mistake)), []
    state = kernel.keep.fresh({"k": "a"})
    kernel.record(state, {"t": 1, "v": 0.5}, 1, 1, PLACE, given)
    with pytest.raises(ProcessError, match=f"^process made, readings/2 offset 41, key k 'a', time 2, state .*: {text}") as caught:
        kernel.record(state, {"t": 2, "v": 0.5}, 2, 2, PLACE, given)
    assert caught.value.__cause__ is not None
    assert given == [("", 1, ("a",), [0, None])]
    assert kernel.failures == []


@pytest.mark.parametrize(("mistake", "text"), MISTAKES.values(), ids=MISTAKES)
def test_with_failed_to_the_record_goes_there_and_the_state_is_as_it_was(mistake: Callable[..., Any], text: str) -> None:
    kernel = made(raising(2, mistake), failed_to="made.failed")
    state, given = at_work(kernel, 1, 2, 3)
    assert given == [("", 1, ("a",), [0, None]), ("", 3, ("a",), [1, None])]
    assert (state.count, list(state.values), state.timers, state.time, state.now) == (2, [1.5, 1.5], {"t": 100}, 3, 3)
    (failure,) = kernel.failures
    assert tuple(failure) == FAILED.names
    assert re.match(text, failure.pop("detail"))
    assert failure == {
        "pipeline": None, "topic": "readings", "partition": 2, "offset": 41, "reason": "failed", "arrived_ms": 1_700_000_000_000, "raw": '{"k":"a","t":2,"v":1.5}',
        "process": "made", "key": '{"k":"a"}', "state": '{"count":1,"values":[1.5],"@timers":{"t":100},"@time":2}',
    }  # fmt: skip


def test_a_failure_at_the_first_record_of_a_key_leaves_nothing() -> None:
    kernel = made(raising(1), failed_to="made.failed")
    state, given = at_work(kernel, 1, key=None)
    assert (given, kernel.keep.encode(state), kernel.failures[0]["key"], kernel.failures[0]["state"]) == ([], None, '{"k":null}', None)


def test_what_was_too_old_before_a_failure_stays_gone_behind_it() -> None:
    kernel = made(
        raising(20), base=type("Aging", (Base,), {"state": {**Base.state, "values": hr.List("DOUBLE", ttl=hr.milliseconds(10))}}), failed_to="f"
    )
    state, _ = at_work(kernel, 1, 20)
    assert (state.count, list(state.values)) == (1, [])
    assert json.loads(kernel.failures[0]["state"]) == {"count": 1, "@timers": {"t": 100}, "@time": 20}


def test_an_end_of_the_program_is_no_failure_of_the_process() -> None:
    def end(row, state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_work(made(end, failed_to="f"), 1)


def test_entered_is_odd_while_a_method_is_at_work_and_even_else_however_it_is_left() -> None:
    seen = []

    def look(row, state):
        seen.append(kernel.entered % 2)
        return 1 // row["t"]

    kernel = made(look, failed_to="f")
    at_work(kernel, 0, 0)
    assert (seen, kernel.entered % 2, len(kernel.failures)) == ([1, 1], 0, 2)


# timers


class Timed(Base):
    """Gives the name of each timer with its count; `plan` says what a timer sets next."""

    output = {"name": "STRING", "time": "BIGINT", "now": "BIGINT"}
    plan: dict[str, tuple[str, int]] = {}

    def on_record(self, row, state):
        for name, time in row.get("set", {}).items():
            state.set_timer(name, time)
        for name in row.get("clear", ()):
            state.clear_timer(name)
        return {"name": "record", "time": row["t"], "now": state.now}

    def on_timer(self, name, state):
        if name in self.plan:
            state.set_timer(*self.plan[name])
        return {"name": name, "time": state.time, "now": state.now}


def timed(*records: dict[str, Any], upto: int = 100, plan: dict[str, tuple[str, int]] | None = None, **options: Any) -> list[tuple[Any, ...]]:
    """Names and times of what is given for records, each with the timers before it, and the timers behind them."""
    kernel, given = made(base=type("Planned", (Timed,), {"plan": plan or {}}), **options), []
    state = kernel.keep.fresh({"k": "a"})
    for row in records:
        kernel.fire(state, row["t"], given)
        kernel.record(state, row, row["t"], row["t"], PLACE, given)
    kernel.fire(state, upto, given)
    assert all((time, now) == (values[1], values[2]) for _, time, _, values in given for now in [values[2]])
    return [(values[0], time) for _, time, _, values in given]


R = "record"


@pytest.mark.parametrize(
    ("records", "plan", "given"),
    [
        ([{"t": 1, "set": {"a": 5}}], {}, [(R, 1), ("a", 5)]),
        ([{"t": 1, "set": {"a": 99}}], {}, [(R, 1), ("a", 99)]),
        ([{"t": 1, "set": {"a": 100}}], {}, [(R, 1)]),  # the clock is at 100, and not past it
        ([{"t": 1, "set": {"b": 5, "a": 5, "c": 4}}], {}, [(R, 1), ("c", 4), ("a", 5), ("b", 5)]),
        ([{"t": 1, "set": {"a": 5}}, {"t": 5}], {}, [(R, 1), (R, 5), ("a", 5)]),  # at equal times the record is first
        ([{"t": 1, "set": {"a": 5}}, {"t": 6}], {}, [(R, 1), ("a", 5), (R, 6)]),
        ([{"t": 1, "set": {"a": 5}}, {"t": 2, "set": {"a": 8}}, {"t": 7}], {}, [(R, 1), (R, 2), (R, 7), ("a", 8)]),
        ([{"t": 1, "set": {"a": 8}}, {"t": 2, "set": {"a": 3}}, {"t": 7}], {}, [(R, 1), (R, 2), ("a", 3), (R, 7)]),
        ([{"t": 1, "set": {"a": 5}}, {"t": 2, "clear": ["a", "b"]}], {}, [(R, 1), (R, 2)]),
        ([{"t": 5, "set": {"a": 5}}, {"t": 5}], {}, [(R, 5), (R, 5), ("a", 5)]),  # of the record's own time: behind its like
        ([{"t": 5, "set": {"a": 4, "b": -9}}, {"t": 5}], {}, [(R, 5), ("b", 5), ("a", 5), (R, 5)]),  # in the past: at once
        ([{"t": 1, "set": {"a": 5}}], {"a": ("b", 5)}, [(R, 1), ("a", 5), ("b", 5)]),
        ([{"t": 1, "set": {"a": 5, "c": 5}}], {"a": ("b", 3)}, [(R, 1), ("a", 5), ("b", 5), ("c", 5)]),
        ([{"t": 1, "set": {"a": 5}}, {"t": 8}], {"a": ("b", 7), "b": ("c", 99)}, [(R, 1), ("a", 5), ("b", 7), (R, 8), ("c", 99)]),
        ([{"t": 1, "set": {"a": 5}}], {"a": ("a", 100)}, [(R, 1), ("a", 5)]),
    ],
)  # fmt: skip
def test_timers_go_off_in_the_order_of_times_then_names(records: list[dict[str, Any]], plan: dict[str, Any], given: list[Any]) -> None:
    assert timed(*records, plan=plan) == given


def test_a_timer_in_the_past_goes_off_behind_its_record_whenever_the_host_asks() -> None:
    kernel, given = made(base=Timed), []
    state = kernel.keep.fresh({"k": "a"})
    for row in ({"t": 5, "set": {"a": 4, "b": 5, "c": -1}}, {"t": 5}):
        kernel.record(state, row, 5, 9, PLACE, given)
    assert [(time, *values) for _, time, _, values in given] == [(5, R, 5, 9), (5, "c", 5, 9), (5, "a", 5, 9), (5, R, 5, 9)]
    assert state.timers == {"b": 5}


def test_in_the_order_of_arrival_a_timer_waits_for_the_clock_even_if_the_record_is_past_it() -> None:
    kernel, given = made(base=Timed, order="arrival"), []
    state = kernel.keep.fresh({"k": "a"})
    kernel.record(state, {"t": 50, "set": {"a": 20}}, 50, 50, PLACE, given)
    kernel.fire(state, 20, given)
    kernel.record(state, {"t": 10}, 10, 10, PLACE, given)
    kernel.fire(state, 21, given)
    assert [(values[0], time) for _, time, _, values in given] == [(R, 50), (R, 10), ("a", 20)]


def test_a_state_tells_its_next_timer() -> None:
    kernel = made(base=Timed)
    state = kernel.keep.fresh({})
    assert kernel.next_timer(state) is None
    state.set_timer("a", 5)
    state.set_timer("b", 3)
    assert kernel.next_timer(state) == 3


@pytest.mark.parametrize("again", [5, 4, -(2**63)])
def test_a_timer_that_sets_itself_again_and_again_is_an_error(again: int) -> None:
    with pytest.raises(ProcessError, match=r"^process made, key k 'a', time 5, .*: Made sets timer 'a' at its own time again and again$"):
        timed({"t": 1, "set": {"a": 5}}, plan={"a": ("a", again)})


def test_two_timers_that_set_each_other_at_their_own_time_are_an_error_too() -> None:
    with pytest.raises(ProcessError, match="again and again"):
        timed({"t": 1, "set": {"a": 5}}, plan={"a": ("b", 5), "b": ("a", 5)})


def test_many_timers_of_one_time_are_no_error() -> None:
    assert len(timed({"t": 1, "set": {f"{n}": 5 for n in range(1_200)}})) == 1_201
    assert len(timed({"t": 1, "set": {"a": 2}}, upto=20_000, plan={"a": ("b", 2), "b": ("c", 2)})) == 4


def test_a_timer_may_set_itself_on_and_on_at_later_times() -> None:
    class Ticking(Timed):
        def on_timer(self, name, state):
            state.set_timer(name, state.time + 1)
            return {"name": name, "time": state.time, "now": state.now}

    kernel, given = made(base=Ticking), []
    state = kernel.keep.fresh({"k": "a"})
    state.set_timer("a", 0)
    kernel.fire(state, 12_000, given)
    assert [time for _, time, _, _ in given] == list(range(12_000))


def test_a_timer_without_on_timer_is_an_error() -> None:
    kernel = made(lambda row, state: state.set_timer("t", 5))
    state, given = at_work(kernel, 1)
    with pytest.raises(ProcessError, match=re.escape("Made sets timer 't'; write on_timer(self, name, state)")):
        kernel.fire(state, 6, given)


def test_a_failing_timer_is_told_with_its_name_and_time_and_does_not_go_off_again() -> None:
    def on_timer(self, name, state):
        state.count = 99
        state.clear_timer("b")
        raise RuntimeError("no")

    kernel = made(count, on_timer=on_timer, failed_to="f")
    state, given = at_work(kernel, 1)
    state.set_timer("b", 200)
    kernel.fire(state, 150, given)
    assert (given, state.count, state.timers) == ([], 1, {"b": 200})
    (failure,) = kernel.failures
    assert failure["detail"].startswith("Made.on_timer raised RuntimeError: no at test_process_kernel.py:")
    assert {name: failure[name] for name in ("topic", "partition", "offset", "arrived_ms", "raw", "key")} == {
        "topic": None, "partition": None, "offset": None, "arrived_ms": None, "raw": '{"timer":"t","time":100}', "key": '{"k":"a"}',
    }  # fmt: skip
    with pytest.raises(
        ProcessError, match=r"^process made, key k 'a', time 100, state .*: Made.on_timer raised RuntimeError: no at test_process_kernel.py"
    ):
        stopping = made(count, on_timer=on_timer)
        stopping.fire(at_work(stopping, 1)[0], 101, [])


def test_what_ages_is_gone_when_the_clock_has_passed_it_though_no_timer_goes_off() -> None:
    kernel = made(base=type("Aging", (Base,), {"state": {"v": hr.Value("BIGINT", 0, ttl=hr.milliseconds(10))}}))
    state: Any = kernel.keep.fresh({})
    state.v = 5
    kernel.fire(state, 10, [])
    assert state.v == 5
    kernel.fire(state, 11, [])
    assert state.v == 0


# the clock on the wall


class Clocked(Base):
    output = {"name": "STRING", "time": "BIGINT", "now": "BIGINT"}

    def on_clock(self, name, state):
        if name == "again":
            state.set_clock_timer("again", state.now)
        return {"name": name, "time": state.time, "now": state.now}


def test_timers_of_the_clock_go_off_up_to_its_time_at_an_event_time() -> None:
    kernel, given = made(base=Clocked), []
    state, _ = at_work(kernel, 40)
    for name, at in (("b", 1_000), ("a", 1_000), ("c", 999), ("d", 1_001), ("e", 5)):
        state.set_clock_timer(name, at)
    state.clear_clock_timer("e")
    kernel.clock(state, 1_000, 50, given)
    assert given == [("", 50, ("a",), [name, 50, at]) for name, at in (("c", 999), ("a", 1_000), ("b", 1_000))]
    kernel.clock(state, 1_001, 30, given)  # event time does not go back
    assert given[3:] == [("", 50, ("a",), ["d", 50, 1_001])]
    assert state.clock_timers == {}


def test_a_timer_of_the_clock_that_sets_itself_again_and_again_is_an_error() -> None:
    kernel = made(base=Clocked)
    state, given = at_work(kernel, 40)
    state.set_clock_timer("again", 7)
    with pytest.raises(ProcessError, match=r"^process made, .*: Made sets clock timer 'again' at its own time again and again$"):
        kernel.clock(state, 10, 40, given)


def test_a_timer_of_the_clock_without_on_clock_is_an_error() -> None:
    kernel = made(lambda row, state: state.set_clock_timer("t", 5))
    state, given = at_work(kernel, 1)
    with pytest.raises(ProcessError, match=re.escape("Made sets clock timer 't'; write on_clock(self, name, state)")):
        kernel.clock(state, 5, 1, given)


def test_a_failing_timer_of_the_clock_is_told_with_its_name_and_time() -> None:
    kernel = made(lambda row, state: state.set_clock_timer("t", 5), on_clock=lambda self, name, state: 1 / 0, failed_to="f")
    state, given = at_work(kernel, 1)
    kernel.clock(state, 9, 1, given)
    assert (given, state.clock_timers, kernel.failures[0]["raw"]) == ([], {}, '{"clock_timer":"t","time":5}')


# what is broadcast


class Ruled(Base):
    shared = {"low": hr.Value("DOUBLE", 10.0), "limits": hr.Map("ROW<low DOUBLE>")}

    def on_broadcast(self, row, shared):
        shared.low = row["v"]
        shared.limits.setdefault("all", {})["low"] = row["v"]
        if row.get("bad"):
            row["bad"](shared)

    def on_record(self, row, state):
        return {"n": 0, "v": state.shared.low}


def told(*rows: dict[str, Any], given: list[Given] | None = None, **options: Any) -> tuple[ProcessKernel, Any, list[bool]]:
    from headrace.kernels.keyed.shared import Shared

    kernel = made(base=Ruled, broadcast=rules, **options)
    shared, taken = Shared(kernel.operator.declared), [] if given is None else given
    return kernel, shared, [kernel.broadcast(shared, row, Place("rules", 0, number), number, taken) for number, row in enumerate(rows)]


def test_a_broadcast_is_applied_and_keys_read_it() -> None:
    kernel, shared, applied = told({"v": 3}, {"v": 4})
    assert (applied, type(shared.low), shared.low, shared.limits) == ([True, True], float, 4.0, {"all": {"low": 4.0}})
    state, given = kernel.keep.fresh({"k": "a"}), []
    state._shared = shared.view()
    kernel.record(state, {}, 1, 1, PLACE, given)
    assert given == [("", 1, ("a",), [0, 4.0])]


@pytest.mark.parametrize("failed_to", [None, "made.failed"])
@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (lambda shared: 1 / 0, r"Made.on_broadcast raised ZeroDivisionError: division by zero at test_process_kernel.py:\d+"),
        (lambda shared: setattr(shared, "low", "x"), "Made.on_broadcast raised ValueError: shared 'low' is off its type: 'x' is not a finite DOUBLE"),
        (lambda shared: setattr(shared, "lwo", 1), r"Made.on_broadcast raised AttributeError: shared has no 'lwo'; did you mean 'low'\?"),
        (lambda shared: shared.limits["all"].update(high=1), "Made.on_broadcast raised ValueError: shared 'limits' is off its type"),
    ],
)
def test_a_broadcast_that_cannot_be_applied_is_kept_out_and_the_old_one_stays(bad: Any, text: str, failed_to: str | None) -> None:
    kernel, shared, applied = told({"v": 3}, {"v": 99, "bad": bad}, failed_to=failed_to)
    assert (applied, shared.low, shared.limits) == ([True, False], 3.0, {"all": {"low": 3.0}})
    (failure,) = kernel.failures
    assert re.match(text, failure["detail"])
    assert (failure["topic"], failure["offset"], failure["key"]) == ("rules", 1, "{}")
    assert json.loads(failure["state"]) == {"low": 3.0, "limits": {"all": {"low": 3.0}}}
    assert kernel.entered % 2 == 0


def test_rows_for_a_broadcast_record_name_their_key_and_have_its_time() -> None:
    def on_broadcast(self: Any, row: Any, shared: Any) -> Any:
        shared.low = row["v"]
        yield {"k": "a", "n": 1}
        yield "alarms", {"text": f"low {shared.low}"}

    given: list[Given] = []
    _, _, applied = told({"v": 3}, {"v": 4}, given=given, on_broadcast=on_broadcast)
    assert applied == [True, True]
    assert given == [
        ("", 0, ("a",), [1, None]), ("alarms", 0, (None,), ["low 3"]), ("", 1, ("a",), [1, None]), ("alarms", 1, (None,), ["low 4"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([{"k": "a", "n": 1}, {"k": 7, "n": 1}], "gives 'k' of the key off its type: 7 is not a STRING"),
        ([{"k": "a", "n": 1}, {"k": "a"}], "gives no 'n', which the output declares NOT NULL"),
        ([{"k": "a", "n": 1, "m": 2}], "gives 'm', which the output does not declare; did you mean 'n'?"),
        ([("other", {})], "gives a row to output 'other'; it is 'alarms'"),
        ([["k", "a"]], "gives ['k', 'a'] as a row of the output; give a dict of columns"),
        (7, "gives 7; yield dicts of columns, or return one"),
    ],
)
def test_a_broadcast_record_whose_rows_cannot_be_emitted_is_kept_out_as_a_whole(rows: Any, text: str) -> None:
    given: list[Given] = []

    def on_broadcast(self: Any, row: Any, shared: Any) -> Any:
        shared.low = row["v"]
        return rows

    kernel, shared, applied = told({"v": 3}, given=given, on_broadcast=on_broadcast, failed_to="failed")
    assert (applied, given, shared.low) == ([False], [], 10.0)
    assert kernel.failures[0]["detail"].startswith(f"Made.on_broadcast {text.partition(';')[0]}")


@pytest.mark.parametrize(
    "write",
    [
        lambda shared: setattr(shared, "low", 1.0),
        lambda shared: shared.limits.update(x=None),
        lambda shared: shared.limits["all"].update(low=1.0),
        lambda shared: shared.limits.__setitem__("all", {}),
    ],
)
def test_on_record_cannot_write_what_is_shared(write: Callable[[Any], Any]) -> None:
    kernel, shared, _ = told({"v": 3}, on_record=lambda row, state: write(state.shared))
    state = kernel.keep.fresh({"k": "a"})
    state._shared = shared.view()
    with pytest.raises(ProcessError, match=r"raised \w+: (shared 'low'|state.shared) is written by on_broadcast alone at test_process_kernel.py:"):
        kernel.record(state, {}, 1, 1, PLACE, [])
    assert (shared.low, shared.limits) == (3.0, {"all": {"low": 3.0}})


# what a process keeps on itself


def keeping(change: Callable[[Any], Any]) -> ProcessKernel:
    class Keeping(Base):
        def __init__(self) -> None:
            self.limit, self.seen = 5, []

        def on_record(self, row, state):
            change(self)

    return made(base=Keeping)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda process: setattr(process, "limit", 6), "limit"),
        (lambda process: process.seen.append(1), "seen"),
        (lambda process: setattr(process, "last", None), "last"),
        (lambda process: delattr(process, "seen"), "seen"),
    ],
)
def test_a_process_that_keeps_something_on_itself_is_an_error(change: Callable[[Any], Any], name: str) -> None:
    kernel = keeping(change)
    kernel.check_itself()
    at_work(kernel, 1)
    with pytest.raises(ProcessError) as caught:
        kernel.check_itself()
    assert str(caught.value) == f"process made: Made keeps {name!r} on itself, where no commit knows of it; declare it in state"


def test_a_process_that_keeps_nothing_on_itself_passes() -> None:
    kernel = keeping(lambda process: setattr(process, "limit", 5))
    at_work(kernel, 1)
    kernel.check_itself()


def test_a_place_says_where_a_record_came_from() -> None:
    assert [str(place) for place in (PLACE, Place("t", 0, 0), Place("t", None, None))] == ["readings/2 offset 41", "t/0 offset 0", "t"]


def test_a_timer_of_the_clock_that_is_called_late_sees_the_clock() -> None:
    class Late(Base):
        output = {"now": "BIGINT", "clock": "BIGINT"}

        def on_record(self, _row: Any, state: Any) -> Any:
            state.set_clock_timer("bell", state.now + 10)
            return {"now": state.now, "clock": state.clock}

        def on_clock(self, _name: str, state: Any) -> Any:
            return {"now": state.now, "clock": state.clock}

    kernel = made(base=Late)
    state, given = kernel.keep.fresh({"k": "a"}), []
    kernel.record(state, {}, 5, 7, None, given)
    kernel.clock(state, 17, 5, given, 4_000)
    kernel.record(state, {}, 6, 9_000, None, given)
    assert [values for *_, values in given] == [[7, 7], [17, 4_000], [9_000, 9_000]]
