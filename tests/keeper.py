"""Servers that take long to start: one for all workers of a test run.

A process keeps the server for as long as any worker holds a lock, however the workers end.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest


def keep(folder: Path, server: AbstractContextManager[str]) -> None:
    """Keep the server, which gives its address, until nobody uses it any more."""
    with (folder / "users").open("ab") as users:
        try:
            with server as address:
                (folder / "address.new").write_text(address)
                (folder / "address.new").rename(folder / "address")
                while True:
                    time.sleep(0.5)
                    with suppress(BlockingIOError):
                        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
        finally:
            (folder / "address").unlink(missing_ok=True)


@contextmanager
def kept(name: str, program: str, factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of the server that all workers share; `program FOLDER` starts it, if none of them has, and calls `keep`."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= name
    folder.mkdir(exist_ok=True)
    with (folder / "users").open("ab") as users, (folder / "starting").open("ab") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if not (folder / "address").exists():
            with (folder / "keeper.log").open("ab") as log:
                keeper = subprocess.Popen(
                    [sys.executable, program, str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            while not (folder / "address").exists():
                assert keeper.poll() is None, (folder / "keeper.log").read_text()[-2000:]
                time.sleep(0.1)
            keeper.returncode = 0  # it outlives this process if another needs it: no one waits for it
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield (folder / "address").read_text()
