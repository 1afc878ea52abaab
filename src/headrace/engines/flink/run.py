"""Pipelines run on Flink: over files, or on Kafka's topics."""

from __future__ import annotations

import base64
import logging
import shutil
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from headrace._durable import put
from headrace.engines import jar
from headrace.engines.entries import Ledger, added_up, ledger_topic
from headrace.engines.flink.client import Client
from headrace.engines.flink.kept import Kept
from headrace.engines.flink.places import Kafka, Places, Staged
from headrace.engines.flink.rest import JobFailed, Rest
from headrace.engines.flink.script import flink_script, flink_script_of_many, is_python
from headrace.engines.folder_jobs import FolderJob
from headrace.errors import EnvironmentFault, HeadraceError, PlanError
from headrace.plan.changes import Changes
from headrace.plan.pipeline import Plan

__all__ = ["check_inputs", "run_files", "run_many", "run_topics", "savepoint", "submit", "wait"]

_log = logging.getLogger(__name__)
_ENDINGS = frozenset([".ndjson", ".jsonl", ".json"])
_POLL_SECONDS = 0.2
_STOP_SECONDS = 60.0
# What Flink answers while tasks of a job start, restart, or end by themselves: those of a branch that cannot have rows do soon after the start.
_NOT_YET = (
    "Not all required tasks are currently running",
    "task is closing",
    "checkpoint request for unknown task",
    "Task local checkpoint failure",
    "needs at least one vertex that commits the checkpoint",
)


def submit(rest: Rest, script: str, *, client: Client | None = None, savepoint: str | None = None) -> str:
    """Run a script on a cluster, and return its job's id; `client` runs one with processes.

    Raises
    ------
    JobFailed
        If the cluster refuses it; it says why in one line.
    """
    rest.check_version()
    if is_python(script):
        assert client is not None
        return client.submit(rest, script, savepoint)
    return rest.submit(jar.path(), "headrace.flink.RunScript", ["--script-base64", base64.b64encode(script.encode()).decode()], savepoint=savepoint)


def wait(rest: Rest, job: str, *, stop: Callable[[], bool] = lambda: False) -> bool:
    """Wait until a job has ended, or `stop` says so; return whether it has.

    Raises
    ------
    JobFailed
        If the job failed; it says why in one line.
    """
    while not rest.ended(job):
        if stop():
            return False
        time.sleep(_POLL_SECONDS)
    return True


def run_files(job: FolderJob, rest: Rest, *, client: Client | None = None, parallelism: int = 1, stop: Callable[[], bool] = lambda: False) -> Ledger:
    """Run a plan over files that the cluster can read too, leave outputs, dead letters and ledger in its folder, and return the ledger.

    Raises
    ------
    PlanError
        If Flink cannot do as the plan says, or the inputs are not NDJSON files.
    JobFailed
        If the job failed on the cluster.
    """
    with _removing(job):
        places = _stage(job, parallelism)
        identifier = submit(rest, flink_script(job.plan, places), client=client)
        _wait_or_cancel(rest, identifier, stop)
        return _collect(job)


