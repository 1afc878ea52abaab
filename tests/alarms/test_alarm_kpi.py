"""Indicators of alarms: of a day counted by hand, and floods as the process finds them."""

from __future__ import annotations

import random
from typing import Any

import pytest

import headrace as hr
from headrace.alarms.kpi import floods, kpi
from headrace.alarms.process import Flood

HOUR = 3_600_000


def row(time: int, event: str = "raise", alarm: str = "a/X", **more: Any) -> dict[str, Any]:
    return {"time": time, "event": event, "alarm_id": alarm, "to": "unacknowledged", "priority": 3, "sequence": 1, **more}


def test_a_day_that_was_counted_by_hand() -> None:
    burst = [row(HOUR + nth * 1_000, alarm=f"a/{nth % 4}") for nth in range(12)]
    rows = [
        row(-1), *burst, row(5 * HOUR, priority=1, alarm="b", sequence=7), row(5 * HOUR + 30_000, "acknowledge", "b", to="acknowledged", sequence=7),
        row(5 * HOUR + 40_000, "acknowledge", "b", to="refused", sequence=7), row(6 * HOUR, "clear"), row(24 * HOUR),
    ]  # fmt: skip
    found = kpi(rows, 0, 24 * HOUR)
    assert (found["alarms"], found["alarms_per_hour"], found["most_in_10_minutes"]) == (13, 13 / 24, 12)
    assert found["periods_over_10_share"] == 1 / 144
    assert found["flood_share"] == pytest.approx((600 - 10 + 7) / 86_400)  # from the 11th raise until 10 minutes after the 8th
    assert found["top_10"] == [{"alarm_id": name, "alarms": count} for name, count in [("a/0", 3), ("a/1", 3), ("a/2", 3), ("a/3", 3), ("b", 1)]]
    assert found["top_10_share"] == 1
    assert found["priorities"] == {"1": 1 / 13, "3": 12 / 13}
    assert found["seconds_to_acknowledge"] == 30


def test_consequences_are_counted_among_the_alarms_that_were_raised() -> None:
    rows = [row(0, alarm="a"), row(1, alarm="b"), row(2, alarm="b", sequence=2), row(3, alarm="c"), row(2 * HOUR, alarm="d")]
    group = {"event": "grouped", "cause": "a"}
    causes = [{**group, "alarm_id": name, "sequence": nth} for name, nth in [("b", 1), ("b", 1), ("b", 2), ("c", 2), ("d", 1)]]
    causes += [{**group, "event": "released", "alarm_id": "b", "sequence": 2}]
    found = kpi(rows, 0, HOUR, causes)
    assert (found["alarms"], found["consequences"], found["consequences_share"]) == (4, 2, 0.5)


def test_a_time_without_alarms() -> None:
    found = kpi([], 0, HOUR)
    assert (found["alarms"], found["flood_share"], found["top_10_share"], found["seconds_to_acknowledge"]) == (0, 0, 0, None)


@pytest.mark.parametrize("seed", range(30))
def test_floods_are_those_that_the_process_finds(seed: int) -> None:
    dice = random.Random(seed)
    time, times = 0, []
    for _ in range(60):
        time += dice.choice([1_000, 20_000, 60_000, 60_000, 150_000, 300_000])
        times.append(time)
    told = hr.drive(Flood, [{"plant": "p", "time": one} for one in times], by="plant", time="time", upto=time + HOUR)
    expected = [found for flood in floods(times) for found in (("began", flood[0]), ("ended", flood[1]))]
    assert [(one["flood"], one["time"]) for _, one in told] == expected


def test_a_pipeline_over_the_transitions_finds_floods() -> None:
    def build() -> dict[str, hr.Stream]:
        return {"floods": hr.alarm_floods(hr.alarm_transitions())}

    start = 1_767_254_400_000
    given = {"tag": "a", "event_id": "e", "definition": "X", "asset": "", "from": "normal", "arrived": 0, "by": "system"}
    rows = [{**given, **row(start + nth * 5_000)} for nth in range(12)]
    rows += [{**given, **row(start + 60_000, "clear", to="returned")}, {**given, **row(start + HOUR)}]
    found = hr.pipeline("floods", version="1")(build).run({"alarms": rows})["floods"].rows()
    assert [(one["flood"], one["time"] - start, one["raises"]) for one in found] == [("began", 50_000, 11), ("ended", 635_000, 4)]
