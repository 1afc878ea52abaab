"""`headrace demo`: a simulated water plant under attack with its alarms, a kiln with its fingerprints, and their pages, in one process."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace._clock import now_ms
from headrace._durable import private_folder
from headrace._lock import TakenError, take
from headrace.cli.apps import home, plan_of
from headrace.cli.stopping import asked_to_stop
from headrace.cli.values import duration_ms
from headrace.connectors.progress import Health
from headrace.errors import EnvironmentFault, HeadraceError, PlanError

if TYPE_CHECKING:
    from headrace.console.plant_pages import PlantPages
    from headrace.engines.embedded.live import Committed
    from headrace.engines.embedded.metrics import Metrics
    from headrace.kernels.ledger import Account
    from headrace.simulate.writing import Plant

__all__ = ["demo"]

_LATEST = 10
_MARK = "headrace-demo"
_RATE_SECONDS = 10.0
_HISTORY_S = 600
_ATTACK_AFTER_S = 12


def demo(*, for_: Annotated[str | None, Parameter(name="--for")] = None, port: int = 8000, seed: int = 1) -> None:
    """Show a water treatment plant under attack, with its alarms, and a kiln with its fingerprints: simulated plants and a page in one process.

    Everything is kept under HEADRACE_HOME in a folder `demo`, which is emptied first if a demo has made it. Ten minutes of history come at once,
    then a message a second from the water plant and from each equipment of the kiln. After 12 seconds an attack on the water plant begins.

    Parameters
    ----------
    for_
        End after so long: 30s, 5m. Without it, Ctrl-C ends it.
    port
        Where the page is, on the loopback interface; 0 for any that is free.
    seed
        Of the simulated plants.
    """
    seconds = duration_ms(for_, "--for") / 1000 if for_ else None
    if not 0 <= port < 65_536:
        raise PlanError(f"is {port}", where="--port", fix="give 1 to 65535, or 0 for any that is free")
    stop = asked_to_stop()
    with closing(_emptied(home() / "demo")) as lock:
        ledger = _run(Path(lock.name).parent, port, seconds, seed, stop)
    from headrace.kernels.ledger import balance

    for topic, account in ledger.items():
        if account.received or topic == "sensor-data":
            print(f"{topic}: {balance(account.counts())}", file=sys.stderr)


def _run(folder: Path, port: int, seconds: float | None, seed: int, stop: Callable[[], bool]) -> dict[str, Account]:
    """Run both plants, their pipelines and the page, and return the ledgers."""
    from headrace.console.live import LivePage
    from headrace.engines.embedded.live import Limits, Live, Patience, run_live
    from headrace.engines.embedded.metrics import Metrics
    from headrace.topics.sqlite import SqliteLog

    plan = plan_of("fingerprint", [])
    metrics = Metrics(plan.pipeline)
    kiln, water = _kiln(folder / "log.db", seed), _Water(folder / "log.db", seed)
    working = (kiln, water.plant, water)
    with closing(SqliteLog(folder / "log.db")) as log:
        for topic in ("sensor-data", *(source.topic for source in water.plan.sources)):
            log.create(topic)
        view = _View(folder / "log.db", plan.pipeline, plan.version, working)
        pages = water.pages([*working, _Shown(plan.pipeline, "pipeline", metrics)], [*plan.topics, "sensor-data"])

        def committed(commit: Committed) -> None:
            metrics.note(commit)
            view.note(commit)
            for one in working:  # the water plant's history comes when the kiln's is shown
                one.start()

        def ended() -> bool:
            return stop() or any(one.failed is not None for one in working)

        with (
            pages.reading(lambda: SqliteLog(folder / "log.db")) as paths,
            closing(LivePage(port, view.health, view.state, metrics.text, paths)) as page,
        ):
            _lead(page.port, seconds, folder)
            kiln.start()
            ledger = run_live(Live(plan, log, Patience()), Limits(seconds), stop=ended, poll_seconds=0.01, committed=committed)
            for one in working:
                one.stop()
    for one in working:
        if one.failed is not None:
            raise one.failed
    return {**ledger, **water.ledger}


def _lead(port: int, seconds: float | None, folder: Path) -> None:
    """Print where the pages are, what is to be seen there, and how an alarm is handled in a terminal."""
    headrace = f"HEADRACE_HOME={quote(str(folder))} {_command()}"
    alarm = "water/stage3/DPIT301/HH"
    print(
        f"headrace demo: http://127.0.0.1:{port}/   {'Ctrl-C ends it' if seconds is None else f'for {seconds:.0f} s'}\n"
        f"  water plant: after {_ATTACK_AFTER_S} s an attack closes the outlet valve of the filter, and seconds later there are alarms.\n"
        f"               On the page: Explain shows why, Acknowledge takes an alarm over, the ledger counts each record.\n"
        f"  in a terminal: {headrace} alarms list\n"
        f"                 {headrace} explain {alarm} --app water:alarms\n"
        f"                 {headrace} alarms ack {alarm}\n"
        f"  kiln: http://127.0.0.1:{port}/kiln",
        flush=True,
    )


def _command() -> str:
    """Return what a shell in this folder calls headrace by; `make demo` puts it on no PATH."""
    beside = Path(sys.executable).with_name("headrace")
    return "headrace" if shutil.which("headrace") or not beside.exists() else quote(os.path.relpath(beside))


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


@dataclass
class _Shown:
    """A part of the demo, as the page shows it."""

    name: str
    kind: str
    metrics: Metrics | None = None
    topic: str = ""
    health: Health = field(default_factory=lambda: Health("running", now_ms()))


class _Thread(_Shown):
    """A part that works in a thread of its own until it is stopped."""

    def __init__(self, name: str, kind: str, topic: str = "") -> None:
        super().__init__(name, kind, topic=topic)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failed: HeadraceError | None = None

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            self._work()
        except _Ended:
            return
        except HeadraceError as error:
            self.failed, self.health = error, Health("failed", now_ms(), str(error))

    def _work(self) -> None:
        raise NotImplementedError

    def _sleep(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise _Ended


class _Plant(_Thread):
    """A simulated plant, which sends to a topic."""

    def __init__(self, path: Path, plant: Plant, topic: str) -> None:
        super().__init__(topic, "in", topic)
        self._path, self._plant = path, plant

    def _work(self) -> None:
        from headrace.simulate import simulate
        from headrace.simulate.topic import TopicSink
        from headrace.topics.sqlite import SqliteLog

        with closing(SqliteLog(self._path)) as log:
            sink = TopicSink(log, self.topic, [str(one).encode() for one in self._plant.equipment])
            simulate(self._plant, sink, clock=now_ms, sleep=self._sleep, target=self.topic, history_ms=_HISTORY_S * 1000)


def _kiln(path: Path, seed: int) -> _Plant:
    from headrace.simulate import Kiln

    return _Plant(path, Kiln(seed=seed), "sensor-data")


class _Water(_Thread):
    """The pipeline of the water plant's alarms, and the plant."""

    def __init__(self, path: Path, seed: int) -> None:
        from headrace.engines.embedded.metrics import Metrics
        from headrace.simulate import Water
        from headrace.simulate.water.scenarios import SCENARIOS

        self._path, self.plan = path, plan_of("water:alarms", [])
        super().__init__(self.plan.pipeline, "pipeline")
        attacked = Water(seed, tuple(SCENARIOS), after_s=_HISTORY_S + _ATTACK_AFTER_S)
        self.plant = _Plant(path, attacked, "scada.normal")
        self.metrics: Metrics = Metrics(self.plan.pipeline)
        self.ledger: dict[str, Account] = {}

    def _work(self) -> None:
        from headrace.engines.embedded.live import Live, Patience, run_live
        from headrace.topics.sqlite import SqliteLog

        with closing(SqliteLog(self._path)) as log:
            live = Live(self.plan, log, Patience())
            self.ledger = run_live(live, stop=self._ended.is_set, poll_seconds=0.02, committed=self.metrics.note)

    def pages(self, parts: Sequence[_Shown], topics: Sequence[str]) -> PlantPages:
        """Return what the page of the plant answers."""
        from headrace.console.plant_pages import PlantPages
        from headrace.simulate.water import water_tags

        picture = (files("headrace.cli") / "templates" / "shared" / "water.svg").read_bytes()
        every = (*(source.topic for source in self.plan.sources), *self.plan.topics, *topics)
        links = (("Kiln", "/kiln"),)
        return PlantPages("Water plant", "UTC", water_tags(), every, lambda: parts, [self.plan], picture=picture, links=links)


class _Ended(Exception):
    """The plant is to send no more."""


@dataclass
class _View:
    """The content of the page, updated with each commit."""

    path: Path
    pipeline: str
    version: str
    working: Sequence[_Thread]
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
        return {"status": "; ".join(str(one.failed) for one in self.working if one.failed is not None) or "ok"}

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
