"""A pipeline: a function that returns its sinks, with a name, a version and settings; and the plan it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, TypeVar

from headrace.errors import PlanError, near
from headrace.plan.graph import Node, node, numbered
from headrace.plan.operators import Aggregate, Operator, Process, Sink, Source
from headrace.plan.schema import Schema
from headrace.plan.settings import Setting, settings_of, using
from headrace.plan.stream import Stream

__all__ = ["FAILED", "Pipeline", "Plan"]

K = TypeVar("K", bound=Operator)

# A record at which a process raised, in the form of a dead letter, with the key and what was kept for it.
FAILED = Schema.parse(
    {
        "pipeline": "STRING", "topic": "STRING", "partition": "BIGINT", "offset": "BIGINT", "reason": "STRING", "detail": "STRING",
        "arrived_ms": "BIGINT", "raw": "STRING", "process": "STRING", "key": "STRING", "state": "STRING",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """The graph of a pipeline for one set of settings. `nodes` are in topological order."""

    pipeline: str
    version: str
    settings: Mapping[str, Any]
    nodes: tuple[Node[Operator], ...]

    def of(self, kind: type[K]) -> tuple[Node[K], ...]:
        """Return the nodes with operators of a kind."""
        return tuple(one for one in self.nodes if one.is_a(kind))  # type: ignore[misc]

    def consumers(self, given: Node[Operator]) -> tuple[Node[Operator], ...]:
        """Return the nodes downstream of a node, each once per input."""
        return self._consumers.get(given, ())

    @cached_property
    def _consumers(self) -> dict[Node[Operator], tuple[Node[Operator], ...]]:
        found: dict[Node[Operator], tuple[Node[Operator], ...]] = {}
        for one in self.nodes:
            for given in one.inputs:
                found[given.node] = (*found.get(given.node, ()), one)
        return found

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The sources, one for each topic that is read."""
        return tuple(one.operator for one in self.of(Source))

    @cached_property
    def sinks(self) -> tuple[Node[Sink], ...]:
        """The sinks, one for each output."""
        return self.of(Sink)

    @cached_property
    def windows(self) -> tuple[Node[Aggregate], ...]:
        """The windows."""
        return self.of(Aggregate)

    @cached_property
    def processes(self) -> tuple[Node[Process], ...]:
        """The processes."""
        return self.of(Process)

    @cached_property
    def stages(self) -> tuple[Node[Operator], ...]:
        """The windows and processes: the nodes that buffer rows until the watermark passes them."""
        return tuple(one for one in self.nodes if one.is_a(Aggregate, Process))

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics written: the sinks', then those of late rows and of processes' failures."""
        return (*(sink.operator.topic for sink in self.sinks), *self.late_topics, *self.failed_topics)

    @property
    def late_topics(self) -> tuple[str, ...]:
        """The topics of rows that were late for a window, and of records that were late for an input of a process."""
        return tuple(topic for topic, _ in self._late)

    @cached_property
    def _late(self) -> list[tuple[str, Schema]]:
        windows = [(one.operator.late_topic, one.input.schema) for one in self.windows]
        inputs = [(given.late_topic, given.schema) for one in self.processes for given in one.operator.inputs]
        return [(topic, schema) for topic, schema in [*windows, *inputs] if topic is not None]

    @property
    def failed_topics(self) -> tuple[str, ...]:
        """The topics of what processes failed at."""
        return tuple(one.operator.failed_topic for one in self.processes if one.operator.failed_topic)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The identity that saved state carries: pipeline, version, settings, and a hash of the nodes."""
        nodes = [f"{one.id} {one.operator!r} {[(given.role, given.node.id) for given in one.inputs]}" for one in self.nodes]
        nodes += [f"{one.id} {one.operator.inputs}" for one in self.processes if one.operator.inputs]
        digest = blake2b("\n".join(nodes).encode(errors="surrogatepass"), digest_size=16).hexdigest()
        settings = {name: str(value) for name, value in self.settings.items()}
        return {"pipeline": self.pipeline, "version": self.version, "settings": settings, "operators": digest}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash((self.pipeline, self.identity["operators"]))

    def differs(self, saved: Mapping[str, Any]) -> str | None:
        """Return the first part of the identity that differs in saved state, None if it is the same."""
        for name, value in self.identity.items():
            was = saved[name]
            # Earlier formats saved the operators as two texts; the first is what `headrace plan` prints.
            if was != value and not (name == "operators" and isinstance(was, list) and was[0] == str(self)):
                return name
        return None

    def check_inputs(self, inputs: Mapping[str, Sized]) -> None:
        """Raise PlanError unless there is a file for each source, and for nothing else; `inputs` are files by topic."""
        topics = [source.topic for source in self.sources]
        for topic in inputs:
            if topic not in topics:
                raise PlanError(f"pipeline {self.pipeline} reads no topic {topic!r}", where="--input", fix=near(topic, topics))
        for topic in topics:
            if not inputs.get(topic):
                raise PlanError(f"topic {topic!r} has no file", where="--input", fix=f"add --input {topic}=FILE")

    def schema_of(self, topic: str) -> Schema:
        """Return the columns of the rows written to a topic."""
        schemas = {one.operator.topic: one.schema for one in self.sinks}
        schemas |= dict(self._late)
        schemas |= dict.fromkeys(self.failed_topics, FAILED)
        if topic not in schemas:
            raise PlanError(f"no topic {topic!r} is written", where=f"pipeline {self.pipeline}", fix=near(topic, self.topics))
        return schemas[topic]

    def __str__(self) -> str:
        lines = [f"pipeline {self.pipeline} version {self.version}"]
        lines += [f"  setting {name} = {value!r}" for name, value in self.settings.items()]
        for one in self.nodes:
            inputs = ", ".join(f"#{given.node.id}" for given in one.inputs)
            lines.append(f"  {one}{f'  ← {inputs}' if inputs else ''}")
        return "\n".join(lines)


