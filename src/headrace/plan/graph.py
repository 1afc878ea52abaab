"""The graph of a plan: nodes with named inputs, from sources to sinks.

A node's schema and traits are computed once, when it is created. In a plan a node also has an id, its position in topological
order, and a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from headrace.plan.operators import KeyedInput, Operator, Process, Side, Traits
from headrace.plan.schema import Schema

__all__ = ["Input", "Node", "node", "numbered", "rebuilt"]

K_co = TypeVar("K_co", bound=Operator, covariant=True)
K = TypeVar("K", bound=Operator)


@dataclass(frozen=True, eq=False)
class Input:
    """An input of a node, and its role: `rows`, the `broadcast` of a process, or `input.NAME` for another input of a process."""

    role: str
    node: Node[Operator]


@dataclass(frozen=True, eq=False)
class Node(Generic[K_co]):
    """An operator with its inputs, and the schema and traits of its rows."""

    operator: K_co
    inputs: tuple[Input, ...]
    schema: Schema
    traits: Traits
    id: int = 0
    name: str = ""

    @property
    def input(self) -> Node[Operator]:
        """The first of the inputs."""
        return self.inputs[0].node

    @property
    def broadcast(self) -> Node[Operator] | None:
        """The broadcast input of a process, if it has one."""
        return next((one.node for one in self.inputs if one.role == "broadcast"), None)

    @property
    def others(self) -> tuple[tuple[Node[Operator], KeyedInput], ...]:
        """The other keyed inputs of a process, in the order of their declaration."""
        if not isinstance(self.operator, Process):
            return ()
        given = (one.node for one in self.inputs if one.role.startswith("input."))
        return tuple(zip(given, self.operator.inputs, strict=True))

    def upstream(self) -> Iterator[Node[Operator]]:
        """Yield the nodes upstream in topological order, each once, and the node itself as the last."""
        return _before([self])

    def is_a(self, *kinds: type[K]) -> bool:
        """Return whether its operator is of one of these kinds."""
        return isinstance(self.operator, kinds)

    @property
    def producers(self) -> tuple[Node[Operator], ...]:
        """The nearest windows, processes and sources upstream, on each branch."""
        return tuple(self.nearest(frozenset(["source", "window", "process"])))

    def nearest(self, kinds: frozenset[str]) -> Iterator[Node[Operator]]:
        """Yield the nearest nodes of these kinds upstream, on each branch; the node itself if it is of one of them."""
        seen: set[Node[Operator]] = set()
        pending: list[Node[Operator]] = [self]
        while pending:
            one = pending.pop()
            if one in seen:
                continue
            seen.add(one)
            if one.operator.kind in kinds:
                yield one
            else:
                pending += [given.node for given in reversed(one.inputs)]

    @property
    def process(self) -> Node[Process]:
        """The node of the process, for a process or a side output of it."""
        node: Node[Any] = self.input if isinstance(self.operator, Side) else self
        assert isinstance(node.operator, Process)
        return node

    def __str__(self) -> str:
        return f"#{self.id} {self.operator}"


def node(operator: K, *inputs: Node[Operator], **named: Node[Operator]) -> Node[K]:
    """Return a node. Positional inputs have the role `rows`, the others that of their keyword."""
    taken = (*(Input("rows", one) for one in inputs), *(Input(role, one) for role, one in named.items()))
    return _made(operator, taken)


def _made(operator: K, inputs: tuple[Input, ...]) -> Node[K]:
    schema, traits = operator.schema(*(one.node.schema for one in inputs)), operator.traits(*(one.node.traits for one in inputs))
    return Node(operator, inputs, schema, traits)


def _before(nodes: Iterable[Node[Operator]]) -> Iterator[Node[Operator]]:
    """Yield nodes and all that is upstream of them in topological order, each once."""
    seen: set[Node[Operator]] = set()
    pending = [(one, False) for one in nodes][::-1]
    while pending:
        one, entered = pending.pop()
        if entered:
            yield one
        elif one not in seen:
            seen.add(one)
            pending.append((one, True))
            pending += [(given.node, False) for given in reversed(one.inputs)]


def rebuilt(nodes: Iterable[Node[Operator]], change: Callable[[Node[Operator], tuple[Node[Operator], ...]], Operator]) -> tuple[Node[Operator], ...]:
    """Return the graph with other operators: `change` returns the operator of each node, for its new inputs."""
    new: dict[Node[Operator], Node[Operator]] = {}
    for old in _before(nodes):
        inputs = tuple(replace(one, node=new[one.node]) for one in old.inputs)
        new[old] = _made(change(old, tuple(one.node for one in inputs)), inputs)
    return numbered(new[old] for old in nodes)


def numbered(sinks: Iterable[Node[Operator]]) -> tuple[Node[Operator], ...]:
    """Return the graph of some sinks in topological order, with ids from 1 and names."""
    new: dict[Node[Operator], Node[Operator]] = {}
    names: Counter[str] = Counter()
    for number, old in enumerate(_before(sinks), 1):
        label = old.operator.label
        names[label] += 1
        name = label if names[label] == 1 else f"{label}.{names[label]}"
        new[old] = replace(old, inputs=tuple(replace(one, node=new[one.node]) for one in old.inputs), id=number, name=name)
    return tuple(new.values())
