"""Files that one process at a time can have; the lock dies with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

__all__ = ["TakenError", "take"]


class TakenError(Exception):
    """Another process has the file; `owner` is its number."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def take(path: Path) -> IO[bytes]:
    """Return the file, locked for this process, whose number stands in it. Closing it lets go.

    Raises
    ------
    TakenError
        If another process has it.
    OSError
        If the file cannot be made or written.
    """
    lock = path.open("ab+", buffering=0)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().decode()
        lock.close()
        raise TakenError(owner) from None
    except OSError:
        lock.close()
        raise
    return lock
