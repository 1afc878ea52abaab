"""The other keyed inputs of a process: streams whose records also go to its keys, each to a method of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headrace.errors import PlanError, near
from headrace.plan.graph import Node
from headrace.plan.operators import KeyedInput, Operator
from headrace.plan.process import METHODS

if TYPE_CHECKING:
    from headrace.plan.stream import Stream

__all__ = ["InputStream", "check_input_name", "checked_inputs", "input"]

_LATE = ("drop", "take", "side")


@dataclass(frozen=True)
class InputStream:
    """A stream as an input of a process, with its time policy. `hr.input` makes one."""

    stream: Stream
    late: Literal["drop", "take", "side"] = "drop"
    holds: bool = True
    by: str | Sequence[str] | None = None
    late_to: str | None = None


def input(
    stream: Stream,
    *,
    late: Literal["drop", "take", "side"] = "drop",
    holds: bool = True,
    by: str | Sequence[str] | None = None,
    late_to: str | None = None,
) -> InputStream:
    """Return another keyed input of a process, for `process(…, inputs={"command": hr.input(commands)})`.

    The process is called with each record of it: `on_command(row, state)`, for the state of the record's key.

    Parameters
    ----------
    stream
        A stream with an event time: of records, or of rows of windows or processes. These are never late, so they have no time policy.
    late
        What becomes of a record that is older than its partition's watermark: `drop` (it is counted as late), `take` (it counts at
        the watermark, and is never lost), `side` (it is counted as late, and written to the topic `late_to`).
    holds
        Whether the process waits for this input: its watermark then holds that of the process back, until it is idle. Commands
        should not hold. What comes behind the watermark of the process is then late, whatever its partition's is; with
        `late="take"` it takes effect at once.
    by
        The columns of this stream that a key is made of, where they have other names than those in `by=` of the process.
    late_to
        The topic for late records, with `late="side"`.

    Examples
    --------
    >>> alarms = readings.process(Alarm, by=["tag"], inputs={"command": hr.input(commands, late="take", holds=False)})
    """
    return InputStream(stream, late, holds, by, late_to)


def checked_inputs(
    inputs: object, main: Stream, keys: tuple[str, ...], broadcast: Node[Operator] | None, *, arrival: bool, where: str
) -> dict[str, tuple[Node[Operator], KeyedInput]]:
    """Return the node and the policy of each input, by name. Raises PlanError if one cannot be."""
    if not isinstance(inputs, Mapping):
        raise PlanError(f"inputs {inputs!r} is not a table of names", where=where, fix='write inputs={"command": hr.input(commands)}')
    taken = {main.node: "the stream itself", **({} if broadcast is None else {broadcast: "the broadcast"})}
    found = {}
    for name, given in inputs.items():
        place = f"{where} input {name!r}"
        check_input_name(name, place)
        one = _input_of(given, place)
        node = one.stream.node
        if node in taken:
            raise PlanError(f"the input is {taken[node]}", where=place, fix="give it another stream, or split the stream with where()")
        taken[node] = f"input {name!r} too"
        _check_policy(one, arrival=arrival, where=place)
        one.stream._timed("input")
        if node.traits.derived and (one.late != "drop" or not one.holds):
            what = "derived rows are never late, and the topics that they come from hold the watermark back"
            raise PlanError(what, where=place, fix="leave late=, late_to= and holds= out")
        theirs = _keys_of(one, main, keys, place)
        found[name] = node, KeyedInput(name, one.stream.schema, theirs, one.late, one.holds, one.late_to)
    return found


def check_input_name(name: object, where: str) -> None:
    """Raise PlanError unless an input can be named so."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise PlanError(f"{name!r} cannot be the name of an input", where=where, fix='take a Python name, such as "command"')
    if f"on_{name}" in METHODS:
        raise PlanError(f"on_{name} is called for something else", where=where, fix="give the input another name")


def _input_of(given: object, where: str) -> InputStream:
    if not isinstance(given, InputStream):
        raise PlanError(f"{given!r} is not an input", where=where, fix="write hr.input(commands)")
    if not isinstance(getattr(given.stream, "node", None), Node):
        raise PlanError(f"{given.stream!r} is not a stream", where=where, fix="give it hr.input(hr.stream(topic, schema=…, event_time=…))")
    return given


def _check_policy(one: InputStream, *, arrival: bool, where: str) -> None:
    if one.late not in _LATE:
        raise PlanError(f"late {one.late!r} is unknown", where=where, fix=near(str(one.late), _LATE))
    if not isinstance(one.holds, bool):
        raise PlanError(f"holds {one.holds!r} is neither True nor False", where=where)
    if (one.late == "side") != (one.late_to is not None):
        raise PlanError("late='side' and late_to come together", where=where, fix="write late='side', late_to='commands-late'")
    if one.late_to is not None and (not isinstance(one.late_to, str) or not one.late_to):
        raise PlanError(f"{one.late_to!r} is not a topic", where=f"{where} late_to", fix="name a topic")
    if one.late_to is not None and arrival:
        raise PlanError("no record is late in the order of arrival", where=where, fix="leave late and late_to out")


def _keys_of(one: InputStream, main: Stream, keys: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Return the columns of the input that a key is made of."""
    theirs = keys if one.by is None else (one.by,) if isinstance(one.by, str) else tuple(one.by)
    if len(theirs) != len(keys):
        raise PlanError(
            f"it has {len(theirs)} keys, and the process has {len(keys)}", where=where, fix=f"name a column for each of {', '.join(keys)}"
        )
    for key, mine in zip(theirs, keys, strict=True):
        if key not in one.stream.schema:
            fix = "name the columns in hr.input(…, by=…)" if one.by is None else near(str(key), one.stream.schema.names)
            raise PlanError(f"unknown column {key!r}", where=where, fix=fix)
        if (kind := one.stream.schema[key].type) != main.schema[mine].type:
            raise PlanError(
                f"key {key!r} is a {kind}, and {mine!r} of the process is a {main.schema[mine].type}", where=where, fix="cast it with derive()"
            )
    return theirs
