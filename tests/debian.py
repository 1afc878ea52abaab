"""Servers of Debian's packages for tests: unpacked into a folder without root, and run in one."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.engines.environment import end_with_parent
from ports import free_port
from waiting import wait_for

LIMIT = 400.0


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Download packages and unpack them, as far as there are any. The first is the one that is needed, the others are its libraries."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["apt-get", "download", packages[0]], check=False, cwd=folder, capture_output=True, timeout=300).returncode:
        subprocess.run(["apt-get", "update"], check=False, capture_output=True, timeout=300)  # a fresh machine has no lists of packages yet
    for name in packages:  # a release of the system has not all of the libraries, and does not need them then
        subprocess.run(["apt-get", "download", name], check=False, cwd=folder, capture_output=True, timeout=300)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=False, capture_output=True, timeout=300)
        package.unlink()


class Program:
    """A server on a free port with its data in a folder. It can be started again after it was stopped or killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def _run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a command, and return when it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=end_with_parent,  # noqa: PLW1509  (a call of C and nothing else)
            )

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log[-2000:]
            return self._answers()

        wait_for(answers, f"{command[0]} answers", seconds=LIMIT, every=0.01)

    def _answers(self) -> bool:
        raise NotImplementedError

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait(180)
