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
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HeadraceError
from waiting import lock_now, locked, wait_for

START_SECONDS, MAKE_SECONDS = 300, 1200  # on a machine that does much else


def keep(folder: Path, server: AbstractContextManager[str]) -> None:
    """Keep the server, which gives its address, until nobody uses it any more."""
    with (folder / "users").open("ab") as users:
        try:
            with server as address:
                (folder / "address.new").write_text(address)
                (folder / "address.new").rename(folder / "address")
                while not lock_now(users.fileno(), fcntl.LOCK_EX):
                    time.sleep(0.5)
        finally:
            (folder / "address").unlink(missing_ok=True)


@contextmanager
def kept(name: str, program: str, factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of the server that all workers share; `program FOLDER` starts it, if none of them has, and calls `keep`.

    If it does not start, no other worker tries again.
    """
    folder = _shared(name, factory)
    with (folder / "users").open("ab") as users:
        with locked(folder / "starting", f"another worker starts {name}", seconds=2 * START_SECONDS), _remembered(folder / "failed"):
            wait_for(lambda: lock_now(users.fileno(), fcntl.LOCK_SH), f"the {name} before ends", seconds=START_SECONDS)
            if not (folder / "address").exists():
                _start(name, program, folder)
        yield (folder / "address").read_text()


def _start(name: str, program: str, folder: Path) -> None:
    with (folder / "keeper.log").open("ab") as log:
        keeper = subprocess.Popen([sys.executable, program, str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def started() -> bool:
        assert keeper.poll() is None, f"{name} does not start: {(folder / 'keeper.log').read_text()[-2000:]}"
        return (folder / "address").exists()

    try:
        wait_for(started, f"{name} starts", seconds=START_SECONDS, every=0.1)
    except AssertionError:
        keeper.kill()
        raise
    finally:
        keeper.returncode = 0  # it outlives this process if another needs it: no one waits for it


def once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], Any]) -> Any:
    """Return what `make` gives for a folder: the worker that is first calls it, and all others have its answer, or why there is none."""
    folder = _shared(f"{name}.once", factory)  # a server may have the same name
    with locked(folder / "lock", f"another worker makes {name}", seconds=MAKE_SECONDS), _remembered(folder / "failed"):
        if not (folder / "made").exists():
            found = io.BytesIO()
            _Pickler(found).dump(make(folder))
            (folder / "made").write_bytes(found.getvalue())
    return pickle.loads((folder / "made").read_bytes())


@contextmanager
def _remembered(failed: Path) -> Iterator[None]:
    """Write down why something failed, or that its worker ended in it, and fail at once where that has happened before."""
    assert not failed.exists(), f"the worker that was first failed: {failed.read_text()}"
    failed.write_text("it ended")
    try:
        yield
    except Exception:
        failed.write_text(traceback.format_exc())
        raise
    failed.unlink()


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
