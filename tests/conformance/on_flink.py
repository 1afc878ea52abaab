"""Flink under test: all jobs as one job of a cluster that is started for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance.engine import Job, Outcome, laid, left
from flink import BUILD, JAVA, client, missing
from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.places import Staged
from headrace.engines.flink.rest import JobFailed
from headrace.engines.flink.run import FileJob, run_many
from headrace.engines.flink.script import flink_script
from headrace.errors import PlanError
from headrace.plan.operators import Process

TOGETHER, PROCESSES_TOGETHER = 100, 20


class Flink:
    """A cluster of one task manager. A job is a statement set of many plans."""

    name, restarts = "flink", False

    def missing(self) -> str | None:
        return missing()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(jobs)
        sound: list[int] = []
        for number, job in enumerate(jobs):
            try:
                flink_script(job.plan, Staged("/nowhere"))
                sound.append(number)
            except PlanError as error:
                outcomes[number] = Outcome({}, {}, {}, error)
        with TemporaryDirectory(ignore_cleanup_errors=True) as name, Cluster(Path(name) / "cluster", fetched(BUILD), SIZES, JAVA) as cluster:
            for part in _parts(sound, jobs):
                for number, outcome in zip(part, _run([_staged(jobs[one], Path(name) / str(one)) for one in part], cluster), strict=True):
                    outcomes[number] = outcome
        assert all(outcomes)
        return [one for one in outcomes if one]


def _parts(sound: list[int], jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Yield the numbers of jobs that run as one; those with processes run by themselves."""
    hosting = [number for number in sound if any(isinstance(one, Process) for one in jobs[number].plan.operators())]
    for numbers, together in (([one for one in sound if one not in hosting], TOGETHER), (hosting, PROCESSES_TOGETHER)):
        yield from (numbers[first : first + together] for first in range(0, len(numbers), together))


def _run(jobs: list[FileJob], cluster: Cluster) -> list[Outcome]:
    """Return what the jobs give as one. If Flink will not have them, those are sought of which it will not, and the others run."""
    try:
        run_many(jobs, cluster.rest, client=client())
    except JobFailed as error:
        if len(jobs) == 1:
            return [Outcome({}, {}, {}, PlanError(f"failed: {error}"))]
        half = len(jobs) // 2
        return [*_run(jobs[:half], cluster), *_run(jobs[half:], cluster)]
    return [left(job.folder, job.inputs) for job in jobs]


SIZES = Sizes(planning=1536, heap=1536, managed=4096, network=512)


def _staged(job: Job, folder: Path) -> FileJob:
    return FileJob(job.plan, laid(job, folder / "in"), folder)
