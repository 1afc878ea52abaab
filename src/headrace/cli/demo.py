"""`headrace demo`: a simulated kiln, the fingerprint pipeline and a live page, in one process."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace._clock import now_ms
from headrace._durable import private_folder
from headrace._lock import TakenError, take
from headrace.cli.apps import home, plan_of
from headrace.cli.simulate import duration_ms
from headrace.cli.stopping import asked_to_stop
from headrace.errors import EnvironmentFault, HeadraceError, PlanError

if TYPE_CHECKING:
    from headrace.engines.embedded.live import Committed

__all__ = ["demo"]

_LATEST = 10
_MARK = "headrace-demo"
_RATE_SECONDS = 10.0


def demo(*, for_: Annotated[str | None, Parameter(name="--for")] = None, port: int = 8000, seed: int = 1) -> None:
    """Show a simulated kiln, the fingerprint pipeline and a live page, in one process.

    Everything is kept under HEADRACE_HOME in a folder `demo`, which is emptied first if a demo has made it. Ten minutes of history come at once,
    then a message a second from each equipment.

    Parameters
    ----------
    for_
        End after so long: 30s, 5m. Without it, Ctrl-C ends it.
    port
        Where the page is, on the loopback interface; 0 for any that is free.
    seed
        Of the simulated plant.
    """
    seconds = duration_ms(for_, "--for") / 1000 if for_ else None
    if not 0 <= port < 65_536:
        raise PlanError(f"is {port}", where="--port", fix="give 1 to 65535, or 0 for any that is free")
    stop = asked_to_stop()
    from headrace.console.live import LivePage
    from headrace.engines.embedded.live import Limits, Live, Patience, run_live
    from headrace.engines.embedded.metrics import Metrics
    from headrace.topics.sqlite import SqliteLog

    with closing(_emptied(home() / "demo")) as lock:
        folder = Path(lock.name).parent
        plan = plan_of("fingerprint", [])
        metrics = Metrics(plan.pipeline)
        plant = _Plant(folder / "log.db", seed)
        with closing(SqliteLog(folder / "log.db")) as log:
            log.create("sensor-data")
            view = _View(folder / "log.db", plan.pipeline, plan.version, plant)
            with closing(LivePage(port, view.health, view.state, metrics.text)) as page:
                print(f"headrace demo: http://127.0.0.1:{page.port}/   {'Ctrl-C ends it' if seconds is None else f'for {seconds:.0f} s'}", flush=True)
                plant.start()

                def committed(commit: Committed) -> None:
                    metrics.note(commit)
                    view.note(commit)

                live = Live(plan, log, Patience())
                ledger = run_live(live, Limits(seconds), stop=lambda: stop() or plant.failed is not None, poll_seconds=0.01, committed=committed)
                plant.stop()
        if plant.failed is not None:
            raise plant.failed
    from headrace.kernels.ledger import balance

    for topic, account in ledger.items():
        print(f"{topic}: {balance(account.counts())}", file=sys.stderr)


def _emptied(folder: Path) -> IO[bytes]:
    """Return the lock of a folder that has been emptied for this process. Only a folder that a demo has made is emptied."""
    mark = folder / _MARK
    try:
        private_folder(folder)
        if not mark.is_file() and any(folder.iterdir()):
            raise EnvironmentFault(
                f"was not made by headrace demo: it has files and no {_MARK}",
                where=str(folder),
                fix="move it away, or set HEADRACE_HOME to another folder",
            )
        mark.write_text("headrace demo empties this folder when it starts.\n")
        lock = take(folder / "lock")
    except TakenError:
        raise EnvironmentFault("another demo runs there", where=str(folder), fix="end it, or set HEADRACE_HOME to another folder") from None
    except OSError as error:
        raise EnvironmentFault(
            f"cannot be written: {error.strerror}", where=str(folder), fix="let this user write there, or set HEADRACE_HOME"
        ) from None
    for path in folder.iterdir():
        if path.name not in {"lock", _MARK}:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return lock


class _Plant:
    """The simulated kiln, in a thread of its own."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed = path, seed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plant", daemon=True)
        self.failed: HeadraceError | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._ended.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        from headrace.simulate import Kiln, simulate
        from headrace.simulate.topic import TopicSink
        from headrace.topics.sqlite import SqliteLog

        kiln = Kiln(seed=self._seed)
        try:
            with closing(SqliteLog(self._path)) as log:
                sink = TopicSink(log, "sensor-data", [str(one).encode() for one in kiln.equipment])
                simulate(
                    kiln,
                    sink,
                    clock=now_ms,
                    sleep=self._sleep,
                    target="sensor-data",
                    history_ms=600_000,
                )
        except _Ended:
            return
        except HeadraceError as error:
            self.failed = error

    def _sleep(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise _Ended


class _Ended(Exception):
    """The plant is to send no more."""


@dataclass
class _View:
    """What the page shows, brought up to date with each commit."""

    path: Path
    pipeline: str
    version: str
    plant: _Plant
    _last: Committed | None = None
    _shown: int = 0
    _counts: deque[tuple[float, int]] = field(default_factory=deque)
    _latest: list[Any] = field(default_factory=list)
    _prints: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, commit: Committed) -> None:
        """Take in a commit."""
        now = time.monotonic()
        with self._lock:
            self._last = commit
            self._counts.append((now, commit.received))
            while len(self._counts) > 1 and now - self._counts[1][0] > _RATE_SECONDS:
                self._counts.popleft()

    def health(self) -> dict[str, Any]:
        """Return whether all is well."""
        return {"status": "ok" if self.plant.failed is None else str(self.plant.failed)}

    def _read_latest(self) -> None:
        from headrace.topics.sqlite import SqliteLog

        with suppress(HeadraceError), closing(SqliteLog(self.path)) as log:
            end = log.topic("fingerprint-output").partitions[0].end
            if end != self._prints:
                entries = log.entries("fingerprint-output", 0, max(end - _LATEST, 0), _LATEST)
                prints = [msgspec.json.decode(entry.value)["fingerprint"] for entry in entries]
                self._latest = sorted(prints, key=lambda one: (-one["start_ms"], one["equip_id"]))
                self._prints = end

    def state(self) -> dict[str, Any]:
        """Return what the page shows."""
        with self._lock:
            last = self._last
            if last is not None and last.epoch != self._shown:
                self._read_latest()
                self._shown = last.epoch
            (first_at, first), (at, received) = (self._counts[0], self._counts[-1]) if self._counts else ((0.0, 0), (0.0, 0))
            marks = [] if last is None else [mark for mark in last.watermarks.values() if abs(mark) < 2**61]
            return {
                **self.health(),
                "pipeline": self.pipeline,
                "version": self.version,
                "received": received,
                "rate": (received - first) / (at - first_at) if at > first_at else 0.0,
                "fingerprints": self._prints,
                "watermark_ms": min(marks, default=None),
                "lag": last.lag if last else 0,
                "epoch": last.epoch if last else 0,
                "commit_seconds": last.seconds if last else 0.0,
                "ledger": last.ledger if last else {},
                "latest": self._latest,
            }
