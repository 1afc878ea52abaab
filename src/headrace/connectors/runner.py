"""Shared parts of both runners: a name among those who read and write a log, their health, and outages of the log."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Literal

from headrace._clock import now_ms
from headrace.connectors.progress import Health, Moved
from headrace.connectors.retries import Retries
from headrace.errors import HeadraceError
from headrace.topics.protocol import Away, Claim, Log

__all__ = ["Runner"]

AWAY_SECONDS = 60.0


class Runner(ABC):
    """A connector that runs on a log.

    Attributes
    ----------
    name
        Its name among those who read and write the log.
    health
        Its state.
    """

    _claim: Claim

    def __init__(self, log: Log, name: str, told: Callable[[str], object], committed: Callable[[Moved], object]) -> None:
        self._log, self.name, self._told, self._committed = log, name, told, committed
        self.health = Health("connecting", now_ms())
        self._log_outage = Retries(AWAY_SECONDS)

    @abstractmethod
    def _open(self, *, anew: bool = False) -> None:
        """Claim the name, and resume from the last commit."""

    async def _persist(self, work: Callable[[], Awaitable[None]], stop: Callable[[], bool]) -> None:
        """Work until it is done. When the log is unavailable, open it again and resume from what is committed there, as a new process would."""
        try:
            while True:
                try:
                    if self._log_outage.failures:
                        await asyncio.to_thread(self._open)
                    await work()
                    break
                except Away as fault:
                    wait = self._log_outage.failed(time.monotonic())
                    if wait is None or stop():
                        raise
                    self._note("waiting", str(fault))
                    self._told(f"{fault}; opened again until it answers")
                    self.close()
                    await asyncio.sleep(wait)
        except HeadraceError as fault:
            self._note("failed", str(fault))
            raise
        self._note("ended")

    def _note(self, state: Literal["running", "waiting", "ended", "failed"], reason: str = "") -> None:
        if (state, reason) != (self.health.state, self.health.reason):
            self.health = Health(state, now_ms(), reason)

    def close(self) -> None:
        """Release the name."""
        self._claim.release()
