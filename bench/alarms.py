"""Pipelines and helpers for the figures of alarms; `bench/run.py` runs them."""

from __future__ import annotations

import json
import sys
import time
from itertools import islice
from pathlib import Path

import headrace as hr
from headrace.topics.sqlite import SqliteLog

__all__ = ["configured", "watched"]

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}
START_MS = 1_706_123_400_000


@hr.pipeline("configured", version="1")
def configured() -> dict[str, hr.Stream]:
    """Alarms whose definitions come by a topic."""
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return hr.alarm(readings, hr.alarm_definitions(), hr.alarm_commands()).topics()


@hr.pipeline("watched", version="1")
def watched() -> dict[str, hr.Stream]:
    """Alarms of a thousand tags whose readings are above 0."""
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    definitions = [{"tag": f"T{number}", "definition": "H", "kind": "H", "limit": 0.0} for number in range(1000)]
    return hr.alarm(readings, definitions, hr.alarm_commands()).topics()


def make_topics(home: str) -> None:
    """Make the topics of `watched`."""
    log = SqliteLog(Path(home) / "log.db")
    for topic in ("readings", "alarm-commands", "alarms"):
        log.create(topic)
    log.close()


def send(home: str, seconds: str) -> None:
    """Append a reading of each of a thousand tags a second, ten at a time, each with the time in us as its magnitude.

    One in fifty moves an alarm.
    """
    log = SqliteLog(Path(home) / "log.db")
    began, above = time.time(), [False] * 1000
    for tick in range(int(seconds) * 100):
        if (wait := began + tick / 100 - time.time()) > 0:
            time.sleep(wait)
        first = tick % 100 * 10
        if tick % 5 == 0:
            above[first] = not above[first]
        now = time.time_ns()
        values = [(now // 1000) * (1 if above[number] else -1) for number in range(first, first + 10)]
        log.append("readings", [b'{"tag":"T%d","time":%d,"value":%d}' % (first + nth, now // 1_000_000, value) for nth, value in enumerate(values)])
    log.close()


def ages(home: str, count: str) -> None:
    """Read transitions as they become readable, and print the percentiles of the ages of their readings in ms."""
    log = SqliteLog(Path(home) / "log.db")
    feed = log.feed(["alarms"])
    (reader,) = feed.readers["alarms"]
    found: list[float] = []
    limit = time.monotonic() + 120
    while len(found) < int(count) and time.monotonic() < limit:
        if not feed.fetch():
            time.sleep(0.001)
            continue
        now = time.time_ns() / 1000
        found += [(now - abs(json.loads(line)["value"])) / 1000 for line in reader.read().text]
    found.sort()
    print(*[f"{found[int(len(found) * share)]:.1f}" for share in (0.5, 0.9, 0.99)], f"{found[-1]:.1f}", len(found))


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
    {one.__name__: one for one in (make_topics, send, ages, fill_definitions, flood, raised)}[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
