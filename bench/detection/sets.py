"""The runs of the data sets, read by headrace's own loaders: a row of all tags at each time, and whether something is abnormal then."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from headrace.plant.datasets import Sample, samples

__all__ = ["TEP_NORMAL", "Run", "skab", "tep"]

TEP_NORMAL = 160
"""In a testing file of the Tennessee Eastman process the fault begins after so many rows."""


class Run(NamedTuple):
    """The rows of one file."""

    name: str
    tags: list[str]
    times: list[int]
    rows: list[list[float]]
    abnormal: list[bool]


def skab(folder: Path) -> list[Run]:
    """Return the runs of SKAB's group of experiments `valve1`, in the order of their numbers."""
    return [_run("skab", path) for path in sorted((folder / "valve1").glob("*.csv"), key=lambda path: int(path.stem))]


def tep(folder: Path) -> tuple[Run, Run, list[Run]]:
    """Return the normal run that detectors are fitted to, a second normal run, and the runs with a fault."""
    faults = [path for path in sorted(folder.glob("d??_te.dat")) if path.stem != "d00_te"]
    return _run("tep", folder / "d00.dat"), _run("tep", folder / "d00_te.dat"), [_run("tep", path) for path in faults]


def _run(format: str, path: Path) -> Run:
    read = [one for one in samples(format, path) if isinstance(one, Sample)]
    tags = list(read[0].values)
    rows = [[_number(sample.values[tag]) for tag in tags] for sample in read]
    return Run(path.stem, tags, [sample.time_ms for sample in read], rows, [bool(sample.marks) for sample in read])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
