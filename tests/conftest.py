"""Hypothesis' profiles, the long tests' figures, and what holds for all tests: none asserts a time, not even that of an example.

A run draws the same examples as the one before it. HEADRACE_TEST_PROFILE=long, which `make test-long` sets, draws others, and many
more wherever a test does not say how many.
"""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("short", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("long", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HEADRACE_TEST_PROFILE") or "short")


# No test takes as long. One that hangs ends with its worker, and where its threads stood is printed at the end, where it is not overlooked.
RUNNER = re.compile(r"/(?:_pytest|pluggy|xdist|execnet)/|<string>")
HUNG_SECONDS, HUNG = 2700, "HEADRACE_TESTS_HUNG"


def pytest_configure() -> None:
    """Make the folder in which all workers write down where they hang."""
    if HUNG not in os.environ:
        os.environ[HUNG] = tempfile.mkdtemp(prefix="headrace-hung-")


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
