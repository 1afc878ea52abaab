"""`headrace plan APP --changes`: which state a changed pipeline would keep."""

from __future__ import annotations

from contextlib import closing

import msgspec

from headrace.cli.logs import KafkaOptions, NoLogYet, open_log
from headrace.plan.pipeline import Plan

__all__ = ["show_changes"]


def show_changes(plan: Plan, kafka: KafkaOptions) -> None:
    """Print how the pipeline has changed since its last commit, and which state it would keep."""
    from headrace.engines.embedded.carrying import carried_over

    try:
        log = open_log(kafka, create=False)
    except NoLogYet:
        print(f"pipeline {plan.pipeline} has committed nothing yet")
        return
    with closing(log):
        manifest = log.manifest(plan.pipeline)
    if manifest is None:
        print(f"pipeline {plan.pipeline} has committed nothing yet")
        return
    found = carried_over(plan, msgspec.json.decode(manifest))
    if not found:
        print(f"pipeline {plan.pipeline} has not changed since its last commit")
        return
    print(f"pipeline {plan.pipeline} has changed since its last commit")
    for line in found.lines():
        print(f"  {line}")
