"""Type checkers know the types of what an author writes, and find an author's mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AUTHOR = Path(__file__).with_name("author.py")
MISTAKES = """
hr.stream("readings")
means.run(5)
result["means"].row()
hr.tumbling("1m")
"""
CHECKERS = {
    "mypy": ["-m", "mypy", "--strict", "--no-error-summary", "--cache-dir"],
    "pyright": ["-m", "basedpyright", "--level", "error", "--pythonpath", sys.executable],
}


def checked(checker: str, file: Path, folder: Path) -> tuple[int, str]:
    """Return the exit status of a checker, and what it prints."""
    command = [sys.executable, *CHECKERS[checker], *([str(folder / "cache")] if checker == "mypy" else []), str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=folder)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"mypy": "mypy", "pyright": "basedpyright"}[request.param])
    return str(request.param)


def test_the_types_of_a_pipeline_are_known(checker: str, tmp_path: Path) -> None:
    status, printed = checked(checker, AUTHOR, tmp_path)
    assert status == 0, printed


def test_mistakes_of_an_author_are_found(checker: str, tmp_path: Path) -> None:
    file, text = tmp_path / "wrong.py", AUTHOR.read_text()
    file.write_text(text + MISTAKES)
    first = text.count("\n") + 2
    status, printed = checked(checker, file, tmp_path)
    assert status == 1
    lines = [line for line in printed.splitlines() if "wrong.py:" in line and "error" in line]
    assert {int(line.split("wrong.py:")[1].split(":")[0]) for line in lines} == {*range(first, first + 4)}, printed
