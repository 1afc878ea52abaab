"""Writes a simulated plant out as NDJSON, in its own time or at once.

Time comes from the arguments only: `clock` returns ms since the epoch, `sleep` takes seconds.
"""

from __future__ import annotations

import errno
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TextIO

from headrace.errors import EnvironmentFault, PlanError
from headrace.kernels.reading.rules import read_text
from headrace.plan.schema import TIMESTAMP
from headrace.simulate.kiln import format_ids, ticks

__all__ = ["LONGEST_MS", "Plant", "Writable", "banner", "batch_line", "iso_time", "simulate", "time_ms"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_MS = 86_400_000
"""The longest interval between two ticks: a day. Plants compute all the time between them."""
LATEST_MS = 4_102_444_800_000  # the year 2100
RULE = "=" * 60


class Plant(Protocol):
    """A plant that can be simulated: `equipment` sends one line each at every tick, in that order."""

    @property
    def equipment(self) -> Sequence[int | str]:
        """The senders."""

    def line_batches(self, start_ms: int, interval_ms: float) -> Iterator[list[bytes]]:
        """Yield the lines of each tick."""


class Writable(Protocol):
    """A target of lines: a buffered file, or a topic."""

    def write(self, data: Any, /) -> object:  # noqa: ANN401  (bytes, or text in a report)
        """Take lines."""

    def flush(self) -> object:
        """Make what was taken readable."""

    def close(self) -> object:
        """Take no more."""


def time_ms(text: str, where: str) -> int:
    """Return a time such as 2024-01-15T10:30:00Z in ms since the epoch. Raises PlanError if it is none."""
    time_of = read_text(text, TIMESTAMP)
    if time_of is None:
        raise PlanError(f"{text!r} is not a time", where=where, fix="write 2024-01-15T10:30:00Z")
    return int(time_of.timestamp() * 1000)


def iso_time(ms: int) -> str:
    """Return ms since the epoch as ISO 8601 text, in UTC."""
    time = datetime.fromtimestamp(ms / 1000, UTC)
    return time.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")


def banner(target: str, *, servers: str | None = None, topic: str | None = None) -> str:
    """Return the lines that say where the data goes: the servers and the topic where there are such, else the target."""
    where = [f"Bootstrap servers: {servers}"] * bool(servers) + [f"Topic: {topic}" if topic else f"Target: {target}"]
    return "\n".join([RULE, "Sensor Data Generator", RULE, *where]) + "\n"


def batch_line(number: int, time_ms: int, equipment: Sequence[int | str]) -> str:
    """Return the line that tells of one batch: its tick's time in UTC, its number from 1, and who sent."""
    time = f"{EPOCH + timedelta(milliseconds=time_ms):%Y-%m-%d %H:%M:%S}"
    return f"[{time}] Batch #{number}: Sent {len(equipment)} messages (equip_ids: {format_ids(equipment)})\n"


def simulate(
    plant: Plant,
    sink: Writable,
    *,
    clock: Callable[[], int],
    sleep: Callable[[float], object],
    target: str,
    servers: str | None = None,
    topic: str | None = None,
    rate: float | None = None,
    interval_ms: float | None = None,
    records: int | None = None,
    duration_ms: int | None = None,
    history_ms: int = 0,
    start_ms: int | None = None,
    pace: bool = True,
    report: TextIO | None = None,
) -> int:
    """Write the plant's lines to the buffered `sink`, a line for each batch to `report`; return how many lines were written.

    Ticks are `interval_ms` apart (1000), or as `rate` messages a second want it. Those of the last `history_ms` come at
    once, the live ones from `start_ms` on (now) as the clock reaches them, or at once too where `pace` is false. `records`
    counts both kinds, `duration_ms` the live ones only, by the clock if paced, else by their own times. A sink or report
    that fails is closed, since what it has buffered can go nowhere; a pipe whose reader has left ends the run quietly.

    Raises
    ------
    PlanError
        If a number cannot be, or nothing ends a run that is not paced.
    EnvironmentFault
        If the sink or the report cannot be written to.
    """
    interval = _interval(len(plant.equipment), rate, interval_ms)
    _refuse_impossible(records, duration_ms, history_ms, pace=pace)
    now = clock()
    live_ms = now if start_ms is None else start_ms
    past = int(history_ms // interval)
    first_ms = live_ms - int(past * interval)
    if not 0 <= first_ms <= live_ms <= LATEST_MS:
        raise PlanError(f"the first tick would be at {first_ms} ms", where="simulate", fix="give ms since the epoch, 1970 to 2100")
    times = ticks(first_ms, interval)
    end_ms = math.inf if duration_ms is None else live_ms + duration_ms
    wanted = _paced(times, past, now - live_ms, clock, sleep, duration_ms) if pace else itertools.takewhile(lambda time: time < end_ms, times)
    sent = 0
    with suppress(BrokenPipeError):
        _put(report, banner(target, servers=servers, topic=topic), "the report", flush=True)
        for number, (time, batch) in enumerate(zip(wanted, plant.line_batches(first_ms, interval), strict=False), 1):
            live = pace and number > past
            lines = batch[: None if records is None else records - sent]
            _put(sink, b"\n".join(lines) + b"\n", target, flush=live)
            sent += len(lines)
            _put(report, batch_line(number, time, plant.equipment[: len(lines)]), "the report", flush=live)
            if sent == records:
                break
        _put(sink, b"", target, flush=True)
        _put(report, "", "the report", flush=True)
    return sent


def _interval(equipment: int, rate: float | None, interval_ms: float | None) -> float:
    """Return the ms between ticks."""
    if rate is not None and interval_ms is not None:
        raise PlanError("both a rate and an interval are given", where="simulate", fix="give one of them")
    given = rate if rate is not None else 1000 if interval_ms is None else interval_ms
    if not 0 < given < math.inf:
        raise PlanError(f"the {'interval' if rate is None else 'rate'} is {given}", where="simulate", fix="give more than 0")
    interval = given if rate is None else 1000 * equipment / rate
    if interval > LONGEST_MS:
        raise PlanError(
            f"there would be {interval / LONGEST_MS:.3g} days between messages", where="simulate", fix="give a higher rate: one a day or more"
        )
    return interval


def _refuse_impossible(records: int | None, duration_ms: int | None, history_ms: int, *, pace: bool) -> None:
    least = {"records": (records, 1), "duration": (duration_ms, 0), "history": (history_ms, 0)}
    for name, (given, bound) in least.items():
        if given is not None and given < bound:
            raise PlanError(f"the {name} is {given}", where="simulate", fix=f"give {bound} or more")
    if not pace and records is None and duration_ms is None:
        raise PlanError("a simulation at full speed has no end", where="simulate", fix="give --records or --duration")


def _paced(
    times: Iterator[int], past: int, ahead_ms: int, clock: Callable[[], int], sleep: Callable[[float], object], duration_ms: int | None
) -> Iterator[int]:
    """Yield the first `past` times at once, then each when the clock is at it + `ahead_ms`, for `duration_ms` of the clock."""
    yield from itertools.islice(times, past)
    end = math.inf if duration_ms is None else clock() + duration_ms
    for time in times:
        while (wait_ms := min(time + ahead_ms, end) - clock()) > 0:
            sleep(wait_ms / 1000)
        if clock() >= end:
            return
        yield time


def _put(stream: Writable | None, data: bytes | str, name: str, *, flush: bool) -> None:
    """Write to a stream, if there is one; one that fails is closed, so that nobody stumbles over its buffer again."""
    if stream is None:
        return
    try:
        stream.write(data)
        if flush:
            stream.flush()
    except OSError as error:
        with suppress(OSError):
            stream.close()
        if isinstance(error, BrokenPipeError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space there or ask for fewer --records" if full else "name a place that can be written to"
        raise EnvironmentFault(f"cannot write simulated data: {error.strerror or error}", where=name, fix=fix) from error
