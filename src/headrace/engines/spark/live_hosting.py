"""A process in a stream of Spark: its keys are dealt to slots, and a slot is what Spark takes for a key.

Theory of operation
-------------------
A slot has the records of its keys and all that is broadcast, so that its scheduler has its keys as the embedded engine's has all
of them. In Spark's state (RocksDB) it has what waits for the watermark, what each key keeps, when keys
want to be woken, and what the broadcast has made of the shared state so far; of all these it touches what is due. A timer of
Spark wakes it when the first record, timer or expiry is due; those that were set for a later time before find nothing to do.

To Spark a row is of the end of its ms, so that Spark drops what is older than the watermark and no more: what headrace calls
late. What is before the watermark is due. So is all that a process gives in a micro-batch, and none of it is late: another
process or a window behind it handles it in the same micro-batch. What is broadcast has no part in the watermark: neither
does a silent topic hold records back, nor is a late rule dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from pyspark.sql import DataFrame
from pyspark.sql import functions as f
from pyspark.sql.streaming import StatefulProcessor, StatefulProcessorHandle

from headrace.engines.shipped import unpack
from headrace.engines.spark.hosting import GIVEN, Feeders, Givens, place_of
from headrace.engines.watchdog import watch
from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.process import ProcessKernel
from headrace.kernels.keyed.schedule import BROADCAST, RECORDS, Record, Scheduler, keys_as_numbers, ordered, overdue
from headrace.kernels.keyed.values import key_code, key_of

__all__ = ["Hosting"]

_FORM = f"{GIVEN}, _time TIMESTAMP"
_NAMES = [column.split()[0] for column in GIVEN.split(", ")]
_COLUMNS = ("_time_ms", "_told", "_place", "_row")
_PIECE, _AT_ONCE = 2_000, 10_000
_log = logging.getLogger(__name__)
_read = msgspec.json.Decoder(dict[str, Any]).decode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list).decode

# A pending record: when it is due, the number of its input (of one besides the broadcast, whether it is that), its place (source, partition, offset, entry), its arrival, its event time, its row.
_Pending = Sequence[Any]
_Kept = tuple[int | None, bytes | None]


@dataclass(frozen=True)
class Hosting:
    """A process of a script, as in a batch."""

    process: str
    feeders: Feeders
    broadcast: str | None = None
    windowed: bool = False

    def of(self, rows: DataFrame) -> DataFrame:
        """Return what the process gives for a stream of rows."""
        arrival = unpack(self.process).arrival
        if arrival:  # a row without a time is never late; the column must still be known as that of the watermark
            rows = rows.withColumn("_time", f.lit(None).cast("timestamp")).withMetadata("_time", {"spark.watermarkDelayMs": 0})
        timed = "" if arrival else "_time"  # by which Spark checks what is given, for what stands behind
        processor = _Processor(self.process, self.feeders)
        return rows.groupBy("_slot").transformWithStateInPandas(processor, _FORM, "append", "eventtime", eventTimeColumnName=timed)


class _Processor(StatefulProcessor):  # type: ignore[misc]
    """A process as Spark calls it, a slot at a time."""

    def __init__(self, process: str, feeders: Feeders) -> None:
        self._process, self._feeders = process, dict(feeders)

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Begin a task."""
        self._handle = handle
        self._slot = handle.getValueState("slot", "kept BINARY")
        self._records = handle.getMapState("records", "number BIGINT", "entries BINARY")
        self._alarms = handle.getMapState("alarms", "number BIGINT", "entries BINARY")
        self._keys = handle.getMapState("keys", "key BINARY", "woken BIGINT, kept BINARY")
        self._shared = handle.getValueState("shared", "kept BINARY")
        self._kernel = ProcessKernel(unpack(self._process))
        watch(self._kernel)
        process = self._kernel.operator
        self._columns = (*_COLUMNS, "_input") if process.inputs else _COLUMNS
        self._keys_of = dict(enumerate([process.keys, *(one.keys for one in process.inputs)], RECORDS))
        self._taking = {number for number, one in enumerate(process.inputs, RECORDS + 1) if one.late == "take"}

    def handleInputRows(self, key: tuple[int], rows: Iterable[pd.DataFrame], timerValues: Any) -> Iterator[pd.DataFrame]:  # noqa: ANN401, N802, N803
        """Have records wait for the watermark; in the order of arrival they do not."""
        slot, clock = self._load(), timerValues.getCurrentWatermarkInMs()
        if self._kernel.operator.arrival:
            yield from self._work(key[0], slot, self._records_of(rows, slot, clock, 0), clock)
            return
        new = self._records_of(rows, slot, None, clock)
        slot.records.add([one for one in new if one[1] >= BROADCAST])
        if at_once := [one for one in new if one[1] < BROADCAST]:
            yield from self._work(key[0], slot, [*slot.records.take(clock), *at_once], clock)
        else:
            self._keep(slot)

    def handleExpiredTimer(self, key: tuple[int], timerValues: Any, expiredTimerInfo: object) -> Iterator[pd.DataFrame]:  # noqa: ANN401, ARG002, N802, N803
        """Work through what is due in a slot."""
        slot, clock = self._load(), timerValues.getCurrentWatermarkInMs()
        if slot.armed is not None and slot.armed < clock:
            yield from self._work(key[0], slot, slot.records.take(clock), clock)

    def close(self) -> None:
        """End a task."""
        self._kernel.check_itself()

    def _records_of(self, frames: Iterable[pd.DataFrame], slot: _Slot, at: int | None, clock: int) -> list[_Pending]:
        """Return new records with when they are due: `at`, else at their own time; what is broadcast too late is due at its partition's watermark.

        A record that the `clock` has passed is due there, on an input that takes late ones. The rows for a broadcast record have no time before the clock.
        """
        new = [
            (told, *_placed(place), time, row, *numbered)
            for frame in frames
            for time, told, place, row, *numbered in zip(*(frame[column].tolist() for column in self._columns), strict=True)
        ]
        records: list[_Pending] = []
        for told, source, partition, offset, entry, arrived, time, row, *numbered in sorted(new, key=itemgetter(slice(0, 5))):
            due = slot.due(source, partition, time, self._feeders[source][1]) if told else time
            number = numbered[0] if numbered else not told
            if time < clock and number in self._taking:
                number, due, time = overdue(number), clock, clock  # noqa: PLW2901
            if told and at is None:
                time = max(due, clock)  # noqa: PLW2901
            records.append((due if at is None else at, number, source, partition, offset, entry, arrived, time, row))
        return records

    def _work(self, number: int, slot: _Slot, due: list[_Pending], clock: int) -> Iterator[pd.DataFrame]:
        """Work through records, and the timers before the clock."""
        records = ordered(map(self._record, due))
        kept = self._kept([key_code(record[9]) for record in records if record[9] is not None], slot.alarms.take(clock))
        scheduler = self._scheduler(kept)
        givens = Givens(scheduler)
        for emission in chain(scheduler.run(records), scheduler.advance(clock)):
            if emission[1] is not None and emission[1][1] == BROADCAST:
                self._emit_once(number, scheduler)
            givens.take(emission)
            if len(givens.rows) >= _AT_ONCE:
                yield self._frame(givens)
        if givens.rows:
            yield self._frame(givens)
        if any(record[1] == BROADCAST for record in records):
            self._shared.update((scheduler.keys.shared.encode(),))
        self._put_away(scheduler.keys, kept, slot, clock)
        self._keep(slot)

    def _record(self, pending: _Pending) -> Record:
        at, of_input, source, partition, offset, entry, arrived, time, text = pending
        row, number = _read(text), int(of_input)
        key = None if number == BROADCAST else tuple([row[name] for name in self._keys_of[abs(number)]])
        return at, number, source, partition, offset, entry, at, time, arrived, key, row

    def _emit_once(self, number: int, scheduler: Scheduler) -> None:
        """Have the first slot alone emit the rows and failures of a broadcast record, which all slots apply."""
        failures = self._kernel.failures
        if number:
            scheduler.given.clear()
        if number == 0 and self._kernel.operator.failed_topic is None:
            for failure in failures:
                _log.warning("process %s: %s; record kept out: %s", failure["process"], failure["detail"], failure["raw"])
        if number or self._kernel.operator.failed_topic is None:
            failures.clear()

    def _frame(self, givens: Givens) -> pd.DataFrame:
        rows, givens.rows = givens.rows, []
        frame, failures = pd.DataFrame(rows, columns=_NAMES, dtype=object), len(self._kernel.operator.declared.outputs)
        ends = [1000 * time + 999 if output != failures else None for time, output in zip(frame["_time_ms"], frame["_output"], strict=True)]
        frame["_time"] = np.array(ends, "datetime64[us]")  # of failures none: that of a rule may be past
        return frame

    # what is kept

    def _load(self) -> _Slot:
        kept = self._slot.get()
        armed, shown, records, alarms = (None, {}, (0, []), (0, [])) if kept is None else _unpack(kept[0])
        return _Slot(armed, shown, _Calendar(self._records, *records), _Calendar(self._alarms, *alarms))

    def _keep(self, slot: _Slot) -> None:
        """Keep what a slot knows, and have it woken when the watermark has passed the first time for which something waits."""
        due = min((one.first for one in (slot.records, slot.alarms) if one.first is not None), default=None)
        self._slot.update((_pack((due, slot.shown, slot.records.kept, slot.alarms.kept)),))
        if due is not None and due != slot.armed:
            self._handle.registerTimer(due + 1)  # it goes off when the watermark is there

    def _kept(self, codes: Iterable[bytes], alarms: Iterable[Any]) -> dict[bytes, _Kept]:
        """Return what is kept for keys that have records, and for those whose alarm has not been set again since."""
        kept: dict[bytes, _Kept] = {code: self._keys.getValue((code,)) or (None, None) for code in dict.fromkeys(codes)}
        for at, code in alarms:
            if code not in kept and (found := self._keys.getValue((code,))) is not None and found[0] == at:
                kept[code] = found
        return kept

    def _scheduler(self, kept: Mapping[bytes, _Kept]) -> Scheduler:
        """Return a scheduler of the keys that have something to do."""
        scheduler = Scheduler(self._kernel, partial(place_of, self._feeders))
        space = scheduler.keys
        space.load([_pack([part for code, (_, state) in kept.items() for part in (code, state)])])
        space.wake(migrate=False)
        if (shared := self._shared.get()) is not None:
            space.restore_shared(shared[0])
        return scheduler

    def _put_away(self, space: Keyspace, kept: Mapping[bytes, _Kept], slot: _Slot, clock: int) -> None:
        """Keep what has changed of the keys, and have them woken."""
        keep, names, alarms = self._kernel.keep, self._kernel.operator.keys, []
        space.take_touched()
        flat = _unpack(space.encoded(kept))
        for code, state in zip(flat[::2], flat[1::2], strict=True):
            before = kept[code]
            woken = None if before[0] is None or before[0] < clock else before[0]
            wake = None if state is None else keep.wake(keep.decode(state, dict(zip(names, key_of(code), strict=True))))
            if wake is not None and (woken is None or wake < woken):
                woken = wake
                alarms.append((wake, code))
            if state is None:
                if before != (None, None):
                    self._keys.removeKey((code,))
            elif (woken, state) != tuple(before):
                self._keys.updateValue((code,), (woken, state))
        slot.alarms.add(alarms)


