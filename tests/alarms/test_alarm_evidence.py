"""The evidence of a transition: which records raised an alarm, and which cleared it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from alarms.alarm_plant import START, TOPICS, command, definition, plan_of, reading
from engines.embedded.test_live import Wall, live_on, written
from engines.embedded.test_processes_live import FAR, add
from headrace.alarms.definition import definition_of
from headrace.alarms.process import Evidence, FixedAlarms
from headrace.errors import PlanError
from headrace.topics.sqlite import SqliteLog

FOREVER = 10**9
SCHEMA = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE"}
PLACE = {"partition": "partition", "offset": "offset"}


def transitions(
    settings: dict[str, Any], rows: list[dict[str, Any]], *, upto: int | None = None, commands: Any = (), conditions: Any = ()
) -> list[dict[str, Any]]:
    process = FixedAlarms([definition_of({"definition": "X", "tag": "P", "kind": "H", **settings})]).with_evidence(Evidence("in", "rules"))
    found = hr.drive(process, rows, by="tag", time="time", inputs={"command": commands, "condition": conditions}, upto=upto)
    return [row for name, row in found if not name]


def rows_of(values: list[float | None], step: int = 1_000) -> list[dict[str, Any]]:
    return [{"tag": "P", "time": nth * step, "value": value, "partition": 3, "offset": nth} for nth, value in enumerate(values)]


def named(rows: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    return [(row["event"], [offset for _, offset in row["evidence"]["records"]]) for row in rows]


CASES: list[tuple[str, dict[str, Any], list[float | None], list[tuple[str, list[int]]]]] = [
    ("one reading", {"limit": 90}, [0, 91, 92, 0], [("raise", [1]), ("clear", [3])]),
    ("an on-delay", {"limit": 90, "on_delay": 2}, [91, 0, 91, 92, 93, 94], [("raise", [2, 3, 4])]),
    ("an on-delay that ends between readings", {"limit": 90, "on_delay": 1.5}, [0, 91, 91, 91], [("raise", [1, 2])]),
    ("an off-delay", {"limit": 90, "off_delay": 2}, [91, 0, 91, 0, 0, 0], [("raise", [0]), ("clear", [3, 4, 5])]),
    ("2 of 3", {"limit": 90, "k": 2, "n": 3}, [0, 91, 0, 91, 0, 0], [("raise", [1, 2, 3]), ("clear", [2, 3, 4])]),
    ("2 of 3 after one that no longer counts", {"limit": 90, "k": 2, "n": 3}, [91, 0, 0, 91, 91], [("raise", [3, 4])]),
    ("readings of bad quality do not count", {"limit": 90, "on_delay": 2}, [91, None, 91], [("raise", [0, 2])]),
    ("bad quality", {"kind": "bad_quality"}, [1, None, None, 1], [("raise", [1]), ("clear", [3])]),
    ("the rate has two readings", {"kind": "rate_of_change", "limit": 5}, [0, 5, 11, 11], [("raise", [1, 2]), ("clear", [2, 3])]),
    ("a frozen value: its first reading and the last", {"kind": "frozen", "after": 2}, [4, 5, 5, 5, 6], [("raise", [1, 3]), ("clear", [4])]),
]


@pytest.mark.parametrize(("settings", "values", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_evidence_names_the_readings_that_count(
    settings: dict[str, Any], values: list[float | None], expected: list[tuple[str, list[int]]]
) -> None:
    rows = transitions(settings, rows_of(values), upto=10_000 if None in values else None)
    assert named(rows) == expected
    for row in rows:
        offsets = [offset for _, offset in row["evidence"]["records"]]
        assert row["evidence"]["topic"] == "in"
        assert {partition for partition, _ in row["evidence"]["records"]} == {3}
        assert row["evidence"]["window"] == {"start": offsets[0] * 1_000, "end": offsets[-1] * 1_000}


def test_the_evidence_of_silence_is_the_last_reading_and_of_a_rule_its_condition() -> None:
    silent = transitions({"kind": "no_data", "after": 10}, rows_of([1.0, 1.0]), upto=30_000)
    assert named(silent) == [("raise", [1])]
    conditions = [{"tag": "P", "definition": "X", "time": at, "active": at < 9, "value": 1.0, "partition": 0, "offset": at} for at in (5, 7, 9)]
    ruled = transitions({"kind": "custom"}, [], conditions=conditions)
    assert named(ruled) == [("raise", [5]), ("clear", [9])]
    assert {row["evidence"]["topic"] for row in ruled} == {"rules"}


def test_commands_and_escalations_have_no_evidence_and_a_place_that_is_not_known_is_none() -> None:
    given = {"tag": "P", "definition": "X", "time": 2_500, "command": "acknowledge", "by": "ada", "reason": None}
    acknowledge = {**given, "sequence": None, "until": None, "one_shot": None}
    rows = transitions({"limit": 90, "escalate_after": 1}, rows_of([91, 91, 91, 91, 0]), commands=[acknowledge])
    assert [(row["event"], row["evidence"] is None) for row in rows] == [
        ("raise", False), ("escalate", True), ("acknowledge", True), ("clear", False)
    ]  # fmt: skip
    nowhere = [{**row, "offset": None} for row in rows_of([91.0])]
    assert [row["evidence"] for row in transitions({"limit": 90}, nowhere)] == [None]


def test_the_evidence_of_a_long_delay_is_the_first_reading_and_the_latest() -> None:
    (row,) = transitions({"limit": 90, "on_delay": 299.5}, rows_of([0, *[91] * 400]))
    assert named([row]) == [("raise", [1, *range(202, 301)])]
    assert row["evidence"]["window"] == {"start": 1_000, "end": 300_000}


def reference(rows: list[dict[str, Any]], limit: float, on: int, off: int, k: int, n: int) -> list[tuple[str, list[int]]]:
    """Return the evidence of a high alarm: from the whole history at each transition."""
    judged = [row for row in rows if row["value"] is not None]
    beyond = [row["value"] > limit for row in judged]
    holds = [sum(beyond[max(0, at - n + 1) : at + 1]) >= k for at in range(len(judged))]
    found, state, since = [], False, 0
    for at, row in enumerate(judged):
        if holds[at] == state:
            continue
        if at == 0 or holds[at - 1] == state:
            since = at
        due = judged[since]["time"] + (off if state else on)
        after = judged[at + 1]["time"] if at + 1 < len(judged) else FOREVER
        if due <= row["time"] or due < after:
            state = not state
            first = next(place for place in range(max(0, since - n + 1), since + 1) if beyond[place] == state)
            found.append(("raise" if state else "clear", [one["offset"] for one in judged[first : at + 1]]))
    return found


def check_against_the_reference(seed: int) -> None:
    dice = random.Random(seed)
    time, rows = 0, []
    for offset in range(dice.randrange(40)):
        time += dice.choice([1, 500, 1_000, 1_500, 4_000])
        rows.append({"tag": "P", "time": time, "value": dice.choice([80.0, 95.0]), "partition": 0, "offset": offset})
    n = dice.randrange(1, 5)
    k, on, off = dice.randrange(1, n + 1), dice.choice([0, 500, 3_000]), dice.choice([0, 1_000, 2_500])
    rows_found = transitions({"limit": 90.0, "k": k, "n": n, "on_delay": on / 1000, "off_delay": off / 1000}, rows, upto=time + 10_000)
    assert named(rows_found) == reference(rows, 90.0, on, off, k, n), (seed, k, n, on, off, rows)


def test_the_evidence_is_that_of_the_whole_history() -> None:
    for seed in range(80):
        check_against_the_reference(seed)


@pytest.mark.long
def test_the_evidence_of_many_histories_is_that_of_the_whole_history() -> None:
    for seed in range(100, 5_000):
        check_against_the_reference(seed)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "home" / "log.db", clock=Wall(START))
    yield made
    made.close()


def test_the_evidence_leads_to_the_records_of_a_topic_also_over_a_restart(log: SqliteLog) -> None:
    plan = plan_of(place="metadata")
    for topic in TOPICS:
        log.create(topic)
    one = {"definition": "H", "tag": "a/P1", "kind": "H", "limit": 90.0, "on_delay": 2.0}
    lines = [reading(1, 50.0), reading(2, 95.0), reading(2.5, 99.0, tag="b/P3"), reading(3, 96.0), reading(4, 97.0)]
    add(log, "alarm-definitions", [definition(0, **one)])
    for line in lines:
        add(log, "readings", [line])
        live = live_on(log, Wall(START), plan, FAR)
        live.work()
        live.commit()
        live.close()
    add(log, "alarm-commands", [command(5, "acknowledge")])
    live = live_on(log, Wall(START), plan, FAR)
    live.work()
    live.commit()
    live.close()
    raised, acknowledged = written(log, "alarms")
    assert acknowledged["evidence"] is None
    assert raised["evidence"]["topic"] == "readings"
    values = [json.loads(lines[offset])["value"] for partition, offset in raised["evidence"]["records"] if partition == 0]
    assert values == [95.0, 96.0, 97.0]
    assert raised["evidence"]["window"] == {"start": START + 2_000, "end": START + 4_000}


def test_readings_of_files_and_of_several_topics_have_evidence() -> None:
    def streams(*topics: str) -> hr.Stream:
        found = [hr.stream(name, schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(time, 3)", metadata=PLACE) for name in topics]
        first, *others = (one.derive(topic=f"'{name}'") for name, one in zip(topics, found, strict=True))
        return first.union(*others) if others else first

    def build() -> dict[str, hr.Stream]:
        return hr.alarm(streams("a", "b"), [{"definition": "H", "tag": "P", "kind": "H", "limit": 90}], hr.alarm_commands(), evidence=True).topics()

    pipeline = hr.pipeline("both", version="1")(build)
    given = {"a": [{"tag": "P", "time": START, "value": 1.0}], "b": [{"tag": "P", "time": START + 1, "value": 91.0}]}
    (row,) = pipeline.run({**given, "alarm-commands": []})["alarms"].rows()
    assert row["evidence"] == {"topic": "b", "records": [[0, 0]], "window": {"start": START + 1, "end": START + 1}}


def test_readings_that_do_not_say_where_they_are_are_refused() -> None:
    bare = hr.stream("a", schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    with pytest.raises(PlanError, match="there is no column 'partition', and evidence needs it"):
        hr.alarm(bare, [], hr.alarm_commands(), evidence=True)
    two = [hr.stream(name, schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(time, 3)", metadata=PLACE) for name in "ab"]
    with pytest.raises(PlanError, match="the readings come from a, b, and do not say from which"):
        hr.alarm(two[0].union(two[1]), [], hr.alarm_commands(), evidence=True)
