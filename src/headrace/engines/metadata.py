"""Which metadata of records a cluster can provide; the rest is refused by name."""

from __future__ import annotations

from collections.abc import Collection

from headrace.errors import PlanError
from headrace.plan.operators import Source

__all__ = ["check_metadata"]


def check_metadata(source: Source, engine: str, provided: Collection[str] = ()) -> None:
    """Raise PlanError unless an engine can provide all the metadata that a source declares."""
    for column, kind in source.metadata:
        if kind not in provided:
            what = f"{engine} cannot provide the {kind.replace('_', ' ')} of a record, which column {column!r} holds"
            raise PlanError(what, fix="run it on the embedded engine, or leave the column out of metadata")
