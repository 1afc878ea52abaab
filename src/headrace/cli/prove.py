"""`headrace prove`: the same input run unbroken and killed, again and again, and the outputs compared."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace.cli.apps import home, plan_of
from headrace.cli.logs import LOG_FILE, KafkaOptions, asked_cluster
from headrace.cli.paths import inputs_of
from headrace.cli.proof_places import BATCH, OnKafka, OnSqlite, Place, Record, append, log_at
from headrace.cli.records import records_of
from headrace.errors import DataError, HeadraceError, PlanError, near
from headrace.plan.pipeline import Plan
from headrace.topics import failpoints
from headrace.topics.failpoints import POINTS

__all__ = ["prove"]

_SHIPPED = ("fingerprint", "rules")
_START_MS = 1_706_123_400_000
_LIMIT_SECONDS = 300.0
_NO_CLOCK = ("--idle-after", "never", "--close-quiet-after", "never", "--max-ahead", "never")
_IMPORTED = [
    "headrace.cli.run",
    "headrace.engines.embedded.observed",
    "headrace.engines.embedded.live",
    "headrace.topics.sqlite",
    "headrace.topics.kafka",
]
_FORKING = multiprocessing.get_context("forkserver")  # so a run costs its work and no imports: there are many
_FORKING.set_forkserver_preload(_IMPORTED)


class Unlike(HeadraceError):
    """Two runs that ought to be the same are not."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run: the records of each topic it writes, as key and value, and its ledger."""

    topics: dict[str, list[list[Record]]]
    ledger: dict[str, Any]
    commits: int = field(default=0, compare=False)


def prove(
    app: str,
    /,
    *,
    kills: int = 20,
    seed: int = 0,
    input: Annotated[list[str] | None, Parameter(name="--input", negative=())] = None,
    records: int = 40_000,
    partitions: int = 2,
    change: Annotated[list[str] | None, Parameter(name="--change", negative=())] = None,
    kafka: KafkaOptions = KafkaOptions(),
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
) -> None:
    """Kill a pipeline at random moments, and at every step of its commit, and compare what it leaves with an unbroken run.

    Each run takes in another number of records at once. Output and dead letters must be the same to the byte, in the same order.
    It works on a copy of the input in a temporary home and touches nothing else. With --kafka-servers or --kafka-config it is proved on
    Kafka, on topics of its own that are removed again; else on the SQLite log.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint, rules), file.py[:name], or module:name.
    kills
        How often to kill it at a random moment.
    seed
        The same seed kills after the same times.
    input
        [TOPIC=]FILE … of NDJSON. Without it, what the topics of HEADRACE_HOME hold, or else for a shipped pipeline a simulated plant.
    records
        How many records to take at most.
    partitions
        How many partitions the copied topics have.
    change
        KEY=VALUE for a setting that changes half-way, or another APP of the same pipeline, which resumes there. Kills come before and after it.
    set
        KEY=VALUE for a setting of the pipeline.
    """
    plan = plan_of(app, set or [])
    if kills < 0 or partitions < 1 or records < 1:
        raise PlanError("a number is too small", where="--kills, --partitions, --records", fix="give 1 or more")
    changed = _changed(app, plan, set or [], change or [])
    with tempfile.TemporaryDirectory(prefix="headrace-prove-") as folder:
        plans = [plan] if changed is None else [plan, changed[1]]
        topics = list(dict.fromkeys(source.topic for one in plans for source in one.sources))
        found = _records_of(app, plan, topics, input or [], records)
        stretches = _stretches(app, plan, set or [], changed, found)
        cluster = None if kafka == KafkaOptions() else asked_cluster(kafka)
        first = stretches[0].records
        place = (
            OnSqlite(Path(folder), first, partitions) if cluster is None else OnKafka(Path(folder), first, partitions, cluster, kafka.kafka_config)
        )
        proof = _Proof(app, stretches, place, random.Random(seed))  # noqa: S311  (repeatable, not secret)
        print(f"{app}: {sum(map(len, found.values())):,} records, run once unbroken{' and changed half-way' if changed else ''}", flush=True)
        proof.run_unbroken()
        proof.kill_at_steps()
        proof.kill_at_random(kills)
    print(
        f"{app}: proved. {kills} kills at random, {len(POINTS)} at the steps of a commit, {proof.rounds} runs: output, dead letters and ledger are identical."
    )


