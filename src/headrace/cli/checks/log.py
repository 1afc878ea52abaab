"""The SQLite log: its format, its rows, its -wal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from headrace.cli.checks.case import MB, Case, Finding
from headrace.cli.tables import counted
from headrace.topics.look import Look

__all__ = ["check_log"]

_LARGE_WAL = 256 * MB
_MOST_SECONDS = 30.0


def check_log(case: Case) -> Iterator[Finding]:
    """Check the SQLite log."""
    path, where = case.log, str(case.log)
    if not path.exists():
        yield Finding("ok", where, "is not there yet; headrace topics create makes it")
        return
    if not os.access(path, os.W_OK):
        yield Finding("FAIL", where, "cannot be written by this user", "let this user write it and its folder, or set HEADRACE_HOME")
    yield from _content(case)


def _content(case: Case) -> Iterator[Finding]:
    """Check the rows of the log."""
    path, where = case.log, str(case.log)
    from headrace.topics.sqlite_schema import FORMAT

    try:
        version, tables = Look(path).format()
        if version != FORMAT:
            yield _of_format(version, FORMAT, where, is_empty=not tables)
            return
        if Look(path).lacks_wal():
            what = "was copied while it was in use, without its -wal, or closed by another program: what the -wal held is missing"
            yield Finding(
                "FAIL", where, what, "copy it with headrace backup; if it is no copy, any command that opens it settles it: headrace topics list"
            )
            return
        faults = Look(path).faults(_MOST_SECONDS)
    except sqlite3.Error as error:
        yield Finding("FAIL", where, f"is damaged or cannot be read: {error}", "restore a backup, or name another HEADRACE_HOME")
        return
    if faults:
        for fault in faults:
            yield Finding("FAIL", where, fault, "restore a backup, or name another HEADRACE_HOME")
        return
    if faults is None:
        yield Finding(
            "warn", where, f"is too large to be checked in {_MOST_SECONDS:.0f} s", "check it yourself: PRAGMA quick_check in the sqlite3 shell"
        )
    topics = case.topics if case.kafka is None else None
    shown = "" if topics is None else f", {counted(len(topics), 'topic')}"
    yield Finding("ok", where, f"{'' if faults is None else 'whole, '}format {version}, {path.stat().st_size / MB:,.1f} MB{shown}")
    yield from _wal(path)


def _of_format(version: int, ours: int, where: str, *, is_empty: bool) -> Finding:
    """Return what is found of a database that is no log of our format."""
    if not version and is_empty:
        return Finding("ok", where, "is empty")
    if 0 < version < ours and not is_empty:
        lacks = "without checksums" if version == 1 else "whose tables are not tied together"
        return Finding("warn", where, f"is of format {version}, {lacks}", "any command that opens it upgrades it: headrace topics list")
    what = f"is a log of format {version}, not {ours}" if version else "is a database, but no log"
    return Finding("FAIL", where, what, "use the headrace that made it, or name another HEADRACE_HOME")


def _wal(path: Path) -> Iterator[Finding]:
    wal = path.with_name(f"{path.name}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > _LARGE_WAL:
        yield Finding("warn", str(wal), f"has grown to {size / MB:,.0f} MB", "end what has the log open for reading and stands still")
    elif size:
        yield Finding("ok", str(wal), f"{size / MB:,.1f} MB")
