"""Liveness for supervisors: a command that goes on touches the file that HEADRACE_HEALTH_FILE names.

A health check fails when the file is older than some seconds: the process hangs, or waits for something that is away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from headrace.errors import EnvironmentFault

__all__ = ["heartbeat"]

_EVERY_SECONDS = 1.0


def heartbeat() -> Callable[[], None]:
    """Return a function that touches the health file, at most once a second; without HEADRACE_HEALTH_FILE it does nothing.

    Raises
    ------
    EnvironmentFault
        If the file cannot be made.
    """
    name = os.environ.get("HEADRACE_HEALTH_FILE")
    if not name:
        return lambda: None
    path, due = Path(name), 0.0

    def beat() -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            try:
                path.touch(mode=0o600)
            except OSError as error:
                raise EnvironmentFault(
                    f"cannot be written: {error.strerror}",
                    where=f"HEADRACE_HEALTH_FILE {name}",
                    fix="name a file in a folder that this user may write",
                ) from None
            due = now + _EVERY_SECONDS

    return beat
