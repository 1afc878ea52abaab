"""`headrace run --engine spark`: over files, or on Kafka's topics."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from headrace.cli.apps import home
from headrace.cli.entries import begin_ledger, ledger_on_topic
from headrace.cli.logs import PREFIX_VARIABLE, asked_cluster, open_log
from headrace.cli.run import LiveOptions
from headrace.engines.entries import Ledger, ledger_topic
from headrace.engines.kafka import java_properties
from headrace.engines.spark.environment import checked_master, kafka_jars
from headrace.engines.spark.run import run_files, run_latest, run_live
from headrace.engines.spark.script import live_script, spark_script
from headrace.errors import PlanError
from headrace.plan.pipeline import Plan
from headrace.topics.making import make_topics

__all__ = ["on_files", "on_topics"]


def on_files(
    plan: Plan,
    inputs: Mapping[str, Sequence[Path]],
    folder: Path,
    *,
    cluster: str | None,
    parallelism: int,  # noqa: ARG001  (that of Spark is its master's: local[4])
    stop: Callable[[], bool],
) -> Ledger:
    """Run a plan over files, leave what it gives in a folder, and return the ledger."""
    return run_files(plan, inputs, folder, master=cluster, home=home(), stop=stop)


def on_topics(plan: Plan, options: LiveOptions, *, cluster: str | None, stop: Callable[[], bool]) -> Ledger:
    """Run a plan on Kafka's topics until `stop` says so, or up to their present end, and return the ledger: of a live run what its topic has come to."""
    options.refuse("Spark", "records", "batch_records", "metrics_port", "from_savepoint", "drain")
    if os.environ.get(PREFIX_VARIABLE):
        raise PlanError("is not for Spark", where=PREFIX_VARIABLE, fix="unset it")
    kafka = asked_cluster(options)
    if kafka is None:
        raise PlanError("Spark reads topics of Kafka, and none is named", where="--kafka-servers", fix="name it, or give files with --input")
    bounded = options.until == "latest"
    # What Spark cannot do, and what it lacks, is told before anything is made.
    _ = spark_script(plan) if bounded else live_script(plan)
    checked_master(cluster)
    kafka_jars(home())
    connection = java_properties(kafka, "Spark")
    with closing(open_log(kafka)) as log:
        make_topics(log, plan, *([] if bounded else [ledger_topic(plan)]))
    seconds = options.seconds("duration")
    ends_at = None if seconds is None else time.monotonic() + seconds

    def done() -> bool:
        return stop() or (ends_at is not None and time.monotonic() >= ends_at)

    if bounded:
        return run_latest(plan, kafka.servers, connection=connection, master=cluster, home=home(), stop=done)
    kept = home() / "spark" / plan.pipeline
    if options.anew or not kept.exists():
        begin_ledger(plan, options)
        shutil.rmtree(kept, ignore_errors=True)
    every = options.seconds("commit_every")
    trigger = f"{round(1000 * every)} milliseconds" if every else "10 seconds"
    run_live(plan, kafka.servers, checkpoint=kept, trigger=trigger, connection=connection, master=cluster, home=home(), stop=done)
    return ledger_on_topic(plan, options)
