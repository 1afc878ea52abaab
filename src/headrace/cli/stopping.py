"""How a command that goes on learns that it is to stop. It imports next to nothing, so that it can be told while others are still imported."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from headrace.cli.heartbeat import heartbeat

__all__ = ["asked_to_stop", "interruptible_reads"]


def asked_to_stop() -> Callable[[], bool]:
    """Return a function that tells whether SIGTERM or Ctrl-C has come. A second Ctrl-C ends the process at once.

    Each call of it is also a heartbeat: a loop that asks whether to stop is alive.
    """
    asked = threading.Event()
    beat = heartbeat()

    def note(_signal: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, note)

    def stop() -> bool:
        beat()
        return asked.is_set()

    return stop


def interruptible_reads() -> None:
    """Have Ctrl-C end a read that waits: Polars, once it is imported, has it begin again."""
    if sys.platform != "win32":
        signal.siginterrupt(signal.SIGINT, True)
