"""`headrace savepoint`: where a pipeline is, in one file, so that an upgrade can be undone."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.apps import plan_of
from headrace.cli.logs import KafkaOptions, open_log
from headrace.cli.paths import OutputPath

__all__ = ["savepoint"]


def savepoint(
    app: str,
    file: OutputPath,
    /,
    *,
    kafka: KafkaOptions | None = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
) -> None:
    """Write where a pipeline is to a file: its state and its offsets. The pipeline must not run meanwhile.

    Parameters
    ----------
    app
        The pipeline, as `run` takes it: a shipped one (fingerprint), file.py[:name], or module:name.
    file
        The file to make. `headrace run APP --from-savepoint FILE` starts from there.
    set
        KEY=VALUE for a setting of the pipeline.
    """
    from headrace.engines.embedded.savepoint import take

    pipeline = plan_of(app, set or []).pipeline
    with closing(open_log(kafka or KafkaOptions(), create=False)) as log:
        made = take(log, pipeline, file)
    size = len(made.manifest) + sum(map(len, made.parts.values()))
    where = ", ".join(f"{offset:,} of {topic}/{partition}" for topic, partition, offset in made.offsets)
    print(f"Wrote {file}: pipeline {pipeline} at offset {where}; {size:,} bytes of state.")
