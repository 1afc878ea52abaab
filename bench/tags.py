"""The cost of a plant of 10,000 tags at 1 Hz: MQTT, a window of a minute, InfluxDB's write API, in one process of `headrace up`.

`python bench/tags.py --tags 10000 --seconds 180`. Broker, publisher and store are other processes. The first 60 s are not counted.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from headrace.topics.sqlite import SqliteLog  # noqa: E402
from mosquitto import Mosquitto, environment, found, missing  # noqa: E402
from victoria import Victoria  # noqa: E402
from victoria import missing as no_store  # noqa: E402

HEADRACE = Path(sys.executable).with_name("headrace")
MINUTES = HERE.parent / "src" / "headrace" / "cli" / "templates" / "shared" / "minutes.py"
WARM_SECONDS, PIECES, SECONDS_EACH = 60, 20, 4
PLANT = """
[plant]
name = "works"
zone = "UTC"

[[in]]
name = "broker"
from = "{broker}/plant/values"
to = "readings"
window = 5000
as = "reading"
tag = "$.t"
value = "$.v"

[[pipeline]]
app = "minutes.py"
close_quiet_after = "5s"

[[out]]
name = "store"
from = "minutes-output"
to = "{store}"
org = "o"
bucket = "b"
tags = "tag"
time = "start_ms"
"""


def publish(port: int, tags: int, seconds: int) -> None:
    """Publish a value of each tag each second with QoS 1, in pieces."""
    began = time.monotonic()
    each = tags // PIECES
    running: list[subprocess.Popen[bytes]] = []
    for piece in range(seconds * PIECES):
        if piece % (SECONDS_EACH * PIECES) == 0:  # a publisher ends too early after more lines than there are packet identifiers
            if running:
                _lines(running[-1]).close()
            command = [str(found("mosquitto_pub")), "-p", str(port), "-t", "plant/values", "-q", "1", "-l"]
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=environment()))
        first = piece % PIECES * each
        values = (b'{"t":"area/%d/TT-%d","v":%d.5}\n' % (tag % 50, tag, (tag + piece) % 977) for tag in range(first, first + each))
        _lines(running[-1]).write(b"".join(values))
        _lines(running[-1]).flush()
        time.sleep(max(began + (piece + 1) / PIECES - time.monotonic(), 0.0))
    _lines(running[-1]).close()
    for one in running:
        one.wait()


def _lines(publisher: subprocess.Popen[bytes]) -> IO[bytes]:
    assert publisher.stdin is not None
    return publisher.stdin


def used(process: int) -> tuple[float, float]:
    """Return the CPU seconds of a process so far, and its memory in MB at most."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    peak = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


def count(log: SqliteLog) -> int:
    return sum(info.end for info in log.topic("readings").partitions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=180)
    options = parser.parse_args()
    if (why := missing() or no_store()) is not None:
        sys.exit(why)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        broker, store = Mosquitto(work / "mosquitto", persistent=False), Victoria(work / "victoria")
        broker.start()
        store.start()
        (work / "headrace.toml").write_text(PLANT.format(broker=broker.address, store=store.address))
        (work / "minutes.py").write_bytes(MINUTES.read_bytes())
        env = {**os.environ, "HEADRACE_HOME": str(work / "home")}
        up = subprocess.Popen([str(HEADRACE), "up"], cwd=work, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while "plant/values" not in broker.log.rpartition("SUBSCRIBE")[2]:
                time.sleep(0.1)
            publish(broker.port, options.tags, WARM_SECONDS)
            with closing(SqliteLog(work / "home" / "log.db")) as log:
                before, first = used(up.pid)[0], count(log)
                publish(broker.port, options.tags, options.seconds - WARM_SECONDS)
                published, ended = options.tags * options.seconds, time.monotonic()
                while (received := count(log)) < published and time.monotonic() < ended + 120:
                    time.sleep(0.1)
            after, peak = used(up.pid)
            behind = time.monotonic() - ended
            time.sleep(30)  # the last window is closed by close_quiet_after
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()
        series = store.series()
        readings = sum(value for labels, values in series.items() if dict(labels)["__name__"] == "minutes-output_readings" for _, value in values)
        broker.end()
        store.end()
    each = (after - before) / (received - first)
    print(f"{1e6 * each:.0f} µs of CPU a reading, {options.tags * each:.0%} of a core at 1 Hz, {peak:.0f} MB, {behind:.1f} s behind at the end")
    print(f"{published:,} published, {received:,} in the topic, {int(readings):,} in the windows of the store")


if __name__ == "__main__":
    main()
