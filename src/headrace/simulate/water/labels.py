"""Labels of the events in the water plant, beside its messages; and the rows of attacks apart from the others.

Labels are CSV with the columns `start,end,name,tags`, times in ISO 8601, tags with a blank between them. A label is written when the
attack or fault begins, so that they are there for a run that does not end too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from headrace.errors import EnvironmentFault, PlanError
from headrace.simulate.water.plant import Water
from headrace.simulate.water.scenarios import Event
from headrace.simulate.writing import Writable, iso_time

__all__ = ["DETAILS", "LABELS", "Labelled", "Split", "details_of"]

LABELS = ("start", "end", "name", "tags")
DETAILS = ("start", "end", "name", "kind", "tags", "technique", "extent", "description")


class Labelled:
    """A water plant that writes labels while it runs: attacks and faults to a file, and these and maintenance to NAME.details.csv.

    Raises
    ------
    EnvironmentFault
        If a file cannot be written.
    PlanError
        If it is a folder.
    """

    def __init__(self, water: Water, file: Path) -> None:
        if not file.name:
            raise PlanError("is a folder", where=str(file), fix="name a file")
        self._water, self._file = water, file
        self.equipment = water.equipment

    def line_batches(self, start_ms: int, interval_ms: float = 1000) -> Iterator[list[bytes]]:
        """Yield without end the lines of each tick."""
        file, details = self._file, details_of(self._file)
        with ExitStack() as stack:
            labels, detailed = stack.enter_context(_created(file, LABELS)), stack.enter_context(_created(details, DETAILS))
            pending = self._water.planned()
            event = next(pending, None)
            for tick, lines in enumerate(self._water.line_batches(start_ms, interval_ms)):
                while event is not None and event.start_s <= tick * interval_ms / 1000:
                    span = [iso_time(start_ms + round(seconds * 1000)) for seconds in (event.start_s, event.end_s)]
                    if event.kind != "maintenance":
                        _write(labels, file, [*span, event.name, " ".join(event.tags)])
                    _write(detailed, details, [*span, event.name, event.kind, " ".join(event.tags), *_described(event)])
                    event = next(pending, None)
                yield lines


def details_of(labels: Path) -> Path:
    """Return the file of the details, beside the file of the labels."""
    return labels.with_suffix(".details.csv")


class Split:
    """Takes the lines of a plant: those with an `attack_type` go to one sink, all others to another."""

    def __init__(self, others: Writable, attacks: Writable) -> None:
        self._others, self._attacks = others, attacks

    def write(self, data: bytes) -> object:
        """Take the lines of one tick."""
        return (self._attacks if b'"attack_type":' in data else self._others).write(data)

    def flush(self) -> None:
        """Make what was taken readable."""
        self._others.flush()
        self._attacks.flush()

    def close(self) -> None:
        """Take no more."""
        self._others.close()
        self._attacks.close()


def _described(event: Event) -> list[str]:
    scenario = event.scenario
    return ["", "", ""] if scenario is None else [scenario.technique, scenario.extent, scenario.description]


def _created(path: Path, columns: tuple[str, ...]) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix="name a file that this user may write") from None
    _write(file, path, columns)
    return file


def _write(file: TextIO, path: Path, cells: list[str] | tuple[str, ...]) -> None:
    try:
        csv.writer(file, lineterminator="\n").writerow(cells)
        file.flush()
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix="free some space there") from None
