"""A labelled attack on the simulated water plant, from normal rows to the alarm, as docs/detectors.md has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.backtest.labels import labels_of
from headrace.cli import main

TAGS = "FIT301,DPIT301,LIT301,MV301,MV302,MV303,MV304,P301,P302"
ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_outlet_of_the_filter_is_closed_and_the_alarm_lasts_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = (ROOT / "docs/detectors.md").read_text().split("```python\n")[1].split("```")[0]
    Path("filter.py").write_text(code)
    simulate = ["simulate", "water", "--quiet"]
    assert main([*simulate, "--to", "normal.ndjson", "--records", "43200", "--seed", "1", "--start", "2026-01-01T00:00:00Z"]) == 0
    attack = ["--scenarios", "filter_outlet_closed", "--labels", "labels.csv"]
    assert main([*simulate, "--to", "attack.ndjson", "--records", "2400", "--seed", "2", "--start", "2026-01-02T00:00:00Z", *attack]) == 0
    assert main(["fit", "states", "--input", "normal.ndjson", "--to", "filter.json", "--tags", TAGS, "--false-alarm-rate", "0.001"]) == 0
    assert main(["run", "filter.py:filter-detector", "--input", "attack.ndjson", "--output", "out"]) == 0
    began, ended = map(json.loads, Path("out/alarm-conditions.ndjson").read_text().splitlines())
    [label] = labels_of(Path("labels.csv"))
    assert label.start <= began["time"] < label.start + 5000
    assert label.end <= ended["time"] < label.end + 5000
    assert list(began["contributions"]) == ["P301"]
