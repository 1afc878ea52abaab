"""The jar with what headrace puts into Flink and Spark: built from `java/`, shipped in the wheel."""

from __future__ import annotations

from pathlib import Path

from headrace.errors import EnvironmentFault

__all__ = ["path"]


def path() -> Path:
    """Return where the jar is.

    Raises
    ------
    EnvironmentFault
        If it was not built, as in a checkout.
    """
    jar = Path(__file__).parent / "headrace-engines.jar"
    if not jar.is_file():
        raise EnvironmentFault("headrace's jar for Flink and Spark is missing", where=str(jar), fix="build it: make java")
    return jar
