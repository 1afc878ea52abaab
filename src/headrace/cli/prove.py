"""`headrace prove`: the same input run unbroken and killed, again and again, and the outputs compared."""

from __future__ import annotations

import multiprocessing
import os
import random
import secrets
import shutil
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
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace.cli.apps import home, plan_of
from headrace.cli.logs import LOG_FILE, PREFIX_VARIABLE, SERVER_VARIABLES, KafkaOptions, asked_cluster
from headrace.cli.paths import inputs_of
from headrace.cli.records import records_of
from headrace.errors import DataError, HeadraceError, PlanError, near
from headrace.plan.pipeline import Plan
from headrace.topics import failpoints
from headrace.topics.failpoints import POINTS

if TYPE_CHECKING:
    from headrace.topics.cluster import Cluster
    from headrace.topics.protocol import Log
    from headrace.topics.sqlite import SqliteLog

__all__ = ["prove"]

_SHIPPED = ("fingerprint", "rules")
_START_MS = 1_706_123_400_000
_LIMIT_SECONDS = 300.0
_BATCH = 500
_IMPORTED = ["headrace.engines.embedded.observed", "headrace.engines.embedded.live", "headrace.topics.sqlite", "headrace.topics.kafka"]
_FORKING = multiprocessing.get_context("forkserver")  # so a run costs its work and no imports: there are many
_FORKING.set_forkserver_preload(_IMPORTED)


Record = tuple[bytes | None, bytes]


class Unlike(HeadraceError):
    """Two runs that ought to be the same are not."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left: the records of each topic it writes, as key and value, and its ledger."""

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
    set
        KEY=VALUE for a setting of the pipeline.
    """
    plan = plan_of(app, set or [])
    if kills < 0 or partitions < 1 or records < 1:
        raise PlanError("a number is too small", where="--kills, --partitions, --records", fix="give 1 or more")
    with tempfile.TemporaryDirectory(prefix="headrace-prove-") as folder:
        found = _records_of(app, plan, input or [], records)
        cluster = None if kafka == KafkaOptions() else asked_cluster(kafka)
        place = (
            _OnSqlite(Path(folder), found, partitions) if cluster is None else _OnKafka(Path(folder), found, partitions, cluster, kafka.kafka_config)
        )
        proof = _Proof(app, plan, place, set or [], random.Random(seed))  # noqa: S311  (repeatable, not secret)
        print(f"{app}: {sum(map(len, found.values())):,} records, run once unbroken", flush=True)
        proof.run_unbroken()
        proof.kill_at_steps()
        proof.kill_at_random(kills)
    print(
        f"{app}: proved. {kills} kills at random, {len(POINTS)} at the steps of a commit, {proof.rounds} runs: output, dead letters and ledger are identical."
    )


def _records_of(app: str, plan: Plan, inputs: Sequence[str], most: int) -> dict[str, list[bytes]]:
    """Return the records to run on, by topic."""
    topics = [source.topic for source in plan.sources]
    if inputs:
        found: dict[str, list[bytes]] = {topic: [] for topic in topics}
        for topic, files in inputs_of(plan, inputs).items():
            if topic not in found:
                raise PlanError(f"pipeline {plan.pipeline} reads no topic {topic!r}", where="--input", fix=near(topic, topics))
            for file in files:
                found[topic] += islice(chain.from_iterable(records_of(file)), most)
        return found
    path = home() / LOG_FILE
    if path.is_file():
        with closing(_log(path)) as log:
            there = {info.name: info for info in log.topics()}
            if all(topic in there for topic in topics) and any(part.end > part.first for topic in topics for part in there[topic].partitions):
                return {
                    topic: [e.value for part in there[topic].partitions for e in log.entries(topic, part.number, part.first, most)]
                    for topic in topics
                }
    if app in _SHIPPED:
        from headrace.simulate import Kiln

        kiln = Kiln(seed=1, equipment=tuple(range(100, 120)), disorder_ms=15_000, number_share=0.2, bad_share=0.01)
        simulated = {"sensor-data": kiln.lines(_START_MS), "kiln-limits": islice(kiln.limits(_START_MS), 30)}
        return {topic: list(islice(simulated[topic], most)) for topic in topics}
    raise PlanError("there is nothing to run it on", where=f"pipeline {plan.pipeline}", fix="name a file: --input FILE")


def _log(path: Path) -> SqliteLog:
    from headrace.topics.sqlite import SqliteLog

    return SqliteLog(path)


def _fill(log: Log, records: Mapping[str, Sequence[bytes]], partitions: int) -> None:
    for topic, values in records.items():
        log.create(topic, partitions)
        for start in range(0, len(values), _BATCH):
            part = values[start : start + _BATCH]
            log.append(topic, part, [str((start + place) % 97).encode() for place in range(len(part))])


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run and its restarts work: a home, and the environment that makes `headrace run` work there."""

    home: Path
    environment: Mapping[str, str]


