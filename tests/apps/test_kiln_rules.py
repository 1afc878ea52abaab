"""The kiln's rules: each process by itself, called with values, and the pipeline whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.apps.rules import Hampel, Watch, rules
from headrace.engines.embedded.run import run_files

T = 1_704_067_200_000


def watched(values: Sequence[float], *, low: float = 10, high: float = 90) -> list[tuple[int, str]]:
    """Return the events that readings a second apart lead to, each with the number of its reading."""
    watch = Watch(low, high, in_a_row=3, hysteresis=2, silence_ms=30_000)
    state = hr.fresh_state(watch, equip_id="110", sensor="0001")
    events = []
    for number, value in enumerate(values):
        state.time = number * 1000
        events += [(number, row["event"]) for row in watch.on_record({"equip_id": "110", "sensor": "0001", "value": value}, state)]
    return events


def test_three_critical_readings_in_a_row_raise_one_event() -> None:
    assert watched([95, 95, 50, 95, 95]) == []
    assert watched([95, 5, 95, 95, 95]) == [(2, "critical")]
    assert watched([90, 10, 90, 10]) == [], "a limit itself is not critical"


def test_an_event_is_cleared_only_well_within_the_limits_and_can_come_again() -> None:
    assert watched([95, 95, 95, 89, 89, 88]) == [(2, "critical"), (5, "cleared")]
    assert watched([5, 5, 5, 11.9, 12, 5, 5, 5]) == [(2, "critical"), (4, "cleared"), (7, "critical")]


def test_silence_is_told_once_and_so_is_its_end() -> None:
    watch = Watch(10, 90, 3, 2, 30_000)
    state = hr.fresh_state(watch, equip_id="110", sensor="0001", time=1000)
    assert list(watch.on_record({"equip_id": "110", "value": 50.0}, state)) == []
    assert state.timers == {"silence": 31_000}
    state.time = 31_000
    assert watch.on_timer("silence", state) == {"event": "no data", "time": 31_000}
    assert [row["event"] for row in watch.on_record({"equip_id": "110", "value": 50.0}, state)] == ["data again"]


def test_limits_of_an_equipment_hold_for_its_sensors_and_those_that_cannot_be_are_refused() -> None:
    watch = Watch(10, 90, 1, 2, 30_000)
    state = hr.fresh_state(watch, equip_id="110", sensor="0001")
    watch.on_broadcast({"equip_id": "110", "low": 40.0, "high": 60.0}, state.shared)
    assert [row["event"] for row in watch.on_record({"equip_id": "110", "value": 61.0}, state)] == ["critical"]
    with pytest.raises(ValueError, match="nothing between"):
        watch.on_broadcast({"equip_id": "110", "low": 60.0, "high": 40.0}, state.shared)


def test_a_hampel_filter_tells_of_what_sticks_out_of_the_last_seven() -> None:
    hampel = Hampel()
    state = hr.fresh_state(hampel, equip_id="110", sensor="0001")
    told = [hampel.on_record({"value": value}, state) for value in [10.0, 11.0, 9.0, 10.0, 12.0, 10.0, 99.0, 10.0, 13.0]]
    assert [bool(one) for one in told] == [False] * 6 + [True, False, False]
    assert told[6] == {"time": 0, "value": 99.0, "median": 10.0, "deviation": 1.4826}
    assert list(state.last) == [9.0, 10.0, 12.0, 10.0, 99.0, 10.0, 13.0]


def test_a_hampel_filter_tells_of_any_change_where_all_were_alike() -> None:
    hampel = Hampel()
    state = hr.fresh_state(hampel, equip_id="110", sensor="0001")
    told = [hampel.on_record({"value": value}, state) for value in [5.0] * 7 + [5.1]]
    assert [bool(one) for one in told] == [False] * 7 + [True]


def message(second: float, equipment: int, **values: str) -> dict[str, Any]:
    return {"equip_id": equipment, "timestamp": T + round(second * 1000), "data": values}


def test_the_pipeline_gives_events_and_outliers_in_the_order_of_time(tmp_path: Path) -> None:
    readings = [message(second, 110, a="95" if 5 <= second < 9 else "50", b="null") for second in range(20)]
    readings += [message(second, 111, a="50") for second in (0, 1, 2)] + [message(second, 110, a="50") for second in range(20, 60)]
    readings.sort(key=lambda one: one["timestamp"])
    limits = [
        {"equip_id": "110", "timestamp": T + 7000, "low": 0, "high": 99},
        {"equip_id": "111", "timestamp": T + 8000, "low": 5, "high": 1},
    ]
    for name, records in (("data", readings), ("limits", limits)):
        (tmp_path / f"{name}.ndjson").write_text("".join(json.dumps(one) + "\n" for one in records))
    accounts = run_files(rules.plan(), {"sensor-data": [tmp_path / "data.ndjson"], "kiln-limits": [tmp_path / "limits.ndjson"]}, tmp_path / "out")

    def found(topic: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "out" / f"{topic}.ndjson").read_text().splitlines()]

    # Readings 5 and 6 are critical by the first limits, and those from 7 on are not by the new ones.
    assert [(row["equip_id"], row["sensor"], row["event"], row["time"]) for row in found("kiln-events")] == [
        ("111", "a", "no data", "2024-01-01T00:00:32Z")
    ]
    first = found("kiln-outliers")[0]
    assert (first["sensor"], first["value"], first["time"]) == ("a", 95.0, "2024-01-01T00:00:06Z")
    refused = found("kiln-limits.refused")
    assert [(row["topic"], row["offset"], row["reason"], row["process"]) for row in refused] == [("kiln-limits", 1, "failed", "watch")]
    assert "leave nothing between them" in refused[0]["detail"]
    assert (accounts["kiln-limits"].accepted, accounts["sensor-data"].accepted) == (2, len(readings))


def test_limits_may_stay_away(tmp_path: Path) -> None:
    (tmp_path / "data.ndjson").write_text("".join(json.dumps(message(second, 110, a="95")) + "\n" for second in range(5)))
    (tmp_path / "limits.ndjson").write_text("")
    run_files(rules.plan(), {"sensor-data": [tmp_path / "data.ndjson"], "kiln-limits": [tmp_path / "limits.ndjson"]}, tmp_path / "out")
    events = [json.loads(line) for line in (tmp_path / "out" / "kiln-events.ndjson").read_text().splitlines()]
    assert [(row["event"], row["time"], row["low"], row["high"]) for row in events] == [("critical", "2024-01-01T00:00:02Z", 10.0, 90.0)]
