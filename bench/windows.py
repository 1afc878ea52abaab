"""Windows over the kiln's readings: one slice, sixty slices, and one that late records revise."""

from __future__ import annotations

import headrace as hr


def aggregated(window: hr.Window, *, delay_seconds: int = 10, lateness_seconds: int = 0) -> dict[str, hr.Stream]:
    schema = {"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"}
    rows = hr.stream("sensor-data", schema=schema, event_time="TO_TIMESTAMP_LTZ(timestamp, 3)", watermark=hr.seconds(delay_seconds))
    values = rows.unnest("data", key="sensor", value="raw").derive(value="TRY_CAST(raw AS DOUBLE)").where("value IS NOT NULL")
    windowed = values.window(window, by=["equip_id", "sensor"], allowed_lateness=hr.seconds(lateness_seconds))
    return {"out": windowed.aggregate(n="COUNT(*)", low="MIN(value)", high="MAX(value)", mean="AVG(value)")}


@hr.pipeline("tumbling", version="1")
def tumbling() -> dict[str, hr.Stream]:
    return aggregated(hr.tumbling(hr.seconds(1)))


@hr.pipeline("sliding", version="1")
def sliding() -> dict[str, hr.Stream]:
    return aggregated(hr.sliding(hr.seconds(60), hr.seconds(1)))


@hr.pipeline("revised", version="1")
def revised() -> dict[str, hr.Stream]:
    return aggregated(hr.tumbling(hr.seconds(1)), delay_seconds=0, lateness_seconds=10)
