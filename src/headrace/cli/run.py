"""`headrace run`: a pipeline over files, or on topics."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.apps import home, plan_of
from headrace.cli.logs import asked_topics
from headrace.cli.metrics import metrics_file, serve_metrics
from headrace.cli.options import RunOptions
from headrace.cli.paths import OutputPath, inputs_of
from headrace.cli.report import progress, report
from headrace.cli.saver import is_saver, run_saver
from headrace.cli.stopping import asked_to_stop
from headrace.engines.options import Mode
from headrace.engines.protocol import Context, Engine, FileJob, accept, engine_named
from headrace.errors import PlanError
from headrace.plan.cache import caching_in
from headrace.plan.pipeline import Plan

__all__ = ["confirm_start", "run"]


def run(
    app: str,
    /,
    *,
    input: Annotated[list[str] | None, Parameter(name="--input", negative=(), allow_leading_hyphen=True)] = None,
    output: Annotated[OutputPath | None, Parameter(name="--output")] = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    allow_nothing_accepted: Annotated[bool, Parameter(negative=())] = False,
    engine: str = "embedded",
    options: RunOptions = RunOptions(),
) -> None:
    """Run a pipeline over files, or live on topics where no --input is given.

    An option that the engine cannot honour is refused: docs/reference/options.md shows which engine takes which.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name.
    input
        [TOPIC=]FILE …: NDJSON, CSV or Parquet by its ending, - for NDJSON from standard input. Several files of one topic are its
        partitions. Files after the first belong to the same topic: --input *.csv, or --input TOPIC= *.csv.
    output
        Folder for <topic>.ndjson, <topic>.dead-letter.ndjson and ledger.json. Without it, rows go to standard output. A live run
        writes to topics instead.
    allow_nothing_accepted
        End with status 0 even if every record was set aside as malformed; else the status is then 1. A live run warns.
    set
        KEY=VALUE for a setting of the pipeline.
    engine
        embedded; or flink or spark, on a cluster.
    """
    if is_saver(app):
        run_saver(output, options, given={"--input": input, "--set": set, "--engine": engine != "embedded"})
        return
    chosen = engine_named(engine)
    mode = Mode.FILES if input else options.parsed.mode
    if mode is not Mode.FILES and output is not None:
        raise PlanError("no input", where="--input", fix="name a file: --input FILE; a live run writes to topics and takes no --output")
    accept(chosen, mode, options.given, options.parsed)
    chosen.prepare()
    stop = asked_to_stop() if mode in chosen.capabilities.stops else _never
    context = Context(home(), stop, progress, serve_metrics, metrics_file)
    with caching_in(home() / "expressions.cache"):
        plan = plan_of(app, set or [])
    if input:
        _over_files(chosen, plan, input, output, options, context, allow_nothing=allow_nothing_accepted)
    else:
        _on_topics(chosen, plan, options, context, allow_nothing=allow_nothing_accepted)


def _over_files(
    engine: Engine, plan: Plan, given: Sequence[str], output: Path | None, options: RunOptions, context: Context, *, allow_nothing: bool
) -> None:
    job = FileJob(plan, inputs_of(plan, given), sys.stdout.buffer if output is None else output)
    (result,) = engine.run_files([job], options.parsed, context)
    if isinstance(result, Exception):
        raise result
    report(plan, result, allow_nothing=allow_nothing)


def _on_topics(engine: Engine, plan: Plan, options: RunOptions, context: Context, *, allow_nothing: bool) -> None:
    confirm_start(engine, plan, options)
    result = engine.run_topics(plan, asked_topics(options), options.parsed, context)
    report(plan, result, allow_nothing=allow_nothing or options.until is None)


def confirm_start(engine: Engine, plan: Plan, options: RunOptions) -> None:
    """Continue only if the user agrees that results are written again, where the options of the start have that effect."""
    if options.anew:
        from headrace.cli.anew import confirm_pipeline

        confirm_pipeline(plan, options, yes=options.yes, kept=engine.has_state(plan, home()), begin=options.parsed.from_)
    elif options.from_savepoint:
        from headrace.cli.anew import confirm_savepoint

        confirm_savepoint(plan, engine.read_again(plan, asked_topics(options), options.parsed), yes=options.yes)


def _never() -> bool:
    return False
