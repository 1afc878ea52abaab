"""`headrace jobs`: runs that go on by themselves, and what became of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
from cyclopts import Parameter

from headrace.cli import app as commands
from headrace.cli.apps import find_pipeline, home, plan_of
from headrace.cli.logs import asked_topics
from headrace.cli.options import RunOptions
from headrace.cli.paths import GROUP, grouped_inputs
from headrace.cli.proven import check_proven
from headrace.cli.run import confirm_start
from headrace.cli.saver import is_saver
from headrace.cli.tables import print_json, print_table
from headrace.cli.values import duration_ms
from headrace.engines.embedded.jobs import Job, State, find, jobs_in
from headrace.engines.embedded.jobs import submit as start
from headrace.engines.options import Mode
from headrace.engines.protocol import ENGINES, ClusterJob, ClusterJobs, Context, JobEngine, accept, engine_named
from headrace.errors import EnvironmentFault, HeadraceError, PlanError

__all__ = ["cancel", "list_jobs", "logs", "metrics", "savepoint", "status", "submit"]

_COLUMNS = ("id", "name", "app", "state", "started", "ended")
_BLOCK = 1 << 16
_FOLLOW_SECONDS = 0.2


def submit(
    app: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *options: Annotated[str, Parameter(allow_leading_hyphen=True)],
    name: str | None = None,
    unproven: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Start `headrace run` as a job of its own, and print the job's id.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name.
    options
        Any options of `headrace run`, after APP. With --engine flink and a cluster named, the job is the cluster's.
    name
        A name to know the job by; else the pipeline's, which that of a cluster always has.
    unproven
        Run the pipeline although its recorded backtest breaks the alarm budget. This is recorded.
    """
    arguments = [app, *(part for option in options for part in option.split(GROUP))]
    pipeline, on_cluster, confirm = _sound(arguments, unproven=unproven)
    if on_cluster and name is not None:
        raise PlanError("a job of the cluster has the name of its pipeline", where="--name", fix="leave it out")
    if confirm is not None:
        confirm()
        arguments.append("--yes")
    if on_cluster:
        print(on_cluster())
        return
    # -P: a file of the working folder must not get in the way of a module of its name.
    headrace = [sys.executable, "-P", "-m", "headrace"]
    title = " ".join((name or "").split()) or pipeline
    print(start(_folder(), [*headrace, "run", *arguments], name=title, app=app, arguments=arguments).id)


def list_jobs(
    *,
    running: Annotated[bool, Parameter(alias="-r", negative=())] = False,
    all: Annotated[bool, Parameter(name="--all", alias="-a", negative=())] = False,  # noqa: A002
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    cluster: str | None = None,
) -> None:
    """Show the jobs, the oldest first, and whether they run.

    Parameters
    ----------
    running
        Only those that run.
    all
        All, which is the default.
    json
        A JSON object a line instead of a table.
    cluster
        The REST address of a Flink cluster, whose jobs are shown too; else FLINK_REST_URL.
    """
    theirs = _cluster(cluster)
    ours = (row for job in jobs_in(_folder()) for row in _row(job))
    rows = [row for row in chain(theirs.rows() if theirs else (), ours) if all or not running or row["state"] == State.RUNNING]
    if not rows:
        print(f"headrace: no {'running jobs' if running else 'jobs'} in {_folder().absolute()}", file=sys.stderr)
    if json:
        print_json(rows)
    else:
        print_table([column.upper() for column in _COLUMNS], [[row.get(column) or "-" for column in _COLUMNS] for row in rows])


def status(job: str, /, *, cluster: str | None = None) -> None:
    """Show a job: what was submitted, its state, and how it ended.

    Parameters
    ----------
    job
        The job's id, or how it begins.
    cluster
        The REST address of a Flink cluster, if the job is one of its; else FLINK_REST_URL.
    """
    if (theirs := _on_cluster(cluster, job)) is not None:
        for key, value in theirs.status().items():
            if value is not None:
                print(f"{key:<10} {value}")
        return
    found = find(_folder(), job)
    row = _described(found)
    row["arguments"] = " ".join(row["arguments"])
    row["exit"] = _exit(row)
    row["log"] = str(found.log)
    for key in (
        "id",
        "name",
        "app",
        "state",
        "exit",
        "arguments",
        "engine",
        "submitted",
        "started",
        "ended",
        "pid",
        "runner",
        "folder",
        "version",
        "log",
    ):
        if row.get(key) is not None:
            print(f"{key:<10} {row[key]}")


