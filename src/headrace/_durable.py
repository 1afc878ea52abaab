"""Files that are still there after the power has failed."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

from headrace.errors import EnvironmentFault

__all__ = ["durable_folder", "private", "private_folder", "put", "sync", "sync_name", "write_durably", "write_fault", "write_whole"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def private(path: str, flags: int) -> int:
    """Open a file; one that is made only its owner may read and write. It is an `opener` for `open`."""
    return os.open(path, flags, 0o600)


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner alone. One that is there stays as it is."""
    durable_folder(path, 0o700)


def durable_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it that are missing, so that their names are durable. One that is there stays as it is."""
    if path.is_dir():
        return
    if not path.parent.exists():
        durable_folder(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    sync_name(path)


def sync_name(path: Path) -> None:
    """Make the name of a folder durable, if the one above it may be read."""
    with suppress(PermissionError):
        sync(path.parent)


def sync(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, durable."""
    if sys.platform == "win32" and path.is_dir():
        return  # there a folder cannot be opened, and its names are in the journal
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes | memoryview, *, secret: bool = False) -> None:
    """Write a file, one that is `secret` for its owner alone; its name becomes durable with its folder."""
    with open(path, "wb", opener=private if secret else None) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def put(path: Path, data: bytes | memoryview, *, secret: bool = False) -> None:
    """Put a file in place, whole: at any moment it is there as it was or as it is to be. Its name becomes durable with its folder."""
    if path.is_dir():  # known before the file beside it is written, which would be left there
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    aside = path.with_name(f".{path.name}.new")
    write_durably(aside, data, secret=secret)
    aside.replace(path)


def write_whole(path: Path, data: bytes | memoryview, *, secret: bool = False) -> None:
    """Put a file in place, whole and durable."""
    put(path, data, secret=secret)
    sync(path.parent)


def write_fault(path: Path, error: OSError) -> EnvironmentFault:
    """Return the error to raise when `path` could not be written."""
    fix = "let this user write there"
    if error.errno in _FULL:
        fix = "make room or name another folder, then run again: it goes on from the last commit"
    elif isinstance(error, NotADirectoryError | FileExistsError):
        fix = "name a folder"
    elif isinstance(error, IsADirectoryError):
        fix = "name a file"
    return EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix=fix)
