"""CPU seconds of a bridge from a topic to a store: `python bench/stores.py influx`, or another of `STORES`.

The cost of a record is that of further records: of a long run less a short one, so that the start does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import mongo  # noqa: E402
import postgres  # noqa: E402
import victoria  # noqa: E402
from headrace.topics.protocol import Commit, Outgoing  # noqa: E402
from headrace.topics.sqlite import SqliteLog  # noqa: E402
from serving import free_port  # noqa: E402

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


@contextmanager
def influx(work: Path) -> Iterator[str]:
    server = victoria.Victoria(work / "victoria")
    server.start()
    yield f"{server.address}?org=o&bucket=b&measurement=m&tags=tag,unit&"
    server.end()


@contextmanager
def postgresql(_: Path) -> Iterator[str]:
    with postgres.Postgres().removed() as server:
        yield f"{server.address}/postgres?"


@contextmanager
def mongodb(work: Path) -> Iterator[str]:
    server = mongo.Mongo(work / "mongo")
    server.start()
    yield f"{server.address}/plant?"
    server.end()


@contextmanager
def mail(_: Path) -> Iterator[str]:
    """Run a server in a process of its own that takes messages and forgets them."""
    port = free_port()
    command = [sys.executable, "-m", "aiosmtpd", "-n", "-c", "aiosmtpd.handlers.Sink", "-l", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        yield f"smtp://127.0.0.1:{port}?tls=none&from=a@plant.local&to=b@plant.local&"
        server.terminate()


class Store(NamedTuple):
    """Gives the beginning of addresses, whose ends are `queries`; `{run}` in them is another one in each run."""

    running: Callable[[Path], AbstractContextManager[str]]
    missing: Callable[[], str | None]
    queries: Sequence[str]


STORES = {
    "influx": Store(influx, victoria.missing, ["gzip=yes", "gzip=no", "gzip=yes&fields=value,quality", "gzip=no&fields=value,quality"]),
    "mail": Store(mail, lambda: None, ["batch=100", "batch=1"]),
    "mongodb": Store(
        mongodb,
        mongo.missing,
        ["collection=c{run}&dates=time", "collection=s{run}&timeseries=time&meta=tag&dates=time"],
    ),
    "postgresql": Store(
        postgresql,
        postgres.missing,
        ["table=t&key=tag,time&create=reading", "table=last&key=tag&create=reading", "table=e&id=id&create=id text,value float8&fields=value"],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", choices=STORES)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--queries", nargs="*")
    options = parser.parse_args()
    store = STORES[options.store]
    if (why := store.missing()) is not None:
        sys.exit(why)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sizes = (options.records // 5, options.records)
        homes = {size: work / f"home{size}" for size in sizes}
        for size, home in homes.items():
            home.mkdir()
            fill(home, size)
        costs: dict[tuple[str, int], list[float]] = {}
        memory = 0.0
        queries = options.queries or store.queries
        with store.running(work) as address:
            for run in range(options.runs):
                for query in queries:
                    for size, home in homes.items():
                        cost, memory = cpu_seconds(address + query.replace("{run}", f"{run}x{size}"), home)
                        costs.setdefault((query, size), []).append(cost)
        for query in queries:
            short, whole = (statistics.median(costs[query, size]) for size in sizes)
            each = (whole - short) / (sizes[1] - sizes[0])
            print(f"{query}: {each * 1e6:.1f} µs a record, {1 / each:,.0f} records a CPU-second; whole {whole:.2f} s, {memory:.0f} MB")


if __name__ == "__main__":
    main()
