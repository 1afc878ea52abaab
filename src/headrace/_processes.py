"""Processes told from others that were given the same number later."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["birth", "has_open", "openers"]

_PROC = Path("/proc")


def birth(pid: int) -> str | None:
    """Return what no other process of this number ever has: when it began, and since which start of the machine. None if it has ended."""
    if _PROC.is_dir():
        try:
            stat = (_PROC / str(pid) / "stat").read_bytes()
            boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        # The name, in parentheses, may hold anything; the state is the third field, the start the 22nd.
        fields = stat[stat.rindex(b")") + 1 :].split()
        return None if fields[0] in {b"Z", b"X"} else f"{boot}/{int(fields[19])}"
    try:
        done = subprocess.run(  # noqa: S603  (a number)
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
        )
    except OSError:
        return None
    return " ".join(done.stdout.split()) or None


def has_open(pid: int, path: Path) -> bool | None:
    """Whether the process has the file open; None where the system does not tell."""
    try:
        wanted = path.stat()
        handles = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
    return any(_is(handle, wanted) for handle in handles)


def openers(path: Path) -> list[int]:
    """Return the numbers of the processes that have the file open, as far as the system tells."""
    if not _PROC.is_dir():
        return []
    return sorted(int(one.name) for one in _PROC.iterdir() if one.name.isdecimal() and int(one.name) != os.getpid() and has_open(int(one.name), path))


def _is(handle: Path, wanted: os.stat_result) -> bool:
    try:
        found = handle.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
