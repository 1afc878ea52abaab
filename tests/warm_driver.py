"""Does requests in one process, which stays warm (see `warm.py`): `warm_driver.py spark DRIVER FOLDER` or `warm_driver.py flink FOLDER`.

It runs in the engine's own Python and needs no headrace.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any


def spark(driver: str) -> Callable[[Any], None]:
    """Return what runs headrace's own driver of Spark, each time in a session of its own, all in one Spark context."""
    from pyspark import SparkContext

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the stop of a run, which may come when it has ended by itself
    SparkContext.stop = lambda _: None  # with the context its workers would go
    return partial(_with_settings, run=runpy.run_path(driver)["main"])


def _with_settings(asked: Any, run: Callable[..., None]) -> None:
    """Have the context, unless it is there, find its settings as if spark-submit had been given them."""
    from pyspark import SparkContext

    if SparkContext._active_spark_context is None:
        SparkContext._ensure_initialized()
        system = SparkContext._jvm.java.lang.System
        for key, value in asked["settings"].items():
            system.setProperty(key, value)
    run(*asked["arguments"])


def flink() -> Callable[[Any], Any]:
    """Return what runs a script that submits a job to Flink, and gives its status, what it printed, and its traceback."""
    return _submitted


def _submitted(asked: Any) -> tuple[int, str, str]:
    printed, failed = io.StringIO(), ""
    os.chdir(asked["folder"])
    sys.argv = asked["arguments"]
    try:
        with redirect_stdout(printed):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except Exception:  # noqa: BLE001  (whatever it is, it is the answer)
        failed = traceback.format_exc()
    return int(bool(failed)), printed.getvalue(), failed


def serve(folder: Path, do: Callable[[Any], Any]) -> None:
    """Wait for requests, and do them."""
    number = 0
    while True:
        request = folder / f"{number}.request"
        while not request.exists():
            time.sleep(0.05)
        answer = do(json.loads(request.read_text()))
        (folder / "answer").write_text(json.dumps(answer))
        (folder / "answer").rename(folder / f"{number}.done")
        number += 1


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with what started it
    kind, *given, folder = sys.argv[1:]
    try:
        serve(Path(folder), {"spark": spark, "flink": flink}[kind](*given))
    finally:
        Path(folder, "ended").touch()
