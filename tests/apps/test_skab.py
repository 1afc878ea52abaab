"""A user's own pipeline, the README's, over real data: the water loop of SKAB, held against plain Python."""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main

ROOT = Path(__file__).parents[2]
VALVE = ROOT.parent / "shared" / "data" / "skab" / "valve1"
DELAY = 10_000


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pipeline that the README shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINUTES", raising=False)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    Path("loop.py").write_text((ROOT / "examples" / "loop.py").read_text())
    return "loop.py"


def plainly(files: Iterable[Path], length: int) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows and the fates of the records, by nothing but the csv and statistics modules."""
    values: dict[tuple[int, str], list[float]] = defaultdict(list)
    fates: Counter[str] = Counter()
    for file in files:
        greatest = -1
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines, delimiter=";"):
                time = int(datetime.strptime(row.pop("datetime"), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() * 1000)
                end = time // length * length + length
                taken = greatest - DELAY < end - 1
                greatest = max(greatest, time)
                fates["accepted" if taken else "late"] += 1
                for sensor, text in row.items():
                    if taken and text.strip():
                        values[end, sensor].append(float(text))
    return [expected(sensor, found, end - length, end) for (end, sensor), found in sorted(values.items())], fates


def expected(sensor: str, values: Sequence[float], start: int, end: int) -> dict[str, Any]:
    scale = max(map(abs, values)) or 1.0
    return {
        "sensor": sensor,
        "count": len(values),
        "min": min(values),
        "max": max(values),
        "mean": pytest.approx(statistics.fmean(values), rel=1e-12),
        "std_dev": pytest.approx(statistics.pstdev(values), rel=1e-9, abs=1e-12 * scale),
        "window_start": instant(start),
        "window_end": instant(end),
        "revision": 0,
    }


def instant(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def runs_of_the_valve() -> list[Path]:
    files = sorted(VALVE.glob("*.csv"), key=lambda path: int(path.stem))
    if not files:
        pytest.skip(f"no CSV files of SKAB in {VALVE}")
    return files


@pytest.mark.parametrize("minutes", [1, 5])
def test_the_readmes_pipeline_gives_the_statistics_of_each_sensor_and_minute(loop: str, minutes: int) -> None:
    files = runs_of_the_valve()
    inputs = [part for file in files for part in ("--input", str(file))]
    assert main(["run", loop, *inputs, "--output", "out", "--set", f"minutes={minutes}"]) == 0
    rows, fates = plainly(files, minutes * 60_000)
    assert [json.loads(line) for line in Path("out/loop-statistics.ndjson").read_text().splitlines()] == rows
    assert not Path("out/loop.dead-letter.ndjson").read_bytes()
    ledger = json.loads(Path("out/ledger.json").read_text())["sources"]["loop"]
    assert {fate: count for fate, count in ledger.items() if count} == fates | {"received": fates.total()}


def test_a_line_that_was_cut_is_set_aside(loop: str) -> None:
    lines = runs_of_the_valve()[0].read_bytes().splitlines()
    Path("valve.csv").write_bytes(b"\n".join([*lines[:200], lines[200][:40], *lines[201:400]]))
    assert main(["run", loop, "--input", "valve.csv", "--output", "out"]) == 0
    (letter,) = [json.loads(line) for line in Path("out/loop.dead-letter.ndjson").read_text().splitlines()]
    assert (letter["offset"], letter["raw"], letter["detail"]) == (199, lines[200][:40].decode(), "4 cells where the header names 11")
    Path("whole.csv").write_bytes(b"\n".join([*lines[:200], *lines[201:400]]))
    assert main(["run", loop, "--input", "whole.csv", "--output", "whole"]) == 0
    assert Path("out/loop-statistics.ndjson").read_bytes() == Path("whole/loop-statistics.ndjson").read_bytes()
