"""`headrace backtest` and what follows from it, on small plants of alarms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

START = 1_767_254_400_000  # 2026-01-01T08:00:00Z
Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]

PLANT = """
import headrace as hr

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}


@hr.pipeline("plant", version="1")
def plant(limit: float = 90.0, on_delay: float = 0.0):
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    tags = [{"tag": f"north/TI-{n}", "definition": "H", "kind": "H", "limit": limit, "deadband": 5, "on_delay": on_delay} for n in (1, 2)]
    return hr.alarm(readings, tags, hr.alarm_commands()).topics()


@hr.pipeline("told", version="1")
def told():
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return hr.alarm(readings, hr.alarm_definitions(), hr.alarm_commands()).topics()


@hr.pipeline("hot", version="1")
def hot(limit: float = 90.0):
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    return {"hot": readings.where("value > :limit").select("tag", at="TO_TIMESTAMP_LTZ(time, 3)", since="time", value="value")}
"""
# Seconds from START at which each tag is above 90, from and to, and the events.
ABOVE = {"north/TI-1": [(600, 640), (1000, 1004), (2000, 2100)], "north/TI-2": [(1500, 1502)]}
LABELS = """start,end,name
2026-01-01T08:10:00Z,2026-01-01T08:11:00Z,leak
2026-01-01T08:33:20Z,2026-01-01T08:35:00Z,trip
2026-01-01T09:35:00+01:00,2026-01-01T09:40:00+01:00,attack
"""
READ = ("--input", "readings=readings.ndjson", "--labels", "labels.csv")


RULED = """
import headrace as hr

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}


