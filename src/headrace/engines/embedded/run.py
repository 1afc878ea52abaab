"""A bounded run: files in, files out, in turns; resumable, and byte-equal however often it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from headrace._durable import write_durably, write_fault
from headrace.engines.embedded.checkpoint import Checkpoint
from headrace.engines.embedded.graph import Graph, now_of
from headrace.engines.embedded.output import Files, Output
from headrace.engines.embedded.partition import Partition, Turn
from headrace.engines.embedded.stage import Fates
from headrace.engines.embedded.state import STATE_FORMATS
from headrace.errors import EnvironmentFault
from headrace.kernels.columnar.order import clock_before, in_order, turn
from headrace.kernels.columnar.watermark import FOREVER, NEVER, Clock
from headrace.kernels.ledger import Account, Reasons
from headrace.plan.pipeline import Plan
from headrace.plan.rewrite import read_numbers_at_once
from headrace.topics.files import open_file
from headrace.topics.protocol import HeaderedReader, KeyedReader, PartitionReader

__all__ = ["NO_LIMITS", "Limits", "Progress", "Run", "accounts_of", "run_files", "run_to"]

_COMMIT_SECONDS = 5.0
DRAIN_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: bytes or rows read of how many, and the records received."""

    done: int
    total: int
    received: int


class Run:
    """A plan over the partitions of its sources, taken turn by turn.

    Parameters
    ----------
    live
        Whether the partitions are a log's: then a turn takes what is there of all of them, what windows give is written
        with its keys, and a partition read to its end rests, since more may come another time.
    silences
        Whether topics can fall silent: then an input of a process that does not hold the watermark back is not waited for.
    max_ahead_ms
        How far past its arrival a record's event time may lie.
    drain
        Whether event time runs on for processes where the input ends, until no timer is left, `DRAIN_MS` at most.
    """

    def __init__(
        self,
        plan: Plan,
        readers: Mapping[str, Sequence[PartitionReader]],
        output: Output,
        *,
        live: bool = False,
        silences: bool = False,
        max_ahead_ms: int | None = None,
        drain: bool = False,
    ) -> None:
        plan, unread = read_numbers_at_once(plan)
        self._output, self._live = output, live
        self._drain_ms = DRAIN_MS if drain else 0
        origins = [(source.topic, number) for source in plan.sources for number in range(len(readers[source.topic]))]
        self.graph = Graph(plan, output.write, keyed=live, silences=silences, origins=origins)
        self.partitions: list[Partition] = []
        for source in plan.sources:
            for number, reader in enumerate(readers[source.topic]):
                unread_here, placed = unread.get(source.topic, ()), self.graph.placed
                self.partitions.append(Partition(source, number, len(self.partitions), reader, unread_here, max_ahead_ms, placed=placed))
        self.ledger = {source.topic: Account() for source in plan.sources}
        self.clocks = {source.topic: Clock() for source in plan.sources}
        for partition in self.partitions:
            known = {kind for _, kind in partition.source.metadata}
            if isinstance(partition.reader, KeyedReader):
                partition.reader.keyed = self.graph.passes_records or "key" in known
            if isinstance(partition.reader, HeaderedReader):
                partition.reader.headered = "headers" in known
            self._show(partition)

    def _show(self, partition: Partition) -> None:
        clock = self.clocks[partition.source.topic]
        if partition.finished and not self._live:
            clock.finish(partition.rank)
            return
        clock.show(partition.rank, partition.greatest, partition.delay)
        if partition.finished:
            clock.resting.add(partition.rank)

    @property
    def finished(self) -> bool:
        """Whether every partition has been read to its end."""
        return all(partition.finished for partition in self.partitions)

    @property
    def drained(self) -> bool:
        """Whether nothing more is there to be read now."""
        return all(partition.drained for partition in self.partitions)

    def take_turn(self, most: int | None = None) -> None:
        """Read what comes next, at most so many records, and work it through."""
        before = {p.rank: self.clocks[p.source.topic].holding(p.rank) for p in self.partitions}
        turns = self._next_in_order(most) if self.graph.ordered else self._next(most)
        fates = Fates()
        rows, first = [], 0
        for one in turns:
            numbered = one.rows if one.first == first else one.rows.with_columns((pl.col("@record") - one.first + first).alias("@record"))
            rows.append(numbered if self.graph.ordered else numbered.drop("@order", "@shown"))
            first += one.received
        rows = self._with_clocks(turns, rows, before)
        for one, frame in zip(turns, rows, strict=True):
            self.graph.enter(one.partition.source.topic, one.partition.rank, frame)
            self._show(one.partition)
        self.graph.settle(self.clocks, fates, self._heard, keys=_keys(turns))
        self._enter(turns, fates)

    def follows_in_order(self) -> bool:
        """Return whether what is at hand comes behind all that was taken, in the order of the input; where the order does not matter it always does.

        Kafka's partitions have no common order: a record that was fetched late may have arrived before others that were taken.
        """
        if not self.graph.ordered or len(self.partitions) == 1:
            return True
        heads = [(int(order[0]), p.rank) for p in self.partitions if not p.drained and len(order := p.fill()["@order"])]
        return not heads or min(heads) >= max((p.order, p.rank) for p in self.partitions)

    @property
    def _heard(self) -> dict[str, int]:
        """The last event time of each source's records, and of a drain what it adds: where the input ends, processes see time stop there."""
        heard = dict.fromkeys(self.clocks, NEVER)
        for partition in self.partitions:
            heard[partition.source.topic] = max(heard[partition.source.topic], partition.heard)
        return {topic: at + self._drain_ms if at > NEVER else at for topic, at in heard.items()}

    def _next(self, most: int | None) -> list[Turn]:
        """Return the next batch of the partition that holds the clock back, or of all where they are taken together."""
        ready = [partition for partition in self.partitions if not partition.drained]
        if self._live:
            return [partition.take() for partition in ready]
        return [min(ready, key=lambda p: p.greatest).take(most=most)]

    def _next_in_order(self, most: int | None) -> list[Turn]:
        """Return, of each partition, the rows that come before any row not read yet."""
        open_ones = [partition for partition in self.partitions if not partition.drained]
        orders = {partition.rank: partition.fill()["@order"] for partition in open_ones}
        counts = turn(orders, {p.rank for p in open_ones if not p.ends_with_batch})
        next_ones = [p for p in open_ones if counts[p.rank] or not len(orders[p.rank])]
        if most is None:
            return [p.take(counts[p.rank]) for p in next_ones]
        shares = _shares(next_ones, counts, orders, most)
        return [p.take(counts[p.rank], shares[p.rank]) for p in next_ones if shares[p.rank]]

    def _with_clocks(self, turns: Sequence[Turn], rows: list[pl.DataFrame], before: Mapping[int, int]) -> list[pl.DataFrame]:
        """Return the rows with `@partition`, and with the clock before each of them for the stages that ask for it."""
        clocked = self.graph.clocked
        if not clocked and not self.graph.placed:
            return rows
        ranked = [_ranked(frame, one.partition.rank) for one, frame in zip(turns, rows, strict=True)]
        if not clocked:
            return ranked
        ordered = in_order([frame[["@partition", "@order", "@shown"]] for frame in ranked])
        delays = {p.rank: p.delay for p in self.partitions}
        finished = {one.partition.rank for one in turns if one.partition.finished}
        for column, feeders in clocked:
            mine = {p.rank: before[p.rank] for p in self.partitions if p.source.topic in feeders}
            clock = clock_before(ordered, mine, delays, finished)
            if self._live and (idle := clock >= FOREVER).any():  # where all that is waited for is idle, the watermark stays where it is
                clock = clock.set(idle, now_of([self.clocks[topic] for topic in feeders]))
            ordered = ordered.hstack([clock.alias(column)])
        columns = [column for column, _ in clocked]
        clocks = [(ordered if len(turns) == 1 else ordered.filter(pl.col("@partition") == one.partition.rank))[columns] for one in turns]
        return [frame.hstack(mine) for frame, mine in zip(ranked, clocks, strict=True)]

    def _enter(self, turns: Sequence[Turn], fates: Fates) -> None:
        first = 0
        for one in turns:
            reached, taken = fates.count(first, first + one.received)
            first += one.received
            future = sum(letter.reason == "future" for letter in one.dead)
            account = self.ledger[one.partition.source.topic]
            account.settle(received=one.received, malformed=len(one.dead) - future, future=future, reached=reached, taken=taken)
            for letter in one.dead:
                account.reasons.note(letter.partition, letter.offset, letter.detail)
            self._output.set_aside(one.dead)
        self._enter_duplicates()

    def _enter_duplicates(self) -> None:
        """Enter what processes found to be duplicates: it was accepted when it came."""
        for topic, count in self.graph.take_duplicates():
            self.ledger[topic].found_duplicate(count)

    def wants(self, upto: float, *, ended: bool = False) -> int | None:
        """Return the clock, at most `upto`, that has windows with rows close and processes do what is due; None if there is nothing."""
        return self.graph.next_firing_time(upto, self._heard if ended else None)

    def show(self, shown: Mapping[int, int], *, clock_ms: int | None = None, ended: bool = False) -> None:
        """Take it that partitions, by rank, have shown these event times, and close what that closes.

        With `clock_ms`, timers of the clock up to then go off before. Where the input has `ended`, processes see time stop
        at the last event.
        """
        if clock_ms is not None:
            self.graph.fire_clock(clock_ms)
        for rank, greatest in shown.items():
            self.partitions[rank].show(greatest)
            self._show(self.partitions[rank])
        self.graph.settle(self.clocks, Fates(), self._heard, ended=ended)
        self._enter_duplicates()

    @property
    def received(self) -> int:
        """How many records have been received."""
        return sum(account.received for account in self.ledger.values())

    def finish(self) -> None:
        """Close what the end of the input closes, be it that nothing more is read of it."""
        for partition in self.partitions:
            self.clocks[partition.source.topic].finish(partition.rank)
        self.graph.settle(self.clocks, Fates(), self._heard)
        self._enter_duplicates()

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        positions = [(p.reader.position, p.reader.finished) for p in self.partitions]
        total = sum(at["size"] for at, _ in positions)
        done = sum(at["size"] if finished else at.get("byte", at["record"]) for at, finished in positions)
        return Progress(done, total, self.received)

    # commits

    def saved(self) -> dict[str, Any]:
        """Return where the run is, for a commit."""
        return {
            "partitions": [partition.saved() for partition in self.partitions],
            "ledger": {topic: account.counts() for topic, account in self.ledger.items()},
            "reasons": {topic: account.reasons.saved() for topic, account in self.ledger.items()},
            "clocks": {topic: {"reached": clock.reached, "resting": sorted(clock.resting)} for topic, clock in self.clocks.items()},
        }

    def restore(self, saved: Mapping[str, Any], ranks: Mapping[int, int] | None = None) -> None:
        """Go on where a commit left off. `ranks` are those that the partitions have now, by those that they had, if they are others."""
        now = {rank: rank for rank in range(len(self.partitions))} if ranks is None else ranks
        for was, state in enumerate(saved["partitions"]):
            if was in now:
                partition = self.partitions[now[was]]
                partition.restore(state)
                self._show(partition)
        self.ledger |= {topic: account for topic, account in accounts_of(saved).items() if topic in self.ledger}
        for topic, clock in saved["clocks"].items():
            if topic in self.clocks:
                self.clocks[topic].reached = clock["reached"]
                self.clocks[topic].resting = {now[rank] for rank in clock["resting"] if rank in now}
        for partition in self.partitions:
            self._show(partition)


