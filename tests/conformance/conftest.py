"""The engines under test. Each runs all jobs once, whatever the number of workers, and every test is handed its outcome."""

from __future__ import annotations

import os

import pytest

from conformance import suite
from conformance.engine import Embedded, Engine
from conformance.on_flink import Flink
from conformance.on_spark import Spark

ENGINES: list[Engine] = [Embedded(), Flink(), Spark()]


@pytest.fixture(scope="session", params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    if (why := request.param.missing()) is not None:
        pytest.skip(f"{request.param.name}: {why}")
    return request.param


@pytest.fixture(scope="session")
def outcomes(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> suite.Outcomes:
    folder = tmp_path_factory.getbasetemp()
    return suite.outcomes(engine, (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "conformance")