@dataclass(frozen=True)
class Stretch:
    """A part of a run: one pipeline, from what the one before it left to the end of the records that are there by then.

    Attributes
    ----------
    app, settings, plan
        The pipeline, the options that set its settings, and its plan.
    records
        What is appended to its topics before it starts.
    last
        Whether everything is closed at its end.
    said
        When it is, for messages: nothing, or on which side of the change.
    """

    app: str
    settings: Sequence[str]
    plan: Plan
    records: Mapping[str, Sequence[bytes]]
    last: bool
    said: str = ""


def _changed(app: str, plan: Plan, settings: Sequence[str], change: Sequence[str]) -> tuple[str, Plan, list[str]] | None:
    """Return the pipeline behind the change: the app, its plan and settings; None if there is no change.

    Raises
    ------
    PlanError
        If it is another pipeline, or no change.
    """
    if not change:
        return None
    apps = [one for one in change if "=" not in one]
    if len(apps) > 1:
        raise PlanError("there is one change, and one pipeline behind it", where="--change", fix="give KEY=VALUE … and at most one APP")
    given = [*settings, *(one for one in change if "=" in one)]
    name = apps[0] if apps else app
    changed = plan_of(name, given)
    if changed.pipeline != plan.pipeline:
        raise PlanError(f"pipeline {changed.pipeline} is another than {plan.pipeline}", where="--change", fix="name a change of the same pipeline")
    if changed == plan:
        raise PlanError(f"pipeline {plan.pipeline} is the same behind it", where="--change", fix="give a setting another value, or another APP")
    return name, changed, given


