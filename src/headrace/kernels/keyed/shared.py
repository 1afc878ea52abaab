"""The broadcast state of a process: all keys read it, only `on_broadcast` writes it, and a record costs only what it changes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from headrace.errors import near
from headrace.kernels.keyed.containers import TextMap
from headrace.kernels.keyed.values import Accept, accept_of
from headrace.plan.process import Declaration, Slot

__all__ = ["Shared", "Versions", "View"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict).decode
_NOTHING = object()


class Shared:
    """The broadcast state of a process, as `on_broadcast` sees it: values, lists and dicts by name.

    What is written counts for the keys once it is settled, and can be undone until then. `version` counts the times that it was another then.
    """

    def __init__(self, declared: Declaration) -> None:
        accepts = {slot.name: _accept_of(slot) for slot in declared.shared}
        values = {slot.name: [] if slot.kind == "list" else slot.default for slot in declared.shared if slot.kind != "map"}
        maps = {slot.name: _Map(accepts[slot.name]) for slot in declared.shared if slot.kind == "map"}
        view = View({**{name: _unwritable(value) for name, value in values.items()}, **{name: one.seen for name, one in maps.items()}})
        self.__dict__.update(_accepts=accepts, _values=values, _maps=maps, _view=view, _before={}, _bytes=None, _version=0)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name in self._maps:
            return self._maps[name]
        self._check(name)
        value = self._values[name]
        if isinstance(value, list | dict) and name not in self._before:  # it may be changed in place
            self._before[name] = value
            value = self._values[name] = self._accepts[name](value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        self._check(name)
        if name not in self._maps:
            self._before.setdefault(name, self._values[name])
            self._values[name] = value
        elif not isinstance(value, Mapping):
            raise ValueError(f"shared {name!r} is off its type: {value!r} is not a dict by text")
        elif value is not self._maps[name]:
            self._maps[name].fill(value)

    def _check(self, name: str) -> None:
        if name not in self._accepts:
            raise AttributeError(f"shared has no {name!r}; {near(name, self._accepts)}", name=name, obj=self)

    def settle(self) -> None:
        """Have the keys see what was written. Raises ValueError if something is off its type."""
        changed: dict[str, Any] = {}
        for name in (*self._before, *self._maps):
            try:
                if name in self._maps:
                    self._maps[name].accept()
                else:
                    changed[name] = self._accepts[name](self._values[name])
            except ValueError as error:
                raise ValueError(f"shared {name!r} is off its type: {error}") from None
        self._values.update(changed)
        self._view.__dict__.update({name: _unwritable(value) for name, value in changed.items()})
        self._before.clear()
        moved = [name for name, entries in self._maps.items() if entries.settle()]
        if changed or moved:
            self.__dict__.update(_bytes=None, _version=self._version + 1)

    def undo(self) -> None:
        """Take back what was written since it was last settled."""
        self._values.update(self._before)
        self._before.clear()
        for entries in self._maps.values():
            entries.undo()

    @property
    def version(self) -> int:
        """How often it has been settled and was another than before."""
        return self._version  # type: ignore[no-any-return]

    def encode(self) -> bytes:
        """Return all of it as bytes. Raises ValueError if something is off its type."""
        self.settle()
        if self._bytes is None:
            maps = {name: entries.values_ for name, entries in self._maps.items()}
            self.__dict__["_bytes"] = _encode({name: maps[name] if name in maps else self._values[name] for name in self._accepts})
        return self._bytes  # type: ignore[no-any-return]

    def take_encoded(self) -> bytes:
        """Return the same, and do not keep it for the next time."""
        data = self.encode()
        self.__dict__["_bytes"] = None
        return data

    def restore(self, data: bytes) -> None:
        """Hold what was encoded. Raises ValueError if something is off its type."""
        for name, value in _decode(data).items():
            setattr(self, name, value)
        self.settle()

    def view(self) -> View:
        """Return what the keys see, which moves on whenever this is settled."""
        self.settle()
        return self._view  # type: ignore[no-any-return]


class _Map(TextMap):
    """A dict by text of which it is noted what is touched.

    Attributes
    ----------
    values_
        What it holds.
    seen
        What it held when it was last settled, for reading only.
    """

    __slots__ = ("_accept", "_before", "_taken", "seen")

    def __init__(self, accept: Accept) -> None:
        super().__init__()
        self._accept = accept
        self.seen: dict[str, Any] = _SharedDict()
        self._before: dict[str, Any] = {}
        self._taken: set[str] = set()

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        value = self.values_[name]
        if isinstance(value, list | dict) and name not in self._before:  # it may be changed in place
            self._before[name] = value
            value = self.values_[name] = self._accept(value)
        return value

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401
        self.check_name(name)
        self._before.setdefault(name, self.values_.get(name, _NOTHING))
        self.values_[name] = value

    def __delitem__(self, name: str) -> None:
        self._before.setdefault(name, self.values_[name])
        del self.values_[name]
        self._taken.add(name)

    def __contains__(self, name: object) -> bool:
        return name in self.values_

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def clear(self) -> None:
        """Take out all."""
        for name, value in self.values_.items():
            self._before.setdefault(name, value)
        self._taken.update(self.values_)
        self.values_.clear()

    def accept(self) -> None:
        """Bring what was touched to its type. Raises ValueError if that cannot be."""
        for name in self._before:
            if name in self.values_:
                self.values_[name] = self._accept(self.values_[name])

    def settle(self) -> bool:
        """Have what was touched seen, and return whether anything was."""
        if not self._before:
            return False
        touched: Any = self._before
        if any(name in self.values_ for name in self._taken):  # some stand elsewhere now
            dict.clear(self.seen)
            touched = self.values_
        for name in touched:
            if name in self.values_:
                dict.__setitem__(self.seen, name, _unwritable(self.values_[name]))
            else:
                dict.pop(self.seen, name, None)
        self._before.clear()
        self._taken.clear()
        return True

    def undo(self) -> None:
        """Take back what was touched."""
        if self._taken:
            before = {name: self._before.get(name, self.values_.get(name)) for name in self.seen}
            self.values_.clear()
            self.values_.update(before)
        else:
            for name, value in self._before.items():
                if value is _NOTHING:
                    del self.values_[name]
                else:
                    self.values_[name] = value
        self._before.clear()
        self._taken.clear()


def _accept_of(slot: Slot) -> Accept:
    accept = accept_of(slot.type)
    return (lambda values: [accept(one) for one in values]) if slot.kind == "list" else accept  # type: ignore[attr-defined]


def _unwritable(value: object) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return _SharedList(map(_unwritable, value))
    return _SharedDict({name: _unwritable(one) for name, one in value.items()}) if isinstance(value, dict) else value


def _refuse(*_given: object, **_named: object) -> NoReturn:
    raise TypeError("state.shared is written by on_broadcast alone")


_CHANGES = ("__setitem__", "__delitem__", "clear", "pop")
_SharedList: type = type(
    "SharedList", (tuple,), dict.fromkeys([*_CHANGES, "__iadd__", "__imul__", "append", "extend", "insert", "remove", "reverse", "sort"], _refuse)
)
_SharedDict: type = type("SharedDict", (dict,), dict.fromkeys([*_CHANGES, "__ior__", "popitem", "setdefault", "update"], _refuse))


class View:
    """Shared state as `on_record` sees it."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"shared {name!r} is written by on_broadcast alone")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"shared {name!r} is written by on_broadcast alone")


class Versions:
    """Shared state by the time from which each version counts, where a host applies the broadcast apart from the keys."""

    def __init__(self, declared: Declaration) -> None:
        self._declared = declared
        self._times: list[int] = []
        self._views: list[Any] = []
        self._before = Shared(declared).view() if declared.shared else None

    def view(self, time: int) -> Any:  # noqa: ANN401
        """Return the shared state as it is at a time."""
        place = bisect_right(self._times, time)
        return self._views[place - 1] if place else self._before

    def add(self, time: int, data: bytes, clock: int) -> list[int]:
        """Take in an encoded version, and return the times of those that no record from the clock on sees."""
        shared = Shared(self._declared)
        shared.restore(data)
        place = bisect_right(self._times, time)
        if place and self._times[place - 1] == time:
            self._views[place - 1] = shared.view()
        else:
            self._times.insert(place, time)
            self._views.insert(place, shared.view())
        past = max(bisect_right(self._times, clock) - 1, 0)
        old = self._times[:past]
        del self._times[:past], self._views[:past]
        return old
