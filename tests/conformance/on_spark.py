"""Spark under test: all jobs one after the other in one session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import spark
from conformance.engine import Job, Outcome, laid, left
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
            given = [SparkJob(job.plan, laid(job, (folder := Path(name) / str(number)) / "in"), folder) for number, job in enumerate(jobs)]
            told = run_many(given, master="local[2]", home=spark.HOME)
            return [_outcome(job, one) for job, one in zip(given, told, strict=True)]


def _outcome(job: SparkJob, told: object) -> Outcome:
    if isinstance(told, PlanError):
        return Outcome({}, {}, {}, told)
    if isinstance(told, HeadraceError):
        return Outcome({}, {}, {}, PlanError(f"failed: {told}"))
    return left(job.folder, job.inputs)
