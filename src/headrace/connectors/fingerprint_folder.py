"""The folder of fingerprints: one saver works on it, and its names are durable."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from headrace._durable import sync, write_fault
from headrace._lock import TakenError, take
from headrace.errors import EnvironmentFault

__all__ = ["locked_folder", "sync_folder"]


def locked_folder(folder: Path) -> IO[bytes]:
    """Return the folder's lock file, locked for this process, with what a killed saver left half written removed."""
    path = folder / ".saver.lock"
    try:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for one in missing:
            sync_folder(one.parent)
        lock = take(path)
    except TakenError as error:
        raise EnvironmentFault(
            f"process {error.owner} saves fingerprints there already", where=str(folder), fix="end that one first, or name another folder"
        ) from None
    except OSError as error:
        raise write_fault(folder, error) from None
    try:
        for left in folder.glob(".*.json.part"):
            left.unlink()
    except OSError as error:
        lock.close()
        raise write_fault(folder, error) from None
    return lock


def sync_folder(folder: Path) -> None:
    """Make a folder's names durable."""
    try:
        sync(folder)
    except OSError as error:
        raise write_fault(folder, error) from None
