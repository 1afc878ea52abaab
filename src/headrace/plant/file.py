"""The plant file, `headrace.toml`: what comes in, which pipelines run, what goes out, the tags and the page.

A plant file is read and checked here as a text. Whether its connectors and pipelines exist is checked by those who run it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from headrace._toml import Place, Places, parse_toml, read_text
from headrace.errors import HeadraceError, PlanError, near
from headrace.plan.zone import check_zone

__all__ = ["PLANT_FILE", "TABLES", "In", "Out", "Page", "PipelinePart", "PlantFile", "parse_plant", "read_plant", "with_parameters"]

PLANT_FILE = "headrace.toml"
TABLES = ("plant", "tags", "in", "pipeline", "out", "page", "kafka")
"""The tables of a plant file. Any other is a pipeline's settings."""
_LISTS = ("in", "pipeline", "out")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#@:]*:([^/?#@]+)@")
_RUN_OPTIONS = ("commit_every", "idle_after", "close_quiet_after", "max_ahead")

Where = Callable[..., str]
"""From the keys that lead to a value of a part to its place in the file."""


def _nowhere(*_keys: str) -> str:
    return PLANT_FILE


@dataclass(frozen=True)
class In:
    """A source whose events fill a topic.

    Attributes
    ----------
    name
        Its name among the parts of the plant.
    source
        The address of the source.
    topic
        The topic that it fills.
    key
        The field of a record by which the partition is chosen.
    parameters
        What is added to the address as `?name=value`. `${NAME}` and `file:PATH` in them stand for secrets.
    where
        The place of a key of it in the file.
    """

    name: str
    source: str
    topic: str
    key: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    where: Where = field(default=_nowhere, compare=False, repr=False)


@dataclass(frozen=True)
class PipelinePart:
    """A pipeline that runs on topics.

    Attributes
    ----------
    app
        As `headrace run` takes it.
    settings
        Values of its settings, by name.
    options
        Options of its run, as the command line takes them.
    """

    app: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    where: Where = field(default=_nowhere, compare=False, repr=False)


@dataclass(frozen=True)
class Out:
    """A target to which the records of a topic go; for other attributes see `In`.

    Attributes
    ----------
    buffer
        How many records may wait for the target; None: as many as the topic keeps.
    when_full, reduce_to
        Which records are then dropped, and the shortest interval of `reduce`, as the command line takes them.
    """

    name: str
    topic: str
    target: str
    parameters: tuple[tuple[str, str], ...] = ()
    buffer: int | None = None
    when_full: str | None = None
    reduce_to: str | None = None
    where: Where = field(default=_nowhere, compare=False, repr=False)


@dataclass(frozen=True)
class Page:
    """Where the page is served, and the file of the plant's drawing."""

    host: str = "127.0.0.1"
    port: int = 8000
    picture: str | None = None


@dataclass(frozen=True)
class PlantFile:
    """A plant.

    Attributes
    ----------
    zone
        The time zone of the plant.
    external
        Topics that something else fills.
    tags
        The file of the list of tags; None if there is none.
    page
        None if no page is asked for.
    tables
        The tables of pipelines' settings, by name.
    """

    name: str = "plant"
    zone: str = "UTC"
    external: tuple[str, ...] = ()
    tags: str | None = None
    ins: tuple[In, ...] = ()
    pipelines: tuple[PipelinePart, ...] = ()
    outs: tuple[Out, ...] = ()
    page: Page | None = None
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    where: Callable[[Place], str] = field(default=lambda _: PLANT_FILE, compare=False, repr=False)


def read_plant(path: Path) -> tuple[PlantFile, list[HeadraceError]]:
    """Return the plant of a file, and what is wrong with it.

    Raises
    ------
    PlanError
        If the file cannot be read, or is not TOML.
    """
    return parse_plant(read_text(path), str(path))


def parse_plant(text: str, file: str = PLANT_FILE) -> tuple[PlantFile, list[HeadraceError]]:
    """Return the plant of a text, and what is wrong with it."""
    document, places = parse_toml(text, file)
    reader = _Reader(document, places)
    return reader.plant(), reader.mistakes


def with_parameters(address: str, parameters: Iterable[tuple[str, str]]) -> str:
    """Return an address with parameters added to it."""
    added = "&".join(f"{name}={quote(value, safe='/:,')}" for name, value in parameters)
    if not added:
        return address
    return f"{address}{'&' if '?' in address else '?'}{added}"


