"""Programs that stay warm: one process does the requests of all workers of a test run, one after the other.

A request is a file `NUMBER.request` in the process's folder. When it is done there is a file `NUMBER.done` with the answer,
and `ended` when no other will be done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.engines.environment import end_with_parent
from waiting import locked, wait_for


@contextmanager
def serving(folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    """Start `command`, to which the folder for its requests is added, and yield that folder."""
    requests = folder / "requests"
    requests.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(requests)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  (a call of C and nothing else)
        )
        try:
            yield str(requests)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(folder: Path, what: Any, seconds: float = 1200, meanwhile: Callable[[], None] = lambda: None) -> Any:
    """Have a request done, and return the answer; `meanwhile` is called again and again."""

    def over() -> bool:
        meanwhile()
        return done.exists() or ended.exists()

    with locked(folder / "turn", f"a turn of {folder}", seconds=2 * seconds):
        number = len(list(folder.glob("*.request")))
        (folder / "new").write_text(json.dumps(what))
        (folder / "new").rename(folder / f"{number}.request")
        done, ended, log = folder / f"{number}.done", folder / "ended", folder.parent / "log"
        assert not ended.exists(), log.read_text()[-2000:]
        try:
            wait_for(over, f"request {number} of {folder} is done", seconds=seconds, every=0.05)
        except AssertionError:
            ended.touch()  # whoever asks next need not wait as long
            raise
        assert done.exists(), log.read_text()[-2000:]
        return json.loads(done.read_text())
