"""Errors, and whose fault each is.

    HeadraceError
    ├── PlanError          the author's: a pipeline, an expression, a setting, a command line
    │   ├── ProcessError   the author's too: a process that raised while it ran, or broke its own declaration
    │   └── Mistakes       several of them in one file
    ├── DataError          the data's: an input that cannot be read as what it claims to be
    ├── EnvironmentFault   the surroundings': a disk, a folder, a file, a server
    └── InternalError      ours

A single bad record raises none of these: it becomes a dead letter and its neighbours go on.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

__all__ = [
    "DataError",
    "EnvironmentFault",
    "HeadraceError",
    "InternalError",
    "Mistakes",
    "PlanError",
    "ProcessError",
    "first_of",
    "near",
    "shortened",
]


class HeadraceError(Exception):
    """An error that says what is wrong, where, and how to fix it, in one line.

    `exit_status` is what the command line ends with: 1 the job failed, 2 wrong use.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f"; {self.fix}" if self.fix else ""
        return " ".join(f"{place}{self.what}{fix}".split())


class PlanError(HeadraceError):
    """The pipeline, an expression in it, a setting or the command line is wrong."""

    exit_status = 2


class ProcessError(PlanError):
    """A process raised while it ran, took too long, or gave or kept what it had not declared."""

    exit_status = 1


class Mistakes(PlanError):
    """All mistakes of a file, a line for each."""

    def __init__(self, mistakes: Sequence[HeadraceError]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(map(str, mistakes)))

    def __str__(self) -> str:
        return "\n".join(map(str, self.mistakes))

    @classmethod
    def report(cls, mistakes: Sequence[HeadraceError]) -> None:
        """Raise what was collected, if it is anything, in the order of lines."""
        if len(mistakes) == 1:
            raise mistakes[0]
        if mistakes:
            raise cls(sorted(mistakes, key=_line_of))


def _line_of(mistake: HeadraceError) -> int:
    line = re.search(r" line (\d+)", mistake.where or "")
    return int(line[1]) if line else 0


class DataError(HeadraceError):
    """An input as a whole cannot be read as what it claims to be."""


class EnvironmentFault(HeadraceError):
    """A disk, folder, file or server does not do what it must."""


class InternalError(HeadraceError):
    """headrace broke one of its own promises."""


def shortened(text: str, longest: int = 40) -> str:
    """Return a text of the user's as a message shows it: at most so many letters."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def first_of(names: Sequence[str], most: int = 8) -> str:
    """Return names with commas between them; of many the first ones, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def near(name: str, known: Iterable[str]) -> str:
    """Return a hint that names what `name` may have been meant to be, or else what there is."""
    names = sorted(set(known))
    match = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if match:
        return f"did you mean {next(n for n in names if n.lower() == match[0])!r}?"
    if not names:
        return "there is none"
    shown = ", ".join(shortened(one, 80) for one in names[:20]) + (", …" if len(names) > 20 else "")
    return f"there is: {shown}"
