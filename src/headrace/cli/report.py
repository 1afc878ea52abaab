"""The report of a run that has ended, and its progress while it lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from headrace._durable import private_folder, put
from headrace.cli.apps import home
from headrace.errors import DataError
from headrace.kernels.ledger import Reasons, balance, received_in_vain

if TYPE_CHECKING:
    from headrace.engines.entries import Ledger
    from headrace.engines.protocol import Result
    from headrace.plan.pipeline import Plan

__all__ = ["begun_lines", "print_ledger", "progress", "remember", "report"]

_REASONS, _LONGEST = 3, 300  # how many reasons are printed, and how many letters of each


def report(plan: Plan, result: Result, *, allow_nothing: bool) -> None:
    """Keep the ledger of a run that has ended, and print it, with the commonest reasons why records were set aside.

    Raises
    ------
    DataError
        If there were records, and not one of them could be used.
    """
    remember(plan, result.ledger, result.begun)
    print_ledger(result)
    for line in begun_lines(result.begun):
        print(line, file=sys.stderr)
    if (received := received_in_vain(result.ledger.values())) and not allow_nothing:
        raise DataError(
            f"no record could be used of {received:,} received",
            where=f"pipeline {plan.pipeline}",
            fix="do the stream's schema and event_time fit the input? --allow-nothing-accepted takes this as done",
        )
    if result.note:
        print(f"headrace: {result.note}", file=sys.stderr)


def print_ledger(result: Result) -> None:
    """Print what became of the records of each topic, with the commonest reasons why some were set aside."""
    for topic, counts in result.ledger.items():
        print(f"{topic}: {balance(counts)}", file=sys.stderr)
        _tell_reasons(topic, result.reasons.get(topic, Reasons()))


def _tell_reasons(topic: str, reasons: Reasons) -> None:
    found = reasons.commonest()
    for one in found[:_REASONS]:
        example = f"partition {one.partition} offset {one.offset}: {_cut(one.detail)}"
        print(f"{topic}: {one.count:,} set aside: {_cut(one.text)}; the first is {example}", file=sys.stderr)
    if others := sum(one.count for one in found[_REASONS:]):
        print(f"{topic}: {others:,} set aside for {len(found) - _REASONS} other reasons", file=sys.stderr)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def begun_lines(begun: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Yield a line for each topic with the offsets of its partitions at which a pipeline was begun."""
    for topic, offsets in begun.items():
        yield f"{topic}: begun at {'offset' if len(offsets) == 1 else 'offsets'} {', '.join(map(str, offsets))}"


def remember(plan: Plan, ledger: Ledger, begun: Mapping[str, Sequence[int]] = MappingProxyType({})) -> None:
    """Keep the ledger of the pipeline's last run for `headrace ledger`."""
    folder = home() / "ledgers"
    try:
        private_folder(folder)
        put(folder / f"{plan.pipeline}.json", msgspec.json.encode({"pipeline": plan.pipeline, "sources": ledger, "begun": dict(begun)}), secret=True)
    except OSError as error:
        print(f"headrace: {folder}: the ledger cannot be kept for `headrace ledger`: {error.strerror}", file=sys.stderr)


@contextmanager
def progress() -> Iterator[Callable[[Any], None] | None]:
    """Show how far a run is while it lasts, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[received]:,} records"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("run", total=None, received=0)
        yield lambda at: bar.update(task, completed=at.done, total=at.total, received=at.received)
