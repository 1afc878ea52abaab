"""The alarms of a plant on its page: which there are, operators' commands, and why an alarm was raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import msgspec

from headrace._clock import now_ms
from headrace._json import NOT_JSON, json_object
from headrace.alarms.commands import Command
from headrace.alarms.grouping import CauseRow, grouped
from headrace.alarms.machine import COMMANDS
from headrace.backtest.topics import alarm_pipelines
from headrace.errors import DataError, HeadraceError, PlanError, near
from headrace.gateway.pages import Answer, json_answer, number_of, text_of
from headrace.plan.graph import Node
from headrace.plan.operators import Process
from headrace.plan.pipeline import Plan
from headrace.topics.entries import entries_of
from headrace.topics.protocol import Log

__all__ = ["Alarming"]

_MOST = 500  # rows that are shown
_ANSWER_SECONDS = 5.0
_LONGEST_SECONDS = 20.0  # that a log which does not answer is waited for
_LOOK_SECONDS = 0.03
_LONGEST_SHELVE_S = 31_536_000
_SIDES = ("current", "causes", "journal", "nuisances", "older")
_COLUMNS = frozenset({"alarm_id", "priority", "state", "sequence", "time", "value", "limit", "by"})
_Moment = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000)]  # ms since the epoch, before the year 10000

Row = dict[str, Any]


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A command, as the page posts it. `seconds` is how long a shelve lasts."""

    alarm: str
    command: str
    by: str
    topic: str | None = None
    reason: str | None = None
    sequence: int | None = None
    seconds: int | float | None = None
    one_shot: bool = False


class _Current(msgspec.Struct, rename={"class_": "class"}):
    """A row of the topic of current states, as far as the page shows it."""

    alarm_id: str
    priority: Annotated[int, msgspec.Meta(ge=1, le=4)] | None
    state: str
    sequence: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None
    time: _Moment
    value: float | None
    limit: float | None
    by: str | None
    kind: str | None = None
    active: bool | None = None
    reason: str | None = None
    until: _Moment | None = None
    class_: str | None = None
    consequence: str | None = None
    action: str | None = None
    time_to_respond: float | None = None
    attack: list[str] | None = None
    ne107: str | None = None


_decode_current = msgspec.json.Decoder(_Current).decode
_decode_cause = msgspec.json.Decoder(CauseRow).decode


@dataclass(frozen=True)
class _Board:
    """The topics of a pipeline with alarms: of transitions, and of commands."""

    topic: str
    commands: str
    plan: Plan
    process: Node[Process]


