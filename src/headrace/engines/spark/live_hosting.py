"""A process in a stream of Spark: its state and its waiting records are Spark's, and a timer of Spark wakes each key.

Theory of operation
-------------------
Spark's watermark is kept 1 ms behind where it would be, so that Spark drops what headrace calls late and no more, and the
clock is 1 ms before it. A record waits in a list of its key; a timer wakes the key when the first record, timer or expiry of
it is due. Then all that is due is worked through in its order. A key is armed for one time; timers of Spark that were set
before for a later one find nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pandas as pd  # type: ignore[import-untyped]
from pyspark.sql import DataFrame
from pyspark.sql.streaming import StatefulProcessor, StatefulProcessorHandle

from headrace.engines.shipped import unpack
from headrace.engines.spark.hosting import GIVEN, Feeders, Givens
from headrace.engines.watchdog import watch
from headrace.kernels.keyed.process import Place, ProcessKernel

__all__ = ["Hosting"]

_NAMES = [column.split()[0] for column in GIVEN.split(", ")]
_read = msgspec.json.Decoder(dict[str, Any]).decode
_kept = msgspec.msgpack.Encoder().encode
_restored = msgspec.msgpack.Decoder(tuple[int | None, bytes | None]).decode


@dataclass(frozen=True)
class Hosting:
    """A process of a script, as in a batch."""

    process: str
    feeders: Feeders
    broadcast: None = None
    windowed: bool = False

    def of(self, rows: DataFrame) -> DataFrame:
        """Return what the process gives for a stream of rows."""
        unpack(self.process)
        return rows.groupBy("_key").transformWithStateInPandas(_Processor(self.process, self.feeders), GIVEN, "append", "eventtime")


class _Processor(StatefulProcessor):  # type: ignore[misc]
    """A process as Spark calls it, a key at a time."""

    def __init__(self, process: str, feeders: Feeders) -> None:
        self._process, self._feeders = process, dict(feeders)

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Begin a task."""
        self._handle = handle
        self._state = handle.getValueState("state", "kept BINARY")
        self._waiting = handle.getListState("waiting", "at BIGINT, place STRING, row STRING")
        self._kernel = ProcessKernel(unpack(self._process))
        self._givens = Givens(self._kernel)
        watch(self._kernel)

    def handleInputRows(self, key: tuple[str], rows: Iterable[pd.DataFrame], timerValues: object) -> Iterator[pd.DataFrame]:  # noqa: ARG002, N802, N803
        """Have records wait for the watermark."""
        new = [one for frame in rows for one in zip(frame["_time_ms"].tolist(), frame["_place"].tolist(), frame["_row"].tolist(), strict=True)]
        self._waiting.appendList(new)
        armed, state = self._load()
        first = min(at for at, _, _ in new)
        if armed is None or first < armed:
            self._arm(first, state)
        return iter(())

    def handleExpiredTimer(self, key: tuple[str], timerValues: Any, expiredTimerInfo: object) -> Iterator[pd.DataFrame]:  # noqa: ANN401, ARG002, N802, N803
        """Work through what is due for a key."""
        watermark = timerValues.getCurrentWatermarkInMs()
        armed, data = self._load()
        if armed is None or armed > watermark:
            return
        kernel, givens = self._kernel, self._givens
        waiting = [(int(at), place, row) for at, place, row in self._waiting.get()]
        due = sorted(((at, tuple(_read(place).values()), row) for at, place, row in waiting if at <= watermark), key=lambda one: one[:2])
        state = kernel.keep.decode(data, _read(key[0]))
        for at, (source, partition, offset, entry, arrived), row in due:
            kernel.fire(state, at, givens.given)
            givens.take(at)
            kernel.record(state, _read(row), at, arrived, Place(self._feeders[source][0], partition, offset, arrived), givens.given)
            givens.take(at, (source, partition, offset, entry))
        kernel.fire(state, watermark + 1, givens.given)
        givens.take(watermark)
        left = [one for one in waiting if one[0] > watermark]
        if left:
            self._waiting.put(left)
        elif due:
            self._waiting.clear()
        wake = kernel.keep.wake(state)
        self._arm(min([at for at, _, _ in left] + ([] if wake is None else [wake]), default=None), kernel.keep.encode(state))
        if givens.rows:
            yield pd.DataFrame(givens.rows, columns=_NAMES, dtype=object)
            givens.rows = []

    def close(self) -> None:
        """End a task."""
        self._kernel.check_itself()

    def _load(self) -> tuple[int | None, bytes | None]:
        kept = self._state.get()
        return (None, None) if kept is None else _restored(kept[0])

    def _arm(self, at: int | None, state: bytes | None) -> None:
        """Keep a state, and have the key woken when the watermark reaches a time."""
        if at is None and state is None:
            self._state.clear()
            return
        self._state.update((_kept((at, state)),))
        if at is not None:
            self._handle.registerTimer(at - 1)  # it goes off when the watermark is past it
