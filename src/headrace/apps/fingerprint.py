"""Kiln fingerprints: what each sensor of each equipment did, minute by minute."""

from __future__ import annotations

import headrace as hr

__all__ = ["fingerprint"]


@hr.pipeline("fingerprint", version="1", env=["WINDOW_SIZE_MINUTES", "WATERMARK_SECONDS"])
def fingerprint(window_size_minutes: int = 1, watermark_seconds: int = 10) -> dict[str, hr.Stream]:
    """Minimum, maximum, median, mean and deviation per sensor, gathered into one fingerprint per equipment and window."""
    readings = hr.stream(
        "sensor-data",
        schema={"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"},
        event_time="TO_TIMESTAMP_LTZ(timestamp, 3)",
        watermark=hr.seconds(watermark_seconds),
    )
    per_sensor = (
        readings.unnest("data", key="sensor", value="raw")
        .derive(value="TRY_CAST(raw AS DOUBLE)")
        .where("value IS NOT NULL")
        .window(hr.tumbling(hr.minutes(window_size_minutes)), by=["equip_id", "sensor"])
        .aggregate(min="MIN(value)", max="MAX(value)", median="MEDIAN(value)", mean="AVG(value)", std_dev="STDDEV_POP(value)")
    )
    fingerprints = per_sensor.aggregate(by=["equip_id"], data="MAP_AGG(sensor, STRUCT(min, max, median, mean, std_dev))").select(
        fingerprint="""STRUCT(
            UUID_V5(equip_id, EPOCH_MS(window_start)) AS uuid, equip_id, 'kiln' AS type,
            EPOCH_MS(window_start) AS start_ms, EPOCH_MS(window_end) AS end_ms, data)""",
    )
    return {"fingerprint-output": fingerprints}
