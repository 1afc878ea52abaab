"""What an author writes, for type checkers: an editor knows these types."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, assert_type

import polars as pl

import headrace as hr


class Latest:
    output = {"value": "DOUBLE"}
    state = {"last": hr.Value("DOUBLE")}

    def on_record(self, row: dict[str, Any], state: Any) -> Iterator[dict[str, Any]]:
        state.last = row["value"]
        yield {"value": state.last}


@hr.pipeline("means", version="1")
def means(minutes: int = 1) -> dict[str, hr.Stream]:
    readings = hr.stream("readings", schema={"tag": "STRING", "t": "BIGINT", "value": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    rows = readings.where("value > 0").derive(double="value * 2")
    windows = rows.window(hr.tumbling(hr.minutes(minutes)), by=["tag"], allowed_lateness=hr.seconds(5)).late_to("late").aggregate(mean="AVG(double)")
    assert_type(readings, hr.Stream)
    assert_type(windows, hr.Stream)
    assert_type(hr.minutes(1), timedelta)
    return {"means": windows, "latest": readings.process(Latest, by=["tag"]), "running": rows.over(by=["tag"], rows=3, mean="AVG(value)")}


result = means.run({"readings": [{"tag": "a", "t": 1, "value": 1.0}]}, minutes=5)
assert_type(means, hr.Pipeline)
assert_type(result, hr.Result)
assert_type(result["means"], hr.Table)
assert_type(result["means"].frame, pl.DataFrame)
assert_type(result["means"].rows(), list[dict[str, Any]])
with hr.test(means.plan(minutes=5), partitions=2) as live:
    live.feed("readings", [{"tag": "a", "t": 1, "value": 1.0}], key="tag")
    live.advance(hr.seconds(30))
    live.restart(means)
    assert_type(live.rows("means"), list[dict[str, Any]])
    assert_type(live.dead_letters(), list[dict[str, Any]])
    assert_type(live.ledger["readings"]["late"], int)
for _topic, _row in means.stream({"readings": iter([{"tag": "a", "t": 1}])}):
    assert_type(_topic, str)
    assert_type(_row, dict[str, Any])
