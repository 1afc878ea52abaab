"""Why an alarm was raised, from what a log retains: its transitions, its definition, the readings and the commands.

The readings are computed again by the code of the pipeline, so they are shown as the alarms were given them. Nothing is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import polars as pl

from headrace._json import json_object
from headrace.alarms.definition import SETTINGS, definition_of, definitions_of, encoded
from headrace.alarms.hosting import version_of
from headrace.alarms.process import FixedAlarms
from headrace.engines.embedded.output import encode_rows
from headrace.engines.embedded.replaying import Replay, RunRecord, given_to
from headrace.errors import DataError, HeadraceError, PlanError, near
from headrace.plan.graph import Node
from headrace.plan.operators import Process
from headrace.plan.pipeline import Plan
from headrace.topics.entries import entries_of
from headrace.topics.protocol import Entry, Log

__all__ = ["Explanation", "Occurrence", "Reading", "explanation_of", "occurrence_of", "replayed"]

_ENOUGH = 8  # readings before a raise, beyond which none are looked for
_LOOK_BACK_MS = (600_000, 6 * 3_600_000)


_Moment = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000)]  # ms since the epoch, before the year 10000


class _Evidence(msgspec.Struct):
    topic: str | None
    records: list[tuple[Annotated[int, msgspec.Meta(ge=0)] | None, int | None]]


class _Transition(msgspec.Struct):
    """The columns that a row of transitions has at least; a row may have more."""

    alarm_id: str
    event_id: str
    event: str
    before: str = msgspec.field(name="from")
    to: str
    time: _Moment
    arrived: _Moment
    sequence: int | None
    transition: int | None
    version: str | None
    tag: str
    by: str | None = None
    reason: str | None = None
    value: float | None = None
    evidence: _Evidence | None = None


@dataclass(frozen=True)
class Occurrence:
    """An occurrence of an alarm.

    Attributes
    ----------
    alarm, tag, definition
        The alarm's id, and the two parts of it.
    sequence
        The number of the occurrence.
    rows
        Its transitions; the first one began it.
    entries
        The records of all transitions of the alarm, up to the last one of the occurrence.
    """

    alarm: str
    tag: str
    definition: str
    sequence: int
    rows: Sequence[dict[str, Any]]
    entries: Sequence[Entry]

    @property
    def raised(self) -> dict[str, Any]:
        """The transition that began it."""
        return self.rows[0]


@dataclass(frozen=True)
class Reading:
    """A reading of an alarm's tag.

    Attributes
    ----------
    topic, partition, offset
        Where its record is; None for a row that a window or a process derived.
    time, arrived
        In ms since the epoch.
    before
        Whether the alarms were given it up to the raise.
    event
        What it did to the alarm: `raise`, `clear`, or None.
    evidence
        Whether a transition names its record as evidence.
    """

    topic: str | None
    partition: int | None
    offset: int | None
    time: int
    arrived: int | None
    value: float | None
    quality: int | None
    before: bool
    event: str | None
    evidence: bool


@dataclass(frozen=True)
class Explanation:
    """Why an alarm was raised.

    Attributes
    ----------
    occurrence
        The occurrence that is explained.
    definition
        The settings of its definition, with `version`, and where it was found (`from`).
    readings
        Those of the tag from before the raise to the end of the occurrence, in the order of arrival.
    commands, conditions
        The records of commands, and of the conditions of a custom alarm, from the raise to the end, with `topic`, `partition` and `offset`.
    causes
        The rows of `hr.alarm_causes` that put the occurrence under an alarm, or another alarm under it.
    """

    occurrence: Occurrence
    definition: dict[str, Any]
    readings: Sequence[Reading]
    commands: Sequence[dict[str, Any]]
    conditions: Sequence[dict[str, Any]]
    causes: Sequence[dict[str, Any]] = ()

    @property
    def state_before(self) -> str:
        """The state before the raise."""
        return str(self.occurrence.raised["from"])

    @property
    def state_after(self) -> str:
        """The state after the last transition that was not refused."""
        rows = self.occurrence.rows
        return str(next((row["to"] for row in reversed(rows) if row["to"] != "refused"), rows[-1]["from"]))

    def as_table(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "alarm_id": self.occurrence.alarm,
            "event_id": self.occurrence.raised["event_id"],
            "sequence": self.occurrence.sequence,
            "state_before": self.state_before,
            "state_after": self.state_after,
            "definition": self.definition,
            "transitions": [*self.occurrence.rows],
            "readings": [msgspec.to_builtins(one) for one in self.readings],
            "commands": [*self.commands],
            "conditions": [*self.conditions],
            "causes": [*self.causes],
        }


# the occurrence


def occurrence_of(log: Log, topic: str, alarm: str, sequence: int | None = None) -> Occurrence:
    """Return an occurrence of an alarm.

    Parameters
    ----------
    topic
        The topic of transitions.
    alarm
        The alarm's id, or the event_id of an occurrence.
    sequence
        The number of the occurrence; by default the last one.

    Raises
    ------
    PlanError
        If there is none.
    DataError
        If a record of the topic is not a transition.
    """
    known: set[str] = set()
    mine: list[tuple[Entry, dict[str, Any]]] = []
    of_event: dict[str, Any] | None = None
    for entry, row in _transitions(log, topic):
        known.add(row["alarm_id"])
        if row["alarm_id"] == alarm:
            mine.append((entry, row))
        elif row["event_id"] == alarm:
            of_event = row
    if not mine and of_event is None:
        fix = near(alarm, known) if known else f"topic {topic} is empty: has the pipeline of alarms run?"
        raise PlanError(f"no alarm {alarm!r} has had a transition", where=f"topic {topic}", fix=fix)
    if not mine and of_event is not None:
        if sequence is not None:
            raise PlanError("an event_id names an occurrence by itself", where="--sequence", fix="leave it out")
        return occurrence_of(log, topic, of_event["alarm_id"], of_event["sequence"])
    mine = _last_generation(mine)
    there = sorted({row["sequence"] for _, row in mine if row["sequence"]})
    chosen: int | None = there[-1] if sequence is None and there else sequence
    if chosen is None or chosen not in there:
        what = f"alarm {alarm} has no occurrence {chosen}" if there else f"alarm {alarm} has never been raised"
        raise PlanError(what, where=f"topic {topic}", fix=f"there is: {', '.join(map(str, there[-20:]))}" if there else "see headrace alarms show")
    last = max(place for place, (_, row) in enumerate(mine) if row["sequence"] == chosen)
    rows = [row for _, row in mine if row["sequence"] == chosen]
    tag, _, definition = alarm.rpartition("/")
    return Occurrence(alarm, tag, definition, chosen, rows, [entry for entry, _ in mine[: last + 1]])


def _last_generation(rows: list[tuple[Entry, dict[str, Any]]]) -> list[tuple[Entry, dict[str, Any]]]:
    """Return the rows since the pipeline was last begun anew: then transitions are numbered from 1 again."""
    kept: list[tuple[Entry, dict[str, Any]]] = []
    number = 0
    for entry, row in rows:
        if row["transition"] is not None:
            if row["transition"] <= number:
                kept.clear()
            number = row["transition"]
        kept.append((entry, row))
    return kept


def _transitions(log: Log, topic: str) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Yield the rows of a topic of transitions. Raises DataError at a record that is not a transition."""
    for entry in entries_of(log, topic):
        row = json_object(entry.value) or {}
        try:
            msgspec.convert(row, _Transition)
        except msgspec.ValidationError as error:
            where = f"topic {topic}/{entry.partition} offset {entry.offset}"
            what = f"is no transition of an alarm{f': {error}' if row else ''}"
            raise DataError(what, where=where, fix="name the topic with --topic") from None
        yield entry, row


