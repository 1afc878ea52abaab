"""What tests wait with, never without a limit."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def wait_for(what: Callable[[], Any], said: str = "it", *, seconds: float, every: float = 0.05) -> Any:
    """Look again and again until there is something to see, and return it."""
    give_up_at = time.monotonic() + seconds
    while not (found := now(what)):
        assert time.monotonic() < give_up_at, f"{said}: not within {seconds:.0f} s"
        time.sleep(every)
    return found


def now(what: Callable[[], Any]) -> Any:
    """Return what there is to see; there is nothing yet where a tag, a topic or a row is looked up that has not come."""
    try:
        return what()
    except LookupError:
        return None


@contextmanager
def locked(path: Path, said: str, *, seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which one process has at a time."""
    with path.open("ab") as file:
        wait_for(lambda: lock_now(file.fileno(), fcntl.LOCK_EX), said, seconds=seconds)
        yield


def lock_now(file: int, kind: int) -> bool:
    """Take the lock of a file, and return whether it could be taken at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
