"""Key performance indicators of alarms, after ISA-18.2, from their transitions."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from headrace.alarms.process import Flood

__all__ = ["floods", "kpi"]

_PERIOD_MS, _HOUR_MS = 600_000, 3_600_000


def kpi(transitions: Iterable[Mapping[str, Any]], start: int, end: int, causes: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the indicators of the alarms raised from `start` to before `end`, ms since the epoch.

    Parameters
    ----------
    transitions
        The rows of the topic `alarms`, in any order; those of other times are left out. Suppressed raises are not among them.
    start, end
        The time that is judged, ms since the epoch; `end` is after `start`.
    causes
        The rows of `hr.alarm_causes`.

    Returns
    -------
    dict
        `alarms`, `alarms_per_hour`, `most_in_10_minutes`, `periods_over_10_share` (of the periods of 10 minutes), `flood_share` (of the time),
        `top_10` and `top_10_share` (of the alarms), `priorities` (shares by priority), `seconds_to_acknowledge` (the median; None if nothing
        was acknowledged), `consequences` and `consequences_share` (of the alarms: those that were put under the alarm that caused them).
    """
    rows = [row for row in transitions if start <= row["time"] < end and row["to"] != "refused"]
    raises = sorted((row for row in rows if row["event"] == "raise"), key=lambda row: row["time"])
    times = [row["time"] for row in raises]
    periods = Counter((time - start) // _PERIOD_MS for time in times)
    flooded = sum(min(end if ended is None else ended, end) - began for began, ended in floods(times))
    often = Counter(row["alarm_id"] for row in raises)
    top = sorted(often.items(), key=lambda one: (-one[1], one[0]))[:10]
    priorities = Counter(row["priority"] for row in raises)
    count = len(raises)
    under = {(row["alarm_id"], row["sequence"]) for row in causes if row["event"] == "grouped"}
    consequences = sum((row["alarm_id"], row["sequence"]) in under for row in raises)
    return {
        "start": start,
        "end": end,
        "alarms": count,
        "alarms_per_hour": count / ((end - start) / _HOUR_MS),
        "most_in_10_minutes": max(periods.values(), default=0),
        "periods_over_10_share": sum(number > Flood.most for number in periods.values()) / -(-(end - start) // _PERIOD_MS),
        "flood_share": flooded / (end - start),
        "top_10": [{"alarm_id": name, "alarms": number} for name, number in top],
        "top_10_share": sum(number for _, number in top) / count if count else 0.0,
        "priorities": {str(priority): number / count for priority, number in sorted(priorities.items())},
        "seconds_to_acknowledge": _seconds_to_acknowledge(raises, rows),
        "consequences": consequences,
        "consequences_share": consequences / count if count else 0.0,
    }


def floods(times: list[int]) -> list[tuple[int, int | None]]:
    """Return when floods began and ended, None for one that has not, from the sorted times of raises."""
    found: list[tuple[int, int | None]] = []
    for place, time in enumerate(times):
        if found and found[-1][1] is None:
            over = times[place - Flood.fewest] + Flood.within_ms  # the time at which fewer are left
            if over <= time:
                found[-1] = found[-1][0], over
        if (not found or found[-1][1] is not None) and place + 1 - bisect_right(times, time - Flood.within_ms, 0, place + 1) > Flood.most:
            found.append((time, None))
    if found and found[-1][1] is None:
        found[-1] = found[-1][0], times[-Flood.fewest] + Flood.within_ms
    return found


def _seconds_to_acknowledge(raises: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> float | None:
    raised = {(row["alarm_id"], row["sequence"]): row["time"] for row in raises}
    taken = [
        (row["time"] - raised[key]) / 1000 for row in rows if row["event"] == "acknowledge" and (key := (row["alarm_id"], row["sequence"])) in raised
    ]
    return median(taken) if taken else None