def logs(
    job: str,
    /,
    *,
    follow: Annotated[bool, Parameter(alias="-f", negative=())] = False,
    lines: int | None = None,
    cluster: str | None = None,
) -> None:
    """Show what a job has printed; of a cluster's, why it failed each time it has.

    Parameters
    ----------
    job
        The job's id, or how it begins.
    follow
        Go on until the job has ended. Not of a cluster's job.
    lines
        Only the last so many lines.
    cluster
        The REST address of a Flink cluster, if the job is one of its; else FLINK_REST_URL.
    """
    if lines is not None and lines < 0:
        raise PlanError(f"{lines} is no number of lines", where="--lines", fix="give 0 or more")
    if (theirs := _on_cluster(cluster, job)) is not None:
        if follow:
            raise PlanError("the log of a cluster's job is its failures", where="--follow", fix="leave it out; the cluster's own pages have its log")
        text = "\n".join(theirs.logs()).splitlines()
        print("\n".join(text if lines is None else text[len(text) - min(lines, len(text)) :]))
        return
    found = find(_folder(), job)
    try:
        with found.log.open("rb") as log:
            if lines is not None:
                log.seek(_start_of_last(log, lines))
            for block in _blocks(log, found, follow=follow):
                sys.stdout.buffer.write(block)
                sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(found.log), fix="let this user read it") from None


def metrics(job: str, /, *, cluster: str | None = None) -> None:
    """Print a job's figures as text for Prometheus.

    Parameters
    ----------
    job
        The job's id, or how it begins.
    cluster
        The REST address of a Flink cluster, if the job is one of its; else FLINK_REST_URL.
    """
    if (theirs := _on_cluster(cluster, job)) is not None:
        print("\n".join(theirs.metrics()))
        return
    found = find(_folder(), job)
    try:
        text = found.metrics.read_bytes()
    except FileNotFoundError:
        raise HeadraceError("no metrics yet", where=f"job {found.id}", fix="a run leaves some now and then while it lasts") from None
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(found.metrics), fix="let this user read it") from None
    sys.stdout.buffer.write(text)


def cancel(job: str, /, *, timeout: str = "10s", cluster: str | None = None) -> None:
    """End a job, and wait until it has ended.

    Parameters
    ----------
    job
        The job's id, or how it begins.
    timeout
        A job that has not ended so long after SIGTERM is ended by SIGKILL.
    cluster
        The REST address of a Flink cluster, if the job is one of its; else FLINK_REST_URL.
    """
    seconds = duration_ms(timeout, "--timeout") / 1000
    if (theirs := _on_cluster(cluster, job)) is not None:
        print(f"{theirs.id}: {theirs.cancel(seconds)}")
        return
    found = find(_folder(), job)
    sent = found.cancel(seconds)
    print(f"{found.id}: {found.state()}, by {sent.name}")


def savepoint(job: str, /, *, to: str | None = None, stop: Annotated[bool, Parameter(negative=())] = False, cluster: str | None = None) -> None:
    """Have a Flink cluster write down what a job is doing, and print where. For the embedded engine there is `headrace savepoint`.

    Parameters
    ----------
    job
        The job's id, or how it begins.
    to
        A folder that the cluster can write, as its file systems have it; else its own.
    stop
        End the job with it. `headrace jobs submit … --from-savepoint PATH` goes on from there.
    cluster
        The REST address of the cluster; else FLINK_REST_URL.
    """
    if (theirs := _on_cluster(cluster, job)) is not None:
        print(theirs.savepoint(to, stop=stop))
        return
    found = find(_folder(), job)
    raise PlanError(
        "is a job of the embedded engine, which resumes from its last commit",
        where=f"job {found.id}",
        fix="there is nothing to do; to go back later, cancel it, and write a file with headrace savepoint APP FILE",
    )


def _folder() -> Path:
    return home() / "jobs"


def _cluster(named: str | None) -> ClusterJobs | None:
    """Return the jobs of the cluster that is named, here or in the environment."""
    engines = (engine for engine in map(engine_named, ENGINES) if isinstance(engine, JobEngine))
    return next((engine.jobs(address) for engine in engines if (address := engine.address(named)) is not None), None)


