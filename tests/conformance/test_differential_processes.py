"""Random processes and running aggregates over random input: in the run of each engine that has the suite's own cases, and compared with the embedded engine, which is compared with the plain reference.

CONFORMANCE_SEED and CONFORMANCE_PROCESSES ask for others, or more.
"""

from __future__ import annotations

import json
import os
from ast import literal_eval
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import headrace as hr
from conformance.engine import Embedded, Engine, Job, Outcome, differences
from engines.embedded import test_over
from engines.embedded.processes import plan_of
from engines.embedded.test_processes import cases

SEED, PROCESSES = int(os.environ.get("CONFORMANCE_SEED", "1")), int(os.environ.get("CONFORMANCE_PROCESSES", "5"))
LONG_SEED, LONG_PROCESSES = 2, 60
NAMED, OVER = "random process ", "random over "


def job_of(inputs: dict[str, list[list[bytes]]], delays: dict[str, int], how: dict[str, Any], number: int) -> Job:
    return Job(plan_of(delays, **how, name=f"random-machine-{number}"), inputs)


def over_of(inputs: list[test_over.Rows], delay: int, frame: dict[str, Any], texts: list[str], number: int) -> Job:
    plan = hr.pipeline(f"random-over-{number}", version="1")(lambda: {"out": test_over.stream_of(delay, frame, texts)}).plan()
    return Job(plan, {"events": [[json.dumps(row).encode() for row in rows] for rows in inputs]})


@cache
def jobs(seeded: int = SEED, processes: int = PROCESSES) -> dict[str, Job]:
    """Return jobs of processes that do what their records say, by names that tell all of them: another process may draw others."""
    found: dict[str, Job] = {}

    def gather(case: tuple[dict[str, list[list[bytes]]], dict[str, int], dict[str, Any]]) -> None:
        inputs, delays, how = case
        # Flink has no zero below zero, and what these processes give tells their values as texts.
        inputs = {topic: [[line.replace(b"-0.0", b"0.5") for line in lines] for lines in partitions] for topic, partitions in inputs.items()}
        name = f"{NAMED}{(inputs, delays, how)}"
        if any(map(any, inputs.values())) and name not in found:
            found[name] = job_of(inputs, delays, how, len(found))

    def gather_over(case: tuple[list[test_over.Rows], int, dict[str, Any], list[str]]) -> None:
        if any(case[0]) and (name := f"{OVER}{case}") not in found:
            found[name] = over_of(*case, len(found))

    quiet = settings(max_examples=processes, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck), deadline=None)
    seed(seeded)(quiet(given(cases())(gather)))()
    seed(seeded)(quiet(given(test_over.cases())(gather_over)))()
    return found


def compare(outcomes: Mapping[str, Outcome]) -> int:
    """Compare outcomes of jobs by name with what the embedded engine gives, and return how many they are."""
    told = {name: outcome for name, outcome in outcomes.items() if name.startswith((NAMED, OVER))}
    asked = [_job(name, number) for number, name in enumerate(told)]
    wrong: list[str] = []
    for job, got, expected in zip(asked, told.values(), Embedded().run(asked), strict=True):
        if found := differences(got, expected):
            wrong += [job.plan.pipeline, *found, *(f"{topic}: {lines}" for topic, lines in job.inputs.items())]
    assert not wrong, "\n".join(wrong)
    return len(asked)


def _job(name: str, number: int) -> Job:
    if name.startswith(OVER):
        return over_of(*literal_eval(name.removeprefix(OVER)), number)
    return job_of(*literal_eval(name.removeprefix(NAMED)), number)


def test_an_engine_gives_what_the_embedded_one_gives_for_random_processes(outcomes: Mapping[str, Outcome]) -> None:
    assert compare(outcomes) >= PROCESSES


@pytest.mark.long
def test_an_engine_gives_it_for_dozens_of_random_processes(engine: Engine, record_property: Callable[[str, object], None]) -> None:
    asked = jobs(LONG_SEED, LONG_PROCESSES)
    record_property(f"random processes on {engine.name}", compare(dict(zip(asked, engine.run([*asked.values()]), strict=True))))
