"""Alarms on a real Spark: the transitions of the embedded engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from alarms.alarm_plant import engine_jobs, plan_of, witnesses
from conformance.engine import differences, left
from engines.embedded.test_processes import written_files
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.folder_jobs import FolderJob
from headrace.engines.spark.run import run_many
from headrace.engines.spark.script import live_script
from headrace.errors import PlanError
from spark import HOME, missing_for_processes


@pytest.mark.usefixtures("warm_processes")
def test_alarms_make_the_transitions_of_the_embedded_engine(tmp_path: Path) -> None:
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    given = {
        name: FolderJob(plan, written_files(tmp_path / name, inputs), tmp_path / name / "spark") for name, (plan, inputs) in engine_jobs().items()
    }
    for (name, job), told in zip(given.items(), run_many([*given.values()], master="local[2]", home=HOME), strict=True):
        assert not isinstance(told, Exception), f"{name}: {told}"
        run_embedded(job.plan, job.inputs, tmp_path / name / "embedded")
        got, expected = left(job.folder, job.inputs), left(tmp_path / name / "embedded", job.inputs)
        assert not (found := differences(got, expected)), f"{name}: " + "\n".join(found[:8])
        assert witnesses(name, expected.written), name


def test_alarms_on_spark_s_streams_go_by_event_time() -> None:
    compile(live_script(plan_of(clock=False)), "alarms.py", "exec")
    with pytest.raises(PlanError, match="on_clock: a stream of Spark has timers of event time or of the clock, not both"):
        live_script(plan_of())
