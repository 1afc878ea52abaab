"""`headrace import`: files of public data sets to readings or rows, and labels."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cyclopts import Parameter

from headrace.cli.paths import local_path, refuse_equal
from headrace.errors import EnvironmentFault, PlanError, near
from headrace.kernels.reading.rules import double_of
from headrace.plant.datasets import FORMATS, Sample, Span, Spans, samples, windows_of
from headrace.plant.reading import reading_of
from headrace.simulate.writing import iso_time, time_ms

__all__ = ["import_files"]

_encode = msgspec.json.Encoder().encode


def import_files(
    dataset: str,
    files: Annotated[list[str], Parameter(name="FILE", negative=())],
    /,
    *,
    to: str | None = None,
    labels: str | None = None,
    rows: Annotated[bool, Parameter(negative=())] = False,
    windows: str | None = None,
    zone: str = "UTC",
    start: str = "2000-01-01T00:00:00Z",
) -> None:
    """Turn files of a public data set into NDJSON and labels.

    Parameters
    ----------
    dataset
        swat, hai, batadal, skab, nab or tep: whose layout the files have.
    files
        The files, in the order of time; they may be compressed by gzip.
    to
        An NDJSON file; without it, standard output.
    labels
        A CSV file for what the data set marks as attack, fault or anomaly: start,end,name.
    rows
        A row of all tags for each time, with t_stamp in ns and values as texts, instead of a reading of each tag.
    windows
        nab: its file combined_windows.json, for the labels.
    zone
        The time zone of the files' times, such as Asia/Singapore.
    start
        tep: the time of the first sample, which its files do not have.
    """
    if dataset not in FORMATS:
        raise PlanError(f"unknown data set {dataset!r}", fix=near(dataset, FORMATS))
    if windows is not None and dataset != "nab":
        raise PlanError("--windows is given", where=f"import {dataset}", fix="leave it out: only nab has its labels in a file of their own")
    try:
        found_zone = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PlanError(f"unknown time zone {zone!r}", where="--zone", fix="write a name such as Asia/Singapore") from None
    began = time_ms(start, "--start")
    read = [local_path(name, "FILE") for name in files]
    outputs = [(option, None if name is None else local_path(name, option, writes=True)) for option, name in (("--to", to), ("--labels", labels))]
    refuse_equal(outputs, [*read, *([] if windows is None else [local_path(windows, "--windows")])])
    unread: list[str] = []
    spans: list[Span] = []
    count = 0
    with ExitStack() as stack:
        out = sys.stdout.buffer if to is None else stack.enter_context(_created(to, "--to"))
        for path in read:
            joined = Spans()
            for one in samples(dataset, path, zone=found_zone, start_ms=began):
                if not isinstance(one, Sample):
                    unread.append(f"{path} line {one.line}: {one.reason}")
                    continue
                out.writelines(_row(one) if rows else _readings(one))
                spans += joined.add(one)
                count += 1
            spans += joined.end()
            if windows is not None:
                spans += windows_of(local_path(windows, "--windows"), path, found_zone)
        if labels is not None:
            written = stack.enter_context(_created(labels, "--labels"))
            written.writelines(_labels(spans))
    print(f"{count} samples, {len(spans)} labels", file=sys.stdout if to is not None else sys.stderr)
    if unread:
        print(f"headrace: {len(unread)} lines could not be read; the first is {unread[0]}", file=sys.stderr)


def _row(sample: Sample) -> Iterator[bytes]:
    values: Mapping[str, str] = {"t_stamp": f"{sample.time_ms}000000", **sample.values}
    yield _encode(values if not sample.marks else {**values, "attack_type": sample.marks[-1]}) + b"\n"


def _readings(sample: Sample) -> Iterator[bytes]:
    for tag, text in sample.values.items():
        number = double_of(text)
        reading = reading_of(tag, text if number is None else number, sample.time_ms)
        yield _encode({"tag": tag, "time": sample.time_ms, "value": reading.value, "quality": int(reading.quality)}) + b"\n"


def _labels(spans: list[Span]) -> Iterator[bytes]:
    yield b"start,end,name\n"
    numbers: dict[str, int] = {}
    for span in sorted(spans):
        numbers[span.name] = numbers.get(span.name, 0) + 1
        yield f"{iso_time(span.start_ms)},{iso_time(span.end_ms)},{span.name} {numbers[span.name]}\n".encode()


def _created(text: str, option: str) -> IO[bytes]:
    path: Path = local_path(text, option, writes=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix="name a file that this user may write") from None
