"""Detectors give the same rows on every engine."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import flink as on_flink
import spark as on_spark
from headrace.cli import main
from headrace.detect.fitting import Calibration, fit
from headrace.detect.model_file import save
from headrace.engines.flink.client import pyflink
from headrace.engines.flink.rest import Rest

BEGAN = 1_767_225_600_000
PIPELINE = """
import headrace as hr


@hr.pipeline("detecting", version="1")
def detecting():
    rows = hr.stream(
        "rows",
        schema={"plant": "STRING NOT NULL", "time": "BIGINT NOT NULL", "fields": "MAP<STRING, STRING>"},
        event_time="TO_TIMESTAMP_LTZ(time, 3)",
    )
    by_row = hr.detect(rows, "var.json", by=["plant"], values="fields", order="event_time")
    by_sum = hr.detect(rows, "cusum.json", by=["plant"], values="fields", order="event_time")
    return {**by_row.topics("var"), **by_sum.topics("cusum", conditions="cusum.conditions")}
"""
TOPICS = ("alarm-conditions", "var.scores", "var.unknown", "cusum.scores", "cusum.conditions")


def rows(count: int, seed: int) -> list[list[float]]:
    dice = random.Random(seed)
    found, level = [], 0.0
    for _ in range(count):
        level = 0.9 * level + dice.gauss(0, 1)
        found.append([level, 2 * level + dice.gauss(0, 1), dice.gauss(0, 1)])
    return found


@pytest.mark.long
@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_files_give_the_same_scores_and_conditions(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_ENGINES", str(on_flink.BUILD / "engines"))
    options = ["--engine", engine]
    if engine == "spark":
        if (why := on_spark.missing_for_processes()) is not None:
            pytest.skip(why)
        request.getfixturevalue("warm_processes")
    else:
        rest: Rest = request.getfixturevalue("flink")
        monkeypatch.setenv("HEADRACE_FLINK_PYTHON", str(pyflink(on_flink.BUILD)))
        options += ["--cluster", rest.url]
    tags = ["flow", "level", "speed"]
    Path("pipeline.py").write_text(PIPELINE)
    for kind in ("var", "cusum"):
        save(fit(kind, rows(300, seed=1), tags, calibration=Calibration(false_alarm_rate=0, k=1, n=2)), Path(f"{kind}.json"))
    with Path("rows.ndjson").open("w") as file:
        for plant in ("a", "b"):
            for place, values in enumerate(rows(200, seed=len(plant))):
                fields: dict[str, Any] = {tag: str(value + (6.0 if 100 <= place < 120 else 0.0)) for tag, value in zip(tags, values, strict=True)}
                if place % 17 == 5:
                    fields["level"] = "Bad Input"
                if place % 50 == 7:
                    fields = {"flow": "1"}
                file.write(json.dumps({"plant": plant, "time": BEGAN + 1000 * place, "fields": fields}) + "\n")
    inputs = ["--input", "rows=rows.ndjson"]
    assert main(["run", "pipeline.py", *inputs, "--output", "expected"]) == 0
    assert main(["run", "pipeline.py", *options, *inputs, "--output", "out"]) == 0
    for topic in TOPICS:
        expected, found = (
            sorted(
                (json.loads(line) for line in Path(folder, f"{topic}.ndjson").read_text().splitlines()),
                key=lambda row: (row.get("plant", row.get("tag")), row["time"]),
            )
            for folder in ("expected", "out")
        )
        assert expected
        assert found == expected
