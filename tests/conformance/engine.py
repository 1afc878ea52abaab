"""What the conformance suite asks of an engine, the embedded engine, and when two outcomes are the same."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from headrace.engines.embedded.engine import EmbeddedEngine
from headrace.engines.embedded.run import Progress, run_files
from headrace.engines.options import Options
from headrace.engines.protocol import Context, FileJob
from headrace.errors import HeadraceError, PlanError
from headrace.plan.pipeline import Plan

Row = dict[str, Any]
Ledger = dict[str, dict[str, int | None]]

CLUSTERS = ("flink", "spark")
FATES = ("accepted", "malformed", "future", "duplicate", "late", "filtered", "shed")


@dataclass(frozen=True)
class Job:
    """A plan and its bounded input.

    `inputs` are raw records as they came, by topic and partition. `restarts` says of each time that the run is ended and started again how many
    records of each partition have come by then.
    """

    plan: Plan
    inputs: Mapping[str, Sequence[Sequence[bytes]]]
    restarts: tuple[Mapping[str, Sequence[int]], ...] = ()


@dataclass
class Outcome:
    """What a job left: records by output topic, dead letters and ledger by source topic. Or that the engine refused it."""

    written: dict[str, list[Row]]
    dead: dict[str, list[Row]]
    ledger: Ledger
    refused: PlanError | None = None


class Engine(Protocol):
    """An engine under test."""

    name: str

    def missing(self) -> str | None:
        """Return what there is not that the engine needs, and how to get it."""

    def run(self, jobs: Sequence[Job], *, interpreted: bool = False) -> list[Outcome]:
        """Run many jobs at once: a cluster starts one job for all of them. What it cannot do is an outcome too, `refused`.

        A job with restarts is ended at each and goes on from what it keeps; where bounded input cannot be read so, it runs live.
        With `interpreted`, an engine that can do without compiles no code for its queries, which takes longer than a few rows.
        """


def laid(job: Job, folder: Path) -> dict[str, list[Path]]:
    """Write a job's input as files of a folder, and return them by topic."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {}
    for topic, partitions in job.inputs.items():
        inputs[topic] = [folder / f"{topic}.{number}.ndjson" for number in range(len(partitions))]
        for path, records in zip(inputs[topic], partitions, strict=True):
            path.write_bytes(b"".join(record + b"\n" for record in records))
    return inputs


def left(folder: Path, sources: Iterable[str]) -> Outcome:
    """Return what a run over files left in a folder."""
    rows = {path.name.removesuffix(".ndjson"): [json.loads(line) for line in path.read_bytes().splitlines()] for path in folder.glob("*.ndjson")}
    dead = {topic: rows.pop(f"{topic}.dead-letter") for topic in sources}
    return Outcome(rows, dead, json.loads((folder / "ledger.json").read_bytes())["sources"])


def refused(error: HeadraceError) -> Outcome:
    """Return the outcome of a job that an engine refused, or that failed."""
    return Outcome({}, {}, {}, error if isinstance(error, PlanError) else PlanError(f"failed: {error}"))


# The embedded engine


class _Ended(Exception):
    """The run was to end here."""


class Embedded:
    """One process of headrace's own. Where a job is to be restarted, it reads line by line and commits at each."""

    name = "embedded"

    def missing(self) -> str | None:
        return None

    def run(self, jobs: Sequence[Job], *, interpreted: bool = False) -> list[Outcome]:  # noqa: ARG002  (there is nothing to compile)
        return [self._run(job) for job in jobs]

    def _run(self, job: Job) -> Outcome:
        with TemporaryDirectory() as name:
            folder = Path(name)
            inputs = laid(job, folder)
            try:
                places = [sum(map(sum, counts.values())) for counts in job.restarts]
                for place in filter(None, places):  # before the first record there is nothing to go on from
                    self._run_until(job.plan, inputs, folder / "out", place)
            except PlanError as error:
                return refused(error)
            (told,) = EmbeddedEngine().run_files([FileJob(job.plan, inputs, folder / "out")], Options(), Context(folder / "home"))
            if isinstance(told, HeadraceError):
                return refused(told)
            return left(folder / "out", job.inputs)

    def _run_until(self, plan: Plan, inputs: Mapping[str, Sequence[Path]], folder: Path, place: int) -> None:
        def end(progress: Progress) -> None:
            if progress.received >= place:
                raise _Ended

        try:
            run_files(plan, inputs, folder, chunk=1, commit_seconds=0, progress=end)
        except _Ended:
            return
        raise AssertionError(f"the run came to its end before record {place}")


# Sameness


