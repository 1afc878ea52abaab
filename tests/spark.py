"""The Spark that tests run on: HEADRACE_ENGINES, else build/engines, got once with `python tests/spark.py --fetch`."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from headrace.engines import jar
from headrace.engines.spark.environment import kafka_jars, process_python, spark_home
from headrace.engines.spark.script import SPARK
from headrace.errors import EnvironmentFault

FOLDER = Path(os.environ.get("HEADRACE_ENGINES") or Path(__file__).parent.parent / "build" / "engines")
HOME = FOLDER.parent
JAVA_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # sessions are short: half the CPU
os.environ.setdefault("SPARK_SUBMIT_OPTS", JAVA_OPTIONS)


def missing() -> str | None:
    """Return what there is not that Spark needs, and how to get it."""
    if not shutil.which("java"):
        return "no java (17 or newer) to run Spark with; Debian: apt install openjdk-17-jdk-headless"
    if not (FOLDER / f"spark-{SPARK}").exists():
        return "Spark is not in build/engines; get it: python tests/spark.py --fetch"
    try:
        jar.path()
    except EnvironmentFault as fault:
        return str(fault)
    return None


def missing_for_processes() -> str | None:
    """Return the same of a plan with processes."""
    if not (FOLDER / f"spark-{SPARK}-python").exists():
        return missing() or "the Python of processes is not in build/engines; get it: python tests/spark.py --fetch"
    return missing()


def same(got: Any, expected: Any) -> bool:
    """Return whether two JSON values are equal, doubles to 9 digits, in the order of their keys."""
    if isinstance(got, float) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=1e-9)
    if isinstance(got, dict) and isinstance(expected, dict):
        return list(got) == list(expected) and all(same(got[key], expected[key]) for key in got)
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    return type(got) is type(expected) and got == expected


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def plain(letter: dict[str, Any]) -> dict[str, Any]:
    """Return a dead letter without why a text is not JSON: each engine's parser says that in its own words."""
    return letter | {"detail": letter["detail"].split(":")[0] if letter["detail"].startswith("not JSON") else letter["detail"]}


if __name__ == "__main__":
    if sys.argv[1:] != ["--fetch"]:
        sys.exit(__doc__)
    os.environ["HEADRACE_ENGINES"] = str(FOLDER)
    try:
        spark_home(HOME)
        kafka_jars(HOME)
        process_python(HOME)
    except EnvironmentFault as error:
        print(f"tests on Spark will be skipped: {error}")
