"""Keeps parts running: restarts one that fails, and ends all in order."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from headrace._clock import now_ms
from headrace.connectors.progress import Health
from headrace.connectors.retries import Retries
from headrace.errors import DataError, EnvironmentFault, HeadraceError, PlanError
from headrace.supervise.part import Part

__all__ = ["Supervisor"]

_TICK_SECONDS = 0.1
_STEADY_SECONDS = 30.0  # a part that ran so long has recovered from the faults before
_THREADS = 64


@dataclass
class _Kept:
    """A part, the task that keeps it running, and whether it is to stop."""

    part: Part
    task: asyncio.Task[None] | None = None
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    failed: bool = False
    state: tuple[str, str] = field(default=("", ""))


class Supervisor:
    """Runs parts until it is stopped, or until none of them has anything more to do.

    A part that fails is restarted, first at once and then after up to 5 s. One that raises PlanError or DataError has failed for
    good, and the others go on. At the end parts are stopped by stages: sources first, then pipelines, then targets.

    Parameters
    ----------
    parts
        What runs.
    lines
        A structured logger.
    end_seconds
        How long a stage may take to end.
    changed
        Is called when the state of a part has changed.

    Attributes
    ----------
    stuck
        Is called when parts do not end in time, with the error that says so. It may end the process, for their threads would keep it.
    reloaded
        Is called after a reload, with the names of the parts that were started, that are gone, and that went on.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        lines: Any,  # noqa: ANN401  (structlog's own type)
        *,
        end_seconds: float = 45.0,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self._kept = {part.name: _Kept(part) for part in sorted(parts, key=lambda part: part.stage)}
        self._lines, self._end_seconds, self._changed = lines, end_seconds, changed
        self.stuck: Callable[[EnvironmentFault], object] = _raise
        self.reloaded: Callable[[list[str], list[str], list[str]], object] = lambda *_: None

    @property
    def parts(self) -> list[Part]:
        """The parts, in the order of their stages."""
        return [one.part for one in self._kept.values()]

    async def run(self, stop: Callable[[], bool], reload: Callable[[], Sequence[Part] | None] = lambda: None) -> bool:
        """Run the parts, and return whether none has failed for good.

        Parameters
        ----------
        stop
            Asked several times a second.
        reload
            Asked several times a second; the parts that are to run from now on, or None for no change.

        Raises
        ------
        EnvironmentFault
            If a part does not end.
        """
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "headrace"))
        for kept in self._kept.values():
            self._start(kept)
        try:
            while not stop() and any(not kept.task.done() for kept in self._kept.values() if kept.task):
                if (parts := reload()) is not None:
                    await self._reload(parts)
                self._watch()
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            await self._end(list(self._kept.values()))
        return not any(kept.failed for kept in self._kept.values())

    def _start(self, kept: _Kept) -> None:
        kept.task = asyncio.create_task(self._keep(kept), name=kept.part.name)

    async def _keep(self, kept: _Kept) -> None:
        """Run a part until it has ended, is stopped, or has failed for good."""
        part, retries = kept.part, Retries()
        while not kept.stopped.is_set():
            began = time.monotonic()
            try:
                await part.run(kept.stopped.is_set, lambda text: self._lines.warning("note", **_named(part), what=text))
            except (PlanError, DataError) as error:
                kept.failed = True
                part.health = Health("failed", now_ms(), str(error))
                break
            except Exception as error:  # noqa: BLE001  (the last resort: the others must go on)
                part.health = Health("waiting", now_ms(), _what(error))
                if time.monotonic() - began >= _STEADY_SECONDS:
                    retries.succeeded()
                self._watch()
                with suppress(TimeoutError):
                    await asyncio.wait_for(kept.stopped.wait(), retries.failed(time.monotonic()))
            else:
                part.health = Health("ended", now_ms())
                break
        else:
            part.health = Health("ended", now_ms())
        self._watch()

    def _watch(self) -> None:
        """Write a line for each part whose state has changed."""
        moved = False
        for kept in self._kept.values():
            health = kept.part.health
            if (health.state, health.reason) == kept.state or (health.state == "connecting" and kept.state[0] == "waiting"):
                continue  # one that tries again after a fault still waits until it runs
            kept.state = (health.state, health.reason)
            moved = True
            write = {"failed": self._lines.error, "waiting": self._lines.warning}.get(health.state, self._lines.info)
            write(health.state, **_named(kept.part), **({"why": health.reason} if health.reason else {}))
        if moved:
            self._changed()

    async def _end(self, kept: Sequence[_Kept]) -> None:
        """Stop parts, those of a stage together, and wait until they have ended.

        Raises
        ------
        EnvironmentFault
            If one does not end in time.
        """
        stuck: list[str] = []
        for _, stage in groupby(kept, key=lambda one: one.part.stage):
            together = list(stage)
            for one in together:
                one.stopped.set()
            tasks = [one.task for one in together if one.task is not None]
            if tasks:
                _, waiting = await asyncio.wait(tasks, timeout=self._end_seconds)
                stuck += [task.get_name() for task in waiting]
            self._watch()
        if stuck:
            self.stuck(
                EnvironmentFault(f"did not end within {self._end_seconds:g} s", where=", ".join(stuck), fix="look at the lines before this one")
            )

    async def _reload(self, parts: Sequence[Part]) -> None:
        """Stop the parts that are gone or changed, and start those that are new or changed; the others go on."""
        wanted = {part.name: part for part in parts}
        same = {
            name
            for name, kept in self._kept.items()
            if name in wanted and kept.part.definition == wanted[name].definition and kept.part.kind == wanted[name].kind and not kept.failed
        }
        gone = [kept for name, kept in self._kept.items() if name not in same]
        await self._end(gone)
        kept = {name: self._kept[name] if name in same else _Kept(part) for name, part in wanted.items()}
        self._kept = dict(sorted(kept.items(), key=lambda item: item[1].part.stage))
        started = [one for name, one in self._kept.items() if name not in same]
        for one in started:
            self._start(one)
        names = [one.part.name for one in started]
        stopped = [one.part.name for one in gone if one.part.name not in wanted]
        self._lines.info("reloaded", started=names, stopped=stopped, unchanged=sorted(same))
        self.reloaded(names, stopped, sorted(same))
        self._changed()


def _raise(error: EnvironmentFault) -> None:
    raise error


def _named(part: Part) -> dict[str, str]:
    return {"part": part.name, "kind": part.kind}


def _what(error: Exception) -> str:
    """Return what is wrong; of an error that was not foreseen also the line that raised it."""
    if isinstance(error, HeadraceError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    line = f", at {frames[-1].filename} line {frames[-1].lineno}" if frames else ""
    return f"not foreseen: {type(error).__name__}: {error}{line}"
