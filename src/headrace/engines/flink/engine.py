"""Flink behind the protocol of engines: on a cluster that is named, or one that is started for the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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
from headrace.errors import EnvironmentFault, HeadraceError, PlanError

if TYPE_CHECKING:
    from headrace.engines.entries import Ledger
    from headrace.engines.flink.client import Client
    from headrace.engines.flink.jobs import FlinkJobs
    from headrace.engines.flink.places import Kafka
    from headrace.engines.flink.rest import Rest
    from headrace.engines.folder_jobs import FolderJob
    from headrace.plan.pipeline import Plan

__all__ = ["PYTHON_VARIABLE", "FlinkEngine"]

PYTHON_VARIABLE = "HEADRACE_FLINK_PYTHON"
_LEAST_COMMIT_SECONDS = 1.0

_WHOLE = Refused("Flink runs over files to their end", "leave it out, or run on the embedded engine")
_OURS = "leave it out, or run on the embedded engine"
_OWN: dict[str, Support] = {
    "cluster": Honoured("the REST address, `http://HOST:8081`; else `FLINK_REST_URL`; else one is started on this machine"),
    "reset": Refused("Flink keeps a savepoint's state for what the job still has", _OURS),
    "parallelism": Honoured("subtasks of the job, 1 if it is not given; on topics, SQL has no more than the topic with the fewest partitions"),
}
_TOPICS: dict[str, Support] = {
    **_OWN,
    "kafka_servers": Honoured("needed: Flink cannot read the SQLite log"),
    "commit_every": Honoured("the time between checkpoints, at least 1 s"),
    "batch_records": Refused("Flink reads records one by one", _OURS),
    "metrics_port": Refused("Flink has metrics of its own: headrace jobs metrics shows them", _OURS),
    "records": Refused("Flink cannot stop after a number of records", "give --duration, or run on the embedded engine"),
    "from_savepoint": HONOURED,
    "from_": Honoured("headrace finds the offsets when it submits the job"),
}
_STOPPED: dict[str, Support] = {
    "duration": Honoured("a savepoint is made, from which the next run resumes"),
    "drain": HONOURED,
    "anew": HONOURED,
}
_LIVE: dict[str, Support] = {
    "idle_after": Honoured("the idle timeout of the sources"),
    "max_ahead": HONOURED,
    "close_quiet_after": Refused("Flink's windows close by event time alone", _OURS),
}
_GOES_ON = Refused("a job of the cluster runs until it is cancelled", "leave it out, and end the job with headrace jobs cancel")
_JOB: dict[str, Support] = {
    "cluster": Honoured("or `FLINK_REST_URL`; where neither is given, the job is a process of this machine"),
    "duration": _GOES_ON,
    "drain": Refused("a job of the cluster is ended by a command", "leave it out, and end the job with headrace jobs savepoint --stop"),
    "anew": Honoured("what a job does unless `--from-savepoint` is given"),
}
CAPABILITIES = Capabilities(
    {
        Mode.FILES: {
            **OVER_FILES,
            **_OWN,
            "output_format": Honoured("`ndjson` only"),
            "duration": _WHOLE,
            "records": _WHOLE,
            "drain": Refused("Flink closes all windows at the end of files, and fires no timer after it", _OURS),
            "anew": Refused("Flink runs over files from the first records each time"),
            "commit_every": Refused("Flink writes the files of a run at its end"),
            "from_savepoint": Refused("Flink runs over files from the first records each time"),
        },
        Mode.LIVE: {**ON_TOPICS, **_TOPICS, **_STOPPED, **_LIVE},
        Mode.LATEST: {**UP_TO_THE_END, **_TOPICS, **_STOPPED},
        Mode.JOB: {**ON_TOPICS, **_TOPICS, **_LIVE, **_JOB},
    },
    stops={Mode.FILES: "the job is cancelled, and nothing is written"}
    | dict.fromkeys((Mode.LIVE, Mode.LATEST), "the run makes a savepoint and ends"),
)


@dataclass(frozen=True)
class FlinkEngine:
    """Flink. `client` submits jobs with processes, if it is not to be the usual one of the cluster."""

    name: ClassVar[str] = "flink"
    capabilities: ClassVar[Capabilities] = CAPABILITIES
    client: Client | None = None

    def prepare(self) -> None:
        """Do nothing: the work is done in other processes."""

    def check(self, mode: Mode, options: Options) -> None:
        """Raise PlanError for another format than NDJSON, commits that checkpoints cannot make, and a start in two places."""
        if options.output_format != "ndjson":
            raise PlanError("Flink writes NDJSON only", where="--output-format", fix=_OURS)
        if mode is not Mode.FILES and (options.commit_every is None or options.commit_every < _LEAST_COMMIT_SECONDS):
            raise PlanError("Flink commits with checkpoints, at least 1 s apart", where="--commit-every", fix="give 1s or more")
        if options.anew and options.from_savepoint:
            raise PlanError("starts from the first records, and --from-savepoint elsewhere", where="--anew", fix="give one of them")
        check_begin(options)

    def script(self, plan: Plan) -> str:
        """Return the plan as Flink SQL, or as a Python file if it has processes."""
        from headrace.engines.flink.script import flink_script

        return flink_script(plan)

    def has_state(self, plan: Plan, home: Path) -> bool:
        """Return whether there are checkpoints or savepoints of the pipeline."""
        from headrace.engines.flink.kept import Kept

        return Kept.of(plan, home).folder.exists()

    def read_again(self, plan: Plan, topics: Topics, options: Options) -> Mapping[str, int]:  # noqa: ARG002
        """Return nothing: a savepoint of Flink's has no counts."""
        return {}

    def run_files(self, jobs: Sequence[FileJob], options: Options, context: Context) -> list[Result | HeadraceError]:
        """Run plans over files as one job of the cluster; if that fails, each of them has its error."""
        from headrace.engines.folder_jobs import in_folders, result_of

        told: list[Result | HeadraceError | None] = [_refused(job) for job in jobs]
        sound = [place for place, refused in enumerate(told) if refused is None]
        with in_folders([jobs[place] for place in sound], context.home) as placed:
            ledgers = self._ledgers(placed, options, context) if placed else []
            for place, one, ledger in zip(sound, placed, ledgers, strict=True):
                told[place] = ledger if isinstance(ledger, HeadraceError) else result_of(jobs[place], one, ledger)
        return [one for one in told if one is not None]

    def _ledgers(self, jobs: Sequence[FolderJob], options: Options, context: Context) -> Sequence[Ledger | HeadraceError]:
        from headrace.engines.flink.run import run_files, run_many

        parallelism = options.parallelism or 1
        try:
            _make_folders(jobs)
            with self._cluster([job.plan for job in jobs], options.cluster, parallelism, context.home) as (rest, client):
                if len(jobs) == 1:
                    return [run_files(jobs[0], rest, client=client, parallelism=parallelism, stop=context.stop)]
                return run_many(jobs, rest, client=client, parallelism=parallelism, stop=context.stop)
        except HeadraceError as error:
            return [error] * len(jobs)

    def run_topics(self, plan: Plan, topics: Topics, options: Options, context: Context) -> Result:
        """Run a plan on Kafka's topics. The result has what the topic of the ledger's entries comes to."""
        from headrace.engines.flink.kept import Kept
        from headrace.engines.flink.run import run_topics
        from headrace.engines.flink.script import flink_script
        from headrace.engines.ledger_topic import begin_ledger, ledger_on_topic

        places = kafka_places(plan, topics, options)
        flink_script(plan, places)  # what Flink cannot do is refused before anything starts
        kept = Kept.of(plan, context.home)
        with self._cluster([plan], options.cluster, places.parallelism, context.home, kafka=True) as (rest, client):
            rest.check_version()
            _make_written(plan, topics)
            if options.anew:
                kept.forget()
            if places.bounded or not (kept.folder.exists() or options.from_savepoint):
                begin_ledger(plan, topics, context.home)
            begin_at, seconds, drain = options.from_savepoint, options.duration, options.drain
            run_topics(plan, places, rest, kept.folder, client=client, begin_at=begin_at, seconds=seconds, drain=drain, stop=context.stop)
        return Result(ledger_on_topic(plan, topics, context.home))

    # jobs of the cluster

    def address(self, named: str | None) -> str | None:
        """Return the address that is named, here or in FLINK_REST_URL."""
        return named or os.environ.get("FLINK_REST_URL")

    def jobs(self, address: str) -> FlinkJobs:
        """Return the jobs of a cluster."""
        from headrace.engines.flink.jobs import FlinkJobs

        return FlinkJobs(address)

    def submit(self, plan: Plan, topics: Topics, options: Options, context: Context) -> str:
        """Start a plan on Kafka's topics as a job of the cluster, and return the job's id."""
        from headrace.engines.flink.rest import Rest
        from headrace.engines.flink.run import submit
        from headrace.engines.flink.script import flink_script
        from headrace.engines.ledger_topic import begin_ledger

        rest = Rest(self.address(options.cluster) or "")
        rest.version()
        script = flink_script(plan, kafka_places(plan, topics, options))
        rest.check_version()
        _make_written(plan, topics)
        if options.from_savepoint is None:
            begin_ledger(plan, topics, context.home)
        client = self.client or _named_client(context.home, kafka=True)
        return submit(rest, script, client=client, savepoint=options.from_savepoint)

    @contextmanager
    def _cluster(self, plans: Sequence[Plan], named: str | None, slots: int, home: Path, *, kafka: bool = False) -> Iterator[tuple[Rest, Client]]:
        """Yield the cluster that is named, or one of this machine that ends with the run; the logs of a failed one stay until the next."""
        from headrace.engines.flink.client import Client
        from headrace.engines.flink.cluster import Cluster, Sizes, fetched
        from headrace.engines.flink.rest import Rest
        from headrace.engines.working import working_folder

        if url := self.address(named):
            yield Rest(url), self.client or _named_client(home, kafka=kafka)
            return
        jars = fetched(home, kafka=kafka)
        hosting = any(plan.processes for plan in plans)
        client = Client.local(home, kafka=kafka) if hosting else Client(home, kafka)
        print(f"headrace: starting Flink on this machine, with {slots} slot{'s' if slots > 1 else ''}", file=sys.stderr)
        # A slot's managed memory is shared by its windows and its Python workers, and a window that gets none of it fails.
        sizes = Sizes(slots=slots, managed=256 * slots) if hosting else Sizes(slots=slots)
        with working_folder(home, "flink", failed_stays=True) as folder, Cluster(folder, jars, sizes) as cluster:
            yield cluster.rest, self.client or client


