"""What the docs say is so: names, commands and examples."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace.cli import app, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    if "@hr.pipeline" in block
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "MINUTES", "LIMIT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", headrace.__all__)
def test_every_name_has_a_docstring_and_stands_in_the_reference(name: str) -> None:
    assert getattr(headrace, name).__doc__
    assert re.search(rf"^### `hr\.{name}\b", (ROOT / "docs/reference/names.md").read_text(), re.MULTILINE)


def test_every_command_stands_in_the_reference() -> None:
    described = set(re.findall(r"^## `headrace (\w+)`", (ROOT / "docs/reference/commands.md").read_text(), re.MULTILINE))
    assert described == {name for name in app if not name.startswith("-")}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_pipeline_of_the_docs_is_sound(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.py").write_text(block)
    assert main(["check", "pipelines.py"]) == 0, capsys.readouterr().err
    assert " is sound: " in capsys.readouterr().out


def test_the_page_on_processes_tests_its_process_and_gives_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline, *blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/processes.md").read_text(), re.DOTALL)
    written: dict[str, Any] = {}
    exec(pipeline + "".join(block for block in blocks if "def test_" in block), written)
    tests = [name for name in written if name.startswith("test_")]
    assert len(tests) == 3
    for name in tests:
        written[name]()
    Path("doors.py").write_text(pipeline)
    start = 1_767_254_400_000  # 2026-01-01T08:00:00Z
    events = [("north", 0, True), ("south", 1, True), ("south", 30, False), ("north", 90, True)]
    lines = (json.dumps({"door": door, "at": start + second * 1000, "open": is_open}) for door, second, is_open in events)
    Path("doors.ndjson").write_text("\n".join(lines))
    assert main(["run", "doors.py", "--input", "doors.ndjson"]) == 0
    assert capsys.readouterr().out == '{"door":"north","since":"2026-01-01T08:00:00Z"}\n'


def test_the_readmes_commands_run_on_the_readmes_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    (pipeline,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    Path("loop.py").write_text(pipeline)
    header, *rows = (
        "datetime;Current;Volume Flow RateRMS",
        "2020-03-09 10:14:33;1.5;32.0",
        "2020-03-09 10:14:34;2.5;",
        "2020-03-09 10:16:00;0.5;oops",
        "cut",
    )
    Path("valve.csv").write_text("\n".join([header, *rows]))
    commands = [shlex.split(line) for line in README.splitlines() if line.startswith(".venv/bin/headrace ")]
    assert [command[1] for command in commands] == ["check", "run", "ledger"]
    for command in commands:
        assert main(command[1:]) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert told.out.startswith("loop.py: pipeline loop version 1 is sound: loop → loop-statistics\n")
    assert "loop: 4 received = 3 accepted + 1 malformed" in told.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["ledger.json", "loop-statistics.ndjson", "loop.dead-letter.ndjson"]
    rows = [json.loads(line) for line in Path("out/loop-statistics.ndjson").read_text().splitlines()]
    assert [(row["sensor"], row["count"], row["mean"]) for row in rows] == [
        ("Current", 2, 2.0),
        ("Volume Flow RateRMS", 1, 32.0),
        ("Current", 1, 0.5),
    ]
    assert rows[0]["window_start"] == "2020-03-09T10:10:00Z", "the command sets minutes=5"


@pytest.mark.parametrize("target", [*re.findall(r"^make (\w+)", README, re.MULTILINE), "check", "bench", "docs"])
def test_make_knows_the_targets_that_the_docs_name(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:src|docs|tests|bench)/[\w./-]+|kernels/[\w./-]+\.py|plan/[\w./-]+\.py)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "src/headrace" / name).exists()] == []


def test_the_mistake_that_the_docs_show_is_reported_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/pipelines.md").read_text()
    (shown,) = re.findall(r"^headrace: pipeline hot.*$", page, re.MULTILINE)
    (pipeline,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Path("hot.py").write_text(pipeline.replace('where("value', 'where("vlaue'))
    assert main(["check", "hot.py"]) == 2
    assert capsys.readouterr().err == shown + "\n"


def test_a_dead_letter_is_as_the_docs_show_it() -> None:
    ((text),) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/ledger.md").read_text(), re.DOTALL)
    shown = json.loads(text)
    Path("in.ndjson").write_text('{"equip_id":1,"timestamp":"soon","data":{}}\n')
    assert main(["run", "fingerprint", "--input", "in.ndjson", "--output", "out"]) == 0
    (written,) = Path("out/sensor-data.dead-letter.ndjson").read_text().splitlines()
    letter: dict[str, Any] = json.loads(written)
    assert list(letter) == list(shown)
    assert letter | {"offset": shown["offset"], "raw": shown["raw"]} == shown
    assert written == json.dumps(letter, separators=(",", ":"))
