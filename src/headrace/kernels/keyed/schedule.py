"""The order in which a keyed kernel is called, on every engine.

Theory of operation
-------------------
A key's answers are a function of its records and of their order, so the order is a function of the input alone:

* by event time: a record is due at its time, a broadcast record that is late at its partition's watermark;
* at one time: the broadcast, then the records of the other inputs by input, partition and offset, then the timers by key and name;
* a timer that is set in the past goes off behind the record or timer that set it.

In the order of arrival the place in the input takes the part of the time, and the clock before each record says which timers go off first.

A record carries its position, the first six fields of `Record`. A host stores pending records and keys where its engine wants
them, wakes up when the clock passes the first of them (`Keyspace.next_timer`, or its own record), and brings what is due: in
any order through `ordered`, or as runs that are sorted by the same fields (`SORTED_BY`) through `merged`. `Scheduler.run` then makes
the calls. Nothing here knows a clock, a file or a thread.

An input is a number: 0 is the broadcast, 1 the stream itself, and the others follow in the order of their declaration. Whether a
late record is dropped or is due at the watermark is decided before it gets its position; so is whether an input holds the watermark
back. One that does not may bring a record that is behind the watermark of the process. That record is due there before all else,
since what is before the watermark is done: its input has the number below zero (`overdue`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.process import Given, Place, ProcessKernel

__all__ = [
    "BROADCAST",
    "RECORDS",
    "SORTED_BY",
    "Emission",
    "Record",
    "Scheduler",
    "as_numbers",
    "as_text",
    "keys_as_numbers",
    "keys_as_text",
    "merged",
    "ordered",
    "overdue",
]

BROADCAST, RECORDS = 0, 1

# The position: the time at which a record is due (in the order of arrival its place in the input), the input's number, source, partition, offset, and what
# orders the rows of one place. Then: before which time timers go off first, event time, arrival, the key's values (None for the broadcast), the row.
Record = tuple[Any, int, Any, Any, Any, Any, int, int, "int | None", "tuple[Any, ...] | None", Any]
SORTED_BY = ("at", "input", "source", "partition", "offset", "entry")
_position = itemgetter(slice(0, len(SORTED_BY)))

# Rows were given or calls failed: where in the order, and for which record; None where timers went off.
Emission = tuple[Any, "Record | None"]

_LOW_BITS = 2**31 - 1
_OTHER = 2**30  # more than any source's number


def overdue(number: int) -> int:
    """Return the number of an input for its records that are behind the watermark of the process, and taken there."""
    return -number


def ordered(records: Iterable[Record]) -> list[Record]:
    """Return records by their positions; those of one position stay as they came."""
    return sorted(records, key=_position)


def merged(*runs: Iterable[Record]) -> Iterable[Record]:
    """Return the records of runs that are each in order, in order."""
    first, *others = runs
    for run in others:
        first = _merged(first, run)
    return first


def _merged(many: Iterable[Record], few: Iterable[Record]) -> Iterator[Record]:
    rest = iter(few)
    one = next(rest, None)
    for record in many:
        while one is not None and (one[0] < record[0] or (one[0] == record[0] and _position(one) < _position(record))):
            yield one
            one = next(rest, None)
        yield record
    if one is not None:
        yield one
        yield from rest


class Scheduler:
    """Calls a kernel with what is due, in order, for all keys that its keyspace has.

    Attributes
    ----------
    keys
        The keys: what is retained for each, and when each wants to be woken.
    given
        The rows that were given since the host last took them.
    answered
        Of a process that drops duplicates: for each record since this was last emptied, by source, partition and offset, whether
        a row was given for it.

    `place_of` tells where a record came from, for messages and dead letters; it is called for records that fail.
    """

    def __init__(self, kernel: ProcessKernel, place_of: Callable[[Record], Place]) -> None:
        self.kernel, self.keys, self.given = kernel, Keyspace(kernel), list[Given]()
        self.answered: dict[tuple[Any, Any, Any], bool] = {}
        kernel.place_of = place_of

    def run(self, records: Iterable[Record]) -> Iterator[Emission]:
        """Make the calls for records that are in order, and for the timers due before each.

        Yields whenever rows were given or calls failed: the host takes them before it goes on, from `given` and from the kernel's
        `failures`, and empties both.
        """
        keys, given, failures, dropping = self.keys, self.given, self.kernel.failures, self.kernel.operator.drops_duplicates
        alarms, ages, call = keys.alarms, keys.ages, keys.record
        for record in records:
            at, number, source, partition, offset, _, due, time, arrived, key, row = record
            if ages or (alarms and alarms[0][0] < due):
                keys.fire(due, given)
                if given or failures:
                    yield due, None
            if number == RECORDS:
                call(key, row, time, time if arrived is None else arrived, record, given)  # type: ignore[arg-type]
                if dropping:
                    place = source, partition, offset
                    self.answered[place] = self.answered.get(place, False) or bool(given)
            elif number == BROADCAST:
                keys.broadcast(row, record, time, given)
            else:
                call(key, row, time, time if arrived is None else arrived, record, given, number)  # type: ignore[arg-type]
            if given or failures:
                yield at, record

    def advance(self, clock: int) -> Iterator[Emission]:
        """Make the calls of the timers before the clock."""
        self.keys.fire(clock, self.given)
        if self.given or self.kernel.failures:
            yield clock - 1, None

    def end(self, clock: int) -> Iterator[Emission]:
        """Make the calls for the end of the input, which has been worked through up to the clock."""
        if self.kernel.at_end is not None:
            self.keys.end(clock - 1, self.given)
            if self.given or self.kernel.failures:
                yield clock - 1, None

    def fire_clock(self, now: int, clock: int) -> Iterator[Emission]:
        """Make the calls of the processing-time timers up to `now`, where event time is at `clock`."""
        self.keys.fire_clock(now, clock, self.given)
        if self.given or self.kernel.failures:
            yield clock, None

    def take_answered(self) -> list[tuple[tuple[Any, Any, Any], bool]]:
        """Return, for each record since this was last asked, whether a row was given for it."""
        answered = [*self.answered.items()]
        self.answered.clear()
        return answered


# How rows that were given are ordered among all of their time, for whoever takes them next: those for records first, by the
# records' positions, then those for timers by key. SQL compares arrays of numbers on one engine, and texts on the other.


def as_numbers(record: Record | None, key: bytes, nth: int, *, arrival: bool = False) -> list[int]:
    """Return what orders the n-th row given for a record, or for a key's timers, as numbers. In the order of arrival the input's number comes last."""
    if record is None:
        return [1, *key, nth]
    number, source, partition, offset, entry = record[1:6]
    place = [source, partition, offset >> 31, offset & _LOW_BITS, *(entry or ())]
    if arrival:
        return [0, *place[:4], number, *place[4:], nth]
    if number > RECORDS:
        return [0, _OTHER + number, *place, nth]
    if number < BROADCAST:
        return [0, number - _OTHER, *place, nth]
    return [0, -1, *place, nth] if number == BROADCAST else [0, *place, nth]


def as_text(record: Record | None, key: bytes, nth: int) -> str:
    """Return the same as a text."""
    if record is None:
        return f"1{key.hex()}!{nth:06x}"
    source, partition, offset, entry = record[2:6]
    place = "" if source is None else f"{source:04x}{partition:08x}{offset:016x}"
    if (number := record[1]) > RECORDS:
        place = f"g{number:04x}{place}"  # behind all hexadecimal digits, as those of the stream itself begin
    elif number < BROADCAST:
        place = f"!{-number:04x}{place}"  # before them
    elif number == BROADCAST:
        place = f"#{place}"  # before them, too
    return f"0{place}{entry or ''}{nth:06x}"


def keys_as_numbers(keys: Iterable[str | int | None]) -> list[int]:
    """Return what orders the rows of windows of one end, by the windows' starts and their keys, as numbers: NULL first."""
    numbers: list[int] = []
    for key in keys:
        match key:
            case None:
                numbers.append(0)
            case str():
                numbers += [1, *(ord(letter) + 1 for letter in key), 0]
            case _:
                numbers += [1, key >> 32, (key & 0xFFFFFFFF) - 2**31]
    return numbers


def keys_as_text(keys: Sequence[str | int | None]) -> str:
    """Return the same as a text."""
    return "".join("0" if one is None else f"1{one.encode().hex()}!" if isinstance(one, str) else f"1{one + 2**63:016x}" for one in keys)
