"""Plans run by Spark: bounded, on files or on what Kafka topics hold."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.engines import jar, shipped
from headrace.engines.entries import Ledger
from headrace.engines.environment import end_with_parent
from headrace.engines.folder_jobs import FolderJob
from headrace.engines.spark.environment import checked_master, kafka_jars, process_python, python_of, spark_home
from headrace.engines.spark.script import live_script, spark_script
from headrace.engines.working import working_folder
from headrace.errors import EnvironmentFault, HeadraceError, InternalError, PlanError, ProcessError
from headrace.plan.pipeline import Plan

__all__ = ["SparkError", "run_files", "run_latest", "run_live", "run_many"]

_NDJSON = {".ndjson", ".jsonl", ".json"}
_ASIDE = ".spark"
_POLL_SECONDS = 0.2
_STOP_SECONDS = 60.0  # in which a live script ends, which waits for half of it at most


class SparkError(HeadraceError):
    """A job failed in Spark."""


class _Stopped(EnvironmentFault):
    """Spark was ended before its work was."""

    def __init__(self) -> None:
        super().__init__("was stopped before its end", where="Spark", fix="run it again")


def never() -> bool:
    """Return False: nobody stops the run."""
    return False


@dataclass(frozen=True)
class _Script:
    """A script with its arguments; `processes` says whether it runs an author's. `connection` are properties of Kafka's clients, never shown."""

    text: str
    arguments: list[str]
    processes: bool
    connection: Mapping[str, str] = field(default_factory=dict, repr=False)


def run_files(
    plan: Plan,
    inputs: Mapping[str, Sequence[Path]],
    folder: Path,
    *,
    master: str | None = None,
    home: Path,
    stop: Callable[[], bool] = never,
) -> Ledger:
    """Run the plan over files, and leave its outputs, dead letters and ledger in `folder`.

    Parameters
    ----------
    inputs
        Files by topic; several files of one topic are its partitions.
    master
        Spark's master; else SPARK_MASTER of the environment, else this machine with all its cores.
    home
        Where Spark is kept, having been got on first use.

    Raises
    ------
    PlanError
        If Spark cannot run the plan as it is meant, or the inputs are not those of the plan.
    EnvironmentFault
        If there is no Java, or Spark cannot be had, or the folder not be written, or `stop` said so before the end.
    ProcessError
        If a process raises, or the workers lack what it needs.
    SparkError
        If the job fails.
    """
    (told,) = run_many([FolderJob(plan, inputs, folder)], master=master, home=home, stop=stop)
    if isinstance(told, HeadraceError):
        raise told
    return told


def run_many(jobs: Sequence[FolderJob], *, master: str | None = None, home: Path, stop: Callable[[], bool] = never) -> list[Ledger | HeadraceError]:
    """Run plans over files, one after the other in one session, and return for each its ledger or why there is none."""
    told: list[Ledger | HeadraceError | None] = [None] * len(jobs)
    scripts: dict[int, _Script] = {}
    for place, job in enumerate(jobs):
        try:
            _check_inputs(job)
            aside = _aside(job.folder)
            given = [f"--input={topic}={path.absolute()}" for topic, paths in job.inputs.items() for path in paths]
            scripts[place] = _Script(spark_script(job.plan), [*given, f"--output={aside.absolute()}"], _has_processes(job.plan))
        except HeadraceError as error:
            told[place] = error
    with _removing(*(jobs[place].folder for place in scripts)):
        for place, result in zip(scripts, _submit(list(scripts.values()), master, home, [], stop) if scripts else [], strict=True):
            told[place] = result if isinstance(result, HeadraceError) else _published(jobs[place], result)
    return [one if one is not None else InternalError("a job was not run") for one in told]


def run_latest(
    plan: Plan,
    servers: str,
    *,
    output: Path | None = None,
    connection: Mapping[str, str] | None = None,
    master: str | None = None,
    home: Path,
    stop: Callable[[], bool] = never,
) -> Ledger:
    """Run the plan over what Kafka's topics hold now, to Kafka's topics or to files of a folder, and return the ledger.

    What is written to Kafka is written at least once: a task that Spark tries again writes its records again. `connection` has
    more properties of Kafka's clients, as Java names them: TLS and passwords.
    """
    arguments = [f"--kafka-servers={servers}"]
    if output is not None:
        arguments.append(f"--output={_aside(output).absolute()}")
    with _removing(*([output] if output else [])):
        (told,) = _submit([_Script(spark_script(plan), arguments, _has_processes(plan), connection or {})], master, home, kafka_jars(home), stop)
        if isinstance(told, HeadraceError):
            raise told
        return _published(FolderJob(plan, {}, output), told) if output is not None else told


def run_live(
    plan: Plan,
    servers: str,
    *,
    checkpoint: Path,
    trigger: str = "10 seconds",
    connection: Mapping[str, str] | None = None,
    master: str | None = None,
    home: Path,
    stop: Callable[[], bool] = never,
) -> None:
    """Run the plan live on Kafka's topics with Structured Streaming, until it fails or `stop` says so.

    Parameters
    ----------
    checkpoint
        Where the queries keep how far they are and their open windows: started again with it, they go on from there.
    trigger
        How often there is a micro-batch; `available-now` works off what is there and ends, with the last windows left open.
    connection
        More properties of Kafka's clients, as Java names them: TLS and passwords.
    stop
        When it returns true, the queries end between two micro-batches; one that takes longer than half a minute is ended
        and will be begun anew.
    """
    arguments = [f"--kafka-servers={servers}", f"--checkpoint={checkpoint.absolute()}", f"--trigger={trigger}"]
    try:
        (told,) = _submit([_Script(live_script(plan), arguments, _has_processes(plan), connection or {})], master, home, kafka_jars(home), stop)
    except _Stopped:
        return
    if isinstance(told, HeadraceError):
        raise told


def _check_inputs(job: FolderJob) -> None:
    job.plan.check_inputs(job.inputs)
    for path in (path for paths in job.inputs.values() for path in paths):
        if not path.is_file():
            raise EnvironmentFault("cannot be read: no such file", where=str(path), fix="name a file that exists")
        if path.suffix.lower() not in _NDJSON or path.name.startswith(("_", ".")):
            raise PlanError(
                f"Spark does not read {path.name!r}", where=str(path), fix="name it .ndjson, or run it embedded; no name begins with _ or ."
            )


def _aside(folder: Path) -> Path:
    """Return an empty folder in which outputs are made before they are put in place."""
    aside = folder / _ASIDE
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(folder), fix="let this user write there") from None
    return aside


def _published(job: FolderJob, ledger: Ledger) -> Ledger:
    for made in sorted((job.folder / _ASIDE).iterdir(), key=lambda path: path.name == "ledger.json"):
        if not made.name.startswith("."):
            made.replace(job.folder / made.name)
    return ledger


@contextmanager
def _removing(*folders: Path) -> Iterator[None]:
    """Remove at the end what is made aside in output folders; that of a killed run goes with the next of its output folder."""
    try:
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder / _ASIDE, ignore_errors=True)


def _has_processes(plan: Plan) -> bool:
    return bool(plan.processes)


def _submit(
    scripts: Sequence[_Script], master: str | None, home: Path, jars: Sequence[Path], stop: Callable[[], bool] = never
) -> list[Ledger | HeadraceError]:
    """Run scripts in one session; raise _Stopped if `stop` says so before their end, and none of them fails."""
    master, spark = checked_master(master), spark_home(home)
    with working_folder(home, "spark") as folder:
        jobs = []
        for number, script in enumerate(scripts):
            path = folder / f"job{number}.py"
            path.write_text(script.text, encoding="utf-8")
            arguments = script.arguments
            if script.connection:
                # Others see a process's arguments, and not a file in this folder.
                properties = folder / f"kafka{number}.properties"
                properties.write_text("".join(f"{name}={value}\n" for name, value in script.connection.items()), encoding="utf-8")
                arguments = [*arguments, f"--kafka-config={properties}"]
            jobs.append({"script": str(path), "arguments": arguments})
        (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
        results, log, stopped = folder / "results", folder / "log", folder / "stop"
        settings = {"spark.ui.enabled": "false", "spark.sql.warehouse.dir": str(folder / "warehouse"), "spark.log.level": "ERROR"}
        if master.startswith("local"):
            cores = os.cpu_count() or 1
            settings |= {
                "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.local.dir": str(folder / "local"),
                "spark.sql.shuffle.partitions": str(cores), "spark.sql.adaptive.enabled": "false",  # there is nothing to adapt to
                "spark.hadoop.fs.AbstractFileSystem.file.impl": "headrace.spark.LocalFiles",  # of checkpoints
            }  # fmt: skip
        processes = any(script.processes for script in scripts)
        archive = str(shipped.archive(folder / "headrace.zip")) if processes else ""
        command = [
            str(spark / "bin" / "spark-submit"), "--master", master, "--jars", ",".join(map(str, [jar.path(), *jars])),
            *(["--py-files", archive] if processes else []),
            *(part for key, value in settings.items() for part in ("--conf", f"{key}={value}")),
            str(Path(__file__).with_name("driver.py")), str(folder / "jobs.json"), str(results), str(stopped),
        ]  # fmt: skip
        python = str(process_python(home) if processes else python_of(spark))
        workers = os.environ.get("PYSPARK_PYTHON", python) if processes else python
        environment = {**os.environ, "SPARK_HOME": str(spark), "PYSPARK_PYTHON": workers, "PYSPARK_DRIVER_PYTHON": python}
        if processes:  # a stream's own Python on the driver is given no --py-files
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (archive, os.environ.get("PYTHONPATH"))))
        was_stopped = _run(command, environment, log, stop, stopped)
        told = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []
        if was_stopped and not any("error" in one or "process" in one for one in told):
            raise _Stopped
        if len(told) < len(scripts):
            told += [{"error": _last_word(log)}] * (len(scripts) - len(told))
    return [_result(one) for one in told]


def _result(told: Mapping[str, Any]) -> Ledger | HeadraceError:
    if "process" in told:
        return ProcessError(told["process"])
    ledger: Ledger = told.get("ledger") or {}
    return SparkError(told["error"], where="Spark") if "error" in told else ledger


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path, stop: Callable[[], bool], stopped: Path) -> bool:
    """Run a command, which ends with this process however that ends. If `stop` says so, it is told by a file `stopped`; return whether it was."""
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603  (Spark, and files made here)
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=environment,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  (a call of C and nothing else)
        )
        try:
            while not stop():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                    return False
            stopped.touch()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            return True
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_word(log: Path) -> str:
    """Return what Spark said last of what went wrong."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line for line in lines if "Exception" in line or "ERROR" in line or "Error" in line]
    return (telling or lines or ["it said nothing"])[-1].strip().removeprefix('Exception in thread "main" ')[:500]
