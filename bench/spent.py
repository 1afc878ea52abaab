"""What processes, and those that they start, have spent."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

__all__ = ["ticks_of"]


def ticks_of(roots: Collection[int]) -> dict[int, int]:
    """Return by number the CPU ticks of processes and of all that descend from them."""
    parents, ticks = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)], ticks[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    found = set(roots)
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return {one: ticks[one] for one in found if one in ticks}
