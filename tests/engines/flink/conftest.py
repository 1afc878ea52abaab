"""The process that submits the jobs of the tests of Flink."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _warm(warm_flink: None) -> None:
    """Have each test of this folder use it, commands too."""
