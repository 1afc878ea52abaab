"""A real server of InfluxDB's write API for tests: VictoriaMetrics, from the system or unpacked into build/victoria-metrics.

`python tests/victoria.py --fetch` gets it, without root, on Debian and Ubuntu.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from debian import unpack
from serving import free_port
from waiting import wait_for

FOLDER = Path(__file__).parent.parent / "build" / "victoria-metrics"
LIMIT = 120.0


def found() -> str | None:
    """Return where the program is."""
    return shutil.which("victoria-metrics", path=os.pathsep.join([os.environ.get("PATH", ""), str(FOLDER / "usr/bin")]))


def missing() -> str | None:
    """Return what there is not, and how to get it."""
    return None if found() else "no victoria-metrics; Debian: apt install victoria-metrics"


def fetch() -> str | None:
    """Get VictoriaMetrics unless it is there, and return why it cannot be had."""
    if missing() is not None:
        unpack(["victoria-metrics"], FOLDER)
    return missing()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Victoria:
    """A server with its data in a folder, in which a point is identified as in InfluxDB. It can be started again after it was stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        return f"influx://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = found()
        assert program is not None
        options = ["-dedup.minScrapeInterval=1ms", "-retentionPeriod=100y", "-memory.allowedBytes=128MB"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, f"-storageDataPath={self.folder / 'data'}", f"-httpListenAddr=127.0.0.1:{self.port}", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (a call of C and nothing else)
            )
        wait_for(self._answers, "VictoriaMetrics answers", seconds=LIMIT, every=0.02)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=1):
            return True
        return False

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait(180)

    def flush(self) -> None:
        """Have the server write all that it has taken to its files, where it can be read too."""
        urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=LIMIT).close()

    def series(self) -> dict[tuple[tuple[str, str], ...], list[tuple[int, float]]]:
        """Return all values with their times in ms, in the order of time, by the labels of their series."""
        self.flush()
        found: dict[tuple[tuple[str, str], ...], list[tuple[int, float]]] = {}
        with urllib.request.urlopen(f"{self.url}/api/v1/export?match[]=%7B__name__!=%22%22%7D&start=0&end=4102444800", timeout=LIMIT) as answer:
            for line in answer:
                one = json.loads(line)
                labels = tuple(sorted(one["metric"].items()))
                found.setdefault(labels, []).extend(zip(one["timestamps"], one["values"], strict=True))
        return {labels: sorted(values) for labels, values in found.items()}


@pytest.fixture
def victoria(tmp_path: Path) -> Iterator[Victoria]:
    """Return a server of the test's own."""
    if (why := missing()) is not None:
        pytest.skip(why)
    one = Victoria(tmp_path / "victoria")
    one.start()
    try:
        yield one
    finally:
        one.end()


if __name__ == "__main__" and sys.argv[1:] == ["--fetch"] and (reason := fetch()) is not None:
    print(f"tests on InfluxDB's write API will be skipped: {reason}")
