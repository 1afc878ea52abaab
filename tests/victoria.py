"""A real server of InfluxDB's write API for tests: VictoriaMetrics, from the system or unpacked into build/victoria-metrics.

`python tests/victoria.py --fetch` gets it, without root, on Debian and Ubuntu.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from debian import LIMIT, Program, unpack

FOLDER = Path(__file__).parent.parent / "build" / "victoria-metrics"


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


class Victoria(Program):
    """A server in which a point is identified as in InfluxDB."""

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
        self._run([program, f"-storageDataPath={self.folder / 'data'}", f"-httpListenAddr=127.0.0.1:{self.port}", *options])

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=1):
            return True
        return False

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