class _OnSqlite:
    """Each run has a copy of one log."""

    options: Sequence[str] = ()

    def __init__(self, folder: Path, records: Mapping[str, Sequence[bytes]], partitions: int) -> None:
        self._folder, self._whole = folder, folder / "whole"
        with closing(_log(self._whole / LOG_FILE)) as log:
            _fill(log, records, partitions)

    def fresh(self, number: int) -> Place:
        """Return a new place with the input and nothing else."""
        target = self._folder / f"run-{number}"
        shutil.copytree(self._whole, target)
        return Place(target, dict.fromkeys((*SERVER_VARIABLES, PREFIX_VARIABLE), ""))

    def open(self, place: Place) -> Log:
        """Return the place's log."""
        return _log(place.home / LOG_FILE)

    def remove(self, place: Place) -> None:
        """Remove what a run left."""
        shutil.rmtree(place.home)

    def comparable(self, records: list[Record], *, letters: bool) -> list[Record]:  # noqa: ARG002
        """Return what must be the same: all of it, arrival times too, as the log is a copy."""
        return records


class _OnKafka:
    """Each run has topics of its own, whose names begin with a prefix that nothing else has."""

    def __init__(self, folder: Path, records: Mapping[str, Sequence[bytes]], partitions: int, cluster: Cluster, config: Path | None) -> None:
        self._folder, self._records, self._partitions, self._cluster = folder, records, partitions, cluster
        self.options = ["--kafka-servers", cluster.servers, *([] if config is None else ["--kafka-config", str(config)])]
        self._prefix = f"prove-{secrets.token_hex(4)}"

    def fresh(self, number: int) -> Place:
        """Return a new place with the input and nothing else."""
        prefix = f"{self._prefix}-{number}."
        place = Place(self._folder / f"run-{number}", {PREFIX_VARIABLE: prefix})
        with closing(self.open(place)) as log:
            _fill(log, self._records, self._partitions)
        return place

    def open(self, place: Place) -> Log:
        """Return the place's part of the log."""
        from headrace.topics.kafka import KafkaLog
        from headrace.topics.prefixed import PrefixedLog

        return PrefixedLog(KafkaLog(self._cluster, place.home), place.environment[PREFIX_VARIABLE])

    def remove(self, place: Place) -> None:
        """Remove what a run left."""
        with closing(self.open(place)) as log:
            for info in log.topics():
                log.delete(info.name)
        shutil.rmtree(place.home, ignore_errors=True)

    def comparable(self, records: list[Record], *, letters: bool) -> list[Record]:
        """Return what must be the same: records, but of dead letters not the time of arrival, which is another in each run's own topics."""
        if not letters:
            return records
        return [(key, msgspec.json.encode({**msgspec.json.decode(value), "arrived_ms": None})) for key, value in records]


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
    def __init__(self, app: str, plan: Plan, place: _OnSqlite | _OnKafka, settings: Sequence[str], chance: random.Random) -> None:
        self._app, self._plan, self._places, self._chance = app, plan, place, chance
        self._settings = [part for one in settings for part in ("--set", one)]
        self._expected = Outcome({}, {})
        self._seconds = 0.0
        self.rounds = 0

    def _fresh(self) -> Place:
        self.rounds += 1
        return self._places.fresh(self.rounds)

    def _start(self, target: Place, kill_at: str = "") -> _Run:
        batch = str(self._chance.randint(_BATCH // 4, _BATCH))
        options = ["--commit-every", "10ms", "--batch-records", batch, *self._places.options, *self._settings]
        command = ["run", self._app, "--until", "latest", "--allow-nothing-accepted", *options]
        return _Run(command, {**target.environment, "HEADRACE_HOME": str(target.home)}, target.home / "said", kill_at)

    def _end(self, child: _Run) -> str:
        """Wait for a run to end, and return what it said."""
        if child.outlives(_LIMIT_SECONDS):
            child.kill()
            raise DataError(f"did not end within {_LIMIT_SECONDS:.0f} s", where=f"pipeline {self._plan.pipeline}", fix="give fewer --records")
        return child.said()

    def _finish(self, child: _Run) -> None:
        said = self._end(child)
        if child.status:
            last = said.rpartition("\n")[2]
            raise Unlike(f"ended with status {child.status}: {last}", where=f"pipeline {self._plan.pipeline}")

    def run_unbroken(self) -> None:
        """Run once without a kill, for what is to be expected and how long it takes."""
        target = self._fresh()
        began = time.monotonic()
        self._finish(self._start(target))
        self._seconds = time.monotonic() - began
        self._expected = self._outcome(target)

    def _outcome(self, target: Place) -> Outcome:
        dead = [f"{source.topic}.dead-letter" for source in self._plan.sources]
        letters = {*dead, *self._plan.failed_topics}
        topics = {}
        with closing(self._places.open(target)) as log:
            for name in (*self._plan.topics, *dead):
                info = log.topic(name)
                found = [[(e.key, e.value) for e in log.entries(name, p.number, p.first, p.end - p.first)] for p in info.partitions]
                if name in self._plan.failed_topics:
                    found = [sorted(records, key=_process_of) for records in found]
                topics[name] = [self._places.comparable(records, letters=name in letters) for records in found]
            manifest = log.manifest(self._plan.pipeline)
        self._places.remove(target)
        run = msgspec.json.decode(manifest or b"{}")
        return Outcome(topics, run.get("ledger", {}), run.get("epoch", 0))

    def kill_at_steps(self) -> None:
        """Kill a run at each step of a commit, and let it go on."""
        for point in POINTS:
            target = self._fresh()
            child = self._start(target, f"{point}:{self._chance.randint(1, max(min(5, self._expected.commits), 1))}")
            said = self._end(child)
            if child.status != -signal.SIGKILL:
                raise Unlike(f"was not killed at {point}: {said[-300:]}", where=f"pipeline {self._plan.pipeline}")
            self._finish(self._start(target))
            self._compare(target, f"after a kill at {point}")
            print(f"  killed at {point}: the same", flush=True)

    def kill_at_random(self, kills: int) -> None:
        """Kill runs at random moments until there were so many kills; each run is then finished."""
        left = kills
        while left:
            target, mine = self._fresh(), 0
            while left:
                began = time.monotonic()
                child = self._start(target)
                if not child.outlives(self._chance.uniform(0, self._seconds)):
                    # A whole run that was faster than the first: moments are drawn from its time from now on.
                    if not mine:
                        self._seconds = min(self._seconds, time.monotonic() - began)
                    break
                child.kill()
                left, mine = left - 1, mine + 1
            self._finish(self._start(target))
            self._compare(target, f"after {mine} kills")
            if mine:
                print(f"  killed {mine} times at random: the same ({kills - left} of {kills})", flush=True)

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
