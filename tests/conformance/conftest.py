"""The engines under test. Each runs all jobs once, whatever the number of workers, and every test is handed its outcome.

The clusters' runs take minutes: they begin when tests are collected, in processes of their own beside all other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the runs of clusters whose outcomes tests will read, unless another worker does."""
    if session.config.option.collectonly or os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        return
    readers = [item for item in session.items if isinstance(item, pytest.Function) and {"engine", "outcomes"} <= {*item.fixturenames}]
    read = {item.callspec.params["engine"] for item in readers}
    folder = _folder(session.config._tmp_path_factory)
    folder.mkdir(exist_ok=True)
    for engine in ENGINES[1:]:
        if engine in read and engine.missing() is None:
            with (folder / f"{engine.name}.log").open("ab") as log:
                running = subprocess.Popen(
                    [sys.executable, __file__, engine.name, folder],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=end_with_parent,  # noqa: PLW1509  (a call of C and nothing else)
                )
                running.returncode = 0  # no one waits for it: its outcomes are waited for


@pytest.fixture(scope="session")
def outcomes(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> suite.Outcomes:
    return suite.outcomes(engine, _folder(tmp_path_factory))


if __name__ == "__main__":
    suite.outcomes(next(one for one in ENGINES if one.name == sys.argv[1]), Path(sys.argv[2]))
