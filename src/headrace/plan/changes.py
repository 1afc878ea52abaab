"""Which state a changed pipeline keeps.

State belongs to stages (windows and processes) by name. A stage keeps its state if its own definition is unchanged: its keys, its
window and aggregates, or the order in which a process receives records. Everything around it may change: settings, expressions,
columns, outputs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import InternalError, PlanError, near
from headrace.plan.graph import Node
from headrace.plan.operators import Operator
from headrace.plan.pipeline import Plan

__all__ = ["Changes", "changes", "check_stages", "definition", "places_of_texts"]

Definition = Mapping[str, Any]


@dataclass(frozen=True)
class Changes:
    """The difference between a plan and the one that saved the state.

    Attributes
    ----------
    settings
        The old and the new value of each changed setting; None where there is no such setting.
    kept, new, removed
        The names of stages that keep their state, that start without state, and that no longer exist.
    refused
        By name, the reason why a stage cannot keep its state.
    otherwise
        Whether anything else differs: expressions, columns, outputs.
    """

    settings: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    otherwise: bool = False

    def __bool__(self) -> bool:
        return bool(self.settings or self.new or self.removed or self.refused or self.otherwise)

    def lines(self) -> Iterator[str]:
        """Yield a line for each change, and for each stage whether it keeps its state."""
        for name, (was, now) in self.settings.items():
            yield f"setting {name}: {'none' if was is None else was} → {'none' if now is None else now}"
        if self.otherwise:
            yield "expressions, columns or outputs have changed; buffered rows and open windows use the new ones from here on"
        for name in self.kept:
            yield f"{name}: keeps its state"
        for name in self.new:
            yield f"{name}: starts without state"
        for name in self.removed:
            yield f"{name}: no longer exists; its state is dropped"
        for name, why in self.refused.items():
            yield f"{name}: cannot keep its state: {why}"


def definition(node: Node[Operator]) -> Definition:
    """Return the definition of a stage, on which its state depends, as named parts."""
    found = node.operator.definition(node.input.schema)
    if found is None:
        raise InternalError(f"{node} has no state")
    return {**found, "topics": sorted(node.traits.topics)}


def changes(plan: Plan, settings: Mapping[str, str], stages: Mapping[str, Definition], *, same: bool, reset: Collection[str] = ()) -> Changes:
    """Return the difference between a plan and the one that saved the state.

    Parameters
    ----------
    plan
        The current plan.
    settings, stages
        The saved settings, and the saved definitions of stages by name.
    same
        Whether the identities of both plans are equal.
    reset
        The stages that start without state.

    Raises
    ------
    PlanError
        If there is no stage of a name in `reset`.
    """
    check_stages(plan, reset)
    now = {node.name: definition(node) for node in plan.stages}
    current = plan.identity["settings"]
    names = [*current, *(name for name in settings if name not in current)]
    others = {name: (settings.get(name), current.get(name)) for name in names if settings.get(name) != current.get(name)}
    kept = [name for name in now if name in stages and name not in reset]
    refused = {name: why for name in kept if (why := _difference(stages[name], now[name])) is not None}
    return Changes(
        others,
        tuple(name for name in kept if name not in refused),
        tuple(name for name in now if name not in stages or name in reset),
        tuple(name for name in stages if name not in now),
        refused,
        not same and not others,
    )


def check_stages(plan: Plan, names: Collection[str]) -> None:
    """Raise PlanError if a plan has no stage of one of these names."""
    stages = [node.name for node in plan.stages]
    for name in names:
        if name not in stages:
            raise PlanError(f"pipeline {plan.pipeline} has no stage {name!r}", where="--reset", fix=near(name, stages))


def _difference(was: Definition, now: Definition) -> str | None:
    """Return why a stage cannot keep its state, None if it can."""
    for part, value in now.items():
        before = was.get(part)
        if part == "topics":
            gone = [topic for topic in before or () if topic not in value]
            if gone:
                return f"it no longer reads {', '.join(gone)}"
        elif part in {"columns", "broadcast"} and value is not None and before is not None:
            if (why := _retyped(before, value)) is not None:
                return why
        elif part == "inputs":
            if (why := _other_inputs(before or {}, value)) is not None:
                return why
        elif before != value:
            return f"{part} changed from {_shown(before)} to {_shown(value)}"
    return None


def _other_inputs(was: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> str | None:
    """Return which other input of a process is missing or has another type, None if there is none. Added inputs are allowed."""
    for name, columns in was.items():
        if name not in now:
            return f"input {name} no longer exists"
        if (why := _retyped(columns, now[name])) is not None:
            return f"{why} in input {name}"
    return None


def _retyped(was: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return which column has another type, None if there is none."""
    retyped = [name for name, kind in now.items() if was.get(name, kind) != kind]
    return f"column {retyped[0]} changed from {was[retyped[0]]} to {now[retyped[0]]}" if retyped else None


def _shown(value: object) -> str:
    return "none" if value is None else "one" if isinstance(value, Mapping) else str(value)


_STAGE = re.compile(r"  #\d+ (?:window|process) ")


def places_of_texts(plan: Plan, shown: str) -> dict[str, tuple[str, int]] | None:
    """Return kind and position of each stage of an earlier plan, from its printed form, by current name; None if a stage has changed."""
    lines = [line.partition("  ← ")[0].split(" ", 3)[3] for line in shown.splitlines() if _STAGE.match(line)]
    now = {str(node.operator): node for node in plan.stages}
    if any(line not in now for line in lines) or len(set(lines)) < len(lines):
        return None
    found: dict[str, tuple[str, int]] = {}
    for kind in ("window", "process"):
        mine = [line for line in lines if line.startswith(f"{kind} ")]
        found |= {now[line].name: (kind, place) for place, line in enumerate(mine)}
    return found