# its explanation


def explanation_of(log: Log, plan: Plan, process: Node[Process], asked: Occurrence) -> Explanation:
    """Return why an alarm was raised, from what the log retains.

    Parameters
    ----------
    plan, process
        The pipeline that has written the transitions, and its process of alarms.
    asked
        The occurrence.
    """
    definition, readings = _definition(log, process, asked), _readings(log, plan, process, asked)
    commands, conditions = (_records(log, process, asked, name) for name in ("command", "condition"))
    return Explanation(asked, definition, readings, commands, conditions, _causes(log, asked))


def _causes(log: Log, asked: Occurrence) -> list[dict[str, Any]]:
    """Return the rows of the topic of causes that name an occurrence as a consequence or as a cause; none if no pipeline groups alarms."""
    rows = (json_object(entry.value) or {} for entry in entries_of(log, f"{asked.entries[-1].topic}.causes", missing_ok=True))
    mine = (asked.alarm, asked.sequence)
    return [row for row in rows if mine in {(row.get("alarm_id"), row.get("sequence")), (row.get("cause"), row.get("cause_sequence"))}]


def _topics_of(node: Node[Any] | None) -> list[str]:
    """Return the topics that the rows of a node come from."""
    return [] if node is None else sorted(node.traits.topics)


def _definition(log: Log, process: Node[Process], asked: Occurrence) -> dict[str, Any]:
    """Return the definition by which the alarm was raised, its version, and where it stands."""
    version = asked.raised["version"]
    code = process.operator.code
    if isinstance(code, FixedAlarms):
        texts = code.definitions.get(asked.tag, ())
        found = {name: one for name, one in definitions_of(tuple(texts)) if one.definition == asked.definition}
        if version in found:
            return {"version": version, "from": "the pipeline", **msgspec.json.decode(encoded(found[version]))}
        return {"version": version, "from": f"the pipeline, which has changed since: it now has version {', '.join(found) or 'none'}"}
    for topic in _topics_of(process.broadcast):
        for entry in entries_of(log, topic):
            row = json_object(entry.value) or {}
            if (row.get("tag"), row.get("definition")) != (asked.tag, asked.definition) or row.get("withdrawn"):
                continue
            try:
                text = encoded(definition_of({name: row[name] for name in SETTINGS if name in row}))
            except HeadraceError:
                continue  # it was refused
            if version_of(text) == version:
                return {"version": version, "from": f"{topic}/{entry.partition} offset {entry.offset}", **msgspec.json.decode(text)}
    return {"version": version, "from": "no record that is retained"}


