"""Definitions of alarms: what is watched on a tag, and what the operator is told. Each is checked, alone and beside the others of its tag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec

from headrace.alarms.formula import parsed
from headrace.alarms.hosting import version_of
from headrace.errors import PlanError, near, shortened

__all__ = [
    "KINDS", "LIMITS", "NE107", "SETTINGS", "Definition", "check_table", "definition_of", "definitions_of", "encoded", "take_definition",
    "with_definition",
]  # fmt: skip

LIMITS = ("HH", "H", "L", "LL")
# The kinds, each with the settings that it needs.
KINDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(LIMITS, ("limit",)),
    "rate_of_change": ("limit",),
    "deviation": ("limit", "setpoint"),
    "frozen": ("after",),
    "no_data": ("after",),
    "bad_quality": (),
    "state_mismatch": ("expected",),
    "custom": (),
}
_ONLY_FOR = {"limit": [kind for kind, needs in KINDS.items() if "limit" in needs], "setpoint": ["deviation"], "expected": ["state_mismatch"]}
_ONLY_FOR |= {"after": ["frozen", "no_data"], "deadband": [kind for kind, needs in KINDS.items() if "limit" in needs] + ["frozen"]}
NE107 = ("failure", "function_check", "out_of_specification", "maintenance_required")
_TECHNIQUE, _VERSION = re.compile(r"T0\d{3}(\.\d{3})?", re.ASCII), re.compile(r"\d{1,3}(\.\d{1,3})?", re.ASCII)
_DURATIONS = ("on_delay", "off_delay", "after", "escalate_after", "time_to_respond", "caused_within")
_MOST_CAUSES = 64
_MOST = 1e10  # seconds, or units of a value
_encode = msgspec.json.Encoder(order="deterministic").encode


class Definition(msgspec.Struct, frozen=True, rename={"alarm_class": "class"}):
    """The definition of an alarm on a tag. Durations are in seconds, values in the tag's unit.

    Attributes
    ----------
    definition
        Its id, unique on the tag, without a slash. `tag/definition` is the id of the alarm.
    tag
        The tag.
    kind
        One of KINDS.
    limit
        The value that must not be exceeded (HH, H), that must be reached (L, LL), the largest change per second in either direction
        (rate_of_change), the largest distance from the setpoint (deviation).
    deadband
        How far within the limit the value must be before the alarm clears; of `frozen`, the largest change that is no change.
    on_delay, off_delay
        How long the condition must be active before the alarm is raised, and inactive before it clears.
    k, n
        Of the last `n` readings `k` must be beyond the limit.
    setpoint, expected
        The value that `deviation` compares with; the only value that `state_mismatch` allows.
    after
        How long a value must stay the same (frozen) or a tag be silent (no_data).
    latching
        Whether the alarm stays until it is reset.
    priority
        From 1, the highest, to 4.
    escalate_after, escalate_to
        How long an alarm may be unacknowledged before it is escalated, and to which priority; without a priority it is only recorded.
    asset
        What the tag belongs to; by default the tag's path without its last part.
    alarm_class, consequence, action, time_to_respond
        What the operator is told: the class (the setting is called `class`), what happens if nobody acts, what to do, and how much time there is.
    attack, attack_version
        Techniques of MITRE ATT&CK for ICS of which the alarm may be a sign, such as `T0831`, and the version of ATT&CK that names them, such as
        `17.1`.
    ne107
        What the alarm says of the health of a device: one of NE107, the status signals of NAMUR NE 107.
    caused_by, caused_within
        The ids of the alarms of which this one may be a consequence, and how close to each other they are raised then; 60 s by default.
    suppress_when
        The condition under which the alarm is suppressed by design, a formula of rules over the parameters of its equipment. `hr.rules` follows it.
    """

    definition: str
    tag: str
    kind: str
    limit: float | None = None
    deadband: float = 0.0
    on_delay: float = 0.0
    off_delay: float = 0.0
    k: int = 1
    n: int = 1
    setpoint: float | None = None
    expected: float | None = None
    after: float | None = None
    latching: bool = False
    priority: int = 3
    escalate_after: float | None = None
    escalate_to: int | None = None
    asset: str | None = None
    alarm_class: str | None = None
    consequence: str | None = None
    action: str | None = None
    time_to_respond: float | None = None
    attack: tuple[str, ...] | None = None
    attack_version: str | None = None
    ne107: str | None = None
    caused_by: tuple[str, ...] | None = None
    caused_within: float | None = None
    suppress_when: str | None = None

    @property
    def alarm_id(self) -> str:
        """The id of the alarm."""
        return f"{self.tag}/{self.definition}"

    @property
    def equipment(self) -> str:
        """The equipment whose rules follow `suppress_when`: the asset, else of a custom alarm the tag, else the tag's path without its last part."""
        return self.asset or ("" if self.kind == "custom" else self.tag.rpartition("/")[0]) or self.tag

    @property
    def asset_path(self) -> str:
        """The path of the asset to which the tag belongs."""
        return self.tag.rpartition("/")[0] if self.asset is None else self.asset


