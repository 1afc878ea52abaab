"""Runs one request after the other in one JVM, which stays warm, each in a Spark context of its own: `spark-submit warm_driver.py FOLDER DRIVER`.

A request is a file `NUMBER.request` in FOLDER: the settings, and the arguments of DRIVER, headrace's own driver.
When it is done there is a file `NUMBER.done`, and `ended` when no other will be done. It needs no headrace.
"""

from __future__ import annotations

import ctypes
import json
import runpy
import signal
import sys
import time
from pathlib import Path

from pyspark import SparkContext


def begin(settings: dict[str, str]) -> None:
    """Have the next context find its settings as if spark-submit had been given them."""
    SparkContext._ensure_initialized()
    system = SparkContext._jvm.java.lang.System
    for key, value in settings.items():
        system.setProperty(key, value)


def main(folder: Path, driver: str) -> None:
    """Wait for requests, and do them."""
    run, number = runpy.run_path(driver)["main"], 0
    while True:
        request = folder / f"{number}.request"
        while not request.exists():
            time.sleep(0.05)
        asked = json.loads(request.read_text())
        begin(asked["settings"])
        run(*asked["arguments"])
        (folder / f"{number}.done").touch()
        number += 1


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with the JVM that started it
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    finally:
        Path(sys.argv[1], "ended").touch()