def _placed(place: str) -> tuple[int, int, int, list[int], int | None]:
    """Return where a record comes from: source, partition, offset, entry, arrival."""
    source, partition, offset, entry, arrived = _read(place).values()
    return source, partition, offset, _ordering(entry), arrived


def _ordering(entry: Any) -> list[int]:  # noqa: ANN401
    """Return an entry as numbers to be put in order by; of a row that a window gives it is the window's start and the keys."""
    return entry if isinstance(entry, list) else keys_as_numbers(_leaves(entry))


def _leaves(value: Any) -> Iterator[Any]:  # noqa: ANN401
    if isinstance(value, dict):
        for one in value.values():
            yield from _leaves(one)
    else:
        yield value


class _Calendar:
    """Pending entries by time, in sorted pieces: a piece that is not due is not touched."""

    def __init__(self, pieces: Any, number: int, index: list[tuple[int, int]]) -> None:  # noqa: ANN401
        self._pieces, self._number, self._index = pieces, number, index

    @property
    def kept(self) -> tuple[int, list[tuple[int, int]]]:
        """The state beside the pieces: the next piece's number, and when the first of each is due."""
        return self._number, self._index

    @property
    def first(self) -> int | None:
        """The first time for which something waits."""
        return min((first for first, _ in self._index), default=None)

    def add(self, entries: list[Any]) -> None:
        """Let entries wait, which begin with their times."""
        entries.sort(key=itemgetter(0))
        for start in range(0, len(entries), _PIECE):
            piece = entries[start : start + _PIECE]
            self._pieces.updateValue((self._number,), (_pack(piece),))
            self._index.append((piece[0][0], self._number))
            self._number += 1

    def take(self, clock: int) -> list[Any]:
        """Take out what is due before the clock."""
        due: list[Any] = []
        left: list[Any] = []
        for number in [number for first, number in self._index if first < clock]:
            for entry in _unpack(self._pieces.getValue((number,))[0]):
                (due if entry[0] < clock else left).append(entry)
            self._pieces.removeKey((number,))
        self._index = [(first, number) for first, number in self._index if first >= clock]
        self.add(left)
        return due


@dataclass
class _Slot:
    """The state of a slot: when it will be woken, the greatest time of each partition of the broadcast, what waits, and when keys want to be woken."""

    armed: int | None
    shown: dict[str, int]
    records: _Calendar
    alarms: _Calendar

    def due(self, source: int, partition: int, time: int, delay: int) -> int:
        """Return when a record of the broadcast is due, which comes next in its partition."""
        name = f"{source} {partition}"
        greatest = self.shown.get(name, time)
        self.shown[name] = max(time, greatest)
        return max(time, greatest - delay)
