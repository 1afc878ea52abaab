"""`headrace up`: the parts of a plant file, supervised in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from cyclopts import Parameter

from headrace._durable import private_folder, put
from headrace._lock import TakenError, take
from headrace._structured import structured
from headrace.backtest.topics import alarm_pipelines
from headrace.cli.apps import home
from headrace.cli.buffering import buffer_for
from headrace.cli.definitions import unknown_in_topics
from headrace.cli.logs import LOG_FILE, KafkaOptions, NoLogYet, asked_topics, open_log
from headrace.cli.options import RunOptions
from headrace.cli.paths import InputPath
from headrace.cli.plant import Checked, Planned, check_plant, source_for, target_for
from headrace.cli.proven import check_proven
from headrace.cli.report import remember
from headrace.cli.stopping import asked_to_stop
from headrace.engines.options import Mode
from headrace.engines.protocol import Context, Engine, Result, accept, engine_named
from headrace.errors import EnvironmentFault, HeadraceError, PlanError, near
from headrace.gateway.hosts import is_loopback
from headrace.plant.file import PLANT_FILE, In, Out
from headrace.topics.making import make_topic, make_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace import _metrics
    from headrace.supervise import Part, Supervisor
    from headrace.topics.protocol import Log

__all__ = ["LOCK_FILE", "STATE_FILE", "up"]

STATE_FILE = "up.json"
LOCK_FILE = "up.lock"


def up(
    *parts: str,
    plant: InputPath = Path(PLANT_FILE),
    unproven: Annotated[bool, Parameter(negative=())] = False,
    kafka: KafkaOptions = KafkaOptions(),
) -> None:
    """Run a plant: its sources, pipelines and targets, supervised in one process, until Ctrl-C or SIGTERM.

    A part that fails is restarted. One whose definition or data cannot work has failed for good: the others go on, and the exit status
    is 1 at the end. At the end sources stop first, then pipelines, then targets; each commits. After kill -9, all resume from
    their last commits.

    Parameters
    ----------
    parts
        The names of the parts to run; all of the file if none is given.
    plant
        The plant file. Its folder becomes the working folder.
    unproven
        Run pipelines although their recorded backtest breaks the alarm budget. This is recorded.
    """
    engine = engine_named("embedded")
    engine.prepare()
    from headrace.engines.embedded.tuning import collect_from_here
    from headrace.supervise import Supervisor

    stop = asked_to_stop()
    reload_asked = _asked_to_reload()
    checked = check_plant(plant)
    for note in checked.notes:
        print(f"headrace: {note}", file=sys.stderr)
    build = _Builder(engine, kafka)
    chosen = _chosen(build.parts(checked), parts)
    _check_proven(checked, chosen, unproven=unproven)
    lines = structured()
    with _one_of_its_kind(parts):
        build.make_topics(checked)
        build.tell_unknown(checked)
        state = _State(checked, parts)
        supervisor = build.supervisor = Supervisor(chosen, lines, changed=lambda: state.write(supervisor.parts))

        def reload() -> Sequence[Part] | None:
            if not reload_asked():
                return None
            try:
                changed = check_plant(Path(plant.name))
                found = _chosen(build.parts(changed), parts)
                _check_proven(changed, found, unproven=unproven)
                build.make_topics(changed)
                build.tell_unknown(changed)
            except HeadraceError as error:
                lines.error("not reloaded", why=str(error))
                state.reloaded(refused=str(error))
                state.write(supervisor.parts)
                return None
            return found

        supervisor.reloaded, supervisor.stuck = state.reloaded, _leave
        state.write(supervisor.parts)
        collect_from_here()
        if not asyncio.run(supervisor.run(stop, reload)):
            failed = ", ".join(part.name for part in supervisor.parts if part.health.state == "failed")
            raise HeadraceError("failed for good", where=failed, fix="look at their lines above")


def _check_proven(checked: Checked, chosen: Sequence[Part], *, unproven: bool) -> None:
    """Check that the pipelines among the chosen parts keep their alarm budgets, as far as that is recorded."""
    names = {part.name for part in chosen}
    check_proven((one.plan for one in checked.pipelines if one.plan.pipeline in names), unproven=unproven)


def _leave(error: EnvironmentFault) -> None:
    """End the process although threads of it go on; all resume from their last commits, as after a kill."""
    print(f"headrace: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_status)


def _asked_to_reload() -> Callable[[], bool]:
    """Return a function that tells once whether SIGHUP has come."""
    asked: list[bool] = []
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda _signal, _frame: asked.append(True))

    def reload() -> bool:
        came = bool(asked)
        asked.clear()
        return came

    return reload


def _chosen(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    known = {part.name: part for part in parts}
    for name in names:
        if name not in known:
            raise PlanError(f"there is no part {name!r}", where="PART", fix=near(name, known))
    if not parts:
        raise PlanError("has no parts", where=PLANT_FILE, fix="add an [[in]], a [[pipeline]] or an [[out]]; headrace init writes a first file")
    return [part for part in parts if not names or part.name in names]


@contextmanager
def _one_of_its_kind(parts: Sequence[str]) -> Iterator[None]:
    """Keep out a second process that runs all parts of the home: each part also has a claim of its own."""
    folder = home()
    try:
        private_folder(folder)
        lock: IO[bytes] | None = None if parts else take(folder / LOCK_FILE)
    except TakenError as taken:
        raise EnvironmentFault(f"process {taken.owner} runs it", where=str(folder), fix="end it first, or take another HEADRACE_HOME") from None
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(folder), fix="let this user write there") from None
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


class _State:
    """The state of a running plant for other commands: a file in the home, written whenever a part's state changes."""

    def __init__(self, checked: Checked, parts: Sequence[str]) -> None:
        self._plant, self._alone = checked.plant.name, bool(parts)
        self._reload: dict[str, Any] = {"generation": 0}
        self.reloaded()

    def reloaded(self, started: Sequence[str] = (), stopped: Sequence[str] = (), unchanged: Sequence[str] = (), refused: str = "") -> None:
        """Note what became of a reload."""
        number = self._reload["generation"] + 1
        self._reload = {"generation": number, "refused": refused, "started": started, "stopped": stopped, "unchanged": unchanged}

    def write(self, parts: Sequence[Part]) -> None:
        """Write the state of the parts. It is not written by a process that runs some parts only."""
        if self._alone:
            return
        shown = [{"name": part.name, "kind": part.kind, **msgspec.to_builtins(part.health)} for part in parts]
        state = {"pid": os.getpid(), "plant": self._plant, **self._reload, "parts": shown}
        put(home() / STATE_FILE, msgspec.json.encode(state), secret=True)