class Alarming:
    """The alarms of a plant.

    Parameters
    ----------
    open_log
        Opens the log.
    plans
        The pipelines of the plant.
    commands
        Whether commands are accepted.
    """

    def __init__(self, open_log: Callable[[], Log], plans: Iterable[Plan], *, commands: bool) -> None:
        self._open_log, self._commands = open_log, commands
        self._boards = {topic: _Board(topic, _commands_of(process), plan, process) for topic, (plan, process) in alarm_pipelines(plans).items()}
        self._lock, self._following, self._explaining = threading.Lock(), threading.Lock(), threading.Lock()
        self._rows: dict[tuple[str, str], Row] = {}
        self._causes: dict[tuple[str | None, str], Row] = {}
        self._next: dict[str, dict[int, int]] = {}
        self._number = 0

    @property
    def topics(self) -> frozenset[str]:
        """The topics of alarms, whose records are no readings."""
        boards = self._boards.values()
        given = (node for one in boards for node in (*(node for node, _ in one.process.others), one.process.broadcast) if node is not None)
        sides = {f"{one.topic}.{side}" for one in boards for side in _SIDES}
        return frozenset({*self._boards, *sides, *(topic for node in given for topic in node.traits.topics)})

    # which there are

    def follow(self, log: Log) -> None:
        """Take in what has come to the topics of current states and of causes."""
        with self._following:
            for board in self._boards.values():
                self._follow(log, board.topic, "current", self._take)
                self._follow(log, board.topic, "causes", self._take_cause)

    def _follow(self, log: Log, topic: str, side: str, take: Callable[[str, bytes], None]) -> None:
        name = f"{topic}.{side}"
        begins = self._next.setdefault(name, {})
        try:
            parts = log.topic(name).partitions
        except PlanError:
            return  # it is not there yet
        if any(begins.get(part.number, 0) > part.end for part in parts):  # it was made anew
            begins.clear()
            with self._lock:
                known: dict[Any, Row] = self._rows if side == "current" else self._causes
                for place in [place for place in known if place[0] == topic]:
                    del known[place]
                self._number += 1
        if all(begins.get(part.number) == part.end for part in parts):
            return
        for entry in entries_of(log, name, begins):
            begins[entry.partition] = entry.offset + 1
            with suppress(*NOT_JSON):
                take(topic, entry.value)

    def _take_cause(self, topic: str, value: bytes) -> None:
        """Note what an alarm is a consequence of."""
        row: Row = msgspec.to_builtins(_decode_cause(value))
        with self._lock:
            self._causes[topic, row["alarm_id"]] = row
            self._number += 1

    def _take(self, topic: str, value: bytes) -> None:
        """Note the state of an alarm, and when its occurrence began: the row that has a new number is the first one."""
        current = _decode_current(value)
        row: Row = msgspec.to_builtins(current)
        place = (topic, current.alarm_id)
        normal = current.state == "normal"  # nothing more of it is shown, and there may be many
        kept = {name: value for name, value in row.items() if not normal or name in _COLUMNS}
        with self._lock:
            before = self._rows.get(place)
            same = before is not None and before["sequence"] == row["sequence"]
            raised = before["raised"] if same and before is not None else row["time"]
            self._rows[place] = {"topic": topic, "raised": raised, **kept}
            self._number += 1

    def shown(self, query: str) -> Answer:
        """Return the alarms that are not normal, the most important group first; none if nothing has changed since the number `since`."""
        with self._lock:
            found: dict[str, Any] = {"number": self._number, "now": now_ms(), "boards": len(self._boards), "commands": self._commands, "alarms": None}
            if text_of(query, "since") == str(self._number):
                return json_answer(found)
            rows = grouped((row for row in self._rows.values() if row["state"] != "normal"), self._causes, _importance)
            return json_answer({**found, "total": len(rows), "alarms": rows[:_MOST]})

    # commands

    def command(self, body: bytes) -> Answer:
        """Write a command to the topic of commands, and return what became of it.

        The answer has `outcome`: `done`, `refused` with the reason, or `pending` if the pipeline does not carry it out in time; and the
        alarm as it is then.
        """
        try:
            asked = msgspec.json.decode(body, type=_Asked)
            return self._command(asked)
        except NOT_JSON as error:
            return _fault(HTTPStatus.BAD_REQUEST, f"the command cannot be read: {error}")
        except HeadraceError as fault:
            return _refused(fault)

    def _command(self, asked: _Asked) -> Answer:
        if not self._commands:
            what = "the page accepts no commands: it is served beyond this machine, without sign-in. Use headrace alarms"
            return _fault(HTTPStatus.FORBIDDEN, what)
        if asked.command not in COMMANDS:
            raise PlanError(f"there is no command {asked.command!r}", fix=near(asked.command, COMMANDS))
        give_up_at = time.monotonic() + _LONGEST_SECONDS
        with closing(self._open_log()) as log:
            log.heed(lambda: time.monotonic() > give_up_at)
            self.follow(log)
            board, row = self._found(asked.topic, asked.alarm)
            command = _command_of(asked, row)
            ends = {part.number: part.end for part in log.topic(board.topic).partitions}
            line, key = command.record()
            log.append(board.commands, [line], [key])
            outcome = _outcome(log, board.topic, command, ends)
            self.follow(log)
        with self._lock:
            return json_answer({**outcome, "alarm": self._rows.get((board.topic, asked.alarm))})

    def _found(self, topic: str | None, alarm: str) -> tuple[_Board, Row]:
        """Return the board of an alarm and its row. Raises PlanError if there is none."""
        with self._lock:
            for board in self._boards.values():
                if topic in {None, board.topic} and (row := self._rows.get((board.topic, alarm))) is not None:
                    return board, row
            known = [name for _, name in self._rows]
        raise _Missing(f"no alarm {alarm!r} has had a transition", fix=near(alarm, known) if known else None)

    # why

    def explanation(self, query: str) -> Answer:
        """Return why an alarm was raised, as `headrace explain --json` does. One explanation is computed at a time."""
        from headrace.engines.embedded.explaining import explanation_of, occurrence_of

        alarm, topic = text_of(query, "alarm"), text_of(query, "topic")
        try:
            board = next((one for one in self._boards.values() if topic in {"", one.topic}), None)
            if board is None:
                raise _Missing(f"there is no topic of alarms {topic!r}")
            with self._explaining, closing(self._open_log()) as log:
                return json_answer(
                    explanation_of(log, board.plan, board.process, occurrence_of(log, board.topic, alarm, number_of(query, "sequence"))).as_table()
                )
        except HeadraceError as fault:
            return _refused(fault, HTTPStatus.NOT_FOUND)


