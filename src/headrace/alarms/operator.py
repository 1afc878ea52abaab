"""`hr.alarm`: the alarms of a stream of readings, as streams of transitions, current states and what else is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headrace.alarms.cause import Causes, FixedCauses, SharedCauses
from headrace.alarms.definition import definition_of
from headrace.alarms.process import ClockedFixedAlarms, ClockedSharedAlarms, Evidence, FirstOut, FixedAlarms, Flood, SharedAlarms, TagAlarms, fixed
from headrace.alarms.tag import TRANSITION
from headrace.errors import PlanError, near
from headrace.plan.inputs import input as input_of
from headrace.plan.stream import ProcessedStream, Stream
from headrace.plan.stream import stream as stream_of

__all__ = [
    "COMMAND_SCHEMA",
    "CONDITION_SCHEMA",
    "DEFINITION_SCHEMA",
    "Alarms",
    "alarm",
    "alarm_causes",
    "alarm_commands",
    "alarm_conditions",
    "alarm_definitions",
    "alarm_first_out",
    "alarm_floods",
    "alarm_transitions",
    "check_columns",
]

DEFINITION_SCHEMA = {
    "definition": "STRING NOT NULL", "tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "withdrawn": "BOOLEAN", "kind": "STRING", "limit": "DOUBLE",
    "deadband": "DOUBLE", "on_delay": "DOUBLE", "off_delay": "DOUBLE", "k": "BIGINT", "n": "BIGINT", "setpoint": "DOUBLE", "expected": "DOUBLE",
    "after": "DOUBLE", "latching": "BOOLEAN", "priority": "BIGINT", "escalate_after": "DOUBLE", "escalate_to": "BIGINT", "asset": "STRING",
    "class": "STRING", "consequence": "STRING", "action": "STRING", "time_to_respond": "DOUBLE", "attack": "ARRAY<STRING>",
    "attack_version": "STRING", "ne107": "STRING", "caused_by": "ARRAY<STRING>", "caused_within": "DOUBLE",
    "suppress_when": "STRING",
}  # fmt: skip
COMMAND_SCHEMA = {
    "tag": "STRING NOT NULL", "definition": "STRING", "time": "BIGINT NOT NULL", "command": "STRING", "by": "STRING", "reason": "STRING",
    "sequence": "BIGINT", "until": "BIGINT", "one_shot": "BOOLEAN",
}  # fmt: skip
CONDITION_SCHEMA = {
    "tag": "STRING NOT NULL", "definition": "STRING", "time": "BIGINT NOT NULL", "active": "BOOLEAN", "value": "DOUBLE",
}  # fmt: skip
_EVENT_TIME = "TO_TIMESTAMP_LTZ(time, 3)"
_PLACE = {"partition": "BIGINT", "offset": "BIGINT"}


def alarm_definitions(topic: str = "alarm-definitions") -> Stream:
    """Return the stream of a topic of definitions, for `hr.alarm`."""
    return stream_of(topic, schema=DEFINITION_SCHEMA, event_time=_EVENT_TIME)


def alarm_commands(topic: str = "alarm-commands") -> Stream:
    """Return the stream of a topic of operators' commands, for `hr.alarm`."""
    return stream_of(topic, schema=COMMAND_SCHEMA, event_time=_EVENT_TIME)


def alarm_conditions(topic: str = "alarm-conditions", *, evidence: bool = False) -> Stream:
    """Return the stream of a topic of conditions that rules have found, for `hr.alarm`; with `evidence`, with the place of each record."""
    place = {name: name for name in _PLACE} if evidence else None
    return stream_of(topic, schema=CONDITION_SCHEMA, event_time=_EVENT_TIME, metadata=place)


def alarm_transitions(topic: str = "alarms") -> Stream:
    """Return the stream of a topic of transitions, which `hr.alarm` has written, for `hr.alarm_floods`, `hr.alarm_first_out` and `hr.alarm_causes`."""
    return stream_of(topic, schema={"tag": "STRING NOT NULL", **TRANSITION}, event_time=_EVENT_TIME)


