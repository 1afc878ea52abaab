"""Processes with several inputs on a real Spark give what the embedded engine gives."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from broker import Shared
from conformance.engine import differences, left
from engines.embedded.chains import PLANS, input_jobs, records
from engines.embedded.processes import START, Told, line, plan_of, source
from engines.embedded.test_processes import written_files
from engines.spark.test_spark_kafka import create, everything, produce, skip_unless_there
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.folder_jobs import FolderJob
from headrace.engines.spark.run import run_live, run_many
from headrace.engines.spark.script import live_script, spark_script
from headrace.errors import PlanError
from headrace.plan.pipeline import Plan
from keeper import once
from spark import HOME, missing_for_processes, warm


def jobs() -> dict[str, tuple[Plan, dict[str, list[list[bytes]]]]]:
    topics = ("one", "rules", "command", "limit")
    arriving = plan_of(
        dict.fromkeys(topics, 2_000), rules="rules", arrival=True, others={"command": "take", "limit": "drop"}, holds=False, name="inputs-arriving"
    )
    return {**input_jobs(), "arriving": (arriving, {topic: [records(place, 40), records(place + 10, 40)] for place, topic in enumerate(topics)})}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, spark_requests: Callable[[], Path]) -> dict[str, tuple[Path, Path]]:
    """Return by name where Spark put its outputs, and where the embedded engine did."""
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    with warm(spark_requests, processes=True):
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


# Streams


def commanded(plant: str, *, order: str = "event_time", late: Any = "take", holds: bool = False) -> Plan:
    """Return the plan of a process that takes commands, behind which there are windows."""

    def build() -> dict[str, hr.Stream]:
        command = hr.input(source(f"{plant}-commands", 0), late=late, holds=holds, late_to=f"{plant}-late" if late == "side" else None)
        made = source(plant, 2_000).process(Told, by=["k"], name="told", order=order, inputs={"command": command})
        windows = made.window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="COUNT(*)") if order == "event_time" else made
        return {f"{plant}-out": made, f"{plant}-counts": windows}

    return hr.pipeline("commanded", version="1")(build).plan()


@pytest.mark.usefixtures("warm_processes")
def test_a_live_command_on_a_topic_that_was_silent_takes_effect_in_the_next_micro_batch(kafka: Shared, tmp_path: Path) -> None:
    skip_unless_there()
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    plan = commanded(plant)
    create(kafka.servers, plan, **{plant: 1, f"{plant}-commands": 1})

    def run(readings: list[bytes], commands: list[bytes]) -> list[tuple[float, str]]:
        """Return what has been said since: the second, and by what."""
        before = len(everything(kafka.servers, f"{plant}-out"))
        produce(kafka.servers, plant, readings)
        produce(kafka.servers, f"{plant}-commands", commands)
        run_live(plan, kafka.servers, checkpoint=tmp_path, trigger="available-now", master="local[2]", home=HOME)
        rows = [json.loads(value) for value in everything(kafka.servers, f"{plant}-out")[before:]]
        return sorted(((row["at"] - START) / 1000, row["said"].split(" [")[0]) for row in rows)

    assert run([line(second) for second in range(10)], []) == [(second, "") for second in range(7)]  # it waits for no command
    assert run([], [line(-3_600, do="held", x=7.0)]) == [(7, "command held")]  # and this one for no record
    assert run([line(9.5), line(20)], [line(8, do="held", x=8.0), line(100, do="held")]) == [
        *[(7, ""), (8, ""), (8, "command held"), (9, ""), (9.5, "")]
    ]


@pytest.mark.parametrize(
    ("late", "holds", "why"),
    [
        ("side", True, "late='side' of input 'command': Spark's streams drop late rows unseen"),
        ("drop", False, "input 'command' does not hold, and its late"),
    ],
)
def test_what_spark_s_streams_cannot_judge_is_refused(late: str, holds: bool, why: str) -> None:
    plan = commanded("plant", late=late, holds=holds)
    compile(spark_script(plan), "commanded.py", "exec")
    with pytest.raises(PlanError, match=re.escape(why)):
        live_script(plan)
