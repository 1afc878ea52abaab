"""Outside systems for the tests of the runners: they fail as a seed says, and remember what they were told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Container, Iterator, Sequence
from contextlib import closing, contextmanager
from random import Random
from typing import Any

import pytest

from forking import Forked, program
from headrace.connectors.forward import Forward
from headrace.connectors.protocol import Event, Record, Refused, Source, Target, Unavailable
from headrace.errors import EnvironmentFault
from headrace.topics.protocol import Away, Claim, Commit, Log

LIMIT = 400.0
SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 40))]


def run_with_kills(code: str, *arguments: object, dice: Random, longest: float) -> None:
    """Run a program until it ends; its first three runs are killed if they last, the first soon, within so many seconds of its call of `begin`."""
    killed = 0
    for most in (longest / 10, longest, longest, 0.0):
        env = os.environ | {"KILLED_AFTER": str(dice.uniform(0.0, most))}
        with Forked(program, code, *map(str, arguments), env=env, stderr=subprocess.PIPE, text=True) as child:
            _, said = child.communicate(timeout=LIMIT)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGALRM, said
        killed += 1
    assert child.returncode == 0
    assert killed >= 1


def told_while_away(log: Log, topic: str, target: Target) -> list[str]:
    """Run a target whose outside system is not there until something is told of that, and return it."""
    told: list[str] = []

    async def run() -> None:
        with closing(Forward(log, topic, target, "away", told=told.append)) as one:
            await one.run(stop=lambda: bool(told))

    asyncio.run(asyncio.wait_for(run(), LIMIT))
    return told


def value(number: int) -> bytes:
    return json.dumps({"number": number, "key": f"k{number % 3}"}, separators=(",", ":")).encode()


class Numbers(Source):
    """Some numbered events. It drops connections as its dice say.

    With positions it resumes after the one that it is asked for; else it delivers again what was not acknowledged, at most `window`
    of them, and waits for acknowledgements when so many are outstanding.
    """

    def __init__(self, count: int, dice: Random, *, faults: float = 0.0, positions: bool = True, ids: bool = True, window: int = 20) -> None:
        self.name = f"numbers:{count}"
        self.count, self._dice, self._faults, self._positions, self._ids = count, dice, faults, positions, ids
        self._window = window
        self.redelivers = window if ids and not positions else 0
        self.pause_seconds = 0.001
        self.acknowledged: set[int] = set()
        self.delivered = self.opened = self.closed = 0

    def _fails(self) -> bool:
        return self._dice.random() < self._faults

    async def open(self, position: Any) -> AsyncGenerator[Event] | None:
        self.opened += 1
        if self._fails():
            raise Unavailable("connection refused")
        left = range(position or 0, self.count) if self._positions else [one for one in range(self.count) if one not in self.acknowledged]
        return self._events(left) if left else None

    async def _events(self, numbers: Sequence[int]) -> AsyncGenerator[Event]:
        try:
            for number in numbers if self._positions else numbers[: self._window]:
                if self._fails():
                    raise Unavailable("connection reset by peer")
                if self._dice.random() < self._faults / 2:
                    return  # it ends as if nothing were wrong
                self.delivered += 1
                yield Event(value(number), number + 1 if self._positions else None, None, str(number) if self._ids else None, number)
        finally:
            self.closed += 1

    async def acknowledge(self, events: Sequence[Event]) -> None:
        for event in events:
            if not self._positions and self._fails():
                raise Unavailable("connection reset by peer")
            self.acknowledged.add(event.token)


class FaultyLog:
    """A log whose commits fail as dice say: before anything is written, or after all is, with the outcome unknown."""

    def __init__(self, log: Log, dice: Random, faults: float, kind: type[EnvironmentFault] = Away) -> None:
        self._log, self.dice, self.faults, self.kind = log, dice, faults, kind
        self.failed = self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def claim(self, pipeline: str) -> Any:
        return _FaultyClaim(self, self._log.claim(pipeline))

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Fail before or after what is done within."""
        fate = self.dice.random()
        if fate < self.faults / 2:
            self.failed += 1
            raise self.kind("does not answer", where="the log")
        yield
        self.commits += 1
        if fate < self.faults:
            self.failed += 1
            raise self.kind("does not say whether the last commit stands", where="the log")


class _FaultyClaim:
    def __init__(self, log: FaultyLog, claim: Claim) -> None:
        self._faulty, self._claim = log, claim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._claim, name)

    def commit(self, commit: Commit) -> None:
        with self._faulty.failing():
            self._claim.commit(commit)


def values_of(log: Log, topic: str) -> list[bytes]:
    """What the partitions of a topic have, one after the other."""
    found: list[bytes] = []
    for info in log.topic(topic).partitions:
        offset = info.first
        while more := log.entries(topic, info.number, offset, 100_000):
            found += [entry.value for entry in more]
            offset = more[-1].offset + 1
    return found


class Store(Target):
    """A store that knows idempotency keys. It fails as its dice say, and refuses poison for ever.

    `tells` is how much it says of a refusal: `all` (by place, at once), `first` (the first of them), `nothing`.
    """

    def __init__(self, dice: Random, *, faults: float = 0.0, poison: Container[bytes] = (), tells: str = "first", most_records: int = 50) -> None:
        self.name, self.most_records = "store:", most_records
        self._dice, self._faults, self._poison, self._tells = dice, faults, poison, tells
        self.rows: dict[str, bytes] = {}
        self.latest: dict[bytes | None, bytes] = {}
        self.order: list[Record] = []
        self.sent: list[list[str]] = []
        self.closed = 0

    def _fails(self) -> bool:
        return self._dice.random() < self._faults

    def _apply(self, records: Sequence[Record]) -> None:
        for one in records:
            if one.id not in self.rows:
                self.order.append(one)
            self.rows[one.id] = one.value
            self.latest[one.key] = one.value

    async def send(self, records: Sequence[Record]) -> dict[int, str] | None:
        self.sent.append([one.id for one in records])
        if self._fails():
            raise Unavailable("connection refused")
        bad = [place for place, one in enumerate(records) if one.value in self._poison]
        if not bad and self._dice.random() < self._faults / 3:
            raise Refused("busy with another transaction", 0 if self._tells != "nothing" else None)
        match self._tells:
            case "all":
                self._apply([one for one in records if one.value not in self._poison])
                result = dict.fromkeys(bad, "it is poison")
            case "first":
                self._apply(records[: bad[0]] if bad else records)
                result = None
            case _:
                self._apply([] if bad else records)
                result = None
        if self._fails():
            if self._dice.random() < 0.5:
                raise TimeoutError  # applied, and not answered
            raise Unavailable("connection reset by peer")
        if bad and result is None:
            raise Refused("it is poison", bad[0] if self._tells == "first" else None)
        return result

    async def close(self) -> None:
        self.closed += 1
