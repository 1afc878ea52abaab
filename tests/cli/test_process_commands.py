"""Processes on the command line: what is said when one fails, and how a plan shows one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

START = 1_705_314_600_000
PIPELINE = """
import headrace as hr

class Odd:
    output = {{"n": "BIGINT NOT NULL"}}
    state = {{"n": hr.Value("BIGINT", 0), "due": hr.Value("STRING")}}

    def on_record(self, row, state):
        state.n += 1
        state.set_timer("next", state.time + 1)
        if row["v"] == 3:
            {record}
        yield {{"n": state.n}}

    def on_timer(self, name, state):
        {timer}

@hr.pipeline("odd", version="1")
def odd():
    readings = hr.stream("readings", schema={{"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {{"out": readings.process(Odd, by=["k"], limit=hr.seconds(1){failed})}}
"""
READ = ("run", "odd.py", "--input", "readings=readings.ndjson", "--output", "out")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with readings."""
    monkeypatch.chdir(tmp_path)
    values = [{"k": "a", "t": START, "v": 1}, {"k": "b", "t": START + 1, "v": 3}, {"k": "a", "t": START + 2, "v": 2}]
    Path("readings.ndjson").write_text("".join(json.dumps(one) + "\n" for one in values))
    return tmp_path


def write(record: str = "pass", timer: str = "pass", failed: str = "") -> None:
    Path("odd.py").write_text(PIPELINE.format(record=record, timer=timer, failed=failed))


WHERE = "process odd, readings/0 offset 1, key k 'b', time 1705314600001, state {'n': 1, '@timers': {'next': 1705314600002}}: Odd.on_record "


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ('raise ValueError("three")', "raised ValueError: three at odd.py:12"),
        ('yield {"n": "three"}', "gives 'n' of the output off its type: 'three' is not a whole number of 64 bits"),
        ('yield {"m": 3}', "gives 'm', which the output does not declare; there is: n"),
        ("yield {}", "gives no 'n', which the output declares NOT NULL"),
        ('yield "side", {"n": 3}', "gives a row to output 'side'"),
        ("state.m = 3", "keeps state it did not declare: 'm'; there is: due, n"),
        ("while True: pass", "does not end within 1 s"),
        ('__import__("sys").exit(3)', "raised SystemExit: 3 at odd.py:12"),
    ],
)
def test_a_process_that_fails_ends_the_run_with_one_line_that_says_where(record: str, said: str, refused: Callable[..., str]) -> None:
    write(record)
    line = refused(*READ, status=1)
    assert line.startswith(WHERE + said), line
    assert "fix the process, or give it failed_to= a topic" in line


def test_a_run_goes_on_when_its_process_has_been_mended(run: Callable[..., tuple[int, str, str]], refused: Callable[..., str]) -> None:
    write("raise ValueError")
    refused(*READ, status=1)
    write()
    assert run(*READ)[0] == 0
    assert [json.loads(one) for one in Path("out/out.ndjson").read_text().splitlines()] == [
        {"k": "a", "n": 1},
        {"k": "b", "n": 1},
        {"k": "a", "n": 2},
    ]


def test_a_timer_that_fails_ends_the_run_with_one_line_that_says_where(refused: Callable[..., str]) -> None:
    write(timer="1 / 0")
    line = refused(*READ, status=1)
    assert line.startswith("process odd, key k 'a', time 1705314600001, state {'n': 1}: Odd.on_timer raised ZeroDivisionError: "), line
    assert "at odd.py:16" in line


@pytest.mark.parametrize("where", ["record", "timer"])
def test_a_process_that_keeps_something_on_itself(where: str, refused: Callable[..., str]) -> None:
    write(**{where: 'self.seen = state.key["k"] == "b"'})
    line = refused(*READ, status=1)
    assert line == "process odd: Odd keeps 'seen' on itself, where no commit knows of it; declare it in state"


def test_what_fails_is_written_to_a_topic_and_the_run_goes_on(run: Callable[..., tuple[int, str, str]]) -> None:
    write("while True: pass", failed=', failed_to="failed"')
    status, _, err = run(*READ)
    assert status == 0, err
    (failed,) = [json.loads(one) for one in Path("out/failed.ndjson").read_text().splitlines()]
    assert failed == {
        "pipeline": "odd", "topic": "readings", "partition": 0, "offset": 1, "reason": "failed", "detail": "Odd.on_record does not end within 1 s", "arrived_ms": None,
        "raw": '{"k":"b","t":1705314600001,"v":3.0}', "process": "odd", "key": '{"k":"b"}', "state": None,
    }  # fmt: skip
    assert [json.loads(one) for one in Path("out/out.ndjson").read_text().splitlines()] == [{"k": "a", "n": 1}, {"k": "a", "n": 2}]
    ledger = json.loads(Path("out/ledger.json").read_text())["sources"]["readings"]
    assert (ledger["received"], ledger["accepted"]) == (3, 3)


def test_a_plan_shows_its_processes(run: Callable[..., tuple[int, str, str]]) -> None:
    write(failed=', failed_to="failed", order="arrival"')
    status, out, err = run("plan", "odd.py")
    assert (status, err) == (0, "")
    assert "#2 process odd by k, in order of arrival, failures to 'failed'  ← #1" in out
    status, out, err = run("check", "odd.py")
    assert status == 0, err


def test_a_process_that_declares_what_cannot_be_is_refused_before_anything_runs(refused: Callable[..., str]) -> None:
    write()
    Path("odd.py").write_text(Path("odd.py").read_text().replace("on_timer", "on_timers"))
    for command in (("check", "odd.py"), ("plan", "odd.py"), READ):
        assert "Odd.on_timers is never called; did you mean 'on_timer'?" in refused(*command)
