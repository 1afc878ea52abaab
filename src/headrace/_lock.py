"""Files that one process at a time can have; the lock dies with the process. The one place that asks the system for locks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

__all__ = ["TakenError", "lock", "take"]

_BEHIND_ALL = 1 << 30  # on Windows a locked byte cannot be read, so none of those written is locked


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
    file = open(path, "ab+", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115  (the caller closes it)
    try:
        lock(file.fileno())
        file.truncate(0)
        file.write(str(os.getpid()).encode())
    except BlockingIOError:
        file.seek(0)
        owner = file.read().decode()
        file.close()
        raise TakenError(owner) from None
    except OSError:
        file.close()
        raise
    return file


def lock(handle: int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until its last handle is closed, those that other processes inherited too.

    Parameters
    ----------
    handle
        The file's descriptor.
    shared
        Whether others may have such a lock too. Windows has none: there others are kept out.
    wait
        Whether to wait for another process that has it.

    Raises
    ------
    BlockingIOError
        If another process has it.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _BEHIND_ALL, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, error.strerror) from None
    else:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