def accounts_of(saved: Mapping[str, Any]) -> dict[str, Account]:
    """Return the ledger that a commit has."""
    reasons = saved.get("reasons", {})
    return {topic: Account(**counts, reasons=Reasons(reasons.get(topic, ()))) for topic, counts in saved["ledger"].items()}


def _shares(parts: Sequence[Partition], counts: Mapping[int, int], orders: Mapping[int, pl.Series], most: int) -> dict[int, int]:
    """Return how many of `most` records each partition may take, so that the rows among them are the first of all in their order.

    A malformed record has no place in the order: it goes with the row before it, or where there is no row with its partition.
    """
    reach = {p.rank: p.reach(counts[p.rank]) for p in parts}
    shares = {p.rank: 0 for p in parts}
    for part in (p for p in parts if not reach[p.rank]):
        shares[part.rank] = min(part.at_hand, most)
        most -= shares[part.rank]
    places = [pl.DataFrame({"@partition": [rank] * len(upto), "@order": orders[rank][: len(upto)]}) for rank, upto in reach.items() if upto]
    rows = {rank: iter(upto) for rank, upto in reach.items()}
    for rank in in_order(places)["@partition"] if places else ():
        taken = min(next(rows[rank]) - shares[rank], most)
        shares[rank], most = shares[rank] + taken, most - taken
        if not most:
            break
    return shares


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends by itself: after so many seconds, or so many records; with `drain` it then closes the open windows.

    Over files, `drain` also has event time run on for processes, `DRAIN_MS` at most, so that timers after the last event fire.
    """

    duration: float | None = None
    records: int | None = None
    drain: bool = False


NO_LIMITS = Limits()


@contextmanager
def _opened(plan: Plan, inputs: Mapping[str, Sequence[Path]], chunk: int | None = None) -> Iterator[dict[str, list[PartitionReader]]]:
    """Open the files, and close them in the end."""
    with ExitStack() as stack:
        readers: dict[str, list[PartitionReader]] = {}
        for source in plan.sources:
            for path in inputs[source.topic]:
                reader = open_file(path, chunk)
                stack.callback(reader.close)
                readers.setdefault(source.topic, []).append(reader)
        yield readers


def run_to(
    plan: Plan,
    inputs: Mapping[str, Sequence[Path]],
    output: Output,
    *,
    progress: Callable[[Progress], None] | None = None,
    limits: Limits = NO_LIMITS,
    chunk: int | None = None,
) -> dict[str, Account]:
    """Run the plan over files with no state kept, and return the ledger."""
    plan.check_inputs(inputs)
    with _opened(plan, inputs, chunk) as readers:
        run = Run(plan, readers, output, drain=limits.drain)
        done = _work(run, limits, progress, run.graph.forget_touched)
    run.graph.tell_failures()
    if done:
        run.graph.tell_open(drained=limits.drain)
    return run.ledger


def _work(run: Run, limits: Limits, progress: Callable[[Progress], None] | None, after_turn: Callable[[], None]) -> bool:
    """Work to the end of the input, or as far as the limits allow; return whether everything was closed then."""
    began, first = time.monotonic(), run.received
    while not run.finished:
        left = None if limits.records is None else first + limits.records - run.received
        if left == 0 or (limits.duration is not None and time.monotonic() - began >= limits.duration):
            break
        run.take_turn(left)
        after_turn()
        if progress:
            progress(run.progress)
    done = run.finished or limits.drain
    if done:
        run.finish()
    return done


def run_files(
    plan: Plan,
    inputs: Mapping[str, Sequence[Path]],
    folder: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    chunk: int | None = None,
    commit_seconds: float = _COMMIT_SECONDS,
    output_format: str = "ndjson",
    limits: Limits = NO_LIMITS,
) -> dict[str, Account]:
    """Run the plan over files, and leave its outputs, dead letters and ledger in `folder`.

    Parameters
    ----------
    inputs
        Files by topic; several files of one topic are its partitions.
    folder
        Where outputs go, and under `.run` the state while the run lasts. A run that was killed goes on from there.
    chunk
        How much to read at once: bytes of text, rows of Parquet. The results do not depend on it.
    commit_seconds
        How long to work between commits. Nor on that.
    output_format
        `ndjson` or `parquet`.
    limits
        When to stop before the end of the input. With windows left open, `folder` then has what came out so far, and the next
        run goes on from there.

    Raises
    ------
    PlanError
        If the inputs are not those of the plan.
    DataError
        If a file as a whole is not what its name says.
    EnvironmentFault
        If a file or folder cannot be read or written, is in use, or holds the state of another run.
    """
    plan.check_inputs(inputs)
    checkpoint = Checkpoint(folder / ".run")
    try:
        manifest = checkpoint.open()
        identity = _identity(plan, inputs)
        if manifest is not None:
            _check_same(plan, manifest, identity, checkpoint.folder)
        partitions = [(source.topic, number) for source in plan.sources for number in range(len(inputs[source.topic]))]
        files = Files(plan.pipeline, checkpoint.folder, plan.topics, partitions)
        if manifest is None or not manifest["done"]:
            with _opened(plan, inputs, chunk) as readers:
                run = Run(plan, readers, files, drain=limits.drain)
                manifest = _Committing(run, checkpoint, files, identity).work(manifest, limits, progress, commit_seconds)
        files.publish(folder, {topic: plan.schema_of(topic) for topic in plan.topics}, output_format, keep=not manifest["done"])
        _publish_ledger(plan, manifest, checkpoint, folder)
        return accounts_of(manifest)
    finally:
        checkpoint.close()


@dataclass
class _Committing:
    """A run that commits as it goes."""

    run: Run
    checkpoint: Checkpoint
    files: Files
    identity: Mapping[str, Any]

    def work(self, begun: dict[str, Any] | None, limits: Limits, progress: Callable[[Progress], None] | None, every: float) -> dict[str, Any]:
        """Work to the end or the limits, from where the manifest `begun` says or from the start, and return the last manifest."""
        try:
            self.files.open(begun["lengths"] if begun else {})
            if begun:
                self.checkpoint.restore(begun, self.run.graph)
                self.run.graph.tell_changed_code("from where the run was stopped")
                self.run.restore(begun)
            else:
                self.commit(done=False)
            due = time.monotonic() + every

            def after_turn() -> None:
                nonlocal due
                if time.monotonic() >= due:
                    self.commit(done=False)
                    due = time.monotonic() + every

            done = _work(self.run, limits, progress, after_turn)
            manifest = self.commit(done=done, left_open=self.run.graph.open_counts())
            self.run.graph.tell_failures()
            if manifest["done"]:
                self.run.graph.tell_open(drained=limits.drain)
            return manifest
        finally:
            self.files.close()

    def commit(self, *, done: bool, left_open: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make all of it durable together, and return the manifest. `left_open` is what a run that ends leaves open."""
        manifest = {**self.identity, **self.run.saved(), "lengths": self.files.sync(), "done": done, "open": left_open or {}}
        self.checkpoint.commit(manifest, self.run.graph)
        return manifest


