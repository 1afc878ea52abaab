"""Jobs: commands that go on when whoever started them has left, each in a folder of its own. No daemon watches them.

    job.json      what was submitted, and the process it became
    log           what it prints
    lock          locked (flock) while a process of the job lives; whether a job runs is asked of nothing else
    exit.json     how it ended
    cancel        that it was told to end
    metrics.prom  its figures, which the command writes where HEADRACE_METRICS_FILE says

`submit` takes the lock and hands it down to the runner, which is this module as a program, and the runner to the command.
So the lock is held before there is a process, and until the last of the two has gone, however it goes. The runner leads
a session and a process group of its own, named by its pid.

A pid is only a number, which the system gives to another process one day. So job.json has the pid together with when that
process began, and a process is signalled only if it began then and has the job's lock file open.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from headrace import __version__
from headrace._durable import private, private_folder, sync, write_whole
from headrace._lock import lock as lock_file
from headrace._processes import birth, has_open, openers
from headrace.errors import EnvironmentFault, HeadraceError, PlanError, near

__all__ = ["Ended", "Job", "State", "Submitted", "find", "jobs_in", "submit"]

START_SECONDS = 30.0
KILL_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_STARTED = 127  # as shells have it

T = TypeVar("T", bound=msgspec.Struct)


class State(StrEnum):
    """The state of a job."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    LOST = "LOST"


class Submitted(msgspec.Struct, kw_only=True):
    """A submitted job, as job.json has it.

    `pid` is the command's: the run ends with it. `runner` is the process that started it and writes down how it ended. `born`
    says of both when they began.
    """

    id: str
    name: str
    app: str
    arguments: list[str]
    engine: str = "embedded"
    submitted: str
    pid: int | None = None
    runner: int | None = None
    born: dict[int, str] = {}
    started: str | None = None
    folder: str
    version: str = __version__


class Ended(msgspec.Struct, kw_only=True):
    """How a job ended, as exit.json has it. The status is None where the runner did not live to see it."""

    status: int | None
    signal: str | None
    ended: str


