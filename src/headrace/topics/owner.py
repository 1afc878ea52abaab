"""One process owns a pipeline: a lock that dies with the process keeps a second one out."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from headrace.errors import EnvironmentFault

__all__ = ["locked"]


def locked(folder: Path, pipeline: str) -> IO[bytes]:
    """Return the pipeline's lock file, locked for this process."""
    path = folder / f"{pipeline}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab+", buffering=0)
    except OSError as error:
        raise EnvironmentFault(f"cannot be made: {error.strerror}", where=str(path), fix="let this user write there, or set HEADRACE_HOME") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().decode()
        lock.close()
        raise EnvironmentFault(f"is run by process {owner} already", where=f"pipeline {pipeline}", fix="end that one first") from None
    lock.truncate(0)
    lock.write(str(os.getpid()).encode())
    return lock
