"""`headrace simulate`: a simulated plant that sends NDJSON."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from headrace._clock import now_ms
from headrace.errors import EnvironmentFault, PlanError, near

if TYPE_CHECKING:
    from headrace.simulate import Kiln
    from headrace.simulate.writing import Writable

__all__ = ["duration_ms", "simulate"]

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "": 1000}


def duration_ms(text: str, option: str) -> int:
    """Return a duration such as `30s`, `5m`, `7d` or bare seconds, in ms."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip())
    if not match:
        raise PlanError(f"{text!r} is not a duration", where=option, fix="write 30s, 5m, 2h, or bare seconds")
    return round(float(match[1]) * _UNITS_MS[match[2]])


def simulate(
    plant: str,
    /,
    *,
    to: str | None = None,
    kafka_servers: str | None = None,
    rate: float | None = None,
    seed: int = 0,
    records: int | None = None,
    duration: str | None = None,
    history: str = "0s",
    start: str | None = None,
    disorder: str = "0s",
    bad: float = 0.0,
    numbers: float = 0.0,
    equipment_ids: str | None = None,
    sensor_ids: str | None = None,
) -> None:
    """Send what a simulated plant would send.

    Parameters
    ----------
    plant
        kiln: equipment with sensors, a message each a second.
    to
        An NDJSON file, topic:NAME of the SQLite log, or kafka:NAME. Without it, messages go to standard output and the report to
        standard error.
    kafka_servers
        HOST:PORT of Kafka, for kafka:NAME; else KAFKA_SERVERS of the environment.
    rate
        Messages a second over the whole plant, instead of one a second for each equipment.
    seed
        The same seed sends the same messages.
    records
        Stop after so many messages; a file is then written at once, without pacing.
    duration
        Stop after so long: 30s, 5m.
    history
        So much of the past is sent at once first: 10m.
    start
        The time of the first message, ISO 8601, instead of now.
    disorder
        Messages come up to so much late.
    bad
        The share of messages that are spoilt.
    numbers
        The share of values sent as numbers instead of text.
    equipment_ids
        110-114,120; else EQUIPMENT_IDS of the environment, else 110-114.
    sensor_ids
        0001-0005; else SENSOR_IDS of the environment, else 0001-0005.
    """
    if plant != "kiln":
        raise PlanError(f"unknown plant {plant!r}", fix=near(plant, ["kiln"]))
    from headrace import simulate as plants

    kiln = plants.Kiln(
        seed=seed,
        equipment=plants.parse_ids(equipment_ids or os.environ.get("EQUIPMENT_IDS") or "110-114"),
        sensors=tuple(map(str, plants.parse_ids(sensor_ids or os.environ.get("SENSOR_IDS") or "0001-0005"))),
        disorder_ms=duration_ms(disorder, "--disorder"),
        number_share=numbers,
        bad_share=bad,
    )
    kind, colon, topic = (to or "").partition(":")
    on_topic = bool(colon) and kind in {"topic", "kafka"}
    servers = (kafka_servers or os.environ.get("KAFKA_SERVERS") or "127.0.0.1:9092") if on_topic and kind == "kafka" else None
    with _sink(to, topic if on_topic else None, servers, kiln) as sink:
        plants.simulate(
            kiln,
            sink,
            clock=now_ms,
            sleep=time.sleep,
            target=to or "standard output",
            servers=servers,
            topic=topic if on_topic else None,
            rate=rate,
            records=records,
            duration_ms=duration_ms(duration, "--duration") if duration else None,
            history_ms=duration_ms(history, "--history"),
            start_ms=_start_ms(start),
            pace=to is None or records is None,
            report=sys.stderr if to is None else sys.stdout,
        )


@contextmanager
def _sink(to: str | None, topic: str | None, servers: str | None, kiln: Kiln) -> Iterator[Writable]:
    """Open what the messages go to."""
    if to is None:
        yield sys.stdout.buffer
    elif topic is None:
        with _open(Path(to)) as file:
            yield file
    else:
        from headrace.cli.logs import open_log
        from headrace.simulate.topic import TopicSink

        with closing(open_log(servers)) as log:
            if topic not in {info.name for info in log.topics()}:
                log.create(topic)
            yield TopicSink(log, topic, [str(one).encode() for one in kiln.equipment])


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix="name a file that this user may write") from None


def _start_ms(text: str | None) -> int | None:
    if text is None:
        return None
    from headrace.kernels.reading.rules import read_text
    from headrace.plan.schema import TIMESTAMP

    time_of = read_text(text, TIMESTAMP)
    if time_of is None:
        raise PlanError(f"{text!r} is not a time", where="--start", fix="write 2024-01-15T10:30:00Z")
    return int(time_of.timestamp() * 1000)