def same(got: Outcome, expected: Outcome) -> bool:
    """Return whether an engine gave what was expected, as section 7 of the design means it."""
    return not differences(got, expected)


def differences(got: Outcome, expected: Outcome) -> list[str]:
    """Return a line for each difference.

    Doubles are equal within 1e-9 (or 1e-12 from each other, where a sum cancels out), records in any order, maps too, instants however many zeros they end
    in. A count or an offset may be null where a cluster cannot know it. What a ledger is not expected to say must add up all the same.
    """
    if got.refused is not None:
        return [f"refused: {got.refused}"]
    found = [f"topics: {sorted(got.written)}, expected {sorted(expected.written)}"] if got.written.keys() != expected.written.keys() else []
    for topic in expected.written.keys() & got.written.keys():
        found += _unmatched(topic, got.written[topic], expected.written[topic])
    for topic in {**expected.dead, **got.dead}:
        found += _unmatched_letters(topic, got.dead.get(topic, []), expected.dead.get(topic, []))
    for topic, counts in expected.ledger.items():
        mine = dict.fromkeys(counts, "lacking") | got.ledger.get(topic, {})
        found += [f"ledger of {topic}: {fate} {mine[fate]}, expected {count}" for fate, count in counts.items() if mine[fate] not in (count, None)]
    for topic, counts in got.ledger.items():
        if None not in counts.values() and counts["received"] != sum(count for fate, count in counts.items() if fate != "received" and count):
            found.append(f"ledger of {topic} does not add up: {counts}")
    return found


def alike(got: Any, expected: Any) -> bool:
    """Return whether two JSON values are the same value of the same kind."""
    match got, expected:
        case float(), float():
            return math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12)
        case dict(), dict():
            return got.keys() == expected.keys() and all(alike(got[key], expected[key]) for key in got)
        case list(), list():
            return len(got) == len(expected) and all(map(alike, got, expected))
        case str(), str():
            return got == expected or _instant(got) == _instant(expected)
    return type(got) is type(expected) and bool(got == expected)


_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d*?)0*)?Z")


def _instant(text: str) -> str:
    """Return an ISO instant without zeros at the end, and any other text as it is."""
    found = _INSTANT.fullmatch(text)
    return f"{found[1]}.{found[2] or ''}Z" if found else text


def _shape(value: Any) -> Any:
    """Return what is left of a value when its doubles are taken out: records that match have it in common."""
    match value:
        case float():
            return 0.5
        case dict():
            return {key: _shape(value[key]) for key in sorted(value)}
        case list():
            return [_shape(one) for one in value]
        case str():
            return _instant(value)
    return value


def _left(got: Sequence[Any], expected: Sequence[Any], key: Callable[[Any], Any], matches: Callable[[Any, Any], bool]) -> tuple[list[Any], list[Any]]:
    """Return what of `got` and of `expected` is left when each has been given its match, if there is one."""
    left: dict[str, list[Any]] = defaultdict(list)
    for one in got:
        left[json.dumps(key(one))].append(one)
    lacking = []
    for one in expected:
        bucket = left[json.dumps(key(one))]
        place = next((place for place, other in enumerate(bucket) if matches(other, one)), None)
        if place is None:
            lacking.append(one)
        else:
            del bucket[place]
    return [one for bucket in left.values() for one in bucket], lacking


def _unmatched(topic: str, got: Sequence[Row], expected: Sequence[Row]) -> Iterator[str]:
    extra, lacking = _left(got, expected, _shape, alike)
    for what, rows in (("got, not expected", extra), ("expected, not got", lacking)):
        for row in rows:
            yield f"{topic}: {what}: {json.dumps(row, ensure_ascii=False)}"


_LETTER = {"pipeline", "topic", "partition", "offset", "reason", "detail", "arrived_ms"}


def _unmatched_letters(topic: str, got: Sequence[Row], expected: Sequence[Row]) -> Iterator[str]:
    for letter in got:
        if _LETTER ^ letter.keys() not in ({"raw"}, {"raw_base64"}) or not letter["detail"]:
            yield f"dead letters of {topic}: not a whole letter: {letter}"
            return

    def key(letter: Row) -> list[Any]:
        raw = letter["raw"].encode() if "raw" in letter else base64.b64decode(letter["raw_base64"])
        return [letter["topic"], letter["partition"], letter["reason"], raw.hex()]

    extra, lacking = _left(got, expected, key, lambda one, other: one["offset"] in (other["offset"], None))
    for what, letters in (("got, not expected", extra), ("expected, not got", lacking)):
        for letter in letters:
            yield f"dead letters of {topic}: {what}: {json.dumps(letter, ensure_ascii=False)}"
