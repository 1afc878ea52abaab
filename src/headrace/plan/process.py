"""The declaration of a process: the state of each key, its outputs, and its methods.

A process is an object of the author's, of any class with these attributes; nothing is inherited.

    output           columns of its rows, such as `{"event": "STRING NOT NULL"}`; the keys stand before them
    on_record        `on_record(row, state)`, called with each record of a key
    on_NAME          `on_NAME(row, state)`, called with each record of a key on the input NAME
    state            `{"count": hr.Value("BIGINT", 0)}`, what it keeps for each key; none by default
    on_timer         `on_timer(name, state)`, called when event time passes a timer that was set
    on_clock         `on_clock(name, state)`, called when the clock on the wall passes one; live runs only
    side_outputs     columns of other rows by name, given as `("name", row)`
    shared           state that all keys read and only `on_broadcast` writes
    on_broadcast     `on_broadcast(row, shared)`, called with each record of the broadcast input; its rows name their keys
    state_version    a whole number, one higher whenever what is kept means something else
    migrate          `migrate(version, values)`, makes values of this version of those of an older one; each that has a ttl
                     stands there as `[time, value]`
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from math import isfinite
from typing import Any

from headrace.errors import PlanError, near
from headrace.plan.schema import DOUBLE, FIRST_MS, LAST_MS, TIMESTAMP, Schema, Type, check_name, parse_type
from headrace.plan.window import milliseconds

__all__ = ["METHODS", "Declaration", "List", "Map", "Slot", "Value", "declaration_of", "spoken_name"]

METHODS = frozenset(["on_record", "on_timer", "on_clock", "on_broadcast", "migrate"])  # each takes two arguments
_KEPT = frozenset(
    ["key", "time", "now", "clock", "timers", "clock_timers", "set_timer", "clear_timer", "set_clock_timer", "clear_clock_timer", "shared"]
)


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Value:
    """One value for each key: `default` until it is set, and again when `ttl` of event time has passed since."""

    type: str
    default: object = None
    ttl: timedelta | None = None


@dataclass(frozen=True)
class List:
    """A list of values for each key; with `ttl` each element goes when so much event time has passed since it came."""

    type: str
    ttl: timedelta | None = None


@dataclass(frozen=True)
class Map:
    """A dict from text to values for each key; with `ttl` each entry goes when so much event time has passed since it was set."""

    type: str
    ttl: timedelta | None = None


@dataclass(frozen=True)
class Slot:
    """A piece of declared state: `kind` is `value`, `list` or `map`, `type` that of its values, `ttl_ms` None where it stays."""

    name: str
    kind: str
    type: Type
    default: object = None
    ttl_ms: int | None = None


@dataclass(frozen=True)
class Declaration:
    """The declaration of a process, read and checked.

    `settings` are the object's own attributes as texts: they are part of what the plan is.
    """

    name: str
    outputs: Mapping[str, Schema]
    slots: tuple[Slot, ...] = field(repr=False)
    shared: tuple[Slot, ...] = field(repr=False)
    version: int = field(repr=False)
    settings: tuple[tuple[str, str], ...]
    timers: bool = field(repr=False)
    clock_timers: bool = field(repr=False)


def declaration_of(process: object, keys: tuple[str, ...], where: str, inputs: Collection[str] = ()) -> Declaration:
    """Return what a process declares that has other inputs of these names.

    Raises
    ------
    PlanError
        If it lacks something, a declaration cannot be read, or a name is near one that would have a meaning.
    """
    kind = type(process)
    _check_names(kind, inputs, where)
    for name in ("on_record", *(f"on_{one}" for one in inputs)):
        if _method(process, name, where) is None:
            raise PlanError(f"{kind.__name__} has no {name}", where=where, fix=f"write {name}(self, row, state)")
    output = getattr(process, "output", None)
    if output is None:
        raise PlanError(f"{kind.__name__} declares no output", where=where, fix='write output = {"event": "STRING"}')
    outputs = {"": _schema(output, keys, f"{where} output")}
    for name, columns in _table(getattr(process, "side_outputs", {}), f"{where} side_outputs").items():
        outputs[check_name(name, f"{where} side_outputs")] = _schema(columns, keys, f"{where} side output {name!r}")
    slots = _slots(getattr(process, "state", {}), f"{where} state")
    shared = _slots(getattr(process, "shared", {}), f"{where} shared")
    for slot in shared:
        if slot.ttl_ms is not None:
            raise PlanError(f"shared {slot.name!r} has a ttl", where=where, fix="have on_broadcast take out what no longer holds")
    broadcast = _method(process, "on_broadcast", where) is not None
    if bool(shared) != broadcast:
        raise PlanError("shared state and on_broadcast come together", where=where, fix="declare shared, and write on_broadcast(self, row, shared)")
    version = getattr(process, "state_version", 1)
    if not isinstance(version, int) or version < 1:
        raise PlanError(f"state_version {version!r} is not a whole number from 1", where=where)
    _method(process, "migrate", where)
    return Declaration(
        kind.__name__,
        outputs,
        slots,
        shared,
        version,
        tuple((name, _ADDRESS.sub("", repr(value))) for name, value in sorted(getattr(process, "__dict__", {}).items())),
        timers=_method(process, "on_timer", where) is not None,
        clock_timers=_method(process, "on_clock", where) is not None,
    )


def spoken_name(process: object) -> str:
    """Return a process's name as topics and metrics have it: `ThreeCritical` is `three_critical`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(process).__name__).lower()


