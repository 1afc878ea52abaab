"""The Java that the tests of this folder ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from java.probe import Probe, missing


@pytest.fixture(scope="module")
def java() -> Iterator[Probe]:
    """Return a Java that answers."""
    if (why := missing()) is not None:
        pytest.skip(why)
    probe = Probe()
    yield probe
    probe.end()
