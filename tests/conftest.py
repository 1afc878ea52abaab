"""Hypothesis' profiles, the long tests' figures, and what holds for all tests: none asserts a time, not even that of an example.

A run draws the same examples as the one before it. HEADRACE_TEST_PROFILE=long, which `make test-long` sets, draws others, and many
more wherever a test does not say how many.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("short", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("long", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HEADRACE_TEST_PROFILE") or "short")


# No test takes as long. One that hangs ends with its worker, and where its threads stood is printed at the end, where it is not overlooked.
RUNNER = re.compile(r"/(?:_pytest|pluggy|xdist|execnet)/|<string>")
HUNG_SECONDS, HUNG = 2700, "HEADRACE_TESTS_HUNG"


# Tests kill processes, not the machine: files in memory outlive that as those on a disk do, and no commit waits for a disk.
MEMORY, ROOM = Path("/dev/shm"), 12 << 30
PREFIX = "headrace-tests-"


def pytest_configure() -> None:
    """Make the folder in which all workers write down where they hang, and that of temporary folders, in memory where there is room."""
    if HUNG in os.environ:
        return
    os.environ[HUNG] = tempfile.mkdtemp(prefix="headrace-hung-")
    if "TMPDIR" not in os.environ and _room() >= ROOM:
        for left in MEMORY.glob(f"{PREFIX}*"):
            if not Path("/proc", left.name.removeprefix(PREFIX)).exists():
                shutil.rmtree(left, ignore_errors=True)
        folder = MEMORY / f"{PREFIX}{os.getpid()}"
        folder.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _room() -> int:
    """Return how many bytes the folder in memory can take."""
    try:
        free = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        return min(int(free[1]) << 10 if free else 0, shutil.disk_usage(MEMORY).free)
    except OSError:
        return 0


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remove the folder in memory, unless a test failed; the next run does."""
    folder = MEMORY / f"{PREFIX}{os.getpid()}"
    if exitstatus == 0 and folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector all modules and tests: they live to the end."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the worker if a test hangs."""
    with Path(os.environ[HUNG], str(os.getpid())).open("w") as file:
        file.write(f"{item.nodeid} hangs\n")
        file.flush()
        faulthandler.dump_traceback_later(HUNG_SECONDS, exit=True, file=file)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print where tests hung, and what long tests have counted with `record_property`: kills, cases, seconds."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    for path in Path(os.environ[HUNG]).iterdir():
        if "Timeout" in (text := path.read_text()):
            terminalreporter.section("a test that hung")
            terminalreporter.write_line("".join(line for line in text.splitlines(keepends=True) if not RUNNER.search(line)))
    shutil.rmtree(os.environ[HUNG])
    figures: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                figures.update({name: count for name, count in report.user_properties if isinstance(count, int | float)})
    if figures:
        terminalreporter.section("figures")
        for name, count in sorted(figures.items()):
            terminalreporter.write_line(f"{name}: {count:,}")
