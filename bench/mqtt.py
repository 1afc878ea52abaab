"""CPU seconds of a bridge from Mosquitto to a durable topic: `python bench/mqtt.py`.

The cost of a message is that of further messages: of a long run less a short one, so that the start does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from mosquitto import Mosquitto, environment, found, missing  # noqa: E402

PORTION = 50_000
HEADRACE = Path(sys.executable).with_name("headrace")


def cpu_seconds(broker: Mosquitto, query: str, lines: Path, count: int, home: Path) -> tuple[float, float]:
    """Return what a bridge of so many messages costs, and the wall seconds from its last line at the start."""
    command = [str(HEADRACE), "bridge", f"{broker.address}/plc/data{query}", "topic:plc_data", "--records", str(count)]
    env = {**os.environ, "HEADRACE_HOME": str(home)}
    bridge = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    assert bridge.stdout is not None
    bridge.stdout.readline()
    while "plc/data" not in broker.log.rpartition("SUBSCRIBE")[2]:
        pass
    publish = [str(found("mosquitto_pub")), "-p", str(broker.port), "-t", "plc/data", "-q", "1", "-l"]
    rest = lines.read_bytes().splitlines(keepends=True)
    while rest:  # it ends too early after more lines than there are packet identifiers
        subprocess.run(publish, input=b"".join(rest[:PORTION]), check=True, env=environment())
        rest = rest[PORTION:]
    _, status, usage = os.wait4(bridge.pid, 0)
    bridge.returncode = os.waitstatus_to_exitcode(status)
    if bridge.returncode:
        sys.exit("the bridge failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--queries", nargs="*", default=["", "?window=5000", "?as=reading&value=$.motor_speed&time=$.timestamp&time_unit=s&tag={1}"])
    options = parser.parse_args()
    if (why := missing()) is not None:
        sys.exit(why)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sizes = (options.messages // 5, options.messages)
        for size in sizes:
            with (work / f"{size}").open("w") as file:
                for number in range(size):
                    plc = f"plc-{number % 100:03d}"
                    record = {
                        "plc_id": plc,
                        "timestamp": 1706123400.0 + number,
                        "motor_speed": 1500.125 + number,
                        "oil_temperature": 60.5,
                        "n": number,
                    }
                    file.write(json.dumps(record) + "\n")
        for query in options.queries:
            costs: dict[int, list[float]] = {size: [] for size in sizes}
            memory = 0.0
            for run in range(options.runs):
                for size in sizes:
                    broker = Mosquitto(work / f"broker{len(costs[size])}{size}{abs(hash(query))}", persistent=False)
                    broker.start()
                    cost, memory = cpu_seconds(broker, query, work / f"{size}", size, work / f"home{run}{size}{abs(hash(query))}")
                    costs[size].append(cost)
                    broker.end()
            short, whole = (statistics.median(costs[size]) for size in sizes)
            each = (whole - short) / (sizes[1] - sizes[0])
            print(
                f"{query or 'JSON as it is'}: {each * 1e6:.1f} µs a message, {1 / each:,.0f} messages a CPU-second; whole {whole:.2f} s, {memory:.0f} MB"
            )


if __name__ == "__main__":
    main()
