"""The health file of commands that go on."""

from __future__ import annotations

import signal

import pytest

from forking import started
from headrace.cli import main
from headrace.cli.heartbeat import heartbeat
from headrace.cli.stopping import asked_to_stop
from headrace.errors import EnvironmentFault
from waiting import wait_for


@pytest.fixture
def health(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_HEALTH_FILE", str(tmp_path / "alive"))
    return tmp_path / "alive"


def test_a_loop_that_asks_whether_to_stop_is_alive(health):
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    try:
        stop = asked_to_stop()
        assert not health.exists()
        assert not stop()
        assert health.exists()
    finally:
        for one, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(one, handler)


def test_without_the_variable_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.delenv("HEADRACE_HEALTH_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    heartbeat()()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_said_with_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADRACE_HEALTH_FILE", str(tmp_path / "no" / "alive"))
    with pytest.raises(EnvironmentFault, match=r"HEADRACE_HEALTH_FILE .*alive: cannot be written"):
        heartbeat()()


@pytest.mark.parametrize(
    "command",
    [["run", "fingerprint"], ["run", "fingerprint:saver", "--output", "files"], ["simulate", "kiln", "--to", "topic:sensor-data"]],
    ids=["pipeline", "saver", "generator"],
)
def test_each_service_of_the_stack_beats(health, tmp_path, monkeypatch, command):
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    for topic in ("sensor-data", "fingerprint-output"):
        assert main(["topics", "create", topic]) == 0
    health.unlink(missing_ok=True)
    run = started(*command, cwd=tmp_path)
    try:
        first = wait_for(lambda: health.exists() and health.stat().st_mtime_ns, "the first beat", seconds=400)
        wait_for(lambda: health.stat().st_mtime_ns > first, "the next beat", seconds=400)
    finally:
        run.terminate()
        assert run.wait(120) == 0
