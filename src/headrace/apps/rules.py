"""Kiln rules: what an operator is told of a sensor. Too many critical readings, silence, and readings that stick out of their like."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import headrace as hr

__all__ = ["Hampel", "Watch", "rules"]

Row = dict[str, Any]


class Watch:
    """Tells of critical readings in a row, until one lies well within the limits; and of silence, until a reading comes."""

    output = {"event": "STRING NOT NULL", "time": "TIMESTAMP_LTZ(3) NOT NULL", "value": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE"}
    state = {"in_a_row": hr.Value("BIGINT", 0), "critical": hr.Value("BOOLEAN", False), "silent": hr.Value("BOOLEAN", False)}
    shared = {"low": hr.Map("DOUBLE"), "high": hr.Map("DOUBLE")}

    def __init__(self, low: float, high: float, in_a_row: int, hysteresis: float, silence_ms: int) -> None:
        self.low, self.high, self.enough, self.hysteresis, self.silence_ms = low, high, in_a_row, hysteresis, silence_ms

    def on_broadcast(self, limits: Row, shared: Any) -> None:  # noqa: ANN401
        """Take the limits of an equipment."""
        if limits["low"] is None or limits["high"] is None or limits["low"] >= limits["high"]:
            raise ValueError(f"limits {limits['low']} to {limits['high']} of {limits['equip_id']} leave nothing between them")
        shared.low[limits["equip_id"]], shared.high[limits["equip_id"]] = limits["low"], limits["high"]

    def on_record(self, reading: Row, state: Any) -> Iterator[Row]:  # noqa: ANN401
        """Count critical readings, and have silence noticed."""
        value, equipment = reading["value"], reading["equip_id"]
        low, high = state.shared.low.get(equipment, self.low), state.shared.high.get(equipment, self.high)
        told = {"time": state.time, "value": value, "low": low, "high": high}
        state.set_timer("silence", state.time + self.silence_ms)
        if state.silent:
            state.silent = False
            yield {"event": "data again", **told}
        state.in_a_row = state.in_a_row + 1 if value < low or value > high else 0
        if state.in_a_row == self.enough and not state.critical:
            state.critical = True
            yield {"event": "critical", **told}
        elif state.critical and low + self.hysteresis <= value <= high - self.hysteresis:
            state.critical = False
            yield {"event": "cleared", **told}

    def on_timer(self, _name: str, state: Any) -> Row:  # noqa: ANN401
        """Tell of silence."""
        state.silent = True
        return {"event": "no data", "time": state.time}


class Hampel:
    """Tells of readings further than so many deviations from the median of the last ones, themselves among them."""

    output = {"time": "TIMESTAMP_LTZ(3) NOT NULL", "value": "DOUBLE NOT NULL", "median": "DOUBLE NOT NULL", "deviation": "DOUBLE NOT NULL"}
    state = {"last": hr.List("DOUBLE")}

    def __init__(self, window: int = 7, deviations: float = 3.0) -> None:
        self.window, self.deviations = window, deviations

    def on_record(self, reading: Row, state: Any) -> Row | None:  # noqa: ANN401
        """Compare a reading with the median of its window; 1.4826 times the median deviation is the standard deviation of normal values."""
        state.last = [*state.last, reading["value"]][-self.window :]
        if len(state.last) < self.window:
            return None
        middle = median(state.last)
        deviation = 1.4826 * median(abs(value - middle) for value in state.last)
        if abs(reading["value"] - middle) <= self.deviations * deviation:
            return None
        return {"time": state.time, "value": reading["value"], "median": middle, "deviation": deviation}


@hr.pipeline("rules", version="1")
def rules(
    low: float = 10.0, high: float = 90.0, in_a_row: int = 3, hysteresis: float = 2.0, silence_seconds: int = 30, watermark_seconds: int = 10
) -> dict[str, hr.Stream]:
    """Events of each sensor: critical, cleared, no data, data again; and outliers by a Hampel filter. Limits come by `kiln-limits`."""
    readings = (
        hr.stream(
            "sensor-data",
            schema={"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"},
            event_time="TO_TIMESTAMP_LTZ(timestamp, 3)",
            watermark=hr.seconds(watermark_seconds),
        )
        .unnest("data", key="sensor", value="raw")
        .select("equip_id", "sensor", value="TRY_CAST(raw AS DOUBLE)")
        .where("value IS NOT NULL")
    )
    limits = hr.stream(
        "kiln-limits",
        schema={"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "low": "DOUBLE", "high": "DOUBLE"},
        event_time="TO_TIMESTAMP_LTZ(timestamp, 3)",
    )
    watch = Watch(low, high, in_a_row, hysteresis, silence_seconds * 1000)
    return {
        "kiln-events": readings.process(watch, by=["equip_id", "sensor"], broadcast=limits, failed_to="kiln-limits.refused"),
        "kiln-outliers": readings.process(Hampel, by=["equip_id", "sensor"]),
    }
