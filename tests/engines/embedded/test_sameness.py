"""The bytes of the output do not depend on batches, threads, restarts, kills or faults."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from engines.embedded import pipelines
from engines.embedded.pipelines import PIPELINES, found, write_inputs
from forking import Forked
from headrace.engines.embedded.output import Output, encode_rows
from headrace.engines.embedded.run import Limits, Progress, Run, run_files
from headrace.errors import EnvironmentFault
from headrace.topics.dead_letters import DeadLetter
from headrace.topics.files import open_file
from repeated import LONG

NAMES = list(PIPELINES)
Inputs = dict[str, list[Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Inputs, dict[str, bytes]]]:
    """Input for a pipeline, and what an undisturbed run leaves."""
    known: dict[tuple[str, int], tuple[Inputs, dict[str, bytes]]] = {}

    def make(name: str, records: int) -> tuple[Inputs, dict[str, bytes]]:
        if (name, records) not in known:
            folder = tmp_path_factory.mktemp(name)
            inputs = write_inputs(folder / "in", name, records, seed=records)
            run_files(PIPELINES[name].plan(), inputs, folder / "out")
            known[name, records] = inputs, found(folder / "out")
        return known[name, records]

    return make


class Interrupted(BaseException):
    """Stands for whatever ends a process there and then."""


def size_of(inputs: Inputs) -> int:
    return sum(path.stat().st_size for paths in inputs.values() for path in paths)


# Batches


@pytest.mark.parametrize(("chunk", "records"), [(1, 110), (700, 300), (5_000, 300)])
@pytest.mark.parametrize("name", NAMES)
def test_the_output_does_not_depend_on_how_much_is_read_at_once(name: str, chunk: int, records: int, made, tmp_path: Path) -> None:
    inputs, expected = made(name, records)
    run_files(PIPELINES[name].plan(), inputs, tmp_path, chunk=chunk)
    assert found(tmp_path) == expected
    assert all(expected.values()), "input that leaves a file empty shows nothing"


def test_means_of_thousands_of_rows_do_not_depend_on_how_much_is_read_at_once(made, tmp_path: Path) -> None:
    inputs, expected = made("means", 6_000)
    for chunk in (3_000, 50_000):
        run_files(PIPELINES["means"].plan(), inputs, tmp_path, chunk=chunk)
        assert found(tmp_path) == expected


class Kept(Output):
    """Keeps what is written, as bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.dead: dict[tuple[str, int], list[tuple[int, Any]]] = {}

    def write(self, topic: str, rows: Any, keys: Any = None) -> None:  # noqa: ARG002
        self.files[topic] = self.files.get(topic, b"") + encode_rows(rows)

    def set_aside(self, letters: list[DeadLetter]) -> None:
        for letter in letters:
            self.dead.setdefault((letter.topic, letter.partition), []).append((letter.offset, letter.raw))


@pytest.mark.parametrize("name", NAMES)
def test_the_output_does_not_depend_on_which_partition_brings_how_much_when(name: str, made) -> None:
    inputs, _ = made(name, 300)

    def read(seed: int) -> tuple[dict[str, bytes], Any, Any]:
        chance, kept = random.Random(seed), Kept()
        readers = {topic: [open_file(file) for file in files] for topic, files in inputs.items()}
        run = Run(PIPELINES[name].plan(), readers, kept)
        while not run.finished:
            for partition in run.partitions:
                partition.reader._chunk = int(10 ** chance.uniform(1, 5))
            run.take_turn()
        run.finish()
        for partition in run.partitions:
            partition.reader.close()
        return kept.files, kept.dead, run.ledger

    expected = read(0)
    for seed in range(1, 50 if LONG else 4):
        assert read(seed) == expected, f"seed {seed}"


# Threads


def started(name: str, inputs: Inputs, output: Path, threads: int) -> subprocess.Popen[bytes]:
    folder = next(iter(inputs.values()))[0].parent
    command = [sys.executable, str(pipelines.__file__), name, str(folder), str(output), str(1 << 20), "5"]
    return subprocess.Popen(command, env={**os.environ, "POLARS_MAX_THREADS": str(threads)})


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_output_does_not_depend_on_the_number_of_threads(threads: int, made, tmp_path: Path) -> None:
    for name, records in (("means", 6_000), ("merging", 300)):
        inputs, expected = made(name, records)
        assert started(name, inputs, tmp_path / name, threads).wait() == 0
        assert found(tmp_path / name) == expected


