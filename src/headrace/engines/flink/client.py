"""Submits jobs with processes: through PyFlink, which is in an environment of its own and got on first use."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.engines import jar
from headrace.engines.environment import end_with_parent, engines_folder, java, made, pip_install
from headrace.engines.flink.cluster import FLINK, fetched
from headrace.engines.flink.rest import JobFailed, Rest, root_cause
from headrace.engines.shipped import archive
from headrace.engines.working import working_folder
from headrace.errors import EnvironmentFault

__all__ = ["Client", "pyflink"]

_MSGSPEC = "msgspec>=0.22,<0.23"
_SUBMIT_SECONDS = 900.0
_JVM = "-Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"


def pyflink(home: Path) -> Path:
    """Return the Python that has PyFlink, got on first use.

    Raises
    ------
    EnvironmentFault
        If it cannot be had; it says what, and how to get it.
    """
    requirements = (f"apache-flink=={FLINK}", _MSGSPEC)
    folder = made(engines_folder(home) / f"pyflink-{FLINK}", lambda aside: pip_install(aside, *requirements))
    return folder / "bin" / "python"


def planning(jars: Sequence[Path], logs: Path) -> dict[str, str]:
    """Return the environment in which PyFlink plans a job: the jars beside its own, its JVM's options, the folder of its logs."""
    added = [jar.path(), *(one for one in jars if "kafka" in one.name)]
    return {"HADOOP_CLASSPATH": os.pathsep.join(map(str, added)), "FLINK_LOG_DIR": str(logs), "JVM_ARGS": _JVM}


@dataclass(frozen=True)
class Client:
    """Where PyFlink is, and what the cluster's workers run on.

    Parameters
    ----------
    home
        HEADRACE_HOME.
    kafka
        Whether jobs read and write Kafka.
    workers
        The Python of the workers, as the task managers name it; None is whatever the cluster's `python.executable` says.
    sends_python
        Whether Flink's own jar for Python is sent along: a cluster of this machine has it.
    """

    home: Path
    kafka: bool = False
    workers: str | None = None
    sends_python: bool = True

    @classmethod
    def local(cls, home: Path, *, kafka: bool = False) -> Client:
        """Return the client of a cluster of this machine."""
        return cls(home, kafka, str(pyflink(home)), sends_python=False)

    def submit(self, rest: Rest, script: str, savepoint: str | None = None) -> str:
        """Run a script, which is a Python file, and return the id of the job that it starts.

        Raises
        ------
        JobFailed
            If the cluster refuses it, with the cause in one line.
        """
        java("Flink")
        python, jars = pyflink(self.home), fetched(self.home, kafka=self.kafka)
        with working_folder(self.home, "submitted") as folder:
            (folder / "submitted.py").write_text(script, encoding="utf-8")
            modules = archive(folder / "headrace.zip")
            sent = [jar.path(), *([one for one in jars if one.name.startswith("flink-python")] if self.sends_python else [])]
            command = [str(python), str(folder / "submitted.py"), "--cluster", rest.url, "--archive", str(modules)]
            command += [word for one in sent for word in ("--jar", str(one))]
            command += ["--python", self.workers] if self.workers else []
            command += ["--savepoint", savepoint] if savepoint else []
            environment = {"PYTHONPATH": str(modules), **planning(jars, folder)}
            try:
                status, printed, failed = self._run(command, environment, folder)
            except subprocess.TimeoutExpired:
                raise EnvironmentFault(f"takes no job within {_SUBMIT_SECONDS:.0f} s", where=rest.url, fix="look at the cluster's log") from None
        if status:
            raise JobFailed(root_cause(failed), where=f"Flink at {rest.url}")
        return str(json.loads(printed.splitlines()[-1])["job"])

    def _run(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[int, str, str]:
        """Run a command, and return its exit status and what it wrote to its output and its error output."""
        done = subprocess.run(  # noqa: S603
            command,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **environment},
            timeout=_SUBMIT_SECONDS,
            preexec_fn=end_with_parent,
        )
        return done.returncode, done.stdout, done.stderr
