"""Pipelines and helpers for the figures of alarms; `bench/run.py` runs them."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import headrace as hr
from headrace.topics.sqlite import SqliteLog

__all__ = ["configured"]

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}
START_MS = 1_706_123_400_000


@hr.pipeline("configured", version="1")
def configured() -> dict[str, hr.Stream]:
    """Alarms whose definitions come by a topic."""
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return hr.alarm(readings, hr.alarm_definitions(), hr.alarm_commands()).topics()


def fill_definitions(home: str, count: str) -> None:
    """Append definitions of alarms, each of a tag of its own, and a reading of each."""
    log = SqliteLog(Path(home) / "log.db")
    for topic in ("readings", "alarm-definitions", "alarm-commands"):
        log.create(topic)
    tags = (f"area{number // 1000}/T{number}" for number in range(int(count)))
    while batch := [*islice(tags, 1000)]:
        log.append("alarm-definitions", [_line(tag, definition="H", kind="H", limit=0.0) for tag in batch])
        log.append("readings", [_line(tag, value=-1.0, quality=0) for tag in batch])
    log.close()


def _line(tag: str, **more: object) -> bytes:
    return json.dumps({"tag": tag, "time": START_MS, **more}, separators=(",", ":")).encode()


def flood(home: str, count: str) -> None:
    """Append a reading beyond its limit of each tag, all within a second of event time."""
    log = SqliteLog(Path(home) / "log.db")
    many = int(count)
    times = {number: START_MS + 1_000 + number * 1_000 // many for number in range(many)}
    log.append("readings", [_line(f"area{n // 1000}/T{n}", value=1.0, quality=0).replace(b"%d" % START_MS, b"%d" % at) for n, at in times.items()])
    log.close()


def raised(home: str) -> None:
    """Print how many alarms were raised."""
    log = SqliteLog(Path(home) / "log.db")
    print(sum(json.loads(entry.value)["event"] == "raise" for entry in log.entries("alarms", 0, 0, 10**7)))
    log.close()


if __name__ == "__main__":
    {"fill_definitions": fill_definitions, "flood": flood, "raised": raised}[sys.argv[1]](*sys.argv[2:])
