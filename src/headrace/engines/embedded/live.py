"""A live run: topics of a log in, topics of the same log out, in epochs; each commit makes a step of work durable, whole.

Time of the clock on the wall comes from outside, and decides two things only: when a quiet partition stops holding the
windows back, and when windows close although nothing comes any more. Each such step is written down, in the topic
`PIPELINE.clock`, with the offsets at which it was taken, so that a replay takes it there again. So are the offsets before
records that were fetched behind others that arrived later, as may be on Kafka: all else is taken in the order of arrival.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

import msgspec
import polars as pl

from headrace._clock import now_ms
from headrace.engines.embedded.carrying import carried_over, new_ranks
from headrace.engines.embedded.output import encode_rows
from headrace.engines.embedded.partition import Partition
from headrace.engines.embedded.run import NO_LIMITS, Limits, Run
from headrace.engines.embedded.stage import Counts
from headrace.engines.embedded.state import Parts
from headrace.errors import InternalError, PlanError
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.ledger import Account
from headrace.plan.changes import Changes, check_stages
from headrace.plan.pipeline import Plan
from headrace.topics.beginning import Begin, offsets_from, shown
from headrace.topics.dead_letters import DeadLetter, encode_dead_letter
from headrace.topics.making import make_topics
from headrace.topics.protocol import Away, Commit, Log, Outgoing

__all__ = ["Committed", "Limits", "Live", "Patience", "Step", "retake", "run_live"]

AWAY_SECONDS = 60.0
_PAUSE_SECONDS = 0.5
_DAY_SECONDS = 86_400.0

_encode = msgspec.json.encode
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How a live run takes the clock on the wall, in ms; None is never.

    Attributes
    ----------
    idle_after
        A partition quiet for so long stops holding windows back.
    close_quiet_after
        When all have been quiet for so long, the watermark follows the clock, up to the end of the latest open window.
    max_ahead
        A record whose event time lies further past its arrival is set aside as `future`.
    rings
        Whether processes' timers of the clock go off.
    """

    idle_after: int | None = 30_000
    close_quiet_after: int | None = 60_000
    max_ahead: int | None = 3_600_000
    rings: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no time to wait."""
        for name in ("idle_after", "close_quiet_after", "max_ahead"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise PlanError(f"{name} is {value} ms", fix="give 0 or more")


NO_CLOCK = Patience(None, None, None, rings=False)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the clock: at these offsets, the partitions, by their ranks, had shown this much and these rested.

    With `clock_ms`, timers of the clock up to then went off. `ended` says that the input was taken to end there. `code` are the
    processes whose code changed there: the digests of the code before and behind, by name. Where the pipeline changed, `settings`
    have what those that changed were and are, and `plan` the digest of its nodes. `begins` says that the pipeline was begun there, and why.
    `cuts` are the offsets, since the step before, at which the order of the input was broken: all records before them were taken
    before any behind them, though some of these come first in the order.
    """

    offsets: tuple[int, ...]
    shown: tuple[int, ...]
    resting: tuple[int, ...]
    clock_ms: int | None = None
    ended: bool = False
    code: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    settings: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    plan: str | None = None
    begins: str | None = None
    cuts: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that was made, for metrics and observers. `received` counts from the pipeline's beginning, `first` up to this run's."""

    epoch: int
    seconds: float
    received: int
    first: int
    written: int
    state_bytes: int
    lag: int
    ledger: Mapping[str, Mapping[str, int]]
    watermarks: Mapping[str, int]
    processes: Mapping[str, Counts] = field(default_factory=dict)


class Staged:
    """The output of a pipeline's run since the last commit: by topic, and by partition where it chooses that itself."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._parts: dict[tuple[str, int | None], list[tuple[bytes, int, Sequence[str | bytes | None] | None]]] = {}

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None) -> None:
        """Stage rows for a topic."""
        if len(rows):
            self.say(topic, encode_rows(rows)[:-1], len(rows), None if keys is None else keys.to_list())

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Stage dead letters, each for the partition of the number that its record's has: so no batch decides their order."""
        for letter in letters:
            self.say(f"{letter.topic}.dead-letter", encode_dead_letter(self._pipeline, letter)[:-1], 1, None, letter.partition)

    def say(self, topic: str, lines: bytes, count: int, keys: Sequence[str | bytes | None] | None, partition: int | None = None) -> None:
        """Stage lines of JSON for a topic."""
        self._parts.setdefault((topic, partition), []).append((lines, count, keys))

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self) -> list[Outgoing]:
        """Return what was staged, a piece for each topic and partition, and forget it."""
        pieces = []
        for (topic, partition), parts in sorted(self._parts.items(), key=lambda piece: piece[0][1] or 0):
            counts = [count for _, count, _ in parts]
            keyed = any(keys is not None for *_, keys in parts)
            keys = [key for _, count, keys in parts for key in (keys or [None] * count)] if keyed else None
            pieces.append(Outgoing(topic, b"\n".join([lines for lines, *_ in parts]), sum(counts), keys, partition))
        self._parts.clear()
        return pieces


