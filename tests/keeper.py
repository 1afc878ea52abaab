"""Servers that take long to start, and outcomes that take long to come: one of each for all workers of a test run.

A process keeps the server for as long as any worker holds a lock, however the workers end.
"""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HeadraceError


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
    folder = _shared(name, factory)
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


def once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], Any]) -> Any:
    """Return what `make` gives for a folder: the worker that is first calls it, and all others have its answer."""
    folder = _shared(name, factory)
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            found = io.BytesIO()
            _Pickler(found).dump(make(folder))
            (folder / "made").write_bytes(found.getvalue())
    return pickle.loads((folder / "made").read_bytes())


class _Pickler(pickle.Pickler):
    """Pickles headrace's errors too, which are made with names."""

    def reducer_override(self, one: Any) -> Any:
        if isinstance(one, HeadraceError):
            return partial(type(one), where=one.where, fix=one.fix), (one.what,)
        return NotImplemented


def _shared(name: str, factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this name that all workers share."""
    folder = factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / name
    folder.mkdir(exist_ok=True)
    return folder
