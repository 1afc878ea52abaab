"""Spark's executors killed at work: what is written is what the embedded engine gives, and nothing is left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from broker import Shared
from engines.spark.test_spark_kafka import create, everything, fingerprints, produce, skip_unless_there
from headrace.apps.rules import Hampel
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.spark.script import SPARK
from headrace.plan.pipeline import Plan
from headrace.simulate.kiln import Kiln
from spark import HOME, JAVA_OPTIONS, missing_for_processes, same

START = 1_706_123_400_000
LONG = 240
RUN = """
import sys
from pathlib import Path
from engines.spark.test_spark_recovery import both
from headrace.engines.spark.run import run_live
plant, servers, checkpoint, home = sys.argv[1:]
run_live(both(plant), servers, checkpoint=Path(checkpoint), trigger="500 milliseconds", master="local-cluster[2,1,1024]", home=Path(home))
"""


def both(plant: str) -> Plan:
    """Return the fingerprint's plan, with a process over the same records."""
    windows = fingerprints(plant)
    readings = hr.Stream(windows.nodes[0], plant).unnest("data", key="sensor", value="raw").derive(value="TRY_CAST(raw AS DOUBLE)")
    outliers = readings.where("value IS NOT NULL").process(Hampel, by=["equip_id", "sensor"])
    sinks = {f"{plant}-out": hr.Stream(windows.sinks[0].input, f"{plant}-out"), f"{plant}-outliers": outliers}
    return hr.pipeline("both", version="1")(lambda: sinks).plan()


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Remove what executors leave where Spark is."""
    folder = HOME / f"engines/spark-{SPARK}/python/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/pyspark/work"
    before = set(folder.glob("*"))
    yield
    for left in set(folder.glob("*")) - before:
        shutil.rmtree(left, ignore_errors=True)


def test_windows_and_processes_outlive_an_executor(kafka: Shared, tmp_path: Path) -> None:
    skip_unless_there()
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    made = both(plant)
    create(kafka.servers, made, **{plant: 2})
    lines = list(islice(Kiln(seed=3, disorder_ms=3_000, bad_share=0.01).lines(START), 1_000))
    end = json.dumps({"equip_id": "end", "timestamp": START + 10**7, "data": {"end": "50"}}).encode()  # all windows close but its own
    wanted = by_embedded(made, [[*lines[0::2], end], [*lines[1::2], end]], plant, tmp_path)
    command = [sys.executable, "-c", RUN, plant, kafka.servers, str(tmp_path / "checkpoint"), str(HOME)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "JDK_JAVA_OPTIONS": JAVA_OPTIONS,  # of the executors too
    }

    def there(topic: str) -> list[Any]:
        return once(everything(kafka.servers, topic))

    with subprocess.Popen(command, env=environment) as run:
        try:
            send(kafka.servers, plant, lines[:600])
            wait_until(lambda: all(map(there, made.topics)), run, "gives nothing")
            killed, its_own = next((one, below) for one in executors(run.pid) if python_in(below := descendants(one)))
            send(kafka.servers, plant, lines[600:800])
            os.kill(killed, signal.SIGKILL)
            send(kafka.servers, plant, lines[800:])
            for partition in (0, 1):
                produce(kafka.servers, plant, [end], partition)
            wait_until(lambda: not any(map(alive, [killed, *its_own])), run, "leaves the workers of an executor that was killed")
            wait_until(lambda: all(len(there(topic)) >= len(rows) for topic, rows in wanted.items()), run, "does not give all")
            assert len([one for one in executors(run.pid) if alive(one)]) == 2, "no executor has taken the place of the one that was killed"
            every = descendants(run.pid)
        finally:
            run.kill()
    for topic, rows in wanted.items():
        assert len(there(topic)) == len(rows) > 10, topic
        assert all(map(same, there(topic), rows)), topic
    give_up_at = time.monotonic() + 180
    while left := [one for one in every if alive(one)]:
        assert time.monotonic() < give_up_at, f"left running: {[told(one) for one in left]}"
        time.sleep(0.1)


def by_embedded(made: Plan, parts: list[list[bytes]], plant: str, folder: Path) -> dict[str, list[Any]]:
    """Return by topic what the embedded engine gives."""
    files = [folder / f"{number}.ndjson" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(b"".join(line + b"\n" for line in part))
    run_embedded(made, {plant: files}, folder / "embedded")
    return {topic: once((folder / "embedded" / f"{topic}.ndjson").read_bytes().splitlines()) for topic in made.topics}


def once(lines: list[bytes]) -> list[Any]:
    """Return rows in the order of their keys, of each key the last, but for those of the last record."""
    rows = {}
    for row in (json.loads(line) for line in lines if b'"end"' not in line):
        key = [row["fingerprint"]["uuid"]] if "fingerprint" in row else [row[name] for name in ("equip_id", "sensor", "time", "value")]
        rows[json.dumps(key)] = row
    return [rows[key] for key in sorted(rows)]


def send(servers: str, topic: str, lines: list[bytes]) -> None:
    """Write records to both partitions, neither far ahead of the other."""
    for start in range(0, len(lines), 10):
        for partition in (0, 1):
            produce(servers, topic, lines[start + partition : start + 10 : 2], partition)


def wait_until(true: Callable[[], bool], run: subprocess.Popen[bytes], failing: str) -> None:
    give_up_at = time.monotonic() + LONG
    while not true():
        assert run.poll() is None, "the run has ended"
        assert time.monotonic() < give_up_at, f"the run {failing}"
        time.sleep(0.3)


# processes


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, grown = {pid}, True
    while grown:
        more = {one for one, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return sorted(found - {pid})


def executors(pid: int) -> list[int]:
    return [one for one in descendants(pid) if "CoarseGrainedExecutorBackend" in told(one) and told(one).split("\0")[0].endswith("java")]


def python_in(pids: list[int]) -> bool:
    return any("pyspark.daemon" in told(one) for one in pids)


def told(pid: int) -> str:
    """Return a process's command."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def alive(pid: int) -> bool:
    """Return whether a process is there, and is none that has ended and only waits to be told of."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
