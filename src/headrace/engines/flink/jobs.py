"""The jobs of a Flink cluster, by its REST interface."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace.engines.flink.rest import RUNNING, Rest
from headrace.engines.flink.run import savepoint
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["FlinkJob", "FlinkJobs"]

_POLL_SECONDS = 0.2
_SAVEPOINT_SECONDS = 600.0
_UNNAMED = re.compile(r"\W", re.ASCII)


class FlinkJobs:
    """The jobs of a cluster.

    Raises
    ------
    EnvironmentFault
        If no Flink cluster answers at the address.
    """

    def __init__(self, url: str) -> None:
        self._rest = Rest(url)
        self._rest.version()

    def find(self, prefix: str) -> FlinkJob | None:
        """Return the one job whose id begins so, None if there is none.

        Raises
        ------
        PlanError
            If there are several.
        """
        found = [job["jid"] for job in self._rest.jobs() if job["jid"].startswith(prefix)]
        if len(found) > 1:
            raise PlanError(f"{prefix!r} is how {len(found)} jobs begin", where=self._rest.url, fix="write more of the id")
        return FlinkJob(self._rest, found[0]) if found else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give what the list has of each job."""
        for job in sorted(self._rest.jobs(), key=lambda one: one["start-time"]):
            yield {"id": job["jid"], "name": job["name"], "app": "flink", "state": job["state"], **_times(job)}


@dataclass(frozen=True)
class FlinkJob:
    """A job of a cluster."""

    rest: Rest
    id: str

    def status(self) -> dict[str, Any]:
        """Return what there is to say of it."""
        told = self.rest.job(self.id)
        row = {"id": self.id, "name": told["name"], "state": told["state"], "engine": "flink", **_times(told), "cluster": self.rest.url}
        tasks = [f"{vertex['name'][:60]}: {vertex['status']}" for vertex in told["vertices"] if vertex["status"] != told["state"]]
        return {**row, "cause": self.rest.cause(self.id), "tasks": ", ".join(tasks) or None}

    def logs(self) -> Iterator[str]:
        """Give why it has failed, each time it has, the latest first."""
        for entry in self.rest.ask(f"/jobs/{self.id}/exceptions").get("exceptionHistory", {}).get("entries", []):
            yield f"{_time(entry['timestamp'])} {entry.get('taskName') or 'job'}\n{entry['stacktrace']}"

    def metrics(self) -> Iterator[str]:
        """Give its figures as lines for Prometheus."""
        for name, value in sorted(self.rest.metrics(self.id).items()):
            yield f"flink_job_{_UNNAMED.sub('_', name)} {value}"
        for vertex in self.rest.job(self.id)["vertices"]:
            task = " ".join(vertex["name"].split())[:80].replace("\\", "\\\\").replace('"', '\\"')
            for name in ("read-records", "write-records", "read-bytes", "write-bytes"):
                # Names that are cut may be the same: the id is not.
                yield f'flink_task_{_UNNAMED.sub("_", name)}{{task="{task}",id="{vertex["id"]}"}} {vertex["metrics"][name]}'

    def cancel(self, seconds: float) -> str:
        """End it where it is, and return its state then.

        Raises
        ------
        EnvironmentFault
            If it has ended before, or does not end within so many seconds.
        """
        self.rest.check_running(self.id)
        self.rest.cancel(self.id)
        give_up_at = time.monotonic() + seconds
        while (state := self.rest.state(self.id)) in RUNNING:
            if time.monotonic() > give_up_at:
                raise EnvironmentFault(f"is still {state} after {seconds:.0f} s", where=f"Flink job {self.id}", fix=f"look at it at {self.rest.url}")
            time.sleep(_POLL_SECONDS)
        return state

    def savepoint(self, folder: str | None, *, stop: bool) -> str:
        """Make a savepoint, and return where it is; `stop` ends the job with it.

        Raises
        ------
        EnvironmentFault
            If the job has ended.
        """
        self.rest.check_running(self.id)
        return savepoint(self.rest, self.id, folder, stop=stop, seconds=_SAVEPOINT_SECONDS)


def _times(job: Mapping[str, Any]) -> dict[str, str | None]:
    return {"started": _time(job["start-time"]), "ended": _time(job["end-time"])}


def _time(ms: int) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ms > 0 else None
