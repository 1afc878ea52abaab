"""From a plant file to its parts: whether connectors, pipelines and settings exist, and who fills which topic."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from headrace.cli.apps import find_pipeline, home, made, work_in
from headrace.cli.bridge import source_of, target_of
from headrace.cli.buffering import buffer_for
from headrace.cli.definitions import unknown_in_tables
from headrace.cli.options import RunOptions
from headrace.connectors import find
from headrace.connectors.address import secret, secret_file
from headrace.connectors.certificates import expiring
from headrace.errors import EnvironmentFault, HeadraceError, Mistakes, PlanError, near
from headrace.gateway.hosts import is_loopback
from headrace.plan.cache import caching_in
from headrace.plan.settings import Setting
from headrace.plant.file import In, Out, PipelinePart, PlantFile, read_plant, with_parameters
from headrace.plant.tags import Tags, load

if TYPE_CHECKING:
    from headrace.connectors.protocol import Source, Target
    from headrace.plan.pipeline import Pipeline, Plan

__all__ = ["Checked", "check_plant", "source_for", "target_for"]

_CERTIFICATES = frozenset({"ca", "cert", "certificate", "server_certificate", "sslrootcert", "tlsCAFile"})
_EXPANDED_HERE = re.compile(r"https?://|[^:]+\.py:", re.IGNORECASE)  # the other connectors expand the user and the password themselves


@dataclass(frozen=True)
class Planned:
    """A pipeline of a plant, with its plan."""

    part: PipelinePart
    plan: Plan


@dataclass
class Checked:
    """A plant that can run.

    Attributes
    ----------
    notes
        What could not be checked here, such as a secret that is not set.
    """

    plant: PlantFile
    tags: Tags
    pipelines: list[Planned]
    notes: list[str] = field(default_factory=list)


def check_plant(path: Path) -> Checked:
    """Return the plant of a file. Its folder becomes the working folder.

    Raises
    ------
    PlanError
        If anything in it is wrong. Several mistakes are one error, `Mistakes`.
    """
    file = work_in(path)
    plant, mistakes = read_plant(file)
    checker = _Checker(plant, mistakes)
    checked = checker.check()
    Mistakes.report(mistakes)
    return checked


class _Checker:
    """Checks a plant against the connectors and pipelines that there are, and collects what is wrong."""

    def __init__(self, plant: PlantFile, mistakes: list[HeadraceError]) -> None:
        self._plant, self._mistakes = plant, mistakes
        self._notes: list[str] = []

    def check(self) -> Checked:
        tags = self._tags()
        for source in self._plant.ins:
            self._try(partial(source_for, source, self._plant.tags), source.where("from"))
        for target in self._plant.outs:
            self._try(partial(target_for, target), target.where("to"))
            self._try_buffer(target)
        self._note_certificates()
        with caching_in(home() / "expressions.cache"):
            pipelines = list(self._pipelines())
        self._check_names(pipelines)
        self._check_topics(pipelines)
        self._note_cycle(pipelines)
        self._notes += unknown_in_tables(one.plan for one in pipelines)
        page = self._plant.page
        if page is not None and page.picture is not None:
            self._try(partial(_check_picture, page.picture), self._plant.where(("page", "picture")))
        if page is not None and not is_loopback(page.host):
            what = f"the page is served beyond this machine, to anyone who reaches {page.host}, without sign-in; it takes no commands for alarms"
            self._notes.append(str(PlanError(what, where=self._plant.where(("page", "host")))))
        return Checked(self._plant, tags, pipelines, self._notes)

    def _try(self, make: Callable[[], object], where: str) -> None:
        """Make something that is not used. What its surroundings lack may be there when it runs, and is only noted."""
        try:
            make()
        except EnvironmentFault as fault:
            self._notes.append(str(PlanError(_inner(fault), where=where, fix=fault.fix)))
        except Mistakes as error:
            self._mistakes += error.mistakes
        except HeadraceError as error:
            self._mistakes.append(PlanError(_inner(error), where=where, fix=error.fix))

    def _try_buffer(self, target: Out) -> None:
        try:
            buffer_for(target)
        except PlanError as error:
            self._mistakes.append(error)

    def _note_certificates(self) -> None:
        """Note certificates in files that expire soon."""
        ins = [(one.source, one.parameters, one.where("from")) for one in self._plant.ins]
        outs = [(one.target, one.parameters, one.where("to")) for one in self._plant.outs]
        for address, parameters, where in (*ins, *outs):
            for name, file in (*parameters, *parse_qsl(address.partition("?")[2])):
                if name in _CERTIFICATES and (what := expiring(file)) is not None:
                    self._notes.append(str(PlanError(what, where=where, fix="renew it: it is read at the next connection")))

    def _tags(self) -> Tags:
        if self._plant.tags is None:
            return Tags()
        try:
            return load(self._plant.tags)
        except Mistakes as error:
            self._mistakes += error.mistakes
        except HeadraceError as error:
            self._mistakes.append(error)
        return Tags()

    # pipelines

    def _pipelines(self) -> Iterator[Planned]:
        for part in self._plant.pipelines:
            before = len(self._mistakes)
            self._try(partial(_options_of, part), part.where())
            try:
                pipeline = find_pipeline(part.app)
            except HeadraceError as error:
                self._mistakes.append(PlanError(_inner(error), where=part.where("app"), fix=error.fix))
                continue
            values = self._settings(part, pipeline)
            if len(self._mistakes) > before:
                continue
            try:
                yield Planned(part, made(pipeline, values))
            except HeadraceError as error:
                self._mistakes.append(PlanError(f"pipeline {pipeline.name}: {_inner(error)}", where=part.where("app"), fix=error.fix))

    def _settings(self, part: PipelinePart, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the values of a pipeline's settings: from the environment, then from the file, then by default."""
        known = {setting.name.lower(): setting for setting in pipeline.settings}
        table = self._plant.tables.get(pipeline.name, {})
        given: dict[str, tuple[Any, str]] = {}
        for values, where in ((table, self._table_place(pipeline.name)), (part.settings, lambda key: part.where("settings", key))):
            for key, value in values.items():
                if key.lower() not in known:
                    self._wrong(where(key), f"pipeline {pipeline.name} has no setting {key!r}", near(key, known))
                elif key.lower() in given:
                    self._wrong(where(key), f"setting {key} is also in [{pipeline.name}]", "remove one of them")
                else:
                    given[key.lower()] = (value, where(key))
        return {setting.name: self._value(setting, given.get(setting.name.lower())) for setting in pipeline.settings}

    def _table_place(self, name: str) -> Callable[[str], str]:
        return lambda key: self._plant.where((name, key))

    def _value(self, setting: Setting, given: tuple[Any, str] | None) -> Any:  # noqa: ANN401  (the setting's own type)
        variable = next((one for one in setting.variables if one in os.environ), None)
        try:
            if variable is not None:
                return setting.read(os.environ[variable], f"environment {variable}")
            return setting.default if given is None else setting.read(*given)
        except HeadraceError as error:
            self._mistakes.append(error)
            return setting.default

    def _wrong(self, where: str, what: str, fix: str) -> None:
        self._mistakes.append(PlanError(what, where=where, fix=fix))

    # the whole

    def _check_names(self, pipelines: list[Planned]) -> None:
        known = {one.name: one.where() for one in self._plant.ins} | {one.name: one.where() for one in self._plant.outs}
        if self._plant.page is not None and "page" in known:
            self._wrong(known["page"], "a part has the name 'page', which is that of [page]", 'give it another name: name = "…"')
        for one in pipelines:
            name = one.plan.pipeline
            if name in known:
                self._wrong(one.part.where("app"), f"two parts have the name {name!r}", f"give the other another name: {known[name]}")
            known.setdefault(name, one.part.where())

    @property
    def _connected(self) -> list[str]:
        """The topics of connectors."""
        return [*(one.topic for one in self._plant.ins), *(one.topic for one in self._plant.outs)]

    def _check_topics(self, pipelines: list[Planned]) -> None:
        """Report a topic that nobody fills, and one that two fill."""
        plant = self._plant
        writers = {one.topic: one.where("to") for one in plant.ins}
        filled = {*plant.external, *writers, *(f"{topic}.dead-letter" for topic in self._connected)}
        for one in pipelines:
            for topic in one.plan.topics:
                if topic in writers:
                    what = f"pipeline {one.plan.pipeline} writes the topic {topic!r}, which has another writer"
                    self._wrong(one.part.where("app"), what, f"give it a topic of its own; the other writer: {writers[topic]}")
                writers.setdefault(topic, one.part.where("app"))
            filled |= {*one.plan.topics, f"{one.plan.pipeline}.clock", *(f"{source.topic}.dead-letter" for source in one.plan.sources)}
        reads = [(source.topic, one.part.where("app")) for one in pipelines for source in one.plan.sources]
        if len(pipelines) < len(plant.pipelines):
            return  # a pipeline that is wrong may fill what seems to be filled by nobody
        for topic, where in [*reads, *((one.topic, one.where("from")) for one in plant.outs)]:
            if topic not in filled:
                hint = near(topic, {one for one in filled if one.endswith(".dead-letter") == topic.endswith(".dead-letter")})
                fix = f"{hint} Else add an [[in]]" if hint.startswith("did") else "add an [[in]]"
                self._wrong(where, f"nobody fills the topic {topic!r}", f"{fix} with to = {topic!r}, or name it in external of [plant]")

    def _note_cycle(self, pipelines: list[Planned]) -> None:
        """Note pipelines that read each other's results. That may be meant, for example to try records again."""
        before: dict[str, list[str]] = {}
        for one in pipelines:
            named = f"pipeline {one.plan.pipeline}"
            before.setdefault(named, []).extend(f"topic {source.topic}" for source in one.plan.sources)
            for topic in one.plan.topics:
                before.setdefault(f"topic {topic}", []).append(named)
        try:
            TopologicalSorter(before).prepare()
        except CycleError as error:
            what = f"a cycle through topics, in which records may circulate for ever: {' → '.join(error.args[1])}"
            last = next(one for one in reversed(pipelines) if f"pipeline {one.plan.pipeline}" in error.args[1])
            self._notes.append(str(PlanError(what, where=last.part.where("app"))))


