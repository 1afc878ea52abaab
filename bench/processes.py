"""Processes for the figures of docs/performance.md, and what measures them from inside; `bench/run.py` runs it.

python processes.py readings|texts FILE COUNT      writes an input
python processes.py touch HOME                     opens a million keys, touches some, and tells what commits cost
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import closing
from pathlib import Path

import headrace as hr
from headrace.engines.embedded.live import NO_CLOCK, Live
from headrace.topics.sqlite import SqliteLog

__all__ = ["count", "last"]

START_MS = 1_706_123_400_000
STEP_MS = 10_000_000


class Count:
    """Counts, and tells of every thousandth record."""

    output = {"count": "BIGINT"}
    state = {"count": hr.Value("BIGINT", 0)}

    def on_record(self, _row, state):
        state.count += 1
        return {"count": state.count} if state.count % 1000 == 0 else None


class Last:
    """Keeps the last text."""

    output = {"text": "STRING"}
    state = {"text": hr.Value("STRING")}

    def on_record(self, row, state):
        state.text = row["text"]


@hr.pipeline("count", version="1")
def count() -> dict[str, hr.Stream]:
    """One value for each of a thousand keys."""
    schema = {"tag": "STRING NOT NULL", "at": "BIGINT", "value": "DOUBLE"}
    readings = hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(at, 3)", watermark=hr.seconds(5))
    return {"counts": readings.process(Count, by=["tag"])}


@hr.pipeline("last", version="1")
def last() -> dict[str, hr.Stream]:
    """A text of 100 bytes for each of a million keys."""
    schema = {"tag": "STRING NOT NULL", "at": "BIGINT", "text": "STRING"}
    texts = hr.stream("texts", schema=schema, event_time="TO_TIMESTAMP_LTZ(at, 3)", watermark=hr.seconds(5))
    return {"told": texts.process(Last, by=["tag"])}


def readings(path: str, records: str) -> None:
    """Write readings of a thousand tags, up to 3 s late."""
    dice = random.Random(1)  # noqa: S311
    with open(path, "w") as file:
        for number in range(int(records)):
            at = START_MS + number - int(3000 * dice.random())
            file.write(f'{{"tag":"tag{dice.randrange(1000):04}","at":{at},"value":{100 * dice.random():.3f}}}\n')


def texts(path: str, records: str) -> None:
    """Write a text of 100 bytes for each of so many tags."""
    with open(path, "w") as file:
        file.writelines(f'{{"tag":"tag{number:07}","at":{START_MS + number},"text":"{f"{number:010}" * 10}"}}\n' for number in range(int(records)))


def touch(home: str) -> None:
    """Tell how long it takes to open the pipeline with its keys, and what a commit costs that touches some."""
    with closing(SqliteLog(Path(home) / "log.db")) as log:
        began = time.monotonic()
        live = Live(last.plan(), log, patience=NO_CLOCK)
        (process,) = live.run.graph.stages
        print(f"opened with {len(process.keyspace):,} keys in {time.monotonic() - began:.1f} s")
        for turn, touched in enumerate((10, 1_000, 100_000), 1):
            lines = [b'{"tag":"tag%07d","at":%d,"text":"x"}' % (number * 10, START_MS + turn * STEP_MS) for number in range(touched)]
            log.append("texts", lines)
            while live.work():
                pass
            live.finish()
            commit = live.commit()
            print(f"{touched:8,} touched: {commit.seconds * 1000:8.1f} ms, {commit.state_bytes / 1000:10,.0f} kB")
        live.close()


if __name__ == "__main__":
    {"readings": readings, "texts": texts, "touch": touch}[sys.argv[1]](*sys.argv[2:])
