"""CPU seconds of a bridge from a topic to a server of InfluxDB's write API: `python bench/influx.py`.

The cost of a line is that of further lines: of a long run less a short one, so that the start does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from headrace.topics.protocol import Commit, Outgoing  # noqa: E402
from headrace.topics.sqlite import SqliteLog  # noqa: E402
from victoria import Victoria, missing  # noqa: E402

HEADRACE = Path(sys.executable).with_name("headrace")


def record(number: int) -> bytes:
    at = 1_700_000_000_000 + number
    return (
        f'{{"tag":"kiln/1/zone/{number % 100}/temperature","time":{at},"value":{1500.125 + number % 977},"quality":0,"unit":"CEL",'
        f'"source_time":{at},"arrival_time":{at + 3}}}'
    ).encode()


def fill(home: Path, count: int) -> None:
    with closing(SqliteLog(home / "log.db")) as log:
        log.create("in")
        claim = log.claim("filler")
        for first in range(0, count, 10_000):
            lines = [record(number) for number in range(first, min(first + 10_000, count))]
            claim.commit(Commit(b"{}", {}, (), [Outgoing("in", b"\n".join(lines), len(lines))], {}))
        claim.release()


def cpu_seconds(address: str, home: Path) -> tuple[float, float]:
    """Return what a bridge of a whole topic costs, and its memory in MB."""
    command = [str(HEADRACE), "bridge", "topic:in", address, "--until", "latest", "--anew", "--yes"]
    bridge = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HEADRACE_HOME": str(home)})
    _, status, usage = os.wait4(bridge.pid, 0)
    bridge.returncode = os.waitstatus_to_exitcode(status)
    if bridge.returncode:
        sys.exit("the bridge failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=400_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--queries", nargs="*", default=["gzip=yes", "gzip=no", "gzip=yes&fields=value,quality", "gzip=no&fields=value,quality"])
    options = parser.parse_args()
    if (why := missing()) is not None:
        sys.exit(why)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        server = Victoria(work / "victoria")
        server.start()
        sizes = (options.lines // 5, options.lines)
        homes = {size: work / f"home{size}" for size in sizes}
        for size, home in homes.items():
            home.mkdir()
            fill(home, size)
        costs: dict[tuple[str, int], list[float]] = {}
        memory = 0.0
        for _ in range(options.runs):
            for query in options.queries:
                for size, home in homes.items():
                    cost, memory = cpu_seconds(f"{server.address}?org=o&bucket=b&measurement=m&tags=tag,unit&{query}", home)
                    costs.setdefault((query, size), []).append(cost)
        server.end()
        for query in options.queries:
            short, whole = (statistics.median(costs[query, size]) for size in sizes)
            each = (whole - short) / (sizes[1] - sizes[0])
            print(f"{query}: {each * 1e6:.1f} µs a line, {1 / each:,.0f} lines a CPU-second; whole {whole:.2f} s, {memory:.0f} MB")


if __name__ == "__main__":
    main()
