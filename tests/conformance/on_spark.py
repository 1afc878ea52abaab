"""Spark under test: all jobs one after the other in one Spark context, those with restarts live on the topics of a Kafka."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import spark
from conformance import live
from conformance.engine import Job, Ledger, Outcome, laid, left, refused
from headrace.engines.entries import added_up, ledger_topic
from headrace.engines.options import Options
from headrace.engines.protocol import Context, FileJob, Result
from headrace.engines.spark import run as spark_run
from headrace.engines.spark.engine import SparkEngine
from headrace.engines.spark.environment import kafka_jars
from headrace.engines.spark.script import live_script, timed_sources
from headrace.errors import HeadraceError, PlanError
from headrace.plan.expression import Column, walk
from headrace.plan.graph import Node, rebuilt
from headrace.plan.operators import Operator, Source
from headrace.plan.pipeline import Plan
from headrace.plan.schema import TIMESTAMP

INTERPRETED = ("-Dspark.sql.codegen.wholeStage=false", "-Dspark.sql.codegen.factoryMode=NO_CODEGEN")
MASTER, SECONDS = "local[2]", 2400.0


class Spark:
    """A session of this machine, its plans as batch queries, or as streams that work off what there is from their checkpoint on."""

    name = "spark"

    def missing(self) -> str | None:
        if (why := spark.missing()) is not None:
            return why
        if not list(spark.FOLDER.glob("spark-*-kafka")):
            return "Spark's Kafka connector is not in build/engines; get it: python tests/spark.py --fetch"
        return live.missing()

    def run(self, jobs: Sequence[Job], *, interpreted: bool = False) -> list[Outcome]:
        with (
            TemporaryDirectory(ignore_cleanup_errors=True) as name,
            spark.java_options(*(INTERPRETED if interpreted else ())),
            spark.one_jvm(Path(name, "jvm"), SECONDS),
        ):
            folder = Path(name)
            bounded = [number for number, job in enumerate(jobs) if not job.restarts]
            given = [FileJob(jobs[one].plan, laid(jobs[one], folder / str(one) / "in"), folder / str(one)) for one in bounded]
            told = SparkEngine().run_files(given, Options(cluster=MASTER), Context(spark.HOME))
            outcomes = {number: _outcome(job, one) for number, job, one in zip(bounded, given, told, strict=True)}
            if len(outcomes) < len(jobs):
                with live.serving(folder / "kafka") as servers:
                    outcomes |= _restarted({number: job for number, job in enumerate(jobs) if job.restarts}, servers, folder)
        return [outcomes[number] for number in range(len(jobs))]


def _outcome(job: FileJob, told: Result | HeadraceError) -> Outcome:
    return refused(told) if isinstance(told, HeadraceError) else left(job.output, job.inputs)


# restarts


def _restarted(jobs: Mapping[int, Job], servers: str, folder: Path) -> dict[int, Outcome]:
    """Return what the jobs give as streams, each begun from its checkpoint for every part of its records.

    Last there comes a record to each source that closes what is open; what is written of that record itself is left out.
    """
    outcomes: dict[int, Outcome] = {}
    topics, streams = {}, {}
    for number, job in jobs.items():
        try:
            live_script(job.plan)  # refused by the names that its topics have in the case
        except PlanError as error:
            outcomes[number] = refused(error)
            continue
        script = live_script(_moved(job.plan, f"{number}."))
        topics[number] = live.Topics(servers, job, f"{number}.", ledger_topic(job.plan))
        processes = bool(job.plan.processes)
        options = [f"--kafka-servers={servers}", f"--checkpoint={folder}/{number}", "--trigger=available-now"]
        streams[number] = spark_run._Script(script, options, processes)
    closing = {number: list(_closing(one)) for number, one in topics.items()}
    # A record that closes comes with the last ones, unless rows are written as they come: its own could not be told from theirs.
    apart = {number: one for number, one in topics.items() if _plain(one)}
    failed: dict[int, HeadraceError] = {}
    for part in range(max((len(one.job.restarts) + 1 for one in topics.values()), default=0)):
        now = {number: one for number, one in topics.items() if part <= len(one.job.restarts)}
        ending = [number for number, one in now.items() if part == len(one.job.restarts) and number not in apart]
        records = [*(one.records(part) for one in now.values()), *(closing[number] for number in ending)]
        live.append(servers, chain.from_iterable(records))
        failed = _run({number: streams[number] for number in now}) | failed
    before = live.rows(servers, [topic for one in apart.values() for topic in _plain(one)])
    live.append(servers, chain.from_iterable(closing[number] for number in apart))
    failed = _run({number: streams[number] for number in apart if closing[number]}) | failed
    rows = live.rows(servers, [topic for one in topics.values() for topic in one.written])
    for number, one in topics.items():
        rows |= {topic: rows[topic][: len(before[topic])] for topic in _plain(one)}
        for topic in one.job.inputs:
            dead = f"{one.prefix}{topic}.dead-letter"
            rows[dead] = [letter | {"topic": topic} for letter in rows[dead]]
        outcomes[number] = refused(failed[number]) if number in failed else one.outcome(rows, _ledger(one, rows, closing[number]))
    return outcomes


def _plain(topics: live.Topics) -> list[str]:
    """Return the topics to which records go as they come."""
    return [topics.prefix + sink.operator.topic for sink in topics.job.plan.sinks if not sink.traits.derived]


def _ledger(topics: live.Topics, rows: Mapping[str, list[Any]], closing: Sequence[live.Record]) -> Ledger:
    """Return what the entries come to, less the records that closed what was open."""
    prefix, plan = topics.prefix, topics.job.plan
    counts = added_up(_moved(plan, prefix), rows[prefix + ledger_topic(plan)])
    closed = Counter(topic.removeprefix(prefix) for topic, _, _ in closing)
    return {topic: {**counts[prefix + topic], "received": (counts[prefix + topic]["received"] or 0) - closed[topic]} for topic in topics.job.inputs}


def _run(streams: Mapping[int, spark_run._Script]) -> dict[int, HeadraceError]:
    """Have streams work off what there is, one after the other in one session, and return the error of each that has one."""
    told = spark_run._submit([*streams.values()], MASTER, spark.HOME, kafka_jars(spark.HOME)) if streams else []
    return {number: one for number, one in zip(streams, told, strict=True) if isinstance(one, HeadraceError)}


def _closing(topics: live.Topics) -> Iterator[live.Record]:
    """Yield the last record of each source that has a watermark, as if it came now: all windows before are over.

    Behind a process it is the first that lets all records before it be handled: timers that are later stay silent, as at an end.
    """
    hosting = topics.job.plan.processes
    now = time.time()
    timed = timed_sources(topics.job.plan)
    for source in (node.operator for node in topics.job.plan.of(Source) if node in timed):
        assert source.event_time is not None
        (column,) = (node for node in walk(source.event_time) if isinstance(node, Column))
        rows = [json.loads(record) for partitions in topics.job.inputs[source.topic] for record in partitions]
        latest = max(rows, key=lambda row: row[column.name])
        at: Any = latest[column.name] + source.delay_ms + 1 if hosting else round(1000 * now)
        if column.type == TIMESTAMP:
            at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        yield topics.prefix + source.topic, 0, json.dumps(latest | {column.name: at}).encode()


def _moved(plan: Plan, prefix: str) -> Plan:
    """Return the plan with other topics and another name, which begin with `prefix`."""

    def moved(node: Node[Operator], _: object) -> Operator:
        topics = {name: topic for name in ("topic", "late_topic", "failed_topic") if (topic := getattr(node.operator, name, None))}
        changes: dict[str, Any] = {name: prefix + topic for name, topic in topics.items()}
        return replace(node.operator, **changes)

    return replace(plan, pipeline=prefix + plan.pipeline, nodes=rebuilt(plan.sinks, moved))
