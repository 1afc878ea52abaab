"""`headrace run --engine spark`: over files, or on Kafka's topics."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace.cli.apps import home
from headrace.cli.logs import PREFIX_VARIABLE, kafka_servers, open_log
from headrace.cli.run import LiveOptions
from headrace.engines.spark.run import Ledger, run_files, run_latest, run_live
from headrace.errors import PlanError
from headrace.plan.operators import Aggregate
from headrace.plan.pipeline import Plan

__all__ = ["on_files", "on_topics"]


def on_files(
    plan: Plan,
    inputs: Mapping[str, Sequence[Path]],
    output: Path | None,
    *,
    cluster: str | None,
    parallelism: int,  # noqa: ARG001  (that of Spark is its master's: local[4])
    stop: Callable[[], bool],  # noqa: ARG001  (Spark ends with this process)
) -> Ledger:
    """Run a plan over files, and return the ledger. Without an output folder the rows go to standard output."""
    if output is not None:
        return run_files(plan, inputs, output, master=cluster, home=home())
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        ledger = run_files(plan, inputs, Path(folder), master=cluster, home=home())
        for topic in plan.topics:
            sys.stdout.buffer.write((Path(folder) / f"{topic}.ndjson").read_bytes())
        return ledger


def on_topics(plan: Plan, options: LiveOptions, *, cluster: str | None, stop: Callable[[], bool]) -> Ledger:  # noqa: ARG001  (as above)
    """Run a plan on Kafka's topics, and return the ledger, which a live run has none of."""
    _check(options)
    servers = kafka_servers(options.kafka_servers)
    if servers is None:
        raise PlanError("Spark reads topics of Kafka, and none is named", where="--kafka-servers", fix="name it, or give files with --input")
    _make_topics(plan, options.kafka_servers)
    if options.until == "latest":
        return run_latest(plan, servers, master=cluster, home=home())
    kept = home() / "spark" / plan.pipeline
    if options.anew:
        shutil.rmtree(kept, ignore_errors=True)
    every = options.seconds("commit_every")
    trigger = f"{round(1000 * every)} milliseconds" if every else "10 seconds"
    run_live(plan, servers, checkpoint=kept, trigger=trigger, master=cluster, home=home())
    return {}


def _check(options: LiveOptions) -> None:
    for name in ("records", "batch_records", "metrics_port", "duration", "from_savepoint", "drain"):
        if getattr(options, name):
            raise PlanError("is not for Spark", where=f"--{name.replace('_', '-')}", fix="leave it out, or run on the embedded engine")
    if os.environ.get(PREFIX_VARIABLE):
        raise PlanError("is not for Spark", where=PREFIX_VARIABLE, fix="unset it")


def _make_topics(plan: Plan, servers: str | None) -> None:
    """Make the topics that are written and not there, and see that those that are read are."""
    log = open_log(servers)
    try:
        for source in plan.sources:
            log.topic(source.topic)
        late = [one.late_topic for one in plan.operators() if isinstance(one, Aggregate) and one.late_topic]
        known = {topic.name for topic in log.topics()}
        for topic in [*plan.topics, *late, *(f"{source.topic}.dead-letter" for source in plan.sources)]:
            if topic not in known:
                log.create(topic)
    finally:
        log.close()
