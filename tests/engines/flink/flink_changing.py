"""A pipeline of rules that changes while it runs. Flink's workers import this module: it needs nothing but headrace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import headrace as hr


class Watch:
    """Reports when enough readings in a row were above the limit, with the limit, and a label once there is one."""

    output = {"time": "TIMESTAMP_LTZ(3)", "above": "DOUBLE", "label": "STRING"}
    state = {"in_a_row": hr.Value("BIGINT", 0)}

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def on_record(self, row: dict[str, Any], state: Any) -> Iterator[dict[str, Any]]:
        """Count readings above the limit."""
        state.in_a_row = state.in_a_row + 1 if row["v"] > self.limit else 0
        if state.in_a_row == 3:
            yield {"time": state.time, "above": self.limit, "label": row.get("label")}


def readings() -> hr.Stream:
    """Return the readings."""
    schema = {"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE"}
    return hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(10))


def rules_of(*, limit: float = 90.0, label: str = "", second: bool = False, minutes: int = 1) -> dict[str, hr.Stream]:
    """Return the rules; with a label there is another column. If `second` there are another output, another window, and a topic of failures."""
    rows = readings().where("v > :least")
    rows = rows.derive(label=f"'{label}'") if label else rows
    means = rows.window(hr.tumbling(hr.minutes(minutes)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")
    more = {"more": means.where("n > 2"), "longer": rows.window(hr.tumbling(hr.minutes(2)), by=["k"]).aggregate(n="COUNT(*)")} if second else {}
    return {
        "events": rows.process(Watch(limit), by=["k"], failed_to="failed" if second else None),
        "means": means.derive(label=f"'{label}'") if label else means,
        **more,
    }


@hr.pipeline("changing-rules", version="1")
def rules(limit: float = 90.0, least: float = 0.0, label: str = "", second: bool = False, minutes: int = 1) -> dict[str, hr.Stream]:  # noqa: ARG001  (a setting)
    """Readings above a limit, and means of those above the least."""
    return rules_of(limit=limit, label=label, second=second, minutes=minutes)