SETTINGS = Definition.__struct_encode_fields__
_DEFAULTS = dict(zip(reversed(SETTINGS), reversed(Definition.__struct_defaults__), strict=False))


def definition_of(given: Mapping[str, Any]) -> Definition:
    """Return a definition that is given as a table; a setting that is None counts as left out.

    Raises
    ------
    PlanError
        If it lacks a setting, has one that its kind does not have, or contradicts itself.
    """
    check_table(given, "alarm definitions")
    where = f"alarm {given.get('tag')}/{given.get('definition')}"
    for name in given:
        if name not in SETTINGS:
            raise PlanError(f"unknown setting {name!r}", where=where, fix=near(str(name), SETTINGS))
    try:
        found = msgspec.convert({name: value for name, value in given.items() if value is not None}, Definition)
    except msgspec.ValidationError as error:
        raise PlanError(str(error), where=where) from None
    if (what := _mistake(found)) is not None:
        raise PlanError(what, where=where)
    return found


def check_table(given: object, where: str) -> None:
    """Raise PlanError unless a definition is given as a table."""
    if not isinstance(given, Mapping):
        raise PlanError(f"a definition is a table, not {shortened(repr(given))}", where=where, fix="give a list of tables")


def _mistake(one: Definition) -> str | None:
    """Return what is wrong with a definition by itself."""
    if not one.tag or not one.definition or "/" in one.definition:
        return "an alarm has a tag, and a definition whose id has no slash"
    if one.kind not in KINDS:
        return f"unknown kind {one.kind!r}; {near(one.kind, KINDS)}"
    return _wrong_kind(one) or _wrong_number(one) or _wrong_escalation(one) or _wrong_catalogue(one) or _wrong_cause(one) or _wrong_suppression(one)


def _wrong_kind(one: Definition) -> str | None:
    for name in KINDS[one.kind]:
        if getattr(one, name) is None:
            return f"kind {one.kind} needs {name}"
    for name, kinds in _ONLY_FOR.items():
        if getattr(one, name) not in {None, 0.0} and one.kind not in kinds:
            return f"kind {one.kind} has no {name}"
    return f"kind {one.kind} has no k of n" if one.n > 1 and one.kind in {"no_data", "custom"} else None


def _wrong_number(one: Definition) -> str | None:
    for name in (*_DURATIONS, "deadband"):
        if (value := getattr(one, name)) is not None and not 0 <= value < _MOST:
            return f"{name} {value:g} is negative or too large"
    for name in ("limit", "setpoint", "expected"):
        if (value := getattr(one, name)) is not None and not isfinite(value):
            return f"{name} {value:g} is no number that a value can be compared with"
    if one.after == 0:
        return "after is 0"
    if one.kind in {"rate_of_change", "deviation"} and one.limit is not None and one.limit < one.deadband:
        return f"deadband {one.deadband:g} is larger than limit {one.limit:g}: the alarm would never clear"
    return None if 1 <= one.k <= one.n <= 64 else f"k {one.k} of n {one.n} is not 1 ≤ k ≤ n ≤ 64"


def _wrong_escalation(one: Definition) -> str | None:
    for name in ("priority", "escalate_to"):
        if (value := getattr(one, name)) is not None and not 1 <= value <= 4:
            return f"{name} {value} is not 1 to 4"
    if one.escalate_to is None:
        return None
    if one.escalate_after is None:
        return "escalate_to needs escalate_after"
    return None if one.escalate_to < one.priority else f"escalate_to {one.escalate_to} is no higher than priority {one.priority}"


