"""A process at work on one key: an author's methods called with values, and what they give taken in.

Theory of operation
-------------------
What comes to a key comes in an order that is a function of the input alone (see `schedule`), and the host keeps the state;
here is what happens to one record or timer. Nothing here knows a clock, a file or a thread.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.errors import ProcessError, near
from headrace.kernels.keyed.shared import Shared
from headrace.kernels.keyed.state import Keep, State
from headrace.kernels.keyed.values import row_accept_of
from headrace.plan.operators import Process

__all__ = ["Given", "OverdueError", "Place", "ProcessKernel"]

_SAME_TIME = 10_000
_to_json = msgspec.json.Encoder(enc_hook=repr).encode

# What a process gave: the output's name, the time of what it was given for, the key's values, the row's values.
Given = tuple[str, int, tuple[Any, ...], list[Any]]


class OverdueError(BaseException):
    """Raised into an author's method that takes longer than its limit."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record came from."""

    topic: str
    partition: int | None
    offset: int | None
    arrived_ms: int | None = None

    def __str__(self) -> str:
        partition = "" if self.partition is None else f"/{self.partition}"
        return f"{self.topic}{partition}{'' if self.offset is None else f' offset {self.offset}'}"


class ProcessKernel:
    """One `Process` of a plan.

    Attributes
    ----------
    keep
        Makes the states, and turns them to bytes and back.
    failures
        What failed since this was last emptied, as rows of `FAILED`; the state is then as it was before.
    entered
        Counts up when an author's method is entered and when it is left: odd while it is at work.
    overdue
        Put here by who ends a method that takes too long, and called as that is left: it raises OverdueError, or lets go.
    at_end
        What a process of ours does with each key when the input has ended; an author's has none.
    place_of
        Makes a `Place` of what a host gives as a record's place: only a record that fails needs one.
    key_of
        Returns a key's values from its columns in a row that `on_broadcast` emits.
    """

    place_of: Callable[[Any], Place]

    def __init__(self, operator: Process) -> None:
        self.operator, code, declared = operator, operator.code, operator.declared
        self.keep = Keep(declared, getattr(code, "migrate", None))
        self.failures: list[dict[str, Any]] = []
        self.entered = 0
        self.overdue: Callable[[], None] | None = None
        self.place_of = lambda place: place
        self._kind = declared.name
        self._outputs = {name: row_accept_of(schema, f"output {name!r}" if name else "the output") for name, schema in declared.outputs.items()}
        self.key_of: Callable[[Mapping[str, Any]], Sequence[Any]] = row_accept_of(operator.key_schema, "the key")
        on_records = [code.on_record, *(getattr(code, f"on_{one.name}") for one in operator.inputs)]  # type: ignore[attr-defined]
        # By the numbers of inputs; below zero they stand for records behind the watermark.
        self._on_records: dict[int, Any] = {sign * number: method for number, method in enumerate(on_records, 1) for sign in (1, -1)}
        self._on_timer = getattr(code, "on_timer", None)
        self._on_clock = getattr(code, "on_clock", None)
        self._on_broadcast = getattr(code, "on_broadcast", None)
        self.at_end: Any = getattr(code, "_at_end", None)
        self._attributes = _attributes(code)
        self._check, self._aging = self.keep.check, any(slot.ttl_ms is not None for slot in declared.slots)
        self._failing, self._arrival = operator.failed_topic is not None, operator.arrival

    # one key

    def record(self, state: State, row: Mapping[str, Any], time: int, now: int, place: object, given: list[Given], number: int = 1) -> None:
        """Give a key a record of an input, and call the timers that are set before its time; what the process gives is added to `given`."""
        self._call(self._on_records[number], row, state, time, now, given, place, row)
        if state._timers and not self._arrival:
            self.fire(state, time, given)

    def next_timer(self, state: State) -> int | None:
        """Return the time of the key's next timer."""
        return min(state._timers.values(), default=None)

    def fire(self, state: State, upto: int, given: list[Given]) -> None:
        """Call a key's timers of times before `upto`, in the order of times, then names; those set on the way too."""
        same, most = 0, _SAME_TIME + len(state._timers)
        while state._timers:
            at, name = min((at, name) for name, at in state._timers.items())
            if at >= upto:
                break
            del state._timers[name]
            same = same + 1 if at <= state._time else 0
            if same > most:
                raise ProcessError(f"{self._kind} sets timer {name!r} at its own time again and again", where=self._where(None, state))
            if self._on_timer is None:
                raise ProcessError(f"{self._kind} sets timer {name!r}", where=self._where(None, state), fix="write on_timer(self, name, state)")
            time = max(at, state._time)
            self._call(self._on_timer, name, state, time, max(at, state._now), given, None, {"timer": name, "time": time})
        self.keep.purge(state, upto - 1)

    def clock(self, state: State, upto: int, time: int, given: list[Given], clock: int | None = None) -> None:
        """Call a key's timers of the clock up to `upto`, at an event time; the clock itself may be further."""
        state._clock = clock
        try:
            self._fire_clock(state, upto, time, given)
        finally:
            state._clock = None

    def _fire_clock(self, state: State, upto: int, time: int, given: list[Given]) -> None:
        same, most = 0, _SAME_TIME + len(state._clock_timers)
        while state._clock_timers:
            at, name = min((at, name) for name, at in state._clock_timers.items())
            if at > upto:
                return
            del state._clock_timers[name]
            same = same + 1 if at <= state._now else 0
            if same > most:
                raise ProcessError(f"{self._kind} sets clock timer {name!r} at its own time again and again", where=self._where(None, state))
            if self._on_clock is None:
                raise ProcessError(f"{self._kind} sets clock timer {name!r}", where=self._where(None, state), fix="write on_clock(self, name, state)")
            self._call(self._on_clock, name, state, max(time, state._time), at, given, None, {"clock_timer": name, "time": at})

    def _call(
        self,
        method: Callable[[Any, State], Any],
        first: object,
        state: State,
        time: int,
        now: int,
        given: list[Given],
        host_place: object,
        shown: Mapping[str, Any],
    ) -> None:
        """Call a method at a time; if it fails, all is as it was."""
        if self._aging:
            self.keep.begin(state, time, now)
        else:
            state._time, state._now = time, now
        before = self.keep.encode(state) if self._failing else None
        behind = len(given)
        self.entered += 1
        try:
            try:
                rows = method(first, state)
                if rows is not None:
                    self._take(rows, state._time, given, tuple(state._key.values()))
                self._check(state)
            finally:
                self.entered += 1
                if (leave := self.overdue) is not None:
                    leave()
        except (Exception, SystemExit, OverdueError) as error:
            self.overdue = None
            what = self._told(method, state, error)
            place = None if host_place is None else self.place_of(host_place)
            del given[behind:]
            if not self._failing:
                raise ProcessError(what, where=self._where(place, state), fix="fix the process, or give it failed_to= a topic") from error
            self.failures.append(self._failed(what, place, state._key, before, shown))
            time, now = state._time, state._now
            self.keep.restore(state, before)
            state._time, state._now = time, now

    def _take(self, rows: Any, time: int, given: list[Given], key: tuple[Any, ...] | None) -> None:  # noqa: ANN401
        """Add the rows that a method emitted for a key to `given`; without a key, each row has the columns of its own."""
        if isinstance(rows, Mapping) or (isinstance(rows, tuple) and len(rows) == 2 and isinstance(rows[0], str)):
            rows = (rows,)
        if not isinstance(rows, Iterable) or isinstance(rows, str | bytes):
            raise ProcessError(f"gives {rows!r}", fix="yield dicts of columns, or return one")
        outputs = self._outputs
        for row in rows:
            if isinstance(row, tuple) and len(row) == 2:
                name, row = row  # noqa: PLW2901
                if not isinstance(name, str) or name not in outputs:
                    raise ProcessError(f"gives a row to output {name!r}", fix=near(str(name), filter(None, outputs)))
            else:
                name = ""
            own, values = (key, row) if key is not None else self._parted(row)
            given.append((name, time, own, outputs[name](values)))

    def _parted(self, row: Any) -> tuple[tuple[Any, ...], Any]:  # noqa: ANN401
        """Return the key's values in a row, and the row without its key."""
        if not isinstance(row, Mapping):
            return (), row
        names = self.operator.keys
        own = tuple(self.key_of({name: row[name] for name in names if name in row}))
        return own, {name: value for name, value in row.items() if name not in names}

    def end(self, state: State, time: int, given: list[Given]) -> None:
        """Have a process of ours that waits for later records emit what it waits with: the input has ended."""
        self._call(self.at_end, None, state, max(time, state._time), max(time, state._now), given, None, {"time": time})

    # all keys

    def broadcast(self, shared: Shared, row: Mapping[str, Any], place: object, time: int, given: list[Given]) -> bool:
        """Call the process with a broadcast record of a time, and return whether it could be applied; if not, all is as before.

        The rows that the process emits are added to `given`.
        """
        assert self._on_broadcast is not None
        before = len(given)
        self.entered += 1
        try:
            try:
                rows = self._on_broadcast(row, shared)
                if rows is not None:
                    self._take(rows, time, given, None)
                shared.settle()
            finally:
                self.entered += 1
                if (leave := self.overdue) is not None:
                    leave()
        except (Exception, SystemExit, OverdueError) as error:  # noqa: BLE001
            self.overdue = None
            shared.undo()
            del given[before:]
            what = self._told(self._on_broadcast, shared, error)
            self.failures.append(self._failed(what, self.place_of(place), {}, shared.encode(), row))
            return False
        return True

    def check_itself(self) -> None:
        """Raise ProcessError if the process keeps anything on itself."""
        if (kept := _attributes(self.operator.code)) != self._attributes:
            changed = [name for name, value in kept.items() if self._attributes.get(name) != value]
            named = changed[0] if changed else min(self._attributes.keys() - kept.keys())
            raise ProcessError(
                f"{self._kind} keeps {named!r} on itself, where no commit knows of it",
                where=f"process {self.operator.name}",
                fix="declare it in state",
            )

    # what is told of a failure

    def _told(self, method: Callable[..., Any], held: object, error: BaseException) -> str:
        called = f"{self._kind}.{getattr(method, '__name__', method)}"
        if isinstance(error, OverdueError):
            return f"{called} does not end within {self.operator.limit_ms / 1000:g} s"
        if isinstance(error, ProcessError):
            return f"{called} {error.what}{f'; {error.fix}' if error.fix else ''}"
        if isinstance(held, State) and isinstance(error, AttributeError) and (name := _missing(error, held)):
            return f"{called} keeps state it did not declare: {name!r}; {near(name, [slot.name for slot in self.operator.declared.slots])}"
        frames = traceback.extract_tb(error.__traceback__)
        last = next((frame for frame in reversed(frames) if "headrace/kernels" not in frame.filename.replace("\\", "/")), None)
        at = f" at {last.filename.rpartition('/')[2].removeprefix('pipelines of ')}:{last.lineno}" if last else ""
        return f"{called} raised {type(error).__name__}: {error}{at}"

    def _where(self, place: Place | None, state: State) -> str:
        key = ", ".join(f"{name} {value!r}" for name, value in state._key.items())
        return f"process {self.operator.name}, {f'{place}, ' if place else ''}key {key}, time {state._time}, state {self.keep.values(state)}"

    def _failed(self, what: str, place: Place | None, key: Mapping[str, Any], before: bytes | None, shown: Mapping[str, Any]) -> dict[str, Any]:
        at = place or Place("", None, None)
        return {
            "pipeline": self.operator.pipeline or None, "topic": at.topic or None, "partition": at.partition, "offset": at.offset, "reason": "failed", "detail": what,
            "arrived_ms": at.arrived_ms, "raw": _json(shown), "process": self.operator.name, "key": _json(key),
            "state": None if before is None else _json(msgspec.msgpack.decode(before)),
        }  # fmt: skip


def _missing(error: AttributeError, held: object) -> str | None:
    """Return the attribute that an object was found to lack; Python names it in a field only where it was read."""
    if error.obj is held:
        return error.name
    found = re.match(rf"'{re.escape(type(held).__name__)}' object has no attribute '(\w+)'", str(error))
    return found[1] if found else None


def _json(value: object) -> str:
    return _to_json(value).decode()


def _attributes(code: object) -> dict[str, str]:
    """Return a process's own attributes as texts, by which a change shows."""
    return {name: repr(value) for name, value in getattr(code, "__dict__", {}).items()}
