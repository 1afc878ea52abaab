"""The supervisor, with parts that do as the test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from headrace._clock import now_ms
from headrace.connectors.progress import Health
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.supervise import Part, PipelineThread, Supervisor

LIMIT = 400.0


class Lines:
    """A structured logger that keeps what it is given."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **more: Any) -> None:
        self.all.append((event, more))

    warning = error = info

    def states(self, part: str) -> list[str]:
        return [event for event, more in self.all if more.get("part") == part]


class Scripted(Part):
    """Raises what it is given, one at each run, and then runs until it is stopped."""

    def __init__(self, name: str, *errors: Exception | None, kind: str = "in", stage: int = 0, ended: list[str] | None = None, definition: Any = 0):
        super().__init__(name, definition)
        self.kind, self.stage = kind, stage  # type: ignore[misc]
        self._errors, self.runs, self._ended = list(errors), 0, [] if ended is None else ended

    async def run(self, stop: Callable[[], bool], told: Callable[[str], None]) -> None:
        self.runs += 1
        told(f"run {self.runs}")
        if self._errors:
            error = self._errors.pop(0)
            if error is not None:
                raise error
            return
        self.health = Health("running", now_ms())
        while not stop():  # noqa: ASYNC110  (it is a function that is asked)
            await asyncio.sleep(0.01)
        self._ended.append(self.name)


def supervised(
    *parts: Part, until: Callable[[], bool], lines: Lines | None = None, reload: Callable[[], Sequence[Part] | None] = lambda: None, **options: Any
) -> bool:
    async def work() -> bool:
        supervisor = Supervisor(parts, lines or Lines(), **options)
        async with asyncio.timeout(LIMIT):
            return await supervisor.run(until, reload)

    return asyncio.run(work())


def test_parts_end_in_the_order_of_their_stages() -> None:
    ended: list[str] = []
    parts = [Scripted(name, stage=stage, ended=ended) for name, stage in (("c", 2), ("a", 0), ("b", 1), ("aa", 0))]
    assert supervised(*parts, until=lambda: all(part.runs for part in parts))
    assert sorted(ended[:2]) == ["a", "aa"]
    assert ended[2:] == ["b", "c"]


class Slow(Scripted):
    """Takes its time to connect at each run: the supervisor sees that it does."""

    async def run(self, stop: Callable[[], bool], told: Callable[[str], None]) -> None:
        self.health = Health("connecting", now_ms())
        await asyncio.sleep(0.3)
        await super().run(stop, told)


def test_the_same_fault_is_said_once_however_long_another_try_takes() -> None:
    lines = Lines()
    part = Slow("a", *[EnvironmentFault("is away") for _ in range(3)])
    assert supervised(part, until=lambda: part.health.state == "running", lines=lines)
    assert [state for state in lines.states("a") if state in {"connecting", "waiting"}] == ["connecting", "waiting"]


def test_a_part_that_fails_is_restarted_until_it_runs() -> None:
    lines = Lines()
    part = Scripted("a", EnvironmentFault("is away"), RuntimeError("odd"), EnvironmentFault("is away"))
    assert supervised(part, until=lambda: part.health.state == "running", lines=lines)
    assert part.runs == 4
    assert lines.states("a")[-1] == "ended"
    assert any("not foreseen: RuntimeError: odd, at " in more.get("why", "") for _, more in lines.all)


@pytest.mark.parametrize("error", [PlanError("is wrong"), DataError("is spoilt")])
def test_a_part_that_has_failed_for_good_is_not_restarted_and_the_others_go_on(error: Exception) -> None:
    bad, good, lines = Scripted("bad", error), Scripted("good"), Lines()
    assert not supervised(bad, good, until=lambda: bad.health.state == "failed" and good.health.state == "running", lines=lines)
    assert (bad.runs, good.runs, lines.states("bad")[-1]) == (1, 1, "failed")


def test_it_ends_when_no_part_has_anything_more_to_do() -> None:
    assert supervised(Scripted("a", None), Scripted("b", None), until=lambda: False)


def test_a_reload_restarts_what_has_changed_and_what_has_failed() -> None:
    same, gone, old, bad = Scripted("same"), Scripted("gone"), Scripted("old", definition=1), Scripted("bad", PlanError("is wrong"))
    new = [Scripted("same"), Scripted("old", definition=2), Scripted("bad"), Scripted("new")]
    asked = [new]
    lines = Lines()

    def reload() -> Sequence[Part] | None:
        return asked.pop() if asked and bad.health.state == "failed" and same.runs else None

    assert supervised(same, gone, old, bad, until=lambda: all(part.runs for part in new[1:]), lines=lines, reload=reload)
    assert (same.runs, new[0].runs) == (1, 0)
    assert ("reloaded", {"started": ["old", "bad", "new"], "stopped": ["gone"], "unchanged": ["same"]}) in lines.all


def test_a_part_that_does_not_end_is_named() -> None:
    free = threading.Event()

    class Stuck(Scripted):
        async def run(self, stop: Callable[[], bool], told: Callable[[str], None]) -> None:
            self.runs += 1
            told(f"asked to stop: {stop()}")
            await asyncio.to_thread(free.wait)

    part = Stuck("stuck")
    threading.Timer(1.0, free.set).start()
    with pytest.raises(EnvironmentFault, match=r"stuck: did not end within 0\.1 s"):
        supervised(part, until=lambda: part.runs == 1, end_seconds=0.1)


def test_a_pipeline_runs_in_a_thread_that_is_asked_to_stop_and_its_error_is_the_parts() -> None:
    threads: list[str] = []
    results: list[Any] = []

    def run(stop: Callable[[], bool], _take: Callable[[Any], None]) -> Any:
        threads.append(threading.current_thread().name)
        if len(threads) == 1:
            raise EnvironmentFault("is away")
        while not stop():
            threading.Event().wait(0.01)
        return "result"

    part = PipelineThread("p", 0, run, results.append)
    assert supervised(part, until=lambda: len(threads) == 2)
    assert (threads, results, part.health.state) == (["pipeline p"] * 2, ["result"], "ended")