def _check_names(kind: type, inputs: Collection[str], where: str) -> None:
    known = {*METHODS, *(f"on_{one}" for one in inputs)}
    for name, value in vars(kind).items():
        if name.startswith("on_") and name not in known and value is not None:
            similar = get_close_matches(name, known, n=1, cutoff=0.8)
            fix = near(name, known) if similar else f'give the process inputs={{"{name.removeprefix("on_")}": hr.input(…)}}'
            raise PlanError(f"{kind.__name__}.{name} is never called", where=where, fix=fix)
        if (meant := _meant(name, value)) is not None:
            raise PlanError(f"{kind.__name__}.{name} is never read", where=where, fix=f"did you mean {meant!r}?")


def _meant(name: str, value: object) -> str | None:
    """Return the attribute that one of another name was meant to be: its name is near, and so is its form. Constants are the author's own."""
    by_name, known = isinstance(value, Mapping) and bool(value), []
    if type(value) is int:
        known = ["state_version"]
    elif by_name and all(isinstance(one, Value | List | Map) for one in value.values()):  # type: ignore[attr-defined]
        known = ["state", "shared"]
    elif _are_columns(value):
        known = ["output", "side_outputs"]
    elif by_name and all(map(_are_columns, value.values())):  # type: ignore[attr-defined]
        known = ["side_outputs", "output"]
    if name in known or name.startswith("_") or not get_close_matches(name, known, n=1, cutoff=0.8):
        return None
    return known[0] if known[0] == "side_outputs" else get_close_matches(name, known, n=1)[0]


def _are_columns(given: object) -> bool:
    try:
        return isinstance(given, Mapping) and bool(Schema.parse(given).fields)
    except PlanError:
        return False


def _method(process: object, name: str, where: str) -> Callable[..., Any] | None:
    method = getattr(process, name, None)
    if method is None:
        return None
    if not callable(method):
        raise PlanError(f"{name} is not a method", where=where)
    try:
        inspect.signature(method).bind(None, None)
    except TypeError as error:
        raise PlanError(f"{name} cannot be called with 2 arguments: {error}", where=where) from None
    found: Callable[..., Any] = method
    return found


def _table(given: object, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise PlanError(f"{given!r} is not a table of names", where=where)
    return given


def _schema(columns: object, keys: tuple[str, ...], where: str) -> Schema:
    schema = Schema.parse(_table(columns, where), where)
    for name in schema.names:
        if name in keys:
            raise PlanError(f"{name!r} is a key, and stands before the output's columns by itself", where=where, fix="leave it out")
    return schema


def _slots(declared: object, where: str) -> tuple[Slot, ...]:
    slots = []
    for name, given in _table(declared, where).items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or name in _KEPT:
            raise PlanError(f"{name!r} cannot be the name of a state", where=where, fix="take a Python name that is not one of the state's own")
        if not isinstance(given, Value | List | Map):
            raise PlanError(f"{name!r} is {given!r}", where=where, fix='write hr.Value("BIGINT"), hr.List("DOUBLE") or hr.Map("DOUBLE")')
        slots.append(_slot(name, given, f"{where} {name!r}"))
    return tuple(slots)


def _slot(name: str, given: Value | List | Map, where: str) -> Slot:
    if not isinstance(given.type, str):
        raise PlanError(f"type {given.type!r} is not a text", where=where, fix='write "DOUBLE", say')
    try:
        kind = parse_type(given.type)
    except PlanError as error:
        raise PlanError(error.what, where=where, fix=error.fix) from None
    ttl_ms = None if given.ttl is None else milliseconds(given.ttl, "the ttl", where)
    if ttl_ms == 0:
        raise PlanError("a ttl of 0 keeps nothing", where=where, fix="leave it out to keep it for ever")
    default = given.default if isinstance(given, Value) else None
    if default is not None:
        if kind == DOUBLE and type(default) is int and _is_kept(default):
            default = float(default)
        if kind.kind not in _PYTHON or type(default) is not _PYTHON[kind.kind] or not _is_kept(default):
            raise PlanError(f"default {default!r} is not a {kind}", where=where)
        if kind == TIMESTAMP and not FIRST_MS <= default <= LAST_MS:  # type: ignore[operator]
            raise PlanError(f"default {default!r} is a moment outside the years 1 to 9999", where=where)
    return Slot(name, type(given).__name__.lower(), kind, default, ttl_ms)


_PYTHON: dict[str, type] = {"BOOLEAN": bool, "BIGINT": int, "DOUBLE": float, "STRING": str, "TIMESTAMP_LTZ(3)": int}


def _is_kept(default: object) -> bool:
    if type(default) is float:
        return isfinite(default)
    return type(default) is not int or -(2**63) <= default < 2**63
