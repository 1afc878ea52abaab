"""The state of one key: the declared state, as attributes of an object, and its timers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NoReturn

import msgspec

from headrace.errors import ProcessError, near
from headrace.kernels.keyed.compiled import type_check
from headrace.kernels.keyed.containers import KeptList, KeptMap
from headrace.kernels.keyed.shared import Shared
from headrace.kernels.keyed.values import Accept, Compact, accept_of, is_text, moment_mend
from headrace.plan.process import Declaration, Slot, declaration_of

__all__ = ["Keep", "State", "fresh_state"]

_decode = msgspec.msgpack.Decoder(dict).decode


_INSTEAD = {"timers": "set_timer and clear_timer", "clock_timers": "set_clock_timer and clear_clock_timer", "shared": "on_broadcast"}


def _read_only(name: str) -> Callable[[Any, object], NoReturn]:
    """Return what refuses that a process writes one of the state's own attributes."""

    def refuse(_state: Any, _value: object) -> NoReturn:  # noqa: ANN401
        raise ValueError(f"state.{name} is read-only{f': {_INSTEAD[name]} write it' if name in _INSTEAD else ''}")

    return refuse


class State:
    """The state of one key. Declared state is set as attributes; nothing else can be set, and these are read-only.

    Attributes
    ----------
    key
        The key's columns.
    time
        Event time of the record or timer at hand, ms since the epoch.
    now
        The clock: when the record arrived, ms since the epoch; its event time in a run over files.
    clock
        The clock when a timer of the clock is called, which is later than its own time after a pause; elsewhere the same as `now`.
    timers, clock_timers
        The timers that are set, ms since the epoch by name.
    shared
        What `on_broadcast` keeps, to be read.
    """

    __slots__ = ("_clock", "_clock_timers", "_key", "_now", "_shared", "_time", "_timers")

    _key: Mapping[str, Any]
    _time: int
    _now: int
    _clock: int | None
    _timers: dict[str, int]
    _clock_timers: dict[str, int]
    _shared: Any

    key = property(lambda self: MappingProxyType(self._key), _read_only("key"))
    time = property(attrgetter("_time"), _read_only("time"))
    now = property(attrgetter("_now"), _read_only("now"))
    clock = property(lambda self: self._now if self._clock is None else self._clock, _read_only("clock"))
    timers = property(lambda self: MappingProxyType(self._timers), _read_only("timers"))
    clock_timers = property(lambda self: MappingProxyType(self._clock_timers), _read_only("clock_timers"))
    shared = property(attrgetter("_shared"), _read_only("shared"))

    def set_timer(self, name: str, at: int) -> None:
        """Have `on_timer(name, state)` called when event time passes `at`, ms; one that is set moves there.

        One in the past goes off at once, behind the record at hand.
        """
        self._timers[_name(name)] = _moment(at)

    def clear_timer(self, name: str) -> None:
        """Take a timer back, if it is set."""
        self._timers.pop(name, None)

    def set_clock_timer(self, name: str, at: int) -> None:
        """Have `on_clock(name, state)` called when the clock on the wall passes `at`, ms; live runs only."""
        self._clock_timers[_name(name)] = _moment(at)

    def clear_clock_timer(self, name: str) -> None:
        """Take a timer of the clock back, if it is set."""
        self._clock_timers.pop(name, None)

    def __delattr__(self, name: str) -> None:
        raise ValueError(f"state {name!r} cannot be deleted; set it to None")


def _name(name: object) -> str:
    if not is_text(name):
        raise ValueError(f"a timer's name is {name!r}, which is no text")
    return str(name)


def _moment(at: object) -> int:
    if type(at) is not int or not -(2**63) <= at < 2**63:
        raise ValueError(f"a timer is set to {at!r}, which is no whole number of ms since the epoch{moment_mend(at)}")
    return at


