"""Fingerprints of a log are saved in files as they come, by a runner with a cursor of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

from headrace.connectors.fingerprint_files import FingerprintFiles
from headrace.connectors.fingerprint_folder import locked_folder
from headrace.connectors.forward import Forward
from headrace.connectors.progress import Moved, warn
from headrace.topics.protocol import Log

__all__ = ["SAVER", "FingerprintSaver"]

SAVER = "fingerprint:saver"


class FingerprintSaver:
    """Saves the fingerprints of a log in files, as the cursor `fingerprint:saver`.

    Parameters
    ----------
    log
        It has both topics.
    folder
        It is made if it is not there.
    latest
        Whether to end where the topics end now.
    saved
        Told of each file that is durable, and of how many readings it has.
    warn
        Told in one line of what is wrong with the data.

    Attributes
    ----------
    idle
        Whether the last step found nothing to do.

    Raises
    ------
    EnvironmentFault
        If the folder cannot be written to, or another saver works on it or on the log.
    PlanError
        If a topic is not there.
    """

    def __init__(
        self,
        log: Log,
        folder: Path,
        readings: str = "sensor-data",
        fingerprints: str = "fingerprint-output",
        *,
        latest: bool = False,
        saved: Callable[[Path, int], object] = lambda path, count: None,  # noqa: ARG005
        warn: Callable[[str], object] = warn,
    ) -> None:
        for topic in (readings, fingerprints):
            log.topic(topic)
        self._saved, self.idle = saved, False
        self._lock = locked_folder(folder)
        try:
            self.target = FingerprintFiles(log, folder, readings, warn)
            self.forward = Forward(log, fingerprints, self.target, SAVER, latest=latest, told=warn, committed=self._tell)
        except BaseException:
            self._lock.close()
            raise

    def _tell(self, _: Moved) -> None:
        files, self.target.saved_files = self.target.saved_files, []
        for path, count in files:
            self._saved(path, count)

    @property
    def taken(self) -> int:
        """How many records of the fingerprints' topic have been settled."""
        return self.forward.taken

    @property
    def bad(self) -> int:
        """How many of them were no fingerprints."""
        return self.forward.refused

    @property
    def finished(self) -> bool:
        """Whether all has been saved, and nothing more will come."""
        return self.forward.finished

    def step(self, most: int | None = None) -> int:
        """Save what is pending, up to `most` and a batch, or else read what is there first; return how many files were written."""
        before = self.target.written
        asyncio.run(self._step(most))
        return self.target.written - before

    async def _step(self, most: int | None) -> None:
        await self.forward.step(inf if most is None else most)
        self.idle = self.forward.idle

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        poll_seconds: float = 0.05,
        duration: float | None = None,
        records: int | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        tick: Callable[[], float] = time.monotonic,
    ) -> int:
        """Save fingerprints as they come, until told to stop, and return how many files were written.

        Parameters
        ----------
        stop
            Asked before each step.
        poll_seconds
            How long to wait before looking for new records again.
        duration
            End after so many seconds.
        records
            End when so many records of the fingerprints' topic have been settled.
        """

        async def pause(seconds: float) -> None:
            sleep(seconds)

        before = self.target.written
        running = self.forward.run(stop, duration=duration, records=records, poll_seconds=poll_seconds, sleep=pause, tick=tick)
        asyncio.run(running)
        return self.target.written - before

    def close(self) -> None:
        """Release the log and the folder."""
        self.forward.close()
        self._lock.close()