@dataclass(frozen=True)
class Alarms:
    """The streams of alarms.

    Attributes
    ----------
    transitions
        A row for each transition of an alarm and each command that was refused.
    current
        The state of an alarm whenever it has changed; the last row of each `alarm_id` counts.
    journal
        The transitions that did not happen because the alarm was set aside.
    nuisances
        Alarms that chatter, occurrences that are stale, and conditions of alarms that have no definition.
    older
        Readings that were older than the last of their tag, and changed nothing; with their number so far.
    """

    transitions: ProcessedStream
    current: Stream
    journal: Stream
    nuisances: Stream
    older: Stream

    def topics(self, name: str = "alarms") -> dict[str, Stream]:
        """Return the streams by topics, as a pipeline returns them: `alarms`, `alarms.current`, and so on."""
        others = {part: getattr(self, part) for part in ("current", "journal", "nuisances", "older")}
        return {name: self.transitions, **{f"{name}.{part}": stream for part, stream in others.items()}}


def alarm(  # noqa: PLR0913
    readings: Stream,
    definitions: Stream | Iterable[Mapping[str, Any]],
    commands: Stream,
    conditions: Stream | None = None,
    *,
    order: Literal["arrival", "event_time"] = "arrival",
    clock: bool = True,
    evidence: bool = False,
    refused_to: str = "alarm-definitions.refused",
    name: str = "alarms",
) -> Alarms:
    """Return the alarms of a stream of readings, after ISA-18.2.

    Parameters
    ----------
    readings
        Readings in the canonical form: `tag`, `value` (DOUBLE) and, if there is one, `quality` (an OPC UA StatusCode).
    definitions
        The alarms: tables with the attributes of a definition, or a stream of them (`hr.alarm_definitions()`), which changes them while the
        pipeline runs.
    commands
        Commands of operators (`hr.alarm_commands()`).
    conditions
        The conditions of custom alarms as rules have found them (`hr.alarm_conditions()`).
    order
        `arrival`: an alarm is raised when its reading arrives. `event_time`: a watermark later, with results that depend on event times alone,
        so that they are the same on every engine however topics and partitions interleave.
    clock
        Whether delays, silence and the ends of shelves go by the wall clock in live runs; if not, they go by event time alone.
        Spark's streams need `clock=False`.
    evidence
        Whether transitions have a column `evidence`, which names the records that raised or cleared the alarm. The readings then have columns
        `partition` and `offset`: `hr.stream(…, metadata={"partition": "partition", "offset": "offset"})`. Readings of several topics also have
        a column `topic`. Custom alarms have evidence if the conditions have these columns (`hr.alarm_conditions(evidence=True)`).
    refused_to
        The topic for definitions that are refused, with the reason.
    name
        The process's name in errors, metrics and state.

    Raises
    ------
    PlanError
        If a stream lacks a column, or a definition contradicts itself or another one.
    """
    check_columns(readings, {"tag": "STRING", "value": "DOUBLE"}, "alarm readings")
    check_columns(commands, COMMAND_SCHEMA, "alarm commands")
    others = {"command": input_of(commands, late="take", holds=False)}
    if conditions is not None:
        check_columns(conditions, CONDITION_SCHEMA, "alarm conditions")
        others["condition"] = input_of(conditions, late="take", holds=False)
    told, failed_to = None, None
    code: TagAlarms
    if isinstance(definitions, Stream):
        check_columns(definitions, DEFINITION_SCHEMA, "alarm definitions")
        told, failed_to = definitions, refused_to
        code = ClockedSharedAlarms() if clock else SharedAlarms()
    else:
        given = [definition_of(one) for one in definitions]
        code = ClockedFixedAlarms(given) if clock else FixedAlarms(given)
    if evidence:
        code.with_evidence(_evidence(readings, conditions))
    made = readings.process(code, by=["tag"], order=order, broadcast=told, inputs=others, failed_to=failed_to, name=name)
    sides = {part: made.side(part) for part in ("current", "journal", "nuisances", "older")}
    return Alarms(made, **sides)


