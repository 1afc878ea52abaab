"""The operators of a plan: small frozen classes that do not know where their inputs come from.

An operator derives its schema and its traits from those of its inputs. It also states which columns it reads of each input, which
columns it leaves unchanged, and its line in `headrace plan`. How it is executed is the engines' matter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from headrace.errors import PlanError
from headrace.plan.operator_base import METADATA, TEXTS, Named, OperatorBase, Source, Traits, metadata_fields
from headrace.plan.process_operators import KeyedInput, Over, Process, Side
from headrace.plan.row_operators import Derive, Select, Union, Unnest, Where
from headrace.plan.schema import Schema
from headrace.plan.window_operators import WINDOW_COLUMNS, Aggregate, Regroup, TopN

__all__ = [
    "METADATA",
    "TEXTS",
    "WINDOW_COLUMNS",
    "Aggregate",
    "Derive",
    "KeyedInput",
    "Named",
    "Operator",
    "Over",
    "Process",
    "Regroup",
    "RowOperator",
    "Select",
    "Side",
    "Sink",
    "Source",
    "TopN",
    "Traits",
    "Union",
    "Unnest",
    "Where",
    "metadata_fields",
]  # fmt: skip


@dataclass(frozen=True)
class Sink(OperatorBase):
    """A topic that rows are written to, one JSON object each. The entries of the MAP `spread` are fields of the object itself."""

    kind: ClassVar[str] = "sink"

    topic: str
    spread: str | None = None

    @property
    def label(self) -> str:
        """The topic."""
        return f"sink:{self.topic}"

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return all columns."""
        return set(given.names)

    def refuse_spread(self) -> None:
        """Raise PlanError if a MAP is spread, for an engine or a format that has fixed columns only."""
        if self.spread is not None:
            what = f"writes the entries of {self.spread!r} as fields"
            raise PlanError(what, where=str(self), fix="declare the fields in the schema, or let the embedded engine write JSON")

    def __str__(self) -> str:
        return f"sink {self.topic!r}" if self.spread is None else f"sink {self.topic!r}, spread {self.spread!r}"


# Operators without state, which engines apply to rows as they come.
RowOperator = Source | Derive | Select | Where | Unnest | Union | TopN
Operator = RowOperator | Aggregate | Regroup | Process | Side | Sink