def run_many(
    jobs: Sequence[FolderJob],
    rest: Rest,
    called: str = "headrace",
    *,
    client: Client | None = None,
    parallelism: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> list[Ledger]:
    """Run many plans as one job of the cluster; as `run_files` in all else."""
    with _removing(*jobs):
        places = [_stage(job, parallelism, alone=False) for job in jobs]
        script = flink_script_of_many([(job.plan, place) for job, place in zip(jobs, places, strict=True)], called)
        identifier = submit(rest, script, client=client)
        _wait_or_cancel(rest, identifier, stop)
        return [_collect(job) for job in jobs]


def _wait_or_cancel(rest: Rest, job: str, stop: Callable[[], bool]) -> None:
    """Wait until a job has done its work; end it if this process is to end before."""
    try:
        if wait(rest, job, stop=stop) and rest.state(job) == "FINISHED":
            return
    except JobFailed:
        raise
    except BaseException:
        with suppress(HeadraceError):
            rest.cancel(job)
        raise
    if rest.state(job) != "CANCELED":
        with suppress(JobFailed):  # it may have ended by itself just now
            rest.cancel(job)
    raise EnvironmentFault("was stopped before its end", where=f"Flink job {job}", fix="run it again")


# topics


def run_topics(  # noqa: PLR0913
    plan: Plan,
    places: Kafka,
    rest: Rest,
    kept: Path,
    *,
    client: Client | None = None,
    begin_at: str | None = None,
    seconds: float | None = None,
    drain: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run a plan on Kafka's topics until `stop` says so or `seconds` have passed; bounded ones to their end.

    The state of a job that was stopped is kept in the folder `kept`, and the next run of the pipeline goes on from there, also
    if the pipeline has changed in a way that leaves Flink its state; that of one which was killed, from its last checkpoint.
    `begin_at` names a savepoint to go on from instead.

    Raises
    ------
    JobFailed
        If the job failed on the cluster.
    EnvironmentFault
        If what is kept cannot be carried over to this plan, or the cluster has gone away.
    """
    held = Kept(kept)
    script = flink_script(plan, replace(places, kept=str(kept)))
    state = begin_at or held.last_state()
    _tell(plan, held.carried_over(plan, state, bounded=places.bounded))
    ends_at = None if seconds is None else time.monotonic() + seconds
    with held.resuming(state):
        job = held.note(plan, lambda: submit(rest, script, client=client, savepoint=state), bounded=places.bounded)
        try:
            ended = wait(rest, job, stop=lambda: stop() or (ends_at is not None and time.monotonic() >= ends_at))
        except EnvironmentFault as gone:
            raise EnvironmentFault(gone.what, where=gone.where, fix="start it, and run it again: it goes on from its last checkpoint") from None
    if not ended:
        stopped = f"file://{kept}/savepoints"
        if drain and places.idle_after_ms is not None:
            # A source that Flink holds for idle sends no last watermark, and its last windows would be lost: so first none is idle any more.
            awake, at = flink_script(plan, replace(places, kept=str(kept), idle_after_ms=None)), savepoint(rest, job, stopped, stop=True)
            job = held.note(plan, lambda: submit(rest, awake, client=client, savepoint=at), bounded=places.bounded)
        savepoint(rest, job, stopped, stop=True, drain=drain)
    elif places.bounded:
        held.forget()


def _tell(plan: Plan, changed: Changes) -> None:
    """Log how a pipeline has changed since the job whose state it goes on from."""
    if changed:
        _log.warning("pipeline %s: has changed since its last run:", plan.pipeline)
        for line in changed.lines():
            _log.warning("  %s", line)


def savepoint(rest: Rest, job: str, folder: str | None, *, stop: bool = False, drain: bool = False, seconds: float = _STOP_SECONDS) -> str:
    """Have a savepoint made, and return where it is; `stop` ends the job with it, `drain` closes its windows before."""
    give_up_at = time.monotonic() + seconds
    request = rest.savepoint(job, folder, stop=stop, drain=drain)
    while True:
        try:
            if (made := rest.savepoint_at(job, request)) is not None:
                return made
        except JobFailed as error:
            if time.monotonic() > give_up_at or not any(answer in str(error) for answer in _NOT_YET):
                raise
            request = rest.savepoint(job, folder, stop=stop, drain=drain)
        if time.monotonic() > give_up_at:
            raise EnvironmentFault(f"no savepoint within {seconds:.0f} s", where=f"Flink job {job}", fix=f"look at it at {rest.url}")
        time.sleep(_POLL_SECONDS)


# files


def _work(job: FolderJob) -> Path:
    return job.folder.absolute() / ".flink"


@contextmanager
def _removing(*jobs: FolderJob) -> Iterator[None]:
    """Remove at the end the folders in which jobs work, however they end; that of a killed run goes with the next of its output folder."""
    try:
        yield
    finally:
        for job in jobs:
            shutil.rmtree(_work(job), ignore_errors=True)


def check_inputs(plan: Plan, inputs: Mapping[str, Sequence[Path]]) -> None:
    """Raise unless there is an NDJSON file for each source, and for nothing else.

    Raises
    ------
    PlanError
        If the files are not those of the plan, or of another format.
    EnvironmentFault
        If one is not there.
    """
    plan.check_inputs(inputs)
    for path in (path for paths in inputs.values() for path in paths):
        if path.suffix.lower() not in _ENDINGS:
            raise PlanError(f"Flink reads NDJSON files, not {path.name!r}", where=f"--input {path}", fix="run it on the embedded engine")
        if not path.is_file():
            raise EnvironmentFault("cannot be read: No such file or directory", where=str(path), fix="name a file that exists")


def _stage(job: FolderJob, parallelism: int, *, alone: bool = True) -> Places:
    """Lay the inputs out as partitions of topics, and return where everything is."""
    work = _work(job)
    try:
        shutil.rmtree(work, ignore_errors=True)
        for source in job.plan.sources:
            folder = work / "in" / source.topic
            folder.mkdir(parents=True)
            for number, path in enumerate(job.inputs.get(source.topic, ())):
                _lay(path, folder / str(number))
        (work / "out").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(job.folder), fix="name another --output") from None
    files = sum(map(len, job.inputs.values()))
    return Staged(str(work), parallelism, single=alone and files == 1)


def _lay(path: Path, at: Path) -> None:
    """Put a file where Flink reads it: the file itself, or its copy without the byte order mark that it begins with."""
    with path.open("rb") as file:
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            at.symlink_to(path.absolute())
            return
        with at.open("wb") as copy:
            shutil.copyfileobj(file, copy)


def _collect(job: FolderJob) -> Ledger:
    """Put the parts together where the embedded engine would have put them, and return the ledger."""
    out = _work(job) / "out"
    try:
        windowed = {sink.operator.topic for sink in job.plan.sinks if sink.traits.windowed}
        for topic in job.plan.topics:
            lines = _lines(out / topic)
            put(job.folder / f"{topic}.ndjson", b"".join(sorted(lines) if topic in windowed else lines))
        for source in job.plan.sources:
            topic = f"{source.topic}.dead-letter"
            letters = sorted(_lines(out / topic), key=_place)
            put(job.folder / f"{topic}.ndjson", b"".join(letters))
        ledger = added_up(job.plan, map(msgspec.json.decode, _lines(out / ledger_topic(job.plan))))
        text = msgspec.json.format(msgspec.json.encode({"pipeline": job.plan.pipeline, "sources": ledger})) + b"\n"
        put(job.folder / "ledger.json", text)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(job.folder), fix="make room or name another --output") from None
    return ledger


def _lines(folder: Path) -> list[bytes]:
    parts = sorted(path for path in folder.glob("part-*") if path.is_file()) if folder.is_dir() else []
    return [line for part in parts for line in part.read_bytes().splitlines(keepends=True)]


def _place(letter: bytes) -> tuple[int, int]:
    found = msgspec.json.decode(letter)
    return found["partition"], found["offset"]
