"""`headrace check` and `headrace plan`: pipelines looked at without running them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.apps import find_pipeline, made, pipelines_of_file, plan_of
from headrace.cli.changes import show_changes
from headrace.cli.definitions import unknown_in_tables
from headrace.cli.logs import KafkaOptions
from headrace.cli.paths import local_path
from headrace.cli.tables import counted
from headrace.engines.protocol import engine_named
from headrace.errors import HeadraceError, Mistakes, PlanError
from headrace.plant.file import PLANT_FILE

__all__ = ["check", "plan"]


def check(app: str = PLANT_FILE, /) -> None:
    """Check a plant file, the pipelines of a Python file, or one pipeline, without running them. All mistakes are reported at once.

    Parameters
    ----------
    app
        A plant file, which ends in .toml; headrace.toml if nothing is given. A Python file for all its pipelines. Or for one, as `run`
        takes it: file.py:name, module:name, or a shipped one (fingerprint).
    """
    place, _, name = app.partition(":")
    if place.endswith(".toml"):
        _check_plant(local_path(app))
        return
    whole = not name and (place.endswith(".py") or Path(place).is_file() or os.sep in place)
    wrong: list[HeadraceError] = []
    sound = []
    for one in pipelines_of_file(local_path(place)).values() if whole else [find_pipeline(app)]:
        try:
            plan = made(one, {})
        except HeadraceError as error:
            wrong.append(type(error)(error.what, where=", ".join(filter(None, (f"pipeline {one.name}", error.where))), fix=error.fix))
            continue
        sound.append(plan)
        reads, writes = ", ".join(source.topic for source in plan.sources), ", ".join(plan.topics)
        print(f"{app}: pipeline {one.name} version {one.version} is sound: {reads} → {writes}")
    for line in unknown_in_tables(sound):
        print(f"headrace: {line}", file=sys.stderr)
    Mistakes.report(wrong)


def _check_plant(path: Path) -> None:
    from headrace.cli.plant import check_plant

    checked = check_plant(path)
    plant = checked.plant
    for note in checked.notes:
        print(f"headrace: {note}", file=sys.stderr)
    counts = {"tag": len(checked.tags), "source": len(plant.ins), "pipeline": len(checked.pipelines), "target": len(plant.outs)}
    print(f"{path}: plant {plant.name} is sound: {', '.join(counted(count, what) for what, count in counts.items())}")
    for one in plant.ins:
        print(f"in        {one.name}: → {one.topic}")
    for planned in checked.pipelines:
        reads = ", ".join(source.topic for source in planned.plan.sources)
        print(f"pipeline  {planned.plan.pipeline}: {reads} → {', '.join(planned.plan.topics)}")
    for target in plant.outs:
        print(f"out       {target.name}: {target.topic} →")


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
        Show how the pipeline has changed since its last commit, or on Flink since its last savepoint or checkpoint, and what becomes of its state.
    set
        KEY=VALUE for a setting of the pipeline.
    """
    if kafka is not None and not changes:
        named = "--kafka-config" if kafka.kafka_servers is None else "--kafka-servers"
        raise PlanError("a plan is shown without looking at topics", where=named, fix="leave it out, or add --changes")
    chosen, found = engine_named(engine), plan_of(app, set or [])
    if changes:
        show_changes(found, engine, kafka)
    else:
        print(chosen.script(found), end="")