def _readings(log: Log, plan: Plan, process: Node[Process], asked: Occurrence) -> list[Reading]:
    """Return the readings of the tag from before the raise to the end of the occurrence, in the order of arrival."""
    topics = [topic for topic in _topics_of(process.input) if topic in {source.topic for source in plan.sources}]
    named = {
        (one["evidence"]["topic"], *place) for one in asked.rows if one.get("evidence") for place in one["evidence"]["records"] if None not in place
    }
    by, raised, last = _axis(process), asked.raised, asked.rows[-1]
    rows: list[dict[str, Any]] = []
    for back in (*_LOOK_BACK_MS, None) if by == "arrived" else (None,):
        begins = {topic: log.offsets_at(topic, 0 if back is None else raised["arrived"] - back) for topic in topics}
        for topic, partition, offset in named:
            if topic in begins and partition < len(begins[topic]):  # the pipeline may name other topics, and a topic may have been made anew
                begins[topic][partition] = min(begins[topic][partition], offset)
        parts = {topic: log.topic(topic).partitions for topic in topics}
        ends = {t: log.offsets_at(t, last["arrived"] + 1) if by == "arrived" else [part.end for part in parts[t]] for t in topics}
        rows = given_to(plan, process.operator.name, log, begins, ends, pl.col("tag") == asked.tag)
        rows = [{**row, "before": max(row["@time"] - raised["time"], row[f"@{by}"] - raised[by]) <= 0} for row in rows if row[f"@{by}"] <= last[by]]
        if sum(row["before"] for row in rows) >= _ENOUGH:
            break
    events = _events(rows, asked.rows, by)
    return [
        Reading(
            topic=row["@topic"],
            partition=row["@partition"],
            offset=row["@offset"],
            time=row["@time"],
            arrived=row["@arrived"],
            value=row["value"],
            quality=row.get("quality"),
            before=row["before"],
            event=events.get(place),
            evidence=(row["@topic"], row["@partition"], row["@offset"]) in named,
        )
        for place, row in enumerate(rows)
    ]


def _events(readings: Sequence[dict[str, Any]], transitions: Sequence[dict[str, Any]], by: str) -> dict[int, str]:
    """Return what each reading that moved the alarm did, by its place. Of several at one time it is the one with the transition's value."""
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, row in enumerate(readings):
        places[row["@time"], row[f"@{by}"]].append(place)
    events: dict[int, str] = {}
    for one in transitions:
        if one["event"] in {"raise", "clear"} and (at := places.get((one["time"], one[by]))):
            events.setdefault(next((place for place in at if readings[place]["value"] == one["value"]), at[-1]), one["event"])
    return events


def _axis(process: Node[Process]) -> str:
    """Return the column of a transition that says how far the alarm had read: in event-time order it is the time, and all records are read."""
    return "arrived" if process.operator.arrival else "time"


def _records(log: Log, process: Node[Process], asked: Occurrence, name: str) -> list[dict[str, Any]]:
    """Return the records of an input that concern the alarm, from its raise to the end of the occurrence."""
    node = next((given for given, one in process.others if one.name == name), None)
    by, found = _axis(process), []
    for topic in _topics_of(node):
        for entry in entries_of(log, topic, dict(enumerate(log.offsets_at(topic, asked.raised["arrived"] if by == "arrived" else 0)))):
            row = json_object(entry.value) or {}
            if (row.get("tag"), row.get("definition")) != (asked.tag, asked.definition):
                continue
            record = {"topic": topic, "partition": entry.partition, "offset": entry.offset, **row, "arrived": entry.arrived_ms}
            if isinstance(at := record.get(by), int) and asked.raised[by] <= at <= asked.rows[-1][by]:
                found.append(record)
    return found


# its replay


def replayed(log: Log, plan: Plan, topic: str, asked: Occurrence, record: RunRecord, mode: Literal["live", "latest"]) -> list[bytes]:
    """Return the rows of an alarm that a replay gives, as lines, as many as the log has."""
    found: list[bytes] = []

    def take(rows: pl.DataFrame) -> None:
        if len(mine := rows.filter(pl.col("alarm_id") == asked.alarm)):
            found.extend(encode_rows(mine)[:-1].split(b"\n"))

    Replay(plan, log, topic, record, take, mode).run(lambda: len(found) >= len(asked.entries))
    return found[: len(asked.entries)]