class _Missing(PlanError):
    """There is no such alarm."""


def _commands_of(process: Node[Process]) -> str:
    """Return the topic of commands that a process of alarms reads."""
    return min(topic for node, given in process.others if given.name == "command" for topic in node.traits.topics)


def _command_of(asked: _Asked, row: Mapping[str, Any]) -> Command:
    now = now_ms()
    until = None
    if asked.command == "shelve":
        if asked.one_shot == (asked.seconds is not None):
            raise PlanError("a shelve is for a time or until the alarm clears", fix="give one of them")
        if asked.seconds is not None:
            if not 1 <= asked.seconds <= _LONGEST_SHELVE_S:
                raise PlanError(f"a shelve of {asked.seconds:g} s", fix="give 1 s to a year")
            until = now + round(asked.seconds * 1000)
    sequence = row["sequence"] if asked.sequence is None and asked.command == "acknowledge" else asked.sequence
    by, reason = asked.by.strip(), (asked.reason or "").strip() or None
    one_shot = True if asked.one_shot else None
    return Command(name=asked.command, alarm=asked.alarm, time=now, by=by, reason=reason, sequence=sequence, until=until, one_shot=one_shot)


def _outcome(log: Log, topic: str, command: Command, begins: dict[int, int]) -> Row:
    """Return what became of a command, from the transitions that come after it."""
    give_up_at = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < give_up_at:
        for entry in entries_of(log, topic, begins):
            begins[entry.partition] = entry.offset + 1
            row = json_object(entry.value) or {}
            if (row.get("alarm_id"), row.get("event"), row.get("by"), row.get("time")) == (command.alarm, command.name, command.by, command.time):
                return {"outcome": "refused" if row.get("to") == "refused" else "done", "state": row.get("to"), "reason": row.get("reason")}
        time.sleep(_LOOK_SECONDS)
    return {"outcome": "pending", "state": None, "reason": "the pipeline of alarms has not carried it out yet"}


def _importance(row: Row) -> tuple[int, int]:
    return row["priority"] or 5, -row["raised"]


def _refused(fault: HeadraceError, status: HTTPStatus = HTTPStatus.CONFLICT) -> Answer:
    """Return an error as an answer. Its fix is left out where it is one for the command line."""
    what = str(fault) if fault.where is None else fault.what
    if isinstance(fault, _Missing):
        return _fault(HTTPStatus.NOT_FOUND, what)
    if isinstance(fault, PlanError | DataError):
        return _fault(status, what)
    return _fault(HTTPStatus.SERVICE_UNAVAILABLE, what if fault.where is None else f"{fault.where}: {what}")


def _fault(status: HTTPStatus, what: str) -> Answer:
    return json_answer({"error": what}, status)
