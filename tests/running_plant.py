"""`headrace up` as a process, in the working folder."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import waiting
from forking import started

HEADRACE = str(Path(sys.executable).with_name("headrace"))
LIMIT = 400.0


class Up:
    """A running plant."""

    def __init__(self, *arguments: str) -> None:
        self.lines = Path("up.err")
        with self.lines.open("ab") as err:
            self.process = started("up", *arguments, stderr=err)

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.read_text().splitlines() if line.startswith("{")]

    def states(self, part: str) -> list[str]:
        return [one["event"] for one in self.said() if one.get("part") == part]

    def wait_for(self, what: Callable[[], Any], said: str) -> Any:
        def look() -> Any:
            assert self.process.poll() is None, self.lines.read_text()
            return what()

        return waiting.wait_for(look, said, seconds=LIMIT)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT)


@contextmanager
def up(*arguments: str) -> Iterator[Up]:
    one = Up(*arguments)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
