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
from headrace.engines.spark.environment import kafka_jars, process_python, python_of, spark_home
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


# One JVM for the runs of many tests, and one for those with processes: of the half minute of CPU that a session takes, most is Java becoming warm.
PLAIN, HOSTING = "spark", "spark-processes"


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
    spark = spark_home(HOME)
    python, path = python_of(spark), {}
    if folder.name == HOSTING:  # their modules are found where they are
        python, path = str(process_python(HOME)), {"PYTHONPATH": os.pathsep.join(map(str, [TESTS.parent / "src", TESTS]))}
    jars = ",".join(map(str, [jar.path(), *kafka_jars(HOME)]))
    command = [str(spark / "bin" / "spark-submit"), "--master", "local[2]", "--jars", jars]
    command += [str(TESTS / "warm_driver.py"), "spark", str(Path(spark_run.__file__).with_name("driver.py"))]
    environment = {"SPARK_HOME": str(spark), "PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python), **path}
    environment["SPARK_LOCAL_DIRS"] = str(folder / "local")  # those of its first run, which a JVM uses for ever, go with that run
    return serving(folder, command, environment)


def _ask(folder: Path, command: Sequence[str]) -> None:
    """Have a command of headrace's done by the JVM that is kept, and wait for its end."""
    settings = dict(one.split("=", 1) for one in _option(command, "--conf"))
    ask(folder, {"settings": {"spark.master": _option(command, "--master")[0], **settings}, "arguments": command[-3:]})


@pytest.fixture(scope="session")
def spark_requests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Return what gives the folder for requests to a JVM that all workers share, and starts it if it must."""
    with ExitStack() as held:
        yield cache(lambda name: Path(held.enter_context(kept(name, __file__, tmp_path_factory))))


@contextmanager
def warm(name: str, requests: Callable[[str], Path]) -> Iterator[None]:
    """Have those runs on this machine's cores which have processes, or those which have none, done by the JVM that is kept."""
    before = spark_run._run

    def run(command: Sequence[str], environment: Mapping[str, str], log: Path, stop: Callable[[], bool], stopped: Path) -> bool:
        local, hosting = _option(command, "--master")[0].startswith("local["), bool(_option(command, "--py-files"))
        if not local or hosting != (name == HOSTING) or stop is not spark_run.never:  # the stop of a run would end the JVM too
            return before(command, environment, log, stop, stopped)
        _ask(requests(name), command)
        return False

    with pytest.MonkeyPatch.context() as patch:
        if missing() is None and list(FOLDER.glob("spark-*-kafka")):
            patch.setattr(spark_run, "_run", run)
        yield


@pytest.fixture(scope="module")
def warm_spark(spark_requests: Callable[[str], Path]) -> Iterator[None]:
    """Have runs without processes done by one JVM."""
    with warm(PLAIN, spark_requests):
        yield


@pytest.fixture
def warm_processes(spark_requests: Callable[[str], Path]) -> Iterator[None]:
    """Have runs with processes done by one JVM, whose Pythons find the modules where they are; without this they get an archive."""
    with warm(HOSTING, spark_requests):
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
