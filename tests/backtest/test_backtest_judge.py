"""Alarms judged by labels: a history that was counted by hand, and any history as the definition alone says."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.backtest.budget import Breach, Budget
from headrace.backtest.compare import Comparison
from headrace.backtest.judge import Alarm, Backtest
from headrace.backtest.labels import Label
from headrace.backtest.page import page

MINUTE, DAY = 60_000, 86_400_000


def test_a_day_that_was_counted_by_hand() -> None:
    labels = [Label(60 * MINUTE, 70 * MINUTE, "leak"), Label(100 * MINUTE, 110 * MINUTE, "trip"), Label(200 * MINUTE, 210 * MINUTE, "missed")]
    alarms = [Alarm(61 * MINUTE, "a"), Alarm(62 * MINUTE, "a"), Alarm(62 * MINUTE, "b"), Alarm(111 * MINUTE, "b"), Alarm(150 * MINUTE, "a")]
    judged = Backtest([*reversed(alarms)], labels, 0, DAY, grace_ms=MINUTE, operators=2)
    report = judged.report()
    assert (report["events"], report["detected"], report["event_recall"]) == (3, 2, 2 / 3)
    assert report["precision"] == 2 / 3, "two events were found, and one alarm is false"
    assert report["time_to_detection_s"] == {"median": (60 + 660) / 2, "p90": 660}
    assert (report["false_alarms_per_day"], report["alarms_per_operator_hour"], report["flood_share"]) == (1, 5 / 24 / 2, 0)
    assert report["by_rule"] == {
        "a": {"alarms": 3, "detected": 1, "detected_alone": 0, "false_alarms": 1},
        "b": {"alarms": 2, "detected": 2, "detected_alone": 1, "false_alarms": 0},
    }
    assert [(event.label.name, len(event.alarms), event.delay_s) for event in judged.events] == [
        ("leak", 3, 60),
        ("trip", 1, 660),
        ("missed", 0, None),
    ]
    always = report["always_alarm"]
    assert (always["event_recall"], always["time_to_detection_s"]) == (1, {"median": 0, "p90": 0})
    assert always["false_alarms_per_day"] == 2 * 24 * 60 + 1 - 3 * 23, "every 30 s, both ends of the day, but those of events and of the grace"
    assert always["flood_share"] > 0.99
    assert report["random"] == Backtest(alarms, labels, 0, DAY, MINUTE, 2).report()["random"], "one seed draws the same"
    assert report["random"] != Backtest(alarms, labels, 0, DAY, MINUTE, 2, seed=1).report()["random"]
    assert 0 < report["random"]["event_recall"] < 0.5


def test_a_history_without_alarms_and_one_without_events() -> None:
    silent = Backtest([], [Label(1, 2, "leak")], 0, DAY).report()
    assert (silent["event_recall"], silent["precision"], silent["time_to_detection_s"]) == (0, None, {"median": None, "p90": None})
    assert (silent["random"]["detected"], silent["random"]["precision"]) == (0, None)
    quiet = Backtest([Alarm(5, "a")], [], 0, DAY).report()
    assert (quiet["event_recall"], quiet["precision"], quiet["false_alarms_per_day"]) == (None, 0, 1)
    assert Backtest([Alarm(5, "a")], [], 5, 5).report()["alarms_per_operator_hour"] == 3600, "a history of one moment counts as a second"


times = st.integers(0, 60)
labels_of = st.lists(st.tuples(times, st.integers(0, 15), st.sampled_from("xyz")), max_size=8, unique=True)
alarms_of = st.lists(st.tuples(times, st.sampled_from("abc")), max_size=25)


@given(labels_of, alarms_of, st.integers(0, 10))
def test_any_history_is_judged_as_the_definition_says(events: list[tuple[int, int, str]], raised: list[tuple[int, str]], grace: int) -> None:
    labels = [Label(start, start + long, name) for start, long, name in events]
    alarms = [Alarm(time, rule) for time, rule in raised]
    judged = Backtest(alarms, labels, 0, 75, grace_ms=grace)
    report = judged.report()

    def within(label: Label, alarm: Alarm) -> bool:
        return label.start <= alarm.time <= label.end + grace

    found = {label: sorted(alarm for alarm in alarms if within(label, alarm)) for label in labels}
    false = [alarm for alarm in alarms if not any(within(label, alarm) for label in labels)]
    delays = sorted((mine[0].time - label.start) / 1000 for label, mine in found.items() if mine)
    assert {event.label: [*event.alarms] for event in judged.events} == found
    assert judged.false_alarms == sorted(false)
    assert report["detected"] == len(delays)
    assert report["precision"] == (len(delays) / (len(delays) + len(false)) if alarms else None)
    assert report["false_alarms_per_day"] == pytest.approx(len(false) * 86_400)
    assert report["time_to_detection_s"]["median"] == (median(delays) if delays else None)
    p90 = report["time_to_detection_s"]["p90"]
    if delays:
        assert sum(delay <= p90 for delay in delays) >= 0.9 * len(delays) > sum(delay < p90 for delay in delays)
    for rule, of in report["by_rule"].items():
        mine = [alarm for alarm in alarms if alarm.rule == rule]
        assert of["alarms"] == len(mine)
        assert of["false_alarms"] == sum(alarm.rule == rule for alarm in false)
        assert of["detected"] == sum(any(within(label, alarm) for alarm in mine) for label in labels)
        assert of["detected_alone"] == sum({alarm.rule for alarm in given} == {rule} for given in found.values())
    assert report["always_alarm"]["detected"] == len(labels)
    text = page("<p>", judged, report, Budget(), [])
    assert text.count('class="event') == len(labels)
    assert "<p> version" not in text


@pytest.mark.parametrize("end", [0, 1_000, 200_000, 400_000, 1_200_000])
def test_always_alarm_has_the_figures_of_its_alarms(end: int) -> None:
    dice = random.Random(end)
    for count in (0, 1, 3, 30):
        starts = [dice.randint(-50_000, end) for _ in range(count)]
        labels = [Label(start, max(start + dice.randint(0, 90_000), 0), f"{n}") for n, start in enumerate(starts)]
        times = {*range(0, end + 1, 30_000), *(max(start, 0) for start in starts)}
        alarms = Backtest([Alarm(time, "always") for time in times], labels, 0, end, grace_ms=500, operators=2).report()
        always = Backtest([], labels, 0, end, grace_ms=500, operators=2).report()["always_alarm"]
        assert {name: alarms[name] for name in always} == always


def test_a_history_of_a_century_is_judged_at_once() -> None:
    century = 36_525 * DAY
    always = Backtest([Alarm(5, "a")], [Label(0, MINUTE, "leak")], 0, century).report()["always_alarm"]
    assert always["alarms_per_operator_hour"] == pytest.approx(120, rel=1e-6)
    assert always["flood_share"] == pytest.approx(1, rel=1e-6)


def test_the_page_says_what_is_broken_and_escapes_names() -> None:
    judged = Backtest([Alarm(5, "<b>&")], [Label(0, 3, "<script>")], 0, DAY)
    text = page("plant", judged, judged.report(), Budget({"precision": 0.5}), [Breach("precision", "0.0%", "at least 50.0%")])
    assert "The alarm budget is broken: precision: 0.0%, at least 50.0%" in text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "http" not in text


def report_of(**more: Any) -> dict[str, Any]:
    return {**Backtest([], [Label(1, 2, "leak")], 0, DAY).report(), **more}


def test_a_budget_says_which_limits_are_broken() -> None:
    backtest = Backtest([], [Label(1, 2, "leak"), Label(5, 6, "leak"), Label(8, 9, "trip")], 0, DAY)
    every = dict.fromkeys(("event_recall", "precision"), 0.5) | dict.fromkeys(
        ("time_to_detection_s.p90", "false_alarms_per_day", "flood_share"), 0.25
    )
    broken = Budget(every, must_find=["leak"]).broken(backtest, report_of(false_alarms_per_day=0.5, flood_share=0.25))
    assert broken == [
        ("event_recall", "0.0%", "at least 50.0%"),
        ("time_to_detection_s.p90", "no event was found", "at most 0.25 s"),
        ("false_alarms_per_day", "0.5", "at most 0.25"),
        ("must_find: leak", "2 of 2 missed", "all found"),
    ]
    assert Budget(every).broken(backtest, report_of(event_recall=0.5, precision=0.5, time_to_detection_s={"p90": 0.25})) == []


def test_a_comparison_says_what_a_change_does() -> None:
    labels = [Label(1000 * n, 1000 * n + 999, f"e{n}") for n in range(6)]

    def summary(before: dict[int, int], after: dict[int, int]) -> str:
        alarms = [[Alarm(1000 * n + at, "a") for n, at in found.items()] for found in (before, after)]
        return Comparison(*(Backtest(one, labels, 0, DAY) for one in alarms)).summary

    assert summary({}, {}) == "0 → 0 alarms, 0 → 0 of them false, no event lost"
    assert summary({0: 0, 9: 0}, {0: 500}) == "2 → 1 alarms, 1 → 0 of them false, no event lost, 1 found 0.5 s later"
    assert summary(dict.fromkeys(range(5), 0), {}).endswith("5 events lost (e0, e1, e2, …)")
    assert summary({0: 0, 1: 900, 2: 0, 3: 100}, {0: 1, 1: 0, 2: 20, 3: 100, 4: 0}).endswith(
        "no event lost, 1 event found anew (e4), 2 found up to 0.02 s later, 1 found 0.9 s sooner"
    )
