"""Files whose records go into topics: what `headrace topics append` and `headrace prove` read."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from headrace.errors import EnvironmentFault, PlanError

__all__ = ["records_of"]

_PIECE_BYTES = 4 << 20


def records_of(file: Path) -> Iterator[list[bytes]]:
    """Return the records of a file as a topic holds them: lines as they are, those of a CSV file as JSON objects.

    Raises
    ------
    EnvironmentFault
        If the file cannot be read, now or later.
    PlanError
        If it is a Parquet file, whose rows are no lines.
    """
    ending = file.suffix.lower()
    if ending in {".parquet", ".pq"}:
        raise PlanError("a topic takes lines, and the rows of a Parquet file are none", where=str(file), fix="convert the file to NDJSON first")
    if ending in {".csv", ".tsv"}:
        from headrace.topics.files import csv_as_json

        return csv_as_json(file)
    return _lines(file)


def _lines(file: Path) -> Iterator[list[bytes]]:
    """Give the lines of a file, of standard input for -, as they come: without their ends, and those that are blank left out."""
    try:
        with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as opened:
            begun = [opened.read(len(BOM_UTF8)).removeprefix(BOM_UTF8)]
            while part := opened.read1(_PIECE_BYTES):  # type: ignore[union-attr]
                begun.append(part)
                if b"\n" in part:
                    *whole, rest = b"".join(begun).split(b"\n")
                    begun = [rest]
                    yield _records_of(whole)
            yield _records_of(b"".join(begun).split(b"\n"))
    except OSError as error:
        fix = "name a file that exists" if isinstance(error, FileNotFoundError) else "name a file that this user may read"
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(file), fix=fix) from None


def _records_of(lines: Sequence[bytes]) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in lines if line.strip()]
