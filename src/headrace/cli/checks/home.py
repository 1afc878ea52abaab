"""The home: its disk, and who may read what is in it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from headrace.cli.checks.case import GB, MB, Case, Finding
from headrace.cli.checks.filesystem import check_filesystem
from headrace.cli.logs import LOG_FILE
from headrace.cli.tables import counted

__all__ = ["check_disk", "check_home"]

_SLOW_MS = 100


def check_home(case: Case) -> Iterator[Finding]:
    """Check that the home can be written, lies on a local disk, and is closed to other users."""
    folder = case.home
    if not folder.exists():
        yield Finding("ok", str(folder), f"is not there yet in {folder.absolute().parent}; what needs it makes it")
    elif not folder.is_dir():
        yield Finding("FAIL", str(folder), "is no folder", "remove the file, or set HEADRACE_HOME to a folder")
        return
    place = _there(folder)
    yield _probe(place)
    yield from check_filesystem(place)
    if folder.exists():
        yield from _rights(folder)


def _rights(folder: Path) -> Iterator[Finding]:
    """Warn of a home, or files in it, that other users may read or write: they hold what the plant sent."""
    if sys.platform == "win32":
        return
    own = [folder, folder / LOG_FILE, *(path for name in ("state", "jobs", "ledgers", "pipelines") for path in (folder / name).rglob("*"))]
    opened = [path for path in own if path.exists() and path.stat().st_mode & 0o077 and (path.is_file() or path == folder)]
    if opened:
        what = (
            f"may be read by other users: {counted(len(opened), 'file')} of the home, {opened[0]} the first"
            if opened[0] != folder
            else "may be read by other users"
        )
        yield Finding("warn", str(folder), what, f"keep them out: chmod -R go= {shlex.quote(str(folder))}")
    else:
        yield Finding("ok", str(folder), "only its owner may read it")


def _there(path: Path) -> Path:
    """Return the path, or the last part of it that is there."""
    return path if path.exists() else next(one for one in path.absolute().parents if one.exists())


def _probe(folder: Path) -> Finding:
    """Write a small file for good, and remove it."""
    probe = folder / f".headrace-doctor-{os.getpid()}"
    began = time.perf_counter()
    try:
        try:
            with probe.open("xb") as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            took = (time.perf_counter() - began) * 1000
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return Finding("FAIL", str(folder), f"cannot be written: {error.strerror}", "let this user write there, or set HEADRACE_HOME")
    if took > _SLOW_MS:
        return Finding(
            "warn", str(folder), f"a small durable write takes {took:.0f} ms, as long as each commit", "use a faster disk: set HEADRACE_HOME"
        )
    return Finding("ok", str(folder), f"a small durable write takes {took:.1f} ms")


def check_disk(case: Case) -> Iterator[Finding]:
    """Check the room on the disk of the home."""
    folder = _there(case.home)
    free = shutil.disk_usage(folder).free
    text = f"{free / MB:,.0f} MB of the disk are free"
    if free < 100 * MB:
        yield Finding("FAIL", str(folder), text, "make room: runs stop when there is none")
    elif free < GB:
        yield Finding("warn", str(folder), text, "make room, or let topics keep less: headrace topics create --retention")
    else:
        yield Finding("ok", str(folder), text)
