"""Hours of a plant's time: memory, state and the log itself stay as they are; a day in `make test-long`."""

from __future__ import annotations

import gc
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.cli.apps import plan_of
from headrace.engines.embedded.live import Live, Patience
from headrace.simulate import Kiln
from headrace.simulate.topic import TopicSink
from headrace.topics.sqlite import SqliteLog

START = 1_706_123_400_000


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("hours", [3, pytest.param(24, marks=pytest.mark.long)])
def test_hours_of_a_plant_leave_no_trace_in_memory(hours: int, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("hours of a plant", hours)
    minutes = hours * 60
    now = START
    kiln = Kiln(seed=7, disorder_ms=4_000, bad_share=0.001)
    log = SqliteLog(tmp_path / "log.db", clock=lambda: now)
    log.create("sensor-data", retention_ms=600_000)
    log.create("fingerprint-output", retention_ms=600_000)
    sink = TopicSink(log, "sensor-data", [str(one).encode() for one in kiln.equipment])
    live = Live(plan_of("fingerprint", []), log, Patience(), clock=lambda: now, tick=lambda: now / 1000)
    memory, sizes, states, sent = [], [], [], 0
    ticks = kiln.line_batches(START)
    for minute in range(minutes):
        for _ in range(4):
            for lines in itertools.islice(ticks, 15):
                sink.write(b"".join(line + b"\n" for line in lines))
                sent += len(lines)
            now += 15_000
            sink.flush()
            live.work()
            if live.due(1.0):
                live.commit()
        if minute >= 60 and minute % 10 == 0:
            memory.append(resident_mb())
            sizes.append((tmp_path / "log.db").stat().st_size)
            states.append(log.file.db.execute("SELECT COUNT(*), SUM(LENGTH(data)) FROM state").fetchone())
    live.finish()
    live.commit()
    counts = live.run.ledger["sensor-data"]
    assert counts.received == sent == minutes * 60 * 5
    assert counts.accepted + counts.malformed + counts.late + counts.filtered == sent
    last = log.entries("fingerprint-output", 0, log.topic("fingerprint-output").partitions[0].end - 1, 1)[0]
    assert json.loads(last.value)["fingerprint"]["end_ms"] >= START + (minutes - 1) * 60_000
    assert log.topic("fingerprint-output").partitions[0].end >= (minutes - 1) * 5
    half = len(memory) // 2
    assert max(memory[half:]) < max(memory[:half]) + 10
    assert max(sizes) <= 1.5 * sizes[0]
    assert max(count for count, _ in states) < 10
    live.close()
    log.close()