def kafka_places(plan: Plan, topics: Topics, options: Options) -> Kafka:
    """Return where the plan's topics are on Kafka.

    Raises
    ------
    PlanError
        If no Kafka is named, as Flink cannot read the SQLite log, or a topic that the plan reads is not there.
    """
    from headrace.engines.flink.places import SHADED, Kafka
    from headrace.engines.kafka import java_properties
    from headrace.topics.beginning import offsets_from

    if topics.kafka is None:
        raise PlanError("Flink reads topics of Kafka, and none is named", where="--kafka-servers", fix="name it, or give files with --input")
    connection = java_properties(topics.kafka, "Flink", shaded=SHADED)
    with closing(topics.open()) as log:
        partitions = {source.topic: len(log.topic(source.topic).partitions) for source in plan.sources}
        begins = offsets_from(log, partitions, options.from_) if options.from_ is not None else {}
    bounded = options.mode is Mode.LATEST
    assert options.commit_every is not None
    return Kafka(
        topics.kafka.servers,
        plan.pipeline,
        partitions,
        connection=connection,
        parallelism=options.parallelism or 1,
        bounded=bounded,
        max_ahead_ms=None if bounded else _ms(options.max_ahead),
        idle_after_ms=None if bounded else _ms(options.idle_after),
        prefix=topics.prefix,
        begins={topic: tuple(offsets) for topic, offsets in begins.items()},
        checkpoint_seconds=options.commit_every,
    )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _refused(job: FileJob) -> HeadraceError | None:
    """Return why Flink cannot run a job, before anything starts."""
    from headrace.engines.flink.run import check_inputs
    from headrace.engines.flink.script import flink_script

    try:
        check_inputs(job.plan, job.inputs)
        flink_script(job.plan)
    except HeadraceError as error:
        return error
    return None


def _make_folders(jobs: Sequence[FolderJob]) -> None:
    for job in jobs:
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(job.folder), fix="name another --output") from None


def _named_client(home: Path, *, kafka: bool) -> Client:
    from headrace.engines.flink.client import Client

    return Client(home, kafka, os.environ.get(PYTHON_VARIABLE))


def _make_written(plan: Plan, topics: Topics) -> None:
    """Make the topics that a plan writes, if they are not there."""
    from headrace.engines.entries import ledger_topic
    from headrace.topics.making import make_topics

    with closing(topics.open()) as log:
        make_topics(log, plan, ledger_topic(plan))
