"""`headrace run`: a pipeline over files."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from headrace.cli.apps import home, plan_of
from headrace.errors import PlanError
from headrace.plan.pipeline import Plan

__all__ = ["run"]

_JEMALLOC = "dirty_decay_ms:-1,muzzy_decay_ms:-1,background_thread:false,narenas:1,thp:always"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def run(
    app: str,
    /,
    *,
    input: Annotated[list[str] | None, Parameter(name="--input", negative=(), allow_leading_hyphen=True)] = None,
    output: Annotated[Path | None, Parameter(name="--output")] = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    output_format: Literal["ndjson", "parquet"] = "ndjson",
    engine: str = "embedded",
) -> None:
    """Run a pipeline over files.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name.
    input
        [TOPIC=]FILE: NDJSON, CSV or Parquet by its ending, - for NDJSON from standard input. Several files of one topic are its partitions.
    output
        Folder for <topic>.ndjson, <topic>.dead-letter.ndjson and ledger.json. Without it, rows go to standard output.
    output_format
        ndjson or parquet.
    set
        KEY=VALUE for a setting of the pipeline.
    engine
        embedded, the only one that runs in this version.
    """
    if engine != "embedded":
        raise PlanError(
            f"engine {engine!r} does not run pipelines in this version",
            where="--engine",
            fix="leave it out; `headrace plan APP --engine flink` prints the script",
        )
    _suit_batches()
    plan = plan_of(app, set or [])
    inputs = _inputs(plan, input or [])
    from headrace.engines.embedded.output import Printed
    from headrace.engines.embedded.run import run_files, run_to

    # What has been made up to here stays; the collector need not look at it again.
    gc.freeze()
    gc.enable()
    # Polars, once it is imported, has a read that waits begin again after Ctrl-C.
    signal.siginterrupt(signal.SIGINT, True)
    with _progress() as progress:
        if output is None:
            accounts = run_to(plan, inputs, Printed(sys.stdout.buffer), progress=progress)
        else:
            accounts = run_files(plan, inputs, output, progress=progress, output_format=output_format)
    sources = {topic: account.counts() for topic, account in accounts.items()}
    _remember(plan, sources)
    for topic, counts in sources.items():
        print(f"{topic}: {balance(counts)}", file=sys.stderr)


def _suit_batches() -> None:
    """Suit the process to work that is done in batches of a few MB, one after the other."""
    gc.disable()
    # A second thread of Polars costs more than it saves on such. Polars reads this when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    # Both would give each batch's memory back to the system and ask for it again, a tenth of the whole cost: Polars' own
    # allocator, which reads this when Polars is imported, and glibc.
    os.environ.setdefault("_RJEM_MALLOC_CONF", _JEMALLOC)
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def _inputs(plan: Plan, given: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files by topic, in the order they were given."""
    if not given:
        raise PlanError("no input", where="--input", fix="name a file: --input FILE, or - for standard input")
    topics = [source.topic for source in plan.sources]
    inputs: dict[str, list[Path]] = {}
    for one in given:
        topic, equals, file = one.partition("=")
        if not equals or (topic not in topics and Path(one).exists()):
            if len(topics) != 1:
                raise PlanError(f"{one!r} names no topic", where="--input", fix=f"write TOPIC={one}, TOPIC being one of {', '.join(topics)}")
            topic, file = topics[0], one
        if Path(file).is_dir():
            raise PlanError("is a folder", where=f"--input {file}", fix="name its files, each with --input of its own")
        inputs.setdefault(topic, []).append(Path(file))
    if [str(file) for files in inputs.values() for file in files].count("-") > 1:
        raise PlanError("standard input is named twice", where="--input", fix="it can be read once")
    return inputs


def balance(counts: Mapping[str, int]) -> str:
    """Return a ledger in one line: what was received, and what of it became what."""
    fates = " + ".join(f"{count:,} {name}" for name, count in counts.items() if name != "received" and (count or name == "accepted"))
    return f"{counts['received']:,} received = {fates}"


def _remember(plan: Plan, sources: Mapping[str, Mapping[str, int]]) -> None:
    """Keep the ledger of the pipeline's last run for `headrace ledger`."""
    folder = home() / "ledgers"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{plan.pipeline}.json").write_bytes(msgspec.json.encode({"pipeline": plan.pipeline, "sources": sources}))
    except OSError as error:
        print(f"headrace: {folder}: the ledger cannot be kept for `headrace ledger`: {error.strerror}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[..., None] | None]:
    """Show how far a run is while it lasts, if someone looks on."""
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
