"""Processes with several inputs on a real Flink: what the embedded engine gives, and commands on a topic that was silent."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from broker import Shared
from conformance.engine import Outcome, differences, left
from engines.embedded.chains import PLANS, input_jobs, rows_of
from engines.embedded.processes import Told, line
from engines.embedded.test_processes import written_files
from flink import client
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.entries import added_up
from headrace.engines.flink.places import Kafka
from headrace.engines.flink.rest import Rest
from headrace.engines.flink.run import run_many, savepoint, submit, wait
from headrace.engines.flink.script import flink_script
from headrace.engines.folder_jobs import FolderJob
from headrace.errors import PlanError
from headrace.plan.pipeline import Plan
from keeper import once

pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

from flink_topics import LIMIT, Topics, wait_for


@pytest.fixture(scope="module")
def outcomes(flink: Rest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Outcome]]:
    """Return what Flink and the embedded engine give."""
    return once("inputs", tmp_path_factory, partial(_outcomes, flink))


def _outcomes(flink: Rest, folder: Path) -> dict[str, tuple[Outcome, Outcome]]:
    given, found = {}, {}
    for name, (plan, inputs) in input_jobs().items():
        given[name] = FolderJob(plan, written_files(folder / name, inputs), folder / name / "flink")
        (folder / name / "flink").mkdir()
    run_many([*given.values()], flink, client=client(), parallelism=2)
    for name, job in given.items():
        (folder / name / "embedded").mkdir()
        run_embedded(job.plan, job.inputs, folder / name / "embedded")
        found[name] = left(job.folder, job.inputs), left(folder / name / "embedded", job.inputs)
    return found


@pytest.mark.parametrize("name", [*PLANS])
def test_several_inputs_give_what_the_embedded_engine_gives(outcomes: dict[str, tuple[Outcome, Outcome]], name: str) -> None:
    got, expected = outcomes[name]
    assert not (found := differences(got, expected)), "\n".join(found[:8])
    assert all(rows for rows in expected.written.values())


# Kafka


def commanded(order: str = "event_time", **policy: Any) -> Plan:
    command = hr.input(rows_of("commands"), **policy)

    def build() -> dict[str, hr.Stream]:
        made = rows_of("one").process(Told, by=["k"], name="told", order=order, inputs={"command": command})
        counts = made.window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="COUNT(*)") if order == "event_time" else made
        return {"out": made, "counts": counts}

    return hr.pipeline("commanded", version="1")(build).plan()


def test_a_command_on_a_topic_that_was_silent_takes_effect_at_once(flink: Rest, kafka: Shared, tmp_path: Path) -> None:
    plan = commanded(late="take", holds=False)
    topics = Topics(kafka.servers, tmp_path / "home", plan, 1)

    def said() -> list[str]:
        return [row["said"].split(" [")[0] for row in topics.rows("out")]

    with closing(topics.log):
        # No topic is ever found idle here: what is silent and held would hold for ever.
        job = submit(flink, flink_script(plan, topics.places(idle_after_ms=None, kept=str(tmp_path / "kept"))), client=client())
        try:
            topics.log.append(f"{topics.prefix}one", [line(second) for second in range(100)])
            wait_for(lambda: len(said()) >= 97)  # the watermark is 2 s before the last
            wait_for(lambda: len(topics.rows("counts")) == 9)
            topics.log.append(f"{topics.prefix}commands", [line(-3_600, do="held", x=7.0)])
            wait_for(lambda: said()[-1] == "command held")
            topics.log.append(f"{topics.prefix}commands", [line(105, do="held", x=8.0)])  # ahead of the watermark
            topics.log.append(f"{topics.prefix}one", [line(second) for second in range(100, 120)])
            wait_for(lambda: "command held" in said()[98:])
            wait_for(topics.all_counted)
        finally:
            savepoint(flink, job, f"file://{tmp_path}/savepoints", stop=True, drain=True, seconds=LIMIT)
        wait(flink, job)
        rows = topics.rows("out")
        at = [((row["at"] - line_ms(0)) / 1000, row["said"].split(" [")[0]) for row in rows]
        commands = [one for one in at if one[1] == "command held"]
        assert len(commands) == 2
        assert commands[0][0] == pytest.approx(97, abs=0.002)  # where the watermark was
        assert commands[1][0] == 105
        assert [time for time, _ in at] == sorted(time for time, _ in at)
        ledger = added_up(plan, topics.rows("commanded.ledger"))
        assert (ledger["commands"]["received"], ledger["commands"]["accepted"], ledger["commands"]["late"]) == (2, 2, 0)
        assert (ledger["one"]["received"], ledger["one"]["accepted"]) == (120, 120)


def line_ms(second: float) -> int:
    return int(json.loads(line(second))["t"])


@pytest.mark.parametrize("late", ["drop", "side"])
def test_what_flink_cannot_count_is_refused(late: str) -> None:
    plan = commanded(late=late, holds=False, late_to="late" if late == "side" else None)
    with pytest.raises(PlanError, match=r"input 'command' does not hold, and its late records are not taken: .*; write late='take' or holds=True"):
        flink_script(plan, Kafka("localhost:1", "commanded", {"one": 1, "commands": 1}))
