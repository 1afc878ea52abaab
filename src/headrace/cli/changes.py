"""`headrace plan APP --changes`: which state a changed pipeline would keep."""

from __future__ import annotations

from contextlib import closing, suppress

import msgspec

from headrace.cli.apps import home
from headrace.cli.logs import KafkaOptions, NoLogYet, open_log
from headrace.errors import PlanError
from headrace.plan.changes import Changes
from headrace.plan.pipeline import Plan

__all__ = ["show_changes"]


def show_changes(plan: Plan, engine: str, kafka: KafkaOptions | None) -> None:
    """Print how the pipeline has changed since its last commit, on Flink since its last savepoint or checkpoint, and which state it would keep.

    Raises
    ------
    PlanError
        If the state of the engine cannot be compared.
    HeadraceError
        If the state cannot be read, or cannot be carried over.
    """
    if engine == "spark":
        raise PlanError("Spark's checkpoints do not name the pipeline that left them", where="--changes", fix="leave out --engine, or name flink")
    if engine == "flink" and kafka is not None:
        named = "--kafka-config" if kafka.kafka_servers is None else "--kafka-servers"
        raise PlanError("the state on Flink is compared without looking at topics", where=named, fix="leave it out")
    if engine == "flink":
        _show_on_flink(plan)
    else:
        _show_embedded(plan, kafka or KafkaOptions())


def _show_on_flink(plan: Plan) -> None:
    from headrace.engines.flink.kept import Kept

    kept = Kept.of(plan, home())
    state = kept.last_state()
    if state is None:
        print(f"pipeline {plan.pipeline} has no savepoint or checkpoint on Flink yet")
    elif not kept.is_noted(state):
        print(f"pipeline {plan.pipeline} cannot be compared: no note says which plan left {state.rpartition('/')[2]} on Flink")
    else:
        _show(plan, kept.carried_over(plan, state, bounded=False), f"the job on Flink that left {state.rpartition('/')[2]}")


def _show_embedded(plan: Plan, kafka: KafkaOptions) -> None:
    from headrace.engines.embedded.carrying import carried_over

    manifest = None
    with suppress(NoLogYet), closing(open_log(kafka, create=False)) as log:
        manifest = log.manifest(plan.pipeline)
    if manifest is None:
        print(f"pipeline {plan.pipeline} has committed nothing yet")
    else:
        _show(plan, carried_over(plan, msgspec.json.decode(manifest)), "its last commit")


def _show(plan: Plan, found: Changes, since: str) -> None:
    if found:
        print("\n  ".join([f"pipeline {plan.pipeline} has changed since {since}", *found.lines()]))
    else:
        print(f"pipeline {plan.pipeline} has not changed since {since}")