class Keep:
    """Makes the states of one process, and turns them to bytes and back."""

    def __init__(self, declared: Declaration, migrate: Callable[[int, dict[str, Any]], Mapping[str, Any]] | None = None) -> None:
        self._declared, self._migrate = declared, migrate
        self._plain = [slot for slot in declared.slots if slot.kind == "value" and slot.ttl_ms is None]
        self._stamped = [slot for slot in declared.slots if slot.kind == "value" and slot.ttl_ms is not None]
        self._held = [slot for slot in declared.slots if slot.kind != "value"]
        self._aging = [slot for slot in declared.slots if slot.ttl_ms is not None]
        self._slots = {slot.name: slot for slot in declared.slots}
        self._accepts = {slot.name: accept_of(slot.type) for slot in declared.slots}
        self._fits = {name: accept if self._slots[name].ttl_ms is None else _stamped_accept(accept) for name, accept in self._accepts.items()}
        self._check_plain = type_check([(slot.name, slot.type) for slot in self._plain], self._settle)
        self._inner = [slot.name for slot in self._stamped if slot.type.arguments]  # what can be changed without being set
        self.check: Callable[[Any], None] = self._check_with_inner if self._inner else self._check_plain
        self._defaults = [(slot.name, slot.default) for slot in self._plain]
        self._class = _state_class(declared)
        self._compact = Compact()

    def fresh(self, key: Mapping[str, Any]) -> State:
        """Return the state of a key of which nothing is known."""
        return self.decode(None, key)

    def _clear(self, state: Any) -> None:  # noqa: ANN401
        for name, default in self._defaults:
            setattr(state, name, default)
        for slot in self._stamped:
            setattr(state, f"_{slot.name}", None)
        for slot in self._held:
            kind = KeptList if slot.kind == "list" else KeptMap
            setattr(state, f"_{slot.name}", kind(state, self._accepts[slot.name], slot.ttl_ms))

    def begin(self, state: State, time: int, now: int) -> None:
        """Move a state to a time, at which what is too old is gone."""
        state._now = now
        if self._aging:
            time_before = state._time
            state._time = time
            self.purge(state, max(time, time_before))
        else:
            state._time = time

    def purge(self, state: Any, now: int) -> None:  # noqa: ANN401
        """Drop what is too old at a time."""
        for slot in self._aging:
            held = getattr(state, f"_{slot.name}")
            if slot.kind != "value":
                held.purge(now)
            elif held is not None and held[0] + slot.ttl_ms <= now:
                setattr(state, f"_{slot.name}", None)

    def _check_with_inner(self, state: State) -> None:
        """Raise ValueError if a value that was set is not of its type."""
        self._check_plain(state)
        for name in self._inner:
            if (held := getattr(state, f"_{name}")) is not None:
                try:
                    setattr(state, f"_{name}", (held[0], self._accepts[name](held[1])))
                except ValueError as error:
                    raise ValueError(f"state {name!r} is set off its type: {error}") from None

    def _settle(self, state: Any, name: str) -> None:  # noqa: ANN401
        """Bring a value to its type."""
        value = getattr(state, name)
        try:
            accepted = self._accepts[name](value)
        except ValueError as error:
            raise ValueError(f"state {name!r} is set off its type: {error}") from None
        if accepted is not value:
            setattr(state, name, accepted)

    def wake(self, state: Any) -> int | None:  # noqa: ANN401
        """Return when the state next wants to be looked at: its first timer, or when all that ages is gone."""
        times = list(state._timers.values())
        if self._aging:
            gone = [self._gone_at(state, slot) for slot in self._aging]
            times += [max(one for one in gone if one is not None)] if any(one is not None for one in gone) else []
        return min(times, default=None)

    @staticmethod
    def _gone_at(state: Any, slot: Slot) -> int | None:  # noqa: ANN401
        held = getattr(state, f"_{slot.name}")
        if slot.kind != "value":
            found: int | None = held.gone_at()
            return found
        return None if held is None else held[0] + slot.ttl_ms

    # bytes

    def values(self, state: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return all that differs from a fresh state, by name."""
        values: dict[str, Any] = {}
        for name, default in self._defaults:
            value = getattr(state, name)
            if value is not default and (value != default or repr(value) != repr(default)):  # -0.0 is not 0.0
                values[name] = value
        for slot in self._stamped:
            if (held := getattr(state, f"_{slot.name}")) is not None:
                values[slot.name] = held
        for slot in self._held:
            if len(held := getattr(state, f"_{slot.name}")):
                values[slot.name] = held.saved()
        if state._timers:
            values["@timers"] = state._timers
        if state._clock_timers:
            values["@clock_timers"] = state._clock_timers
        return values

    def encode(self, state: State) -> bytes | None:
        """Return a state as bytes, None if nothing is to be kept.

        Raises
        ------
        ProcessError
            If it holds what cannot be written: put into a list's or map's value behind its back.
        """
        values = self.values(state)
        if not values:
            return None
        if self._aging or state._timers or state._clock_timers:
            values["@time"] = state._time
            if state._now != state._time:
                values["@now"] = state._now
        if self._declared.version > 1:
            values["@version"] = self._declared.version
        try:
            return self._compact(values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ProcessError(f"cannot be kept: {error}", where=self._where(state)) from None

    def _where(self, state: State) -> str:
        return f"state of {self._declared.name}, key {dict(state._key)}"

    def decode(self, data: bytes | None, key: Mapping[str, Any]) -> State:
        """Return the state that was encoded, migrated if it is of an older version.

        Raises
        ------
        ProcessError
            If it is of a newer version, there is no `migrate`, or that raises.
        """
        state: State = self._class()
        state._key, state._shared, state._clock = key, None, None
        self.restore(state, data)
        return state

    def restore(self, state: State, data: bytes | None) -> None:
        """Put a state back to what was encoded."""
        self._clear(state)
        if data is None:
            state._timers, state._clock_timers, state._time, state._now = {}, {}, 0, 0
            return
        saved: dict[str, Any] = _decode(data)
        state._timers, state._clock_timers = saved.pop("@timers", None) or {}, saved.pop("@clock_timers", None) or {}
        state._time = saved.pop("@time", 0)
        state._now = saved.pop("@now", state._time)
        version = saved.pop("@version", 1)
        values = self._known(saved, state) if version == self._declared.version else self._migrated(version, saved, state)
        for name, value in values.items():
            slot = self._slots[name]
            if slot.kind != "value":
                getattr(state, f"_{name}").load(value)
            else:
                setattr(state, name if slot.ttl_ms is None else f"_{name}", value)

    def _known(self, values: dict[str, Any], state: State) -> dict[str, Any]:
        """Return what was kept under this version, whose declaration may have changed since."""
        try:
            return {name: self._fitted(name, value, "has kept") for name, value in values.items()}
        except ValueError as error:
            version = self._declared.version
            fix = f"set state_version = {version + 1} and write migrate, or start anew"
            raise ProcessError(f"state_version {version} {error}", where=self._where(state), fix=fix) from None

    def _migrated(self, version: int, values: dict[str, Any], state: State) -> dict[str, Any]:
        name, wanted, where = self._declared.name, self._declared.version, self._where(state)
        if version > wanted:
            raise ProcessError(f"is of version {version}, and the process of {wanted}", where=where, fix="run the newer process")
        if self._migrate is None:
            fix = f"write migrate(version, values), which makes values of version {wanted} of them"
            raise ProcessError(f"is of version {version}, and the process of {wanted}", where=where, fix=fix)
        try:
            return {name: self._fitted(name, value, "gives") for name, value in dict(self._migrate(version, values)).items()}
        except Exception as error:
            what = f"{name}.migrate({version}, {values}) fails: {type(error).__name__}: {error}"
            raise ProcessError(what, where=where, fix="fix migrate; the state is as it was") from error

    def _fitted(self, name: str, saved: Any, verb: str) -> Any:  # noqa: ANN401
        """Return what was kept, or `migrate` gives, by a name, as it is saved. Raises ValueError if it is not what is declared."""
        if name not in self._slots:
            raise ValueError(f"{verb} {name!r}, which is not declared; {near(str(name), self._slots)}")
        slot, fit = self._slots[name], self._fits[name]
        if saved is None and slot.kind == "value":
            return None
        try:
            if slot.kind == "map":
                return {key: fit(value) for key, value in _by_text(saved).items()}
            return [fit(value) for value in _in_order(saved)] if slot.kind == "list" else fit(saved)
        except ValueError as error:
            raise ValueError(f"{verb} {name!r} off its type: {error}") from None


def _stamped_accept(accept: Accept) -> Accept:
    def fit(pair: object) -> object:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or type(pair[0]) is not int:
            raise ValueError(f"{pair!r}, which has a ttl, is not [time, value]")
        return pair[0], accept(pair[1])

    return fit


def _in_order(value: object) -> Iterable[Any]:
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | set | frozenset):
        return value
    raise ValueError(f"{value!r} is not a list")


def _by_text(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(map(is_text, value)):
        raise ValueError(f"{value!r} is not a dict by text")
    return value


def _state_class(declared: Declaration) -> type[State]:
    """Return the class of a process's states: plain values are slots, the others properties over hidden ones."""
    names: list[str] = []
    body: dict[str, Any] = {}
    for slot in declared.slots:
        if slot.kind == "value" and slot.ttl_ms is None:
            names.append(slot.name)
        else:
            names.append(f"_{slot.name}")
            body[slot.name] = _held(slot) if slot.kind != "value" else _stamped(slot)
    return type(f"{declared.name} state", (State,), {"__slots__": tuple(names), **body})


def _stamped(slot: Slot) -> property:
    hidden, accept = f"_{slot.name}", accept_of(slot.type)

    def read(state: Any) -> Any:  # noqa: ANN401
        held = getattr(state, hidden)
        return slot.default if held is None else held[1]

    def write(state: Any, value: object) -> None:  # noqa: ANN401
        setattr(state, hidden, None if value is None and slot.default is None else (state._time, accept(value)))

    return property(read, write)


def _held(slot: Slot) -> property:
    hidden = f"_{slot.name}"

    def read(state: Any) -> Any:  # noqa: ANN401
        return getattr(state, hidden)

    def write(state: Any, values: Any) -> None:  # noqa: ANN401
        held = getattr(state, hidden)
        if values is not held:
            held.fill(values)

    return property(read, write)


def fresh_state(process: object, *, time: int = 0, **key: object) -> Any:  # noqa: ANN401
    """Return the state of a key of which a process knows nothing, to test the process with. Setting its `time` moves it on.

    Parameters
    ----------
    process
        The process.
    time
        The event time that its methods are to see, ms since the epoch.
    key
        The key's columns.
    """
    declared = declaration_of(process, tuple(key), type(process).__name__)
    state: Any = Keep(declared).fresh(key)
    state.__class__ = type(type(state).__name__, (type(state),), {"__slots__": (), "time": property(attrgetter("_time"), _move)})
    state.time = time
    state._shared = Shared(declared)
    return state


def _move(state: Any, time: int) -> None:  # noqa: ANN401
    state._time = state._now = time
