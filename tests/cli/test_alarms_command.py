"""`headrace alarms`: an operator at a terminal, beside a pipeline on the topics of a home."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from alarms.alarm_plant import definition
from headrace._clock import now_ms
from headrace.cli import main
from headrace.cli.logs import KafkaOptions
from headrace.cli.plant import check_plant
from headrace.cli.up import _Builder
from headrace.engines.protocol import engine_named
from headrace.topics.sqlite import SqliteLog

PLANT = """
import headrace as hr

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}


@hr.pipeline("plant", version="1")
def plant():
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return hr.alarm(readings, hr.alarm_definitions(), hr.alarm_commands()).topics()


@hr.pipeline("causes", version="1")
def causes():
    return {"alarms.causes": hr.alarm_causes(hr.alarm_transitions(), hr.alarm_definitions())}
"""
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    Path("plant.py").write_text(PLANT)

    def told(*words: str) -> tuple[int, str, str]:
        status = main(words)
        out, err = capsys.readouterr()
        return status, out, err

    return told


def append(topic: str, *rows: bytes) -> None:
    with closing(SqliteLog(Path("home/log.db"))) as log:
        log.append(topic, [*rows])


def test_an_operator_lists_acknowledges_and_shelves_alarms(run: Told) -> None:
    for topic in ("readings", "alarm-definitions", "alarm-commands"):
        assert run("topics", "create", topic)[0] == 0
    append("alarm-definitions", definition(0, definition="H", tag="a/P1", kind="H", limit=90.0, action="open the valve"))
    append("readings", json.dumps({"tag": "a/P1", "time": now_ms(), "value": 95.5}).encode())
    assert run("run", "plant.py:plant", "--until", "latest")[0] == 0

    status, out, _ = run("alarms", "list")
    assert status == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == ["ALARM", "a/P1/H"]
    assert "unacknowledged" in out
    assert "open the valve" in out
    (row,) = map(json.loads, run("alarms", "list", "--json")[1].splitlines())
    assert (row["state"], row["sequence"], row["value"]) == ("unacknowledged", 1, 95.5)

    assert run("alarms", "ack", "a/P1/H", "--by", "ada") == (0, "Sent acknowledge for a/P1/H, occurrence 1, by ada.\n", "")
    assert run("alarms", "ack", "a/P1/H", "--by", "bob")[0] == 0
    assert run("alarms", "comment", "a/P1/H", "on my way", "--by", "ada")[0] == 0
    assert run("alarms", "shelve", "a/P1/H", "--for", "1h", "--reason", "valve is stuck", "--by", "ada")[0] == 0
    assert run("alarms", "out-of-service", "a/P1/H", "--reason", "repair", "--by", "bob")[0] == 0
    assert run("run", "plant.py:plant", "--until", "latest")[0] == 0
    rows = [json.loads(line) for line in run("alarms", "show", "a/P1/H", "--json")[1].splitlines()]
    assert [(row["event"], row["to"], row["by"]) for row in rows] == [
        ("raise", "unacknowledged", "system"),
        ("acknowledge", "acknowledged", "ada"),
        ("acknowledge", "refused", "bob"),
        ("comment", "acknowledged", "ada"),
        ("shelve", "shelved", "ada"),
        ("out_of_service", "out_of_service", "bob"),
    ]
    assert "valve is stuck" in run("alarms", "show", "a/P1/H")[1]
    (judged,) = map(json.loads, run("alarms", "kpi", "--last", "1h", "--json")[1].splitlines())
    assert (judged["alarms"], judged["alarms_per_hour"], judged["top_10"]) == (1, 1.0, [{"alarm_id": "a/P1/H", "alarms": 1}])
    assert run("alarms", "kpi")[1].splitlines()[2].split() == ["alarms", "1"]


def test_consequences_are_below_their_cause_and_counted_and_explained(run: Told) -> None:
    for topic in ("readings", "alarm-definitions", "alarm-commands"):
        assert run("topics", "create", topic)[0] == 0
    append("alarm-definitions", definition(0, definition="H", tag="a/P1", kind="H", limit=90.0, priority=3))
    append("alarm-definitions", definition(0, definition="L", tag="a/F1", kind="L", limit=10.0, priority=1, caused_by=["a/P1/H"]))
    append("alarm-definitions", definition(0, definition="H", tag="a/T1", kind="H", limit=90.0, priority=2))
    now = now_ms()
    append("readings", *(json.dumps({"tag": tag, "time": now, "value": value}).encode() for tag, value in [("a/P1", 95), ("a/F1", 1), ("a/T1", 95)]))
    assert run("run", "plant.py:plant", "--until", "latest")[0] == 0
    assert [line.split()[0] for line in run("alarms", "list")[1].splitlines()[1:]] == ["a/F1/L", "a/T1/H", "a/P1/H"]  # nothing groups them yet
    assert run("run", "plant.py:causes", "--until", "latest")[0] == 0
    status, out, _ = run("alarms", "list")
    assert status == 0
    assert [line.split("  1  ")[0].split("  2  ")[0].split("  3  ")[0].rstrip() for line in out.splitlines()[1:]] == [
        "a/P1/H (+1)",
        "  └ a/F1/L",
        "a/T1/H",
    ]
    rows = [json.loads(line) for line in run("alarms", "list", "--json")[1].splitlines()]
    assert [(row["alarm_id"], row["cause"], row["consequences"]) for row in rows] == [
        ("a/P1/H", None, 1),
        ("a/F1/L", "a/P1/H", 0),
        ("a/T1/H", None, 0),
    ]
    assert json.loads(run("alarms", "kpi", "--json")[1])["consequences"] == 1
    for alarm in ("a/F1/L", "a/P1/H"):
        (cause,) = json.loads(run("explain", alarm, "--app", "plant.py:plant", "--json")[1])["causes"]
        assert (cause["alarm_id"], cause["cause"]) == ("a/F1/L", "a/P1/H")
        assert "grouped" in run("explain", alarm, "--app", "plant.py:plant", "--html", "page.html")[1]
        assert "<h2>Causes</h2>" in Path("page.html").read_text()


TABLES = """
import headrace as hr

