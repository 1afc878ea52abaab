"""How commands print rows: as JSON for programs, as columns for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

__all__ = ["counted", "print_json", "print_table", "printable"]


def counted(number: int, what: str) -> str:
    """Return a number with its noun, which is in the plural unless the number is 1."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return a text with its control characters escaped: names in data must not move the cursor of a terminal."""
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def print_json(rows: Iterable[dict[str, Any]]) -> None:
    """Print objects, one a line."""
    for row in rows:
        print(msgspec.json.encode(row).decode())


def print_table(header: Sequence[str], rows: Sequence[Sequence[str | int | None]]) -> None:
    """Print columns, numbers to the right."""
    cells = [["-" if cell is None else f"{cell:,}" if isinstance(cell, int) else printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [not any(isinstance(cell, str) for cell in column) for column in zip(*rows, strict=True)] or [False] * len(header)
    for row in (header, *cells):
        print("  ".join(cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, right, strict=True)).rstrip())
