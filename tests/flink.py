"""A real Flink cluster for tests: one for all workers of a test run, and one process that submits their jobs with processes.

`python tests/flink.py --fetch` gets Flink's jars, its Kafka connector and PyFlink into build/engines.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest

import warm
from headrace.engines import jar
from headrace.engines.environment import java
from headrace.engines.flink.client import Client, planning, pyflink
from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.rest import Rest
from headrace.errors import HeadraceError
from keeper import keep, kept

BUILD = Path(__file__).parent.parent / "build"
SIZES = Sizes(slots=4, planning=1024, heap=1024, managed=2048, network=256)
# A job waits for slots that live jobs of other workers hold, or that a task manager will have when it has started: Flink fails
# one at once that finds too few free slots when the time in which task managers may still come is over.
PATIENT = {"slot.request.timeout": "20 min", "resourcemanager.standalone.start-up-time": "4 h"}
# To split generated methods for the JIT takes a good part of the time of planning; a cluster that tests kill does it, as a user's does.
UNSPLIT = {"table.generated-code.max-length": "1000000"}
# Where there is one compiler only, Java has 48 MB for compiled code, and compiles again what it dropped.
CODE = "-XX:ReservedCodeCacheSize=240m"
JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", CODE)


def missing() -> str | None:
    """Return what there is not that Flink needs, and how to get it."""
    try:
        java("Flink")
        jar.path()
    except HeadraceError as error:
        return str(error)
    if not (BUILD / "engines").exists():
        return "Flink's jars are not in build/engines; get them: python tests/flink.py --fetch"
    try:
        fetched(BUILD, kafka=True)
        pyflink(BUILD)
    except HeadraceError as error:
        return str(error)
    return None


# Most of the ten seconds of CPU that a submission takes is Java becoming warm.
CLIENT = "flink-client"


def client() -> Client:
    """Return what submits jobs with processes."""
    return Client(BUILD, kafka=True, workers=str(pyflink(BUILD)), sends_python=False)


@contextmanager
def warm_client(folder: Callable[[], Path]) -> Iterator[None]:
    """Have scripts that submit jobs run by the process that does the requests of a folder."""

    def run(_: Client, command: Sequence[str], environment: Mapping[str, str], folder_of_run: Path) -> tuple[int, str, str]:  # noqa: ARG001  (that of the process)
        status, printed, failed = warm.ask(folder(), {"arguments": command[1:], "folder": str(folder_of_run)})
        return status, printed, failed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_run", run)
        yield


def submitting(folder: Path) -> AbstractContextManager[str]:
    """Start a process that submits jobs, which gives the folder for its requests."""
    modules = os.pathsep.join(map(str, [BUILD.parent / "src", BUILD.parent / "tests"]))
    planned = planning(fetched(BUILD, kafka=True), folder)
    environment = {"PYTHONPATH": modules, **planned, "JVM_ARGS": f"{planned['JVM_ARGS']} {CODE}"}
    return warm.serving(folder, [str(pyflink(BUILD)), str(BUILD.parent / "tests" / "warm_driver.py"), "flink"], environment)


@pytest.fixture(scope="session")
def flink_requests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Return what gives the folder for requests to the process that submits the jobs of all workers, and starts it if it must."""
    with ExitStack() as held:
        yield cache(lambda: Path(held.enter_context(kept(CLIENT, __file__, tmp_path_factory))))


@pytest.fixture(scope="module")
def warm_flink(flink_requests: Callable[[], Path]) -> Iterator[None]:
    """Have jobs with processes submitted by one process; without this each is by one of its own, as a user's is."""
    with warm_client(flink_requests):
        yield


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    with Cluster(folder / uuid.uuid4().hex, fetched(BUILD, kafka=True), SIZES, JAVA, PATIENT | UNSPLIT) as cluster:
        yield cluster.rest.url


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    """Return the cluster that all tests share."""
    if (why := missing()) is not None:
        pytest.skip(why)
    with kept("flink", __file__, tmp_path_factory) as url:
        yield Rest(url)


if __name__ == "__main__":
    if sys.argv[1:] == ["--fetch"]:
        try:
            fetched(BUILD, kafka=True)
            pyflink(BUILD)
            jar.path()
        except HeadraceError as error:
            print(f"tests on Flink will be skipped: {error}")
    else:
        folder = Path(sys.argv[1])
        keep(folder, submitting(folder) if folder.name == CLIENT else _serving(folder))
