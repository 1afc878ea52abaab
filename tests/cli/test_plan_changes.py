"""`headrace plan APP --changes`: what a changed pipeline would keep, before it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.test_doctor import PIPELINE
from headrace.cli import main
from headrace.cli.apps import plan_of
from headrace.engines.flink.kept import Kept


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    Path("own.py").write_text(PIPELINE)
    return tmp_path


@pytest.fixture
def committed() -> None:
    assert main(["topics", "create", "readings"]) == 0
    rows = [{"k": "a", "t": 1_700_000_000_000 + second * 1_000, "v": 2.0} for second in range(90)]
    Path("rows.ndjson").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["topics", "append", "readings", "rows.ndjson"]) == 0
    assert main(["run", "own.py", "--records", "90"]) == 0


def said(capsys: pytest.CaptureFixture[str], *more: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["plan", "own.py", "--changes", *more]) == status
    told = capsys.readouterr()
    return told.out if status == 0 else told.err


def test_a_pipeline_that_has_committed_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == "pipeline means has committed nothing yet\n"
    assert main(["topics", "create", "readings"]) == 0
    assert said(capsys) == "pipeline means has committed nothing yet\n"


@pytest.mark.usefixtures("committed")
def test_what_would_be_kept_is_told_and_nothing_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == "pipeline means has not changed since its last commit\n"
    for _ in range(2):
        assert said(capsys, "--set", "limit=3") == (
            "pipeline means has changed since its last commit\n  setting limit: 1.0 → 3.0\n  window:k: keeps its state\n"
        )
    Path("own.py").write_text(PIPELINE.replace('"means": readings', '"raw": readings.select("k"), "means": readings'))
    assert "expressions, columns or outputs have changed" in said(capsys)
    Path("own.py").write_text(PIPELINE.replace("minutes(1)", "minutes(2)"))
    assert "window:k cannot keep its state: window changed from tumbling 0:01:00 to tumbling 0:02:00" in said(capsys, status=1)


def test_what_a_job_on_flink_left_is_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_flink = ("--engine", "flink")
    assert said(capsys, *on_flink) == "pipeline means has no savepoint or checkpoint on Flink yet\n"
    plan, job = plan_of("own.py", []), "4f3d" * 8
    kept = Kept.of(plan, folder / ".headrace")
    kept.note(plan, lambda: job, bounded=False)
    left = kept.folder / f"checkpoints/{job}/chk-7"
    left.mkdir(parents=True)
    (left / "_metadata").touch()
    assert said(capsys, *on_flink) == "pipeline means has not changed since the job on Flink that left chk-7\n"
    changed = "pipeline means has changed since the job on Flink that left chk-7\n  setting limit: 1.0 → 3.0\n  window:k: keeps its state\n"
    assert said(capsys, *on_flink, "--set", "limit=3") == changed
    Path("own.py").write_text(PIPELINE.replace('"means": readings', '"raw": readings.select("k"), "means": readings'))
    assert said(capsys, *on_flink).endswith("open windows use the new ones from here on\n  window:k: keeps its state\n")
    Path("own.py").write_text(PIPELINE.replace('"means": readings', '"other": readings'))
    assert "output means of window:k no longer exists; run it as it was, or start with --anew" in said(capsys, *on_flink, status=1)
    Path("own.py").write_text(
        PIPELINE.replace('hr.stream(\n        "readings"', 'hr.stream(\n        "measured"').replace('stream("readings"', 'stream("measured"')
    )
    assert "window:k cannot keep its state: it no longer reads readings" in said(capsys, *on_flink, status=1)
    (note,) = (kept.folder / "plans").iterdir()
    for damaged in (b"", b"{", b"[]", b"{}", b"\xff", note.read_bytes().replace(b'"shape":[', b'"shape":[1,')):
        note.write_bytes(damaged)
        found = said(capsys, *on_flink, status=1)
        assert f"{note}: is damaged: it says which plan left the state; restore it, or start with --anew, which forgets it" in found
    note.unlink()
    assert said(capsys, *on_flink) == "pipeline means cannot be compared: no note says which plan left chk-7 on Flink\n"


@pytest.mark.usefixtures("committed")
def test_a_limit_changes_and_the_open_window_stays(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    Path("more.ndjson").write_text(
        '{"k": "a", "t": 1700000095000, "v": 2.5}\n{"k": "a", "t": 1700000096000, "v": 4.0}\n{"k": "a", "t": 1700000400000, "v": 9.0}\n'
    )
    assert main(["topics", "append", "readings", "more.ndjson"]) == 0
    capsys.readouterr()
    assert main(["run", "own.py", "--set", "limit=3", "--records", "3"]) == 0
    assert "setting limit: 1.0 → 3.0" in caplog.text
    capsys.readouterr()
    assert main(["topics", "tail", "means"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # Of the open minute: ten readings of 2.0 from before the change, and the 4.0 behind it; 2.5 is no longer above the limit.
    assert [round(row["mean"] * 1000) for row in rows] == [2000, round((2.0 * rows_open() + 4.0) / (rows_open() + 1) * 1000)]


def rows_open() -> int:
    """Return how many of the 90 readings lie in the minute that is open at the last of them."""
    last = (1_700_000_000_000 + 89_000) // 60_000
    return sum((1_700_000_000_000 + second * 1_000) // 60_000 == last for second in range(90))
