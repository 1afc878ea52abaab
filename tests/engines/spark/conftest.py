"""The broker that the tests of Spark share, and the JVM that does their runs."""

from __future__ import annotations

import pytest

from broker import kafka

__all__ = ["kafka"]


@pytest.fixture(scope="module", autouse=True)
def _warm(warm_spark: None) -> None:
    """Have each test of this folder use it."""
