"""`hr.rules`: rules over the parameters of each equipment, as data that changes while a pipeline runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.alarms.definition import definition_of
from headrace.alarms.operator import DEFINITION_SCHEMA, check_columns
from headrace.alarms.rule_definition import ALARM, alarm_suppression, rule_of
from headrace.alarms.rule_process import ClockedFixedRules, ClockedSharedRules, EquipmentRules, FixedRules, SharedRules
from headrace.errors import PlanError
from headrace.plan.stream import Stream
from headrace.plan.stream import stream as stream_of

__all__ = ["RULE_SCHEMA", "Rules", "rule_definitions", "rules"]

RULE_SCHEMA = {
    "kind": "STRING", "name": "STRING NOT NULL", "equipment": "STRING", "time": "BIGINT NOT NULL", "withdrawn": "BOOLEAN", "formula": "STRING",
    "when": "STRING", "for": "DOUBLE", "value": "STRING", "alarms": "ARRAY<STRING>",
}  # fmt: skip


# As `Definition.equipment` has it.
_EQUIPMENT = "CASE WHEN asset <> '' THEN asset WHEN kind = 'custom' OR tag NOT LIKE '_%/%' THEN tag ELSE REGEXP_EXTRACT(tag, '^(.*)/', 1) END"


def rule_definitions(topic: str = "rule-definitions") -> Stream:
    """Return the stream of a topic of definitions of rules, for `hr.rules`."""
    return stream_of(topic, schema=RULE_SCHEMA, event_time="TO_TIMESTAMP_LTZ(time, 3)")


@dataclass(frozen=True)
class Rules:
    """The streams of rules.

    Attributes
    ----------
    conditions
        A row whenever the condition of a rule becomes active or inactive, for the custom alarms of `hr.alarm`.
    commands
        The commands by which alarms are suppressed and unsuppressed, for `hr.alarm`.
    states
        A row whenever an equipment enters a run state.
    unknown
        A row whenever a condition becomes unknown, with the parameters that are missing, and when it is known again.
    older
        Readings that were older than the last of their parameter, and changed nothing.
    """

    conditions: Stream
    commands: Stream
    states: Stream
    unknown: Stream
    older: Stream

    def topics(self, name: str = "rules", *, conditions: str = "alarm-conditions", commands: str = "alarm-commands") -> dict[str, Stream]:
        """Return the streams by topics, as a pipeline returns them: those that `hr.alarm` reads, and `rules.states` and so on."""
        others = {f"{name}.{part}": getattr(self, part) for part in ("states", "unknown", "older")}
        return {conditions: self.conditions, commands: self.commands, **others}


def rules(
    readings: Stream,
    definitions: Stream | Iterable[Mapping[str, Any]],
    *,
    alarms: Stream | Iterable[Mapping[str, Any]] | None = None,
    order: Literal["arrival", "event_time"] = "arrival",
    clock: bool = True,
    refused_to: str = "rule-definitions.refused",
    name: str = "rules",
) -> Rules:
    """Return what rules find in the readings of each equipment: conditions for alarms, run states, and alarms to be suppressed.

    Parameters
    ----------
    readings
        Readings with the columns `equipment`, `parameter`, `value` (DOUBLE) and, if there is one, `quality` (an OPC UA StatusCode).
    definitions
        The rules: tables with the settings of a definition, or a stream of them (`hr.rule_definitions()`), which changes them while the
        pipeline runs.
    alarms
        The definitions of alarms as `hr.alarm` has them: an alarm is suppressed while the `suppress_when` of its definition holds. Tables where
        the rules are tables, and a stream where those are one.
    order
        `arrival`: a reading takes effect when it arrives. `event_time`: a watermark later, with results that depend on event times alone.
    clock
        Whether durations go on by the wall clock in live runs when readings stop; if not, they go by event time alone.
        Spark's streams need `clock=False`.
    refused_to
        The topic for definitions that are refused, with the reason.
    name
        The process's name in errors, metrics and state.

    Raises
    ------
    PlanError
        If a stream lacks a column, a definition is wrong, or definitions contradict each other.
    """
    check_columns(readings, {"equipment": "STRING", "parameter": "STRING", "value": "DOUBLE"}, "rules readings")
    broadcast, failed_to = None, None
    code: EquipmentRules
    if alarms is not None and isinstance(definitions, Stream) != isinstance(alarms, Stream):
        raise PlanError("the definitions of rules and of alarms are tables, or streams", where="rules", fix="give both in one form")
    if isinstance(definitions, Stream):
        check_columns(definitions, RULE_SCHEMA, "rules definitions")
        if isinstance(alarms, Stream):
            definitions = _joined(definitions, alarms)
        broadcast, failed_to = definitions, refused_to
        code = ClockedSharedRules() if clock else SharedRules()
    else:
        fixed = [rule_of(one) for one in definitions]
        suppressed = [] if alarms is None or isinstance(alarms, Stream) else [definition_of(one) for one in alarms]
        fixed += [alarm_suppression(one.alarm_id, one.equipment, one.suppress_when) for one in suppressed if one.suppress_when is not None]
        code = ClockedFixedRules(fixed) if clock else FixedRules(fixed)
    made = readings.process(code, by=["equipment"], order=order, broadcast=broadcast, failed_to=failed_to, name=name)
    commands = made.side("commands").select("tag", "definition", "time", "command", "by", "reason")
    conditions = made.select("definition", "time", "arrived", "active", "value", "version", tag="equipment")
    return Rules(conditions, commands, **{part: made.side(part) for part in ("states", "unknown", "older")})


def _joined(definitions: Stream, alarms: Stream) -> Stream:
    """Return the definitions of rules, and those of alarms as rows of the same columns."""
    check_columns(alarms, DEFINITION_SCHEMA, "rules alarms")
    columns = {
        "kind": f"'{ALARM}'", "name": "CONCAT(tag, '/', definition)", "equipment": _EQUIPMENT, "time": "time", "withdrawn": "withdrawn",
        "formula": "CAST(NULL AS STRING)", "when": "suppress_when", "for": "CAST(NULL AS DOUBLE)", "value": "CAST(NULL AS STRING)",
        "alarms": "caused_by",  # any of its type: that of an alarm is the alarm itself
    }  # fmt: skip
    return definitions.select(*RULE_SCHEMA).union(alarms.select(**columns))
