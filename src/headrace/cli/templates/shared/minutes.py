"""Statistics of each tag, minute by minute. Readings of bad or uncertain quality are counted and not used."""

import headrace as hr

UNCERTAIN = 0x40000000


@hr.pipeline("minutes", version="1")
def minutes(minutes: int = 1, late_seconds: int = 5):
    readings = hr.stream(
        "readings",
        schema={"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT", "unit": "STRING"},
        event_time="TO_TIMESTAMP_LTZ(time, 3)",
        watermark=hr.seconds(late_seconds),
    ).derive(good=f"CASE WHEN quality < {UNCERTAIN} THEN value END")
    windows = readings.window(hr.tumbling(hr.minutes(minutes)), by=["tag"])
    statistics = windows.aggregate(readings="COUNT(*)", good="COUNT(good)", min="MIN(good)", max="MAX(good)", mean="AVG(good)")
    return {"minutes-output": statistics.select("tag", "readings", "good", "min", "max", "mean", start_ms="EPOCH_MS(window_start)")}
