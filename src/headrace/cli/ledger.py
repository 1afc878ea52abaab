"""`headrace ledger`: what became of every record."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from headrace.cli.apps import find_pipeline, home
from headrace.cli.logs import KafkaOptions, open_log
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["ledger"]


def ledger(app: str, /, *, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Show what became of every record of a pipeline's last run.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name.
    """
    name = find_pipeline(app).name
    path = home() / "ledgers" / f"{name}.json"
    live = _committed(name, kafka)
    if live is None and not path.is_file():
        raise PlanError(f"pipeline {name!r} has not been run here", where=str(home()), fix=f"run it first: headrace run {app} --input FILE")
    sources = live["ledger"] if live is not None and (not path.is_file() or live["committed_ms"] > path.stat().st_mtime * 1000) else _kept(path)
    for topic, counts in sources.items():
        print(topic)
        for fate, count in counts.items():
            print(f"  {fate:<10}{'?' if count is None else f'{count:,}':>15}")


def _kept(path: Path) -> dict[str, dict[str, int | None]]:
    """Return the ledger that the last run that ended has left; a count is None that a cluster could not tell."""
    try:
        found: dict[str, dict[str, int | None]] = json.loads(path.read_bytes())["sources"]
    except (OSError, ValueError, KeyError) as error:
        raise EnvironmentFault(f"cannot be read: {error}", where=str(path), fix="remove it, or run the pipeline again") from None
    return found


def _committed(pipeline: str, kafka: KafkaOptions) -> dict[str, Any] | None:
    """Return what the pipeline's last commit on topics said, if there is one."""
    if kafka == KafkaOptions() and not (home() / "log.db").is_file():
        return None
    with closing(open_log(kafka)) as log:
        manifest = log.manifest(pipeline)
    return None if manifest is None else json.loads(manifest)
