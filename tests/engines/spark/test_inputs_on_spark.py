"""Processes with several inputs on a real Spark give what the embedded engine gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.engine import differences, left
from engines.embedded.chains import PLANS, input_jobs, records
from engines.embedded.processes import plan_of
from engines.embedded.test_processes import written_files
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.folder_jobs import FolderJob
from headrace.engines.spark.run import run_many
from headrace.plan.pipeline import Plan
from keeper import once
from spark import HOME, missing_for_processes


def jobs() -> dict[str, tuple[Plan, dict[str, list[list[bytes]]]]]:
    topics = ("one", "rules", "command", "limit")
    arriving = plan_of(
        dict.fromkeys(topics, 2_000), rules="rules", arrival=True, others={"command": "take", "limit": "drop"}, holds=False, name="inputs-arriving"
    )
    return {**input_jobs(), "arriving": (arriving, {topic: [records(place, 40), records(place + 10, 40)] for place, topic in enumerate(topics)})}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return by name where Spark put its outputs, and where the embedded engine did."""
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    return once("spark-inputs", tmp_path_factory, _runs)


def _runs(folder: Path) -> dict[str, tuple[Path, Path]]:
    given = {name: FolderJob(plan, written_files(folder / name, inputs), folder / name / "spark") for name, (plan, inputs) in jobs().items()}
    for name, told in zip(given, run_many([*given.values()], master="local[2]", home=HOME), strict=True):
        assert not isinstance(told, Exception), f"{name}: {told}"
        run_embedded(given[name].plan, given[name].inputs, folder / name / "embedded")
    return {name: (folder / name / "spark", folder / name / "embedded") for name in given}


@pytest.mark.parametrize("name", [*PLANS, "arriving"])
def test_several_inputs_give_what_the_embedded_engine_gives(runs: Mapping[str, tuple[Path, Path]], name: str) -> None:
    got, wanted = runs[name]
    sources: Any = jobs()[name][1]
    found = differences(left(got, sources), left(wanted, sources))
    assert not found, "\n".join(found[:8])
    ledgers = [json.loads((folder / "ledger.json").read_text()) | {"open": None} for folder in (got, wanted)]
    assert ledgers[0] == ledgers[1]
    assert all(one.stat().st_size for one in wanted.glob("*.ndjson") if "dead-letter" not in one.name)
