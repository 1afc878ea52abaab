"""The alarm budget as a gate: a pipeline whose recorded backtest breaks it goes live only if somebody insists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from calling import called
from headrace.cli.apps import plan_of
from headrace.cli.proven import check_proven
from headrace.errors import EnvironmentFault
from running_plant import LIMIT, up
from waiting import wait_for

START = 1_767_254_400_000  # 2026-01-01T08:00:00Z
Run = Callable[..., tuple[int, str, str]]

GUARD = """
import headrace as hr

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}
LIMITS = [{"tag": "a/P1", "definition": "H", "kind": "H", "limit": 90}]


@hr.pipeline("guard", version="1")
def guard(on_delay: float = 0.0):
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return hr.alarm(readings, [{**one, "on_delay": on_delay} for one in LIMITS], hr.alarm_commands()).topics()
"""
BACKTEST = ("backtest", "guard.py", "--input", "readings=readings.ndjson", "--labels", "labels.csv", "--budget", "budget.toml")
BROKEN = "breaks the alarm budget budget.toml: false_alarms_per_day; change it until headrace backtest keeps the budget, or give --unproven to insist"
UNPROVEN = Path("home/backtests/guard/recorded/unproven.ndjson")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    Path("guard.py").write_text(GUARD)
    values = [(0, 75.0), (100, 95.0), (101, 75.0), (200, 95.0), (260, 75.0), (3_600, 75.0)]
    rows = [json.dumps({"tag": "a/P1", "time": START + second * 1000, "value": value}) for second, value in values]
    Path("readings.ndjson").write_text("\n".join(rows))
    Path("labels.csv").write_text("start,end,name\n2026-01-01T08:03:20Z,2026-01-01T08:04:20Z,trip\n")
    Path("budget.toml").write_text("event_recall = 1\nfalse_alarms_per_day = 1\n")
    Path("headrace.toml").write_text('[plant]\nname = "north"\nexternal = ["readings", "alarm-commands"]\n\n[[pipeline]]\napp = "guard.py"\n')


def test_a_job_is_refused_whose_recorded_backtest_breaks_the_budget(run: Run) -> None:
    for topic in ("readings", "alarm-commands"):
        assert run("topics", "create", topic)[0] == 0
    assert run(*BACKTEST)[0] == 1
    job = ("jobs", "submit", "guard.py", "--until", "latest")
    status, out, err = run(*job)
    assert (status, out, BROKEN in err) == (2, "", True), err
    assert not UNPROVEN.exists()
    assert not Path("home/jobs").exists()

    status, out, err = run(*job, "--unproven")
    assert (status, err) == (0, "")
    wait_for(lambda: "RUNNING" not in run("jobs", "status", out.strip())[1], "the job's end", seconds=LIMIT)
    assert "FINISHED" in run("jobs", "status", out.strip())[1]
    (insisted,) = map(json.loads, UNPROVEN.read_text().splitlines())
    assert (insisted["broken"], insisted["settings"]) == (["false_alarms_per_day"], {"on_delay": "0.0"})
    assert insisted["by"]

    assert run(*BACKTEST, "--set", "on_delay=5")[0] == 0
    refused = run("jobs", "submit", "guard.py", "--until", "latest", "--output-format", "parquet")
    assert (refused[0], BROKEN in refused[2]) == (2, False), "what is wrong otherwise comes first"
    assert run(*job)[0] == 2, "the backtest of another setting proves nothing for this one"


def test_a_plant_is_refused_whose_recorded_backtest_breaks_the_budget(run: Run) -> None:
    assert run(*BACKTEST)[0] == 1
    refused = called("up")
    assert (refused.returncode, BROKEN in refused.stderr) == (2, True), refused.stderr
    with up("--unproven") as running:
        running.wait_for(lambda: "running" in running.states("guard"), "the pipeline")
        assert running.end() == 0
    assert len(UNPROVEN.read_text().splitlines()) == 1

    Path("guard.py").write_text(GUARD.replace('"limit": 90', '"limit": 96'))
    with up() as running:
        says = "pipeline guard: has changed since its backtest, and its alarms are not known to keep the budget"
        running.wait_for(lambda: says in running.lines.read_text(), "the note of a change")
        running.wait_for(lambda: running.states("guard").count("running") == 2, "the changed pipeline")
        Path("guard.py").write_text(GUARD)
        status, _, err = run("reload")
        assert (status, BROKEN in err, "the plant goes on as it was" in err) == (2, True, True), err
        assert running.end() == 0
    assert len(UNPROVEN.read_text().splitlines()) == 1


def test_a_pipeline_that_keeps_its_budget_needs_nobody_to_insist(run: Run) -> None:
    Path("budget.toml").write_text("event_recall = 1\n")
    assert run(*BACKTEST)[0] == 0
    (recorded,) = Path("home/backtests/guard/recorded").iterdir()
    assert json.loads(recorded.read_text())["broken"] == []
    check_proven([plan_of("guard.py", [])], unproven=False)
    recorded.write_text("{")
    with pytest.raises(EnvironmentFault, match=r"cannot be read: .*; remove it, and run headrace backtest again"):
        check_proven([plan_of("guard.py", [])], unproven=False)
