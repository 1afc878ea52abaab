"""How often tests repeat what they show: a little in `make test`, much in `make test-long`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

LONG = os.environ.get("HEADRACE_TEST_PROFILE") == "long"


def examples(few: int, many: int) -> Callable[[Any], Any]:
    """Have Hypothesis draw `few` examples for a test; `make test-long` runs the test too, with `many`."""
    drawn = settings(max_examples=many if LONG else few, suppress_health_check=list(HealthCheck))
    return lambda test: pytest.mark.long(drawn(test)) if LONG else drawn(test)
