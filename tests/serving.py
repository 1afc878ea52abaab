"""The simulated generators served by a real process, which tests stop, kill and start again on its port."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ports import free_port

LIMIT = 400.0
HEADRACE = str(Path(sys.executable).with_name("headrace"))


class Server:
    """`headrace serve generators`, or another command that serves the same."""

    def __init__(self, *command: str) -> None:
        self.port = free_port()
        self._command = command or (HEADRACE, "serve", "generators", "--port", "{port}")
        self._process: subprocess.Popen[str] | None = None

    def url(self, query: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/generator/stream{f'?{query}' if query else ''}"

    def start(self) -> None:
        command = [part.format(port=self.port) for part in self._command]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        give_up_at = time.monotonic() + LIMIT
        while time.monotonic() < give_up_at:
            assert self._process.poll() is None, self._process.communicate()[1]
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("the server does not answer")

    @contextmanager
    def running(self, ended_by: signal.Signals = signal.SIGTERM) -> Iterator[Server]:
        """Start it, and end it by a signal."""
        self.start()
        try:
            yield self
        finally:
            self.end(ended_by)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send it a signal, and return how it ended and what it said of errors."""
        if self._process is None:
            return 0, ""
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return process.returncode, err
