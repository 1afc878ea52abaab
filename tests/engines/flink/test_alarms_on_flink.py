"""Alarms on a real Flink: the transitions of the embedded engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from alarms.alarm_plant import engine_jobs, witnesses
from conformance.engine import Outcome, differences, left
from engines.embedded.test_processes import written_files
from flink import client
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.flink.rest import Rest
from headrace.engines.flink.run import run_many
from headrace.engines.folder_jobs import FolderJob
from keeper import once


def _outcomes(flink: Rest, folder: Path) -> dict[str, tuple[Outcome, Outcome]]:
    given = {}
    for name, (plan, inputs) in engine_jobs().items():
        given[name] = FolderJob(plan, written_files(folder / name, inputs), folder / name / "flink")
        (folder / name / "flink").mkdir()
    run_many([*given.values()], flink, client=client())
    for name, job in given.items():
        (folder / name / "embedded").mkdir()
        run_embedded(job.plan, job.inputs, folder / name / "embedded")
    return {name: (left(job.folder, job.inputs), left(folder / name / "embedded", job.inputs)) for name, job in given.items()}


def test_alarms_make_the_transitions_of_the_embedded_engine(flink: Rest, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, (got, expected) in once("alarms", tmp_path_factory, partial(_outcomes, flink)).items():
        assert not (found := differences(got, expected)), f"{name}: " + "\n".join(found[:8])
        assert witnesses(name, expected.written), name