class _Builder:
    """Makes the parts of a plant."""

    def __init__(self, engine: Engine, kafka: KafkaOptions) -> None:
        self._engine, self._kafka = engine, kafka
        self._made = False
        self.supervisor: Supervisor | None = None  # whose parts the page shows

    def _open_log(self) -> Log:
        """Open the log; it is made when the plant starts, and not by a part that begins again when the log was removed."""
        try:
            log = open_log(self._kafka, create=not self._made)
        except NoLogYet:
            fix = "stop headrace up, put a whole log in place (headrace restore), and start again"
            raise EnvironmentFault("was removed while the plant runs", where=str(home() / LOG_FILE), fix=fix) from None
        self._made = True
        return log

    def make_topics(self, checked: Checked) -> None:
        """Make the topics of a plant that are not there, so that no part has to wait for another one."""
        with closing(self._open_log()) as log:
            for topic in (*checked.plant.external, *(one.topic for one in checked.plant.ins)):
                make_topic(log, topic, 1, None)
            waiting = list(checked.pipelines)
            while waiting:  # a pipeline may read what another one writes
                there = {info.name for info in log.topics()}
                ready = [one for one in waiting if all(source.topic in there for source in one.plan.sources)]
                for one in ready or waiting:
                    make_topics(log, one.plan, f"{one.plan.pipeline}.clock")
                waiting = [one for one in waiting if one not in ready] if ready else []

    def tell_unknown(self, checked: Checked) -> None:
        """Tell of definitions of alarms that are in topics and name a cause that is no alarm. It is no reason not to start."""
        with suppress(EnvironmentFault), closing(self._open_log()) as log:
            for line in unknown_in_topics(log, [one.plan for one in checked.pipelines]):
                print(f"headrace: {line}", file=sys.stderr)

    def parts(self, checked: Checked) -> list[Part]:
        """Return the parts of a plant."""
        from headrace.supervise import InPart, OutPart

        plant = checked.plant
        tags = _digest(plant.tags)
        ins = [
            InPart(one.name, (one, _files(one.source, one), tags), self._open_log, partial(source_for, one, plant.tags), one.topic, one.key)
            for one in plant.ins
        ]
        outs = [
            OutPart(one.name, (one, _files(one.target, one)), self._open_log, partial(target_for, one), one.topic, buffer_for(one))
            for one in plant.outs
        ]
        running = [*ins, *map(self._pipeline, checked.pipelines), *outs]
        return running if plant.page is None else [*running, self._page(checked, tags)]

    def _page(self, checked: Checked, tags: str) -> Part:
        from headrace.console.plant_page import PagePart
        from headrace.console.plant_pages import PlantPages

        plant, page = checked.plant, checked.plant.page
        assert page is not None
        plans = [one.plan for one in checked.pipelines]
        written = (topic for plan in plans for topic in plan.topics)
        topics = tuple(dict.fromkeys((*(one.topic for one in plant.ins), *plant.external, *written)))
        explained = {msgspec.json.encode(plan.identity) for plan, _ in alarm_pipelines(plans).values()}
        picture = Path(page.picture).read_bytes() if page.picture else b""
        definition = (page, plant.name, plant.zone, tags, topics, picture, *sorted(explained))
        pages = PlantPages(
            plant.name,
            plant.zone,
            checked.tags,
            topics,
            parts=lambda: [] if self.supervisor is None else self.supervisor.parts,
            plans=plans,
            commands=is_loopback(page.host),
            picture=picture,
        )
        return PagePart(definition, self._open_log, host=page.host, port=page.port, pages=pages)

    def _pipeline(self, planned: Planned) -> Part:
        from headrace.supervise import PipelineThread

        plan = planned.plan
        options = RunOptions(**planned.part.options, **_servers(self._kafka))
        accept(self._engine, Mode.LIVE, options.given, options.parsed)

        def run(stop: Callable[[], bool], take: Callable[[_metrics.Metrics], None]) -> Result:
            def metrics_file(metrics: _metrics.Metrics) -> Callable[[bool], None]:
                take(metrics)
                return lambda _always: None

            topics = replace(asked_topics(options), open=self._open_log)
            return self._engine.run_topics(plan, topics, options.parsed, Context(home(), stop, metrics_file=metrics_file))

        code = _digest(planned.part.app.partition(":")[0])
        definition = (msgspec.json.encode(plan.identity), code, tuple(sorted(planned.part.options.items())))
        return PipelineThread(plan.pipeline, definition, run, lambda result: remember(plan, result.ledger, result.begun))


def _servers(kafka: KafkaOptions) -> dict[str, Any]:
    return {"kafka_servers": kafka.kafka_servers, "kafka_config": kafka.kafka_config}


def _files(address: str, part: In | Out) -> tuple[str, ...]:
    """Return the contents of the files that a part names, as far as it can be known: its own connector, and values of parameters."""
    names = [address.partition(":")[0], *(value.removeprefix("file:") for _, value in (*part.parameters, *parse_qsl(address.partition("?")[2])))]
    return tuple(map(_digest, names))


def _digest(name: str | None) -> str:
    """Return what tells the contents of a file; empty if it is none."""
    with suppress(OSError, ValueError):
        if name and Path(name).is_file():
            return blake2b(Path(name).read_bytes(), digest_size=16).hexdigest()
    return ""
