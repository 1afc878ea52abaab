"""Static pages of HTML with plots in SVG, which need nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["LEFT", "WIDTH", "document", "svg", "table"]

WIDTH, LEFT = 960, 40  # of a plot and its left margin, px
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .note { color: #555; font-size: .87rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } th { font-weight: 600; color: #555; }
.broken, .missed { color: #b00020; font-weight: 600; }
svg { display: block; width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: #555; }
.event { fill: #c9d3dc; } .event.missed-event { fill: none; stroke: #b00020; stroke-width: 1.5; stroke-dasharray: 4 2; }
.alarm { stroke: #33556e; stroke-width: 1.5; } .false { stroke: #b00020; stroke-width: 1.5; } .bar { fill: #7a8b99; }
.axis { stroke: #999; stroke-width: 1; } .limit { stroke: #b00020; stroke-width: 1; stroke-dasharray: 5 4; }
.trend { fill: none; stroke: #33556e; stroke-width: 1.5; } .evidence { fill: #b00020; } .moved { stroke: #222; stroke-width: 1; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Return a page of parts, which are HTML."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells, which are HTML."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def svg(height: int, title: str, parts: Iterable[str]) -> str:
    """Return a plot of parts, which are SVG; `title` is what it shows, for those who cannot see it."""
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">\n{body}\n</svg>'
