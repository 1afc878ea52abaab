"""The page on alarms gives what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from headrace.cli import main

PAGE = (Path(__file__).parents[2] / "docs/alarms.md").read_text()


def test_the_page_on_alarms_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    pipeline, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    Path("alarms.py").write_text(pipeline)
    for name, text in re.findall(r"```text (\S+)\n(.*?)```", PAGE, re.DOTALL):
        Path(name).write_text(text)
    (command,) = re.findall(r"`headrace (run .*?)`", PAGE, re.DOTALL)
    assert main(shlex.split(command)) == 0
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    head, *lines = shown.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    columns = head.split()
    rows = [json.loads(line) for line in Path("out/alarms.ndjson").read_text().splitlines()]
    expected = [
        dict(zip(columns, (line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)), strict=True)) for line in lines
    ]
    assert [{name: str(row[name] or "") for name in columns} for row in rows] == expected
