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


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_types_of_a_pipeline_are_known_and_mistakes_of_an_author_are_found(checker: str, tmp_path: Path) -> None:
    pytest.importorskip({"mypy": "mypy", "pyright": "basedpyright"}[checker])
    right, wrong, text = tmp_path / "right.py", tmp_path / "wrong.py", AUTHOR.read_text()
    right.write_text(text)
    wrong.write_text(text + MISTAKES)
    first = text.count("\n") + 2
    command = [sys.executable, *CHECKERS[checker], *([str(tmp_path / "cache")] if checker == "mypy" else []), str(right), str(wrong)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert run.returncode == 1
    lines = [line for line in (run.stdout + run.stderr).splitlines() if "error" in line and ".py:" in line]
    assert {(Path(line.split(".py:")[0].strip()).name, int(line.split(".py:")[1].split(":")[0])) for line in lines} == {
        ("wrong", number) for number in range(first, first + 4)
    }, run.stdout + run.stderr
