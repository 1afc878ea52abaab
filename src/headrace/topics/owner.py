"""One process owns a pipeline: a lock that dies with the process keeps a second one out."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from headrace._durable import private_folder
from headrace._lock import TakenError, take
from headrace.errors import EnvironmentFault

__all__ = ["locked"]


def locked(folder: Path, pipeline: str) -> IO[bytes]:
    """Return the pipeline's lock file, locked for this process."""
    path = folder / f"{pipeline}.lock"
    try:
        private_folder(folder)
        return take(path)
    except TakenError as error:
        raise EnvironmentFault(f"is run by process {error.owner} already", where=f"pipeline {pipeline}", fix="end that one first") from None
    except OSError as error:
        raise EnvironmentFault(f"cannot be made: {error.strerror}", where=str(path), fix="let this user write there, or set HEADRACE_HOME") from None
