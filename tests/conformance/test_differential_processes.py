"""Random processes over random input: in the run of each engine that has the suite's own cases, and compared with the embedded engine, which is compared with the plain reference.

CONFORMANCE_SEED and CONFORMANCE_PROCESSES ask for others, or more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from conformance.engine import Embedded, Job, Outcome, differences
from engines.embedded.processes import plan_of
from engines.embedded.test_processes import cases

SEED, PROCESSES = int(os.environ.get("CONFORMANCE_SEED", "1")), int(os.environ.get("CONFORMANCE_PROCESSES", "12"))


@cache
def jobs() -> dict[str, Job]:
    """Return jobs of processes that do what their records say, by names of their own."""
    found: dict[str, Job] = {}

    def gather(case: tuple[dict[str, list[list[bytes]]], dict[str, int], dict[str, Any]]) -> None:
        inputs, delays, how = case
        # Flink has no zero below zero, and what these processes give tells their values as texts.
        inputs = {topic: [[line.replace(b"-0.0", b"0.5") for line in lines] for lines in partitions] for topic, partitions in inputs.items()}
        if any(map(any, inputs.values())):
            found[f"random process {len(found)}"] = Job(plan_of(delays, **how, name=f"random-machine-{len(found)}"), inputs)

    quiet = settings(max_examples=PROCESSES, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck), deadline=None)
    seed(SEED)(quiet(given(cases())(gather)))()
    return found


def test_an_engine_gives_what_the_embedded_one_gives_for_random_processes(outcomes: Mapping[str, Outcome]) -> None:
    assert len(jobs()) >= PROCESSES // 2
    wrong: list[str] = []
    for (name, job), expected in zip(jobs().items(), Embedded().run(list(jobs().values())), strict=True):
        if found := differences(outcomes[name], expected):
            wrong += [name, *found, *(f"{topic}: {lines}" for topic, lines in job.inputs.items())]
    assert not wrong, "\n".join(wrong)
