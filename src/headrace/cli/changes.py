"""`headrace plan APP --changes`: which state a changed pipeline would keep."""

from __future__ import annotations

from contextlib import closing, suppress

import msgspec

from headrace.cli.logs import KafkaOptions, NoLogYet, open_log
from headrace.plan.pipeline import Plan

__all__ = ["show_changes"]


def show_changes(plan: Plan, kafka: KafkaOptions) -> None:
    """Print how the pipeline has changed since its last commit, and which state it would keep."""
    from headrace.engines.embedded.carrying import carried_over

    manifest = None
    with suppress(NoLogYet), closing(open_log(kafka, create=False)) as log:
        manifest = log.manifest(plan.pipeline)
    if manifest is None:
        print(f"pipeline {plan.pipeline} has committed nothing yet")
    elif found := carried_over(plan, msgspec.json.decode(manifest)):
        print("\n  ".join([f"pipeline {plan.pipeline} has changed since its last commit", *found.lines()]))
    else:
        print(f"pipeline {plan.pipeline} has not changed since its last commit")
