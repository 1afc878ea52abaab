"""The broker that the tests of connectors share, a log, and runners that try again at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker import kafka
from headrace.connectors import retries
from headrace.topics.sqlite import SqliteLog

__all__ = ["kafka"]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "home/log.db")) as one:
        yield one


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a runner try again at once."""
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.0005)
    monkeypatch.setattr(retries, "MOST_SECONDS", 0.002)
