"""A small pipeline with a window, a process and dead letters, in a small file: a pipeline's code is parsed whenever it starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import headrace as hr


class Changes:
    """Tells each key's changes of more than 2, and how many there were."""

    output = {"at": "BIGINT NOT NULL", "change": "DOUBLE NOT NULL", "count": "BIGINT NOT NULL"}
    state = {"last": hr.Value("DOUBLE"), "count": hr.Value("BIGINT")}

    def on_record(self, row: dict[str, Any], state: Any) -> Iterator[dict[str, Any]]:
        if state.last is not None and abs(row["x"] - state.last) > 2:
            state.count = (state.count or 0) + 1
            yield {"at": row["t"], "change": row["x"] - state.last, "count": state.count}
        state.last = row["x"]


@hr.pipeline("small", version="1")
def small() -> dict[str, hr.Stream]:
    readings = hr.stream(
        "readings", schema={"k": "STRING", "t": "BIGINT", "x": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(2)
    )
    means = readings.window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(mean="AVG(x)", rows="COUNT(*)")
    return {"means": means, "changes": readings.process(Changes(), by=["k"])}
