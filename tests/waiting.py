"""What tests wait with, never without a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: Callable[[], Any], said: str = "it", *, seconds: float, every: float = 0.05) -> Any:
    """Look again and again until there is something to see, and return it."""
    give_up_at = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up_at, f"{said}: not within {seconds:.0f} s"
        time.sleep(every)
    return found