class _Reader:
    """Takes a document apart, and collects what is wrong with it."""

    def __init__(self, document: Mapping[str, Any], places: Places) -> None:
        self._document, self._places = document, places
        self.mistakes: list[HeadraceError] = []

    def plant(self) -> PlantFile:
        self._check_tables()
        plant = self._table("plant", ("name", "zone", "external"))
        tags = self._table("tags", ("file",))
        name = self._text(plant, ("plant",), "name") or "plant"
        external = tuple(self._texts(plant, ("plant",), "external"))
        file = self._text(tags, ("tags",), "file", required="tags" in self._document)
        page = self._page() if "page" in self._document else None
        parts = {kind: self._rows(kind) for kind in _LISTS}
        ins = tuple(filter(None, (self._in(row, place) for row, place in parts["in"])))
        outs = tuple(filter(None, (self._out(row, place) for row, place in parts["out"])))
        pipelines = tuple(filter(None, (self._pipeline(row, place) for row, place in parts["pipeline"])))
        self._check_names([*ins, *outs])
        self._check_writers(ins)
        tables = {key: value for key, value in self._document.items() if isinstance(value, dict) and key not in TABLES}
        return PlantFile(name, self._zone(plant), external, file, ins, pipelines, outs, page, tables, self._places.where)

    # tables

    def _wrong(self, place: Place, what: str, fix: str) -> None:
        self.mistakes.append(PlanError(what, where=self._places.where(place), fix=fix))

    def _check_tables(self) -> None:
        """Report a table that seems to be one of the plant's. Others are tables of pipelines' settings."""
        for key, value in self._document.items():
            if key in TABLES:
                continue
            close = difflib.get_close_matches(key.lower(), (*TABLES, "input", "output", "inputs", "outputs", "tag"), n=1, cutoff=0.75)
            if not isinstance(value, dict) or close:
                self._wrong((key,), f"unknown table {key!r}" if isinstance(value, dict | list) else f"unknown key {key!r}", near(key, TABLES))

    def _table(self, name: str, known: Iterable[str]) -> Mapping[str, Any]:
        table = self._document.get(name, {})
        if not isinstance(table, dict):
            self._wrong((name,), f"{name!r} is not a table", f"write [{name}] above its keys")
            return {}
        self._check_known(table, (name,), known)
        return table

    def _rows(self, kind: str) -> list[tuple[Mapping[str, Any], Place]]:
        rows = self._document.get(kind, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._wrong((kind,), f"{kind!r} is not a list of tables", f"write [[{kind}]] above each")
            return []
        return [(row, (kind, number)) for number, row in enumerate(rows)]

    def _check_known(self, row: Mapping[str, Any], place: Place, known: Iterable[str]) -> None:
        for key in row:
            if key not in known:
                self._wrong((*place, key), f"unknown key {key!r}", near(key, known))

    # values

    def _text(self, row: Mapping[str, Any], place: Place, key: str, *, required: bool = False) -> str | None:
        value = row.get(key)
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value.strip()
        if value is not None:
            self._wrong((*place, key), f"{key} is {value!r}, not a text", 'write it between quotes: "…"')
        elif required:
            self._wrong(place, f"{key} is missing", f'write {key} = "…"')
        return None

    def _texts(self, row: Mapping[str, Any], place: Place, key: str) -> list[str]:
        value = row.get(key, [])
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return list(value)
        self._wrong((*place, key), f"{key} is {value!r}, not a list of texts", f'write {key} = ["…"]')
        return []

    def _zone(self, plant: Mapping[str, Any]) -> str:
        zone = self._text(plant, ("plant",), "zone") or "UTC"
        try:
            return check_zone(zone)
        except HeadraceError as error:
            self._wrong(("plant", "zone"), error.what, error.fix or "")
            return "UTC"

    def _page(self) -> Page:
        row = self._table("page", ("host", "port", "picture"))
        host = self._text(row, ("page",), "host") or Page.host
        port = row.get("port", Page.port)
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 65_536:
            self._wrong(("page", "port"), f"port is {port!r}", "give 1 to 65535, or 0 for any that is free")
            port = Page.port
        return Page(host, port, self._text(row, ("page",), "picture"))

    # parts

    def _in(self, row: Mapping[str, Any], place: Place) -> In | None:
        source, topic = self._address(row, place, "from"), self._topic(row, place, "to")
        name, key = self._name(row, place), self._text(row, place, "key")
        parameters = self._parameters(row, place, ("name", "from", "to", "key"))
        if source is None or topic is None:
            return None
        return In(name or topic, source, topic, key, parameters, self._place_of(place))

    def _out(self, row: Mapping[str, Any], place: Place) -> Out | None:
        topic, target = self._topic(row, place, "from"), self._address(row, place, "to")
        name = self._name(row, place)
        parameters = self._parameters(row, place, ("name", "from", "to", "buffer", "when_full", "reduce_to"))
        buffer = row.get("buffer")
        if buffer is not None and (not isinstance(buffer, int) or isinstance(buffer, bool)):
            self._wrong((*place, "buffer"), f"buffer is {buffer!r}", "give a number of records, 1 or more")
            buffer = None
            row = {key: value for key, value in row.items() if key not in {"when_full", "reduce_to"}}
        full = self._text(row, place, "when_full"), self._text(row, place, "reduce_to")
        if topic is None or target is None:
            return None
        head = target.partition(":")[0]
        return Out(name or f"{topic}:{Path(head).stem}", topic, target, parameters, buffer, *full, where=self._place_of(place))

    def _pipeline(self, row: Mapping[str, Any], place: Place) -> PipelinePart | None:
        self._check_known(row, place, ("app", "settings", "batch_records", *_RUN_OPTIONS))
        app = self._text(row, place, "app", required=True)
        settings = row.get("settings", {})
        if not isinstance(settings, dict):
            self._wrong((*place, "settings"), f"settings is {settings!r}, not a table", "write settings = {name = value}")
            settings = {}
        options: dict[str, Any] = {name: str(row[name]) for name in _RUN_OPTIONS if name in row}
        if "batch_records" in row:
            options["batch_records"] = row["batch_records"]
            if not isinstance(row["batch_records"], int) or isinstance(row["batch_records"], bool):
                self._wrong((*place, "batch_records"), f"batch_records is {row['batch_records']!r}", "give a whole number, 1 or more")
                del options["batch_records"]
        return None if app is None else PipelinePart(app, settings, options, self._place_of(place))

    def _place_of(self, place: Place) -> Where:
        return lambda *keys: self._places.where((*place, *keys))

    def _name(self, row: Mapping[str, Any], place: Place) -> str | None:
        name = self._text(row, place, "name")
        if name is not None and not _NAME.fullmatch(name):
            self._wrong((*place, "name"), f"name is {name!r}", "use letters, digits and . _ : -")
        return name

    def _address(self, row: Mapping[str, Any], place: Place, key: str) -> str | None:
        address = self._text(row, place, key, required=True)
        password = _PASSWORD.match(address or "")
        if password is not None and "${" not in password[1]:
            self._wrong((*place, key), f"{key} contains a password", "write ${NAME} for it, and set NAME in the environment")
            return None
        return address

    def _topic(self, row: Mapping[str, Any], place: Place, key: str) -> str | None:
        topic = self._text(row, place, key, required=True)
        if topic is None:
            return None
        topic = topic.removeprefix("topic:")
        if not _TOPIC.fullmatch(topic):
            other: Literal["from", "to"] = "to" if key == "from" else "from"
            fix = f"name a topic: letters, digits and . _ -; an address belongs to {other!r}"
            self._wrong((*place, key), f"{key} is {topic!r}, not the name of a topic", fix)
            return None
        return topic

    def _parameters(self, row: Mapping[str, Any], place: Place, own: Iterable[str]) -> tuple[tuple[str, str], ...]:
        found = []
        for key, value in row.items():
            if key in own:
                continue
            if isinstance(value, bool):
                found.append((key, "true" if value else "false"))
            elif isinstance(value, str | int | float) and str(value):
                found.append((key, str(value)))
            else:
                self._wrong((*place, key), f"{key} is {value!r}, not a text or a number", 'write it between quotes: "…"')
        return tuple(found)

    # the whole

    def _check_names(self, parts: Iterable[In | Out]) -> None:
        known: dict[str, str] = {}
        for part in parts:
            if part.name in known:
                what = f"two parts have the name {part.name!r}"
                self.mistakes.append(PlanError(what, where=part.where("name"), fix=f"give one of them another name; the other: {known[part.name]}"))
            known.setdefault(part.name, part.where())

    def _check_writers(self, ins: Iterable[In]) -> None:
        known: dict[str, In] = {}
        for one in ins:
            if one.topic in known:
                fix = f"give each source a topic of its own, and let a pipeline read both; the other: {known[one.topic].where('to')}"
                self.mistakes.append(PlanError(f"two sources fill the topic {one.topic!r}", where=one.where("to"), fix=fix))
            known.setdefault(one.topic, one)
