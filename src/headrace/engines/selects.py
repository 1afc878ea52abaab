"""What the SQL of Flink and of Spark have in common: the plan's nodes become SELECTs that grow, and views between them where they must.

How a node is said is each engine's own: it gives `_make`, `_view` and `_is_view`.
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
        """Return whether an operator that reads `columns` can be said in this very SELECT."""

    def saying(self, operator: str) -> Self:
        """Return this with one more operator in its comment."""


B = TypeVar("B", bound=_Block)


@contextmanager
def blaming(engine: str, node: object) -> Iterator[None]:
    """Make a PlanError name the node that it is about."""
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
        """Return the SELECT of a node's rows; what several nodes read is a view.

        Raises
        ------
        PlanError
            If the engine's SQL cannot say it. It names the node.
        """
        if node not in self._blocks:
            with blaming(self.engine, node):
                made = self._make(node.operator, node)
            is_view = self._is_view(node)
            made = made if is_view and node.does(Source) else made.saying(str(node))
            shared = len(self._plan.consumers(node)) > 1 and not is_view
            self._blocks[node] = self._view(node, made) if shared else made
        return self._blocks[node]

    def over(self, node: Node[Operator], columns: Iterable[str]) -> B:
        """Return the SELECT that an operator reading `columns` of a node can be added to."""
        block = self.block(node)
        return block if block.takes(list(columns)) else self._view(node, block)

    @staticmethod
    def _is_view(node: Node[Operator]) -> bool:  # noqa: ARG004
        """Return whether the SELECT of a node reads a table or view of its own anyway."""
        return False

    @abstractmethod
    def _make(self, operator: Operator, node: Node[Operator]) -> B:
        """Return the SELECT of a node's rows."""

    @abstractmethod
    def _view(self, node: Node[Operator], block: B) -> B:
        """Make a view of a SELECT, and return the SELECT over it."""
