"""A Flink cluster's REST interface, as far as jobs need it."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from headrace.errors import EnvironmentFault, HeadraceError

__all__ = ["RUNNING", "UNMAPPED", "VERSION", "JobFailed", "Rest", "root_cause"]

VERSION = "2.3"
_SECONDS = 60.0
_TOLD_SECONDS = 10.0
_SUBMIT_SECONDS = 900.0  # the plan is made within the request
_ENDED = frozenset(["FINISHED", "FAILED", "CANCELED"])
_TRYING_AGAIN = frozenset(["FAILING", "RESTARTING"])
RUNNING = frozenset(["INITIALIZING", "CREATED", "RUNNING", "FAILING", "CANCELLING", "RESTARTING", "SUSPENDED", "RECONCILING"])
_NO_CLUSTER = "give the address of the REST interface of Flink's job manager (http://HOST:8081) in --cluster or FLINK_REST_URL"


UNMAPPED = "the savepoint has an operator that this job does not have"


class JobFailed(HeadraceError):
    """A job failed on the cluster."""


class Rest:
    """A cluster, by the address of its REST interface (http://HOST:8081).

    Raises
    ------
    EnvironmentFault
        From every method, if the cluster does not answer as one does.
    """

    def __init__(self, url: str) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")

    def ask(self, path: str, method: str = "GET", body: Any = None, *, seconds: float = _SECONDS) -> Any:  # noqa: ANN401  (JSON)
        """Return the JSON that the cluster answers."""
        data = None if body is None else json.dumps(body).encode()
        return self._send(path, method, data, "application/json", seconds)

    def _send(self, path: str, method: str, data: bytes | None, content_type: str, seconds: float) -> Any:  # noqa: ANN401
        try:
            request = Request(self.url + path, data, {"Content-Type": content_type}, method=method)  # noqa: S310
            with urlopen(request, timeout=seconds) as answer:  # noqa: S310
                body = answer.read() or b"{}"
        except HTTPError as error:
            with error:
                raise _refusal(self.url, error.code, error.read()) from None
        except (HTTPException, OSError, ValueError) as error:  # ValueError: the address cannot be one
            reason = getattr(error, "reason", error)
            raise EnvironmentFault(
                f"no Flink cluster answers there: {reason}", where=self.url, fix="start it, or name another with --cluster or FLINK_REST_URL"
            ) from None
        try:
            return json.loads(body)
        except ValueError:
            raise EnvironmentFault(f"what answers there is no Flink cluster: it sends {_kind(body)}", where=self.url, fix=_NO_CLUSTER) from None

    def version(self) -> str:
        """Return the cluster's version of Flink.

        Raises
        ------
        EnvironmentFault
            If what answers is no Flink cluster.
        """
        told = self.ask("/config")
        if not isinstance(told, dict) or "flink-version" not in told:
            raise EnvironmentFault("what answers there is no Flink cluster: it tells no version of Flink", where=self.url, fix=_NO_CLUSTER)
        return str(told["flink-version"])

    def check_version(self) -> None:
        """Raise EnvironmentFault unless the cluster is of a version that headrace knows."""
        found = self.version()
        if not found.startswith(f"{VERSION}."):
            raise EnvironmentFault(f"is Flink {found}", where=self.url, fix=f"name a cluster of Flink {VERSION}")

    # jobs

    def submit(self, jar: Path, main: str, arguments: Sequence[str], *, savepoint: str | None = None) -> str:
        """Run a main class of the jar on the cluster, and return the id of the job that it starts.

        Raises
        ------
        JobFailed
            If the cluster refuses it, with the cause in one line.
        """
        held = self._upload(jar)
        try:
            given: dict[str, Any] = {"entryClass": main, "programArgsList": list(arguments)}
            if savepoint:
                given["savepointPath"] = savepoint
            return str(self.ask(f"/jars/{quote(held)}/run", "POST", given, seconds=_SUBMIT_SECONDS)["jobid"])
        finally:
            self.ask(f"/jars/{quote(held)}", "DELETE")

    def _upload(self, jar: Path) -> str:
        edge = uuid.uuid4().hex
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="jarfile"; filename="{jar.name}"\r\nContent-Type: application/x-java-archive\r\n\r\n'
        )
        body = b"".join([head.encode(), jar.read_bytes(), f"\r\n--{edge}--\r\n".encode()])
        stored = self._send("/jars/upload", "POST", body, f"multipart/form-data; boundary={edge}", _SECONDS)
        return str(stored["filename"]).rpartition("/")[2]

    def jobs(self) -> list[dict[str, Any]]:
        """Return the cluster's jobs: `jid`, `name`, `state`, `start-time` and `end-time` in ms."""
        return list(self.ask("/jobs/overview")["jobs"])

    def job(self, job: str) -> dict[str, Any]:
        """Return what the cluster says of a job."""
        return dict(self.ask(f"/jobs/{job}"))

    def state(self, job: str) -> str:
        """Return a job's state: INITIALIZING, CREATED, RUNNING, FAILING, FAILED, RESTARTING, CANCELED, FINISHED."""
        return str(self.ask(f"/jobs/{job}/status")["status"])

    def ended(self, job: str) -> bool:
        """Return whether a job has finished or was cancelled.

        Raises
        ------
        JobFailed
            If it failed, with the cause in one line.
        """
        state = self.state(job)
        if state == "FAILED":
            raise self._failed(job)
        if state in _TRYING_AGAIN and _PROCESS.search(self._trace(job)):
            with suppress(HeadraceError):  # it would raise again, or has failed for good meanwhile
                self.cancel(job)
            raise self._failed(job)
        return state in _ENDED

    def _failed(self, job: str) -> JobFailed:
        give_up_at = time.monotonic() + _TOLD_SECONDS
        while not (trace := self._trace(job)) and time.monotonic() < give_up_at:
            time.sleep(0.5)  # the cluster tells for some seconds what it told before
        fix = None if _PROCESS.search(trace) else f"its log is that of {self.url}"
        return JobFailed(root_cause(trace) or "no cause is told", where=f"Flink job {job}", fix=fix)

    def cause(self, job: str) -> str | None:
        """Return why a job failed, in one line, if it did."""
        trace = self._trace(job)
        return root_cause(trace) if trace else None

    def _trace(self, job: str) -> str:
        """Return the trace of what a job failed at last."""
        entries = self.ask(f"/jobs/{job}/exceptions?maxExceptions=1").get("exceptionHistory", {}).get("entries", [])
        return str(entries[0]["stacktrace"]) if entries else ""

    def cancel(self, job: str) -> None:
        """Have a job end where it is."""
        self.ask(f"/jobs/{job}", "PATCH")

    def check_running(self, job: str) -> None:
        """Raise EnvironmentFault if a job has ended."""
        if (state := self.state(job)) not in RUNNING:
            raise EnvironmentFault(f"has ended: it is {state}", where=f"Flink job {job}", fix="headrace jobs list --running shows those that run")

    def savepoint(self, job: str, folder: str | None, *, stop: bool = False, drain: bool = False) -> str:
        """Ask for a savepoint, and return the number to ask its state with; `stop` ends the job with it, `drain` closes its windows before."""
        path = "stop" if stop else "savepoints"
        given: dict[str, Any] = {"drain": drain} if stop else {"cancel-job": False}
        if folder:
            given["targetDirectory" if stop else "target-directory"] = folder
        return str(self.ask(f"/jobs/{job}/{path}", "POST", given)["request-id"])

    def savepoint_at(self, job: str, request: str) -> str | None:
        """Return where a savepoint is, None while it is being made.

        Raises
        ------
        JobFailed
            If it could not be made.
        """
        told = self.ask(f"/jobs/{job}/savepoints/{request}")
        if told["status"]["id"] != "COMPLETED":
            return None
        operation = told["operation"]
        if "location" in operation:
            return str(operation["location"])
        cause = root_cause(operation.get("failure-cause", {}).get("stack-trace", ""))
        raise JobFailed(f"no savepoint: {cause}", where=f"Flink job {job}", fix="name a folder that the cluster can write")

    def metrics(self, job: str) -> Mapping[str, str]:
        """Return a job's own numbers, such as `numRestarts`, as the cluster writes them, with all their digits."""
        known = [one["id"] for one in self.ask(f"/jobs/{job}/metrics")]
        told = self.ask(f"/jobs/{job}/metrics?get={quote(','.join(known))}") if known else []
        return {one["id"]: str(one["value"]) for one in told if _NUMBER.fullmatch(one["value"])}


_NUMBER = re.compile(r"-?\d+(\.\d+)?(E-?\d+)?")
_CAUSE = re.compile(r"^(?:Caused by: )?([\w.$]+(?:Exception|Error|Throwable|Fault))(?::[ \t]*(.*))?$", re.MULTILINE)
_FRAME = re.compile(r"\n[ \t]+at (\S+)")
_PROCESS = re.compile(r"headrace\.errors\.ProcessError: (.*)")
_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_CHECKPOINTS = re.compile(r"Exceeded checkpoint tolerable failure threshold\. The latest checkpoint failed due to (.+?)\.?, view ", re.DOTALL)
_CONNECTOR = re.compile(r"Could not find any factory for identifier '(\w+)' that implements '[\w.]*DynamicTableFactory'")


def root_cause(trace: str) -> str:
    """Return the innermost cause that a Java trace names, in one line; what says more stands for what says nothing."""
    if missing := _CONNECTOR.search(trace):
        named = {"kafka": "flink-sql-connector-kafka-5.0.0-2.2.jar"}.get(missing[1], f"the jar of connector {missing[1]!r}")
        return f"the cluster lacks a connector: put {named} into the lib folder of Flink, on every machine, and start it again"
    if raised := _PROCESS.findall(trace):
        return " ".join(raised[-1].split())
    if lacking := _MODULE.findall(trace):
        return f"the Python of the cluster's workers lacks {lacking[-1]!r}: install it there, or name another in HEADRACE_FLINK_PYTHON"
    if failing := _CHECKPOINTS.search(trace):
        said = " ".join(failing[1].split())
        return f"no checkpoint can be made ({said}): look whether their disk is full or cannot be written; Flink's job manager says it in its log"
    if "Cannot map checkpoint/savepoint state for operator" in trace:
        return f"{UNMAPPED}: start from it the pipeline that made it, or start without it"
    if "BytesMap.initBucketSegments" in trace:
        return "a slot has too little managed memory for so many windows: raise taskmanager.memory.managed.size, or have fewer plans in a job"
    if "NoResourceAvailableException" in trace:
        return "the cluster has too few free slots: end a job, start another task manager, or run with a smaller --parallelism"
    causes = list(_CAUSE.finditer(trace))
    if not causes:
        return " ".join(trace.split())[:300]
    told = [
        (cause[1].rpartition(".")[2], " ".join((cause[2] or "").removesuffix(": Traceback (most recent call last):").split())) for cause in causes
    ]
    telling = [f"{kind}: {text}" for kind, text in told if text]
    kind, text = told[-1]
    if text:
        return telling[-1]
    at = _FRAME.match(trace, causes[-1].end())
    innermost = f"{kind} at {at[1]}" if at else kind
    # A text that only names the next cause tells nothing.
    outer = [one for one in telling if not one.endswith(causes[-1][1])]
    return f"{outer[-1]}, caused by {innermost}" if outer else innermost


def _kind(body: bytes) -> str:
    """Return what an answer is that is no JSON."""
    begins = body.lstrip()[:100].lower()
    return "HTML" if begins.startswith((b"<!doctype html", b"<html")) else f"{begins[:40].decode(errors='replace')!r}, which is no JSON"


def _refusal(url: str, code: int, body: bytes) -> HeadraceError:
    try:
        errors = "\n".join(map(str, json.loads(body)["errors"]))
    except (ValueError, LookupError, TypeError):
        what = f"what answers there is no Flink cluster: it sends status {code} and {_kind(body) if body.strip() else 'nothing'}"
        return EnvironmentFault(what, where=url, fix=_NO_CLUSTER)
    if code == 404 and "job" in errors.lower():
        return EnvironmentFault("has no such job", where=url, fix="`headrace jobs list --cluster URL` shows those it has")
    return JobFailed(root_cause(errors) or f"answers {code}", where=f"Flink at {url}")
