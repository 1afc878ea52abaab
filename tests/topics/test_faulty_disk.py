"""A whole pipeline on the SQLite log while the disk below it fails, at every call and in every way that `faulty_disk` knows.

A job appends records, has a pipeline work on them, and starts anew whenever it failed, until the schedule of faults is through.
Then the log must hold the bytes of an unbroken run, or the job must have ended with an error that tells of damage, where
there is any: of a disk that lied, that forgot, or that flipped a bit.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from headrace.engines.embedded.live import NO_CLOCK, Limits, Live, run_live
from headrace.errors import EnvironmentFault
from headrace.plan.pipeline import Plan
from headrace.topics.sqlite import SqliteLog
from topics.faulty_disk import KINDS, Disk, Fault, NoVfsError, drawn_faults
from topics.small_pipeline import small

START = 1_700_000_000_000
BATCHES, SIZE = 4, 10
# After these, damage may be told, and commits may be lost, from the end backwards.
DAMAGING = {"lie", "drop", "read", "write"}


@cache
def plan() -> Plan:
    return small.plan()


@cache
def batches() -> list[list[bytes]]:
    chance = random.Random(5)
    lines = []
    for place in range(BATCHES * SIZE):
        late = chance.choice([0, 0, 0, 1, 30])
        lines.append(b'{"k":"k%d","t":%d,"x":%.2f}' % (place % 3, START + 1000 * (place - late), chance.gauss(0, 2)))
    for place in (3, 17, 30, 39):
        lines[place] = chance.choice([b"{", b'{"k":1}', b"\xff"])
    return [lines[start : start + SIZE] for start in range(0, len(lines), SIZE)]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Faults, and whether the job's topic drops old records and its SQLite has a page cache too small for its file.

    Its text, by which it can be had again, is `retention cache kind@call/seed ...`, with `*` behind a fault that lasts.
    """

    retention: bool
    cached: bool
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return " ".join([f"{self.retention:d} {self.cached:d}", *(f"{f.kind}@{f.call}/{f.seed}{'*' * f.lasting}" for f in self.faults)])

    @staticmethod
    def of(text: str) -> Schedule:
        retention, cached, *faults = text.split()
        found = []
        for fault in faults:
            kind, call, seed, lasting = re.fullmatch(r"(\w+)@(\d+)/(\d+)(\*?)", fault).groups()
            found.append(Fault(kind, int(call), int(seed), bool(lasting)))
        return Schedule(retention == "1", cached == "1", tuple(found))


@dataclass
class Job:
    """What appends, runs the pipeline and is started again; it knows what it was told to be durable."""

    disk: Disk
    path: Path
    schedule: Schedule
    batches: int = 0
    epoch: int = 0
    now: int = START

    def life(self) -> dict[str, Any]:
        """Do all that is left to do, as one process, and return what the log then holds."""
        with closing(self._log()) as log:
            begun = self._begin(log)
            ledger = self._run(log, begun)
        with closing(self._log()) as log:
            return {**held(log), "ledger": ledger}

    def _log(self) -> SqliteLog:
        log = SqliteLog(self.path, clock=lambda: self.now)
        try:
            with log.file.blaming():
                log.file.db.execute("PRAGMA wal_autocheckpoint = 25")
                if not self.schedule.cached:
                    log.file.db.execute("PRAGMA cache_size = 6")
        except BaseException:
            log.close()
            raise
        return log

    def _begin(self, log: SqliteLog) -> int:
        """Make the topic if it is not there, and return how many batches it has."""
        if "readings" not in {info.name for info in log.topics()}:
            assert self.batches == 0 or self.may_lose(), "the topic is lost"
            log.create("readings", retention_bytes=700 if self.schedule.retention else None)
        begun, rest = divmod(log.topic("readings").partitions[0].end, SIZE)
        assert rest == 0, "a call of append is there in part"
        assert begun >= self.batches or self.may_lose(), "records are lost whose append was acknowledged"
        return begun

    def _run(self, log: SqliteLog, begun: int) -> dict[str, Any]:
        """Run the pipeline, which is given a batch whenever it has nothing to do, and return its ledger."""
        live = Live(plan(), log, NO_CLOCK, clock=lambda: self.now)
        if live.epoch < self.epoch and not self.may_lose():
            live.close()
            raise AssertionError(f"commit {self.epoch} is lost: the state is of {live.epoch}")
        rest = iter(range(begun, BATCHES))
        turns = 0

        def append(_: float) -> None:
            nonlocal turns
            turns += 1
            place = next(rest, None)
            if place is not None:
                self.now = START + 11_000 * place
                log.append("readings", batches()[place], [b"k"] * SIZE)
                self.batches = place + 1

        ended = run_live(
            live,
            Limits(drain=True),
            stop=lambda: live.received >= BATCHES * SIZE or turns > 100,
            commit_seconds=0,
            sleep=append,
            committed=lambda one: setattr(self, "epoch", one.epoch),
        )
        assert turns <= 100, "the run does not end"
        return {topic: account.counts() for topic, account in ended.items()}

    def may_lose(self) -> bool:
        """Return whether the disk has done what can lose commits."""
        return any(self.schedule.faults[number].kind in DAMAGING for number, *_ in self.disk.struck)


def held(log: SqliteLog) -> dict[str, Any]:
    """Return each topic's end, and the records that it still has by their offsets."""
    found: dict[str, Any] = {}
    for info in log.topics():
        if not info.name.endswith(".clock"):
            for part in info.partitions:
                found[f"{info.name}/{part.number}"] = {e.offset: (e.key, e.value) for e in log.entries(info.name, part.number, 0, 10_000)}, part.end
    return found


