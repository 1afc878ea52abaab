"""One protocol for engines: what each one can do, the script that it runs, and its runs over files and on topics.

An engine is a folder here with a module `engine.py`, and a line of `ENGINES`. Its module imports what it uses when it is called,
so that no command pays for an engine that it does not use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Protocol, runtime_checkable

from headrace.engines.options import refuse
from headrace.errors import PlanError, near

if TYPE_CHECKING:
    from headrace._metrics import Metrics
    from headrace.engines.entries import Ledger
    from headrace.engines.options import Capabilities, Mode, Options
    from headrace.errors import HeadraceError
    from headrace.kernels.ledger import Reasons
    from headrace.plan.pipeline import Plan
    from headrace.topics.cluster import Cluster
    from headrace.topics.protocol import Log

__all__ = ["ENGINES", "ClusterJob", "ClusterJobs", "Context", "Engine", "FileJob", "JobEngine", "Result", "Topics", "accept", "engine_named"]

ENGINES = {
    "embedded": "headrace.engines.embedded.engine:EmbeddedEngine",
    "flink": "headrace.engines.flink.engine:FlinkEngine",
    "spark": "headrace.engines.spark.engine:SparkEngine",
}


@dataclass(frozen=True)
class FileJob:
    """A plan over files.

    Attributes
    ----------
    inputs
        Files by topic; several files of one topic are its partitions.
    output
        The folder for outputs, dead letters and ledger, or a stream to which the output rows go.
    """

    plan: Plan
    inputs: Mapping[str, Sequence[Path]]
    output: Path | BinaryIO


@dataclass(frozen=True)
class Topics:
    """Where topics are.

    Attributes
    ----------
    kafka
        The Kafka cluster; None for the SQLite log.
    prefix
        What stands before the names that topics have there.
    open
        Opens the log that holds the topics.
    """

    kafka: Cluster | None
    prefix: str
    open: Callable[[], Log]


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes
    ----------
    ledger
        The ledger's counts, by topic that is read.
    reasons
        Why records were set aside, by topic; empty where that is known on another topic only.
    note
        A line for the user, or nothing.
    begun
        The offset of each partition at which the pipeline was begun, by topic, if that was asked for.
    """

    ledger: Ledger
    reasons: Mapping[str, Reasons] = field(default_factory=dict)
    note: str = ""
    begun: Mapping[str, Sequence[int]] = field(default_factory=dict)


def _serve_nowhere(_metrics: Metrics, port: int) -> None:
    raise PlanError("cannot be served here", where=f"metrics on port {port}", fix="use headrace run")


def _leave_nowhere(_metrics: Metrics) -> Callable[[bool], None]:
    return lambda _always: None


@dataclass(frozen=True)
class Context:
    """The environment of a run.

    Attributes
    ----------
    home
        HEADRACE_HOME: the folder of what lasts.
    stop
        Whether the run is asked to stop. Each call is also a sign of life.
    progress
        Gives, while the run lasts, a function that shows how far it is; or None.
    serve_metrics
        Serves metrics on a port.
    metrics_file
        Gives a function that writes metrics to a file now and then, or always if it is given True.
    """

    home: Path
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[], AbstractContextManager[Callable[[Any], None] | None]] = nullcontext
    serve_metrics: Callable[[Metrics, int], None] = _serve_nowhere
    metrics_file: Callable[[Metrics], Callable[[bool], None]] = _leave_nowhere


class Engine(Protocol):
    """Runs plans.

    `run_files` and `run_topics` take options that `accept` has accepted.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def prepare(self) -> None:
        """Suit the process to this engine, in a program that does nothing else. It is called before anything large is imported."""

    def check(self, mode: Mode, options: Options) -> None:
        """Raise PlanError if the engine honours an option, but not with this value. Nothing is looked up for it."""

    def script(self, plan: Plan) -> str:
        """Return the plan as the engine would run it, to be read.

        Raises
        ------
        PlanError
            If the engine cannot do what the plan says. It names what, and where.
        """

    def run_files(self, jobs: Sequence[FileJob], options: Options, context: Context) -> list[Result | HeadraceError]:
        """Run plans over files, and return for each its result, or why there is none."""

    def run_topics(self, plan: Plan, topics: Topics, options: Options, context: Context) -> Result:
        """Run a plan on topics until it is stopped, or up to their present end.

        Raises
        ------
        PlanError
            If the engine cannot do what the plan says, or a topic that the plan reads is not there.
        HeadraceError
            If the run fails.
        """

    def has_state(self, plan: Plan, home: Path) -> bool:
        """Return whether the engine keeps state of a plan's pipeline outside the log, which `anew` would forget."""

    def read_again(self, plan: Plan, topics: Topics, options: Options) -> Mapping[str, int]:
        """Return how many records of each topic a run from the savepoint in the options would read again, where that can be known.

        Raises
        ------
        HeadraceError
            If it is no savepoint of the plan's pipeline, or cannot be read.
        """


class ClusterJob(Protocol):
    """A job of a cluster."""

    id: str

    def status(self) -> dict[str, Any]:
        """Return what is known of the job, by name."""

    def logs(self) -> Iterator[str]:
        """Yield why the job has failed, each time that it has, the latest first."""

    def metrics(self) -> Iterator[str]:
        """Yield the job's figures as lines for Prometheus."""

    def cancel(self, seconds: float) -> str:
        """End the job, and return its state then.

        Raises
        ------
        EnvironmentFault
            If it has ended before, or does not end within so many seconds.
        """

    def savepoint(self, folder: str | None, *, stop: bool) -> str:
        """Make a savepoint, and return where it is; `stop` ends the job with it.

        Raises
        ------
        EnvironmentFault
            If the job has ended.
        """


class ClusterJobs(Protocol):
    """The jobs of a cluster."""

    def find(self, prefix: str) -> ClusterJob | None:
        """Return the one job whose id begins so, None if there is none.

        Raises
        ------
        PlanError
            If there are several.
        """

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the columns of a list of jobs, the oldest job first."""


@runtime_checkable
class JobEngine(Engine, Protocol):
    """An engine whose clusters run jobs of their own, which go on when headrace has ended: it has `Mode.JOB`."""

    def address(self, named: str | None) -> str | None:
        """Return the address of the cluster that is named, here or in the environment; None where none is."""

    def jobs(self, address: str) -> ClusterJobs:
        """Return the jobs of a cluster.

        Raises
        ------
        EnvironmentFault
            If none answers at the address.
        """

    def submit(self, plan: Plan, topics: Topics, options: Options, context: Context) -> str:
        """Start a plan on topics as a job of the cluster that is named, and return the job's id."""


def accept(engine: Engine, mode: Mode, given: Iterable[str], options: Options) -> None:
    """Raise PlanError unless an engine honours all options that were given, with their values. A default is never refused.

    Parameters
    ----------
    given
        The names of the options that were given.
    options
        All options, parsed.
    """
    refuse(engine.capabilities.options[mode], given)
    engine.check(mode, options)


def engine_named(name: str) -> Engine:
    """Return an engine, having imported its module and no other engine's.

    Raises
    ------
    PlanError
        If there is none of that name.
    """
    if name not in ENGINES:
        raise PlanError(f"unknown engine {name!r}", where="--engine", fix=near(name, ENGINES))
    module, _, kind = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), kind)()
    return engine