@hr.pipeline("ruled", version="1")
def ruled():
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    others = hr.stream("others", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    found = others.select("tag", definition="'rule'", time="time", active="value > 90", value="value")
    definitions = [{"tag": tag, "definition": "rule", "kind": "custom"} for tag in ("north/TI-1", "north/TI-2")]
    return hr.alarm(readings, definitions, hr.alarm_commands(), found).topics()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    Path("plant.py").write_text(PLANT)
    Path("labels.csv").write_text(LABELS)
    rows = []
    for second in range(0, 3602, 2):
        for tag, spans in ABOVE.items():
            value = 95.0 if any(start <= second < end for start, end in spans) else 75.0
            rows.append(json.dumps({"tag": tag, "time": START + second * 1000, "value": value}))
    Path("readings.ndjson").write_text("\n".join(rows) + "\n")


def test_alarms_are_judged_by_labels_and_a_budget(run: Run) -> None:
    status, out, err = run("backtest", "plant.py:plant", *READ, "--report", "out")
    assert (status, "broken" in out) == (0, False), err
    report = json.loads(Path("out/report.json").read_text())
    assert [*report] == [
        "events", "detected", "event_recall", "precision", "time_to_detection_s", "false_alarms_per_day", "alarms_per_operator_hour", "flood_share",
        "by_rule", "always_alarm", "random", "budget",
    ]  # fmt: skip
    assert (report["events"], report["detected"], report["event_recall"], report["precision"]) == (3, 2, 2 / 3, 0.5)
    assert report["time_to_detection_s"] == {"median": 0, "p90": 0}
    assert (report["false_alarms_per_day"], report["alarms_per_operator_hour"]) == (48, 4)
    assert report["by_rule"]["north/TI-1/H"] == {"alarms": 3, "detected": 2, "detected_alone": 2, "false_alarms": 1}
    assert report["budget"] == {"kept": True, "broken": []}
    assert report["always_alarm"]["event_recall"] == 1
    details = json.loads(Path("out/details.json").read_text())
    assert [event["found_by"] for event in details["events"]] == ["north/TI-1/H", "north/TI-1/H", None]
    assert details["false_alarms"] == [
        {"time": "2026-01-01T08:16:40.000Z", "rule": "north/TI-1/H"},
        {"time": "2026-01-01T08:25:00.000Z", "rule": "north/TI-2/H"},
    ]
    assert "<svg" in Path("out/report.html").read_text()
    assert "events found               2 of 3" in out
    assert [line for line in out.splitlines() if line.startswith("attack")] == ["attack  2026-01-01 08:35:00Z  missed            0"]

    Path("budget.toml").write_text('event_recall = 0.5\nfalse_alarms_per_day = 1\nmust_find = ["leak", "attack"]\n')
    status, out, err = run("backtest", "plant.py:plant", *READ, "--budget", "budget.toml", "--set", "on_delay=5")
    assert status == 1
    assert err.endswith("headrace: pipeline plant: breaks the alarm budget: must_find: attack: 1 of 1 missed, all found\n")
    report = json.loads(Path("home/backtests/plant/report.json").read_text())
    assert (report["false_alarms_per_day"], report["time_to_detection_s"]["median"]) == (0, 5)
    assert report["budget"] == {"kept": False, "broken": ["must_find: attack"]}


def test_a_report_is_the_same_each_time(run: Run) -> None:
    for folder in ("a", "b"):
        assert run("backtest", "plant.py:plant", *READ, "--report", folder)[0] == 0
    for name in ("report.json", "details.json", "report.html"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_alarms_are_those_that_a_run_over_the_files_raises(run: Run) -> None:
    """Definitions from a topic count for no time of the history, and commands from one decide whether an alarm is raised."""
    rows = [{"tag": tag, "definition": "H", "time": START - 7 * 86_400_000, "kind": "H", "limit": 90, "deadband": 5} for tag in ABOVE]
    Path("definitions.ndjson").write_text("\n".join(map(json.dumps, rows)))
    command = {"tag": "north/TI-1", "definition": "H", "time": START + 500_000, "command": "shelve", "by": "ada", "reason": "a test"}
    Path("commands.ndjson").write_text(json.dumps({**command, "until": START + 610_000}))
    given = ("--input", "alarm-definitions=definitions.ndjson", "--input", "alarm-commands=commands.ndjson")
    assert run("backtest", "plant.py:told", *READ, *given, "--report", "out")[0] == 0
    details = json.loads(Path("out/details.json").read_text())
    assert (details["start"], details["end"]) == ("2026-01-01T08:00:00.000Z", "2026-01-01T09:00:00.000Z")
    assert details["events"][0]["time_to_detection_s"] == 10, "the shelve ends within the event"
    assert run("run", "plant.py:told", "--input", "readings=readings.ndjson", *given, "--output", "run")[0] == 0
    rows = [json.loads(line) for line in Path("run/alarms.ndjson").read_text().splitlines()]
    raised = [row["time"] for row in rows if row["to"] == "unacknowledged"]
    assert len(raised) == len(details["alarms"]) == 4


def test_rows_of_any_output_can_be_alarms(run: Run) -> None:
    assert run("backtest", "plant.py:hot", "--input", "readings.ndjson", "--labels", "labels.csv", "--topic", "hot", "--rule", "tag")[0] == 0
    report = json.loads(Path("home/backtests/hot/report.json").read_text())
    assert {rule: of["alarms"] for rule, of in report["by_rule"].items()} == {"north/TI-1": 72, "north/TI-2": 1}
    assert (report["detected"], report["false_alarms_per_day"]) == (2, 72)
    by_ms = ("--topic", "hot", "--time", "since", "--report", "out")
    assert run("backtest", "plant.py:hot", "--input", "readings.ndjson", "--labels", "labels.csv", *by_ms)[0] == 0
    assert json.loads(Path("out/report.json").read_text())["by_rule"] == {
        "hot": {"alarms": 73, "detected": 2, "detected_alone": 2, "false_alarms": 3}
    }


def test_conditions_that_a_rule_finds_belong_to_the_history(run: Run, refused: Refused) -> None:
    Path("ruled.py").write_text(RULED)
    assert "topic 'others' has no file" in refused("backtest", "ruled.py", *READ)
    Path("none.ndjson").write_text("")
    given = ("--input", "readings=none.ndjson", "--input", "others=readings.ndjson", "--labels", "labels.csv", "--report", "out")
    status, _, err = run("backtest", "ruled.py", *given)
    assert status == 0, err
    details = json.loads(Path("out/details.json").read_text())
    assert (details["start"], len(details["alarms"])) == ("2026-01-01T08:00:00.000Z", 4)


def test_two_settings_are_compared(run: Run, refused: Refused) -> None:
    status, out, _ = run("what-if", "plant.py:plant", *READ, "--set", "on_delay=5")
    assert (status, out.splitlines()[0]) == (0, "4 → 2 alarms, 2 → 0 of them false, no event lost, 2 found 5 s later")
    assert [line.split() for line in out.splitlines()[-2:]] == [["leak", "0", "s", "5", "s"], ["trip", "0", "s", "5", "s"]]
    status, out, _ = run("what-if", "plant.py:plant", *READ, "--set", "on_delay=50", "--json")
    found = json.loads(out)
    assert (status, found["summary"]) == (0, "4 → 1 alarms, 2 → 0 of them false, 1 event lost (leak), 1 found 50 s later")
    assert [(one["name"], one["before_s"], one["after_s"]) for one in found["events"]] == [("leak", 0, None), ("trip", 0, 50), ("attack", None, None)]
    assert (found["before"]["detected"], found["after"]["detected"]) == (2, 1)
    for name, limit in (("definitions", 90), ("others", 80), ("less", 70)):
        rows = [{"tag": tag, "definition": "H", "time": START, "kind": "H", "limit": limit + 20 * (tag[-1] == "2")} for tag in ABOVE]
        Path(f"{name}.ndjson").write_text("\n".join(map(json.dumps, rows)))
    told = ("plant.py:told", *READ, "--input", "alarm-definitions=definitions.ndjson")
    status, out, err = run("what-if", *told, "--replace", "alarm-definitions=others.ndjson")
    assert (status, out.splitlines()[0]) == (0, "3 → 3 alarms, 1 → 1 of them false, no event lost"), err
    status, out, _ = run("what-if", *told, "--replace", "alarm-definitions=less.ndjson")
    assert (status, out.splitlines()[0]) == (0, "3 → 2 alarms, 1 → 2 of them false, 2 events lost (leak, trip)")
    for words, said in [
        (("plant.py:plant", *READ), "no change is given; give --set KEY=VALUE, or --replace TOPIC=FILE"),
        (("plant.py:plant", *READ, "--set", "limit=90"), "--set: pipeline plant has these settings already; give --set KEY=VALUE"),
        ((*told, "--replace", "readings=less.ndjson"), "--replace: topic readings is the history, which must be the same for both"),
    ]:
        assert said in refused("what-if", *words)


def test_what_cannot_be_judged_is_refused_with_the_fix(run: Run, refused: Refused) -> None:
    hot = ("plant.py:hot", "--input", "readings.ndjson", "--labels", "labels.csv")
    for words, said in [
        (("plant.py:plant", "--labels", "labels.csv"), "--input: topic 'readings' has no file; add --input readings=FILE"),
        (("plant.py:told", *READ), "--input: topic 'alarm-definitions' has no file"),
        (("plant.py:plant", *READ[:2], "--labels", "none.csv"), "none.csv: cannot be read: No such file or directory"),
        (("plant.py:plant", *READ, "--grace", "soon"), "--grace: 'soon' is not a duration"),
        (("plant.py:plant", *READ, "--operators", "0"), "--operators: is 0; give 1 or more"),
        (("plant.py:plant", *READ, "--time", "time"), "--time: belongs to --topic, which is not given"),
        (hot, "pipeline hot: has no hr.alarm; name the output whose rows are alarms: --topic, one of hot"),
        ((*hot, "--topic", "hit"), "--topic: pipeline hot: no topic 'hit' is written; did you mean 'hot'?"),
        ((*hot, "--topic", "hot", "--time", "tag"), "--time: column 'tag' is a STRING; name a TIMESTAMP_LTZ(3)"),
        ((*hot, "--topic", "hot", "--time", "sinse"), "--time: topic hot has no column 'sinse'; did you mean 'since'?"),
        ((*hot, "--topic", "hot", "--rule", "tagg"), "--rule: topic hot has no column 'tagg'; did you mean 'tag'?"),
        (("plant.py:plant", *READ, "--set", "limt=3"), "did you mean 'limit'?"),
    ]:
        assert said in refused("backtest", *words), words
    Path("file").write_text("")
    status, _, err = run("backtest", "plant.py:plant", *READ, "--report", "file/report")
    assert (status, "received" in err, err.startswith("headrace: file/report")) == (1, False, True), "before the run"
    Path("labels.csv").write_text("start,end,name\n2025-01-01,2025-01-02,leak\n")
    status, _, err = run("backtest", "plant.py:plant", *READ)
    says = "no label overlaps with the data: labels are from 2025-01-01 00:00:00Z to 2025-01-02 00:00:00Z, data from 2026-01-01 08:00:00Z to "
    assert status == 1
    assert err.endswith(f"headrace: --labels: {says}2026-01-01 09:00:00Z; are they of this history, and in UTC?\n")
    Path("labels.csv").write_text(LABELS + "2025-01-01,2025-01-02,old\n")
    status, out, err = run("backtest", "plant.py:plant", *READ)
    assert (status, "3 events" in out, "--labels: 1 event is not in the data, and is left out" in err) == (0, True, True)
    Path("labels.csv").write_text("start,end,name\n")
    status, out, err = run("backtest", "plant.py:plant", *READ)
    assert (status, "there are no events: every alarm is false" in err, "event recall" in out) == (0, True, True)
    Path("readings.ndjson").write_text("{}\n")
    status, _, err = run("backtest", "plant.py:plant", *READ)
    assert (status, "no record of readings could be used that has an event time" in err) == (1, True)
    Path("readings.ndjson").write_text('{"tag": "a", "time": 1767254400000, "value": 1}\n')
    Path("file").write_text("")
    status, _, err = run("backtest", "plant.py:plant", *READ, "--report", "file")
    assert (status, "file: cannot be written: " in err) == (1, True)