class Job:
    """A job, by its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name

    @property
    def log(self) -> Path:
        """The file of the job's output."""
        return self.folder / "log"

    @property
    def metrics(self) -> Path:
        """The job's figures as text for Prometheus; not there until the run leaves some."""
        return self.folder / "metrics.prom"

    @property
    def running(self) -> bool:
        """Whether a process of the job lives."""
        with _reading(self.folder / "lock") as path:
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return False
            try:
                # Shared: two that look at once must not take each other for the job.
                lock_file(handle, shared=True)
            except BlockingIOError:
                return True
            finally:
                os.close(handle)
        return False

    def submitted(self) -> Submitted:
        """Return what was submitted.

        Raises
        ------
        EnvironmentFault
            If job.json cannot be read or is damaged.
        """
        return _decoded(self.folder / "job.json", Submitted)

    def ended(self) -> Ended | None:
        """Return how the job ended, or None if it has not, or nobody saw it."""
        path = self.folder / "exit.json"
        return _decoded(path, Ended) if path.exists() else None

    def state(self) -> State:
        """Return what has become of the job."""
        # In this order: exit.json is written before the lock is let go.
        if self.running:
            return State.RUNNING
        ended = self.ended()
        if ended is None:
            return State.LOST
        if (self.folder / "cancel").exists():
            return State.CANCELED
        return State.FINISHED if ended.status == 0 else State.FAILED

    def cancel(self, timeout: float = 10.0) -> signal.Signals:
        """End the job: SIGTERM, and SIGKILL if it still runs after `timeout` seconds. Return the one that ended it.

        Raises
        ------
        HeadraceError
            If it has ended already.
        EnvironmentFault
            If it may not be signalled, does not even end by SIGKILL, or goes on in processes that job.json does not name.
        """
        if not self.running:
            raise self._over()
        what = self.submitted()
        if what.runner is None:
            raise EnvironmentFault("has no process yet", where=f"job {self.id}", fix="cancel it again in a moment")
        asked = self.folder / "cancel"
        first = not asked.exists()  # another may cancel it too, and it is canceled if either does
        with _writing(asked):
            asked.touch()
        try:
            self._ask_to_end(what)
        except OSError as error:
            if first:
                asked.unlink(missing_ok=True)
            if isinstance(error, ProcessLookupError):
                raise self._without_its_own() if self.running else self._over() from None
            raise EnvironmentFault(f"may not be signalled: {error.strerror}", where=f"job {self.id}", fix="cancel it as its user") from None
        sent = signal.SIGTERM
        if not self._ends_within(timeout):
            with suppress(ProcessLookupError):  # it ended just now
                self._signal_all(what, signal.SIGKILL)
            sent = signal.SIGKILL
            if not self._ends_within(KILL_SECONDS):
                raise EnvironmentFault(
                    f"process {what.pid} lives on after SIGKILL", where=f"job {self.id}", fix="does it wait for a disk that hangs?"
                )
        self._leave_word(sent)
        return sent

    def _leave_word(self, sent: signal.Signals) -> None:
        """Say how the job ended if its runner cannot, killed as it was, now or before."""
        path = self.folder / "exit.json"
        with _writing(path), (self.folder / "lock").open("ab") as lock:
            lock_file(lock.fileno(), wait=True)  # others may cancel it too
            if not path.exists():
                status = 128 + sent if sent == signal.SIGKILL else None
                _write(path, Ended(status=status, signal=sent.name, ended=_now()))

    def _ask_to_end(self, what: Submitted) -> None:
        """Send SIGTERM to the runner, which forwards it, or if only the command is left, to all of its group."""
        assert what.runner is not None
        if self._is_ours(what, what.runner):
            os.kill(what.runner, signal.SIGTERM)
        else:
            self._signal_all(what, signal.SIGTERM)

    def _signal_all(self, what: Submitted, number: signal.Signals) -> None:
        """Send a signal to all of the job's process group. Raises ProcessLookupError if none of its processes is known to live."""
        assert what.runner is not None
        # While one of the group lives, the system gives its number to no other.
        known = [what.runner] if what.pid is None else [what.runner, what.pid]
        if not any(self._is_ours(what, pid) and os.getpgid(pid) == what.runner for pid in known):
            raise ProcessLookupError
        os.killpg(what.runner, number)

    def _is_ours(self, what: Submitted, pid: int) -> bool:
        """Whether a process of job.json lives, and is not another one that was given its number."""
        began = birth(pid)
        return began is not None and what.born.get(pid) == began and has_open(pid, self.folder / "lock") is not False

    def _without_its_own(self) -> EnvironmentFault:
        """Return the error that no process of job.json lives, and yet the lock is held."""
        holders = ", ".join(map(str, openers(self.folder / "lock")))
        who = f"process {holders} holds its lock" if holders else "another process holds its lock"
        return EnvironmentFault(
            f"is not ended: the processes that job.json names are gone, and {who}",
            where=f"job {self.id}",
            fix="look what that is, and end it yourself if it is of the job",
        )

    def _over(self) -> HeadraceError:
        state = self.state()
        return HeadraceError(f"has ended already: {state}", where=f"job {self.id}", fix="there is nothing to cancel")

    def _ends_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.running:
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOK_SECONDS)
        return True


def jobs_in(folder: Path) -> list[Job]:
    """Return the jobs of a folder, the oldest first."""
    with _reading(folder):
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        except FileNotFoundError:
            return []
    return [Job(folder / name) for name in names]


def find(folder: Path, name: str) -> Job:
    """Return the job whose id is `name`, or the only one whose id begins so.

    Raises
    ------
    PlanError
        If there is none, or there are several.
    """
    jobs = {job.id: job for job in jobs_in(folder)}
    if name in jobs:
        return jobs[name]
    alike = [one for one in jobs if name and one.startswith(name)]
    if not alike:
        raise PlanError(f"no job {name!r}", where=str(folder), fix=near(name, jobs))
    if len(alike) > 1:
        raise PlanError(f"{len(alike)} jobs begin with {name!r}", where=str(folder), fix=f"write more of it; {near('', alike)}")
    return jobs[alike[0]]


def submit(folder: Path, command: Sequence[str], *, name: str, app: str, arguments: Sequence[str]) -> Job:
    """Start a command as a job under `folder`, and return once it has a process of its own.

    Raises
    ------
    EnvironmentFault
        If the job's folder cannot be written, or its process does not come up.
    """
    if sys.platform == "win32":
        raise EnvironmentFault("needs Linux or macOS", where="headrace jobs", fix="run it in the foreground: headrace run")
    with _writing(folder):
        folder = folder.absolute()
        private_folder(folder)
        lock, job = _made(folder, name=name, app=app, arguments=arguments)
        try:
            _start(job, lock, command)
        finally:
            os.close(lock)
    return job


