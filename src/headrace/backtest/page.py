"""The report of a backtest as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from headrace.backtest.budget import Breach, Budget
from headrace.backtest.figures import AT_LEAST, FIGURES, figure, moment, shown
from headrace.backtest.html import LEFT, WIDTH, document, svg, table
from headrace.backtest.judge import Alarm, Backtest, Found

__all__ = ["page"]

_ROW = 22  # of the plot over time, px
_BINS = 120
_MOST = 200  # rows of a table


def page(title: str, backtest: Backtest, report: Mapping[str, Any], budget: Budget, broken: Sequence[Breach]) -> str:
    """Return the page of a backtest.

    Parameters
    ----------
    title
        The pipeline and its version.
    backtest, report
        What was judged, and its figures.
    budget, broken
        The budget, and which of its limits are broken.
    """
    parts = [
        f"<p>{moment(backtest.start)} to {moment(backtest.end)}, {len(backtest.labels):,} events, {len(backtest.alarms):,} alarms</p>",
        _verdict(budget, broken),
        _figures(report, budget, broken),
        "<h2>Time</h2>",
        _timeline(backtest),
        "<h2>Alarms over time</h2>",
        _rate(backtest),
        "<h2>Events</h2>",
        _events(backtest.events),
        "<h2>Rules</h2>",
        _rules(report["by_rule"]),
    ]
    return document(f"Backtest of {title}", parts)


def _verdict(budget: Budget, broken: Sequence[Breach]) -> str:
    if broken:
        lines = "; ".join(f"{one.name}: {one.found}, {one.limit}" for one in broken)
        return f'<p class="broken">The alarm budget is broken: {escape(lines)}</p>'
    return "<p>The alarm budget is kept.</p>" if budget.limits or budget.must_find else '<p class="note">No alarm budget was given.</p>'


def _figures(report: Mapping[str, Any], budget: Budget, broken: Sequence[Breach]) -> str:
    columns, names = (report, report["always_alarm"], report["random"]), {one.name for one in broken}
    rows = [["events found", *(f"{one['detected']:.4g} of {one['events']:.4g}" for one in columns), ""]]
    for name, text in FIGURES.items():
        limit = f"{'≥' if name in AT_LEAST else '≤'} {shown(name, budget.limits[name])}" if name in budget.limits else ""
        limit = f'<span class="broken">{limit} broken</span>' if name in names else limit
        rows.append([text, *(shown(name, figure(one, name)) for one in columns), limit])
    note = (
        '<p class="note">Always alarm raises an alarm every 30 s and at the start of every event. '
        "Random raises as many alarms as the pipeline, at random times: means over many draws.</p>"
    )
    return table(("", "pipeline", "always alarm", "random", "budget"), rows) + note


# plots


def _x(backtest: Backtest, time: int) -> float:
    """Return where a time is on the horizontal axis; one outside the history is at its end."""
    share = (time - backtest.start) / max(backtest.end - backtest.start, 1)
    return LEFT + (WIDTH - LEFT) * min(max(share, 0.0), 1.0)


def _axis(backtest: Backtest, y: int) -> list[str]:
    ends = f'<text x="{LEFT}" y="{y + 15}">{moment(backtest.start)}</text>'
    ends += f'<text x="{WIDTH}" y="{y + 15}" text-anchor="end">{moment(backtest.end)}</text>'
    return [f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}"/>', ends]


def _timeline(backtest: Backtest) -> str:
    """Return events as areas, and alarms as lines below them: first those that count, then the false ones."""
    parts = []
    for event in backtest.events:
        start, end = _x(backtest, event.label.start), _x(backtest, event.label.end)
        kind = "event" if event.alarms else "event missed-event"
        found = f"found after {shown('time_to_detection_s', event.delay_s)}" if event.alarms else "missed"
        name = f"{escape(event.label.name)}: {found}"
        parts.append(f'<rect class="{kind}" x="{start:.1f}" y="4" width="{max(end - start, 2):.1f}" height="{_ROW}"><title>{name}</title></rect>')
    false = {*backtest.false_alarms}
    parts += _ticks(backtest, [alarm for alarm in backtest.alarms if alarm not in false], "alarm", 4 + _ROW + 6)
    parts += _ticks(backtest, backtest.false_alarms, "false", 4 + 2 * (_ROW + 6))
    parts += [f'<text x="0" y="{19 + nth * (_ROW + 6)}">{name}</text>' for nth, name in enumerate(("events", "alarms", "false"))]
    return svg(8 + 3 * (_ROW + 6) + 18, "Events and alarms over time", [*parts, *_axis(backtest, 6 + 3 * (_ROW + 6))])


def _ticks(backtest: Backtest, alarms: Iterable[Alarm], kind: str, y: int) -> list[str]:
    """Return lines for alarms, one for all that fall on the same half of a pixel."""
    places = sorted({round(_x(backtest, alarm.time) * 2) / 2 for alarm in alarms})
    return [f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + _ROW}"/>' for x in places]


def _rate(backtest: Backtest) -> str:
    """Return the number of alarms by time."""
    width = max((backtest.end - backtest.start) / _BINS, 1.0)
    counts = [0] * _BINS
    for alarm in backtest.alarms:
        counts[min(max(int((alarm.time - backtest.start) / width), 0), _BINS - 1)] += 1
    most, height = max([*counts, 1]), 120
    step = (WIDTH - LEFT) / _BINS
    bars = [
        f'<rect class="bar" x="{LEFT + nth * step:.1f}" y="{8 + height * (1 - count / most):.1f}" width="{step - 1:.1f}" '
        f'height="{height * count / most:.1f}"><title>{moment(round(backtest.start + nth * width))}: {count:,}</title></rect>'
        for nth, count in enumerate(counts)
        if count
    ]
    scale = [f'<text x="{LEFT - 6}" y="18" text-anchor="end">{most:,}</text>', f'<text x="{LEFT - 6}" y="{8 + height}" text-anchor="end">0</text>']
    note = f'<p class="note">Each bar is {_duration(width)}. A flood is more than 10 alarms in 10 minutes.</p>'
    return svg(8 + height + 20, "Number of alarms over time", [*bars, *scale, *_axis(backtest, 8 + height)]) + note


def _duration(ms: float) -> str:
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms:.3g} ms"


# tables


def _events(events: Sequence[Found]) -> str:
    rows = [
        [
            escape(event.label.name),
            moment(event.label.start),
            moment(event.label.end),
            escape(" ".join(event.label.tags)),
            f"{len(event.alarms):,}",
            shown("time_to_detection_s", event.delay_s) if event.alarms else '<span class="missed">missed</span>',
            escape(event.alarms[0].rule) if event.alarms else "",
        ]
        for event in events[:_MOST]
    ]
    return table(("event", "start", "end", "tags", "alarms", "found after", "found by"), rows) + _left(len(events))


def _rules(by_rule: Mapping[str, Mapping[str, int]]) -> str:
    ordered = sorted(by_rule.items(), key=lambda pair: (-pair[1]["alarms"], pair[0]))
    columns = ("alarms", "detected", "detected_alone", "false_alarms")
    rows = [[escape(name), *(f"{found[column]:,}" for column in columns)] for name, found in ordered[:_MOST]]
    return table(("rule", "alarms", "events found", "by it alone", "false alarms"), rows) + _left(len(ordered))


def _left(count: int) -> str:
    return f'<p class="note">… and {count - _MOST:,} more, in details.json</p>' if count > _MOST else ""
