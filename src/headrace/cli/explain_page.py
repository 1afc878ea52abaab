"""The explanation of an alarm as a page, with the trend of its tag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from math import isfinite
from typing import Any

from headrace.alarms.definition import LIMITS
from headrace.backtest.figures import iso
from headrace.backtest.html import LEFT, WIDTH, document, svg, table

__all__ = ["explain_page"]

_HEIGHT, _TOP = 240, 10  # of the trend, px
_MARGIN_MS = 60_000


def explain_page(found: Mapping[str, Any]) -> str:
    """Return the page of an explanation, as `headrace explain --json` has it."""
    definition, transitions = found["definition"], found["transitions"]
    settings = [[escape(name), escape(str(value))] for name, value in definition.items() if name not in {"version", "from"}]
    moved = [[*map(_text, (iso(one["time"]), *(one[name] for name in ("event", "from", "to", "value", "by", "reason"))))] for one in transitions]
    commands = [[*map(_text, (iso(one["arrived"]), one.get("command"), one.get("by"), one.get("reason")))] for one in found["commands"]]
    parts = [
        f"<p>occurrence {found['sequence']}, {escape(found['event_id'])}</p>",
        f"<p>state before: {escape(found['state_before'])}, after: {escape(found['state_after'])}</p>",
        "<h2>Trend</h2>",
        _trend(found["readings"], transitions, definition),
        "<h2>Transitions</h2>",
        table(("time", "event", "from", "to", "value", "by", "reason"), moved),
        f"<h2>Definition, version {escape(str(definition['version']))}, from {escape(definition['from'])}</h2>",
        table(("setting", "value"), settings),
    ]
    if found["conditions"]:
        conditions = [
            [*map(_text, (iso(one["arrived"]), one.get("active"), one.get("value"), one.get("threshold"), one.get("contributions")))]
            for one in found["conditions"]
        ]
        parts += ["<h2>Conditions</h2>", table(("arrived", "active", "value", "threshold", "contributions"), conditions)]
    if found["causes"]:
        causes = [[*map(_text, (iso(one["time"]), one["event"], one["alarm_id"], one["cause"]))] for one in found["causes"]]
        parts += ["<h2>Causes</h2>", table(("time", "event", "alarm", "cause"), causes)]
    if commands:
        parts += ["<h2>Commands</h2>", table(("arrived", "command", "by", "reason"), commands)]
    return document(f"Alarm {found['alarm_id']}", parts)


def _text(value: object) -> str:
    return "-" if value is None else escape(f"{value:g}" if isinstance(value, float) else str(value))


def _trend(readings: Sequence[Mapping[str, Any]], transitions: Sequence[Mapping[str, Any]], definition: Mapping[str, Any]) -> str:
    """Return the values around the occurrence, with the limit, the transitions and the evidence."""
    readings = [one if one["value"] is None or isfinite(one["value"]) else {**one, "value": None} for one in readings]
    if all(one["value"] is None for one in readings):
        return '<p class="note">No reading is retained.</p>'
    raised, ended = transitions[0]["time"], transitions[-1]["time"]
    before = max(_MARGIN_MS, ended - raised)
    shown = [one for one in readings if raised - before <= one["time"] <= ended + before] or [*readings]
    times: list[int] = [one["time"] for one in shown]
    start, end = min(times), max(times)
    limit = definition.get("limit") if definition.get("kind") in LIMITS else None
    values: list[float] = [one["value"] for one in shown if one["value"] is not None] + ([] if limit is None else [limit])
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = (low - 1, high + 1) if low == high else (low, high)

    def x(time: int) -> float:
        return LEFT + (WIDTH - LEFT) * min(max((time - start) / max(end - start, 1), 0.0), 1.0)

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - (value - low) / (high - low))

    lines = [f'<polyline class="trend" points="{" ".join(points)}"/>' for points in _lines(shown, x, y)]
    marks = [
        f'<line class="moved" x1="{x(one["time"]):.1f}" x2="{x(one["time"]):.1f}" y1="{_TOP}" y2="{_TOP + _HEIGHT}">'
        f"<title>{escape(one['event'])} {iso(one['time'])}</title></line>"
        for one in transitions
    ]
    points = [
        f'<circle class="evidence" cx="{x(one["time"]):.1f}" cy="{y(one["value"]):.1f}" r="3"><title>{escape(_place(one))}</title></circle>'
        for one in shown
        if one["value"] is not None and (one["evidence"] or one["event"])
    ]
    at = (
        [] if limit is None else [f'<line class="limit" x1="{LEFT}" x2="{WIDTH}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"><title>limit</title></line>']
    )
    bottom = _TOP + _HEIGHT
    axis = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>',
        f'<text x="{LEFT}" y="{bottom + 15}">{iso(start)}</text><text x="{WIDTH}" y="{bottom + 15}" text-anchor="end">{iso(end)}</text>',
        f'<text x="{LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{high:.4g}</text><text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{low:.4g}</text>',
    ]
    note = '<p class="note">Vertical lines are transitions, points the readings that moved the alarm, the dashed line is the limit.</p>'
    return svg(bottom + 20, "Values of the tag over time", [*axis, *at, *marks, *lines, *points]) + note


def _lines(readings: Sequence[Mapping[str, Any]], x: Callable[[int], float], y: Callable[[float], float]) -> Iterator[list[str]]:
    """Yield the points of each stretch of values without a gap; of readings on one pixel the least and the greatest."""
    for there, stretch in groupby(sorted(readings, key=lambda one: one["time"]), key=lambda one: one["value"] is not None):
        if there:
            points: list[str] = []
            for pixel, same in groupby(stretch, key=lambda one: round(x(one["time"]))):
                values = [one["value"] for one in same]
                points += [f"{pixel},{y(value):.1f}" for value in dict.fromkeys((min(values), max(values)))]
            yield points


def _place(one: Mapping[str, Any]) -> str:
    where = "derived" if one["offset"] is None else f"{one['topic']}/{one['partition']} offset {one['offset']}"
    return f"{where}: {one['value']:g}"
