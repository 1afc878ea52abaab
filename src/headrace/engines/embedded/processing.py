"""A process of a plan while it runs: records wait in frames until the clock passes them, and the scheduler then calls the process with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import polars as pl

from headrace.engines.embedded.ports import Port, in_arrival, ports_of
from headrace.engines.embedded.skipping import Skipping
from headrace.engines.embedded.stage import Counts, Emitted, Setting, Stage, Turn
from headrace.engines.embedded.state import Loading, Saving
from headrace.engines.watchdog import watch
from headrace.errors import ProcessError
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.columnar.window import key_text
from headrace.kernels.keyed.code import code_digest
from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.process import Given, Place, ProcessKernel
from headrace.kernels.keyed.schedule import BROADCAST, RECORDS, Emission, Record, Scheduler, merged
from headrace.kernels.reading.text import polars_type
from headrace.plan.graph import Node
from headrace.plan.operators import Operator, Process
from headrace.plan.pipeline import FAILED
from headrace.plan.schema import STRING, Schema

__all__ = ["ProcessStage"]

_log = logging.getLogger(__name__)


class ProcessStage(Stage):
    """A process, its keys, and the rows that it buffers.

    Attributes
    ----------
    stored_bytes
        The size of its keys in the last commit, with deletions and with values that later parts have again.
    code, code_before
        The digests of its code, and of the code that left its state if that was another.
    """

    version: ClassVar[int] = 1
    node: Node[Process]

    def __init__(self, node: Node[Process], setting: Setting) -> None:
        self.node, self.operator = node, node.operator
        self.clock_column = f"@clock{node.id}"
        self._watermark = NEVER
        self.stored_bytes = 0
        self._ports = ports_of(node, self.clock_column, silences=setting.silences)
        self._others = [port for port in self._ports.values() if port.name]
        self.kernel = ProcessKernel(self.operator)
        self.scheduler = Scheduler(self.kernel, partial(_place_of, setting.origins))
        self.keyspace = self.scheduler.keys
        self._skipping = _skipping_of(self.operator, self.keyspace)
        for port in self._ports.values():
            port.skipping = self._skipping
        self.code = code_digest(self.operator.code)
        self.code_before: str | None = None
        self._write, self._keyed, self._origins = setting.write, setting.keyed, setting.origins
        self._schemas = {name: self.operator.output(name) for name in self.operator.declared.outputs}
        self._duplicates: dict[str, int] = {}
        self._failures: list[dict[str, Any]] = []
        self._handled = self._failed = self._all_failed = 0
        watch(self.kernel)

    @property
    def watermark(self) -> int:
        """How far it has worked."""
        return self._watermark

    @property
    def placed(self) -> bool:
        """A record's place is told where the process raises."""
        return True

    @property
    def clocked(self) -> bool:
        """In the order of arrival, timers that are due before a record fire before it. An input that does not hold is judged by the watermark."""
        return self.operator.arrival or any(port.clock_column for port in self._others)

    @property
    def ordered(self) -> bool:
        """Its results depend on the order of its inputs in the order of arrival, and with an input that does not hold; so do late records."""
        return self.clocked or self.passes_records

    @property
    def passes_records(self) -> bool:
        """It writes late records of inputs as they are."""
        return any(port.late_topic for port in self._others)

    def wait(self, given: Node[Operator], rank: int, rows: pl.DataFrame) -> None:
        """Buffer records or broadcast records for the end of the turn."""
        self._ports[given].waiting.setdefault(rank, []).append(rows)

    def settle(self, turn: Turn) -> Iterator[Emitted]:
        """Judge the rows that came, call the process with all that is due, and emit its rows."""
        if self._skipping is not None:
            self._skipping.begin()
        if self.operator.arrival:
            yield from self._arrive(turn)
        else:
            self._admit(turn)
        ends_with = turn.ends_with
        yield from self._advance(turn.watermark if ends_with is None else min(turn.watermark, self._end_of(ends_with)))
        self._write_failures()

    def _admit(self, turn: Turn) -> None:
        """Take in what came in this turn, as far as it is not late: it waits for the clock."""
        reached: list[pl.Series] = []
        taken: list[pl.Series] = []
        for port in self._ports.values():
            late = port.admit(self.watermark, reached, taken)
            if late is not None and port.late_topic is not None:
                keys = None if turn.keys is None else turn.keys.gather(late["@record"])
                self._write(port.late_topic, late.select(port.schema.names), keys)
        if reached:
            turn.fates.note(pl.concat(reached), pl.concat(taken))

    def _advance(self, clock: int) -> list[Emitted]:
        """Move the clock, and return what the process gives for all times before it, by output."""
        clock = max([clock, *(until for port in self._others if (until := port.overdue_until) is not None)])
        if clock < self.watermark or (clock == self.watermark and not any(port.overdue for port in self._others)):
            return []
        self._watermark = clock
        due: Iterable[Record] = ()
        if not self.operator.arrival:
            due = self._records(one for port in self._ports.values() for one in port.due(clock))
        return self._frames(chain(self.scheduler.run(due), self.scheduler.advance(clock)))

    def _arrive(self, turn: Turn) -> list[Emitted]:
        """Give the process what came in this turn at once, in the order of the input."""
        arrived = in_arrival([*self._ports.values()], self.clock_column)
        if arrived is None:
            return []
        records, arrivals = arrived
        turn.fates.note(records, records)
        return self._arrived(arrivals)

    def _arrived(self, arrivals: Sequence[tuple[Port, pl.DataFrame]]) -> list[Emitted]:
        """Give the process the rows of its inputs, and return what it gives."""
        return self._frames(self.scheduler.run(self._records((len(rows), port.run(rows, port.number)) for port, rows in arrivals)))

    def _records(self, runs: Iterable[tuple[int, Iterable[Record]]]) -> Iterable[Record]:
        """Return the records of all inputs, each sorted and due, as the scheduler takes them."""
        every = []
        for count, records in runs:
            self._handled += count
            every.append(records)
        return merged(*every) if every else ()

    def fire_clock(self, now: int) -> list[tuple[str, pl.DataFrame]]:
        """Call the timers of the clock on the wall that are due."""
        return self._frames(self.scheduler.fire_clock(now, self.watermark))

    def _frames(self, emissions: Iterable[Emission]) -> list[tuple[str, pl.DataFrame]]:
        """Have the scheduler make its calls, and return what is given as frames by output, in the order given."""
        given: list[Given] = []
        for _ in emissions:
            given += self.scheduler.given
            self._failures += self.kernel.failures
            self.scheduler.given.clear()
            self.kernel.failures.clear()
        self.kernel.check_itself()
        for (rank, _, _), answered in self.scheduler.take_answered():
            if not answered:
                topic, _ = self._origins[rank]
                self._duplicates[topic] = self._duplicates.get(topic, 0) + 1
        frames = []
        for output, schema in self._schemas.items():
            mine = given if len(self._schemas) == 1 else [one for one in given if one[0] == output]
            if mine:
                frames.append((output, self._frame(mine, schema)))
        return frames

    def _frame(self, given: list[Given], schema: Schema) -> pl.DataFrame:
        width = len(self.operator.keys)
        keys = zip(*[one[2] for one in given], strict=True)
        values = zip(*[one[3] for one in given], strict=True)
        columns = [*keys, *values] if len(schema.names) > width else [*keys]
        times = pl.Series("@time", [one[1] for one in given], dtype=pl.Int64)
        series = [pl.Series(field.name, column, dtype=polars_type(field.type)) for field, column in zip(schema.fields, columns, strict=True)]
        frame = pl.DataFrame([times, times.alias("@record"), *series])
        hidden = [pl.lit(NEVER, pl.Int64).alias("@watermark"), pl.lit(-1, pl.Int64).alias("@partition"), pl.lit(None, pl.Int64).alias("@offset")]
        key = [key_text(self.operator.keys)] if self._keyed else []
        return frame.with_columns(*hidden, pl.lit(None, pl.Int64).alias("@arrived"), *key)

    def _write_failures(self) -> None:
        """Write what failed since the last call to its topic; without one, log it."""
        failures, self._failures = self._failures, []
        if not failures:
            return
        self._failed += len(failures)
        self._all_failed += len(failures)
        if self.operator.failed_topic:
            rows = pl.DataFrame(failures, schema={field.name: polars_type(field.type) for field in FAILED.fields})
            self._write(self.operator.failed_topic, rows, None)
            return
        for one in failures:
            _log.warning("process %s: %s; kept out: %s", one["process"], one["detail"], one["raw"])

    @property
    def failures(self) -> tuple[str, int] | None:
        """The topic of its failures, and their number in this run."""
        return (self.operator.failed_topic, self._all_failed) if self._all_failed and self.operator.failed_topic else None

    def take_duplicates(self) -> Mapping[str, int]:
        """Return how many records of each topic were found to be duplicates since the last call."""
        found, self._duplicates = self._duplicates, {}
        return found

    def counts(self) -> Counts:
        """Return its metrics."""
        waiting = sum(len(port) for port in self._ports.values() if port.keys is not None)
        handled, self._handled, failed, self._failed = self._handled, 0, self._failed, 0
        return Counts(len(self.keyspace), self.stored_bytes, self.keyspace.timers, waiting, handled, failed)

    @property
    def _waits(self) -> tuple[int, int] | None:
        """The first and the last time of the rows that wait."""
        times = [time for port in self._ports.values() for time in port.span]
        return (min(times), max(times)) if times else None

    def next_firing_time(self, upto: float, ends_with: Mapping[str, int] | None) -> int | None:
        """Return the watermark, at most `upto`, at which all that is due before has been done; None if nothing is due."""
        waits, timer = self._waits, self.keyspace.next_timer
        first = min([*(waits or ())[:1], *([] if timer is None else [timer])], default=None)
        end = upto if ends_with is None else min(upto, self._end_of(ends_with))
        if first is None or first >= end:
            return None
        if ends_with is None:
            last = max([*(waits or ()), *([] if timer is None else [self.keyspace.last_timer or timer])])
            end = min(end, last + 1)
        return int(end) if end > self.watermark else None

    def _end_of(self, heard: Mapping[str, int]) -> int:
        """Return the clock behind the last event time heard of its sources, and behind all that waits."""
        return max([*(heard[topic] for topic in self.node.traits.topics), *(self._waits or ())], default=NEVER) + 1

    @property
    def next_clock_timer(self) -> int | None:
        """When its first processing-time timer is due."""
        return self.keyspace.next_clock_timer

    def open_counts(self) -> Mapping[str, int]:
        """Return how many event-time timers are set."""
        return {"timers": self.keyspace.count_timers()}

    # state

    def forget_touched(self) -> None:
        """Forget which keys were touched, where nothing is ever committed."""
        self.keyspace.forget_touched()

    def save(self, saving: Saving) -> dict[str, Any]:
        """Return the watermark, buffered rows, keys, and what the process declares of its state."""
        keys, self.stored_bytes = saving.keys(self.keyspace)
        buffers = {port.number: saving.buffer(port.buffer) for port in self._ports.values()}
        others = {"inputs": {port.name: buffers[port.number] for port in self._others}} if self._others else {}
        return {
            "clock": self.watermark,
            "buffer": buffers[RECORDS],
            "rules": buffers.get(BROADCAST, {}),
            **others,
            "keys": keys,
            "version": self.operator.declared.version,
            "code": self.code,
            "slots": self._forms,
            "shared": {"part": saving.shared(self.keyspace.shared)} if self.operator.declared.shared else None,
        }

    def restore(self, state: Mapping[str, Any], loading: Loading) -> None:
        """Take these again. Raises ProcessError if the process declares its state in another form."""
        self._check_forms(state)
        self._watermark = state["clock"]
        if (before := state.get("code")) is not None and self.code not in {None, before}:
            self.code_before = before
        others = state.get("inputs", {})
        for port in self._ports.values():
            saved = others.get(port.name, {}) if port.name else state["rules" if port.number == BROADCAST else "buffer"]
            port.buffer = loading.buffer(saved, port.schema)
        self.stored_bytes = loading.keys(state["keys"], self.keyspace)
        self.keyspace.wake(migrate=state["version"] != self.operator.declared.version)
        if state["shared"] is not None and self.operator.declared.shared:
            loading.shared(state["shared"], self.keyspace.shared)

    @property
    def _forms(self) -> dict[str, str]:
        """The form of each piece of declared state."""
        return {slot.name: f"{slot.kind} of {slot.type}{'' if slot.ttl_ms is None else ' with a ttl'}" for slot in self.operator.declared.slots}

    def _check_forms(self, state: Mapping[str, Any]) -> None:
        """Raise ProcessError if saved state of this version has another form than is declared. Added slots are allowed."""
        declared, version = self._forms, self.operator.declared.version
        for name, form in state["slots"].items() if state["version"] == version else ():
            if declared.get(name) != form:
                what = f"{name!r} was kept as a {form}, and is declared {f'a {declared[name]}' if name in declared else 'no more'}"
                fix = f"set state_version = {version + 1} and write migrate, or start anew"
                raise ProcessError(what, where=f"state of process {self.operator.name}", fix=fix)


def _skipping_of(operator: Process, keyspace: Keyspace) -> Skipping | None:
    """Return what leaves out records of a process; None if it must be called with each."""
    needed = getattr(operator.code, "_needed", None)
    if needed is None or operator.drops_duplicates or keyspace.ages or [operator.record_schema[key].type for key in operator.keys] != [STRING]:
        return None
    return Skipping(needed, getattr(operator.code, "_passed", None), keyspace, operator.keys[0])


def _place_of(origins: Sequence[tuple[str, int]], record: Record) -> Place:
    _, _, rank, _, offset, _, _, _, arrived, _, _ = record
    topic, number = origins[rank] if rank >= 0 else ("", None)
    return Place(topic, number, offset, arrived)
