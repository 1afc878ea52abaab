"""The Spark that tests run on: HEADRACE_ENGINES, else build/engines, got once with `python tests/spark.py --fetch`."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from headrace.apps.fingerprint import fingerprint
from headrace.engines import jar
from headrace.engines.spark import run as spark_run
from headrace.engines.spark.environment import kafka_jars, process_python, spark_home
from headrace.engines.spark.script import SPARK
from headrace.errors import EnvironmentFault
from keeper import keep, kept
from one_jar import merge as merge_jars
from warm import ask, serving

TESTS = Path(__file__).parent
FOLDER = Path(os.environ.get("HEADRACE_ENGINES") or TESTS.parent / "build" / "engines")
HOME = FOLDER.parent
ARCHIVE = FOLDER / f"spark-{SPARK}.jsa"  # Spark's classes as Java maps them into memory: a session starts with half the CPU
# Sessions are short. Where there is one compiler only, Java has 48 MB for compiled code, and compiles again what it dropped.
SHORT = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -Xmn300m -Dspark.sql.ui.explainMode=simple"
JAVA_OPTIONS = f"{SHORT} -XX:SharedArchiveFile={ARCHIVE} -Xlog:disable" if ARCHIVE.exists() else SHORT  # one of another Java is passed over
os.environ.setdefault("SPARK_SUBMIT_OPTS", JAVA_OPTIONS)
# Of Spark's 280 jars: Kubernetes, Hive, YARN and ZooKeeper, learning and graphs. Those of logging look for their parts by their own lists.
_UNUSED = re.compile(
    r"kubernetes|vertx|zjsonpatch|hive-(?!storage)|spark-(hive|mllib|graphx|yarn|kubernetes|repl|connect)|datanucleus|derby|HikariCP|libthrift|curator|zookeeper"
    r"|breeze|spire|algebra|cats-|arpack|blas|lapack|JTransforms|JLargeArrays|scala-compiler|tink"
)
_APART = re.compile(r"log4j|slf4j|jul-to|jcl-over")


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


WARM = "spark"  # one JVM for the runs of many tests: of the half minute of CPU that a session takes, most is Java becoming warm


@contextmanager
def java_options(*more: str) -> Iterator[None]:
    """Start the sessions that begin meanwhile with these options of Java too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_SUBMIT_OPTS", " ".join([os.environ["SPARK_SUBMIT_OPTS"], *more]))
        yield


def merge() -> None:
    """Put Spark's jars into one, without what plans never use; those for Kafka stay the ones that Spark lacks."""
    if missing() is not None:
        return
    for_kafka = kafka_jars(HOME)
    for jar_of_both in {*for_kafka[0].parent.glob("*.jar")} - {*for_kafka}:
        jar_of_both.unlink()
    merge_jars(spark_home(HOME) / "jars", "spark.jar", _UNUSED, _APART)


def archive() -> None:
    """Make the archive of classes, from a run of Spark, unless it is there."""
    if missing() is not None or ARCHIVE.exists():
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        readings = folder / "sensor-data.ndjson"
        readings.write_text('{"equip_id":"KILN1","timestamp":1706123456000,"sensors":{"temp":1.0}}\n')
        os.environ["SPARK_SUBMIT_OPTS"] = f"{SHORT} -XX:ArchiveClassesAtExit={folder}/archive.jsa -Xlog:disable"
        spark_run.run_files(fingerprint.plan(), {"sensor-data": [readings]}, folder / "out", master="local[2]", home=HOME)
        shutil.move(folder / "archive.jsa", ARCHIVE)


def _option(command: Sequence[str], name: str) -> list[str]:
    return [value for option, value in pairwise(command) if option == name]


