"""`headrace ledger`: what became of every record."""

from __future__ import annotations

import json

from headrace.cli.apps import find_pipeline, home
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["ledger"]


def ledger(app: str, /) -> None:
    """Show what became of every record of a pipeline's last run.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name.
    """
    name = find_pipeline(app).name
    path = home() / "ledgers" / f"{name}.json"
    if not path.is_file():
        raise PlanError(f"pipeline {name!r} has not been run here", where=str(home()), fix=f"run it first: headrace run {app} --input FILE")
    try:
        sources = json.loads(path.read_bytes())["sources"]
    except (OSError, ValueError, KeyError) as error:
        raise EnvironmentFault(f"cannot be read: {error}", where=str(path), fix="remove it, or run the pipeline again") from None
    for topic, counts in sources.items():
        print(topic)
        for fate, count in counts.items():
            print(f"  {fate:<10}{count:>15,}")
