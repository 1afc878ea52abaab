"""A real Flink cluster for tests: one for all workers of a test run.

`python tests/flink.py --fetch` gets Flink's jars, its Kafka connector and PyFlink into build/engines.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.engines import jar
from headrace.engines.environment import java
from headrace.engines.flink.client import Client, pyflink
from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.rest import Rest
from headrace.errors import HeadraceError
from keeper import keep, kept

BUILD = Path(__file__).parent.parent / "build"
SIZES = Sizes(slots=4, planning=1024, heap=1024, managed=2048, network=256)
JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


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


def client() -> Client:
    """Return what submits jobs with processes."""
    return Client.local(BUILD, kafka=True)


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    with Cluster(folder / uuid.uuid4().hex, fetched(BUILD, kafka=True), SIZES, JAVA) as cluster:
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
        keep(Path(sys.argv[1]), _serving(Path(sys.argv[1])))
