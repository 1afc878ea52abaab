"""The common part of the SQL for Flink and for Spark: each node adds to a SELECT, and a view is created where SQL needs one.

An engine defines how it writes each operator (`_make`), how it creates a view (`_view`), and which nodes are views anyway (`_is_view`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from headrace.errors import PlanError
from headrace.plan.graph import Node
from headrace.plan.operators import Operator, Source
from headrace.plan.pipeline import Plan

__all__ = ["Selects", "blaming"]


class _Block(Protocol):
    """A SELECT while it grows."""

    def takes(self, columns: Collection[str]) -> bool:
        """Return whether an operator that reads `columns` can be added to this SELECT."""

    def saying(self, operator: str) -> Self:
        """Return the SELECT with one more operator in its comment."""


B = TypeVar("B", bound=_Block)


@contextmanager
def blaming(engine: str, node: object) -> Iterator[None]:
    """Add the node as context to a PlanError."""
    try:
        yield
    except PlanError as error:
        raise PlanError(error.what, where=error.where or f"{engine} SQL of {node}", fix=error.fix) from None


class Selects(Generic[B]):
    """The SELECT of each node of a plan."""

    engine: ClassVar[str]

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._blocks: dict[Node[Operator], B] = {}

    def block(self, node: Node[Operator]) -> B:
        """Return the SELECT of a node's rows. If several nodes read it, it is a view.

        Raises
        ------
        PlanError
            If the engine's SQL cannot express it. The error names the node.
        """
        if node not in self._blocks:
            with blaming(self.engine, node):
                made = self._make(node.operator, node)
            is_view = self._is_view(node)
            made = made if is_view and node.is_a(Source) else made.saying(str(node))
            shared = len(self._plan.consumers(node)) > 1 and not is_view
            self._blocks[node] = self._view(node, made) if shared else made
        return self._blocks[node]

    def over(self, node: Node[Operator], columns: Iterable[str]) -> B:
        """Return a SELECT of a node's rows to which an operator that reads `columns` can be added."""
        block = self.block(node)
        return block if block.takes(list(columns)) else self._view(node, block)

    @staticmethod
    def _is_view(node: Node[Operator]) -> bool:  # noqa: ARG004
        """Return whether the SELECT of a node reads only a table or view of its own."""
        return False

    @abstractmethod
    def _make(self, operator: Operator, node: Node[Operator]) -> B:
        """Return the SELECT of a node's rows."""

    @abstractmethod
    def _view(self, node: Node[Operator], block: B) -> B:
        """Create a view of a SELECT, and return the SELECT that reads it."""
