"""Runs scripts one after the other in one Spark session: `spark-submit driver.py JOBS RESULTS STOP`. It needs no headrace.

JOBS is a JSON list of `{"script": …, "arguments": […]}`; RESULTS gets a JSON object a line, `{"ledger": …}`, `{"error": …}` or, of an
author's process that failed, `{"process": …}`. When there is a file STOP this process is ended: a live script ends its queries then.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

# What a worker's Python says of a process: that it failed, or that a module is lacking.
_OF_PROCESS = re.compile(r"headrace\.errors\.ProcessError: (.+)")
_LAST_NAMED = re.compile(r"^\s*([\w.]*(?:Error|Exception): .+)", re.MULTILINE)
_DEEPEST = 50
_LACKING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


def told(error: BaseException) -> dict[str, str]:
    """Return what is said of an error: that a process failed, else the root cause in one line."""
    text = "".join(line for one in with_causes(error) for line in traceback.format_exception(one))
    if found := _OF_PROCESS.search(text):
        return {"process": found[1]}
    if found := _LACKING.search(text):
        return {"process": f"the Python of Spark's workers lacks module {found[1]!r}; install it there"}
    return {"error": reason(error)}


def with_causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the outermost first, as PySpark has them."""
    found = [error]
    while (cause := getattr(found[-1], "_cause", None)) is not None:
        found.append(cause)
    return found


def reason(error: BaseException) -> str:
    """Return the root cause of an error in one line."""
    error = with_causes(error)[-1]
    java = error.java_exception if isinstance(error, Py4JJavaError) else getattr(error, "_origin", None)
    if java is not None:
        text = root_cause(causes_of(java))
    elif isinstance(error, PySparkException):
        text = str(error.getMessage() or error)
    else:
        text = f"{type(error).__name__}: {error}"
    if "Traceback (most recent call last)" in text and (named := _LAST_NAMED.findall(text)):
        return str(named[-1])[:500]
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:500]


def causes_of(java: Any) -> list[tuple[str, str, str]]:  # noqa: ANN401  (an object of the JVM)
    """Return of a Java exception and its causes, the outermost first, the class, the text, which may be empty, and the place."""
    found: list[tuple[str, str, str]] = []
    while java is not None and len(found) < _DEEPEST:
        trace = java.getStackTrace()
        found.append((str(java.getClass().getName()), str(java.getMessage() or "").strip(), str(trace[0]) if len(trace) else ""))
        java = java.getCause()
    return found


def root_cause(causes: Sequence[tuple[str, str, str]]) -> str:
    """Return the innermost cause; of one without a text where it was raised, and the text of the nearest that has one."""
    kind, text, place = causes[-1]
    called = kind.rpartition(".")[2]
    if text:
        return f"{called}: {text}"
    innermost = f"{called} at {place}" if place else called
    # A text that only names the next cause tells nothing.
    outer = [(kind, text) for kind, text, _ in causes if text and not text.endswith(causes[-1][0])]
    return f"{outer[-1][0].rpartition('.')[2]}: {outer[-1][1].splitlines()[0]}, caused by {innermost}" if outer else innermost


def end_when_told(stop: Path, ended: Event) -> None:
    """Send SIGTERM to this process as soon as there is a file, unless all has ended: what comes to the JVM that started it does not come here."""
    while not stop.exists():
        if ended.wait(0.2):
            return
    os.kill(os.getpid(), signal.SIGTERM)


def main(jobs: str, results: str, stop: str) -> None:
    """Run the jobs."""
    ended = Event()
    Thread(target=end_when_told, args=[Path(stop), ended], daemon=True).start()
    with Path(results).open("w", encoding="utf-8") as written:
        for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
            try:
                written.write(json.dumps({"ledger": runpy.run_path(job["script"])["main"](job["arguments"])}) + "\n")
            except Exception as error:  # noqa: BLE001  (whatever it is, the other jobs go on)
                written.write(json.dumps(told(error)) + "\n")
            written.flush()
    ended.set()
    SparkSession.builder.getOrCreate().stop()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with the JVM that started it
    main(*sys.argv[1:])
