"""Definitions of rules: parameters, rules, run states and suppressions of equipment, each checked, alone and beside the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from headrace.alarms.definition import check_table
from headrace.alarms.formula import RUN_STATE, Formula, parsed
from headrace.alarms.hosting import version_of
from headrace.errors import PlanError, near, shortened

__all__ = [
    "ALARM", "EVERY", "RULE_KINDS", "Condition", "Rule", "RuleSet", "alarm_suppression", "check_cycles", "rule_encoded", "rule_of", "rule_set",
    "with_rule", "without_rule",
]  # fmt: skip

EVERY = "*"
ALARM = "alarm"  # the kind of a row that is the definition of an alarm
# The kinds, each with the settings that it needs and those that it may have.
RULE_KINDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "parameter": (("formula",), ()),
    "rule": (("when",), ("for", "value")),
    "state": (("when",), ("for",)),
    "suppression": (("when", "alarms"), ("for",)),
}
_LONGEST_S = 366 * 86_400
_encode = msgspec.json.Encoder(order="deterministic").encode


class Rule(msgspec.Struct, frozen=True, omit_defaults=True, rename={"seconds": "for"}):
    """A definition for the rules of equipment.

    Attributes
    ----------
    name
        Its name: of a parameter the one that formulas read, of a rule the definition of its custom alarm, of a run state the state.
    kind
        One of RULE_KINDS.
    equipment
        The equipment that it is for; `*` for all that have no definition of their own of this kind and name.
    formula
        The value of a derived parameter.
    when
        The condition of a rule, a run state or a suppression.
    seconds
        How long the condition must hold without a break (the setting is called `for`).
    value
        A formula whose value is shown with the alarm of a rule.
    alarms
        The alarms that a suppression sets aside, as `tag/definition`; `{equipment}` stands for the equipment.
    """

    name: str
    kind: str
    equipment: str = EVERY
    formula: str | None = None
    when: str | None = None
    seconds: float = 0.0
    value: str | None = None
    alarms: tuple[str, ...] = ()


_SETTINGS = Rule.__struct_encode_fields__


def rule_of(given: Mapping[str, Any]) -> Rule:
    """Return a definition that is given as a table; a setting that is None counts as left out.

    Raises
    ------
    PlanError
        If it lacks a setting, has one that its kind does not have, or a formula of it is wrong.
    """
    check_table(given, "rules definitions")
    where = " ".join(shortened(str(part)) for part in (given.get("kind") or "rule", repr(given.get("name")), "of", given.get("equipment") or EVERY))
    for name in given:
        if name not in _SETTINGS:
            raise PlanError(f"unknown setting {name!r}", where=where, fix=near(str(name), _SETTINGS))
    try:
        found = msgspec.convert({name: value for name, value in given.items() if value is not None}, Rule)
        _check(found)
    except msgspec.ValidationError as error:
        raise PlanError(str(error), where=where) from None
    except PlanError as error:
        raise PlanError(error.what, where=f"{where}{f', {error.where}' if error.where else ''}", fix=error.fix) from None
    return found


def _check(one: Rule) -> None:
    """Raise PlanError for what is wrong with a definition by itself."""
    if one.kind not in RULE_KINDS:
        raise PlanError(f"unknown kind {one.kind!r}", fix=near(one.kind, RULE_KINDS))
    if not one.name or not one.equipment or "/" in one.name:
        raise PlanError("a definition has a name without a slash, and an equipment or none")
    needs, may = RULE_KINDS[one.kind]
    given = {name for name, value in msgspec.to_builtins(one).items() if name not in {"name", "kind", "equipment"} and value}
    for name in needs:
        if name not in given:
            raise PlanError(f"kind {one.kind} needs {name}")
    if loose := sorted(given - {*needs, *may}):
        raise PlanError(f"kind {one.kind} has no {loose[0]}")
    if not 0 <= one.seconds <= _LONGEST_S:
        raise PlanError(f"for {one.seconds:g} is negative or longer than a year")
    for alarm in one.alarms:
        if not all(alarm.rpartition("/")[::2]):
            raise PlanError(f"alarm {alarm!r} is not written as tag/definition")
    _check_formulas(one)


def _check_formulas(one: Rule) -> None:
    for text, kind in ((one.formula, "number"), (one.value, "number"), (one.when, "truth")):
        if text is None:
            continue
        found = parsed(text)
        if found.type != kind:
            raise PlanError(f"{shortened(text)!r} is a {found.type}, and must be a {kind}")
        if kind == "number" and found.durations:
            raise PlanError(f"{shortened(text)!r} has a HELD, which stands in conditions alone")
        if one.kind in {"parameter", "state"} and RUN_STATE in found.names:
            raise PlanError(f"{shortened(text)!r} reads the run state", fix="rules and suppressions read it")
    if one.kind == "parameter" and one.name == RUN_STATE:
        raise PlanError(f"{RUN_STATE} is the run state, and no parameter can have this name")


def alarm_suppression(alarm: str, equipment: str, when: str) -> Rule:
    """Return the suppression of an alarm by its own definition. Its name is the alarm's id: no other rule has a name with a slash.

    Raises
    ------
    PlanError
        If `when` is no condition.
    """
    found = Rule(alarm, "suppression", equipment, when=when, alarms=(alarm,))
    try:
        _check_formulas(found)
    except PlanError as error:
        raise PlanError(f"suppress_when: {error.what}", where=f"alarm {alarm}", fix=error.fix) from None
    return found


def rule_encoded(rule: Rule) -> str:
    """Return a definition as text, of which its version is made."""
    return _encode(rule).decode()


def with_rule(texts: Iterable[str], new: Rule) -> list[str]:
    """Return the definitions of one equipment, or of all, with one that replaces that of its kind and name."""
    others = [one for one in map(_decoded, texts) if (one.kind, one.name) != (new.kind, new.name)]
    return [rule_encoded(one) for one in sorted([*others, new], key=lambda one: (one.kind, one.name))]


def without_rule(texts: Iterable[str], kind: str, name: str) -> list[str]:
    """Return definitions without that of a kind and name. Raises PlanError if it does not exist."""
    every = [*texts]
    left = [text for text in every if ((one := _decoded(text)).kind, one.name) != (kind, name)]
    if len(left) == len(every):
        raise PlanError(f"there is no {kind} {name!r} that could be withdrawn")
    return left


@lru_cache(maxsize=100_000)
def _decoded(text: str) -> Rule:
    return msgspec.json.decode(text, type=Rule)


@dataclass(frozen=True)
class Condition:
    """The condition of a rule, a run state or a suppression.

    Attributes
    ----------
    key, version
        `kind:name`, and a digest of its definition.
    durations
        Those of the formula's HELDs and, as the last one, that of `for`, in ms.
    reads
        The parameters that it reads, also through derived ones; `run_state` if it reads the run state.
    needs
        The same, and what the shown value reads.
    """

    key: str
    version: str
    rule: Rule
    formula: Formula
    value: Formula | None
    durations: tuple[int, ...]
    reads: frozenset[str]
    needs: frozenset[str]


@dataclass(frozen=True)
class RuleSet:
    """The definitions that hold for an equipment.

    Attributes
    ----------
    version
        A digest of all of them.
    parameters
        The derived parameters, each after those that it reads.
    conditions
        Those of run states, then those of rules, then those of suppressions.
    timed
        The places of the conditions that have durations.
    """

    version: str
    parameters: tuple[tuple[str, Formula], ...] = field(repr=False)
    conditions: tuple[Condition, ...] = field(repr=False)
    timed: tuple[int, ...] = field(repr=False)


@lru_cache(maxsize=20_000)
def rule_set(shared: tuple[str, ...], own: tuple[str, ...]) -> RuleSet:
    """Return the definitions of an equipment: those for all, of which its own replace those of the same kind and name."""
    rules = {(one.kind, one.name): one for one in map(_decoded, (*shared, *own))}
    parameters = _in_order({name: parsed(one.formula or "") for (kind, name), one in sorted(rules.items()) if kind == "parameter"})
    reads: dict[str, frozenset[str]] = {}
    for name, formula in parameters:
        reads[name] = frozenset([name]).union(*(reads.get(one, {one}) for one in formula.names))
    conditions = tuple(_condition(one, reads) for kind in ("state", "rule", "suppression") for key, one in sorted(rules.items()) if key[0] == kind)
    return RuleSet(
        version_of("\n".join((*shared, "", *own))),
        tuple(parameters),
        conditions,
        tuple(place for place, one in enumerate(conditions) if any(one.durations)),
    )


def _condition(one: Rule, reads: Mapping[str, frozenset[str]]) -> Condition:
    formula, value = parsed(one.when or ""), None if one.value is None else parsed(one.value)
    every = frozenset[str]().union(*(reads.get(name, {name}) for name in formula.names))
    needs = every if value is None else every.union(*(reads.get(name, {name}) for name in value.names))
    durations = (*formula.durations, round(one.seconds * 1000))
    return Condition(f"{one.kind}:{one.name}", version_of(rule_encoded(one)), one, formula, value, durations, every, needs)


def check_cycles(shared: Iterable[str], own: Iterable[str]) -> None:
    """Raise PlanError if a derived parameter of an equipment depends on itself."""
    rules = {one.name: one for one in map(_decoded, (*shared, *own)) if one.kind == "parameter"}
    _in_order({name: parsed(one.formula or "") for name, one in sorted(rules.items())})


def _in_order(formulas: Mapping[str, Formula]) -> list[tuple[str, Formula]]:
    """Return parameters, each after those that it reads. Raises PlanError if there is no such order."""
    found: dict[str, Formula] = {}
    left = dict(formulas)
    while left:
        ready = [name for name, formula in left.items() if not formula.names & left.keys()]
        if not ready:
            raise PlanError(f"parameters depend on themselves: {shortened(', '.join(left), 200)}", fix="the definitions stay as they were")
        for name in ready:
            found[name] = left.pop(name)
    return [*found.items()]
