"""The kiln's rules live on a real Spark, with limits that change while they run: what the embedded engine gives, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import broker
from engines.spark.test_spark_kafka import create, everything, produce, skip_unless_there
from headrace.apps.rules import rules
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.spark.run import run_live
from headrace.simulate.kiln import Kiln
from spark import HOME, missing_for_processes

START = 1_706_123_400_000
KILN = Kiln(seed=5, disorder_ms=3_000, bad_share=0.01, number_share=0.2)
LIMITS = list(islice(KILN.limits(START, 20_000), 20))
END = json.dumps({"equip_id": "end", "timestamp": START + 10**7, "data": {"end": "50"}}).encode()
TOPICS = ("kiln-events", "kiln-outliers", "kiln-limits.refused")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a broker of these tests' own: the rules' topics have names of their own."""
    skip_unless_there()
    if (why := missing_for_processes() or broker.missing()) is not None:
        pytest.skip(why)
    one = broker.Broker(tmp_path_factory.mktemp("broker"))
    one.start()
    try:
        create(one.servers, rules.plan(), **{"sensor-data": 2, "kiln-limits": 1})
        yield one.servers
    finally:
        one.end()


LIVE = """
import sys
from pathlib import Path
from headrace.apps.rules import rules
from headrace.engines.spark.run import run_live
servers, checkpoint, home = sys.argv[1:]
run_live(rules.plan(), servers, checkpoint=Path(checkpoint), trigger="500 milliseconds", master="local[2]", home=Path(home))
"""

# Every Python that Spark starts finds this. Of those on the driver and of the workers, the first that asks for its state is not answered.
AWAY = """
import os, socket, sys
def connect(self, address, before=socket.socket.connect):
    if address[0] == "localhost":
        try:
            os.close(os.open("FOLDER/of_" + ("a_worker" if "pyspark.daemon" in sys.orig_argv else "the_driver"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            raise TimeoutError(110, "Connection timed out")
    before(self, address)
socket.socket.connect = connect
"""


@pytest.mark.usefixtures("warm_processes")
def test_a_run_whose_pythons_time_out_and_that_is_killed_while_limits_change_goes_on_and_loses_nothing(servers: str, tmp_path: Path) -> None:
    readings = list(islice(KILN.lines(START), 400))
    parts = [[*readings[0::2], END], [*readings[1::2], END]]
    given = {"sensor-data": parts, "kiln-limits": [LIMITS]}
    wanted = by_embedded(given, tmp_path)
    command = [sys.executable, "-c", LIVE, servers, str(tmp_path / "checkpoint"), str(HOME)]
    chance, done, seen = random.Random(7), 0, 0
    limits = iter(LIMITS)
    away = tmp_path / "away"
    away.mkdir()
    (away / "sitecustomize.py").write_text(AWAY.replace("FOLDER", str(away)))
    for most in (70,):  # of each partition, so that something is left for the run behind it, however slowly this one begins
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(away)}) as run:
            give_up_at = time.monotonic() + 180
            try:
                while len(everything(servers, "kiln-events")) < seen + 5:
                    assert run.poll() is None, "the run has ended"
                    assert time.monotonic() < give_up_at, "the run gives nothing"
                    if done < most:
                        produce(servers, "kiln-limits", list(islice(limits, 1)))
                    for number, part in enumerate(parts):
                        produce(servers, "sensor-data", part[done : min(done + 10, most)], number)
                    done = min(done + 10, most)
                    time.sleep(chance.uniform(0.2, 1.0))
            finally:
                run.kill()
        seen = len(everything(servers, "kiln-events"))
    assert sorted(path.name for path in away.glob("of_*")) == ["of_a_worker", "of_the_driver"], "not answered"
    produce(servers, "kiln-limits", list(limits))
    for number, part in enumerate(parts):
        produce(servers, "sensor-data", part[done:], number)
    run_live(rules.plan(), servers, checkpoint=tmp_path / "checkpoint", trigger="available-now", master="local[2]", home=HOME)
    for topic in TOPICS:
        assert once(everything(servers, topic)) == wanted[topic], topic


def by_embedded(given: dict[str, list[list[bytes]]], folder: Path) -> dict[str, list[str]]:
    """Return by topic what the embedded engine gives for records, but for the last of each partition."""
    files = {}
    for topic, parts in given.items():
        files[topic] = [folder / f"{topic} {number}.ndjson" for number in range(len(parts))]
        for file, part in zip(files[topic], parts, strict=True):
            file.write_bytes(b"".join(line + b"\n" for line in part))
    run_embedded(rules.plan(), files, folder / "embedded")
    wanted = {topic: once((folder / "embedded" / f"{topic}.ndjson").read_bytes().splitlines()) for topic in TOPICS}
    assert all(wanted.values())
    return wanted


def once(lines: list[bytes]) -> list[str]:
    """Return rows in order, each once, without what the arrival of a record has to do with."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    bare = ({name: value for name, value in row.items() if name not in {"arrived_ms", "state"}} for row in rows)
    return sorted({json.dumps(row, sort_keys=True) for row in bare if row.get("equip_id") != "end"})
