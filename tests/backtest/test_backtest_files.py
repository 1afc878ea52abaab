"""Files of labels and of budgets: what they may say, and each mistake with its place and fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.backtest.budget import Budget, budget_of
from headrace.backtest.judge import Backtest
from headrace.backtest.labels import Label, labels_of
from headrace.errors import PlanError

START = 1_767_254_400_000  # 2026-01-01T08:00:00Z
HEAD = "start,end,name\n"


def test_times_without_a_zone_are_utc_and_labels_are_in_the_order_of_their_starts(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "\ufeffName , start,end,TAGS\n\n"
        '"leak, small",2026-01-01T08:00:00.250,2026-01-01 09:00:01,a/P1;a/P2 b\n'
        "trip,2026-01-01T09:00:00+01:00,2026-01-01T08:00:00Z,\n"
    )
    assert labels_of(path) == [Label(START, START, "trip"), Label(START + 250, START + 3_601_000, "leak, small", ("a/P1", "a/P2", "b"))]
    path.write_text(HEAD)
    assert labels_of(path) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv: is empty; the first line is start,end,name or start,end,name,tags"),
        ("start,end,nmae\n", "labels.csv line 1, column 3: unknown column 'nmae'; did you mean 'name'?"),
        ("start;end;name\n", "labels.csv line 1, column 1: unknown column 'start;end;name'; separate the columns with commas"),
        ("start,end\n", "labels.csv line 1: there is no column 'name'; the first line is"),
        ("start,end,name,end\n", "labels.csv line 1, column 4: column 'end' is there twice"),
        (HEAD + "2026-01-01,x,leak\n", "labels.csv line 2, column 2 (end): 'x' is no time; write 2026-01-01T08:30:00Z"),
        (HEAD + "2026-01-01,9999-12-31T23:59:59-14:00,a\n", "line 2, column 2 (end): '9999-12-31T23:59:59-14:00' is no time"),
        (HEAD + "0001-01-01T00:00:00+14:00,2026-01-01,a\n", "line 2, column 1 (start): '0001-01-01T00:00:00+14:00' is no time"),
        (HEAD + "2026-01-01,2026-01-01,a\n2026-01-01,,b", "line 3, column 2 (end): '' is no time"),
        (HEAD + "2026-01-02,2026-01-01,leak\n", "line 2, column 2 (end): end 2026-01-01 is before start 2026-01-02; are they swapped?"),
        (HEAD + "2026-01-01,2026-01-01,\n", "line 2, column 3 (name): the name is empty; name the event"),
        (HEAD + "2026-01-01,2026-01-01,a,b\n", "line 2: has 4 cells, and the header 3; put a text with a comma in quotes"),
        (HEAD + "2026-01-01,2026-01-02,a\n" * 2, "line 3: is the same as line 2; remove one of them"),
    ],
)
def test_a_mistake_in_labels_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(PlanError, match=re.escape(said)):
        labels_of(path)


def test_all_mistakes_of_labels_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(HEAD + "x,2026-01-01,a\n2026-01-01,2026-01-01,b\n2026-01-02,2026-01-01,c\n")
    with pytest.raises(PlanError) as caught:
        labels_of(tmp_path / "labels.csv")
    assert [line.partition(":")[0].rpartition("/")[2] for line in str(caught.value).splitlines()] == [
        "labels.csv line 2, column 1 (start)",
        "labels.csv line 4, column 2 (end)",
    ]


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        labels_of(tmp_path / "none.csv")
    (tmp_path / "labels.csv").write_bytes(HEAD.encode() + b"\xff")
    with pytest.raises(PlanError, match="line 2, column 1: is not UTF-8"):
        labels_of(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text(HEAD + '2026-01-01,2026-01-01,"leak\n')
    with pytest.raises(PlanError, match="line 2: is not CSV: unexpected end of data; fix this line"):
        labels_of(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text(HEAD + f"{'x' * 100_000},2026-01-01,a\n")
    with pytest.raises(PlanError, match=f"'{'x' * 40}…' is no time"):
        labels_of(tmp_path / "labels.csv")


def test_a_budget_has_the_names_of_the_report(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('event_recall = 1\ntime_to_detection_s = {median = 60}\nflood_share = 0.01\nmust_find = ["leak"]\n')
    found = budget_of(path)
    assert found.limits == {"event_recall": 1.0, "time_to_detection_s.median": 60.0, "flood_share": 0.01}
    assert found.must_find == ("leak",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("event_recal = 1", "b.toml line 1, column 1: unknown key 'event_recal'; did you mean 'event_recall'?"),
        ("\nprecision = 1.5", "b.toml line 2, column 1: precision = 1.5 cannot be met; it is a share from 0 to 1"),
        ("flood_share = 2", "flood_share = 2 is no limit; it is a share from 0 to 1"),
        ("false_alarms_per_day = -1", "false_alarms_per_day = -1 is no limit; it is 0 or more"),
        ("precision = true", "precision is no number; write precision = 0.9"),
        ("alarms_per_operator_hour = nan", "alarms_per_operator_hour is no number; write alarms_per_operator_hour = 1"),
        ("alarms_per_operator_hour = 1" + "0" * 400, "alarms_per_operator_hour is no number"),
        ("time_to_detection_s = 5", "is no table; write time_to_detection_s = {median = 60, p90 = 300}"),
        ("time_to_detection_s = {p95 = 5}", "unknown key 'p95'; did you mean 'p90'?"),
        ("must_find = 'leak'", 'is no list of names; write must_find = ["pump trip"]'),
        ("", "b.toml: limits nothing; write one of event_recall, precision"),
        ("x", "is not TOML"),
    ],
)
def test_a_mistake_in_a_budget_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=re.escape(said)):
        budget_of(path)


def test_a_budget_that_no_alarms_could_keep_is_reported() -> None:
    hour = 3_600_000
    apart = Backtest([], [Label(n * hour, n * hour + 1, "leak") for n in range(10)], 0, 10 * hour)
    Budget({"event_recall": 1.0, "alarms_per_operator_hour": 1.0}).check(apart)
    for budget, said in [
        (Budget({"event_recall": 0.9, "alarms_per_operator_hour": 0.8}), "allows 8 alarms in 10 h, and the events need 9; allow more alarms"),
        (Budget({"alarms_per_operator_hour": 0.1}, must_find=["leak"]), "allows 1 alarms in 10 h, and the events need 10"),
        (Budget({}, must_find=["laek"]), "must_find names 'laek', and no event in the data has that name; did you mean 'leak'?"),
    ]:
        with pytest.raises(PlanError, match=re.escape(said)):
            budget.check(apart)
    at_once = Backtest([], [Label(hour, hour + n, "leak") for n in range(10)], 0, 10 * hour)
    Budget({"event_recall": 1.0, "alarms_per_operator_hour": 0.1}).check(at_once)
    with pytest.raises(PlanError, match="event_recall cannot be judged: there are no events"):
        Budget({"event_recall": 0.0}).check(Backtest([], [], 0, hour))
