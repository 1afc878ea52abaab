"""A run that is stopped, wherever it may be, goes on to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.apps.fingerprint import fingerprint
from headrace.engines.embedded.run import run_files
from headrace.simulate import Kiln

START_MS = 1_706_123_400_000
CHUNK = 6000


def kiln_files(folder: Path, count: int = 2, messages: int = 400) -> list[Path]:
    paths = []
    for number in range(count):
        kiln = Kiln(seed=number, disorder_ms=70_000, bad_share=0.05, number_share=0.2)
        lines = kiln.lines(START_MS, 2000)
        path = folder / f"kiln-{number}.ndjson"
        path.write_bytes(b"".join(next(lines) + b"\n" for _ in range(messages)))
        paths.append(path)
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def run(files: list[Path], folder: Path, **options) -> None:
    run_files(fingerprint.plan(), {"sensor-data": files}, folder, **{"chunk": CHUNK, "commit_seconds": 0.0, **options})


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return kiln_files(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def unbroken(files, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("unbroken")
    run(files, folder)
    whole = contents(folder)
    assert set(whole) == {"fingerprint-output.ndjson", "sensor-data.dead-letter.ndjson", "ledger.json"}
    assert all(whole.values())
    return whole


class Stopped(Exception):
    """What a test stops a run with."""


@pytest.mark.parametrize("chunk", [200, 1000, 20_000, 10_000_000])
def test_the_bytes_do_not_depend_on_how_much_is_read_at_once(files, unbroken, tmp_path, chunk) -> None:
    run(files, tmp_path, chunk=chunk, commit_seconds=60)
    assert contents(tmp_path) == unbroken


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_threads(files, unbroken, tmp_path, threads) -> None:
    command = [Path(sys.executable).parent / "headrace", "run", "fingerprint", "--output", tmp_path / "out"]
    for file in files:
        command += ["--input", file]
    environment = {**os.environ, "POLARS_MAX_THREADS": str(threads), "HEADRACE_HOME": str(tmp_path / "home")}
    subprocess.run(command, check=True, env=environment, timeout=60, capture_output=True)
    assert contents(tmp_path / "out") == unbroken


def test_a_run_stopped_after_any_turn_goes_on_to_the_same_bytes(files, unbroken, tmp_path) -> None:
    turns = []
    run(files, tmp_path / "count", progress=turns.append)
    for stop in range(len(turns)):
        folder, seen = tmp_path / f"stopped-{stop}", []

        def progress(at, seen=seen, stop=stop) -> None:
            seen.append(at)
            if len(seen) > stop:
                raise Stopped

        with pytest.raises(Stopped):
            run(files, folder, progress=progress, commit_seconds=0.0 if stop % 2 else 60.0)
        run(files, folder, chunk=CHUNK + 777)
        assert contents(folder) == unbroken, f"stopped after turn {stop + 1}"


def test_a_fault_at_any_step_of_any_commit_leaves_the_commit_before(files, unbroken, tmp_path, monkeypatch) -> None:
    real_fsync, real_replace, steps = os.fsync, Path.replace, [0, None]

    def step() -> None:
        steps[0] += 1
        if steps[0] == steps[1]:
            raise OSError(28, "No space left on device")

    def fsync(handle) -> None:
        step()
        real_fsync(handle)

    def replace(self, target):
        step()
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    run(files, tmp_path / "count", chunk=40_000)
    total, dice = steps[0], random.Random(1)
    for fault in sorted(dice.sample(range(1, total + 1), min(total, 40))):
        folder = tmp_path / f"fault-{fault}"
        steps[:] = [0, fault]
        with pytest.raises(Exception, match="No space left on device"):
            run(files, folder, chunk=40_000)
        steps[:] = [0, None]
        run(files, folder, chunk=40_000)
        assert contents(folder) == unbroken, f"fault at step {fault} of {total}"


RUN = """
import sys
from pathlib import Path
from headrace.apps.fingerprint import fingerprint
from headrace.engines.embedded.run import run_files
folder, *files = map(Path, sys.argv[1:])
print("begun", flush=True)
run_files(fingerprint.plan(), {"sensor-data": files}, folder, chunk=1500, commit_seconds=0.0)
"""


def test_kill_9_at_random_moments_changes_nothing(files, unbroken, tmp_path) -> None:
    dice, kills = random.Random(7), 0
    for trial in range(4):
        folder = tmp_path / f"trial-{trial}"
        for _ in range(40):
            process = subprocess.Popen([sys.executable, "-c", RUN, folder, *files], stdout=subprocess.PIPE)
            assert process.stdout is not None
            with process.stdout:
                process.stdout.readline()
            deadline = time.monotonic() + dice.uniform(0.3, 1.6)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            if process.wait(timeout=60) == 0:
                break
        else:
            run(files, folder, chunk=1500)
        assert contents(folder) == unbroken
    assert kills >= 4
