"""One job on three engines: fingerprint, Kafka to Kafka, exactly once, commits 10 s apart. `make bench-engines`.

CPU seconds are those of all processes of an engine, from its start to its end, the broker apart; memory is the most that they held together.
`cold` is a whole run, `warm` what a further million costs: the difference of two runs of different length.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from headrace.topics.kafka import KafkaLog
from run import HERE, WORK, live_helper, messages
from spent import ticks_of

sys.path.insert(0, str(HERE.parent / "tests"))
COMMAND = Path(sys.executable).parent / "headrace"
ENGINES = HERE.parent / "build" / "engines"


@dataclass(frozen=True)
class Cost:
    """CPU seconds, peak MB and wall seconds of all of an engine's processes."""

    cpu: float
    memory: float
    wall: float


def _resident(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


def cost_of(command: list[str | Path], environment: dict[str, str]) -> Cost:
    """Run a command to its end, and return what it and all that it started cost; what it starts it must wait for."""
    began = time.monotonic()
    process = subprocess.Popen([str(one) for one in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | environment)
    peak, done = [0.0], Event()
    spent: dict[int, int] = {}

    def watch() -> None:
        while not done.wait(0.5):
            spent.update(now := ticks_of({process.pid}))
            peak[0] = max(peak[0], _resident([*now]))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    errors = process.stderr.read().decode() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {errors[-2000:]}")
    # Of a worker that no one waited for, the system tells nothing at the end.
    cpu = max(usage.ru_utime + usage.ru_stime, sum(spent.values()) / os.sysconf("SC_CLK_TCK"))
    return Cost(cpu, peak[0], time.monotonic() - began)


def jobs(servers: str, parallelism: int) -> dict[str, Callable[[], Cost]]:
    """Return how each engine is run."""
    home = WORK / "engines-home"
    environment = {"HEADRACE_HOME": str(home), "HEADRACE_ENGINES": str(ENGINES), "KAFKA_SERVERS": servers}
    options = ["--until", "latest", "--anew", "--yes", "--commit-every", "10s", "--max-ahead", "never"]

    def headrace(*more: str) -> Callable[[], Cost]:
        def once() -> Cost:
            shutil.rmtree(home, ignore_errors=True)
            return cost_of([COMMAND, "run", "fingerprint", *options, *more], environment)

        return once

    def datastream(style: str) -> Callable[[], Cost]:
        return lambda: cost_of([sys.executable, HERE / "datastream_by_hand.py", style, servers, str(parallelism)], environment)

    return {
        "embedded": headrace(),
        "Flink SQL, through headrace": headrace("--engine", "flink", "-p", str(parallelism)),
        "Flink SQL, by hand": lambda: cost_of([sys.executable, HERE / "by_hand.py", servers, str(parallelism)], environment),
        "Flink DataStream in Python, usual": datastream("steps"),
        "Flink DataStream in Python, tuned": datastream("whole"),
        "Spark, through headrace": headrace("--engine", "spark"),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", default="40000,1000000,5000000", help="how many, for each row of figures")
    parser.add_argument("--datastream", type=int, default=1_000_000, help="the most messages that the DataStream job is given, which is slow")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--only", help="engines whose names begin so, parted by commas")
    given = parser.parse_args()
    from broker import Broker, fetch, missing

    if (why := fetch() or missing()) is not None:
        sys.exit(why)
    print(f"{'engine':38}{'messages':>10}{'CPU s':>9}{'per M':>9}{'wall s':>8}{'MB':>7}", flush=True)
    medians: dict[tuple[str, int], Cost] = {}
    for count in map(int, given.messages.split(",")):
        folder = WORK / "engines"
        shutil.rmtree(folder, ignore_errors=True)
        broker = Broker(folder / "broker")
        broker.start()
        try:
            _fill(broker.servers, count, given.partitions)
            wanted = {
                name: job
                for name, job in jobs(broker.servers, given.partitions).items()
                if (not given.only or name.startswith(tuple(given.only.split(",")))) and (count <= given.datastream or "DataStream" not in name)
            }
            costs: dict[str, list[Cost]] = {name: [] for name in wanted}
            for _ in range(given.runs):
                for name, job in wanted.items():
                    costs[name].append(cost := job())
                    print(f"{name:38}{count:10,}{cost.cpu:9.1f}", file=sys.stderr, flush=True)
        finally:
            broker.end()
        for name, each in costs.items():
            cost = Cost(*(statistics.median(getattr(one, what) for one in each) for what in ("cpu", "memory", "wall")))
            medians[name, count] = cost
            print(f"{name:38}{count:10,}{cost.cpu:9.1f}{cost.cpu / count * 1e6:9.1f}{cost.wall:8.0f}{cost.memory:7.0f}", flush=True)
    _warm(medians)


def _warm(medians: dict[tuple[str, int], Cost]) -> None:
    """Print what a further million costs, by the difference of the longest and the shortest run."""
    for name in dict.fromkeys(name for name, _ in medians):
        counts = sorted(count for one, count in medians if one == name)
        if len(counts) > 1:
            more = (medians[name, counts[-1]].cpu - medians[name, counts[0]].cpu) / (counts[-1] - counts[0]) * 1e6
            print(f"{name:38}{'a further million':>19}{more:9.1f} CPU s")


def _fill(servers: str, count: int, partitions: int) -> None:
    source = messages("bad", count, bad_share=0.004)
    subprocess.run(live_helper("fill_kafka", servers, "sensor-data", source, "10000", str(partitions)), check=True)
    log = KafkaLog(servers, WORK)
    log.create("fingerprint-output")
    log.close()


if __name__ == "__main__":
    main()
