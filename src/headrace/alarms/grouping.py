"""Alarms in the order in which they are shown, consequences below the alarm that caused them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from headrace.alarms.cause import STANDING

__all__ = ["CauseRow", "grouped"]

Row = dict[str, Any]
Id = tuple[str | None, str]  # the topic, where there are several, and the alarm


class CauseRow(msgspec.Struct):
    """What is read of a row of the topic of causes."""

    alarm_id: str
    event: str
    sequence: int
    cause: str


def _id(row: Row) -> Id:
    return row.get("topic"), row["alarm_id"]


def grouped(rows: Iterable[Row], causes: Mapping[Id, Mapping[str, Any]], importance: Callable[[Row], tuple[int, int]]) -> list[Row]:
    """Return alarms, the most important group first, each followed by its consequences.

    Parameters
    ----------
    rows
        The current states of alarms, one for each; with `topic` if there are several topics.
    causes
        The last row of `hr.alarm_causes` of each alarm, by topic (None without one) and alarm.
    importance
        The order of alarms. The first part is the priority: that of a group is the highest in it.

    Returns
    -------
    list
        The rows, each with `cause` (the alarm that it is shown under; None if it stands by itself), `level` (how many alarms it is under) and
        `consequences` (how many are under it).
    """
    by_id = {_id(row): row for row in sorted(rows, key=importance)}
    below: dict[Id | None, list[Row]] = {}
    for row in by_id.values():
        below.setdefault(_cause(row, by_id, causes), []).append(row)

    groups = [_group(row, below) for row in below.get(None, ())]
    groups.sort(key=lambda found: (min(importance(row)[0] for row in found), *importance(found[0])[1:]))
    return [row for found in groups for row in found]


def _group(first: Row, below: dict[Id | None, list[Row]]) -> list[Row]:
    """Return an alarm, followed by its consequences. They may be nested deeper than calls can be."""
    found: list[Row] = []
    left: list[tuple[Row, str | None, int]] = [(first, None, 0)]
    while left:
        row, cause, level = left.pop()
        found.append({**row, "cause": cause, "level": level, "consequences": 0})
        left += [(one, row["alarm_id"], level + 1) for one in reversed(below.pop(_id(row), []))]
    by_name = {row["alarm_id"]: row for row in found}
    for row in reversed(found):
        if row["cause"] is not None:
            by_name[row["cause"]]["consequences"] += 1 + row["consequences"]
    return found


def _cause(row: Row, by_id: Mapping[Id, Row], causes: Mapping[Id, Mapping[str, Any]]) -> Id | None:
    """Return the alarm that an alarm is shown under: both stand, and the occurrence is the one that was grouped."""
    found = above = _named(row, by_id, causes)
    seen = {_id(row)}
    while above is not None:
        if above in seen:
            return None  # a circle, because the two topics are read one after the other
        seen.add(above)
        above = _named(by_id[above], by_id, causes)
    return found


def _named(row: Row, by_id: Mapping[Id, Row], causes: Mapping[Id, Mapping[str, Any]]) -> Id | None:
    told = causes.get(_id(row))
    if told is None or told["event"] != "grouped" or told["sequence"] != row["sequence"] or row["state"] not in STANDING:
        return None
    cause: Id = (row.get("topic"), told["cause"])
    return cause if cause in by_id and by_id[cause]["state"] in STANDING else None
