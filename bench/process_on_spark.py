"""A process with one value for each of a thousand keys on Spark, through headrace and by hand (`applyInPandas`): CPU seconds and records a second.

CPU seconds are those of all processes from start to end, looked at every tenth of a second; what a record costs is the difference of a long run
and a short one. `python bench/process_on_spark.py [RECORDS] [RUNS]`
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import headrace as hr

HERE = Path(__file__).parent
WORK = HERE.parent / "build" / "bench" / "spark"
ENGINES = HERE.parent / "build" / "engines"
MASTER, SHORT = "local[2]", 10_000


class Count:
    """Counts, and tells of every thousandth record."""

    output = {"count": "BIGINT"}
    state = {"count": hr.Value("BIGINT", 0)}

    def on_record(self, _row, state):
        """Count a record."""
        state.count += 1
        return {"count": state.count} if state.count % 1000 == 0 else None


def _readings() -> hr.Stream:
    schema = {"tag": "STRING NOT NULL", "at": "BIGINT", "value": "DOUBLE"}
    return hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(at, 3)", watermark=hr.seconds(5))


@hr.pipeline("count-on-spark", version="1")
def counted() -> dict[str, hr.Stream]:
    """One value for each of a thousand keys."""
    return {"counts": _readings().process(Count, by=["tag"])}


@hr.pipeline("read-on-spark", version="1")
def read() -> dict[str, hr.Stream]:
    """The same records read, judged and counted, and given to no process."""
    return {"none": _readings().where("value < 0")}


def cost_of(command: Sequence[str | Path]) -> tuple[float, float]:
    """Run a command to its end, and return the CPU seconds of it and all that it started, and how long it took."""
    from spent import ticks_of  # not above: headrace loads this file as an app, from elsewhere

    began, spent = time.monotonic(), {}
    environment = os.environ | {"HEADRACE_HOME": str(WORK / "home"), "HEADRACE_ENGINES": str(ENGINES)}
    process = subprocess.Popen([str(one) for one in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=WORK)
    while process.poll() is None:
        spent |= ticks_of([process.pid])
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {process.returncode}")
    return sum(spent.values()) / os.sysconf("SC_CLK_TCK"), time.monotonic() - began


def commands(files: Sequence[Path]) -> dict[str, list[str | Path]]:
    """Return by name what is compared."""
    from headrace.engines.spark.environment import process_python, spark_home

    os.environ["HEADRACE_ENGINES"] = str(ENGINES)
    home, python = spark_home(WORK), process_python(WORK)
    os.environ |= {"SPARK_HOME": str(home), "PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python)}
    settings = ("spark.ui.enabled=false", "spark.sql.shuffle.partitions=2", "spark.driver.bindAddress=127.0.0.1", "spark.driver.host=127.0.0.1")
    options = [part for one in settings for part in ("--conf", one)]
    inputs = [part for file in files for part in ("--input", f"readings={file}")]
    own = Path(sys.executable).parent / "headrace"
    run = ["--engine", "spark", "--cluster", MASTER, *inputs, "--output", WORK / "out"]
    return {
        "through headrace": [own, "run", f"{__file__}:count-on-spark", *run],
        "without the process": [own, "run", f"{__file__}:read-on-spark", *run],
        "by hand": [home / "bin" / "spark-submit", "--master", MASTER, *options, HERE / "count_by_hand.py", WORK / "by-hand", *files],
    }


def main(records: int = 500_000, runs: int = 3) -> None:
    """Print the table."""
    from processes import readings

    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    costs: dict[tuple[str, int], list[tuple[float, float]]] = {}
    files = {count: [WORK / f"{count}-{part}.ndjson" for part in range(2)] for count in (SHORT, records)}
    for count, parts in files.items():
        readings(str(WORK / "all"), str(count))
        lines = (WORK / "all").read_bytes().splitlines(keepends=True)
        for part, path in enumerate(parts):
            path.write_bytes(b"".join(lines[part::2]))
    for _ in range(runs):
        for count, parts in files.items():
            for name, command in commands(parts).items():
                costs.setdefault((name, count), []).append(cost_of(command))
    print(f"{'':20}{'records':>10}{'CPU s':>8}{'wall s':>8}{'records/s':>11}{'CPU s per further million':>27}")
    for (name, count), each in costs.items():
        cpu, wall = (statistics.median(one[place] for one in each) for place in (0, 1))
        line = f"{name:20}{count:10,}{cpu:8.1f}{wall:8.1f}"
        if count > SHORT:
            short = [statistics.median(one[place] for one in costs[name, SHORT]) for place in (0, 1)]
            line += f"{(count - SHORT) / max(wall - short[1], 0.1):11,.0f}{(cpu - short[0]) / (count - SHORT) * 1e6:27.1f}"
        print(line)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
