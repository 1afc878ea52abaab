"""The pages on alarms and rules give what they say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from headrace.cli import main

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "topic"), [("alarms", "alarms"), ("rules", "alarm-conditions")])
def test_the_page_gives_what_it_says(page: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_of_page = (DOCS / f"{page}.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    pipeline, *_ = re.findall(r"```python\n(.*?)```", text_of_page, re.DOTALL)
    Path(f"{page}.py").write_text(pipeline)
    for name, text in re.findall(r"```text (\S+)\n(.*?)```", text_of_page, re.DOTALL):
        Path(name).write_text(text)
    (command,) = re.findall(r"`headrace (run .*?)`", text_of_page, re.DOTALL)
    assert main(shlex.split(command)) == 0
    (shown,) = re.findall(r"```text\n(.*?)```", text_of_page, re.DOTALL)
    head, *lines = shown.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    columns = head.split()
    rows = [json.loads(line) for line in Path(f"out/{topic}.ndjson").read_text().splitlines()]
    expected = [
        dict(zip(columns, (line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)), strict=True)) for line in lines
    ]
    assert [{name: "" if row[name] is None else str(row[name]) for name in columns} for row in rows] == expected
