"""Folders in which runs on clusters work: each goes with its run, and that of a run that was killed with the next one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace._lock import TakenError, take
from headrace.engines.environment import wait_for_lock
from headrace.errors import EnvironmentFault

__all__ = ["working_folder"]

_LOCK = "lock"


@contextmanager
def working_folder(home: Path, name: str, *, failed_stays: bool = False) -> Iterator[Path]:
    """Give an empty folder below `home` to work in, and remove those that nobody works in any more.

    Parameters
    ----------
    home
        HEADRACE_HOME.
    name
        How the folder's name begins.
    failed_stays
        Whether the folder stays until the next run if an error is raised: it has logs that say more.

    Raises
    ------
    EnvironmentFault
        If the folder cannot be made.
    """
    parent = (home / "working").absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        making = wait_for_lock(parent / ".lock")  # a folder without a lock of its own is nobody's: none is made meanwhile
        try:
            _remove_left(parent)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
            lock = take(folder / _LOCK)
        finally:
            making.close()
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(parent), fix="name another HEADRACE_HOME") from None
    try:
        yield folder
    except BaseException:
        if not failed_stays:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.close()


def _remove_left(parent: Path) -> None:
    for folder in parent.iterdir():
        with suppress(TakenError, OSError):
            if folder.is_dir():
                lock = take(folder / _LOCK)
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()