def _wrong_catalogue(one: Definition) -> str | None:
    """Return what is wrong with the ids of ATT&CK and the signal of NE 107. Whether ATT&CK has a technique is not checked: its versions differ."""
    if (one.attack is None) != (one.attack_version is None):
        return "attack and attack_version come together: the ids of a technique hold for a version of ATT&CK"
    if one.attack is not None and (not one.attack or len({*one.attack}) < len(one.attack)):
        return "attack names no technique, or one twice"
    for technique in one.attack or ():
        if not _TECHNIQUE.fullmatch(technique):
            return f"attack {technique!r} is not a technique of ATT&CK for ICS, such as 'T0831'"
    if one.attack_version is not None and not _VERSION.fullmatch(one.attack_version):
        return f"attack_version {one.attack_version!r} is not a version such as '17.1'"
    return None if one.ne107 in {None, *NE107} else f"unknown ne107 {one.ne107!r}; {near(str(one.ne107), NE107)}"


def _wrong_cause(one: Definition) -> str | None:
    """Return what is wrong with the causes. Whether there are such alarms is not checked: their definitions may come later."""
    if one.caused_by is None:
        return None if one.caused_within is None else "caused_within needs caused_by"
    if not 1 <= len({*one.caused_by}) == len(one.caused_by) <= _MOST_CAUSES:
        return f"caused_by names no alarm, one twice, or more than {_MOST_CAUSES}"
    for cause in one.caused_by:
        if cause == one.alarm_id:
            return "caused_by names the alarm itself"
        if not all(cause.rpartition("/")):
            return f"caused_by {shortened(repr(cause))} is not the id of an alarm, TAG/DEFINITION"
    return None


def _wrong_suppression(one: Definition) -> str | None:
    if one.suppress_when is None:
        return None
    try:
        found = parsed(one.suppress_when)
    except PlanError as error:
        return f"suppress_when: {error.what}"
    return None if found.type == "truth" else f"suppress_when is a {found.type}, and must be a truth"


def encoded(definition: Definition) -> str:
    """Return a definition as text, of which its version is made."""
    plain = {name: value for name, value in msgspec.to_builtins(definition).items() if value != _DEFAULTS.get(name)}
    return _encode(plain).decode()


def with_definition(texts: Iterable[str], new: Definition) -> list[str]:
    """Return the definitions of a tag with one that replaces that of its id, in the order of ids.

    Raises
    ------
    PlanError
        If it contradicts another one of the tag.
    """
    others = [one for _, one in definitions_of(tuple(texts)) if one.definition != new.definition]
    every = sorted([*others, new], key=lambda one: one.definition)
    _check_limits(every, f"alarm {new.alarm_id}")
    return [encoded(one) for one in every]


def take_definition(row: Mapping[str, Any], definitions: MutableMapping[str, Any]) -> None:
    """Take a row of the topic of definitions into those by tag: a new one, one that replaces another one, or a withdrawal.

    Raises
    ------
    PlanError
        If it contradicts itself or another one, or nothing could be withdrawn; the definitions stay as they were.
    """
    given = {name: value for name, value in row.items() if name not in {"time", "withdrawn"}}
    tag = str(given.get("tag"))
    texts = definitions.get(tag, ())
    if not row["withdrawn"]:
        definitions[tag] = with_definition(texts, definition_of(given))
        return
    left = [text for text, (_, one) in zip(texts, definitions_of(tuple(texts)), strict=True) if one.definition != given["definition"]]
    if len(left) == len(texts):
        raise PlanError(f"tag {tag!r} has no alarm {given['definition']!r} that could be withdrawn")
    definitions[tag] = left


def _check_limits(every: Iterable[Definition], where: str) -> None:
    """Raise PlanError unless LL < L < H < HH, as far as a tag has them."""
    by_kind: dict[str, list[Definition]] = {}
    for one in every:
        by_kind.setdefault(one.kind, []).append(one)
    ladder = [(kind, one) for kind in reversed(LIMITS) for one in by_kind.get(kind, [])]
    for place, (kind, low) in enumerate(ladder):
        for other, high in ladder[place + 1 :]:
            if kind != other and not low.limit < high.limit:  # type: ignore[operator]
                what = f"limit {high.limit:g} of {high.definition} ({other}) is not above limit {low.limit:g} of {low.definition} ({kind})"
                raise PlanError(what, where=where, fix="the definitions stay as they were")


@lru_cache(maxsize=20_000)
def definitions_of(texts: tuple[str, ...]) -> tuple[tuple[str, Definition], ...]:
    """Return definitions that were encoded, each with its version: a digest of its content."""
    return tuple((version_of(text), msgspec.json.decode(text, type=Definition)) for text in texts)
