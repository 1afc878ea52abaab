"""The parts of a plant: sources and targets run as tasks, pipelines as threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from headrace._clock import now_ms
from headrace.connectors.buffer import Buffer
from headrace.connectors.forward import Forward
from headrace.connectors.ingest import Ingest
from headrace.connectors.metrics import Metrics
from headrace.connectors.progress import Health
from headrace.connectors.protocol import Source, Target
from headrace.connectors.runner import Runner
from headrace.supervise.part import Part
from headrace.topics.protocol import Log

if TYPE_CHECKING:
    from headrace import _metrics
    from headrace.engines.protocol import Result

__all__ = ["InPart", "OutPart", "PipelineThread"]


class _Connector(Part):
    """A part that is a runner of connectors."""

    def __init__(self, name: str, definition: Hashable, open_log: Callable[[], Log]) -> None:
        super().__init__(name, definition)
        self._open_log = open_log
        self._runner: Runner | None = None
        self.metrics: Metrics | None = None

    @property
    def health(self) -> Health:
        """Its runner's, while it has one."""
        return self._own if self._runner is None else self._runner.health

    @health.setter
    def health(self, health: Health) -> None:
        self._own, self._runner = health, None

    async def run(self, stop: Callable[[], bool], told: Callable[[str], None]) -> None:
        """Open the log, and run."""
        log = await asyncio.to_thread(self._open_log)
        with closing(log):
            log.heed(stop)
            runner = await asyncio.to_thread(self._made, log, told)
            if self.metrics is None:
                self.metrics = Metrics(runner.name)
            self.metrics.watch(runner)
            with closing(runner):
                self._runner = runner
                await self._go(runner, stop)

    def _made(self, log: Log, told: Callable[[str], None]) -> Runner:
        raise NotImplementedError

    async def _go(self, runner: Any, stop: Callable[[], bool]) -> None:  # noqa: ANN401  (Ingest or Forward)
        await runner.run(stop)

    def _committed(self, moved: Any) -> None:  # noqa: ANN401
        if self.metrics is not None:
            self.metrics.note(moved)


class InPart(_Connector):
    """A source that fills a topic. A source that is unavailable is asked again for ever."""

    kind = "in"
    stage = 0

    def __init__(
        self, name: str, definition: Hashable, open_log: Callable[[], Log], make: Callable[[], Source], topic: str, key: str | None = None
    ) -> None:
        super().__init__(name, definition, open_log)
        self._make, self.topic, self._key = make, topic, key

    def _made(self, log: Log, told: Callable[[str], None]) -> Runner:
        return Ingest(log, self._make(), self.topic, key=self._key, patience=None, told=told, committed=self._committed)


class OutPart(_Connector):
    """A target that a topic is sent to."""

    kind = "out"
    stage = 2

    def __init__(
        self,
        name: str,
        definition: Hashable,
        open_log: Callable[[], Log],
        make: Callable[[], Target],
        topic: str,
        buffer: Buffer | None = None,
    ) -> None:
        super().__init__(name, definition, open_log)
        self._make, self.topic, self._buffer = make, topic, buffer

    def _made(self, log: Log, told: Callable[[str], None]) -> Runner:
        return Forward(log, self.topic, self._make(), f"forward:{self.name}", buffer=self._buffer, told=told, committed=self._committed)


class PipelineThread(Part):
    """A pipeline in a thread of its own: engines are synchronous.

    Parameters
    ----------
    run
        Runs the pipeline until the function that it is given returns true, and gives its metrics to the other one.
    ended
        Is given the result of a run that has ended.
    """

    kind = "pipeline"
    stage = 1

    def __init__(
        self,
        name: str,
        definition: Hashable,
        run: Callable[[Callable[[], bool], Callable[[_metrics.Metrics], None]], Result],
        ended: Callable[[Result], object] = lambda _: None,
    ) -> None:
        super().__init__(name, definition)
        self._run, self._ended = run, ended
        self.metrics: _metrics.Metrics | None = None

    async def run(self, stop: Callable[[], bool], told: Callable[[str], None]) -> None:  # noqa: ARG002
        """Run the pipeline in a thread."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        asked = threading.Event()

        def work() -> None:
            try:
                result = self._run(asked.is_set, self._take)
            except BaseException as error:  # noqa: BLE001  (it is raised where it is awaited)
                loop.call_soon_threadsafe(_fail, done, error)
            else:
                loop.call_soon_threadsafe(_finish, done, result)

        threading.Thread(target=work, name=f"pipeline {self.name}", daemon=True).start()
        while not done.done():
            if stop():
                asked.set()
            await asyncio.wait([done], timeout=0.1)
        self._ended(done.result())

    def _take(self, metrics: _metrics.Metrics) -> None:
        self.metrics = metrics
        self.health = Health("running", now_ms())


def _finish(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}"))
