"""Places in a commit where a test can have the process killed: `HEADRACE_KILL_AT=commit.state:3` kills at the third passing."""

from __future__ import annotations

import os
import signal

__all__ = ["POINTS", "arm", "passing"]

POINTS = ("commit.begun", "commit.manifest", "commit.state", "commit.output", "commit.cursors", "commit.done")

_place, _left = "", 1


def arm(text: str) -> None:
    """Have this process killed at a place: `commit.state`, or `commit.state:3` for its third passing; nowhere if empty."""
    global _place, _left  # noqa: PLW0603
    _place, _, times = text.partition(":")
    _left = int(times or 1)


def passing(point: str) -> None:
    """Kill the process, as `kill -9` does, if it was told to die here."""
    global _left  # noqa: PLW0603
    if point == _place:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("HEADRACE_KILL_AT", ""))