# Restarts


def stop_after(turns: int) -> Callable[[Progress], None]:
    """Return a callback of progress that ends the run after some turns."""
    turn = count(1)

    def stop(_: Progress) -> None:
        if next(turn) == turns:
            raise Interrupted

    return stop


@pytest.mark.parametrize("name", NAMES)
def test_a_run_stopped_after_any_turn_goes_on_to_the_same_output(name: str, made, tmp_path: Path) -> None:
    inputs, expected = made(name, 110)
    plan, chunk = PIPELINES[name].plan(), size_of(inputs) // (10 if LONG else 7)
    for turns in count(1):
        folder = tmp_path / str(turns)
        try:
            run_files(plan, inputs, folder, chunk=chunk, commit_seconds=0, progress=stop_after(turns))
        except Interrupted:
            assert found(folder) == {}, "nothing is in place before all is"
        else:
            break
        # The next goes some turns further and is stopped with what it did uncommitted, the third goes to the end.
        with suppress(Interrupted):
            run_files(plan, inputs, folder, chunk=chunk // 2, commit_seconds=1_000, progress=stop_after(2))
        run_files(plan, inputs, folder, chunk=2 * chunk)
        assert found(folder) == expected, f"stopped after {turns} turns"
    assert turns > 4
    assert found(folder) == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_output_does_not_depend_on_how_many_turns_lie_between_commits(name: str, made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, expected = made(name, 110)
    for every in (2, 3, 7):
        monkeypatch.setattr("headrace.engines.embedded.run.time.monotonic", count().__next__)
        run_files(PIPELINES[name].plan(), inputs, tmp_path, chunk=300, commit_seconds=every)
        assert found(tmp_path) == expected, f"every {every} turns"


# Limits


@pytest.mark.parametrize("name", NAMES)
def test_a_run_stopped_after_so_many_records_resumes_to_the_same_output(name: str, made, tmp_path: Path) -> None:
    inputs, expected = made(name, 110)
    plan, chance = PIPELINES[name].plan(), random.Random(name)
    received = 0
    while True:
        most, chunk = chance.randint(1, 90), int(10 ** chance.uniform(1, 5))
        accounts = run_files(plan, inputs, tmp_path, chunk=chunk, commit_seconds=chance.choice((0, 1_000)), limits=Limits(records=most))
        now = sum(account.received for account in accounts.values())
        if not (tmp_path / ".run").exists():
            assert now - received <= most
            break
        assert now - received == most
        received = now
        so_far = found(tmp_path)
        assert so_far.keys() == expected.keys()
        for file in so_far:
            if file != "ledger.json" and ".dead-letter" not in file:
                assert expected[file].startswith(so_far[file])
    assert found(tmp_path) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_run_drained_after_so_many_records_is_that_of_a_file_which_ends_there(name: str, made, tmp_path: Path) -> None:
    inputs, _ = made(name, 120)
    plan = PIPELINES[name].plan()
    (topic, (file, *_)), *_ = inputs.items()
    lines = file.read_bytes().splitlines(keepends=True)
    for most in (1, 17, len(lines) - 1):
        short = tmp_path / f"{most}" / file.name
        short.parent.mkdir()
        short.write_bytes(b"".join(lines[:most]))
        one = {source.topic: [file] if source.topic == topic else [tmp_path / "none.ndjson"] for source in plan.sources}
        (tmp_path / "none.ndjson").write_bytes(b"")
        run_files(plan, one | {topic: [short]}, tmp_path / f"short{most}", limits=Limits(drain=True))
        accounts = run_files(plan, one, tmp_path / f"limited{most}", limits=Limits(records=most, drain=True))
        assert accounts[topic].received == most
        assert found(tmp_path / f"limited{most}") == found(tmp_path / f"short{most}")
        assert not (tmp_path / f"limited{most}" / ".run").exists()


def test_a_run_of_a_stated_duration_stops_between_two_batches(made, tmp_path: Path) -> None:
    inputs, expected = made("means", 300)
    runs = 0
    while (tmp_path / ".run").exists() or not runs:
        run_files(PIPELINES["means"].plan(), inputs, tmp_path, chunk=1 << 20 if runs == 3 else 700, limits=Limits(duration=0 if runs < 3 else None))
        runs += 1
    assert runs == 4
    assert found(tmp_path) == expected


# Faults, at every step of a commit and of putting the output in place


OPENINGS = [(os, "open"), (Path, "open"), (Path, "mkdir"), (Path, "write_bytes")]
STEPS = [(os, "fsync"), (os, "rmdir"), (Path, "replace"), (Path, "unlink")]


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, at: int, fault: Callable[[], BaseException], *, after: bool) -> Iterator[Callable[[], int]]:
    """Have the `at`-th step raise, in place of what it does, openings included, or after it; yield a count of the steps."""
    number = 0

    def failing_step(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number += 1
            mine = number == at
            if mine and not after:
                raise fault()
            result = step(*args, **kwargs)
            if mine:
                raise fault()
            return result

        return wrapper

    with monkeypatch.context() as patch:
        for owner, name in STEPS if after else OPENINGS + STEPS:
            patch.setattr(owner, name, failing_step(getattr(owner, name)))
        yield lambda: number


def digest(folder: Path) -> bytes:
    """Return a digest of all files in a folder, with their paths in it."""
    sums = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        sums.update(f"{path.relative_to(folder)}\0{content}\n".encode())
    return sums.digest()


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("apart", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("name", "fault", "after"), [("merging", disk_full, False), ("revising", Interrupted, False), ("revising", Interrupted, True)]
)
def test_a_fault_at_any_step_leaves_a_run_that_goes_on_to_the_same_output(
    name: str, fault: Callable[[], BaseException], after: bool, apart: int, made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, expected = made(name, 60)
    plan, chunk = PIPELINES[name].plan(), size_of(inputs) // 3
    left: set[bytes] = set()
    for at in count(1, apart):
        folder = tmp_path / str(at)
        with failing(monkeypatch, at, fault, after=after) as steps:
            try:
                run_files(plan, inputs, folder, chunk=chunk, commit_seconds=0)
            except (Interrupted, EnvironmentFault) as error:
                assert isinstance(error, Interrupted) or "No space left" in str(error)
            if steps() < at:
                break
        if fault is Interrupted and digest(folder) in left:
            continue  # the process has ended: what the next one does with the same files has been seen
        left.add(digest(folder))
        run_files(plan, inputs, folder)
        assert found(folder) == expected, f"fault at step {at}"
        assert not (folder / ".run").exists()
    assert at > 60
    assert len(left) > 10


def test_a_run_interrupted_again_and_again_while_it_puts_its_output_in_place_gets_there(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, expected = made("merging", 60)
    plan = PIPELINES["merging"].plan()
    with pytest.raises(Interrupted), monkeypatch.context() as patch:
        patch.setattr("headrace.engines.embedded.output.Files.publish", lambda *_, **__: (_ for _ in ()).throw(Interrupted))
        run_files(plan, inputs, tmp_path)
    for attempt in count(1):
        with monkeypatch.context() as patch:
            steps, replace = count(1), Path.replace

            def once(self: Path, target: Path, steps: Iterator[int] = steps, replace: Callable[..., Path] = replace) -> Path:
                if next(steps) > 1:
                    raise Interrupted
                return replace(self, target)

            patch.setattr(Path, "replace", once)
            try:
                run_files(plan, inputs, tmp_path)
            except Interrupted:
                continue
            break
    assert attempt > 4
    assert found(tmp_path) == expected


# Kills


@pytest.mark.parametrize("most", [2, pytest.param(30, marks=pytest.mark.long)])
@pytest.mark.parametrize(("seed", "name"), list(enumerate(NAMES)))
def test_a_process_killed_at_random_moments_leaves_a_run_that_goes_on_to_the_same_output(
    seed: int, name: str, most: int, made, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    inputs, expected = made(name, 2_000)
    chance, manifest, kills = random.Random(seed), tmp_path / ".run" / "manifest.json", 0
    folder = next(iter(inputs.values()))[0].parent
    while kills < most:
        before = manifest.stat().st_ino if manifest.exists() else 0
        process = Forked(pipelines.main, name, folder, tmp_path, chance.randint(300, 2_000), chance.choice([0, 0.01, 0.05]))
        while process.poll() is None and (not manifest.exists() or manifest.stat().st_ino == before):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        if process.wait() == 0:
            assert found(tmp_path) == expected
        else:
            assert process.returncode == -signal.SIGKILL
            kills += 1
    run_files(PIPELINES[name].plan(), inputs, tmp_path)
    assert found(tmp_path) == expected
    record_property("kills", kills)
