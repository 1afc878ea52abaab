"""`headrace alarms`: the states, transitions and indicators of alarms, and the commands of operators."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace._clock import now_ms
from headrace._json import NOT_JSON
from headrace.alarms.commands import Command
from headrace.cli.logs import KafkaOptions, open_log
from headrace.cli.tables import print_json, print_table, printable
from headrace.cli.values import duration_ms
from headrace.errors import DataError, PlanError, near
from headrace.topics.entries import entries_of
from headrace.topics.protocol import Log

__all__ = [
    "Who", "acknowledge", "comment", "in_service", "kpi", "list_alarms", "out_of_service", "reset", "shelve", "show", "suppress", "unshelve",
    "unsuppress",
]  # fmt: skip

_Json = Annotated[bool, Parameter(name="--json", negative=(), help="JSON objects, one a line.")]
_Moment = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000)]  # ms since the epoch, before the year 10000


class _Occurrence(msgspec.Struct):
    """The columns of current states that a command needs."""

    alarm_id: str
    sequence: int | None


class _Current(msgspec.Struct):
    """The columns of current states that are printed."""

    alarm_id: str
    priority: int | None
    state: str
    time: _Moment
    value: float | None
    limit: float | None
    by: str | None
    action: str | None


class _Transition(msgspec.Struct):
    """The columns of transitions that are printed or counted."""

    alarm_id: str
    priority: int | None
    event: str
    before: str = msgspec.field(name="from")
    to: str
    time: _Moment
    value: float | None
    by: str | None
    reason: str | None
    sequence: int | None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Who:
    """Who gives a command, and why.

    Parameters
    ----------
    by
        Who gives it; by default the name of the login.
    reason
        Why; shelve, out-of-service and comment need it.
    sequence
        The occurrence that it is meant for.
    topic
        The topic of transitions.
    commands
        The topic of commands.
    """

    by: str | None = None
    reason: str | None = None
    sequence: int | None = None
    topic: str = "alarms"
    commands: str = "alarm-commands"


def list_alarms(
    *,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    topic: str = "alarms",
    json: _Json = False,
    kafka: KafkaOptions = KafkaOptions(),
) -> None:
    """Show the alarms that are not normal, by priority; below an alarm those that it has caused, if `hr.alarm_causes` groups them.

    Parameters
    ----------
    every
        Those that are normal too.
    topic
        The topic of transitions.
    """
    from headrace.alarms.grouping import grouped

    with closing(open_log(kafka, create=False)) as log:
        found = _current(log, topic, _Current)
        causes: dict[tuple[str | None, str], dict[str, Any]] = {(None, row["alarm_id"]): row for row in _causes(log, topic)}
    shown = (row for row in found.values() if every or row["state"] != "normal")
    rows = grouped(shown, causes, lambda row: (row["priority"] or 5, -row["time"]))
    if json:
        print_json(rows)
        return
    header = ("ALARM", "PRIORITY", "STATE", "SINCE", "VALUE", "LIMIT", "BY", "ACTION")
    print_table(
        header,
        [
            (
                _indented(row),
                row["priority"],
                row["state"],
                _moment(row["time"]),
                _number(row["value"]),
                _number(row["limit"]),
                row["by"],
                row["action"],
            )
            for row in rows
        ],
    )


def show(alarm: str, /, *, topic: str = "alarms", json: _Json = False, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Show the transitions of an alarm, and the commands that were refused.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    topic
        The topic of transitions.
    """
    with closing(open_log(kafka, create=False)) as log:
        rows = [row for row in _rows(log, topic, _Transition) if row["alarm_id"] == alarm]
        if not rows:
            _check_there(log, topic, alarm)
    if json:
        print_json(rows)
        return
    columns = ("TIME", "OCCURRENCE", "EVENT", "FROM", "TO", "VALUE", "BY", "REASON")
    print_table(
        columns,
        [
            (_moment(row["time"]), row["sequence"], row["event"], row["from"], row["to"], _number(row["value"]), row["by"], row["reason"])
            for row in rows
        ],
    )


