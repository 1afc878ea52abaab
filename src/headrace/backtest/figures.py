"""The figures of a report: their names, their titles, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["AT_LEAST", "FIGURES", "figure", "iso", "moment", "shown"]

FIGURES = {
    "event_recall": "event recall",
    "precision": "precision",
    "time_to_detection_s.median": "time to detection, median",
    "time_to_detection_s.p90": "time to detection, 90 %",
    "false_alarms_per_day": "false alarms a day",
    "alarms_per_operator_hour": "alarms per operator-hour",
    "flood_share": "share of time in a flood",
}
"""The title of each figure, by its name in a report; parts of a name are joined with a dot."""
AT_LEAST = ("event_recall", "precision")
"""The figures of which more is better."""


def figure(report: Mapping[str, Any], name: str) -> float | None:
    """Return a figure of a report; None if it is not defined, such as a precision without alarms."""
    found: Any = report
    for part in name.split("."):
        found = found[part]
    return None if found is None else float(found)


def shown(name: str, value: float | None) -> str:
    """Return a figure as text, with its unit."""
    if value is None:
        return "-"
    if name in {*AT_LEAST, "flood_share"}:
        return f"{value:.1%}"
    return f"{value:.4g} s" if name.startswith("time_to_detection_s") else f"{value:.4g}"


def iso(ms: int) -> str:
    """Return a time, ms since the epoch, in ISO 8601."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(ms: int) -> str:
    """Return a time to the second, for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