def _options_of(part: PipelinePart) -> object:
    return RunOptions(**part.options).parsed


# connectors


def _check_picture(file: str) -> None:
    """Raise PlanError unless a file is a drawing."""
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise PlanError(f"picture {file} cannot be read: {error.strerror}", fix="name an SVG file") from None
    if b"<svg" not in text[:4096]:
        raise PlanError(f"picture {file} is no SVG", fix="name an SVG file")


def source_for(part: In, tags: str | None = None) -> Source:
    """Return the source of a part, with its secrets; a connector that knows tags gets the plant's list, unless the part names one."""
    parameters = _secrets(part)
    if part.source.startswith("simulate:"):
        from headrace.simulate.source import source

        return source(with_parameters(part.source, parameters))
    takes_tags = _check_known(part.source)
    if tags is not None and takes_tags and not re.search(r"[?&]tags=", with_parameters(part.source, parameters)):
        parameters.append(("tags", tags))
    return source_of(with_parameters(_expanded(part.source), parameters))


def target_for(part: Out) -> Target:
    """Return the target of a part, with its secrets."""
    _check_known(part.target)
    return target_of(with_parameters(_expanded(part.target), _secrets(part)))


def _check_known(address: str) -> bool:
    """Return whether the connector of an address takes a list of tags.

    Raises
    ------
    PlanError
        If no connector has the address, without showing it: it may have a password.
    """
    scheme = address.partition(":")[0]
    if scheme.endswith(".py"):
        return False
    module = find(address)
    if module is None:
        raise PlanError(f"there is no connector for {scheme!r}", fix="write an address such as http://127.0.0.1:8001/stream, or FILE.py:…")
    return bool(getattr(module, "TAKES_TAGS", False))


def _expanded(address: str) -> str:
    return secret(address, "") if _EXPANDED_HERE.match(address) else address


def _secrets(part: In | Out) -> list[tuple[str, str]]:
    """Return the parameters of a part with their secrets: `${NAME}` is the environment's, `file:PATH` the first line of a file."""
    return [(name, secret_file(value.removeprefix("file:")) if value.startswith("file:") else secret(value, "")) for name, value in part.parameters]


def _inner(error: HeadraceError) -> str:
    """Return what is wrong, and where if that is more than an argument of a command."""
    return error.what if error.where in {None, "", "FROM", "TO", "APP", "simulate:"} else f"{error.where}: {error.what}"
