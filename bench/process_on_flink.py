"""A process with one value for each of a thousand keys on Flink, through headrace and by hand: CPU seconds and records a second.

CPU seconds are those of the cluster's processes and of their Python workers, looked at every tenth of a second; what a record costs is the difference
of a long run and a short one. `python bench/process_on_flink.py [RECORDS] [RUNS]`
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import headrace as hr
from spent import ticks_of

if TYPE_CHECKING:
    from headrace.engines.flink.cluster import Cluster
    from headrace.engines.folder_jobs import FolderJob

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
WORK = BUILD / "bench" / "flink"
SHORT = 20_000


class Count:
    """Counts, and tells of every thousandth record."""

    output = {"count": "BIGINT"}
    state = {"count": hr.Value("BIGINT", 0)}

    def on_record(self, _row, state):
        """Count a record."""
        state.count += 1
        return {"count": state.count} if state.count % 1000 == 0 else None


@hr.pipeline("count-on-flink", version="1")
def counted() -> dict[str, hr.Stream]:
    """One value for each of a thousand keys."""
    schema = {"tag": "STRING NOT NULL", "at": "BIGINT", "value": "DOUBLE"}
    readings = hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(at, 3)", watermark=hr.seconds(5))
    return {"counts": readings.process(Count, by=["tag"])}


class Watcher(threading.Thread):
    """Looks at what processes, and those that they start, have spent."""

    def __init__(self, roots: set[int]) -> None:
        super().__init__(daemon=True)
        self.roots, self.last = roots, {}
        self.done = threading.Event()
        self.first = ticks_of(roots)

    def run(self) -> None:
        """Look on."""
        while not self.done.wait(0.1):
            self.last |= ticks_of(self.roots)

    def end(self) -> float:
        """Return how many seconds were spent."""
        self.done.set()
        self.join()
        return (sum(self.last.values()) - sum(self.first.values())) / os.sysconf("SC_CLK_TCK")


def through_headrace(cluster: Cluster, file: Path) -> None:
    from headrace.engines.flink.client import Client
    from headrace.engines.flink.run import run_files
    from process_on_flink import counted  # as the workers will find it

    run_files(FolderJob(counted.plan(), {"readings": [file]}, WORK / "out"), cluster.rest, client=Client.local(BUILD))


def by_hand(*options: str) -> Callable[[Cluster, Path], None]:
    def run(cluster: Cluster, file: Path) -> None:
        from headrace.engines.flink.client import pyflink

        shutil.rmtree(WORK / "by-hand", ignore_errors=True)
        python = pyflink(BUILD)
        command = [python, HERE / "process_by_hand_on_flink.py", cluster.rest.url, python, file, WORK / "by-hand", *options]
        subprocess.run([str(one) for one in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=900)

    return run


WAYS = {"through headrace": through_headrace, "by hand": by_hand(), "by hand, in order": by_hand("ordered")}


def lasted(cluster: Cluster) -> float:
    """Return how many seconds the last job ran."""
    job = max(cluster.rest.jobs(), key=lambda one: one["start-time"])
    return (job["end-time"] - job["start-time"]) / 1000


def main(records: int = 200_000, runs: int = 3) -> None:
    """Print the table."""
    from headrace.engines.flink.cluster import Cluster, Sizes, fetched
    from processes import readings

    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "out").mkdir(parents=True)
    files = {number: WORK / f"{number}.ndjson" for number in (SHORT, records)}
    for number, path in files.items():
        readings(str(path), str(number))
    costs: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with Cluster(WORK / "cluster", fetched(BUILD), Sizes(managed=256)) as cluster:
        for _ in range(runs):
            for number, path in files.items():
                for name, run in WAYS.items():
                    watcher = Watcher({*cluster.pids.values()})
                    watcher.start()
                    run(cluster, path)
                    costs.setdefault((name, number), []).append((watcher.end(), lasted(cluster)))
    print(f"{'':20}{'records':>10}{'CPU s':>8}{'job s':>8}{'records/s':>11}{'CPU s per further million':>27}")
    for (name, number), each in costs.items():
        cpu, wall = (statistics.median(one[place] for one in each) for place in (0, 1))
        line = f"{name:20}{number:10,}{cpu:8.1f}{wall:8.1f}"
        if number > SHORT:
            short = [statistics.median(one[place] for one in costs[name, SHORT]) for place in (0, 1)]
            line += f"{(number - SHORT) / max(wall - short[1], 0.1):11,.0f}{(cpu - short[0]) / (number - SHORT) * 1e6:27.1f}"
        print(line)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
