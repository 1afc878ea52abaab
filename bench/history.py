"""A pipeline as a backtest would read a historian's export: statistics of each tag, minute by minute."""

from __future__ import annotations

import headrace as hr

STATISTICS = {"count": "COUNT(*)", "min": "MIN(value)", "max": "MAX(value)", "mean": "AVG(value)", "std_dev": "STDDEV_POP(value)"}


@hr.pipeline("long", version="1")
def long():
    """One row for each reading."""
    readings = hr.stream("history", schema={"tag": "STRING NOT NULL", "time": "TIMESTAMP_LTZ(3)", "value": "DOUBLE"}, event_time="time")
    return {"statistics": readings.where("value IS NOT NULL").window(hr.tumbling(hr.minutes(1)), by=["tag"]).aggregate(**STATISTICS)}


@hr.pipeline("wide", version="1")
def wide():
    """One column for each tag."""
    rows = hr.stream("history", schema={"time": "TIMESTAMP_LTZ(3)"}, event_time="time", rest="tags")
    values = rows.unnest("tags", key="tag", value="raw").derive(value="TRY_CAST(raw AS DOUBLE)").where("value IS NOT NULL")
    return {"statistics": values.window(hr.tumbling(hr.minutes(1)), by=["tag"]).aggregate(**STATISTICS)}
