"""Runs scripts one after the other in one Spark session: `spark-submit driver.py JOBS RESULTS`. It needs no headrace.

JOBS is a JSON list of `{"script": …, "arguments": […]}`; RESULTS gets a JSON object a line, `{"ledger": …}` or `{"error": …}`.
"""

from __future__ import annotations

import ctypes
import json
import runpy
import signal
import sys
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession


def reason(error: BaseException) -> str:
    """Return the root cause of an error in one line."""
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while cause.getCause() is not None:
            cause = cause.getCause()
        text = f"{cause.getClass().getSimpleName()}: {cause.getMessage()}"
    elif isinstance(error, PySparkException):
        text = str(getattr(error, "getMessage", lambda: error)() or error)
        origin = getattr(error, "_origin", None)
        while origin is not None and origin.getCause() is not None:
            origin = origin.getCause()
            text = f"{origin.getClass().getSimpleName()}: {origin.getMessage()}"
    else:
        text = f"{type(error).__name__}: {error}"
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:500]


def main(jobs: str, results: str) -> None:
    """Run the jobs."""
    with Path(results).open("w", encoding="utf-8") as told:
        for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
            try:
                told.write(json.dumps({"ledger": runpy.run_path(job["script"])["main"](job["arguments"])}) + "\n")
            except Exception as error:  # noqa: BLE001  (whatever it is, the other jobs go on)
                told.write(json.dumps({"error": reason(error)}) + "\n")
            told.flush()
    SparkSession.builder.getOrCreate().stop()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with the JVM that started it
    main(*sys.argv[1:])
