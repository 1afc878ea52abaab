"""What a changed pipeline carries over of the state that an earlier plan has left.

State belongs to stages, the windows and processes, by their names. A stage takes its state on if its own definition is the same:
its keys, its window and aggregates, or the order in which a process takes its records. What stands around it may change: settings,
expressions, columns, outputs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from headrace.errors import PlanError, near
from headrace.plan.expression import Call, Expression, Literal, rebuild
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Operator, Process
from headrace.plan.pipeline import Plan
from headrace.plan.schema import Schema

__all__ = ["Changes", "changes", "check_stages", "definition", "definitions_of_texts"]

Definition = Mapping[str, Any]


@dataclass(frozen=True)
class Changes:
    """How a plan is another than the one that state was made with.

    Attributes
    ----------
    settings
        What settings were and are; None where there was or is none.
    carried, begun, dropped
        The names of stages that take their state on, that begin without any, and whose state is left behind.
    refused
        By name, why a stage cannot take its state on.
    otherwise
        Whether anything else is another: expressions, columns, outputs.
    """

    settings: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    carried: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    otherwise: bool = False

    def __bool__(self) -> bool:
        return bool(self.settings or self.begun or self.dropped or self.refused or self.otherwise)

    def lines(self) -> Iterator[str]:
        """Yield what has changed, and what becomes of the state, one thing a line."""
        for name, (was, now) in self.settings.items():
            yield f"setting {name}: {'none' if was is None else was} → {'none' if now is None else now}"
        if self.otherwise:
            yield "expressions, columns or outputs have changed; what is waiting or open goes by the new ones from here on"
        for name in self.carried:
            yield f"{name}: keeps its state"
        for name in self.begun:
            yield f"{name}: begins without state"
        for name in self.dropped:
            yield f"{name}: is there no more, and its state is dropped"
        for name, why in self.refused.items():
            yield f"{name}: cannot keep its state: {why}"


def definition(node: Node[Operator]) -> Definition:
    """Return what a stage's state depends on, by parts that can be told."""
    match node.operator:
        case Aggregate() as window:
            calls = [repr(_without_constants(call)) for _, call in window.calls]
            return {
                "kind": "window",
                "keys": _columns(node.input.schema, window.keys),
                "window": str(window.window),
                "allowed lateness": f"{window.lateness_ms} ms",
                "aggregates": f"{', '.join(call.function for _, call in window.calls if isinstance(call, Call))} ({_digest(calls)})",
                "topics": sorted(node.traits.topics),
            }
        case Process() as process:
            return {
                "kind": "process",
                "keys": _columns(process.takes, process.keys),
                "order": "arrival" if process.arrival else "event_time",
                "columns": {one.name: str(one.type) for one in process.takes.fields},
                "broadcast": None if process.told is None else {one.name: str(one.type) for one in process.told.fields},
                "topics": sorted(node.traits.topics),
            }
    raise PlanError(f"{node} keeps no state")


def _columns(schema: Schema, names: Collection[str]) -> str:
    return ", ".join(f"{name} {schema[name].type}" for name in names) or "()"


def _digest(texts: list[str]) -> str:
    return blake2b("\n".join(texts).encode(errors="surrogatepass"), digest_size=6).hexdigest()


def _without_constants(expression: Expression) -> Expression:
    """Return the expression without the values of its constants: a limit in it may change."""
    if isinstance(expression, Literal):
        return Literal(None, expression.type)
    return rebuild(expression, _without_constants)


def changes(plan: Plan, settings: Mapping[str, str], stages: Mapping[str, Definition], *, same: bool, reset: Collection[str] = ()) -> Changes:
    """Return how the plan is another than that of saved state.

    Parameters
    ----------
    plan
        The plan of now.
    settings, stages
        The settings that the state was made with, and the definitions of its stages by name.
    same
        Whether the nodes of the plan are known to be the same.
    reset
        The stages that are to begin without state.

    Raises
    ------
    PlanError
        If no stage has the name of one that is to begin without state.
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
    """Raise PlanError if a plan has no stage of a name."""
    stages = [node.name for node in plan.stages]
    for name in names:
        if name not in stages:
            raise PlanError(f"pipeline {plan.pipeline} has no stage {name!r}", where="--reset", fix=near(name, stages))


def _difference(was: Definition, now: Definition) -> str | None:
    """Return why state of a stage of one definition is none of the other."""
    for part, value in now.items():
        before = was.get(part)
        if part == "topics":
            gone = [topic for topic in before or () if topic not in value]
            if gone:
                return f"it no longer reads {', '.join(gone)}"
        elif part in {"columns", "broadcast"} and value is not None and before is not None:
            for column, kind in value.items():
                if column in before and before[column] != kind:
                    return f"its column {column} was {before[column]}, and is {kind}"
        elif before != value:
            return f"its {part} was {_said(before)}, and is {_said(value)}"
    return None


def _said(value: object) -> str:
    return "none" if value is None else "one" if isinstance(value, Mapping) else str(value)


_STAGE = re.compile(r"  #\d+ (?:window|process) ")


def definitions_of_texts(plan: Plan, shown: str) -> dict[str, tuple[str, int]] | None:
    """Return the kind and place of each stage that an earlier plan had, as it was shown, by the names of now; None if one is another now."""
    lines = [line.partition("  ← ")[0].split(" ", 3)[3] for line in shown.splitlines() if _STAGE.match(line)]
    now = {str(node.operator): node for node in plan.stages}
    if any(line not in now for line in lines) or len(set(lines)) < len(lines):
        return None
    found: dict[str, tuple[str, int]] = {}
    for kind in ("window", "process"):
        mine = [line for line in lines if line.startswith(f"{kind} ")]
        found |= {now[line].name: (kind, place) for place, line in enumerate(mine)}
    return found