DEFINITIONS = [
    {"tag": "a/F1", "definition": "L", "kind": "L", "limit": 2, "caused_by": ["a/P1/faild", "a/P1/failed"]},
    {"tag": "a/P1", "definition": "failed", "kind": "custom"},
]


@hr.pipeline("causes", version="1")
def causes():
    return {"alarms.causes": hr.alarm_causes(hr.alarm_transitions(), DEFINITIONS)}
"""
MISSPELT = "alarm a/F1/L: caused_by names 'a/P1/faild', and there is no such alarm; did you mean 'a/P1/failed'? Else define it"


def test_a_cause_that_no_definition_has_is_told_where_definitions_are_checked(run: Told, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tables.py").write_text(TABLES)
    assert run("check", "tables.py")[::2] == (0, f"headrace: {MISSPELT}\n")
    Path("headrace.toml").write_text('[plant]\nname = "north"\nexternal = ["alarms"]\n\n[[pipeline]]\napp = "tables.py:causes"\n')
    assert run("check")[::2] == (0, f"headrace: {MISSPELT}\n")
    Path("headrace.toml").unlink()
    assert run("check", "plant.py")[::2] == (0, ""), "definitions in a topic are not looked at"

    assert run("topics", "create", "alarm-definitions")[0] == 0
    append(
        "alarm-definitions",
        definition(0, definition="L", tag="a/F1", kind="L", limit=2.0, caused_by=["a/P1/faild", "a/P2/failed"]),
        definition(0, definition="failed", tag="a/P2", kind="custom"),
    )
    status, out, err = run("alarms", "check")
    assert (status, out.splitlines()) == (1, [
        "alarm-definitions: 2 definitions in force, 0 refused",
        "alarm a/F1/L: caused_by names 'a/P1/faild', and there is no such alarm; did you mean 'a/P2/failed'? Else define it",
    ])  # fmt: skip
    assert err.startswith("headrace: topic alarm-definitions: 0 definitions refused, 1 name in caused_by of no alarm; ")
    append("alarm-definitions", definition(0, definition="LL", tag="a/F1", kind="LL", limit=3.0), b"[]")
    out = run("alarms", "check")[1]
    assert "alarm-definitions/0 offset 2: alarm a/F1/LL: limit 2 of L (L) is not above limit 3 of LL (LL)" in out
    Path("headrace.toml").write_text('[plant]\nname = "north"\nexternal = ["alarms", "alarm-definitions"]\n\n[[pipeline]]\napp = "plant.py:causes"\n')
    _Builder(engine_named("embedded"), KafkaOptions()).tell_unknown(check_plant(Path("headrace.toml")))
    assert capsys.readouterr().err == f"headrace: {out.splitlines()[-1]}\n", "as `headrace up` tells it"
    Path("headrace.toml").unlink()

    append("alarm-definitions", definition(1, definition="faild", tag="a/P1", kind="custom"))
    assert "in caused_by" not in run("alarms", "check")[1]
    append("alarm-definitions", definition(1, definition="failed", tag="a/P2", withdrawn=True))
    assert "names 'a/P2/failed'" in run("alarms", "check")[1]


def test_what_cannot_be_is_refused_with_the_fix(run: Told) -> None:
    run("topics", "create", "alarms.current")
    run("topics", "create", "alarm-commands")
    append("alarms.current", b'{"alarm_id": "a/P1/H", "sequence": 1}')
    for words, fault in [
        (["ack", "a/P1/HH"], "no alarm 'a/P1/HH' has had a transition; did you mean 'a/P1/H'"),
        (["ack", "P1"], "'P1' is not the id of an alarm; write TAG/DEFINITION"),
        (["shelve", "a/P1/H"], "--for, --once: a shelve is for a time or until the alarm clears; give one of them"),
        (["shelve", "a/P1/H", "--once"], "a reason is missing; give --reason TEXT"),
        (["shelve", "a/P1/H", "--once", "--reason", " "], "a reason is missing; give --reason TEXT"),
        (["ack", "a/P1/H", "--by", ""], "a name is missing; give --by NAME"),
        (["comment", "a/P1/H", "c" * 2001], "the reason has more than 2,000 characters; write it shorter"),
        (["kpi", "--last", "0s"], "--last: is 0; write 24h, 7d"),
        (["list", "--topic", "other"], "no topic 'other.current'"),
    ]:
        status, _, err = run("alarms", *words)
        assert (status, fault in err) == (2, True), err
    row = {"alarm_id": "a/P1/H", "priority": 2, "state": "normal", "sequence": 1, "time": 5, "value": 1, "limit": None, "by": "ada", "action": None}
    for number, one in enumerate(({"time": 10**17}, {"priority": "high"}, {"alarm_id": []}, {"value": "9"}, {"by": 5})):
        run("topics", "create", f"t{number}.current")
        append(f"t{number}.current", json.dumps(row | one).encode())
        assert "offset 0: is no row of alarms" in run("alarms", "list", "--topic", f"t{number}")[2]
    append("alarms.current", b"[1]")
    for words, place in [
        (("ack", "a/P1/H"), 1),
        (("list",), 0),
        (("show", "a/P1/H", "--topic", "alarms.current"), 0),
        (("kpi", "--topic", "alarms.current"), 0),
    ]:
        says = f"topic alarms.current/0 offset {place}: is no row of alarms; name the topic with --topic"
        assert says.removeprefix("topic alarms.current/0 ") in run("alarms", *words)[2]


def test_a_login_without_a_name_and_texts_that_are_not_utf_8_are_refused(run: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    run("topics", "create", "alarm-commands")

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert "the login has no name; give --by NAME" in run("alarms", "reset", "a/P1/H")[2]
    assert run("alarms", "reset", "a/P1/H", "--by", "ada")[0] == 0
    assert "a text is not UTF-8" in run("alarms", "reset", "a/P1/H", "--by", "j\udcf6rg")[2]
    assert "a text is not UTF-8" in run("alarms", "reset", "a/P\udcf61/H", "--by", "ada")[2]
