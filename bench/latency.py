"""Time from publishing a message to its record in the topic: `python bench/latency.py`.

A publisher sends numbered messages at a steady rate to Mosquitto on loopback, a bridge brings them into the SQLite log, and a reader looks
for them every millisecond. Rates of several messages at once show what a burst costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from headrace.topics.sqlite import SqliteLog  # noqa: E402
from mosquitto import Mosquitto, missing  # noqa: E402

HEADRACE = Path(sys.executable).with_name("headrace")


def publish(port: int, count: int, rate: float) -> None:
    """Publish so many messages a second at QoS 1, each with the time when it was due to be sent."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    begin = time.time()
    for number in range(count):
        at = begin + number / rate
        time.sleep(max(at - time.time(), 0.0))
        client.publish("plc/data", json.dumps({"number": number, "at": time.time()}), qos=1).wait_for_publish()
    client.loop_stop()


def latencies(folder: Path, count: int, rate: float, program: Path) -> list[float]:
    """Return how long each message took, in ms."""
    broker, home = Mosquitto(folder / "broker", persistent=False), folder / "home"
    broker.start()
    bridge = subprocess.Popen(
        [str(program), "bridge", f"{broker.address}/plc/data", "topic:plc", "--records", str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HEADRACE_HOME": str(home)},
    )
    assert bridge.stdout is not None
    bridge.stdout.readline()
    while "Sending SUBACK" not in broker.log:
        time.sleep(0.01)
    sender = threading.Thread(target=publish, args=(broker.port, count, rate))
    found: list[float] = []
    with closing(SqliteLog(home / "log.db")) as log, closing(log.feed(["plc"])) as feed:
        sender.start()
        while len(found) < count:
            if feed.fetch():
                now = time.time()
                for reader in feed.readers["plc"]:
                    found += [(now - json.loads(text)["at"]) * 1000 for text in reader.read().text.to_list()]
            time.sleep(0.001)
    sender.join()
    bridge.wait()
    broker.end()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--rates", type=float, nargs="*", default=[5, 50, 500])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--programs", type=Path, nargs="*", default=[HEADRACE], help="several are run in turn, to compare them")
    options = parser.parse_args()
    if (why := missing()) is not None:
        sys.exit(why)
    for rate in options.rates:
        shown: dict[Path, list[list[float]]] = {program: [] for program in options.programs}
        for _ in range(options.runs):
            for program, runs in shown.items():
                with tempfile.TemporaryDirectory() as folder:
                    runs.append(sorted(latencies(Path(folder), min(options.messages, round(rate * 10)), rate, program)))
        for program, runs in shown.items():
            middle, high = (statistics.median(found[round((len(found) - 1) * share)] for found in runs) for share in (0.5, 0.99))
            print(f"{program}: {rate:g} messages a second: {middle:.1f} ms at the median, {high:.1f} ms in 99 of 100 (medians of {len(runs)} runs)")


if __name__ == "__main__":
    main()
