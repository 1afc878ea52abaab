"""A clock at the source that is reset: its readings have the times that it gave, and windows are moved by none that is far ahead."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sparkplug_edge import metric, payload

import headrace as hr
from headrace.connectors.address import Address
from headrace.connectors.payloads import PARAMETERS, shape_of
from headrace.connectors.sparkplug_host import Host
from headrace.plant.reading import READING_SCHEMA

MINUTE, MONTH = 60_000, 30 * 86_400_000
START = 1_767_247_200_000
OFFSETS = [0, -MONTH, MONTH, 1000, MINUTE]  # the clock is set back by a month, then ahead by a month, and is right again


@hr.pipeline("minutes", version="1")
def minutes() -> dict[str, hr.Stream]:
    readings = hr.stream("readings", schema=READING_SCHEMA, event_time="TO_TIMESTAMP_LTZ(time, 3)", watermark=hr.seconds(10))
    return {"minutes": readings.window(hr.tumbling(hr.minutes(1)), by=["tag"]).late_to("late").aggregate(n="COUNT(*)", sum="SUM(value)")}


def of_mqtt(stamp: int, number: int, at_ms: int) -> dict[str, Any]:
    address = Address("mqtt://h/t?as=reading&value=$.v&time=$.t", PARAMETERS, "mqtt://h/t")
    (made,) = shape_of(address, lambda _: None)("t", json.dumps({"v": number, "t": stamp}).encode(), at_ms)
    return json.loads(made.value)


def of_sparkplug(host: Host, stamp: int, number: int, at_ms: int) -> dict[str, Any]:
    if number == 1:
        host.receive("spBv1.0/G/NBIRTH/E", payload(seq=0), at_ms)
        found = host.receive("spBv1.0/G/DBIRTH/E/d", payload(metric("v", 1.0, alias=1), seq=1, time=stamp), at_ms)
    else:
        found = host.receive("spBv1.0/G/DDATA/E/d", payload(metric(None, float(number), alias=1), seq=number, time=stamp), at_ms)
    assert not found.commands, "a clock that is reset is no gap"
    (reading,) = found.readings
    return json.loads(reading.encode())


@pytest.mark.parametrize("source", ["mqtt", "sparkplug"])
def test_a_clock_that_is_reset_moves_no_window_and_loses_nothing_silently(source: str) -> None:
    host = Host()
    with hr.test(minutes, start=datetime.fromtimestamp(START / 1000, UTC)) as live:
        times = []
        for number, offset in enumerate(OFFSETS, 1):
            stamp, at_ms = START + offset, START + 1000 * number
            reading = of_mqtt(stamp, number, at_ms) if source == "mqtt" else of_sparkplug(host, stamp, number, at_ms)
            times.append((reading["time"] - START, reading["arrival_time"] - START, reading["quality"]))
            live.advance(hr.minutes(1) if offset == MINUTE else hr.seconds(1))
            live.feed("readings", [reading])
        assert times == [(offset, 1000 * number, 0) for number, offset in enumerate(OFFSETS, 1)]
        assert [row["value"] for row in live.rows("late")] == [2.0]
        assert [(one["reason"], json.loads(one["raw"])["value"]) for one in live.dead_letters()] == [("future", 3.0)]
        live.advance(hr.minutes(2))
        live.drain()
        assert [(row["n"], row["sum"]) for row in live.rows("minutes")] == [(2, 5.0), (1, 5.0)]
        counts = live.ledger["readings"]
        assert (counts["received"], counts["accepted"], counts["late"], counts["future"]) == (5, 3, 1, 1)