def _evidence(readings: Stream, conditions: Stream | None) -> Evidence:
    """Return the topics that evidence names. Raises PlanError if the readings do not say where they are."""
    for name in _PLACE:
        if name not in readings.schema:
            fix = 'write hr.stream(…, metadata={"partition": "partition", "offset": "offset"})'
            raise PlanError(f"there is no column {name!r}, and evidence needs it", where="alarm readings", fix=fix)
    check_columns(readings, _PLACE, "alarm readings")
    topics = sorted(readings.node.traits.topics)
    if len(topics) > 1 and "topic" not in readings.schema:
        what = f"the readings come from {', '.join(topics)}, and do not say from which"
        raise PlanError(what, where="alarm readings", fix=f"add derive(topic=\"'{topics[0]}'\") to each stream before union()")
    if len(topics) > 1:
        check_columns(readings, {"topic": "STRING"}, "alarm readings")
    if conditions is not None and conditions.schema.names[-2:] == (*_PLACE,):
        check_columns(conditions, _PLACE, "alarm conditions")
    theirs = [] if conditions is None else sorted(conditions.node.traits.topics)
    return Evidence(topics[0] if len(topics) == 1 else None, theirs[0] if len(theirs) == 1 else None)


def alarm_floods(transitions: Stream) -> Stream:
    """Return the begins and ends of floods of alarms: from more than 10 raises in 10 minutes until fewer than 5 in 10 minutes.

    Parameters
    ----------
    transitions
        The stream of a topic of transitions (`hr.alarm_transitions()`). Suppressed raises are not in it.
    """
    check_columns(transitions, {"event": "STRING", "time": "BIGINT"}, "alarm transitions")
    raised = transitions.where("event = 'raise'").select("time", plant="'plant'")
    return raised.process(Flood, by=["plant"], order="arrival", name="floods").select("flood", "time", "raises")


def alarm_first_out(transitions: Stream, *, by: Sequence[str] = ("asset",), name: str = "first_out") -> Stream:
    """Return which alarm of each group came first since all of them were normal, and which followed, in the order of the topic.

    An alarm that is set aside counts as normal.

    Parameters
    ----------
    transitions
        The stream of a topic of transitions (`hr.alarm_transitions()`).
    by
        The columns that a group is made of.
    name
        The process's name in errors, metrics and state.
    """
    check_columns(transitions, {"alarm_id": "STRING", "to": "STRING", "time": "BIGINT", "sequence": "BIGINT"}, "alarm transitions")
    return transitions.process(FirstOut, by=by, order="arrival", name=name)


def alarm_causes(transitions: Stream, definitions: Stream | Iterable[Mapping[str, Any]], *, name: str = "causes") -> Stream:
    """Return which alarms are consequences of which: alarms are grouped by cause, as `caused_by` of their definitions says.

    Parameters
    ----------
    transitions
        The transitions of `hr.alarm`, or the stream of their topic (`hr.alarm_transitions()`).
    definitions
        The same as `hr.alarm` has: tables, or a stream of them (`hr.alarm_definitions()`).
    name
        The process's name in errors, metrics and state.

    Raises
    ------
    PlanError
        If a stream lacks a column, or a definition contradicts itself or another one.
    """
    columns = {"alarm_id": "STRING", "to": "STRING", "time": "BIGINT", "sequence": "BIGINT"}
    check_columns(transitions, columns, "alarm transitions")
    code: Causes
    told = None
    if isinstance(definitions, Stream):
        check_columns(definitions, DEFINITION_SCHEMA, "alarm definitions")
        code, told = SharedCauses(), definitions
    else:
        code = FixedCauses(fixed([definition_of(one) for one in definitions]))
    every = transitions.select(*columns, plant="'plant'")
    return every.process(code, by=["plant"], order="arrival", broadcast=told, name=name).select(*code.output)


def check_columns(stream: object, columns: Mapping[str, str], where: str) -> None:
    """Raise PlanError unless a stream has these columns."""
    if not isinstance(stream, Stream):
        raise PlanError(f"{stream!r} is not a stream", where=where, fix="write hr.stream(topic, schema=…, event_time=…)")
    for name, wanted in columns.items():
        if name not in stream.schema:
            raise PlanError(f"there is no column {name!r}", where=where, fix=near(name, stream.schema.names))
        if (kind := str(stream.schema[name].type)) != wanted.removesuffix(" NOT NULL"):
            raise PlanError(f"column {name!r} is a {kind}, and must be a {wanted.removesuffix(' NOT NULL')}", where=where)
