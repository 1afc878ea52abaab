"""What the docs say is so: names, commands and examples."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import headrace
from calling import called
from headrace.cli import app, main
from headrace.detect.fitting import fit
from headrace.detect.model_file import save
from waiting import wait_for

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
EXAMPLES = ROOT / "examples"
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(map(dedent, re.findall(r"^ *```python\n(.*?)```", page.read_text(), re.DOTALL | re.MULTILINE)))
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
    described = set(re.findall(r"^## `headrace ([\w-]+)`", (ROOT / "docs/reference/commands.md").read_text(), re.MULTILINE))
    assert described == {name for name in app if not name.startswith("-")}


def summing() -> bytes:
    """Return a model of three values that gives their sum as `variable`."""
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width]) for name, width in (("x", 3), ("variable", 1))]
    made = helper.make_graph([helper.make_node("ReduceSum", ["x", "axis"], ["variable"])], "sum", ports[:1], ports[1:])
    made.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


@pytest.mark.parametrize("block", BLOCKS)
def test_every_pipeline_of_the_docs_is_sound(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.py").write_text(block)
    if '"filter.json"' in block:
        save(fit("range", [[place % 7] for place in range(100)], ["FIT301"]), Path("filter.json"))
    if '"wear.onnx"' in block:
        Path("wear.onnx").write_bytes(summing())
    assert main(["check", "pipelines.py"]) == 0, capsys.readouterr().err
    assert " is sound: " in capsys.readouterr().out


def test_the_page_on_processes_tests_its_process_and_gives_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline, *blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/processes.md").read_text(), re.DOTALL)
    written: dict[str, Any] = {}
    exec(pipeline + "".join(block for block in blocks if "def test_" in block), written)
    tests = [name for name in written if name.startswith("test_")]
    assert len(tests) == 4
    for name in tests:
        written[name]()
    Path("doors.py").write_text(pipeline)
    start = 1_767_254_400_000  # 2026-01-01T08:00:00Z
    events = [("north", 0, True), ("south", 1, True), ("south", 30, False), ("north", 90, True)]
    lines = (json.dumps({"door": door, "at": start + second * 1000, "open": is_open}) for door, second, is_open in events)
    Path("doors.ndjson").write_text("\n".join(lines))
    assert main(["run", "doors.py", "--input", "doors.ndjson"]) == 0
    assert capsys.readouterr().out == '{"door":"north","since":"2026-01-01T08:00:00Z"}\n'


def test_the_page_on_running_aggregates_gives_what_it_says() -> None:
    page = (ROOT / "docs/over.md").read_text()
    (pipeline,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    given, shown = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    Path("steps.py").write_text(pipeline)
    Path("readings.ndjson").write_text(given)
    (command,) = re.findall(r"`headrace (run .*?)`", page)
    assert main(shlex.split(command)) == 0
    assert Path("out/recent.ndjson").read_text() == shown
    assert Path("out/jumps.ndjson").read_text() == "".join(line for line in shown.splitlines(keepends=True) if '"step":5.0' in line)


def test_the_page_on_notebooks_gives_what_it_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/notebook.md").read_text()
    on_a_frame, in_a_test, step_by_step, row_by_row = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    written: dict[str, Any] = {}
    exec(on_a_frame, written)
    assert capsys.readouterr().out == shown
    assert len([line for line in on_a_frame.splitlines() if line]) == 10
    exec(row_by_row, written)
    assert capsys.readouterr().out.splitlines()[::16] == ["fingerprint-output 1767254400000 856.0", "fingerprint-output 1767255360000 856.0"]
    pipeline, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/pipelines.md").read_text(), re.DOTALL)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "hot", raising=False)
    Path("hot.py").write_text(pipeline)
    exec(in_a_test, written)
    written["test_only_readings_above_the_limit_are_hot"]()
    exec(step_by_step, written)
    written["test_a_reading_above_the_limit_comes_at_once"]()
    monkeypatch.delitem(sys.modules, "hot")


def test_the_page_on_backtests_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/backtest.md").read_text()
    (pipeline,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Path("plant.py").write_text(pipeline)
    for name, text in re.findall(r"```text (\S+)\n(.*?)```", page, re.DOTALL):
        Path(name).write_text(text)
    (backtest,) = re.findall(r"`headrace (backtest .*?)`\n", page)
    (what_if,) = re.findall(r"`headrace (what-if .*?)`\n", page, re.DOTALL)
    printed, broken, compared, *_ = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert main(shlex.split(backtest)) == 1
    out, err = capsys.readouterr()
    assert out == printed
    assert err.endswith(broken)
    assert main(shlex.split(what_if)) == 0
    assert capsys.readouterr().out == compared


def test_the_readmes_commands_run_on_the_readmes_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    (pipeline,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert pipeline == (EXAMPLES / "loop.py").read_text()
    copy_examples()
    (block,) = re.findall(r"```\ncd examples\n(.*?)```", README, re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [command[1] for command in commands] == ["check", "run", "ledger"]
    for command in commands:
        assert main(command[1:]) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert told.out.startswith("loop.py: pipeline loop version 1 is sound: loop → loop-statistics\n")
    assert "loop: 300 received = 298 accepted + 2 malformed" in told.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["ledger.json", "loop-statistics.ndjson", "loop.dead-letter.ndjson"]
    rows = [json.loads(line) for line in Path("out/loop-statistics.ndjson").read_text().splitlines()]
    assert [(row["sensor"], row["count"]) for row in rows[:3]] == [("Pressure", 146), ("Temperature", 149), ("Volume Flow", 147)]
    assert [row["window_start"] for row in rows[::3]] == ["2026-03-09T10:10:00Z", "2026-03-09T10:15:00Z"], "the command sets minutes=5"


def copy_examples() -> None:
    """Copy the examples that a checkout has into the working folder."""
    for file in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.csv")]:
        Path(file.name).write_bytes(file.read_bytes())


@pytest.fixture
def jobs_end(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """End the jobs that a test leaves, however it ends."""
    yield
    capfd.readouterr()
    assert main(["jobs", "list", "--running"]) == 0
    for job in re.findall(r"^(\d{8}-\S+)", capfd.readouterr().out, re.MULTILINE):
        main(["jobs", "cancel", job])


@pytest.mark.usefixtures("jobs_end")
def test_the_tutorials_commands_print_what_it_says(capfd: pytest.CaptureFixture[str]) -> None:
    copy_examples()
    page = (ROOT / "docs/tutorial.md").read_text()
    (rule,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert rule.removeprefix("import headrace as hr\n\n\n") in (EXAMPLES / "hot.py").read_text()
    before_live, live = page.split("## The same, live")
    for command, shown in re.findall(r"```\n(headrace [^\n]*)\n```\n(?:\n```text\n(.*?)```)?", before_live, re.DOTALL):
        assert main(shlex.split(command)[1:]) == 0, capfd.readouterr().err
        assert capfd.readouterr().out == shown, command
    assert Path("out/loop-statistics.ndjson").exists()
    blocks = re.findall(r"```\n(headrace .*?)```", live, re.DOTALL)
    for command in [line for block in blocks for line in block.splitlines()]:
        if "tail" in command:
            events = wait_for(lambda command=command: len(found := tailed(command)) == 2 and found, "the events of the job", seconds=180)
            assert [event["event"] for event in events] == ["raised", "cleared"]
            continue
        done = called(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
        if "list" in command:
            assert re.search(r"^\S+ +hot +hot.py +RUNNING", done.stdout, re.MULTILINE)
        if "prove" in command:
            assert done.stdout.splitlines()[0] == "hot.py: 300 records, run once unbroken"
            assert done.stdout.splitlines()[-1].startswith("hot.py: proved.")


def tailed(command: str) -> list[dict[str, Any]]:
    """Return the records that a command prints; none while the job has not made its topic."""
    done = called(*shlex.split(command)[1:])
    return [json.loads(line) for line in done.stdout.splitlines()]


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
    pipeline, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Path("hot.py").write_text(pipeline.replace('where("value', 'where("vlaue'))
    assert main(["check", "hot.py"]) == 2
    assert capsys.readouterr().err == shown + "\n"


def test_a_dead_letter_is_as_the_docs_show_it() -> None:
    ((text),) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/ledger.md").read_text(), re.DOTALL)
    shown = json.loads(text)
    Path("in.ndjson").write_text('{"equip_id":1,"timestamp":"soon","data":{}}\n')
    assert main(["run", "fingerprint", "--input", "in.ndjson", "--output", "out"]) == 1, "no record could be used"
    (written,) = Path("out/sensor-data.dead-letter.ndjson").read_text().splitlines()
    letter: dict[str, Any] = json.loads(written)
    assert list(letter) == list(shown)
    assert letter | {"offset": shown["offset"], "raw": shown["raw"]} == shown
    assert written == json.dumps(letter, separators=(",", ":"))