def differs(found: dict[str, Any], expected: dict[str, Any], *, arrivals: bool = True) -> str:
    """Return what differs, but for records that retention dropped and, if asked, arrivals; nothing if all is as expected."""
    if not arrivals:
        found, expected = without_arrivals(found), without_arrivals(expected)
    for name in sorted({*found, *expected}):
        one, other = found.get(name), expected.get(name)
        if name == "ledger":
            same = one == other
        else:
            same = one is not None and other is not None and one[1] == other[1] and one[0].items() <= other[0].items()
            same = same and sorted(one[0]) == list(range(one[1] - len(one[0]), one[1])) and (bool(one[0]) or not one[1])
        if not same:
            return f"{name}: {one} instead of {other}"
    return ""


def without_arrivals(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out when dead letters' records arrived."""
    letters, end = found.get("readings.dead-letter/0", ({}, 0))
    plain = {offset: (key, re.sub(rb'"arrived_ms":\d+', b"", value)) for offset, (key, value) in letters.items()}
    return {**found, "readings.dead-letter/0": (plain, end)}


@cache
def expected() -> dict[str, Any]:
    """Return what an unbroken run leaves that keeps all records."""
    return unbroken(Schedule(retention=False, cached=True, faults=()))[0]


@cache
def unbroken(schedule: Schedule) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Return what an unbroken run leaves, and for each of its calls the kinds of faults that can strike it."""
    with TemporaryDirectory() as folder:
        disk = Disk()
        with disk.mounted():
            found = Job(disk, Path(folder) / "home" / "log.db", schedule).life()
        if disk.error is not None:
            raise disk.error
        return found, disk.trace


def outcome(schedule: Schedule, folder: Path) -> tuple[str, Disk]:
    """Run a job under a schedule; return `equal`, or the error that tells of damage. AssertionError says what is broken."""
    wanted = expected()
    disk = Disk(schedule.faults)
    job = Job(disk, folder / "home" / "log.db", schedule)
    with disk.mounted():
        while True:
            disk.start()
            struck = len(disk.struck)
            try:
                found = job.life()
            except EnvironmentFault as error:
                if len(disk.struck) == struck:
                    assert job.may_lose(), f"nothing was damaged, and it is told: {error}"
                    return str(error), disk
            else:
                # Records that were lost and are appended again arrive again.
                wrong = differs(found, wanted, arrivals=not job.may_lose())
                assert not wrong, wrong
                return "equal", disk
            finally:
                if disk.error is not None:
                    raise disk.error
                assert not disk.open_files, f"left open: {disk.open_files}"


def drawn(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    chance = random.Random(seed)
    schedule = Schedule(chance.random() < 0.5, chance.random() < 0.5, ())
    return Schedule(schedule.retention, schedule.cached, drawn_faults(chance, len(unbroken(schedule)[1])))


def check(schedules: Iterable[Schedule], folder: Path, note: Callable[[str, object], None]) -> None:
    """Run a job under each schedule, and note how many there were, which faults struck, and how often damage was told."""
    counts: Counter[str] = Counter()
    broken = []
    for schedule in schedules:
        try:
            said, disk = outcome(schedule, folder)
        except Exception as error:
            if not isinstance(error, AssertionError):
                error.add_note(rerun(schedule))
                raise
            broken.append(f"{rerun(schedule)}: {error}")
            continue
        counts["schedules of disk faults"] += 1
        counts["schedules of disk faults: damage told"] += said != "equal"
        counts.update(f"disk faults: {schedule.faults[number].kind}" for number, *_ in disk.struck)
    for name, count in counts.items():
        note(name, count)
    assert not broken, "\n".join(broken)


def rerun(schedule: Schedule) -> str:
    return f"HEADRACE_FAULTS='{schedule}' pytest -n 0 {Path(__file__).name} -k given"


@pytest.fixture(autouse=True, scope="module")
def _vfs() -> None:
    try:
        Disk.prepare()
    except NoVfsError as error:
        pytest.skip(str(error))


def test_a_given_schedule(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    given = os.environ.get("HEADRACE_FAULTS", "0 0 kill@300/1 eio@400/1")
    check([Schedule.of(given)], tmp_path, record_property)


def test_a_pipeline_ends_with_the_same_bytes_whatever_its_disk_does(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    check(map(drawn, range(100)), tmp_path, record_property)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_may_fail(tmp_path: Path, kind: str, record_property: Callable[[str, object], None]) -> None:
    chance = random.Random(kind)
    trace = unbroken(Schedule(retention=True, cached=False, faults=()))[1]
    schedules = []
    for call in (number for number, can in enumerate(trace, 1) if kind in can):
        faults = [Fault(kind, call, chance.randrange(1000), kind == "lie" and chance.random() < 0.7)]
        if kind in {"lie", "drop"}:
            faults.append(Fault("cut", chance.randint(call, len(trace)), chance.randrange(1000)))
        schedules.append(Schedule(retention=True, cached=False, faults=tuple(faults)))
    check(schedules, tmp_path, record_property)


@pytest.mark.long
@pytest.mark.parametrize("part", range(3))
def test_faults_may_meet(tmp_path: Path, part: int, record_property: Callable[[str, object], None]) -> None:
    seed = int(os.environ.get("HEADRACE_FAULTS_SEED") or random.SystemRandom().randrange(10**6)) + 10**6 * part
    print(f"HEADRACE_FAULTS_SEED={seed % 10**6}")
    check(map(drawn, range(seed, seed + 1000)), tmp_path, record_property)
