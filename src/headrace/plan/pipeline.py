"""A pipeline: a function that returns its sinks, with a name, a version and settings; and the plan it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from headrace.errors import PlanError, near
from headrace.plan.operators import Aggregate, Operator, Process, Sink, Source, inputs_of, topics_of, upstream
from headrace.plan.schema import Schema
from headrace.plan.settings import Setting, settings_of, using
from headrace.plan.stream import Stream

__all__ = ["FAILED", "Pipeline", "Plan"]

# A record at which a process raised, in the form of a dead letter, with the key and what was kept for it.
FAILED = Schema.parse(
    {
        "pipeline": "STRING", "topic": "STRING", "partition": "BIGINT", "offset": "BIGINT", "reason": "STRING", "detail": "STRING",
        "arrived_ms": "BIGINT", "raw": "STRING", "process": "STRING", "key": "STRING", "state": "STRING",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a pipeline computes, with its settings' values put in."""

    pipeline: str
    version: str
    settings: Mapping[str, Any]
    sinks: tuple[Sink, ...]

    def operators(self) -> Iterator[Operator | Sink]:
        """Yield each operator once, inputs before what takes them."""
        seen: set[int] = set()
        for sink in self.sinks:
            for operator in upstream(sink):
                if id(operator) not in seen:
                    seen.add(id(operator))
                    yield operator

    @property
    def sources(self) -> tuple[Source, ...]:
        """The topics read."""
        return tuple(operator for operator in self.operators() if isinstance(operator, Source))

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics written: the sinks', then those of late rows and of processes' failures."""
        return (*(sink.topic for sink in self.sinks), *self.late_topics, *self.failed_topics)

    @property
    def late_topics(self) -> tuple[str, ...]:
        """The topics of rows that were late for a window."""
        return tuple(o.late_topic for o in self.operators() if isinstance(o, Aggregate) and o.late_topic)

    @property
    def failed_topics(self) -> tuple[str, ...]:
        """The topics of what processes failed at."""
        return tuple(o.failed_topic for o in self.operators() if isinstance(o, Process) and o.failed_topic)

    @property
    def identity(self) -> dict[str, Any]:
        """What saved state must have been made with to be this plan's: pipeline, version, settings and operators."""
        return {
            "pipeline": self.pipeline,
            "version": self.version,
            "settings": {name: str(value) for name, value in self.settings.items()},
            "operators": [str(self), repr([sink.input for sink in self.sinks])],
        }

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
        for operator in self.operators():
            if isinstance(operator, Sink) and operator.topic == topic:
                return operator.schema
            if isinstance(operator, Aggregate) and operator.late_topic == topic:
                return operator.input.schema
            if isinstance(operator, Process) and operator.failed_topic == topic:
                return FAILED
        raise PlanError(f"no topic {topic!r} is written", where=f"pipeline {self.pipeline}", fix=near(topic, self.topics))

    def __str__(self) -> str:
        lines = [f"pipeline {self.pipeline} version {self.version}"]
        lines += [f"  setting {name} = {value!r}" for name, value in self.settings.items()]
        numbers: dict[int, int] = {}
        for number, operator in enumerate(self.operators(), 1):
            numbers[id(operator)] = number
            inputs = ", ".join(f"#{numbers[id(one)]}" for one in inputs_of(operator))
            lines.append(f"  #{number} {operator}{f'  ← {inputs}' if inputs else ''}")
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
        plan = Plan(self.name, self.version, values, tuple(Sink(topic, one.operator) for topic, one in sinks.items()))
        _check_topics(plan)
        _check_processes(plan)
        return plan


_OWN = {"clock": "live runs note their clock's steps", "ledger": "a cluster writes the ledger"}


def _check_topics(plan: Plan) -> None:
    place, sources = f"pipeline {plan.pipeline}", [source.topic for source in plan.sources]
    dead = [f"{topic}.dead-letter" for topic in sources]
    used = [*sources, *dead, *plan.topics]
    for topic in used:
        _check_name(topic, place, "topic")
        if used.count(topic) > 1:
            raise PlanError(f"topic {topic!r} is used twice", where=place, fix="share the stream of a source; give each output a topic")
    for topic in used:
        for own, what in _OWN.items():
            if topic == f"{plan.pipeline}.{own}":
                raise PlanError(f"topic {topic!r} is where {what}", where=place, fix="give it another name")
    for topic in plan.topics:
        if topic.startswith(tuple(f"{one}." for one in dead)):
            raise PlanError(f"topic {topic!r} stands among the dead letters", where=place, fix="give it another name")


def _check_processes(plan: Plan) -> None:
    """Raise PlanError if two processes have one name, or could count one record as a duplicate."""
    processes = [one for one in plan.operators() if isinstance(one, Process)]
    names = [one.name for one in processes]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"two processes are named {name!r}", where=f"pipeline {plan.pipeline}", fix="give one another name=")
    dropping = [one for one in processes if one.drops_duplicates]
    sources = [topic for one in dropping for topic in topics_of(one)]
    for topic in sources:
        if sources.count(topic) > 1:
            raise PlanError(f"stream {topic!r} is deduplicated twice", where=f"pipeline {plan.pipeline}", fix="share the stream that is deduplicated")


def _check_name(name: str, where: str, what: str) -> None:
    """Raise PlanError unless files can be named so."""
    if not isinstance(name, str) or name in {"", ".", ".."} or not name.isprintable() or {*"/\\"} & {*name}:
        raise PlanError(f"{what} name {name!r} cannot be used", where=where, fix="use letters, digits, '.', '_' and '-'")
