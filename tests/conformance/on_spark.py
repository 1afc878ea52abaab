"""Spark under test: all jobs one after the other in one session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import spark
from conformance.engine import Job, Outcome
from headrace.engines.spark.run import Job as SparkJob
from headrace.engines.spark.run import run_many
from headrace.errors import HeadraceError, PlanError


class Spark:
    """A session of this machine, its plans as batch queries."""

    name, restarts = "spark", False

    def missing(self) -> str | None:
        return spark.missing()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        with TemporaryDirectory(ignore_cleanup_errors=True) as name:
            given = [_staged(job, Path(name) / str(number)) for number, job in enumerate(jobs)]
            told = run_many(given, master="local[2]", home=spark.HOME)
            return [_outcome(job, one) for job, one in zip(given, told, strict=True)]


def _staged(job: Job, folder: Path) -> SparkJob:
    (folder / "in").mkdir(parents=True)
    inputs = {}
    for topic, partitions in job.inputs.items():
        inputs[topic] = [folder / "in" / f"{topic}.{number}.ndjson" for number in range(len(partitions))]
        for path, records in zip(inputs[topic], partitions, strict=True):
            path.write_bytes(b"".join(record + b"\n" for record in records))
    return SparkJob(job.plan, inputs, folder)


def _outcome(job: SparkJob, told: object) -> Outcome:
    if isinstance(told, PlanError):
        return Outcome({}, {}, {}, told)
    if isinstance(told, HeadraceError):
        return Outcome({}, {}, {}, PlanError(f"failed: {told}"))
    rows = {path.name.removesuffix(".ndjson"): [json.loads(line) for line in path.read_bytes().splitlines()] for path in job.folder.glob("*.ndjson")}
    dead = {topic: rows.pop(f"{topic}.dead-letter") for topic in job.inputs}
    return Outcome(rows, dead, json.loads((job.folder / "ledger.json").read_bytes())["sources"])