class Pipeline:
    """A pipeline as its author defined it."""

    def __init__(self, function: Callable[..., Mapping[str, Stream]], name: str, version: str, env: Sequence[str] = ()) -> None:
        _check_name(name, f"pipeline {name!r}", "pipeline")
        if not isinstance(version, str) or not version:
            raise PlanError(f"version {version!r} is not a text", where=f"pipeline {name}", fix='write version="1", say')
        self.function, self.name, self.version = function, name, version
        if isinstance(env, str):
            raise PlanError(f"env={env!r} is no list", where=f"pipeline {name}", fix=f"write env=[{env!r}]")
        self.settings: tuple[Setting, ...] = settings_of(function, env)
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<Pipeline {self.name} version {self.version}>"

    def plan(self, **settings: Any) -> Plan:  # noqa: ANN401
        """Return the plan for these settings, the defaults for the others.

        Raises
        ------
        PlanError
            If a setting is unknown, or anything in the pipeline is wrong.
        """
        known = {setting.name: setting for setting in self.settings}
        for name in settings:
            if name not in known:
                raise PlanError(f"unknown setting {name!r}", where=f"pipeline {self.name}", fix=near(name, known))
        place = f"pipeline {self.name}"
        values = {name: one.read(settings[name], place) if name in settings else one.default for name, one in known.items()}
        with using({**values, "@pipeline": f"{self.name}/{self.version}"}):
            sinks = self.function(**values)
        if not isinstance(sinks, Mapping) or not sinks or not all(isinstance(one, Stream) for one in sinks.values()):
            raise PlanError("the function does not return its sinks", where=f"pipeline {self.name}", fix='return {"topic": stream}')
        plan = Plan(self.name, self.version, values, numbered(node(Sink(topic, one.spread_column), one.node) for topic, one in sinks.items()))
        _check_topics(plan)
        _check_names(plan)
        _check_deduplicated(plan)
        return plan


_OWN = {"clock": "live runs note their clock's steps", "ledger": "a cluster writes the ledger"}


def _check_topics(plan: Plan) -> None:
    place, sources = f"pipeline {plan.pipeline}", [source.topic for source in plan.sources]
    dead = [f"{topic}.dead-letter" for topic in sources]
    used = [*sources, *dead, *plan.topics]
    for topic in used:
        _check_name(topic, place, "topic")
        if topic in sources and topic in plan.topics:
            raise PlanError(
                f"topic {topic!r} is read and written: the pipeline would read its own results", where=place, fix="write to another topic"
            )
        if used.count(topic) > 1:
            raise PlanError(f"topic {topic!r} is used twice", where=place, fix="share the stream of a source; give each output a topic")
    for topic in used:
        for own, what in _OWN.items():
            if topic == f"{plan.pipeline}.{own}":
                raise PlanError(f"topic {topic!r} is where {what}", where=place, fix="give it another name")
    for topic in plan.topics:
        if topic.startswith(tuple(f"{one}." for one in dead)):
            raise PlanError(f"topic {topic!r} stands among the dead letters", where=place, fix="give it another name")


def _check_names(plan: Plan) -> None:
    """Raise PlanError if two processes or windows have one name."""
    processes = [one.operator.name for one in plan.processes if one.operator.named]
    names = [*processes, *(one.operator.name for one in plan.windows if one.operator.name)]
    for name in names:
        if names.count(name) > 1:
            both = "processes" if processes.count(name) > 1 else "windows or processes"
            raise PlanError(f"two {both} are named {name!r}", where=f"pipeline {plan.pipeline}", fix="give one another name=")


def _check_deduplicated(plan: Plan) -> None:
    """Raise PlanError if two processes could count one record as a duplicate."""
    topics = [topic for one in plan.processes if one.operator.drops_duplicates for topic in one.traits.topics]
    for topic in topics:
        if topics.count(topic) > 1:
            raise PlanError(f"stream {topic!r} is deduplicated twice", where=f"pipeline {plan.pipeline}", fix="share the stream that is deduplicated")


def _check_name(name: str, where: str, what: str) -> None:
    """Raise PlanError unless files can be named so."""
    if not isinstance(name, str) or name in {"", ".", ".."} or not name.isprintable() or {*"/\\"} & {*name}:
        raise PlanError(f"{what} name {name!r} cannot be used", where=where, fix="use letters, digits, '.', '_' and '-'")
