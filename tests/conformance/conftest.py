"""The engines under test. Each runs its jobs once, whatever the number of workers, and every test is handed its outcome.

The clusters' runs take minutes: they begin when tests are collected, in processes of their own beside all other tests. Of the cases they have a sample,
unless tests are among the selected ones that read what is not in it, which are long.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from conformance import suite
from conformance.engine import Embedded, Engine
from conformance.on_flink import Flink
from conformance.on_spark import Spark
from headrace.engines.environment import end_with_parent

ENGINES: list[Engine] = [Embedded(), Flink(), Spark()]


@pytest.fixture(scope="session", params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    if (why := request.param.missing()) is not None:
        pytest.skip(f"{request.param.name}: {why}")
    return request.param


def _folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "conformance"


def _is_reader(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Return whether a test reads the outcomes of an engine."""
    return isinstance(item, pytest.Function) and {"engine", "outcomes"} <= {*item.fixturenames}


def _whole(session: pytest.Session) -> bool:
    """Return whether any selected test reads outcomes that only whole runs have."""
    return any(item.get_closest_marker("long") for item in session.items if _is_reader(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark as long what reads outcomes that only whole runs have, and put all that read some last: the runs go on beside all other tests."""
    for item in filter(_is_reader, items):
        params = item.callspec.params
        if params.get("name") in suite.left_out(params["engine"].name):
            item.add_marker(pytest.mark.long)
    yield  # tests are left out by their marks, and put together by their fixtures
    items.sort(key=_is_reader)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the runs of clusters whose outcomes tests will read, unless another worker does."""
    if session.config.option.collectonly or os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        return
    read = {item.callspec.params["engine"] for item in filter(_is_reader, session.items)}
    more = ["whole"] if _whole(session) else []
    folder = _folder(session.config._tmp_path_factory)
    folder.mkdir(exist_ok=True)
    for engine in ENGINES[1:]:
        if engine in read and engine.missing() is None:
            with (folder / f"{engine.name}.log").open("ab") as log:
                running = subprocess.Popen(
                    [sys.executable, __file__, engine.name, folder, *more],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=end_with_parent,  # noqa: PLW1509  (a call of C and nothing else)
                )
                running.returncode = 0  # no one waits for it: its outcomes are waited for


@pytest.fixture(scope="session")
def outcomes(engine: Engine, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> suite.Outcomes:
    return suite.outcomes(engine, _folder(tmp_path_factory), _whole(request.session))


if __name__ == "__main__":
    suite.outcomes(next(one for one in ENGINES if one.name == sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["whole"])
