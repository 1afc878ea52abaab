"""`headrace explain` and `headrace replay`: why an alarm was raised, and its transitions computed once more from the log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from headrace._durable import put, write_fault
from headrace.alarms.definition import SETTINGS, definition_of, definitions_of, encoded
from headrace.alarms.process import FixedAlarms
from headrace.backtest.figures import iso
from headrace.backtest.topics import alarm_process
from headrace.cli.apps import plan_of, settings_file
from headrace.cli.logs import KafkaOptions, asked_cluster, open_log
from headrace.cli.paths import OutputPath
from headrace.cli.tables import counted, print_json, print_table, printable
from headrace.errors import DataError, HeadraceError, PlanError, near
from headrace.plan.graph import Node
from headrace.plan.operators import Process
from headrace.plan.pipeline import Plan
from headrace.plant.quality import is_bad, is_good
from headrace.topics.protocol import Entry, Log

__all__ = ["explain", "replay"]

_App = Annotated[str | None, Parameter(name="--app")]
_Settings = Annotated[list[str] | None, Parameter(name="--set", negative=())]
_PIECE = 10_000
_READINGS = 8  # shown before a raise, and after it
_LOOK_BACK_MS = (600_000, 6 * 3_600_000)
_COLUMNS = frozenset({"alarm_id", "event_id", "event", "from", "to", "time", "arrived", "sequence", "transition", "version", "tag"})


class Unlike(HeadraceError):
    """A replay gives other transitions than the log has."""

    exit_status = 1


def explain(
    alarm: str,
    /,
    *,
    sequence: int | None = None,
    app: _App = None,
    set: _Settings = None,
    topic: str = "alarms",
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    html: OutputPath | None = None,
    kafka: KafkaOptions = KafkaOptions(),
) -> None:
    """Show why an alarm was raised: its definition, the readings with their offsets, the states before and after, and the commands.

    Parameters
    ----------
    alarm
        Its id, TAG/DEFINITION; or the event_id of an occurrence.
    sequence
        The number of the occurrence; by default the last one.
    app
        The pipeline that has written the topic: a shipped one, file.py[:name], or module:name; by default that of the plant file.
    set
        KEY=VALUE for a setting of the pipeline.
    topic
        The topic of transitions.
    json
        A JSON object.
    html
        A file for the same as a page, with the trend of the tag.
    """
    plan, process = _pipeline(app, set or [], topic)
    with closing(open_log(kafka, create=False)) as log:
        asked = _ask(log, topic, alarm, sequence)
        found = {
            "alarm_id": asked.alarm,
            "event_id": asked.rows[0]["event_id"],
            "sequence": asked.sequence,
            "state_before": asked.rows[0]["from"],
            "state_after": [row["to"] for row in asked.rows if row["to"] != "refused"][-1],
            "definition": _definition(log, process, asked),
            "transitions": asked.rows,
            "readings": _readings(log, plan, process, asked),
            "commands": _commands(log, process, asked),
        }
    if html is not None:
        from headrace.cli.explain_page import explain_page

        try:
            put(html, explain_page(found).encode())
        except OSError as error:
            raise write_fault(html, error) from None
    if json:
        print_json([found])
    else:
        _print_explained(asked, found)


def replay(
    alarm: str,
    /,
    *,
    sequence: int | None = None,
    app: _App = None,
    set: _Settings = None,
    topic: str = "alarms",
    kafka: KafkaOptions = KafkaOptions(),
) -> None:
    """Compute an alarm's transitions once more from the log, with the pipeline's code, and compare them with those that were written.

    The exit status is 1 if they differ, or if records that are needed have expired. Nothing is written.

    Parameters
    ----------
    alarm
        Its id, TAG/DEFINITION; or the event_id of an occurrence.
    sequence
        The number of the occurrence up to which it is replayed; by default the last one.
    app
        The pipeline that has written the topic: a shipped one, file.py[:name], or module:name; by default that of the plant file.
    set
        KEY=VALUE for a setting of the pipeline.
    topic
        The topic of transitions.
    """
    from headrace.engines.embedded.replaying import steps_of

    plan, _ = _pipeline(app, set or [], topic)
    if asked_cluster(kafka) is not None:
        what = "topics of Kafka have no common order in which they could be replayed"
        raise PlanError(what, where="replay", fix="use headrace explain, which works on Kafka too")
    with closing(open_log(kafka, create=False)) as log:
        asked = _ask(log, topic, alarm, sequence)
        steps = steps_of(log, plan.pipeline)
        _check_retained(log, plan, dict(zip(_partitions(log, plan), steps[0].offsets, strict=True)) if steps and steps[0].begins else {})
        expected = [entry.value for entry in asked.entries]
        found: list[bytes] = []
        for mode in ("live", "latest"):
            found = _replayed(log, plan, topic, asked, mode)
            if found == expected:
                break
        notes = _changes(log, plan, steps)
    name = f"alarm {asked.alarm}, occurrence {asked.sequence}"
    if found == expected:
        print(f"{name}: reproduced. {counted(len(expected), 'transition')} of the alarm, from its first to this occurrence, identical to the byte.")
        return
    place = next((n for n, (was, now) in enumerate(zip(expected, found, strict=False)) if was != now), min(len(expected), len(found)))
    was, now = (lines[place].decode() if place < len(lines) else "nothing" for lines in (expected, found))
    why = "; ".join(notes) or "the pipeline is as it was at its last commit; was the topic written by another pipeline, or with --max-ahead?"
    raise Unlike(f"transition {place + 1} differs: the log has {was}, the replay gives {now}", where=name, fix=why)


# the alarm that is asked for


@dataclass(frozen=True)
class _Asked:
    """An occurrence of an alarm, with its rows; `entries` are the records of all rows of the alarm up to its end."""

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


def _ask(log: Log, topic: str, alarm: str, sequence: int | None) -> _Asked:
    """Return the occurrence of an alarm that is asked for.

    Raises
    ------
    PlanError
        If there is none.
    """
    known: set[str] = set()
    mine: list[tuple[Entry, dict[str, Any]]] = []
    for entry, row in _rows(log, topic):
        known.add(row["alarm_id"])
        if row["alarm_id"] == alarm or row["event_id"] == alarm:
            mine.append((entry, row))
    if not mine:
        fix = near(alarm, known) if known else f"topic {topic} is empty: has the pipeline of alarms run?"
        raise PlanError(f"no alarm {alarm!r} has had a transition", where=f"topic {topic}", fix=fix)
    if mine[0][1]["alarm_id"] != alarm:
        if sequence is not None:
            raise PlanError("an event_id names an occurrence by itself", where="--sequence", fix="leave it out")
        return _ask(log, topic, mine[-1][1]["alarm_id"], mine[-1][1]["sequence"])
    mine = _last_generation(mine)
    there = sorted({row["sequence"] for _, row in mine if row["sequence"]})
    chosen: int | None = there[-1] if sequence is None and there else sequence
    if chosen is None or chosen not in there:
        what = f"alarm {alarm} has no occurrence {chosen}" if there else f"alarm {alarm} has never been raised"
        raise PlanError(what, where=f"topic {topic}", fix=f"there is: {', '.join(map(str, there[-20:]))}" if there else "see headrace alarms show")
    last = max(place for place, (_, row) in enumerate(mine) if row["sequence"] == chosen)
    rows = [row for _, row in mine if row["sequence"] == chosen]
    tag, _, definition = alarm.rpartition("/")
    return _Asked(alarm, tag, definition, chosen, rows, [entry for entry, _ in mine[: last + 1]])


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


def _rows(log: Log, topic: str) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Yield the rows of a topic of transitions. Raises DataError at one that is none."""
    for entry in _entries(log, topic):
        row = _decoded(entry)
        if row is None or not row.keys() >= _COLUMNS:
            where = f"topic {topic}/{entry.partition} offset {entry.offset}"
            raise DataError("is no transition of an alarm", where=where, fix="name the topic with --topic")
        yield entry, row


