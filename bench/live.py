"""Pipelines and helpers for the figures of live runs; `bench/run.py` runs them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import headrace as hr
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog

__all__ = ["through", "wide_open"]


@hr.pipeline("through", version="1")
def through() -> dict[str, hr.Stream]:
    """Each message on its way, one value changed."""
    events = hr.stream("sent", schema={"at": "BIGINT NOT NULL", "value": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(at, 3)")
    return {"arrived": events.where("value >= 0").select(at="at", value="value * 2")}


@hr.pipeline("wide-open", version="1")
def wide_open() -> dict[str, hr.Stream]:
    """A window that is never closed and keeps every text."""
    events = hr.stream("texts", schema={"at": "BIGINT NOT NULL", "text": "STRING"}, event_time="TO_TIMESTAMP_LTZ(at, 3)")
    return {"gathered": events.window(hr.tumbling(hr.minutes(1)), by=["text"]).aggregate(n="COUNT(*)")}


def fill(home: str, topic: str, source: str, block: str) -> None:
    """Append a file's lines to a topic, in blocks."""
    _fill(SqliteLog(Path(home) / "log.db"), topic, source, int(block))


def fill_kafka(servers: str, topic: str, source: str, block: str, partitions: str = "1") -> None:
    """Append a file's lines to a topic of Kafka."""
    from headrace.topics.kafka import KafkaLog

    _fill(KafkaLog(servers, Path()), topic, source, int(block), int(partitions))


def _fill(log: Log, topic: str, source: str, size: int, partitions: int = 1) -> None:
    log.create(topic, partitions=partitions)
    with open(source, "rb") as lines:
        batch: list[bytes] = []
        for line in lines:
            batch.append(line[:-1])
            if len(batch) == size:
                log.append(topic, batch)
                batch = []
        if batch:
            log.append(topic, batch)
    log.close()


def fill_texts(home: str, count: str) -> None:
    """Append messages of a kilobyte, all within one minute."""
    log = SqliteLog(Path(home) / "log.db")
    log.create("texts")
    start, end = 1_706_123_400_000, int(count)
    for first in range(0, end, 1000):
        log.append("texts", [b'{"at":%d,"text":"%s"}' % (start + n * 59_000 // end, b"%01000d" % n) for n in range(first, min(first + 1000, end))])
    log.close()


def send(home: str, rate: str, seconds: str) -> None:
    """Append messages at a rate, each with the time in us at which it was appended as its value, ten ms at a time."""
    log = SqliteLog(Path(home) / "log.db")
    each = int(rate) // 100
    began = time.time()
    for tick in range(int(seconds) * 100):
        if (wait := began + tick / 100 - time.time()) > 0:
            time.sleep(wait)
        now = time.time_ns()
        log.append("sent", [b'{"at":%d,"value":%d}' % (now // 1_000_000, now // 1000)] * each)
    log.close()


def watch(home: str, count: str) -> None:
    """Read results as they become readable, and print the percentiles of their age in ms."""
    log = SqliteLog(Path(home) / "log.db")
    feed = log.feed(["arrived"])
    (reader,) = feed.readers["arrived"]
    ages: list[float] = []
    limit = time.monotonic() + 60
    while len(ages) < int(count) and time.monotonic() < limit:
        if not feed.fetch():
            time.sleep(0.001)
            continue
        now = time.time_ns() / 1000
        ages += [(now - float(line[line.rindex(":") + 1 : -1]) / 2) / 1000 for line in reader.read().text]
    ages.sort()
    print(*[f"{ages[int(len(ages) * share)]:.1f}" for share in (0.5, 0.9, 0.99, 0.999)], len(ages))


if __name__ == "__main__":
    {"fill": fill, "fill_kafka": fill_kafka, "fill_texts": fill_texts, "send": send, "watch": watch}[sys.argv[1]](*sys.argv[2:])