@dataclass
class Live:
    """A pipeline that runs on a log.

    Parameters
    ----------
    batch_records
        How many records to take in at once, at most; else some MB.
    latest
        Whether to end where the topics end now, everything closed, as with a file.
    anew
        Whether to forget what the pipeline has committed and start from the first records.
    reset
        Names of windows and processes that start without state.
    begin
        Where a pipeline without a commit begins; at the first records by default.
    clock, tick
        The clock on the wall, ms since the epoch, and one that only goes forward, in seconds.

    Attributes
    ----------
    begins, begun
        The offsets by topic at which this run began, and at which the pipeline began, if `begin` decided that.
    expired
        The first offset, by partition, where a pipeline that has no state yet begins behind records that retention dropped.
    """

    plan: Plan
    log: Log
    patience: Patience = field(default_factory=Patience)
    batch_records: int | None = None
    latest: bool = False
    anew: bool = False
    reset: tuple[str, ...] = ()
    begin: Begin | None = None
    clock: Callable[[], int] = now_ms
    tick: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Take the pipeline, and go on where its last commit left it."""
        if self.latest:
            self.patience = NO_CLOCK
        check_stages(self.plan, self.reset)
        self.begins: dict[str, list[int]] = {}
        self.begun: dict[str, list[int]] = {}
        self._open(anew=self.anew)
        self._first = self.received

    def _open(self, *, anew: bool) -> None:
        plan = self.plan
        self._staged, self._parts = Staged(plan.pipeline), Parts()
        self._cuts: list[list[int]] = []
        self.epoch, self.changes = 0, Changes()
        self.claim = self.log.claim(plan.pipeline)
        try:
            if anew:
                self.claim.forget()
            make_topics(self.log, self.plan, self._clock_topic)
            self.feed = self.log.feed([source.topic for source in plan.sources], latest=self.latest)
            firsts = {reader.name: reader.position["record"] for readers in self.feed.readers.values() for reader in readers}
            self.expired = {name: first for name, first in firsts.items() if first} if self.claim.manifest is None else {}
            self.run = Run(plan, self.feed.readers, self._staged, live=True, silences=not self.latest, max_ahead_ms=self.patience.max_ahead)
            if self.claim.manifest is None:
                self._begin()
            else:
                self._restore(msgspec.json.decode(self.claim.manifest))
        except BaseException:
            self.claim.release()
            raise
        self._committed_at = self.tick()
        self._heard = dict.fromkeys((partition.rank for partition in self.run.partitions), self._committed_at)
        self._failed = False
        self.changed = self.claim.manifest is None
        if self.changed and (self.begins or self.expired or anew):
            self._write_step(begins="earliest" if self.begin is None else shown(self.begin))
        if self.changes:
            self._note_changes()
        if self.run.graph.changed_code:
            self._note_changed_code()

    def _begin(self) -> None:
        """Begin where it was asked for. A log that went away before the first commit does not make it begin elsewhere."""
        if self.begin is None:
            return
        self.begun = self.begins = self.begins or offsets_from(self.log, [source.topic for source in self.plan.sources], self.begin)
        if self.begin != "earliest":
            self.expired = {}
        for partition in self.run.partitions:
            partition.begin_at(self.begins[partition.source.topic][partition.number])

    def reopen(self) -> None:
        """Let the pipeline go and take it again, as a new process would: what was not committed is forgotten, and done again."""
        self.close()
        self._open(anew=False)

    @property
    def _clock_topic(self) -> str:
        return f"{self.plan.pipeline}.clock"

    def _note_changes(self) -> None:
        """Log how the pipeline has changed since its last commit, and write this to the topic of clock steps, for a replay."""
        _log.warning("pipeline %s: has changed since its last commit; from offsets %s:", self.plan.pipeline, self.offsets)
        for line in self.changes.lines():
            _log.warning("  %s", line)
        self._write_step(settings=self.changes.settings, plan=self.plan.identity["operators"])
        self.changed = True

    def _note_changed_code(self) -> None:
        """Say that processes go on with other code, and write it down with the offsets, for a replay."""
        self.run.graph.tell_changed_code(f"from offsets {self.offsets}")
        self._write_step(code=self.run.graph.changed_code)
        self.changed = True

    # state

    def _identity(self) -> dict[str, Any]:
        return {**self.plan.identity, "sources": [f"{p.source.topic}/{p.number}" for p in self.run.partitions]}

    def _restore(self, manifest: dict[str, Any]) -> None:
        self.changes = carried_over(self.plan, manifest, self.reset)
        ranks = new_ranks(self.plan, manifest["sources"], self._identity()["sources"])
        self._parts.restore(manifest, self.run.graph.plan, self.run.graph.stages, self.claim.load, names=self.changes.kept, ranks=ranks)
        self.run.restore(manifest, ranks)
        self.epoch, self.begun = manifest["epoch"], manifest.get("begun", {})

    def commit(self) -> Committed:
        """Make all work since the last commit durable."""
        if self._failed:
            raise InternalError("a commit has failed, and what it was to make durable is gone: start the pipeline again")
        began = self.tick()
        if self._cuts:
            self._write_step()
        saved, new = self._parts.save(self.run.graph.stages)
        kept = self._parts.keep(saved)
        state = self.run.saved()
        self.epoch += 1
        begun = {"begun": self.begun} if self.begun else {}
        manifest = _encode({**self._identity(), **state, **saved, **begun, "epoch": self.epoch, "committed_ms": self.clock()})
        cursors = {(p.source.topic, p.number): p.next_offset for p in self.run.partitions}
        outgoing = self._staged.take()
        self._failed = True
        self.claim.commit(Commit(manifest, new, kept, outgoing, cursors))
        self._failed = False
        self.changed, self._committed_at = False, self.tick()
        return Committed(
            self.epoch,
            self._committed_at - began,
            self.received,
            self._first,
            sum(one.count for one in outgoing),
            len(manifest) + sum(map(len, new.values())),
            sum(self.feed.lag().values()),
            state["ledger"],
            {topic: clock.now for topic, clock in self.run.clocks.items()},
            self.run.graph.counts,
        )

    @property
    def received(self) -> int:
        """How many records have been received since the pipeline was begun."""
        return self.run.received

    @property
    def offsets(self) -> dict[str, list[int]]:
        """The next offset of each partition, by topic."""
        return {topic: [p.next_offset for p in self.run.partitions if p.source.topic == topic] for topic in self.run.ledger}

    # work

    def work(self, most: int | None = None) -> bool:
        """Take in what is there, at most so many records, and work it through; return whether there was anything."""
        limits = [limit for limit in (most, self.batch_records) if limit is not None]
        fetched = self.feed.fetch(min(limits) if limits else None)
        if fetched and not self.run.follows_in_order():
            self._cuts.append([partition.next_offset for partition in self.run.partitions])
        while not self.run.drained:
            self._wake()
            self.run.take_turn()
        self.changed |= fetched | self._watch()
        return fetched

    def _wake(self) -> None:
        """Have partitions that rested and show something go on from the time of their stream."""
        now = self.tick()
        for partition in self.run.partitions:
            if partition.drained:
                continue
            self._heard[partition.rank] = now
            topic = partition.source.topic
            if partition.rank in self.run.clocks[topic].resting:
                reached = max([self.run.clocks[topic].now, self.run.graph.reached(topic)])
                self.run.clocks[topic].resting.discard(partition.rank)
                self._take_step({partition.rank: reached + partition.delay} if reached > NEVER else {})

    def _watch(self) -> bool:
        """Let quiet partitions rest, and close what has been quiet for long; return whether anything moved."""
        silent = {p.rank: round((self.tick() - self._heard[p.rank]) * 1000) for p in self.run.partitions}
        idle, quiet = self.patience.idle_after, self.patience.close_quiet_after
        tired = [] if idle is None else [p for p in self.run.partitions if silent[p.rank] >= idle and not self._rests(p)]
        shown = self._reaching(self.run.wants(self.clock())) if quiet is not None and min(silent.values()) >= quiet else {}
        rings = self.run.graph.next_clock_timer if self.patience.rings else None
        clock_ms = now if rings is not None and rings <= (now := self.clock()) else None
        if not tired and not shown and clock_ms is None:
            return False
        # Who has not been heard of because this run lags behind is not quiet.
        lag = self.feed.lag()
        tired = [p for p in tired if not lag[p.source.topic, p.number]]
        shown = {} if any(lag.values()) else shown
        if clock_ms is not None:  # the clock of what was read so far, where more is there
            clock_ms = min([clock_ms, *(p.arrived for p in self.run.partitions if lag[p.source.topic, p.number])])
            clock_ms = None if rings is None or clock_ms < rings else clock_ms
        for partition in tired:
            self.run.clocks[partition.source.topic].resting.add(partition.rank)
        if tired or shown or clock_ms is not None:
            self._take_step(shown, clock_ms=clock_ms)
        return bool(tired or shown) or clock_ms is not None

    def _rests(self, partition: Partition) -> bool:
        return partition.rank in self.run.clocks[partition.source.topic].resting

    def _reaching(self, clock: int | None) -> dict[int, int]:
        """Return what the partitions must show for the clock to get there; nothing of those that have."""
        return {} if clock is None else {p.rank: clock + p.delay for p in self.run.partitions if clock + p.delay > p.greatest}

    def _take_step(self, shown: Mapping[int, int], *, clock_ms: int | None = None, ended: bool = False) -> None:
        """Take a step of the clock, and write it down."""
        self.run.show(shown, clock_ms=clock_ms, ended=ended)
        self._write_step(clock_ms=clock_ms, ended=ended)

    def _write_step(self, **more: Any) -> None:  # noqa: ANN401  (the step's own fields)
        resting = tuple(sorted(rank for clock in self.run.clocks.values() for rank in clock.resting))
        offsets, greatest = tuple(p.next_offset for p in self.run.partitions), tuple(p.greatest for p in self.run.partitions)
        step, self._cuts = Step(offsets, greatest, resting, cuts=self._cuts, **more), []
        self._staged.say(self._clock_topic, _encode({"at_ms": self.clock(), **asdict(step)}), 1, None)

    def take(self, step: Step) -> None:
        """Take a step that was written down, in a replay that has come to its offsets; say so if other code went on there."""
        for name, (before, now) in step.code.items():
            told = self.run.graph.code_of(name)
            if told != now:
                _log.warning("process %s: code %s went on as code %s at offsets %s, and this replay has %s", name, before, now, self.offsets, told)
        if step.plan is not None and step.plan != self.plan.identity["operators"]:
            _log.warning(
                "pipeline %s: was another from offsets %s on than this replay has: settings %s", self.plan.pipeline, self.offsets, step.settings
            )
        retake(self.run, step)
        self.changed = True

    def finish(self) -> None:
        """Close every window that is open, and let processes work up to the last event. What comes for them afterwards is late."""
        while (clock := self.run.wants(inf, ended=True)) is not None:
            self._take_step(self._reaching(clock), ended=True)
            self.changed = True

    def due(self, every: float) -> bool:
        """Return whether to commit now.

        So it is if there is something to say, or work was done and the last commit is `every` seconds ago; and once a day in
        any case, since Kafka forgets the offsets of those who say nothing for a week.
        """
        since = self.tick() - self._committed_at
        return (self.changed and (bool(self._staged) or since >= every)) or since >= _DAY_SECONDS

    def close(self) -> None:
        """Let the pipeline go. What was not committed will be done again."""
        self.feed.close()
        self.claim.release()


def retake(run: Run, step: Step) -> None:
    """Have a run, which has come to the offsets of a step that was written down, take it."""
    for clock in run.clocks.values():
        clock.resting = {p.rank for p in run.partitions if p.rank in step.resting and p.rank in clock.watermarks}
    run.show(dict(enumerate(step.shown)), clock_ms=step.clock_ms, ended=step.ended)


def run_live(
    live: Live,
    limits: Limits = NO_LIMITS,
    *,
    stop: Callable[[], bool] = lambda: False,
    commit_seconds: float = 1.0,
    poll_seconds: float = 0.002,
    sleep: Callable[[float], object] = time.sleep,
    committed: Callable[[Committed], None] = lambda _: None,
    away: Callable[[Away | None], None] = lambda _: None,
) -> dict[str, Account]:
    """Run a pipeline until it is stopped, and return its ledger.

    A log that does not answer is waited for: the pipeline is opened again, as by a new process, until a commit stands or
    `AWAY_SECONDS` have passed since the first fault.

    Parameters
    ----------
    stop
        Asked before each turn; what was done is then committed, windows left open.
    commit_seconds
        The longest time between commits while there is work. What has come out is committed at once.
    poll_seconds
        How long to wait before looking for new records again; when nothing comes for long, up to ten times that.
    committed
        Told of every commit.
    away
        Told of every fault of a log that is waited for; of None when the pipeline is open again.
    """
    work = _Work(live, limits, stop, commit_seconds, poll_seconds, sleep, committed)
    live.log.heed(stop)
    try:
        while True:
            try:
                if work.away_since is not None:
                    live.reopen()
                    away(None)
                work.go_on()
            except Away as fault:
                if work.is_hopeless():
                    raise
                away(fault)
                sleep(_PAUSE_SECONDS)
            else:
                live.run.graph.tell_failures()
                return live.run.ledger
    finally:
        live.close()
        live.log.heed(lambda: False)


@dataclass
class _Work:
    """A live run between its start and its end."""

    live: Live
    limits: Limits
    stop: Callable[[], bool]
    commit_seconds: float
    poll_seconds: float
    sleep: Callable[[float], object]
    committed: Callable[[Committed], None]
    away_since: float | None = None

    def __post_init__(self) -> None:
        """Note where it begins."""
        self._began, self._first = self.live.tick(), self.live.received

    def go_on(self) -> None:
        """Work until the end, and commit."""
        live, wait = self.live, self.poll_seconds
        while not self.stop() and not live.run.finished:
            if self.limits.duration is not None and live.tick() - self._began >= self.limits.duration:
                break
            left = None if self.limits.records is None else self._first + self.limits.records - live.received
            if left is not None and left <= 0:
                break
            worked = live.work(left)
            if live.due(self.commit_seconds):
                self._commit()
            wait = self.poll_seconds if worked else min(wait * 1.1, 10 * self.poll_seconds)
            if not worked:
                self.sleep(wait)
        if self.limits.drain or live.run.finished:
            live.finish()
        if live.changed:
            self._commit()

    def _commit(self) -> None:
        self.committed(self.live.commit())
        self.away_since = None

    def is_hopeless(self) -> bool:
        """Return whether a log that does not answer is to be waited for no longer."""
        now = self.live.tick()
        self.away_since = now if self.away_since is None else self.away_since
        return self.stop() or now - self.away_since >= AWAY_SECONDS
