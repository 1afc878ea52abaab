"""Flink under test: many jobs as one of a cluster that is started for them, those with restarts live on the topics of a Kafka."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from conformance import live
from conformance.engine import Job, Ledger, Outcome, laid, left, refused
from flink import BUILD, JAVA, UNSPLIT, client, missing, submitting, warm_client
from headrace.engines.entries import added_up, ledger_topic
from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.engine import FlinkEngine
from headrace.engines.flink.places import Kafka
from headrace.engines.flink.rest import JobFailed, Rest
from headrace.engines.flink.run import savepoint, submit, wait
from headrace.engines.flink.script import flink_script, flink_script_of_many
from headrace.engines.options import Options
from headrace.engines.protocol import Context, FileJob, Result
from headrace.errors import HeadraceError, PlanError

TOGETHER, PROCESSES_TOGETHER = 50, 20
SIZES = Sizes(planning=1536, heap=1536, managed=4096, network=512)


class Flink:
    """A cluster of one task manager. A job is a statement set of many plans."""

    name = "flink"

    def missing(self) -> str | None:
        return missing() or live.missing()

    def run(self, jobs: Sequence[Job], *, interpreted: bool = False) -> list[Outcome]:  # noqa: ARG002  (it cannot do without compiled code)
        outcomes: list[Outcome | None] = [None] * len(jobs)
        sound: list[int] = []
        for number, job in enumerate(jobs):
            try:
                if job.restarts:
                    flink_script(job.plan, _topics("nowhere:9", "", job))
                sound.append(number)
            except PlanError as error:
                outcomes[number] = Outcome({}, {}, {}, error)
        with ExitStack() as held:
            folder = Path(held.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
            cluster = held.enter_context(Cluster(folder / "cluster", fetched(BUILD, kafka=True), SIZES, JAVA, UNSPLIT))
            held.enter_context(warm_client(cache(lambda: Path(held.enter_context(submitting(folder / "client"))))))
            servers = held.enter_context(live.serving(folder / "kafka")) if any(jobs[one].restarts for one in sound) else ""
            for part in _parts(sound, jobs):
                for number, outcome in zip(part, _run(part, [jobs[one] for one in part], cluster.rest, servers, folder), strict=True):
                    outcomes[number] = outcome
        assert all(outcomes)
        return [one for one in outcomes if one]


def _parts(sound: list[int], jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Yield the numbers of jobs that run as one: those with processes run by themselves, and so do those of as many restarts."""
    kinds: dict[tuple[bool, int], list[int]] = defaultdict(list)
    for number in sound:
        hosting = bool(jobs[number].plan.processes)
        kinds[hosting, len(jobs[number].restarts)].append(number)
    for (hosting, _), numbers in kinds.items():
        together = PROCESSES_TOGETHER if hosting else TOGETHER
        yield from (numbers[first : first + together] for first in range(0, len(numbers), together))


def _run(numbers: Sequence[int], jobs: Sequence[Job], rest: Rest, servers: str, folder: Path) -> list[Outcome]:
    """Return what the jobs give as one. If that fails, those are sought that fail, and the others run."""
    given = [FileJob(job.plan, laid(job, folder / str(number) / "in"), folder / str(number)) for number, job in zip(numbers, jobs, strict=True)]
    if jobs[0].restarts:
        try:
            return _restarted(numbers, jobs, rest, servers, folder)
        except JobFailed as error:
            told: list[Result | HeadraceError] = [error] * len(jobs)
    else:
        told = FlinkEngine(client()).run_files(given, Options(cluster=rest.url), Context(BUILD))
    failed = [place for place, one in enumerate(told) if isinstance(one, JobFailed)]
    outcomes = [refused(one) if isinstance(one, HeadraceError) else left(job.output, job.inputs) for one, job in zip(told, given, strict=True)]
    if len(failed) > 1:
        half = len(failed) // 2
        for part in (failed[:half], failed[half:]):
            found = _run([numbers[place] for place in part], [jobs[place] for place in part], rest, servers, folder)
            outcomes = [found[part.index(place)] if place in part else one for place, one in enumerate(outcomes)]
    return outcomes


def _restarted(numbers: Sequence[int], jobs: Sequence[Job], rest: Rest, servers: str, folder: Path) -> list[Outcome]:
    """Return what the jobs give as one live one: stopped with a savepoint at each restart, begun again from there, and drained at the end."""
    topics = [live.Topics(servers, job, f"{number}x{len(jobs)}.", ledger_topic(job.plan)) for number, job in zip(numbers, jobs, strict=True)]
    script = flink_script_of_many([(one.job.plan, _topics(servers, one.prefix, one.job)) for one in topics], "restarted")
    made, last = None, len(jobs[0].restarts)
    for part in range(last + 1):
        for one in topics:
            one.feed(part)
        running = submit(rest, script, client=client(), savepoint=made)
        try:
            fed = sum(len(records) for one in topics for partitions in one.part(part).values() for records in partitions)
            live.wait_for(partial(_has_read, rest, running, fed), "read what was fed")
            if part == last:
                live.wait_for(partial(_are_counted, servers, topics), "counted what was fed")
            made = savepoint(rest, running, f"file://{folder}/savepoints", stop=True, drain=part == last)
            wait(rest, running)
        except JobFailed:
            with suppress(HeadraceError):
                rest.cancel(running)  # others need its place
            raise
    names = [topic for one in topics for topic in one.written]
    live.wait_for(lambda: live.are_settled(servers, names), "committed what was written")
    rows = live.rows(servers, names)
    return [one.outcome(rows, _ledger(one, rows)) for one in topics]


def _has_read(rest: Rest, job: str, count: int) -> bool:
    """Return whether all of a job runs, without which there is no savepoint, and its sources have read so many records since it was begun."""
    assert not rest.ended(job)
    read, vertices = 0, rest.job(job)["vertices"]
    for vertex in vertices:
        path = f"/jobs/{job}/vertices/{vertex['id']}/metrics"
        if named := [one["id"] for one in rest.ask(path) if re.fullmatch(r"\d+\.Source__.*\.numRecordsOut", one["id"])]:
            read += sum(int(one["value"]) for one in rest.ask(f"{path}?get={quote(','.join(named))}"))
    return read >= count and all(one["status"] == "RUNNING" for one in vertices)


def _topics(servers: str, prefix: str, job: Job) -> Kafka:
    partitions = {topic: len(records) for topic, records in job.inputs.items()}
    # A source that is idle sends no last watermark when it is drained.
    return Kafka(servers, job.plan.pipeline, partitions, prefix=prefix, max_ahead_ms=None, idle_after_ms=None, checkpoint_seconds=1)


def _ledger(topics: live.Topics, rows: Mapping[str, list[Any]]) -> Ledger:
    plan = topics.job.plan
    return {topic: dict(counts) for topic, counts in added_up(plan, rows[topics.prefix + ledger_topic(plan)]).items()}


def _are_counted(servers: str, topics: Sequence[live.Topics]) -> bool:
    """Return whether the ledgers, whose entries come with each checkpoint, tell of all records."""
    rows = live.rows(servers, [one.prefix + ledger_topic(one.job.plan) for one in topics])
    return all(
        _ledger(one, rows)[topic]["received"] == sum(map(len, partitions)) for one in topics for topic, partitions in one.job.inputs.items()
    )  # fmt: skip
