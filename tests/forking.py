"""Commands of headrace as processes that are forked from one that has imported what they need: a start costs no imports."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from threading import Thread
from typing import IO, Any, Self

import pytest

from headrace.topics import failpoints

COMMANDS = ["bridge", "browse", "run", "saver", "simulate", "up"]
PRELOADED = [
    "forking",
    *(f"headrace.cli.{name}" for name in COMMANDS),
    "headrace.engines.embedded.live",
    "headrace.engines.embedded.observed",  # for the runs of `headrace prove`, which the same process may fork
    "headrace.topics.kafka",
    "headrace.topics.sqlite",
    "connectors.opc_space",
]

_server = multiprocessing.get_context("forkserver")


@cache
def _ready() -> None:
    """Start the process that all are forked from, where no module of a test hides one of Python's."""
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(here), prepend=os.pathsep)
        patch.chdir(here)
        _server.set_forkserver_preload(PRELOADED)  # here, for `headrace prove` has a list of its own
        forkserver.ensure_running()


class _Handed:
    """A file descriptor that a process is handed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _received, (DupFd(self.number),)


def _received(handed: Any) -> int:
    return int(handed.detach())


class Forked:
    """A function in a process of its own, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        work: Callable[..., Any],
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
    ) -> None:
        self.stdin = self.stdout = self.stderr = None
        ends = [os.open(os.devnull, os.O_RDONLY)]
        if stdin == subprocess.PIPE:
            read, write = os.pipe()
            os.dup2(read, ends[0])
            os.close(read)
            self.stdin = os.fdopen(write, "w" if text else "wb")
        for name, where in (("stdout", stdout), ("stderr", stderr)):
            if where == subprocess.PIPE:
                read, write = os.pipe()
                setattr(self, name, os.fdopen(read, "r" if text else "rb"))
            elif where == subprocess.DEVNULL:
                write = os.open(os.devnull, os.O_WRONLY)
            else:
                write = os.dup({"stdout": 1, "stderr": 2}[name] if where is None else where if isinstance(where, int) else where.fileno())
            ends.append(write)
        _ready()
        place, variables = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        self._process = _server.Process(target=_run, args=(work, arguments, place, variables, tuple(map(_Handed, ends))), daemon=True)
        self._process.start()
        for end in ends:
            os.close(end)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read what is printed until the end, and return it."""
        said: list[Any] = [None, None]

        def read(place: int, file: IO[Any]) -> None:
            said[place] = file.read()

        readers = [
            Thread(target=read, args=(place, file), daemon=True) for place, file in enumerate((self.stdout, self.stderr)) if file and not file.closed
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        self._close()
        return said[0], said[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.wait()

    def _close(self) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()


def _run(work: Callable[..., Any], arguments: tuple[Any, ...], place: str, variables: dict[str, str], ends: Sequence[int]) -> None:
    os.chdir(place)
    os.environ.clear()
    os.environ.update(variables)
    for number, end in enumerate(ends):
        os.dup2(end, number)
        os.close(end)
    sys.stdin = os.fdopen(0, closefd=False)
    failpoints.arm(os.environ.get("HEADRACE_KILL_AT", ""))  # as when it is imported
    sys.exit(work(*arguments))


def command(*arguments: str) -> int:
    """Run the command line in the process that was forked."""
    from headrace.cli import main

    sys.argv = ["headrace", *arguments]
    return main()


def program(code: str, *arguments: str) -> None:
    """Run a program in the process that was forked."""
    sys.argv = ["-c", *arguments]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})


def begin() -> None:
    """Have this process killed as many seconds from now as `KILLED_AFTER` says, by a timer of its own: another process may come too late."""
    signal.setitimer(signal.ITIMER_REAL, float(os.environ.get("KILLED_AFTER", "0")))


def started(*arguments: str, **options: Any) -> Forked:
    """Start `headrace ARGUMENTS`."""
    return Forked(command, *arguments, **options)