def _identity(plan: Plan, inputs: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    return {**plan.identity, "inputs": {topic: [str(path.absolute()) for path in paths] for topic, paths in inputs.items()}}


def _check_same(plan: Plan, manifest: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    if manifest.get("format") not in STATE_FORMATS:
        raise EnvironmentFault(
            f"holds state of format {manifest.get('format')}, not {STATE_FORMATS[0]}",
            where=str(folder),
            fix=f"finish it with the headrace that began it, or remove {folder}",
        )
    other = plan.differs(manifest) or ("inputs" if manifest["inputs"] != identity["inputs"] else None)
    if other is not None:
        shown = f"of {other} {manifest[other]!r}" if other in {"pipeline", "version"} else f"with other {other}"
        raise EnvironmentFault(
            f"holds an unfinished run {shown}", where=str(folder), fix=f"finish that one, remove {folder}, or name another --output"
        )


def _publish_ledger(plan: Plan, manifest: Mapping[str, Any], checkpoint: Checkpoint, folder: Path) -> None:
    path = folder / "ledger.json"
    try:
        aside = checkpoint.folder / "ledger.json"
        left_open = {"open": manifest["open"]} if manifest.get("open") else {}
        written = msgspec.json.encode({"pipeline": plan.pipeline, "sources": manifest["ledger"], **left_open})
        write_durably(aside, msgspec.json.format(written) + b"\n")
        aside.replace(path)
        if manifest["done"]:
            checkpoint.discard()
    except OSError as error:
        raise write_fault(path, error) from None


def _ranked(rows: pl.DataFrame, rank: int) -> pl.DataFrame:
    """Return the rows with the rank of their partition."""
    return rows.hstack([pl.Series("@partition", [rank], dtype=pl.Int64).new_from_index(0, len(rows))])


def _keys(turns: Sequence[Turn]) -> pl.Series | None:
    """Return the keys of the records of turns, by `@record`; None if they have none."""
    if all(one.keys is None for one in turns):
        return None
    return pl.concat([pl.Series([None] * one.received, dtype=pl.Binary) if one.keys is None else one.keys for one in turns])