def _entries(log: Log, topic: str, begins: Sequence[int] = ()) -> Iterator[Entry]:
    for part in log.topic(topic).partitions:
        offset = max(part.first, begins[part.number]) if begins else part.first
        while offset < part.end and (entries := log.entries(topic, part.number, offset, _PIECE)):
            yield from entries
            offset = entries[-1].offset + 1


def _decoded(entry: Entry) -> dict[str, Any] | None:
    """Return the JSON object that a record is; None if it is none."""
    try:
        row = msgspec.json.decode(entry.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


# the pipeline that has raised it


def _pipeline(app: str | None, settings: Sequence[str], topic: str) -> tuple[Plan, Node[Process]]:
    """Return the pipeline that writes a topic of transitions, and its process of alarms.

    Raises
    ------
    PlanError
        If it is not named and not in a plant file, or writes no such topic.
    """
    if app is not None:
        plans = [plan_of(app, settings)]
    elif settings:
        raise PlanError("belongs to --app, which is not given", where="--set", fix="add --app")
    elif settings_file().is_file():
        from headrace.cli.plant import check_plant

        plans = [one.plan for one in check_plant(settings_file()).pipelines]
    else:
        raise PlanError("the pipeline is not known", where="--app", fix="name it: --app plant.py; or call this in the folder of headrace.toml")
    found = {sink.operator.topic: (plan, process) for plan in plans for sink in plan.sinks if (process := alarm_process(sink)) is not None}
    if topic not in found:
        who = f"pipeline {plans[0].pipeline}" if app is not None else f"no pipeline of {settings_file()}"
        what = f"{who} {'writes no' if app is not None else 'writes'} transitions of hr.alarm to topic {topic!r}"
        raise PlanError(what, where="--topic", fix=near(topic, found) if found else "name another pipeline: --app plant.py")
    return found[topic]


def _topics_of(node: Node[Any] | None) -> list[str]:
    """Return the topics that the rows of a node come from."""
    return [] if node is None else sorted(node.traits.topics)


# what is shown


def _definition(log: Log, process: Node[Process], asked: _Asked) -> dict[str, Any]:
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
        for entry in _entries(log, topic):
            row = _decoded(entry) or {}
            if (row.get("tag"), row.get("definition")) != (asked.tag, asked.definition) or row.get("withdrawn"):
                continue
            try:
                text = encoded(definition_of({name: row[name] for name in SETTINGS if name in row}))
            except HeadraceError:
                continue  # it was refused
            if hashlib.sha256(text.encode()).hexdigest()[:12] == version:
                return {"version": version, "from": f"{topic}/{entry.partition} offset {entry.offset}", **msgspec.json.decode(text)}
    return {"version": version, "from": "no record that is retained"}


def _readings(log: Log, plan: Plan, process: Node[Process], asked: _Asked) -> list[dict[str, Any]]:
    """Return the readings of the tag from before the raise to the end of the occurrence, in the order of arrival."""
    import polars as pl

    from headrace.engines.embedded.replaying import given_to

    topics = [topic for topic in _topics_of(process.input) if topic in {source.topic for source in plan.sources}]
    named = {(one["evidence"]["topic"], *place) for one in asked.rows if one.get("evidence") for place in one["evidence"]["records"]}
    by, raised, last = _axis(process), asked.raised, asked.rows[-1]
    rows: list[dict[str, Any]] = []
    for back in (*_LOOK_BACK_MS, None) if by == "arrived" else (None,):
        begins = {topic: log.offsets_at(topic, 0 if back is None else raised["arrived"] - back) for topic in topics}
        for topic, partition, offset in named:
            begins[topic][partition] = min(begins[topic][partition], offset)
        parts = {topic: log.topic(topic).partitions for topic in topics}
        ends = {t: log.offsets_at(t, last["arrived"] + 1) if by == "arrived" else [part.end for part in parts[t]] for t in topics}
        rows = given_to(plan, process.operator.name, log, begins, ends, pl.col("tag") == asked.tag)
        rows = [{**row, "before": max(row["@time"] - raised["time"], row[f"@{by}"] - raised[by]) <= 0} for row in rows if row[f"@{by}"] <= last[by]]
        if sum(row["before"] for row in rows) >= _READINGS:
            break
    moved = {(row["time"], row[by]): row["event"] for row in reversed(asked.rows) if row["event"] in {"raise", "clear"}}
    return [
        {
            "topic": row["@topic"],
            "partition": row["@partition"],
            "offset": row["@offset"],
            "time": row["@time"],
            "arrived": row["@arrived"],
            "value": row["value"],
            "quality": row.get("quality"),
            "before": row["before"],
            "event": moved.get((row["@time"], row[f"@{by}"])),
            "evidence": (row["@topic"], row["@partition"], row["@offset"]) in named,
        }
        for row in rows
    ]


def _axis(process: Node[Process]) -> str:
    """Return the column of a transition that says how far the alarm had read: in event-time order it is the time, and all records are read."""
    return "arrived" if process.operator.arrival else "time"


def _commands(log: Log, process: Node[Process], asked: _Asked) -> list[dict[str, Any]]:
    """Return the commands for the alarm from its raise to the end of the occurrence."""
    node = next((given for given, one in process.others if one.name == "command"), None)
    by, found = _axis(process), []
    for topic in _topics_of(node):
        for entry in _entries(log, topic, log.offsets_at(topic, asked.raised["arrived"] if by == "arrived" else 0)):
            row = _decoded(entry) or {}
            if (row.get("tag"), row.get("definition")) != (asked.tag, asked.definition):
                continue
            command = {"topic": topic, "partition": entry.partition, "offset": entry.offset, **row, "arrived": entry.arrived_ms}
            if isinstance(at := command.get(by), int) and asked.raised[by] <= at <= asked.rows[-1][by]:
                found.append(command)
    return found


def _print_explained(asked: _Asked, found: Mapping[str, Any]) -> None:
    raised, definition = asked.raised, found["definition"]
    print(f"alarm {printable(asked.alarm)}, occurrence {asked.sequence}, event_id {raised['event_id']}")
    print(f"state before: {found['state_before']}, after: {found['state_after']}")
    print(f"\ndefinition, version {definition['version']}, from {definition['from']}")
    for name, value in definition.items():
        if name not in {"version", "from", "tag", "definition"}:
            print(f"  {name:<16}{printable(str(value))}")
    print()
    transitions = [(iso(r["time"]), r["event"], r["from"], r["to"], _number(r.get("value")), r["by"], r["reason"]) for r in asked.rows]
    print_table(("TRANSITION", "EVENT", "FROM", "TO", "VALUE", "BY", "REASON"), transitions)
    readings = found["readings"]
    print()
    if readings:
        print_table(("READING", "TIME", "ARRIVED", "VALUE", "QUALITY", "EVENT"), list(_reading_rows(readings)))
    else:
        print("readings: none is retained")
    if found["commands"]:
        print()
        rows = [(_place(c), iso(c["arrived"]), c.get("command"), c.get("by"), c.get("reason")) for c in found["commands"]]
        print_table(("COMMAND", "ARRIVED", "WHAT", "BY", "REASON"), [[None if cell is None else str(cell) for cell in row] for row in rows])


def _reading_rows(readings: Sequence[Mapping[str, Any]]) -> Iterator[list[str | None]]:
    """Yield the rows of the readings near the raise, at other transitions, and of the evidence."""
    before = sum(one["before"] for one in readings)
    left = 0
    for place, one in enumerate(readings):
        if not (before - _READINGS <= place < before + _READINGS or one["event"] or one["evidence"]):
            left += place >= before
            continue
        if left:
            yield [f"… {left:,} more", *[None] * 5]
            left = 0
        event = ", ".join(filter(None, (one["event"], "evidence" if one["evidence"] else None)))
        arrived = None if one["arrived"] is None else iso(one["arrived"])
        yield [_place(one), iso(one["time"]), arrived, _number(one["value"]), _quality(one["quality"]), event]


def _place(one: Mapping[str, Any]) -> str:
    return "derived" if one["offset"] is None else f"{one['topic']}/{one['partition']} offset {one['offset']}"


def _quality(code: int | None) -> str | None:
    if code is None:
        return None
    return f"{'good' if is_good(code) else 'bad' if is_bad(code) else 'uncertain'} {code:#010x}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


# the replay


def _replayed(log: Log, plan: Plan, topic: str, asked: _Asked, mode: Literal["live", "latest"]) -> list[bytes]:
    """Return the rows of an alarm that a replay gives, as lines, as many as the log has."""
    import polars as pl

    from headrace.engines.embedded.output import encode_rows
    from headrace.engines.embedded.replaying import Replay, steps_of

    found: list[bytes] = []

    def take(rows: pl.DataFrame) -> None:
        if len(mine := rows.filter(pl.col("alarm_id") == asked.alarm)):
            found.extend(encode_rows(mine)[:-1].split(b"\n"))

    Replay(plan, log, topic, steps_of(log, plan.pipeline), take, mode).run(lambda: len(found) >= len(asked.entries))
    return found[: len(asked.entries)]


def _partitions(log: Log, plan: Plan) -> list[tuple[str, int]]:
    return [(source.topic, part.number) for source in plan.sources for part in log.topic(source.topic).partitions]


def _check_retained(log: Log, plan: Plan, begins: Mapping[tuple[str, int], int]) -> None:
    """Raise DataError if records have expired that the replay needs."""
    for topic, number in _partitions(log, plan):
        first = log.topic(topic).partitions[number].first
        if first > begins.get((topic, number), 0):
            what = f"the records of {topic}/{number} before offset {first:,} have expired, and the alarm's state came from them"
            fix = "a replay needs all records since the pipeline was begun: see headrace topics alter --retention"
            raise DataError(what, where="replay", fix=fix)


def _changes(log: Log, plan: Plan, steps: Sequence[Any]) -> list[str]:
    """Return how the pipeline that wrote the topic differs from that of the replay."""
    found = []
    manifest = msgspec.json.decode(log.manifest(plan.pipeline) or b"{}")
    if manifest and (name := plan.differs(manifest)) is not None:
        found.append(f"the pipeline has changed since its last commit: other {name}")
    for step in steps:
        if step.code:
            found.append(f"the code of process {', '.join(step.code)} changed at offsets {list(step.offsets)}")
        if step.plan is not None:
            settings = f", settings {', '.join(step.settings)}" if step.settings else ""
            found.append(f"the pipeline changed at offsets {list(step.offsets)}{settings}")
    return found