def acknowledge(alarm: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """Acknowledge the occurrence of an alarm that `headrace alarms list` shows.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    """
    _send("acknowledge", alarm, who, kafka)


def shelve(
    alarm: str,
    /,
    *,
    time: Annotated[str | None, Parameter(name="--for")] = None,
    once: Annotated[bool, Parameter(negative=())] = False,
    who: Who = Who(),
    kafka: KafkaOptions = KafkaOptions(),
) -> None:
    """Set an alarm aside for a time, or until it clears.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    time
        For how long: 30m, 8h.
    once
        Until its next clear.
    """
    if once == (time is not None):
        raise PlanError("a shelve is for a time or until the alarm clears", where="--for, --once", fix="give one of them")
    ends = {"one_shot": True} if time is None else {"until": now_ms() + duration_ms(time, "--for")}
    _send("shelve", alarm, who, kafka, **ends)


def unshelve(alarm: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """End a shelve.

    Parameters
    ----------
    alarm
        The alarm's id: TAG/DEFINITION.
    """
    _send("unshelve", alarm, who, kafka)


def suppress(alarm: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """Set an alarm aside by design.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    """
    _send("suppress", alarm, who, kafka)


def unsuppress(alarm: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """End a suppression.

    Parameters
    ----------
    alarm
        The alarm's id: TAG/DEFINITION.
    """
    _send("unsuppress", alarm, who, kafka)


def out_of_service(alarm: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """Set an alarm aside for maintenance.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    """
    _send("out_of_service", alarm, who, kafka)


def in_service(alarm: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """Take an alarm into service again.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    """
    _send("in_service", alarm, who, kafka)


def reset(alarm: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """Reset an alarm that latches.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    """
    _send("reset", alarm, who, kafka)


def comment(alarm: str, text: str, /, *, who: Who = Who(), kafka: KafkaOptions = KafkaOptions()) -> None:
    """Write a comment on an alarm.

    Parameters
    ----------
    alarm
        Its id: TAG/DEFINITION.
    text
        The comment.
    """
    _send("comment", alarm, who, kafka, reason=text)


def kpi(*, last: str = "24h", topic: str = "alarms", json: _Json = False, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Show the indicators of ISA-18.2: how many alarms, how often too many, and which alarms they are.

    Parameters
    ----------
    last
        The time up to now that is judged.
    topic
        The topic of transitions.
    """
    from headrace.alarms.kpi import kpi as judged

    end = now_ms()
    if (long := duration_ms(last, "--last")) == 0:
        raise PlanError("is 0", where="--last", fix="write 24h, 7d")
    with closing(open_log(kafka, create=False)) as log:
        found = judged(_rows(log, topic, _Transition), end - long, end, _causes(log, topic))
    if json:
        print_json([found])
        return
    for name, value in found.items():
        if name == "top_10":
            print("top_10")
            for one in value:
                print(f"  {one['alarms']:>6}  {one['alarm_id']}")
        elif name in {"start", "end"}:
            print(f"{name:<24}{_moment(value)}")
        elif name == "priorities":
            print(f"{name:<24}{', '.join(f'{priority}: {share:.0%}' for priority, share in value.items()) or '-'}")
        else:
            print(f"{name:<24}{f'{value:.1%}' if name.endswith('share') else _number(value) or '-'}")


def _indented(row: dict[str, Any]) -> str:
    """Return an alarm's id below that of its cause, and how many alarms are below it."""
    below = f" (+{row['consequences']})" if row["consequences"] else ""
    return f"{'  ' * row['level']}{'└ ' if row['level'] else ''}{row['alarm_id']}{below}"


def _send(name: str, alarm: str, who: Who, kafka: KafkaOptions, **more: Any) -> None:  # noqa: ANN401
    """Append a command to its topic."""
    command = Command(name=name, alarm=alarm, time=now_ms(), **{"by": who.by, "reason": who.reason, "sequence": who.sequence, **more})
    with closing(open_log(kafka, create=False)) as log:
        if name == "acknowledge":  # what the operator has seen
            seen = _check_there(log, who.topic, alarm)["sequence"]
            command = replace(command, sequence=seen if who.sequence is None else who.sequence)
        if who.by is None:
            command = replace(command, by=_login())
        line, key = command.record()
        log.append(who.commands, [line], [key])
    occurrence = "" if command.sequence is None else f", occurrence {command.sequence}"
    print(printable(f"Sent {name} for {alarm}{occurrence}, by {command.by}."))


def _login() -> str:
    """Return the name of the login. Raises PlanError if it has none, as in a container with a bare user id."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        raise PlanError("the login has no name", where="alarms", fix="give --by NAME") from None


def _check_there(log: Log, topic: str, alarm: str) -> dict[str, Any]:
    """Return the last row of an alarm. Raises PlanError if there is none."""
    current = _current(log, topic, _Occurrence)
    if alarm in current:
        return current[alarm]
    fix = near(alarm, current) if current else f"topic {topic}.current is empty: has the pipeline of alarms run?"
    raise PlanError(f"no alarm {alarm!r} has had a transition", where="alarms", fix=fix)


def _current(log: Log, topic: str, columns: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """Return the last row of each alarm."""
    return {row["alarm_id"]: row for row in _rows(log, f"{topic}.current", columns)}


def _causes(log: Log, topic: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the topic of causes; none if no pipeline groups alarms."""
    from headrace.alarms.grouping import CauseRow

    return _rows(log, f"{topic}.causes", CauseRow, missing_ok=True)


def _rows(log: Log, topic: str, columns: type[msgspec.Struct], *, missing_ok: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows of a topic. Raises DataError at one that lacks a column, or has a value of another type in it."""
    for entry in entries_of(log, topic, missing_ok=missing_ok):
        try:
            row: dict[str, Any] = msgspec.json.decode(entry.value, type=dict[str, Any])
            msgspec.convert(row, columns)
        except NOT_JSON:
            where = f"topic {topic}/{entry.partition} offset {entry.offset}"
            raise DataError("is no row of alarms", where=where, fix="name the topic with --topic") from None
        yield row


def _moment(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"
