"""The state of a pipeline on Flink between runs: savepoints and checkpoints, and which plan each job had.

Flink finds the state of an operator by a name, which `headrace.flink.Named` in the jar makes of what the operator does and of the operators
with state upstream of it. So state is carried over to a changed plan that still has all sources, windows, processes and outputs of
before, connected in the same way. Others may be added. Settings, conditions, other expressions, columns and the code of processes may change.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from headrace._durable import private_folder, write_whole
from headrace.engines.flink.rest import UNMAPPED, JobFailed
from headrace.engines.flink.shape import moved, shape_of
from headrace.errors import EnvironmentFault
from headrace.plan.changes import Changes, changes, definition
from headrace.plan.pipeline import Plan

__all__ = ["Kept"]

_ANEW = "start with --anew, which forgets it"
_FIX = f"run it as it was, or {_ANEW}"
_UNFIT = (UNMAPPED, "StateMigrationException")


class _Note(msgspec.Struct):
    """The plan of a job. `named` says whether its operators have names; an earlier headrace left that to Flink, which goes by their places."""

    pipeline: str
    version: str
    settings: dict[str, str]
    operators: Any
    stages: dict[str, Any]
    shape: list[str]
    bounded: bool
    named: bool = False


class Kept:
    """The folder of a pipeline's savepoints and checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plans = folder / "plans"

    @classmethod
    def of(cls, plan: Plan, home: Path) -> Kept:
        """Return what is kept of a pipeline in a home."""
        return cls((home / "flink" / plan.pipeline).absolute())

    def last_state(self) -> str | None:
        """Return the address of the latest whole savepoint or checkpoint, None if there is none."""
        found = [*self.folder.glob("savepoints/savepoint-*/_metadata"), *self.folder.glob("checkpoints/*/chk-*/_metadata")]
        return f"file://{max(found, key=lambda path: path.stat().st_mtime_ns).parent}" if found else None

    def carried_over(self, plan: Plan, state: str | None, *, bounded: bool) -> Changes:
        """Return how a pipeline has changed since the job that left a state; nothing where no note tells of that job.

        Raises
        ------
        EnvironmentFault
            If the changed pipeline cannot resume from that state.
        """
        noted = None if state is None else self._noted(state)
        if noted is None:
            return Changes()
        if noted["version"] != plan.version:
            raise self._refused(f"version {noted['version']!r} of the pipeline left it, and this is version {plan.version!r}")
        if noted["bounded"] != bounded:
            raise self._refused(f"a run {'with' if noted['bounded'] else 'without'} --until left it")
        found = changes(plan, noted["settings"], noted["stages"], same=plan.differs(noted) is None)
        for name, why in found.refused.items():
            raise self._refused(f"{name} cannot keep its state: {why}")
        for name, column in _demanded(plan):
            columns = noted["stages"].get(name, {}).get("columns")
            if columns is not None and column not in columns:
                raise self._refused(f"column {column!r} of {name} is new and NOT NULL, and rows that are buffered do not have it")
        if not noted["named"]:
            raise self._refused("an earlier headrace left it, whose operators have no names by which Flink finds their state")
        if bool(plan.processes) != any(one["kind"] == "process" for one in noted["stages"].values()):
            raise self._refused("a job with processes is built otherwise than one without, and only one of the two has any")
        if (other := moved(noted["shape"], plan, found.new)) is not None:
            raise self._refused(f"Flink does not find the state of all operators: {other}")
        return found

    @contextmanager
    def resuming(self, state: str | None) -> Iterator[None]:
        """Have a job that resumes from a state fail with a refusal, if Flink itself finds that the state does not fit the changed job."""
        try:
            yield
        except JobFailed as failed:
            if state is None or not any(one in str(failed) for one in _UNFIT):
                raise
            why = "Flink does not find the state of all operators: its planner joined, parted or narrowed some of them otherwise"
            raise self._refused(why) from None

    def note(self, plan: Plan, submit: Callable[[], str], *, bounded: bool) -> str:
        """Submit a job, note which plan it has, and return its id.

        Raises
        ------
        EnvironmentFault
            If the note cannot be written.
        """
        stages = {node.name: definition(node) for node in plan.stages}
        note = msgspec.json.encode({**plan.identity, "stages": stages, "shape": shape_of(plan), "bounded": bounded, "named": True})
        coming = self._plans / "next.json"  # it tells of a job whose id this process did not live to note
        try:
            private_folder(self.folder)
            private_folder(self._plans)
            write_whole(coming, note)
            job = submit()
            coming.replace(self._plans / f"{job}.json")
        except OSError as error:
            raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(self.folder), fix="name another HEADRACE_HOME") from None
        return job

    def forget(self) -> None:
        """Remove all that is kept."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _noted(self, state: str) -> dict[str, Any] | None:
        """Return the note on the plan of the job that left a state; without one, that of the job that was about to be submitted."""
        job = _JOB.search(state)
        named = [] if job is None else [*self._plans.glob(f"{job[1] or job[2]}*.json")]
        for path in (*named, self._plans / "next.json"):
            with suppress(FileNotFoundError):
                return self._read(path)
        return None

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            return msgspec.to_builtins(msgspec.json.decode(path.read_bytes(), type=_Note))  # type: ignore[no-any-return]
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path), fix="let headrace read it") from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise EnvironmentFault("is damaged: it says which plan left the state", where=str(path), fix=f"restore it, or {_ANEW}") from None

    def is_noted(self, state: str) -> bool:
        """Return whether it is known which plan left a state."""
        return self._noted(state) is not None

    def _refused(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(f"the state there is not carried over: {why}", where=str(self.folder), fix=_FIX)


# A savepoint is named by the first digits of its job's id, the folder of a job's checkpoints by the id.
_JOB = re.compile(r"/savepoint-([0-9a-f]{6})-[0-9a-f]+/*$|/([0-9a-f]{32})/chk-\d+/*$")


def _demanded(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the columns of the rows of each process that are NOT NULL, with its name."""
    for node in plan.processes:
        for field in node.operator.record_schema.fields:
            if not field.nullable:
                yield node.name, field.name