def _on_cluster(named: str | None, job: str) -> ClusterJob | None:
    """Return the job that is meant, if it is a cluster's."""
    jobs = _cluster(named)
    found = jobs.find(job) if jobs else None
    if found is None and named:
        raise PlanError(f"no job begins with {job!r}", where=named, fix=f"headrace jobs list --cluster {named} shows them")
    return found


def _sound(arguments: Sequence[str], *, unproven: bool) -> tuple[str, Callable[[], str] | None, Callable[[], None] | None]:
    """Return the name of the pipeline that `headrace run` would run with these arguments, if it would take them.

    And how a cluster is given it, if it is; and how to ask whether results may be written again, since the job itself has no terminal.
    """
    app, *_ = arguments
    if app.startswith("-"):
        raise PlanError(f"APP is {app!r}, which is an option", fix="write APP first, then the options of headrace run")
    if not is_saver(app):
        find_pipeline(app)
    _, bound, _ = commands.parse_args(["run", *grouped_inputs(arguments)])
    given = bound.arguments
    files = [file for group in given.get("input") or [] for file in group.split(GROUP)]
    if any(one == "-" or one.endswith("=-") for one in files):
        raise PlanError("a job has no standard input", where="--input -", fix="name a file, or run it in the foreground: headrace run")
    if is_saver(app):
        return app, None, None
    plan = plan_of(app, given.get("set") or [])
    options = given.get("options") or RunOptions()
    engine = engine_named(given.get("engine", "embedded"))
    if files:
        accept(engine, Mode.FILES, options.given, options.parsed)
        return plan.pipeline, None, None
    confirm = partial(confirm_start, engine, plan, options) if (options.anew or options.from_savepoint) and not options.yes else None
    if isinstance(engine, JobEngine) and engine.address(options.cluster):
        for mode in (Mode.JOB, *([Mode.LATEST] if options.until else [])):
            accept(engine, mode, options.given, options.parsed)
        check_proven([plan], unproven=unproven)
        return plan.pipeline, partial(engine.submit, plan, asked_topics(options), options.parsed, Context(home())), confirm
    accept(engine, options.parsed.mode, options.given, options.parsed)
    check_proven([plan], unproven=unproven)
    return plan.pipeline, None, confirm


def _described(job: Job) -> dict[str, Any]:
    """Return all there is to say of a job."""
    state = job.state()
    ended = None if state == State.RUNNING else job.ended()
    return {
        **msgspec.to_builtins(job.submitted()),
        "state": str(state),
        **(msgspec.to_builtins(ended) if ended else {"status": None, "signal": None, "ended": None}),
    }


def _row(job: Job) -> Iterator[dict[str, Any]]:
    """Give what the list has of a job. One that is damaged hides no other."""
    try:
        yield _described(job)
    except EnvironmentFault as error:
        if not job.folder.exists():
            return  # it was removed just now
        print(f"headrace: {error}", file=sys.stderr)
        state = None
        with suppress(EnvironmentFault):
            state = str(job.state())
        yield {"id": job.id, "name": None, "app": None, "state": state, "error": str(error)}


def _exit(row: Mapping[str, Any]) -> str | None:
    if row["ended"] is None:
        return None
    status = "status unknown" if row["status"] is None else f"status {row['status']}"
    return f"{status}, {row['signal']}" if row["signal"] else status


def _start_of_last(log: BinaryIO, lines: int) -> int:
    """Return where the last so many lines of a file begin, read from its end."""
    end = place = log.seek(0, 2)
    wanted = lines
    while place:
        size = min(_BLOCK, place)
        place -= size
        log.seek(place)
        block = log.read(size)
        # The end of the last line begins none.
        at = size - 1 if place + size == end and block.endswith(b"\n") else size
        if wanted == 0:
            return end
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            wanted -= 1
            if wanted == 0:
                return place + at + 1
    return 0


def _blocks(log: BinaryIO, job: Job, *, follow: bool) -> Iterator[bytes]:
    """Give what a file holds, and if asked, what comes to it while the job runs."""
    while True:
        running = follow and job.running  # before what is read: what comes between is read next time
        while block := log.read(_BLOCK):
            yield block
        if not running:
            return
        time.sleep(_FOLLOW_SECONDS)
