"""The machine: its Python and packages, its memory, its clock, and how many files a process may have open."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shlex
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from headrace import __version__
from headrace._clock import now_ms
from headrace.cli.checks.case import MB, Case, Finding
from headrace.topics.look import Look

__all__ = ["check_clock", "check_memory", "check_open_files", "check_packages", "check_python"]

_PACKAGES = ("polars", "arro3-core", "arro3-io", "sqlglot", "msgspec", "cyclopts", "rich")
_OLDEST_SQLITE = (3, 35)  # has RETURNING
_YEAR_2024_MS = 1_704_067_200_000
_SLACK_MS = 1000  # what keeping the time by the network may set a clock back by
_FEW_FILES = 1024


def check_python(_: Case) -> Iterator[Finding]:
    """Check the versions of Python and of its SQLite."""
    found = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036  (one may have started it against the package's word)
        yield Finding("FAIL", "Python", f"is {found}", "use 3.11 or newer")
    else:
        yield Finding("ok", "Python", f"{found}, headrace {__version__}")
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        yield Finding("FAIL", "SQLite", f"is {sqlite3.sqlite_version}", "use a Python that comes with 3.35 or newer")
    else:
        yield Finding("ok", "SQLite", sqlite3.sqlite_version)


def check_packages(case: Case) -> Iterator[Finding]:
    """Check that the packages can be imported."""
    for name in (*_PACKAGES, *(["confluent-kafka"] if case.kafka is not None else [])):
        module = name.replace("-", ".") if name.startswith("arro3") else name.replace("-", "_")
        try:
            importlib.import_module(module)
            yield Finding("ok", f"package {name}", importlib.metadata.version(name))
        except Exception as error:  # noqa: BLE001  (a package may break in any way)
            wanted = shlex.quote("headrace[kafka]" if name == "confluent-kafka" else name)
            yield Finding(
                "FAIL", f"package {name}", f"cannot be imported: {type(error).__name__}: {error}", f"install it again: pip install {wanted}"
            )


def check_memory(_: Case) -> Iterator[Finding]:
    """Check how much memory is available."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return
    text = f"{free / MB:,.0f} MB are available"
    if free < 500 * MB:
        yield Finding("warn", "memory", text, "end what needs it, or give the machine more")
    else:
        yield Finding("ok", "memory", text)


def check_clock(case: Case) -> Iterator[Finding]:
    """Check the clock, by the year and by the last record of the log."""
    now = now_ms()
    set_it = "set the clock, and have it kept by the network"
    if now < _YEAR_2024_MS:
        yield Finding("FAIL", "clock", f"says {time.strftime('%Y-%m-%d', time.gmtime(now / 1000))}", set_it)
        return
    began = time.monotonic()
    time.sleep(0.01)
    if time.monotonic() <= began:
        yield Finding("FAIL", "clock", "the one that only goes forward stands still", "restart the machine")
    last = _last_arrival(case.log)
    if last is not None and now < last - _SLACK_MS:
        yield Finding("warn", "clock", f"is {(last - now) / 1000:,.0f} s behind the last record of the log: it was set back", set_it)
    else:
        yield Finding("ok", "clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now / 1000)))


def _last_arrival(log: Path) -> int | None:
    with suppress(sqlite3.Error):
        if log.exists():
            return Look(log).last_arrival()
    return None


def check_open_files(_: Case) -> Iterator[Finding]:
    """Check how many files a process may have open."""
    if sys.platform == "win32":
        return
    import resource

    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _FEW_FILES:
        yield Finding("warn", "open files", f"a process may have {limit}", "raise it: ulimit -n 4096")
    else:
        yield Finding("ok", "open files", f"a process may have {'any number' if limit == resource.RLIM_INFINITY else limit}")
