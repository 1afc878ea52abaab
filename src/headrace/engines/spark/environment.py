"""Spark itself, got on first use: PySpark in a virtual environment of its own, the jars of its Kafka connector, and the Python of processes."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from headrace.engines.environment import engines_folder, java, made, maven_jars, pip_install
from headrace.engines.spark.script import KAFKA, SPARK
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["checked_master", "kafka_jars", "process_python", "python_of", "spark_home"]

_MASTER = re.compile(r"local(\[.+\])?|local-cluster\[.+\]|yarn|k8s://.+|spark://(?P<addresses>[^/:,]+:\d+(,[^/:,]+:\d+)*)")
_CONNECT_SECONDS = 5.0

# What an author's process is run with: all that Spark 4.0 wants of its workers for it, and what headrace does.
_OF_PROCESSES = ("msgspec>=0.19", "pandas>=2.2,<3", "pyarrow>=15", "protobuf>=5.29,<8")


def checked_master(named: str | None) -> str:
    """Return Spark's master: the one that is named, else that of SPARK_MASTER, else this machine with all its cores.

    Raises
    ------
    PlanError
        If it is no address of a master.
    EnvironmentFault
        If no standalone master accepts a connection there.
    """
    master, where = named or os.environ.get("SPARK_MASTER") or "local[*]", "--cluster" if named else "SPARK_MASTER"
    found = _MASTER.fullmatch(master)
    if not found:
        raise PlanError(f"{master!r} is no master of Spark", where=where, fix="write spark://HOST:7077, yarn, k8s://URL or local[4]")
    if not (addresses := found["addresses"]):
        return master
    for address in addresses.split(","):
        host, _, port = address.partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            why = error
        else:
            return master
    raise EnvironmentFault(f"no master of Spark answers there: {why}", where=master, fix="start it, or name another with --cluster or SPARK_MASTER")


def spark_home(home: Path) -> Path:
    """Return Spark's folder, having got it if it was not there.

    Raises
    ------
    EnvironmentFault
        If there is no Java for it, or it cannot be had.
    """
    java("Spark", least=17)
    folder = made(engines_folder(home) / f"spark-{SPARK}", lambda aside: pip_install(aside / "python", f"pyspark=={SPARK}"))
    found = next(folder.glob("python/lib/python3*/site-packages/pyspark"), None)
    if found is None:
        raise EnvironmentFault("holds no PySpark", where=str(folder), fix="remove it, then run again: it is made anew")
    return found


def python_of(spark: Path) -> Path:
    """Return the Python that belongs to a Spark folder."""
    return spark.parents[3] / "bin" / "python"


def process_python(home: Path) -> Path:
    """Return the Python that processes are run with on this machine, having made its environment if it was not there.

    Raises
    ------
    EnvironmentFault
        If it cannot be had.
    """
    return made(engines_folder(home) / f"spark-{SPARK}-python", lambda aside: pip_install(aside / "python", *_OF_PROCESSES)) / "python/bin/python"


def kafka_jars(home: Path) -> list[Path]:
    """Return the jars with which Spark reads and writes Kafka, having got them if they were not there.

    Raises
    ------
    EnvironmentFault
        If they cannot be had.
    """
    folder = made(engines_folder(home) / f"spark-{SPARK}-kafka", lambda aside: maven_jars(aside, KAFKA))
    own = {jar.name for jar in (spark_home(home) / "jars").glob("*.jar")}
    return sorted(jar for jar in folder.glob("*.jar") if jar.name not in own)
