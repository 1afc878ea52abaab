"""Which files an address means: one, those of a folder, or those of a pattern."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

__all__ = ["FORMATS", "Format", "Place", "format_of", "log_of"]

Format = Literal["ndjson", "csv"]
FORMATS: tuple[Format, ...] = ("ndjson", "csv")

_ENDING = re.compile(r"\.(ndjson|jsonl|json|csv|tsv)(?=$|[.~_-])", re.IGNORECASE)
_COMPRESSED = re.compile(r"\.(gz|xz|bz2|zst|lz4|zip)$", re.IGNORECASE)


def format_of(path: str) -> Format | None:
    """Return the format of a file by its name: the ending may be followed by that of a rotation, as in `log.csv.1`."""
    found = _ENDING.findall(os.path.basename(path))  # noqa: PTH119  (a pattern is no path)
    if not found:
        return None
    return "csv" if found[-1].lower() in {"csv", "tsv"} else "ndjson"


def log_of(path: str) -> str:
    """Return what the names of a log's files have in common: the path without what a rotation has put behind the ending."""
    folder, name = os.path.split(path)
    *_, found = [None, *_ENDING.finditer(name)]
    return os.path.join(folder, name if found is None else name[: found.end()])  # noqa: PTH118


class Place:
    """Files of a folder or a pattern, or one file.

    Parameters
    ----------
    pattern
        A path, with `*`, `**` and `[…]` for several.
    format
        That of all files; None: by their names, and others are left out.
    """

    def __init__(self, pattern: str, format: Format | None) -> None:
        self.pattern, self._format = pattern, format
        self.several = glob.has_magic(pattern)

    @property
    def has_format(self) -> bool:
        """Whether it says, or the names of its files can say, which format they have."""
        return bool(self._format or format_of(self.pattern) or self.several or self.pattern.endswith("/") or Path(self.pattern).is_dir())

    def missing(self) -> str | None:
        """Return why there can be no file now; None if there can."""
        if not self.several:
            return None if Path(self.pattern).exists() else "there is no such file"
        fixed = Path(*self._fixed())
        return None if fixed.is_dir() else f"there is no folder {fixed}"

    def _fixed(self) -> Iterator[str]:
        for part in Path(self.pattern).parts[:-1]:
            if glob.has_magic(part):
                return
            yield part

    def files(self) -> dict[str, os.stat_result]:
        """Return the files that there are, by path."""
        found = {}
        for path in sorted(self._paths()):
            if self.format_of(path) is None or _COMPRESSED.search(path):
                continue
            try:
                state = os.stat(path)  # noqa: PTH116  (thousands of paths, each second)
            except OSError:
                continue
            if stat.S_ISREG(state.st_mode):
                found[path] = state
        return found

    def _paths(self) -> list[str]:
        if self.several:
            return glob.glob(self.pattern, recursive=True)  # noqa: PTH207  (a pattern may be absolute)
        try:
            return [os.path.join(self.pattern, name) for name in os.listdir(self.pattern) if name[0] != "."]  # noqa: PTH118, PTH208
        except OSError:
            return [self.pattern]

    def format_of(self, path: str) -> Format | None:
        """Return the format of a file; None if it is of none."""
        return self._format or format_of(path) or format_of(self.pattern)
