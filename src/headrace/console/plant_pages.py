"""The page of a plant: alarms, tags with live values in the asset tree, trends, parts, ledgers and dead letters, and `/metrics` and `/health` beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Protocol

import msgspec

from headrace.connectors.progress import Health
from headrace.console.alarming import Alarming
from headrace.console.watching import Group, Watching
from headrace.gateway.pages import Answer, Paths, json_answer, number_of, text_of
from headrace.plan.pipeline import Plan
from headrace.plant.tags import Tags
from headrace.topics.protocol import Log

__all__ = ["PlantPages", "Shown"]

_SCRIPTS = ("page.js", "alarms.js", "picture.js", "shown.js", "trend.js")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in _SCRIPTS},
    "/vendor/uPlot.iife.min.js": ("vendor/uPlot.iife.min.js", "text/javascript"),
    "/vendor/uPlot.min.css": ("vendor/uPlot.min.css", "text/css"),
}
_GROUPS = {"in": "bridge:{topic}", "out": "forward:{name}", "pipeline": "{name}"}


class Shown(Protocol):
    """A part of a plant, as the page shows it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def kind(self) -> str:
        """The kind of part: in, pipeline, out or page."""

    @property
    def health(self) -> Health:
        """Its state."""


@dataclass(frozen=True)
class PlantPages:
    """The pages of a plant.

    Attributes
    ----------
    name, zone
        The plant's name and its time zone.
    tags
        The list of tags.
    topics
        The topics that may have readings.
    parts
        Returns the parts of the plant.
    plans
        The pipelines of the plant.
    commands
        Whether operators' commands are accepted.
    picture
        A drawing of the plant as SVG; empty if there is none.
    links
        Other pages: their names and addresses.
    """

    name: str
    zone: str
    tags: Tags
    topics: Sequence[str]
    parts: Callable[[], Sequence[Shown]]
    plans: Sequence[Plan] = ()
    commands: bool = True
    picture: bytes = b""
    links: Sequence[tuple[str, str]] = ()

    @contextmanager
    def reading(self, open_log: Callable[[], Log]) -> Iterator[Paths]:
        """Follow the log, and return what answers each path: without a query, with one, and to what is posted."""
        alarming = Alarming(open_log, self.plans, commands=self.commands)
        watching = Watching(open_log, self.topics, len(self.tags), self._groups, no_readings=alarming.topics, look=alarming.follow)
        with closing(watching):
            yield self._paths(watching, alarming)

    def _groups(self) -> list[Group]:
        return [
            Group(_GROUPS[part.kind].format(topic=getattr(part, "topic", ""), name=part.name), part.kind, part.name)
            for part in self.parts()
            if part.kind in _GROUPS
        ]

    def _paths(self, watching: Watching, alarming: Alarming) -> Paths:
        shown: dict[str, Callable[[], Answer]] = {path: _file(*named) for path, named in _FILES.items()}
        shown |= {
            "/api/plant": lambda: json_answer(self._described()),
            "/api/state": lambda: json_answer({"parts": self._healths(), "fault": watching.fault, **watching.state()}),
            "/metrics": lambda: (HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", self._metrics()),
            "/health": self._health,
        }
        if self.picture:
            shown["/picture.svg"] = lambda: (HTTPStatus.OK, "image/svg+xml", self.picture)
        asked: dict[str, Callable[[str], Answer]] = {
            "/api/values": lambda query: json_answer(watching.values(number_of(query, "since") or 0)),
            "/api/trend": lambda query: json_answer(watching.trend(text_of(query, "tag"))),
            "/api/alarms": alarming.shown,
            "/api/explanation": alarming.explanation,
        }
        return shown, asked, {"/api/command": alarming.command}

    def _described(self) -> dict[str, Any]:
        limits = ("low", "high", "ll", "l", "h", "hh")
        tags = [
            {"path": tag.path, "name": tag.name, "unit": tag.symbol, "stepped": tag.interpolation == "stepped"}
            | {limit: getattr(tag, limit) for limit in limits if getattr(tag, limit) is not None}
            for tag in self.tags
        ]
        return {"name": self.name, "zone": self.zone, "tags": tags, "picture": bool(self.picture), "links": self.links}

    def _healths(self) -> list[dict[str, Any]]:
        return [{"name": part.name, "kind": part.kind, **msgspec.to_builtins(part.health)} for part in self.parts()]

    def _health(self) -> Answer:
        bad = {part.name: part.health.reason for part in self.parts() if part.health.state in {"waiting", "failed"}}
        status = HTTPStatus.SERVICE_UNAVAILABLE if bad else HTTPStatus.OK
        return json_answer({"status": "; ".join(f"{name}: {why}" for name, why in bad.items()) or "ok"}, status)

    def _metrics(self) -> bytes:
        """Return the metrics of all parts; each metric is described once."""
        found = [part.metrics.text() for part in self.parts() if getattr(part, "metrics", None) is not None]  # type: ignore[attr-defined]
        lines: dict[bytes, None] = dict.fromkeys(line for text in found for line in text.splitlines())
        return b"\n".join([*lines, b""])


def _file(name: str, kind: str) -> Callable[[], Answer]:
    content = (files("headrace.console") / "plant" / name).read_bytes()
    return lambda: (HTTPStatus.OK, kind, content)
