"""What the tests of connectors share: a broker, a home with its log, and runners that try again at once."""

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
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, and return the home there."""
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".headrace"


@pytest.fixture
def log(home: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(home / "log.db")) as one:
        yield one


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a runner try again at once."""
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.0005)
    monkeypatch.setattr(retries, "MOST_SECONDS", 0.002)
