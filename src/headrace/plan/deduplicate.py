"""The process behind `deduplicate`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from headrace.plan.process import Value
from headrace.plan.schema import Schema

__all__ = ["Deduplicate"]


class Deduplicate:
    """Gives the first record of each key, and the first after so long."""

    def __init__(self, columns: Schema, within: timedelta) -> None:
        self.output = {field.name: f"{field.type}{'' if field.nullable else ' NOT NULL'}" for field in columns.fields}
        self.state = {"seen": Value("BOOLEAN", ttl=within)}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any] | None:  # noqa: ANN401
        """Give the record, unless one like it was given not long ago."""
        if state.seen:
            return None
        state.seen = True
        return {name: row[name] for name in self.output}
