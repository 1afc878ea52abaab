"""`headrace explain` and `headrace replay`: why an alarm was raised, and its transitions computed once more from the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from headrace._durable import put, write_fault
from headrace.backtest.figures import iso
from headrace.backtest.topics import alarm_pipelines
from headrace.cli.apps import plan_of, settings_file
from headrace.cli.logs import KafkaOptions, open_log
from headrace.cli.paths import OutputPath
from headrace.cli.tables import counted, print_json, print_table, printable
from headrace.errors import HeadraceError, PlanError, near
from headrace.plan.graph import Node
from headrace.plan.operators import Process
from headrace.plan.pipeline import Plan
from headrace.plant.quality import is_bad, is_good

if TYPE_CHECKING:
    from headrace.engines.embedded.explaining import Explanation, Reading

__all__ = ["explain", "replay"]

_App = Annotated[str | None, Parameter(name="--app")]
_Settings = Annotated[list[str] | None, Parameter(name="--set", negative=())]
_READINGS = 8  # shown before a raise, and after it


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
    from headrace.engines.embedded.explaining import explanation_of, occurrence_of

    plan, process = _pipeline(app, set or [], topic)
    with closing(open_log(kafka, create=False)) as log:
        found = explanation_of(log, plan, process, occurrence_of(log, topic, alarm, sequence))
    if html is not None:
        from headrace.cli.explain_page import explain_page

        try:
            put(html, explain_page(found.as_table()).encode())
        except OSError as error:
            raise write_fault(html, error) from None
    if json:
        print_json([found.as_table()])
    else:
        _print_explained(found)


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
    from headrace.engines.embedded.explaining import occurrence_of, replayed
    from headrace.engines.embedded.replaying import changes_of, record_of

    plan, _ = _pipeline(app, set or [], topic)
    with closing(open_log(kafka, create=False)) as log:
        asked = occurrence_of(log, topic, alarm, sequence)
        record = record_of(log, plan)
        expected = [entry.value for entry in asked.entries]
        found: list[bytes] = []
        for mode in ("live", "latest"):
            found = replayed(log, plan, topic, asked, record, mode)
            if found == expected:
                break
        notes = changes_of(log, plan, record.steps)
    name = f"alarm {printable(asked.alarm)}, occurrence {asked.sequence}"
    if found == expected:
        print(f"{name}: reproduced. {counted(len(expected), 'transition')} of the alarm, from its first to this occurrence, identical to the byte.")
        return
    place = next((n for n, (was, now) in enumerate(zip(expected, found, strict=False)) if was != now), min(len(expected), len(found)))
    was, now = (lines[place].decode() if place < len(lines) else "nothing" for lines in (expected, found))
    why = "; ".join(notes) or "the pipeline is as it was at its last commit; was the topic written by another pipeline, or with --max-ahead?"
    raise Unlike(f"transition {place + 1} differs: the log has {was}, the replay gives {now}", where=name, fix=why)


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
    found = alarm_pipelines(plans)
    if topic not in found:
        who = f"pipeline {plans[0].pipeline}" if app is not None else f"no pipeline of {settings_file()}"
        what = f"{who} {'writes no' if app is not None else 'writes'} transitions of hr.alarm to topic {topic!r}"
        raise PlanError(what, where="--topic", fix=near(topic, found) if found else "name another pipeline: --app plant.py")
    return found[topic]


# what is shown


def _print_explained(found: Explanation) -> None:
    asked, definition = found.occurrence, found.definition
    print(f"alarm {printable(asked.alarm)}, occurrence {asked.sequence}, event_id {asked.raised['event_id']}")
    print(f"state before: {found.state_before}, after: {found.state_after}")
    print(f"\ndefinition, version {definition['version']}, from {definition['from']}")
    for name, value in definition.items():
        if name not in {"version", "from", "tag", "definition"}:
            print(f"  {name:<16}{printable(str(value))}")
    print()
    transitions = [(iso(r["time"]), r["event"], r["from"], r["to"], _number(r.get("value")), r["by"], r["reason"]) for r in asked.rows]
    print_table(("TRANSITION", "EVENT", "FROM", "TO", "VALUE", "BY", "REASON"), transitions)
    print()
    if found.readings:
        print_table(("READING", "TIME", "ARRIVED", "VALUE", "QUALITY", "EVENT"), list(_reading_rows(found.readings)))
    else:
        print("readings: none is retained")
    if found.conditions:
        print()
        conditions = [(_place(c["topic"], c["partition"], c["offset"]), iso(c["arrived"]), *_found(c)) for c in found.conditions]
        print_table(("CONDITION", "ARRIVED", "WHAT", "VALUE", "THRESHOLD", "CONTRIBUTIONS"), conditions)
    if found.causes:
        print()
        causes = [(iso(c["time"]), c["event"], c["alarm_id"], c["cause"], f"{c['after_ms'] / 1000:g} s") for c in found.causes]
        print_table(("GROUP", "EVENT", "ALARM", "CAUSE", "AFTER IT"), causes)
    if found.commands:
        print()
        rows = [
            (_place(c["topic"], c["partition"], c["offset"]), iso(c["arrived"]), c.get("command"), c.get("by"), c.get("reason"))
            for c in found.commands
        ]
        print_table(("COMMAND", "ARRIVED", "WHAT", "BY", "REASON"), [[None if cell is None else str(cell) for cell in row] for row in rows])


def _reading_rows(readings: Sequence[Reading]) -> Iterator[list[str | None]]:
    """Yield the rows of the readings near the raise, at other transitions, and of the evidence."""
    before = sum(one.before for one in readings)
    left = 0
    for place, one in enumerate(readings):
        if not (before - _READINGS <= place < before + _READINGS or one.event or one.evidence):
            left += place >= before
            continue
        if left:
            yield [f"… {left:,} more", *[None] * 5]
            left = 0
        event = ", ".join(filter(None, (one.event, "evidence" if one.evidence else None)))
        arrived = None if one.arrived is None else iso(one.arrived)
        yield [_place(one.topic, one.partition, one.offset), iso(one.time), arrived, _number(one.value), _quality(one.quality), event]


def _found(condition: Mapping[str, Any]) -> tuple[str, str | None, str | None, str | None]:
    """Return what a condition says: whether it is active, its value and threshold, and the tags that contribute to it, where a detector names them."""
    value, threshold = (one if isinstance(one := condition.get(name), int | float) else None for name in ("value", "threshold"))
    given = condition.get("contributions")
    parts = given if isinstance(given, dict) else {}
    shares = [f"{tag} {share:.0%}" for tag, share in parts.items() if isinstance(share, int | float)]
    active = "active" if condition.get("active") is True else "inactive" if condition.get("active") is False else "unknown"
    return active, _number(value), _number(threshold), ", ".join(shares) or None


def _place(topic: str | None, partition: int | None, offset: int | None) -> str:
    return "derived" if offset is None else f"{topic}/{partition} offset {offset}"


def _quality(code: int | None) -> str | None:
    if code is None:
        return None
    return f"{'good' if is_good(code) else 'bad' if is_bad(code) else 'uncertain'} {code:#010x}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"
