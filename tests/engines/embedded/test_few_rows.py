"""Turns of few rows go through plain Python, those of many through queries: the topics have the same bytes either way."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from engines.embedded.processes import START, line
from engines.embedded.test_inputs_live import alarms
from engines.embedded.test_live import Wall, live_on, raw
from headrace.engines.embedded.live import Patience
from headrace.topics.sqlite import SqliteLog


def written_with(few: int, folder: Path, order: str, seed: int) -> dict[str, list[bytes]]:
    """Return what a run over two topics of two partitions writes, whose turns have 0 to 20 records: some late, malformed, or far ahead."""
    chance, wall = random.Random(seed), Wall(START)
    with pytest.MonkeyPatch.context() as patch:
        having = [module for name, module in [*sys.modules.items()] if name.startswith("headrace.") and hasattr(module, "FEW")]
        assert len(having) >= 5
        for module in having:
            patch.setattr(module, "FEW", few)
        log = SqliteLog(folder / f"{few}.db", clock=wall)
        live = live_on(log, wall, alarms(log, partitions=2, order=order), Patience(idle_after=2_000, close_quiet_after=5_000, max_ahead=60_000))
        for turn in range(30):
            wall.now = START + turn * 700
            for topic in chance.sample(["one", "commands"], chance.randint(0, 2)):
                times = [turn * 0.7 - chance.choice([0, 0, 0.5, 3]) for _ in range(chance.randint(1, 10))]
                lines = [line(round(time, 1), chance.choice("abc"), chance.choice(["", "timer", "ack"])) for time in times]
                lines += chance.choice([[], [], [b"not JSON"], [line(9_000.0)]])
                log.append(topic, lines, keys=[chance.choice([b"x", b"y"]) for _ in lines])
            live.work()
            live.commit()
        live.close()
        found = {topic: raw(log, topic) for topic in sorted(one.name for one in log.topics())}
        log.close()
    return found


@pytest.mark.parametrize("order", ["arrival", "event_time"])
def test_few_rows_give_the_bytes_that_many_do(tmp_path: Path, order: str) -> None:
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        few = written_with(64, folder, order, seed)
        assert few == written_with(0, folder, order, seed)
        assert any(few["out"])
