"""Which output of a pipeline has its alarms, and when a row of it is an alarm that was raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace.alarms.process import TagAlarms
from headrace.backtest.judge import Alarm
from headrace.errors import PlanError, near
from headrace.plan.graph import Input, Node
from headrace.plan.operators import Process, Side, Sink
from headrace.plan.pipeline import Plan
from headrace.plan.schema import Schema

__all__ = ["AlarmTopic", "alarm_pipelines", "alarm_process", "alarm_topics", "read_topics"]

_TRANSITION = {"alarm_id", "from", "to", "time"}
_MOMENTS = {"BIGINT", "TIMESTAMP_LTZ(3)"}


@dataclass(frozen=True)
class AlarmTopic:
    """An output topic whose rows are alarms.

    Attributes
    ----------
    topic
        Its name.
    time
        The column with the time at which an alarm was raised: a TIMESTAMP_LTZ(3), or a BIGINT of ms since the epoch.
    rule
        The column that names the rule; None if no column does.
    transitions
        Whether rows are transitions of `hr.alarm`: then only those that begin an occurrence count.
    """

    topic: str
    time: str
    rule: str | None
    transitions: bool

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys([self.time, *([] if self.rule is None else [self.rule]), *(["from", "to"] if self.transitions else [])]))

    def raised(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Alarm]:
        """Yield the alarms that were raised, from rows with these columns; a row without a time is skipped."""
        for row in rows:
            begins = not self.transitions or (row["to"] == "unacknowledged" != row["from"])
            if begins and (time := row[self.time]) is not None:
                yield Alarm(_ms(time), self.topic if self.rule is None else str(row[self.rule]))


def _ms(time: int | datetime) -> int:
    if isinstance(time, datetime):
        return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    return time


def alarm_process(sink: Node[Sink]) -> Node[Process] | None:
    """Return the process of `hr.alarm` whose transitions a sink writes; None if it writes other rows."""
    node: Node[Any] = sink
    while node.inputs and not isinstance(node.operator, Side):
        node = node.input
        if node.is_a(Process):
            found: Node[Any] = node
            return found if isinstance(found.operator.code, TagAlarms) else None
    return None


def alarm_pipelines(plans: Iterable[Plan]) -> dict[str, tuple[Plan, Node[Process]]]:
    """Return the topics to which pipelines write transitions of `hr.alarm`, each with its pipeline and its process of alarms."""
    return {sink.operator.topic: (plan, process) for plan in plans for sink in plan.sinks if (process := alarm_process(sink)) is not None}


def alarm_topics(plan: Plan, topic: str | None, time: str | None = None, rule: str | None = None) -> list[AlarmTopic]:
    """Return the outputs that have a pipeline's alarms.

    Parameters
    ----------
    plan
        The pipeline's plan.
    topic
        The output that is asked for; None for those of `hr.alarm`.
    time, rule
        The columns with the time and the rule, where they are asked for.

    Raises
    ------
    PlanError
        If there is no such output or column, or none is asked for and the pipeline has no `hr.alarm`.
    """
    place = f"pipeline {plan.pipeline}"
    own = {one.operator.topic: one for one in plan.sinks if one.schema.names and alarm_process(one) and set(one.schema.names) >= _TRANSITION}
    if topic is None:
        for option, given in (("--time", time), ("--rule", rule)):
            if given is not None:
                raise PlanError("belongs to --topic, which is not given", where=option, fix=f"add --topic, one of {', '.join(plan.topics)}")
        if not own:
            fix = f"name the output whose rows are alarms: --topic, one of {', '.join(plan.topics)}"
            raise PlanError("has no hr.alarm", where=place, fix=fix)
        return [AlarmTopic(name, "time", "alarm_id", transitions=True) for name in own]
    if topic not in plan.topics:
        raise PlanError(f"no topic {topic!r} is written", where=f"--topic: {place}", fix=near(topic, plan.topics))
    schema = plan.schema_of(topic)
    if topic in own and time is None and rule is None:
        return [AlarmTopic(topic, "time", "alarm_id", transitions=True)]
    if rule is not None and rule not in schema:
        raise PlanError(f"topic {topic} has no column {rule!r}", where="--rule", fix=near(rule, schema.names))
    return [AlarmTopic(topic, _time_column(schema, topic, time), rule, transitions=False)]


def _time_column(schema: Schema, topic: str, asked: str | None) -> str:
    moments = [name for name in schema.names if str(schema[name].type) in _MOMENTS]
    if asked is not None:
        if asked not in schema:
            raise PlanError(f"topic {topic} has no column {asked!r}", where="--time", fix=near(asked, moments))
        if asked not in moments:
            raise PlanError(f"column {asked!r} is a {schema[asked].type}", where="--time", fix="name a TIMESTAMP_LTZ(3), or a BIGINT of ms")
        return asked
    found = [name for name in moments if str(schema[name].type) != "BIGINT"] or [name for name in moments if name == "time"]
    if len(found) != 1:
        what = "no column is known to be the time of an alarm" if not found else f"columns {', '.join(found)} are times"
        raise PlanError(what, where=f"topic {topic}", fix=f"name it: --time, one of {', '.join(moments)}" if moments else "add a column with it")
    return found[0]


def read_topics(plan: Plan, topics: Iterable[AlarmTopic]) -> tuple[list[str], list[str]]:
    """Return the topics whose records are judged by these outputs, and those that a history may lack: commands and other side inputs.

    The history is as long as the records that are judged. Definitions and limits, which come by a broadcast, belong to neither.
    """
    sinks = [one for one in plan.sinks if one.operator.topic in {given.topic for given in topics}]
    judged = _sources(sinks, lambda given: given.role != "broadcast" and not _is_aside(given))
    needed = _sources([*plan.sinks], lambda given: not _is_aside(given))
    every = [source.topic for source in plan.sources]
    return [topic for topic in every if topic in judged], [topic for topic in every if topic not in needed]


def _is_aside(given: Input) -> bool:
    """Whether an input is a topic of its own beside the records that are judged, such as commands. Conditions that rules find are not."""
    return given.role.startswith("input.") and not given.node.inputs


def _sources(nodes: Iterable[Node[Any]], takes: Callable[[Input], bool]) -> set[str]:
    """Return the topics of the sources upstream of nodes, through inputs that `takes` accepts."""
    found, open_nodes, seen = set[str](), [*nodes], set[Node[Any]]()
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if not node.inputs:
            found.add(node.operator.topic)
        open_nodes += [given.node for given in node.inputs if takes(given)]
    return found
