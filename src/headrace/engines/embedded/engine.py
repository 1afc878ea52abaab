"""The embedded engine behind the protocol of engines."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from headrace.engines.embedded.tuning import collect_from_here, suit_batches
from headrace.engines.options import (
    HONOURED,
    ON_TOPICS,
    OVER_FILES,
    UP_TO_THE_END,
    Capabilities,
    Honoured,
    Mode,
    Options,
    Refused,
    Support,
    check_begin,
)
from headrace.engines.protocol import Context, FileJob, Result, Topics
from headrace.errors import HeadraceError, PlanError

if TYPE_CHECKING:
    from headrace.kernels.ledger import Account
    from headrace.plan.pipeline import Plan

__all__ = ["EmbeddedEngine"]

_OWN: dict[str, Support] = {
    "cluster": Refused("the embedded engine has no cluster", "add --engine flink or --engine spark"),
    "parallelism": Honoured("the most there may be; it has one"),
}
_LIMITS: dict[str, Support] = {"duration": HONOURED, "records": HONOURED, "drain": HONOURED}
_TOPICS: dict[str, Support] = {**_OWN, **_LIMITS, "anew": HONOURED, "commit_every": HONOURED, "batch_records": HONOURED, "metrics_port": HONOURED}
_TOPICS |= {"from_savepoint": Honoured("a file of `headrace savepoint`"), "reset": HONOURED, "from_": HONOURED}
_NO_STATE = Refused("a run over files starts from the first records, unless it was stopped", "remove .run in the folder of --output")
CAPABILITIES = Capabilities(
    {
        Mode.FILES: {
            **OVER_FILES,
            **_OWN,
            **_LIMITS,
            "output_format": Honoured("`parquet` needs `--output`"),
            **dict.fromkeys(("anew", "from_savepoint", "reset"), _NO_STATE),
            "commit_every": Refused("a run over files commits every 5 s"),
        },
        Mode.LIVE: {**ON_TOPICS, **_TOPICS, "idle_after": HONOURED, "close_quiet_after": HONOURED, "max_ahead": HONOURED},
        Mode.LATEST: {**UP_TO_THE_END, **_TOPICS},
    },
    stops=dict.fromkeys((Mode.LIVE, Mode.LATEST), "the run commits and ends"),
)


@dataclass(frozen=True)
class EmbeddedEngine:
    """headrace's own engine, in this process."""

    name: ClassVar[str] = "embedded"
    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def prepare(self) -> None:
        """Suit the process to work in batches."""
        suit_batches()

    def check(self, mode: Mode, options: Options) -> None:  # noqa: ARG002
        """Raise PlanError for a start in two places."""
        if options.anew and (options.from_savepoint or options.reset):
            other = "--from-savepoint" if options.from_savepoint else "--reset"
            raise PlanError(f"starts without any state, and {other} with some", where="--anew", fix="give one of them")
        check_begin(options)

    def script(self, plan: Plan) -> str:
        """Return the plan's operators, which this engine runs as they are."""
        return f"{plan}\n"

    def has_state(self, plan: Plan, home: Path) -> bool:  # noqa: ARG002  (it is in the log)
        """Return False: all state is in the log."""
        return False

    def read_again(self, plan: Plan, topics: Topics, options: Options) -> Mapping[str, int]:
        """Return how many records were read since the savepoint was taken."""
        from headrace.engines.embedded.savepoint import behind, read

        if options.from_savepoint is None:
            return {}
        savepoint = read(Path(options.from_savepoint), plan.pipeline)
        with closing(topics.open()) as log:
            return behind(log, savepoint)

    def run_files(self, jobs: Sequence[FileJob], options: Options, context: Context) -> list[Result | HeadraceError]:
        """Run plans over files, one after the other, and return for each its result, or why there is none."""
        told: list[Result | HeadraceError] = []
        for job in jobs:
            try:
                told.append(_run_files(job, options, context))
            except HeadraceError as error:
                told.append(error)
        return told

    def run_topics(self, plan: Plan, topics: Topics, options: Options, context: Context) -> Result:
        """Run a plan on topics of the SQLite log or of Kafka."""
        from headrace.engines.embedded.observed import run_observed

        collect_from_here()
        live, accounts = run_observed(plan, topics, options, context)
        return replace(_result(accounts), begun=live.begun)


def _run_files(job: FileJob, options: Options, context: Context) -> Result:
    from headrace.engines.embedded.output import Printed
    from headrace.engines.embedded.run import Limits, run_files, run_to

    limits = Limits(options.duration, options.records, options.drain)
    collect_from_here()
    if sys.platform != "win32":
        signal.siginterrupt(signal.SIGINT, True)  # Polars, once it is imported, has a read that waits begin again at Ctrl-C
    with context.progress() as progress:
        if isinstance(job.output, Path):
            if options.output_format == "parquet":
                for sink in job.plan.sinks:
                    sink.operator.refuse_spread()
            accounts = run_files(job.plan, job.inputs, job.output, progress=progress, output_format=options.output_format, limits=limits)
            return _result(accounts, stopped_in=job.output)
        if options.output_format != "ndjson":
            raise PlanError("rows on standard output are NDJSON", where="--output-format", fix="add --output DIR")
        return _result(run_to(job.plan, job.inputs, Printed(job.output), progress=progress, limits=limits))


def _result(accounts: Mapping[str, Account], stopped_in: Path | None = None) -> Result:
    ledger = {topic: account.counts() for topic, account in accounts.items()}
    note = ""
    if stopped_in is not None and (stopped_in / ".run").exists():
        note = f"stopped before the end of the input, windows left open; the same command resumes there, from {stopped_in}/.run"
    return Result(ledger, {topic: account.reasons for topic, account in accounts.items()}, note)
