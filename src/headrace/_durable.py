"""Files that are still there after the power has failed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["put", "sync", "write_durably", "write_whole"]


def sync(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, durable."""
    if sys.platform == "win32" and path.is_dir():
        return  # there a folder cannot be opened, and its names are in the journal
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write a file; its name becomes durable with its folder."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def put(path: Path, data: bytes | memoryview) -> None:
    """Put a file in place, whole: at any moment it is there as it was or as it is to be. Its name becomes durable with its folder."""
    aside = path.with_name(f".{path.name}.new")
    write_durably(aside, data)
    aside.replace(path)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Put a file in place, whole and durable."""
    put(path, data)
    sync(path.parent)
