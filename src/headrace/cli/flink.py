"""`headrace run --engine flink`: over files or on Kafka's topics, on a cluster that is named or one that is started for the run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from headrace.cli.apps import home
from headrace.cli.entries import begin_ledger, ledger_on_topic
from headrace.cli.logs import PREFIX_VARIABLE, asked_cluster, open_log
from headrace.cli.run import LiveOptions, flink_url
from headrace.engines.entries import Ledger, ledger_topic
from headrace.engines.flink.client import Client
from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.places import SHADED, Kafka
from headrace.engines.flink.rest import Rest
from headrace.engines.flink.run import FileJob, check_inputs, run_files, run_topics
from headrace.engines.flink.script import flink_script
from headrace.engines.kafka import java_properties
from headrace.engines.working import working_folder
from headrace.errors import EnvironmentFault, PlanError
from headrace.plan.pipeline import Plan
from headrace.topics.making import make_topics

__all__ = ["kafka_places", "make_written", "named_client", "on_files", "on_topics"]

PYTHON_VARIABLE = "HEADRACE_FLINK_PYTHON"


def named_client(*, kafka: bool) -> Client:
    """Return the client of a cluster that is named."""
    return Client(home(), kafka, os.environ.get(PYTHON_VARIABLE))


@contextmanager
def _cluster(plan: Plan, named: str | None, slots: int, *, kafka: bool = False) -> Iterator[tuple[Rest, Client]]:
    """Give the cluster that is named, or one of this machine that ends with the run; what a failed one has logged stays until the next."""
    url = flink_url(named)
    if url:
        yield Rest(url), named_client(kafka=kafka)
        return
    jars = fetched(home(), kafka=kafka)
    hosting = bool(plan.processes)
    client = Client.local(home(), kafka=kafka) if hosting else Client(home(), kafka)
    print(f"headrace: starting Flink on this machine, with {slots} slot{'s' if slots > 1 else ''}", file=sys.stderr)
    # A slot's managed memory is shared by its windows and its Python workers, and a window that gets none of it fails.
    sizes = Sizes(slots=slots, managed=256 * slots) if hosting else Sizes(slots=slots)
    with working_folder(home(), "flink", failed_stays=True) as folder, Cluster(folder, jars, sizes) as cluster:
        yield cluster.rest, client


def on_files(
    plan: Plan, inputs: Mapping[str, Sequence[Path]], folder: Path, *, cluster: str | None, parallelism: int, stop: Callable[[], bool]
) -> Ledger:
    """Run a plan over files, leave what it gives in a folder, and return the ledger."""
    check_inputs(plan, inputs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(folder), fix="name another --output") from None
    with _cluster(plan, cluster, parallelism) as (rest, client):
        return run_files(FileJob(plan, inputs, folder), rest, client=client, parallelism=parallelism, stop=stop)


def on_topics(plan: Plan, options: LiveOptions, *, cluster: str | None, stop: Callable[[], bool]) -> Ledger:
    """Run a plan on Kafka's topics until `stop` says so, or up to their present end, and return what its ledger's topic has come to."""
    options.refuse("Flink", "records", "batch_records", "metrics_port")
    places = kafka_places(plan, options)
    flink_script(plan, places)  # what Flink cannot do is refused before anything starts
    kept = (home() / "flink" / plan.pipeline).absolute()
    with _cluster(plan, cluster, places.parallelism, kafka=True) as (rest, client):
        rest.check_version()
        make_written(plan, options)
        if options.anew:
            with suppress(FileNotFoundError):
                shutil.rmtree(kept)
        if places.bounded or not (kept.exists() or options.from_savepoint):
            begin_ledger(plan, options)
        seconds = options.seconds("duration")
        run_topics(plan, places, rest, kept, client=client, begin_at=options.from_savepoint, seconds=seconds, drain=options.drain, stop=stop)
    return ledger_on_topic(plan, options)


def make_written(plan: Plan, options: LiveOptions) -> None:
    """Make the topics that a plan writes, if they are not there."""
    with closing(open_log(options)) as log:
        make_topics(log, plan, ledger_topic(plan))


def kafka_places(plan: Plan, options: LiveOptions) -> Kafka:
    """Return where the plan's topics are on Kafka.

    Raises
    ------
    PlanError
        If no Kafka is named, as Flink cannot read the embedded log, or a topic that the plan reads is not there.
    """
    kafka = asked_cluster(options)
    if kafka is None:
        raise PlanError("Flink reads topics of Kafka, and none is named", where="--kafka-servers", fix="name it, or give files with --input")
    connection = java_properties(kafka, "Flink", shaded=SHADED)
    with closing(open_log(kafka)) as log:
        partitions = {source.topic: len(log.topic(source.topic).partitions) for source in plan.sources}
    return Kafka(
        kafka.servers,
        plan.pipeline,
        partitions,
        connection=connection,
        parallelism=options.parallelism or 1,
        bounded=options.until == "latest",
        max_ahead_ms=options.ms("max_ahead"),
        idle_after_ms=options.ms("idle_after"),
        prefix=os.environ.get(PREFIX_VARIABLE, ""),
        checkpoint_seconds=max(options.seconds("commit_every") or 10.0, 1.0),
    )
