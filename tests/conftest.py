"""Hypothesis' profiles, the long tests' figures, and what holds for all tests: none asserts a time, not even that of an example.

A run draws the same examples as the one before it. HEADRACE_TEST_PROFILE=long, which `make test-long` sets, draws others, and many
more wherever a test does not say how many.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("short", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("long", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HEADRACE_TEST_PROFILE") or "short")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that read an engine's run over the conformance suite last: it goes on beside all others from the session's beginning."""
    items.sort(key=lambda item: {"engine", "outcomes"} <= set(getattr(item, "fixturenames", ())))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what long tests have counted with `record_property`: kills, cases, seconds."""
    figures: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                figures.update({name: count for name, count in report.user_properties if isinstance(count, int | float)})
    if figures:
        terminalreporter.section("figures")
        for name, count in sorted(figures.items()):
            terminalreporter.write_line(f"{name}: {count:,}")
