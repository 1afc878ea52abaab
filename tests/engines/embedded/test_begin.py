"""Where a pipeline begins that has committed nothing: at the first records, behind the last, or at a time of arrival."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from engines.embedded.test_live import START, Wall, event, live_on, plan_of, run_for, written
from headrace.cli import main
from headrace.cli.options import RunOptions
from headrace.engines.embedded.live import Patience
from headrace.plan.pipeline import Plan
from headrace.topics.beginning import Begin, shown
from headrace.topics.protocol import Away
from headrace.topics.sqlite import SqliteLog

KEYS = [next(key for n in range(99) if crc32(key := b"%d" % n) % 2 == part) for part in range(2)]
FAR = Patience(idle_after=None, close_quiet_after=None)


def through() -> Plan:
    return plan_of(lambda events: events.select("k", "v"))


@pytest.fixture
def wall() -> Wall:
    return Wall(START)


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "home" / "log.db", clock=wall)
    yield made
    made.close()


@pytest.fixture
def filled(log: SqliteLog, wall: Wall) -> SqliteLog:
    """Return a log with a record each second, in turn in one of two partitions."""
    log.create("events", 2)
    for second in range(8):
        log.append("events", [event(second, value=float(second))], [KEYS[second % 2]])
        wall.now += 1000
    assert [part.end for part in log.topic("events").partitions] == [4, 4]
    return log


BEGINNINGS: list[tuple[Begin | None, list[int]]] = [
    (None, [0, 0]), ("earliest", [0, 0]), ("latest", [4, 4]), (0, [0, 0]), (START + 3000, [2, 1]), (START + 3001, [2, 2]), (START + 60_000, [4, 4]),
]  # fmt: skip


@pytest.mark.parametrize(("begin", "offsets"), BEGINNINGS)
def test_it_begins_there_and_resumes_at_its_commits(filled: SqliteLog, wall: Wall, begin: Begin | None, offsets: list[int]) -> None:
    left = 8 - sum(offsets)
    live = live_on(filled, wall, through(), FAR, begin=begin)
    assert live.offsets == {"events": offsets}
    run_for(live, wall, 1)
    assert live.run.ledger["events"].counts()["received"] == left
    assert len(written(filled)) == left
    steps = [step for step in written(filled, "counting.clock") if step["begins"]]
    assert [step["offsets"] for step in steps] == ([] if begin is None else [offsets])
    filled.append("events", [event(9, value=9.0)], [KEYS[0]])
    again = live_on(filled, wall, through(), FAR, begin="latest")
    assert not again.begins
    run_for(again, wall, 1)
    assert written(filled)[-1]["v"] == 9.0
    assert len(written(filled)) == left + 1
    saved = msgspec.json.decode(again.log.manifest("counting") or b"{}")
    assert saved.get("begun") == (None if begin is None else {"events": offsets})


def test_nothing_is_skipped_if_the_log_goes_away_before_the_first_commit(filled: SqliteLog, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    live, failed = live_on(filled, wall, through(), FAR, begin="latest"), []
    commit = type(live).commit

    def fails_once(self: Any) -> Any:
        if not failed:
            failed.append(1)
            filled.append("events", [event(9, value=9.0)], [KEYS[0]])
            raise Away("does not answer", where="it", fix="wait")
        return commit(self)

    monkeypatch.setattr(type(live), "commit", fails_once)
    run_for(live, wall, 3)
    assert [row["v"] for row in written(filled)] == [9.0]


APP = """
import headrace as hr

@hr.pipeline("passing", version="1")
def passing():
    return {"out": hr.stream("in", schema={"v": "BIGINT"})}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    Path("app.py").write_text(APP)
    Path("rows.ndjson").write_text('{"v": 1}\n{"v": 2}\n')
    assert main(["topics", "create", "in"]) == 0
    assert main(["topics", "append", "in", "rows.ndjson"]) == 0
    return tmp_path


@pytest.mark.usefixtures("home")
def test_the_command_says_where_it_begins_and_so_does_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "app.py", "--until", "latest"]
    assert main([*run, "--from", "latest"]) == 0
    assert "in: begun at offset 2\n" in capsys.readouterr().err
    assert main(["topics", "append", "in", "rows.ndjson"]) == 0
    assert main([*run, "--from", "latest"]) == 0
    said = capsys.readouterr().err
    assert "resumes from its last commit: --from latest counts only where there is none" in said
    assert "in: 2 received = 2 accepted" in said
    assert main(["ledger", "app.py"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "in: begun at offset 2"
    assert main([*run, "--anew", "--from", "2020-01-01T00:00+01:00", "--yes"]) == 0
    said = capsys.readouterr().err
    assert "4 records of in are read again" in said
    assert '"begins":"2019-12-31T23:00:00.000Z"' in said.replace('": ', '":')
    assert main([*run, "--anew", "--from", "latest"]) == 2
    assert "0 records of in are read again" in capsys.readouterr().err
    assert main(["topics", "tail", "out"]) == 0
    assert [json.loads(line)["v"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00+14:00", "1970-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59-14:00", "9999-12-31T23:59:59.999Z"),
        ("2020-01-01T00:00+01:00", "2019-12-31T23:00:00.000Z"),
    ],
)
def test_a_time_that_no_record_has_is_the_nearest_that_one_can_have(text: str, begin: str) -> None:
    assert shown(RunOptions(from_=text).parsed.from_ or 0) == begin


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "soon"], "--from: 'soon' is no time; give earliest, latest, or a time such as"),
        (["--from", "2026-11-29T06:00:00"], "--from: '2026-11-29T06:00:00' is a time without a zone; give earliest"),
        (["--from", "latest", "--from-savepoint", "s", "--yes"], "--from: begins without state, and --from-savepoint with some; give one of them"),
        (["--from", "latest", "--input", "rows.ndjson"], "--from: a run over files reads them from their first records; leave it out"),
        (["--from", "latest", "--engine", "spark"], "--from: a query of Spark begins at the first records of its topics"),
    ],
)
def test_what_is_no_beginning_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "app.py", *options]) == 2
    assert message in capsys.readouterr().err