def _serving(folder: Path) -> AbstractContextManager[str]:
    """Start the JVM, which gives the folder for its requests."""
    spark, python = spark_home(HOME), str(process_python(HOME))
    path = os.pathsep.join(map(str, [TESTS.parent / "src", TESTS]))  # the modules of processes are found where they are
    jars = ",".join(map(str, [jar.path(), *kafka_jars(HOME)]))
    command = [str(spark / "bin" / "spark-submit"), "--master", "local[2]", "--jars", jars]
    command += [str(TESTS / "warm_driver.py"), "spark", str(Path(spark_run.__file__).with_name("driver.py"))]
    environment = {"SPARK_HOME": str(spark), "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python, "PYTHONPATH": path}
    environment["SPARK_LOCAL_DIRS"] = str(folder / "local")  # those of its first run go with that
    return serving(folder, command, environment)


def _ask(folder: Path, command: Sequence[str], stop: Callable[[], bool], stopped: Path, seconds: float) -> bool:
    """Have a command of headrace's done by the JVM that is kept, and wait for its end. Return whether it was told to stop."""

    def told() -> None:
        if not stopped.exists() and stop():
            stopped.touch()

    settings = dict(one.split("=", 1) for one in _option(command, "--conf"))
    ask(folder, {"settings": settings, "arguments": command[-3:]}, seconds, told)
    return stopped.exists()


@pytest.fixture(scope="session")
def spark_requests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Return what gives the folder for requests to the JVM that all workers share, and starts it if it must."""
    with ExitStack() as held:
        yield cache(lambda: Path(held.enter_context(kept(WARM, __file__, tmp_path_factory))))


@contextmanager
def warm(requests: Callable[[], Path], *, processes: bool, seconds: float = 1200) -> Iterator[None]:
    """Have those runs on this machine's cores which have processes, or those which have none, done by the JVM that is kept.

    A run that is stopped there must be a live one that is at work: nothing else is ended by its stop.
    """
    before = spark_run._run

    def run(command: Sequence[str], environment: Mapping[str, str], log: Path, stop: Callable[[], bool], stopped: Path) -> bool:
        local, hosting = _option(command, "--master")[0].startswith("local["), bool(_option(command, "--py-files"))
        if not local or hosting != processes or stop():
            return before(command, environment, log, stop, stopped)
        return _ask(requests(), command, stop, stopped, seconds)

    with pytest.MonkeyPatch.context() as patch:
        if missing_for_processes() is None and list(FOLDER.glob("spark-*-kafka")):
            patch.setattr(spark_run, "_run", run)
        yield


@contextmanager
def one_jvm(folder: Path, seconds: float) -> Iterator[None]:
    """Have all runs on this machine's cores, each of so many seconds at most, done by one JVM, which keeps its files in `folder`."""
    with _serving(folder) as address:
        requests = Path(address)
        with warm(lambda: requests, processes=False, seconds=seconds), warm(lambda: requests, processes=True, seconds=seconds):
            yield


@pytest.fixture(scope="module")
def warm_spark(spark_requests: Callable[[], Path]) -> Iterator[None]:
    """Have runs without processes done by one JVM."""
    with warm(spark_requests, processes=False):
        yield


@pytest.fixture
def warm_processes(spark_requests: Callable[[], Path]) -> Iterator[None]:
    """Have runs with processes done by it too; its Pythons find the modules where they are. Without this they get an archive."""
    with warm(spark_requests, processes=True):
        yield


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
    """Return a dead letter without what engines say differently: why a text is not JSON, and which unit a number looks like."""
    detail = re.sub(r": -?\d+ looks like .*", "", letter["detail"])
    return letter | {"detail": detail.split(":")[0] if detail.startswith("not JSON") else detail}


if __name__ == "__main__":
    if sys.argv[1:] != ["--fetch"]:
        keep(Path(sys.argv[1]), _serving(Path(sys.argv[1])))
        sys.exit()
    os.environ["HEADRACE_ENGINES"] = str(FOLDER)
    try:
        spark_home(HOME)
        kafka_jars(HOME)
        process_python(HOME)
        merge()
        archive()
    except EnvironmentFault as error:
        print(f"tests on Spark will be skipped: {error}")
