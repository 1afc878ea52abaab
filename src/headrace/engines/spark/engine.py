"""Spark behind the protocol of engines: files and the present content of topics as a batch, live topics as streams."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from headrace.engines.options import HONOURED, ON_TOPICS, OVER_FILES, UP_TO_THE_END, Capabilities, Honoured, Mode, Options, Refused, Support
from headrace.engines.protocol import Context, FileJob, Result, Topics
from headrace.errors import HeadraceError, PlanError

if TYPE_CHECKING:
    from headrace.plan.pipeline import Plan

__all__ = ["SparkEngine"]

_OURS = "leave it out, or run on the embedded engine"
_WHOLE = Refused("Spark runs over files to their end", _OURS)
_BATCH = Refused("Spark reads what the topics hold as one batch, which has no results before its end", "leave it out, or leave out --until")
_ONE_HOUR = Refused("Spark sets records aside that are more than 1 h ahead of their arrival, whatever is asked", _OURS)
_OWN: dict[str, Support] = {
    "cluster": Honoured("the master, `spark://HOST:7077`, `yarn`, `k8s://URL`; else `SPARK_MASTER`; else this machine with all its cores"),
    "parallelism": Honoured("`local[N]` on this machine; refused where a master is named, which has its own"),
    "from_savepoint": Refused("Spark has no savepoints", _OURS),
    "from_": Refused("a query of Spark begins at the first records of its topics", _OURS),
    "reset": Refused("Spark cannot start one query of a checkpoint without its state", _OURS),
}
_TOPICS: dict[str, Support] = {
    **_OWN,
    "kafka_servers": Honoured("needed: Spark cannot read the SQLite log"),
    "records": Refused("Spark cannot stop after a number of records", _OURS),
    "batch_records": Refused("Spark reads in each micro-batch what there is", _OURS),
    "metrics_port": Refused("Spark has metrics of its own", _OURS),
}
CAPABILITIES = Capabilities(
    {
        Mode.FILES: {
            **OVER_FILES,
            **_OWN,
            "output_format": Honoured("`ndjson` only"),
            "duration": _WHOLE,
            "records": _WHOLE,
            "drain": Refused("Spark closes all windows at the end of files, and fires no timer after it", _OURS),
            "anew": Refused("Spark runs over files from the first records each time"),
            "commit_every": Refused("Spark writes the files of a run at its end"),
        },
        Mode.LIVE: {
            **ON_TOPICS,
            **_TOPICS,
            "duration": HONOURED,
            "drain": Refused("Spark's streams cannot close their open windows at a stop", _OURS),
            "anew": HONOURED,
            "commit_every": Honoured("the time between micro-batches"),
            "idle_after": Refused("Spark has no idle partitions: its watermark follows the greatest event time of a topic", _OURS),
            "close_quiet_after": Refused("Spark's windows close by event time alone", _OURS),
            "max_ahead": _ONE_HOUR,
        },
        Mode.LATEST: {
            **UP_TO_THE_END,
            **_TOPICS,
            "duration": _BATCH,
            "drain": Refused("a batch closes all windows at its end", "leave it out"),
            "anew": Refused("Spark reads what the topics hold from the first records each time"),
            "commit_every": _BATCH,
            "max_ahead": _ONE_HOUR,
        },
    },
    stops={Mode.LIVE: "the run ends between two micro-batches"}
    | dict.fromkeys((Mode.FILES, Mode.LATEST), "the batch is ended, and nothing is written"),
)


@dataclass(frozen=True)
class SparkEngine:
    """Spark, on this machine or on a master that is named."""

    name: ClassVar[str] = "spark"
    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def prepare(self) -> None:
        """Do nothing: the work is done in other processes."""

    def check(self, mode: Mode, options: Options) -> None:
        """Raise PlanError for another format than NDJSON, micro-batches that never come, and cores for a master that has its own."""
        if options.output_format != "ndjson":
            raise PlanError("Spark writes NDJSON only", where="--output-format", fix=_OURS)
        if mode is Mode.LIVE and options.commit_every is None:
            raise PlanError("Spark commits with each micro-batch", where="--commit-every", fix="give a duration, as 10s")
        if options.parallelism is not None and (options.cluster or os.environ.get("SPARK_MASTER")):
            fix = f"leave it out, or name the master local[{options.parallelism}]"
            raise PlanError("the master that is named has its own", where="--parallelism", fix=fix)

    def script(self, plan: Plan) -> str:
        """Return the plan as a Python file for spark-submit."""
        from headrace.engines.spark.script import spark_script

        return spark_script(plan)

    def has_state(self, plan: Plan, home: Path) -> bool:
        """Return whether there are checkpoints of the pipeline."""
        return _kept(plan, home).exists()

    def read_again(self, plan: Plan, topics: Topics, options: Options) -> Mapping[str, int]:  # noqa: ARG002
        """Return nothing: there are no savepoints."""
        return {}

    def run_files(self, jobs: Sequence[FileJob], options: Options, context: Context) -> list[Result | HeadraceError]:
        """Run plans over files, one after the other in one session, and return for each its result, or why there is none."""
        from headrace.engines.folder_jobs import in_folders, result_of
        from headrace.engines.spark.run import run_many

        with in_folders(jobs, context.home) as placed:
            ledgers = run_many(placed, master=_master(options), home=context.home, stop=context.stop)
            made = zip(jobs, placed, ledgers, strict=True)
            return [ledger if isinstance(ledger, HeadraceError) else result_of(job, one, ledger) for job, one, ledger in made]

    def run_topics(self, plan: Plan, topics: Topics, options: Options, context: Context) -> Result:
        """Run a plan on Kafka's topics. The result of a live run has what the topic of the ledger's entries comes to."""
        from headrace.engines.kafka import java_properties
        from headrace.engines.spark.environment import checked_master, kafka_jars
        from headrace.engines.spark.run import run_latest
        from headrace.engines.spark.script import live_script, spark_script

        if topics.prefix:
            raise PlanError("is not for Spark", where="HEADRACE_TOPIC_PREFIX", fix="unset it")
        if topics.kafka is None:
            raise PlanError("Spark reads topics of Kafka, and none is named", where="--kafka-servers", fix="name it, or give files with --input")
        latest, master = options.mode is Mode.LATEST, _master(options)
        # What Spark cannot do, and what it lacks, is told before anything is made.
        _ = spark_script(plan) if latest else live_script(plan)
        checked_master(master)
        kafka_jars(context.home)
        connection = java_properties(topics.kafka, "Spark")
        if latest:
            _make_written(plan, topics)
            servers = topics.kafka.servers
            return Result(run_latest(plan, servers, connection=connection, master=master, home=context.home, stop=context.stop))
        return self._run_live(plan, topics, options, context, connection)

    def _run_live(self, plan: Plan, topics: Topics, options: Options, context: Context, connection: dict[str, str]) -> Result:
        from headrace.engines.entries import ledger_topic
        from headrace.engines.ledger_topic import begin_ledger, ledger_on_topic
        from headrace.engines.spark.run import run_live

        assert topics.kafka is not None
        assert options.commit_every is not None
        _make_written(plan, topics, ledger_topic(plan))
        kept = _kept(plan, context.home)
        if options.anew or not kept.exists():
            begin_ledger(plan, topics, context.home)
            shutil.rmtree(kept, ignore_errors=True)
        run_live(
            plan,
            topics.kafka.servers,
            checkpoint=kept,
            trigger=f"{round(1000 * options.commit_every)} milliseconds",
            connection=connection,
            master=_master(options),
            home=context.home,
            stop=_until(options.duration, context.stop),
        )
        return Result(ledger_on_topic(plan, topics, context.home))


def _master(options: Options) -> str | None:
    """Return the master that is named, or this machine with as many cores as are asked for; None leaves it to Spark's environment."""
    return options.cluster if options.parallelism is None else f"local[{options.parallelism}]"


def _until(seconds: float | None, stop: Callable[[], bool]) -> Callable[[], bool]:
    """Return a function that says whether to stop: now, or since so many seconds have passed."""
    if seconds is None:
        return stop
    ends_at = time.monotonic() + seconds
    return lambda: stop() or time.monotonic() >= ends_at


def _kept(plan: Plan, home: Path) -> Path:
    return home / "spark" / plan.pipeline


def _make_written(plan: Plan, topics: Topics, *own: str) -> None:
    """Make the topics that a plan writes, if they are not there."""
    from headrace.topics.making import make_topics

    with closing(topics.open()) as log:
        make_topics(log, plan, *own)
