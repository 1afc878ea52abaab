"""Lists and dicts of a key's state: each value of its type, and gone when its time is over."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from itertools import takewhile
from operator import itemgetter
from typing import Any, Protocol, overload

from headrace.kernels.keyed.values import Accept, is_text

__all__ = ["KeptList", "KeptMap", "TextMap"]


class Timed(Protocol):
    """The owner of a container, which has an event time."""

    _time: int


class KeptList(MutableSequence[Any]):
    """A list of accepted values, each of which goes when its time is over: from the front, where the times are in order."""

    __slots__ = ("_accept", "_ordered", "_stamps", "_state", "_ttl", "values")

    def __init__(self, state: Timed, accept: Accept, ttl: int | None) -> None:
        self._state, self._accept, self._ttl = state, accept, ttl
        self.values: list[Any] = []
        self._stamps: list[int] = []
        self._ordered = True

    @overload
    def __getitem__(self, place: int) -> Any: ...  # noqa: ANN401
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        return self.values[place]

    def __setitem__(self, place: int | slice, value: Any) -> None:  # noqa: ANN401
        if isinstance(place, slice):
            values = list(self.values)
            values[place] = value
            self.fill(values)
            return
        self.values[place] = self._accept(value)
        if self._ttl is not None:
            self._stamps[place] = self._state._time
            self._ordered = False

    def __delitem__(self, place: int | slice) -> None:
        del self.values[place]
        if self._ttl is not None:
            del self._stamps[place]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __eq__(self, other: object) -> bool:
        return list(self.values) == (list(other) if isinstance(other, Iterable) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.values)

    def insert(self, index: int, value: Any) -> None:  # noqa: ANN401
        """Put a value before a place."""
        self.values.insert(index, self._accept(value))
        if self._ttl is not None:
            self._stamps.insert(index, self._state._time)
            self._ordered = False

    def append(self, value: Any) -> None:  # noqa: ANN401
        """Put a value behind the last."""
        self.values.append(self._accept(value))
        if self._ttl is not None:
            if self._stamps and self._stamps[-1] > self._state._time:
                self._ordered = False
            self._stamps.append(self._state._time)

    def fill(self, values: Iterable[Any]) -> None:
        """Hold these values, and no others."""
        self.values = [self._accept(value) for value in values]
        self._stamps = [self._state._time] * len(self.values) if self._ttl is not None else []
        self._ordered = True

    def saved(self) -> Any:  # noqa: ANN401
        """Return the values as they are stored, with their times if they age."""
        return self.values if self._ttl is None else list(zip(self._stamps, self.values, strict=True))

    def load(self, saved: Any) -> None:  # noqa: ANN401
        """Hold what was stored."""
        if self._ttl is None:
            self.values = list(saved)
        else:
            self._stamps, self.values = [stamp for stamp, _ in saved], [value for _, value in saved]
            self._ordered = self._stamps == sorted(self._stamps)

    def purge(self, now: int) -> None:
        """Drop what is too old at a time."""
        last = now - self._ttl  # type: ignore[operator]
        if self._ordered:
            if self._stamps and self._stamps[0] <= last:
                gone = bisect_right(self._stamps, last)
                del self._stamps[:gone], self.values[:gone]
        elif min(self._stamps, default=now) <= last:
            self.load([(stamp, value) for stamp, value in zip(self._stamps, self.values, strict=True) if stamp > last])

    def gone_at(self) -> int | None:
        """Return when the last of the values is too old."""
        if not self._stamps:
            return None
        return (self._stamps[-1] if self._ordered else max(self._stamps)) + self._ttl  # type: ignore[operator]


class TextMap(MutableMapping[str, Any]):
    """A dict by text, whose values are held in `values_`."""

    __slots__ = ("values_",)

    def __init__(self) -> None:
        self.values_: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.values_)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __repr__(self) -> str:
        return repr(self.values_)

    def fill(self, values: Mapping[str, Any]) -> None:
        """Hold these values, and no others."""
        new = dict(values)
        self.clear()
        self.update(new)

    @staticmethod
    def check_name(name: object) -> None:
        """Raise ValueError if a name is no text."""
        if not is_text(name):
            fix = "" if isinstance(name, str) else f"; write str({name!r})"
            raise ValueError(f"{name!r} is not a text, and a map's names are{fix}")


class KeptMap(TextMap):
    """A dict of accepted values by text, each of which goes when its time is over."""

    __slots__ = ("_accept", "_stamps", "_state", "_ttl")

    def __init__(self, state: Timed, accept: Accept, ttl: int | None) -> None:
        self._state, self._accept, self._ttl = state, accept, ttl
        super().__init__()
        self._stamps: dict[str, int] = {}  # in the order of times

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return self.values_[name]

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401
        self.check_name(name)
        self.values_[name] = self._accept(value)
        if self._ttl is not None:
            self._stamps.pop(name, None)
            back = self._stamps and self._stamps[next(reversed(self._stamps))] > self._state._time
            self._stamps[name] = self._state._time
            if back:
                self._stamps = dict(sorted(self._stamps.items(), key=itemgetter(1)))

    def __delitem__(self, name: str) -> None:
        del self.values_[name]
        self._stamps.pop(name, None)

    def saved(self) -> Any:  # noqa: ANN401
        """Return the values as they are stored, with their times if they age."""
        return self.values_ if self._ttl is None else {name: (self._stamps[name], value) for name, value in self.values_.items()}

    def load(self, saved: Any) -> None:  # noqa: ANN401
        """Hold what was stored."""
        if self._ttl is None:
            self.values_ = dict(saved)
        else:
            self._stamps = dict(sorted([(name, stamp) for name, (stamp, _) in saved.items()], key=itemgetter(1)))
            self.values_ = {name: value for name, (_, value) in saved.items()}

    def purge(self, now: int) -> None:
        """Drop what is too old at a time."""
        last = now - self._ttl  # type: ignore[operator]
        for name in [*takewhile(lambda name: self._stamps[name] <= last, self._stamps)]:
            del self[name]

    def gone_at(self) -> int | None:
        """Return when the last of the values is too old."""
        return self._stamps[next(reversed(self._stamps))] + self._ttl if self._stamps else None  # type: ignore[operator]
