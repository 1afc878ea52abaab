"""`headrace check` and `headrace plan`: pipelines looked at without running them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.apps import find_pipeline, made, pipelines_of_file, plan_of
from headrace.cli.changes import show_changes
from headrace.cli.logs import KafkaOptions
from headrace.cli.paths import local_path
from headrace.engines.protocol import engine_named
from headrace.errors import HeadraceError, PlanError

__all__ = ["check", "plan"]


def check(app: str, /) -> None:
    """Check the pipelines of a file, or one pipeline, without running them.

    Parameters
    ----------
    app
        A Python file for all its pipelines; or for one, as `run` takes it: file.py:name, module:name, or a shipped one (fingerprint).
    """
    wrong: list[HeadraceError] = []
    place, _, name = app.partition(":")
    whole = not name and (place.endswith(".py") or Path(place).is_file() or os.sep in place)
    for one in pipelines_of_file(local_path(place)).values() if whole else [find_pipeline(app)]:
        try:
            plan = made(one, {})
        except HeadraceError as error:
            wrong.append(type(error)(error.what, where=", ".join(filter(None, (f"pipeline {one.name}", error.where))), fix=error.fix))
            continue
        reads, writes = ", ".join(source.topic for source in plan.sources), ", ".join(plan.topics)
        print(f"{app}: pipeline {one.name} version {one.version} is sound: {reads} → {writes}")
    for one_wrong in wrong[:-1]:
        print(f"headrace: {one_wrong}", file=sys.stderr)
    if wrong:
        raise wrong[-1]


def plan(
    app: str,
    /,
    *,
    engine: str = "embedded",
    changes: Annotated[bool, Parameter(negative=())] = False,
    kafka: KafkaOptions | None = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
) -> None:
    """Show what a pipeline computes, or the script an engine would run.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name.
    engine
        embedded shows the operators, flink prints Flink SQL, spark prints a Python file for spark-submit.
    changes
        Show how the pipeline has changed since its last commit on the embedded engine, and what becomes of its state.
    set
        KEY=VALUE for a setting of the pipeline.
    """
    if changes and engine != "embedded":
        raise PlanError("compares with the state of the embedded engine", where="--changes", fix="leave out --engine")
    if kafka is not None and not changes:
        named = "--kafka-config" if kafka.kafka_servers is None else "--kafka-servers"
        raise PlanError("a plan is shown without looking at topics", where=named, fix="leave it out, or add --changes")
    chosen, found = engine_named(engine), plan_of(app, set or [])
    if changes:
        show_changes(found, kafka or KafkaOptions())
    else:
        print(chosen.script(found), end="")
