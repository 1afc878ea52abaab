"""Spark itself, got on first use: PySpark in a virtual environment of its own, the jars of its Kafka connector, and the Python of processes."""

from __future__ import annotations

from pathlib import Path

from headrace.engines.environment import engines_folder, java, made, maven_jars, pip_install
from headrace.engines.spark.script import KAFKA, SPARK
from headrace.errors import EnvironmentFault

__all__ = ["kafka_jars", "process_python", "python_of", "spark_home"]

# What an author's process is run with: all that Spark 4.0 wants of its workers for it, and what headrace does.
_OF_PROCESSES = ("msgspec>=0.19", "pandas>=2.2,<3", "pyarrow>=15", "protobuf>=5.29,<8")


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
