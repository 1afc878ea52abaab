"""The connector of the page "Write a connector", run as the page says."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from outside import values_of

from forking import Forked, started
from headrace.cli import main
from headrace.connectors import find
from headrace.topics.sqlite import SqliteLog
from waiting import wait_for

PAGE = (Path(__file__).parents[2] / "docs/how-to/write-a-connector.md").read_text()
COMMANDS = re.findall(r"^headrace (.*)$", PAGE, re.MULTILINE)
LIMIT = 400.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    Path("lines.py").write_text(code)
    return tmp_path


def rows() -> list[str]:
    with closing(sqlite3.connect("lines.db")) as db:
        return [text for (text,) in db.execute("SELECT text FROM lines ORDER BY id")]


def test_lines_come_into_a_topic_and_go_out_into_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    inward, outward, *ledgers = COMMANDS
    Path("machine.log").write_text("one\ntwo\nthr")
    assert main([*inward.split(), "--records", "2"]) == 0
    assert main([*outward.split(), "--until", "latest"]) == 0
    assert rows() == ["one", "two"]
    with Path("machine.log").open("a") as file:
        file.write("ee\n")
    assert main([*inward.split(), "--records", "1"]) == 0
    Path("odd.ndjson").write_text('{"text": 7}\n[]\n{}\n')
    assert main(["topics", "append", "lines", "odd.ndjson"]) == 0
    assert main([*outward.split(), "--until", "latest"]) == 0
    assert rows() == ["one", "two", "three", "7"]
    told = capsys.readouterr()
    assert "headrace bridge: topic:lines → table of lines.db, as forward:lines:lines" in told.out
    assert told.err.splitlines() == [
        "headrace: 2 records brought over; the last is event 8",
        "headrace: 2 records sent",
        "headrace: 1 records brought over; the last is event 14",
        "headrace: lines partition 0 offset 4: has no text",
        "headrace: lines partition 0 offset 5: has no text",
        "headrace: 4 records sent; 2 of them were refused and are in lines.dead-letter",
    ]
    for ledger in ledgers:
        assert main(ledger.split()) == 0
    assert capsys.readouterr().out.split() == [
        *("lines", "of", "machine.log", "received", "3", "accepted", "3", "malformed", "0", "duplicate", "0"),
        *("lines", "received", "6", "accepted", "4", "refused", "2"),
    ]
    with closing(SqliteLog(Path(".headrace/log.db"))) as log:
        assert [(one["reason"], one["detail"], one["raw"]) for one in map(json.loads, values_of(log, "lines.dead-letter"))] == [
            ("refused", "has no text", "[]"),
            ("refused", "has no text", "{}"),
        ]


def test_both_run_as_processes_are_killed_and_leave_each_line_once() -> None:
    inward, outward = (command.split() for command in COMMANDS[:2])
    log = Path("machine.log")
    log.touch()
    for turn in range(3):
        running = [start(*inward)]
        running.append(start(*outward))
        try:
            with log.open("a") as file:
                file.writelines(f"line {turn * 500 + number:05}\n" for number in range(500))
            wait_for(lambda: Path("lines.db").exists() and _count() > turn * 500, seconds=LIMIT)  # noqa: B023
        finally:
            for one in running:
                one.send_signal(signal.SIGKILL)
                one.communicate(timeout=LIMIT)
    assert main([*inward, "--duration", "1s"]) == 0
    assert main([*outward, "--until", "latest"]) == 0
    assert sorted(rows()) == [f"line {number:05}" for number in range(1500)]


def start(*arguments: str) -> Forked:
    """Start a bridge, and return once it has begun."""
    process = started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("headrace bridge: ")
    return process


def _count() -> int:
    with closing(sqlite3.connect("lines.db", timeout=30)) as db:
        there = db.execute("SELECT name FROM sqlite_master").fetchall()
        return int(db.execute("SELECT count(*) FROM lines").fetchone()[0]) if there else 0


def test_a_fault_in_the_connector_names_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("machine.log").write_text("one\n")
    assert main([*COMMANDS[0].split(), "--records", "1"]) == 0
    code = Path("lines.py").read_text()
    Path("lines.py").write_text(code.replace("        never = {}\n", "        never = nothing\n"))
    line = 1 + code[: code.index("        never = {}")].count("\n")
    capsys.readouterr()
    assert main([*COMMANDS[1].split(), "--until", "latest"]) == 2
    assert capsys.readouterr().err == f"headrace: lines.py line {line}: NameError: name 'nothing' is not defined; fix the file\n"
    Path("lines.py").write_text(code.replace("def target", "def goal"))
    assert main(COMMANDS[1].split()) == 2
    assert capsys.readouterr().err == "headrace: TO: cannot be bridged to 'lines.py:lines.db'; its connector has no target(address)\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["topic:lines", "lines.py:x", "--key", "k"], "--key: is only for a bridge into a topic; leave it out"),
        (["topic:lines", "lines.py:x", "--give-up-after", "1s"], "--give-up-after: is only for a bridge into a topic"),
        (["lines.py:x", "topic:lines", "--until", "latest"], "--until: is only for a bridge from a topic"),
        (["lines.py:x", "topic:lines", "--name", "n"], "--name: is only for a bridge from a topic"),
        (["topic:lines", "topic:others"], "no topic 'lines'; make it: headrace topics create"),
        (["topic:lines", "gopher://x"], "TO: cannot be bridged to 'gopher://x'; give FILE.py:"),
        (["topic:lines", "modbus://x/"], "TO: cannot be bridged to 'modbus://x/'; its connector has no target(address)"),
        (["topic:lines", "http://x/"], "TO: is not an address that records are posted to; give http+out://HOST/PATH"),
        (["other.py:x", "topic:lines"], "other.py: there is no such file; name a Python file that defines a connector"),
        (["topic:none", "lines.py:x"], "no topic 'none'"),
    ],
)
def test_wrong_use_is_said(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "module"),
    [
        ("http://h/", "http"),
        ("https://h/", "http"),
        ("HTTP://h/", "http"),
        ("http+poll://h/", "http"),
        ("ftp://h/", None),
        ("://h", None),
        ("s://h", None),
        ("", None),
        ("http", None),
        ("../x:y", None),
    ],
)
def test_the_scheme_of_an_address_names_the_module(address: str, module: str | None) -> None:
    found = find(address)
    assert (found and found.__name__) == (module and f"headrace.connectors.{module}")
