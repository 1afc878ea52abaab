"""The kind of filesystem that a folder is on, where locks, or what was written, may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace.cli.checks.case import Finding

__all__ = ["check_filesystem"]

_NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.", "9p", "afs", "ceph", "gluster", "lustre", "gpfs", "beegfs")
_MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


def check_filesystem(folder: Path) -> Iterator[Finding]:
    """Check what kind of filesystem a folder is on."""
    kind = _kind_of_filesystem(folder)
    local = "set HEADRACE_HOME to a folder on a local disk"
    if kind is not None and kind.startswith(_NETWORK_FILESYSTEMS):
        yield Finding("warn", str(folder), f"is on {kind}, over which SQLite's locks and WAL may fail", local)
    elif kind in _MEMORY_FILESYSTEMS:
        yield Finding("warn", str(folder), f"is on {kind}, in memory: nothing outlasts a restart of the machine", local)
    elif kind is not None:
        yield Finding("ok", str(folder), f"is on {kind}")


def _kind_of_filesystem(folder: Path) -> str | None:
    """Return what kind of filesystem a folder is on, where the system tells."""
    found: tuple[int, str] | None = None
    try:
        mounts = Path("/proc/mounts").read_text(errors="surrogateescape")
    except OSError:
        return None
    real = folder.resolve()
    for line in mounts.splitlines():
        _, at, kind, *_ = line.split(" ")
        for code in ("040", "011", "012", "134"):
            at = at.replace(f"\\{code}", chr(int(code, 8)))
        # Of two on one folder the later one is seen.
        if real.is_relative_to(at) and (found is None or len(at) >= found[0]):
            found = len(at), kind
    return found[1] if found else None