def _made(folder: Path, *, name: str, app: str, arguments: Sequence[str]) -> tuple[int, Job]:
    """Make a job's folder, seen by others only when it is whole and locked. Return the lock and the job."""
    now, job, aside = _place(folder)
    lock = -1
    try:
        lock = os.open(aside / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lock_file(lock, wait=True)
        what = Submitted(id=job.id, name=name, app=app, arguments=list(arguments), submitted=_text(now), folder=str(Path.cwd()))
        _write(aside / "job.json", what)
        aside.rename(job.folder)
        sync(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
        raise
    return lock, job


def _place(folder: Path) -> tuple[datetime, Job, Path]:
    """Return the time, the job that has its id by it, and the folder made for it aside, which keeps the id from others."""
    while True:
        now = datetime.now(UTC)
        job = Job(folder / f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 0x10000 // 1_000_000:04x}")
        aside = folder / f".{job.id}"
        try:
            aside.mkdir(mode=0o700)
        except FileExistsError:
            continue  # someone submits in the same moment; in the next there is another id
        if not job.folder.exists():
            return now, job, aside
        aside.rmdir()


def _start(job: Job, lock: int, command: Sequence[str]) -> None:
    """Start the runner. What is started here ends once the runner, a child of its, is up: no zombie is left to whoever submits."""
    # -P: a file of the working folder must not get in the way of a module of its name.
    runner = [sys.executable, "-P", "-m", __name__, str(job.folder), str(lock), "--", *command]
    with (
        open(job.log, "ab", opener=private) as log,
        subprocess.Popen(  # noqa: S603  (it is what the user asks for)
            runner, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(lock,), start_new_session=True
        ) as starter,
    ):
        try:
            up = starter.wait(START_SECONDS) == 0
        except subprocess.TimeoutExpired:
            # The runner then finds nobody to tell that it is up, and ends.
            starter.kill()
            up = False
    if not up:
        raise EnvironmentFault(f"job {job.id} did not start", where=str(job.log), fix="the log may say why")


def _run(folder: Path, lock: int, command: Sequence[str]) -> None:
    """Be the runner: start the command, forward signals to it, and record how it ended."""
    up, told = os.pipe()
    if os.fork():
        os.close(told)
        is_up = os.read(up, 1)
        os.read(up, 1)  # until the command has a pid too, or cannot be started
        os._exit(0 if is_up else 1)
    os.close(up)
    os.setsid()
    child: subprocess.Popen[bytes] | None = None
    pending: list[int] = []

    def forward(number: int | None = None, _frame: object = None) -> None:
        if number is not None:
            pending.append(number)
        while child is not None and pending:
            child.send_signal(pending.pop(0))

    signals = _wake_by_signals()
    for one in _FORWARDED:
        signal.signal(getattr(signal, one), forward)
    what = Job(folder).submitted()
    what.runner, what.started = os.getpid(), _now()
    _note_birth(what, what.runner)
    _write(folder / "job.json", what)
    os.write(told, b"1")
    environment = os.environ | {"HEADRACE_METRICS_FILE": str(folder / "metrics.prom")}
    try:
        child = subprocess.Popen(command, pass_fds=(lock,), env=environment)  # noqa: S603  (it is what the user asks for)
    except OSError as error:
        sys.stderr.write(f"headrace: {command[0]}: cannot be started: {error.strerror}\n")
        status = _NOT_STARTED
    else:
        what.pid = child.pid
        _note_birth(what, child.pid)
        with suppress(EnvironmentFault):  # the job runs all the same
            _write(folder / "job.json", what)
        os.close(told)
        forward()
        while (ended := child.poll()) is None:
            os.read(signals, 64)
        status = ended
    name = signal.Signals(-status).name if status < 0 else None
    _write(folder / "exit.json", Ended(status=status if status >= 0 else 128 - status, signal=name, ended=_now()))


def _wake_by_signals() -> int:
    """Return a pipe in which each signal leaves a byte.

    A process that waits for its child by `waitpid` misses a signal that comes just before the call: its handler is
    called when the call has returned, which is when the child has ended by itself.
    """
    signals, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return signals


def _note_birth(what: Submitted, pid: int) -> None:
    began = birth(pid)
    if began is not None:
        what.born[pid] = began


def _decoded(path: Path, kind: type[T]) -> T:
    with _reading(path):
        data = path.read_bytes()
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"is damaged: {error}", where=str(path), fix=f"remove {path.parent} once the job has ended") from None


def _write(path: Path, what: msgspec.Struct) -> None:
    """Put a file in place, whole and durable."""
    with _writing(path):
        write_whole(path, msgspec.json.format(msgspec.json.encode(what)) + b"\n", secret=True)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path), fix="let this user read it") from None


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        fix = "make room" if error.errno in _FULL else "let this user write there"
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix=fix) from None


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    _run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4:])
