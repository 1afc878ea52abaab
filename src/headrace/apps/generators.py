"""Generator statistics: power, fuel, voltage and faults of each generator, window by window and over all time."""

from __future__ import annotations

import headrace as hr

__all__ = ["generators"]

ALL_TIME = hr.hours(24 * 73_000)  # one window, from 1970 on

STATISTICS = {
    "readings": "COUNT(*)",
    "unreadable": "COUNT(*) FILTER (WHERE power IS NULL OR fuel IS NULL OR voltage IS NULL)",
    "average_power": "AVG(power)",
    "minimum_power": "MIN(power)",
    "maximum_power": "MAX(power)",
    "average_fuel": "AVG(fuel)",
    "average_voltage": "AVG(voltage)",
    "faults": "COUNT(*) FILTER (WHERE FaultAlarms <> 'No')",
}


def _value(column: str, unit: str) -> str:
    """Return an expression for the number in a text such as `101.3`, `101.3 MW` or `101.3MW`; of another unit it is NULL."""
    return f"TRY_CAST(REGEXP_EXTRACT({column}, '^ *([-+.0-9eE]+) *({unit})? *$', 1) AS DOUBLE)"


@hr.pipeline("generators", version="1")
def generators(window_seconds: int = 60, watermark_seconds: int = 5) -> dict[str, hr.Stream]:
    """Average, least and greatest power, average fuel and voltage, and the number of fault alarms of each generator."""
    readings = hr.stream(
        "scada_data_topic",
        schema={
            "GeneratorID": "STRING NOT NULL", "PowerOutput": "STRING", "FuelLevel": "STRING", "Voltage": "STRING",
            "FaultAlarms": "STRING", "timestamp": "BIGINT",
        },
        event_time="TO_TIMESTAMP_LTZ(timestamp, 3)",
        watermark=hr.seconds(watermark_seconds),
    ).derive(power=_value("PowerOutput", "MW"), fuel=_value("FuelLevel", "%"), voltage=_value("Voltage", "V"))  # fmt: skip
    windows = readings.window(hr.tumbling(hr.seconds(window_seconds)), by=["GeneratorID"]).aggregate(**STATISTICS)
    all_time = readings.window(hr.tumbling(ALL_TIME), by=["GeneratorID"]).aggregate(**STATISTICS)
    return {
        "generator-stats": windows.select("GeneratorID", "window_start", "window_end", *STATISTICS),
        "generator-totals": all_time.select("GeneratorID", *STATISTICS),
    }
