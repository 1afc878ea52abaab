"""`headrace savepoint` and `--from-savepoint`: an upgrade that is undone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.cli import main

PIPELINE = """
import headrace as hr

@hr.pipeline("sums", version="1")
def sums():
    readings = hr.stream("readings", schema={"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"sums": readings.window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(sum="SUM(v)").select("sum")}
"""
UPGRADED = PIPELINE.replace("SUM(v)", "SUM(v * 100)")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    Path("own.py").write_text(PIPELINE)
    assert main(["topics", "create", "readings"]) == 0
    return tmp_path


def append(*seconds: int) -> None:
    rows = [{"k": "a", "t": 1_700_000_040_000 + second * 1_000, "v": 1.0} for second in seconds]
    Path("rows.ndjson").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["topics", "append", "readings", "rows.ndjson"]) == 0


def sums(capsys: pytest.CaptureFixture[str]) -> list[float]:
    capsys.readouterr()
    assert main(["topics", "tail", "sums"]) == 0
    return [json.loads(line)["sum"] for line in capsys.readouterr().out.splitlines()]


def test_an_upgrade_is_undone(capsys: pytest.CaptureFixture[str]) -> None:
    append(0, 1, 2)
    assert main(["run", "own.py", "--records", "3"]) == 0
    capsys.readouterr()
    assert main(["savepoint", "own.py", "before"]) == 0
    assert capsys.readouterr().out.startswith("Wrote before: pipeline sums at offset 3 of readings/0; ")
    append(3, 70)
    Path("own.py").write_text(UPGRADED)
    assert main(["run", "own.py", "--records", "2"]) == 1
    assert "window:k cannot keep its state: aggregates changed from SUM" in capsys.readouterr().err
    assert main(["run", "own.py", "--records", "2", "--reset", "window:k"]) == 0
    assert sums(capsys) == [100.0], "what the upgrade gives of the rest of the minute"
    Path("own.py").write_text(PIPELINE)
    assert main(["run", "own.py", "--records", "2", "--from-savepoint", "before"]) == 2
    assert capsys.readouterr().err == (
        "headrace: --from-savepoint: goes back to where pipeline sums was: 2 records of readings are read again, and their results written again;"
        " add --yes if that is meant; without a terminal nobody can be asked\n"
    )
    assert main(["run", "own.py", "--records", "2", "--from-savepoint", "before", "--yes"]) == 0
    assert sums(capsys) == [100.0, 4.0]
    append(140)
    assert main(["run", "own.py", "--records", "1"]) == 0
    assert sums(capsys) == [100.0, 4.0, 1.0], "it resumes from its commits again"


def test_a_savepoint_where_nothing_was_read_since_needs_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    append(0)
    assert main(["run", "own.py", "--records", "1"]) == 0
    assert main(["savepoint", "own.py", "before"]) == 0
    append(70)
    assert main(["run", "own.py", "--records", "1", "--from-savepoint", "before"]) == 0
    assert sums(capsys) == [1.0]


def test_a_job_from_a_savepoint_is_asked_for_when_it_is_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    append(0, 1)
    assert main(["run", "own.py", "--records", "1"]) == 0
    assert main(["savepoint", "own.py", "before"]) == 0
    assert main(["run", "own.py", "--records", "1"]) == 0
    capsys.readouterr()
    assert main(["jobs", "submit", "own.py", "--records", "1", "--from-savepoint", "before"]) == 2
    assert capsys.readouterr().err.startswith(
        "headrace: --from-savepoint: goes back to where pipeline sums was: 1 records of readings are read again"
    )
    assert not Path(".headrace/jobs").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "before: cannot be read: No such file or directory; name a file of headrace savepoint"),
        (b"{}", "before: is no savepoint; name a file that headrace savepoint wrote"),
    ],
)
def test_what_is_no_savepoint(content: bytes | None, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("before").write_bytes(content)
    capsys.readouterr()
    assert main(["run", "own.py", "--records", "1", "--from-savepoint", "before", "--yes"]) == 1
    assert capsys.readouterr().err == f"headrace: {says}\n"
