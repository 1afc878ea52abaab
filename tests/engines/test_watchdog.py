"""A process that does not end: it is ended within its limit, and none that ends is ever disturbed."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.engines import watchdog
from headrace.engines.watchdog import watch
from headrace.errors import ProcessError
from headrace.kernels.keyed.process import Given, OverdueError, Place, ProcessKernel
from headrace.kernels.keyed.shared import Shared

LIMIT = 0.2
SOON = 120.0  # no test waits longer, were nothing ended
COLUMNS = {"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}
here = hr.stream("x", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")
rules = hr.stream("rules", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")


class Doing:
    """Does at each record what it holds under `do`."""

    output = {"n": "BIGINT"}
    state = {"count": hr.Value("BIGINT", 0)}

    def on_record(self, row, state):
        state.count += 1
        if row["do"] is not None:
            row["do"]()
        yield {"n": state.count}

    def on_timer(self, name, state):  # noqa: ARG002
        for_ever()


class Ruled(Doing):
    shared = {"low": hr.Value("BIGINT", 0)}

    def on_broadcast(self, row, shared):
        shared.low = 1
        row["do"]()


def for_ever() -> None:
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        pass
    raise AssertionError("nobody ended it")


def swallowing() -> None:
    """Catch what it is ended with, and go on."""
    for _ in range(2):
        try:
            for_ever()
        except BaseException as error:  # noqa: BLE001
            assert isinstance(error, OverdueError)


def made(code: Any, limit: float = LIMIT, **options: Any) -> ProcessKernel:
    return ProcessKernel(here.process(code, by=["k"], limit=hr.seconds(limit), **options).operator)


def at(kernel: ProcessKernel, state: Any, do: Callable[[], Any] | None) -> list[Given]:
    given: list[Given] = []
    kernel.record(state, {"do": do}, 5, 5, Place("x", 0, 3), given)
    return given


@pytest.mark.parametrize(
    "do", [for_ever, swallowing, lambda: [for_ever() for _ in range(9)]], ids=["a loop", "one that swallows its end", "a nested loop"]
)
def test_a_process_that_does_not_end_is_ended_within_its_limit(do: Callable[[], None]) -> None:
    kernel = made(Doing())
    watch(kernel)
    state, began = kernel.keep.fresh({"k": "a"}), time.monotonic()
    with pytest.raises(ProcessError) as caught:
        at(kernel, state, do)
    assert LIMIT <= time.monotonic() - began < SOON
    assert str(caught.value) == (
        "process doing, x/0 offset 3, key k 'a', time 5, state {'count': 1}: Doing.on_record does not end within 0.2 s; "
        "fix the process, or give it failed_to= a topic"
    )
    assert at(kernel, state, None) == [("", 5, ("a",), [2])]  # and the next is let alone


def test_with_failed_to_the_record_goes_there_and_the_next_ones_are_handled() -> None:
    kernel = made(Doing(), failed_to="x.failed")
    watch(kernel)
    state = kernel.keep.fresh({"k": "a"})
    assert [at(kernel, state, do) for do in (None, for_ever, None)] == [[("", 5, ("a",), [1])], [], [("", 5, ("a",), [2])]]
    assert [failure["detail"] for failure in kernel.failures] == ["Doing.on_record does not end within 0.2 s"]
    assert (kernel.entered % 2, kernel.overdue) == (0, None)


def test_timers_and_broadcasts_are_ended_too() -> None:
    kernel = made(Ruled(), broadcast=rules)
    watch(kernel)
    state, shared = kernel.keep.fresh({"k": "a"}), Shared(kernel.operator.declared)
    state.set_timer("t", 1)
    with pytest.raises(ProcessError, match=r"Ruled\.on_timer does not end within 0\.2 s"):
        kernel.fire(state, 2, [])
    assert not kernel.broadcast(shared, {"do": for_ever}, Place("rules", 0, 1), 1, [])
    assert shared.low == 0
    assert kernel.failures[0]["detail"] == "Ruled.on_broadcast does not end within 0.2 s"


def test_a_quick_process_is_never_disturbed() -> None:
    limit = 1.0  # a busy machine may leave a thread standing for longer than LIMIT
    kernel = made(Doing(), limit)
    watch(kernel)
    state, end = kernel.keep.fresh({"k": "a"}), time.monotonic() + 1.5 * limit
    while time.monotonic() < end:
        at(kernel, state, None)
        at(kernel, state, lambda: time.sleep(LIMIT / 40))
    idle = time.monotonic() + 1.5 * limit
    while time.monotonic() < idle:  # what the engine does between two records is none of its business
        pass
    assert at(kernel, state, None)


def test_an_end_decided_while_the_method_is_left_is_its_own_and_hits_nothing_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = made(Doing(), failed_to="x.failed")
    state, thread = kernel.keep.fresh({"k": "a"}), ctypes.c_ulong(threading.get_ident())
    decided, raised = threading.Event(), watchdog._raise_in

    def slowly(thread: Any, error: Any) -> int:
        if error is not None:
            decided.set()
            end = time.monotonic() + SOON
            while kernel.entered % 2 and time.monotonic() < end:  # the method is left only now
                time.sleep(0.001)
        return raised(thread, error)

    monkeypatch.setattr(watchdog, "_raise_in", slowly)
    for number in range(1, 21):
        decided.clear()
        helper = threading.Thread(target=watchdog._end, args=(kernel, kernel.entered + 1, thread))
        assert at(kernel, state, lambda helper=helper: (helper.start(), decided.wait(SOON))) == []
        helper.join(SOON)
        for _ in range(1000):  # a stray one would be raised here
            pass
        assert (len(kernel.failures), kernel.overdue, state.count) == (number, None, 0)


TRACED = """
import sys
from engines.test_watchdog import Doing, at, for_ever, made
from headrace.engines.watchdog import watch
kernel = made(Doing(), failed_to="x.failed")
watch(kernel)
state = kernel.keep.fresh({"k": "a"})
assert at(kernel, state, for_ever) == []
sys.settrace(lambda *_: None)
assert any(at(kernel, state, None) for _ in range(100))  # on a busy machine a call may take longer than its limit
"""


def test_a_tracer_works_after_an_end() -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", TRACED], env={**os.environ, "PYTHONPATH": paths}, check=True, timeout=5 * SOON)


def test_an_end_decided_too_late_is_none() -> None:
    kernel = made(Doing())
    state, thread = kernel.keep.fresh({"k": "a"}), ctypes.c_ulong(threading.get_ident())
    entered: list[int] = []
    at(kernel, state, lambda: entered.append(kernel.entered))
    watchdog._end(kernel, entered[0], thread)
    assert at(kernel, state, lambda: watchdog._end(kernel, entered[0], thread)) == [("", 5, ("a",), [2])]
    assert kernel.overdue is None


def test_the_watch_ends_with_its_kernel() -> None:
    before = {*threading.enumerate()}
    kernel = made(Doing())
    watch(kernel)
    (thread,) = {*threading.enumerate()} - before
    gone = weakref.ref(kernel)
    del kernel
    gc.collect()
    thread.join(SOON)
    assert gone() is None
    assert not thread.is_alive()