def _stretches(
    app: str, plan: Plan, settings: Sequence[str], changed: tuple[str, Plan, list[str]] | None, records: Mapping[str, Sequence[bytes]]
) -> list[Stretch]:
    """Return the parts of a run: one, or with a change the halves before and behind it."""
    options = [part for one in settings for part in ("--set", one)]
    if changed is None:
        return [Stretch(app, options, plan, records, last=True)]
    cut = {topic: (len(values) + 1) // 2 for topic, values in records.items()}
    name, then, given = changed
    return [
        Stretch(app, options, plan, {topic: values[: cut[topic]] for topic, values in records.items()}, last=False, said=" before the change"),
        Stretch(
            name,
            [part for one in given for part in ("--set", one)],
            then,
            {topic: values[cut[topic] :] for topic, values in records.items()},
            last=True,
            said=" after the change",
        ),
    ]


def _records_of(app: str, plan: Plan, topics: Sequence[str], inputs: Sequence[str], most: int) -> dict[str, list[bytes]]:
    """Return the records to run on, by topic."""
    if inputs:
        return _of_files(plan, topics, inputs, most)
    if found := _of_log(topics, most):
        return found
    if app in _SHIPPED:
        return _simulated(topics, most)
    raise PlanError("there is nothing to run it on", where=f"pipeline {plan.pipeline}", fix="name a file: --input FILE")


def _of_files(plan: Plan, topics: Sequence[str], inputs: Sequence[str], most: int) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {topic: [] for topic in topics}
    for topic, files in inputs_of(plan, inputs).items():
        if topic not in found:
            raise PlanError(f"pipeline {plan.pipeline} reads no topic {topic!r}", where="--input", fix=near(topic, topics))
        for file in files:
            found[topic] += islice(chain.from_iterable(records_of(file)), most)
    return found


def _of_log(topics: Sequence[str], most: int) -> dict[str, list[bytes]]:
    """Return what the log of the home has; nothing, if it lacks a topic or all of them are empty."""
    path = home() / LOG_FILE
    if not path.is_file():
        return {}
    with closing(log_at(path)) as log:
        there = {info.name: info.partitions for info in log.topics()}
        if any(topic not in there for topic in topics) or all(part.end == part.first for topic in topics for part in there[topic]):
            return {}
        return {topic: [e.value for part in there[topic] for e in log.entries(topic, part.number, part.first, most)] for topic in topics}


def _simulated(topics: Sequence[str], most: int) -> dict[str, list[bytes]]:
    from headrace.simulate import Kiln

    kiln = Kiln(seed=1, equipment=tuple(range(100, 120)), disorder_ms=15_000, number_share=0.2, bad_share=0.01)
    simulated = {"sensor-data": kiln.lines(_START_MS), "kiln-limits": islice(kiln.limits(_START_MS), 30)}
    return {topic: list(islice(simulated[topic], most)) for topic in topics}


class _Run:
    """`headrace run` in a process of its own, forked from one that has imported what it needs.

    Parameters
    ----------
    command
        The command line behind `headrace`.
    environment
        What it has beside this process's.
    log
        The file for what it prints to standard error.
    kill_at
        The step of a commit at which it is killed, as `failpoints.arm` takes it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, kill_at: str) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        given = {**os.environ, **environment}
        self._process: BaseProcess = _FORKING.Process(target=_run, args=(command, given, log, kill_at), daemon=True)
        self._process.start()

    @property
    def status(self) -> int | None:
        """The exit status, of one that was killed the signal below 0; None while it runs."""
        return self._process.exitcode

    def outlives(self, seconds: float) -> bool:
        """Return whether it still runs after so long."""
        self._process.join(seconds)
        return self._process.exitcode is None

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def said(self) -> str:
        """Return what it has printed to standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace").strip() if self._log.exists() else ""


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path, kill_at: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in ((Path(os.devnull), sys.stdout), (log, sys.stderr)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    failpoints.arm(kill_at)
    from headrace.cli import main

    sys.exit(main(command))


class _Proof:
    def __init__(self, app: str, stretches: Sequence[Stretch], places: OnSqlite | OnKafka, chance: random.Random) -> None:
        self._app, self._stretches, self._places, self._chance = app, stretches, places, chance
        self._pipeline = stretches[0].plan.pipeline
        self._sources = list(dict.fromkeys(source.topic for one in stretches for source in one.plan.sources))
        self._topics = list(dict.fromkeys(topic for one in stretches for topic in one.plan.topics))
        self._failed = {topic for one in stretches for topic in one.plan.failed_topics}
        self._expected = Outcome({}, {})
        self._seconds = [0.0] * len(stretches)
        self.rounds = 0

    def _fresh(self) -> Place:
        self.rounds += 1
        return self._places.fresh(self.rounds)

    def _enter(self, target: Place, number: int) -> None:
        """Append what comes before a stretch; what comes before the first is there."""
        if number:
            with closing(self._places.open(target)) as log:
                append(log, self._stretches[number].records)

    def _start(self, target: Place, number: int, kill_at: str = "") -> _Run:
        stretch = self._stretches[number]
        batch = str(self._chance.randint(BATCH // 4, BATCH))
        options = ["--commit-every", "10ms", "--batch-records", batch, *self._places.options, *stretch.settings]
        # The stretch before a change ends with windows open, after the last record: the wall clock must close none.
        until = ["--until", "latest"] if stretch.last else [*_NO_CLOCK, "--records", str(self._left(target, number))]
        command = ["run", stretch.app, *until, "--allow-nothing-accepted", *options]
        return _Run(command, {**target.environment, "HEADRACE_HOME": str(target.home)}, target.home / "said", kill_at)

    def _left(self, target: Place, number: int) -> int:
        """Return how many records are not yet committed as received."""
        topics = {source.topic for source in self._stretches[number].plan.sources}
        there = sum(len(records) for one in self._stretches[: number + 1] for topic, records in one.records.items() if topic in topics)
        ledger = self._manifest(target).get("ledger", {})
        return there - sum(int(ledger[topic]["received"]) for topic in topics if topic in ledger)

    def _manifest(self, target: Place) -> dict[str, Any]:
        with closing(self._places.open(target)) as log:
            return dict(msgspec.json.decode(log.manifest(self._pipeline) or b"{}"))

    def _end(self, child: _Run) -> str:
        """Wait for a run to end, and return what it said."""
        if child.outlives(_LIMIT_SECONDS):
            child.kill()
            raise DataError(f"did not end within {_LIMIT_SECONDS:.0f} s", where=f"pipeline {self._pipeline}", fix="give fewer --records")
        return child.said()

    def _finish(self, target: Place, number: int) -> None:
        """Run a stretch to its end."""
        child = self._start(target, number)
        said = self._end(child)
        if child.status:
            last = said.rpartition("\n")[2]
            raise Unlike(f"ended with status {child.status}{self._stretches[number].said}: {last}", where=f"pipeline {self._pipeline}")

    def run_unbroken(self) -> None:
        """Run once without a kill, for what is to be expected and how long it takes."""
        target = self._fresh()
        for number in range(len(self._stretches)):
            self._enter(target, number)
            began = time.monotonic()
            self._finish(target, number)
            self._seconds[number] = time.monotonic() - began
        self._expected = self._outcome(target)

    def _outcome(self, target: Place) -> Outcome:
        dead = [f"{topic}.dead-letter" for topic in self._sources]
        letters = {*dead, *self._failed}
        topics = {}
        with closing(self._places.open(target)) as log:
            for name in (*self._topics, *dead):
                info = log.topic(name)
                found = [[(e.key, e.value) for e in log.entries(name, p.number, p.first, p.end - p.first)] for p in info.partitions]
                if name in self._failed:
                    found = [sorted(records, key=_process_of) for records in found]
                topics[name] = [self._places.comparable(records, letters=name in letters) for records in found]
        run = self._manifest(target)
        self._places.remove(target)
        return Outcome(topics, run.get("ledger", {}), run.get("epoch", 0))

    def kill_at_steps(self) -> None:
        """Kill a run at each step of a commit, and let it go on: behind a change, of the commit that carries the state over."""
        changed = len(self._stretches) > 1
        for point in POINTS:
            target = self._fresh()
            for number, stretch in enumerate(self._stretches):
                self._enter(target, number)
                if stretch.last:
                    most = 1 if changed else max(min(5, self._expected.commits), 1)
                    child = self._start(target, number, f"{point}:{self._chance.randint(1, most)}")
                    said = self._end(child)
                    if child.status != -signal.SIGKILL:
                        raise Unlike(f"was not killed at {point}{stretch.said}: {said[-300:]}", where=f"pipeline {self._pipeline}")
                self._finish(target, number)
            self._compare(target, f"after a kill at {point}{self._stretches[-1].said}")
            print(f"  killed at {point}{self._stretches[-1].said}: the same", flush=True)

    def kill_at_random(self, kills: int) -> None:
        """Kill runs at random moments until there were so many kills; each run is then finished."""
        left = kills
        while left:
            target, mine = self._fresh(), 0
            for number, stretch in enumerate(self._stretches):
                self._enter(target, number)
                mine += self._kill_stretch(target, number, left - mine if stretch.last else self._chance.randint(0, left))
            left -= mine
            self._compare(target, f"after {mine} kills")
            if mine:
                print(f"  killed {mine} times at random: the same ({kills - left} of {kills})", flush=True)

    def _kill_stretch(self, target: Place, number: int, most: int) -> int:
        """Kill the runs of a stretch until one is whole, or there were `most` kills and one more run; return how many there were."""
        mine = 0
        while mine < most:
            if not self._stretches[number].last and not self._left(target, number):
                return mine
            began = time.monotonic()
            child = self._start(target, number)
            if not child.outlives(self._chance.uniform(0, self._seconds[number])):
                # A whole run that was faster than the first: moments are drawn from its time from now on.
                if not mine:
                    self._seconds[number] = min(self._seconds[number], time.monotonic() - began)
                break
            child.kill()
            mine += 1
        if self._stretches[number].last or self._left(target, number):
            self._finish(target, number)
        return mine

    def _compare(self, target: Place, when: str) -> None:
        found = self._outcome(target)
        if found == self._expected:
            return
        for name, expected in self._expected.topics.items():
            for number, (mine, theirs) in enumerate(zip(found.topics[name], expected, strict=True)):
                if mine != theirs:
                    place = next((n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
                    raise Unlike(
                        f"differs {when}: {len(mine)} records, not {len(theirs)}; the first other one is at {place}",
                        where=f"topic {name!r} partition {number}",
                    )
        raise Unlike(f"differs {when}: {found.ledger}, not {self._expected.ledger}", where="the ledger")


def _process_of(record: Record) -> str:
    """Return which process failed: what fails in several that share a topic has an order in each of them alone."""
    return str(msgspec.json.decode(record[1])["process"])
