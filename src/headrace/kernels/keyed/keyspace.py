"""All keys of one process: those at hand as objects, the others as bytes, and one heap of when each wants to be woken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from headrace.kernels.keyed.process import Given, ProcessKernel
from headrace.kernels.keyed.shared import Shared, Versions
from headrace.kernels.keyed.state import State
from headrace.kernels.keyed.values import Compact, key_of

__all__ = ["ARE_EQUAL_BY_CODE", "Keyspace"]

_MOST_AT_HAND = 10_000
# Keys of these types have equal codes where Python has them for equal: 0.0 and -0.0 have not, and dicts and lists have no hash.
ARE_EQUAL_BY_CODE = frozenset(["STRING", "BIGINT", "BOOLEAN", "TIMESTAMP_LTZ(3)"])
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list).decode
_decode_state = msgspec.msgpack.Decoder(dict).decode


class Keyspace:
    """The keys of one process that a host has in one place: all of them, or those of a task, or one.

    Attributes
    ----------
    shared
        The shared state, as far as the keys have been told of it.
    alarms
        When each key wants to be woken, the first in front.
    ages
        Whether values age, so that each step of the clock counts.
    versions
        Where the host has the shared state by the times from which it counts: each call then sees that of its time.
    """

    def __init__(self, kernel: ProcessKernel) -> None:
        self.kernel = kernel
        self._names = kernel.operator.keys
        self._stored: dict[bytes, bytes] = {}
        self._at_hand: dict[bytes, State] = {}
        self._by_key: dict[Any, State] | None = {} if ARE_EQUAL_BY_CODE.issuperset(self._key_kinds()) else None
        self._touched: set[bytes] = set()
        self._compact = Compact()
        self._alarms = _Alarms()
        self.alarms = self._alarms.heap
        self._clock_alarms = _Alarms()
        self.shared = Shared(kernel.operator.declared)
        self._view: Any = self.shared.view() if kernel.operator.declared.shared else None
        self.versions: Versions | None = None
        declared = kernel.operator.declared
        self.ages = any(slot.ttl_ms for slot in declared.slots)
        self._sleeps = not (declared.timers or declared.clock_timers or self.ages)
        self._passed: int | None = None

    # work

    def record(self, key: tuple[Any, ...], row: Mapping[str, Any], time: int, now: int, place: object, given: list[Given], number: int = 1) -> None:
        """Give a key a record of the input of a number; below zero it comes before the broadcast of its time."""
        state = None if self._by_key is None else self._by_key.get(key)
        if state is None:
            state = self._state(self._compact(key), key)
            if self._by_key is not None:
                self._by_key[key] = state
        if self.versions is not None:
            state._shared = self.versions.view(time if number > 0 else time - 1)
        if self.ages and self._passed is not None and self._passed > time:  # in the order of arrival a record may come behind the clock
            self.kernel.keep.purge(state, self._passed - 1)
        self.kernel.record(state, row, time, now, place, given, number)
        if not self._sleeps or state._timers or state._clock_timers:
            self._arm(self._compact(key), state)

    def states_of(self, keys: Iterable[tuple[Any, ...]]) -> Iterator[State]:
        """Yield the states of keys, for a kernel that works on many rows at once: each may be changed until the next is asked for."""
        for key in keys:
            code = self._compact(key)
            state = self._state(code, key)
            yield state
            if self.ages:
                self._arm(code, state)

    def fire(self, upto: int, given: list[Given]) -> None:
        """Call all timers of event times before `upto`, in the order of times, then keys."""
        if self._passed is None or upto > self._passed:
            self._passed = upto
        while (due := self._alarms.pop(upto - 1)) is not None:
            at, code = due
            state = self._state(code)
            timer = self.kernel.next_timer(state)
            if timer is not None and timer <= at:
                if self.versions is not None:
                    state._shared = self.versions.view(max(at, state._time))
                self.kernel.fire(state, at + 1, given)
            else:
                self.kernel.keep.purge(state, at)
            self._arm(code, state)

    def end(self, time: int, given: list[Given]) -> None:
        """Tell the process of each key that the input has ended, in the order of the keys."""
        for code in sorted({*self._stored, *self._at_hand}):
            self.kernel.end(self._state(code), time, given)

    def fire_clock(self, upto: int, time: int, given: list[Given]) -> None:
        """Call all timers of the clock up to `upto`, at an event time."""
        while (due := self._clock_alarms.pop(upto)) is not None:
            at, code = due
            state = self._state(code)
            if self.versions is not None:
                state._shared = self.versions.view(max(time, state._time))
            self.kernel.clock(state, at, time, given, upto)
            self._arm(code, state)

    def broadcast(self, row: Mapping[str, Any], place: object, time: int, given: list[Given]) -> None:
        """Call the process with a broadcast record of a time."""
        self.kernel.broadcast(self.shared, row, place, time, given)

    @property
    def next_clock_timer(self) -> int | None:
        """When the first timer of the clock is due."""
        return self._clock_alarms.first

    @property
    def next_timer(self) -> int | None:
        """The first time at which a key wants to be woken."""
        return self._alarms.first

    @property
    def last_timer(self) -> int | None:
        """The latest time at which a key wants to be woken."""
        return self._alarms.last

    def count_timers(self) -> int:
        """Return how many timers of event time are set, of all keys."""
        if not len(self._alarms):
            return 0
        self._put_away()
        return sum(len(_decode_state(data).get("@timers", ())) for data in self._stored.values())

    def _state(self, code: bytes, key: tuple[Any, ...] | None = None) -> State:
        state = self._at_hand.get(code)
        if state is None:
            if len(self._at_hand) >= _MOST_AT_HAND:
                self._put_away()
            values = dict(zip(self._names, key_of(code) if key is None else key, strict=True))
            state = self.kernel.keep.decode(self._stored.get(code), values)
            state._shared = self._view
            self._at_hand[code] = state
            self._touched.add(code)
        return state

    def _key_kinds(self) -> set[str]:
        schema = self.kernel.operator.record_schema
        return {schema[name].type.kind for name in self._names}

    def _arm(self, code: bytes, state: State) -> None:
        self._alarms.set(code, self.kernel.keep.wake(state))
        if state._clock_timers:
            self._clock_alarms.set(code, min(state._clock_timers.values()))

    # one key, which the host stores

    def hold(self, key: tuple[Any, ...], data: bytes | None) -> State:
        """Have this key alone, with what was encoded for it, and return its state."""
        for alarms in (self._alarms, self._clock_alarms):
            alarms.clear()
        self._let_go()
        self._touched.clear()
        self._passed, code = None, self._compact(key)
        state = self._at_hand[code] = self.kernel.keep.decode(data, dict(zip(self._names, key, strict=True)))
        state._shared = self._view
        self._arm(code, state)
        return state

    # what is kept

    def __len__(self) -> int:
        self._put_away()
        return len(self._stored)

    def __contains__(self, code: object) -> bool:
        """Whether a key has state that is put away: after `take_touched`, whether it has any."""
        return code in self._stored

    @property
    def timers(self) -> int:
        """How many keys have a timer, or something that ages."""
        return len(self._alarms) + len(self._clock_alarms)

    def _put_away(self) -> None:
        encode, stored = self.kernel.keep.encode, self._stored
        for code, state in self._at_hand.items():
            if (data := encode(state)) is not None:
                stored[code] = data
            else:
                stored.pop(code, None)
        self._let_go()

    def _let_go(self) -> None:
        self._at_hand.clear()
        if self._by_key is not None:
            self._by_key.clear()

    def take_touched(self) -> list[bytes]:
        """Return the keys touched since this was last asked."""
        self._put_away()
        touched = [*self._touched]
        self._touched.clear()
        return touched

    def forget_touched(self) -> None:
        """Forget which keys were touched, where nothing is ever committed."""
        self._touched.clear()

    def encoded(self, keys: Iterable[bytes]) -> bytes:
        """Return keys with what is kept for them, as bytes; nothing, where that is so."""
        stored = self._stored
        return _encode([part for key in keys for part in (key, stored.get(key))])

    def load(self, parts: Iterable[bytes]) -> list[list[bytes]]:
        """Keep what was encoded, of each key the last, in states of this version; return the keys of each part."""
        keys: list[list[bytes]] = []
        for part in parts:
            flat: list[bytes] = _decode(part)
            keys.append(flat[::2])
            self._stored.update(zip(flat[::2], flat[1::2], strict=True))
        for key in [key for key, data in self._stored.items() if data is None]:
            del self._stored[key]
        return keys

    def wake(self, *, migrate: bool) -> None:
        """Have each key that was loaded wait for its timers again; with `migrate`, make its state one of this version."""
        if self._sleeps and not migrate:
            return
        keep, new = self.kernel.keep, {}
        for code, data in self._stored.items():
            state = keep.decode(data, dict(zip(self._names, key_of(code), strict=True)))
            self._alarms.add(code, keep.wake(state))
            if state._clock_timers:
                self._clock_alarms.add(code, min(state._clock_timers.values()))
            if migrate:
                new[code] = keep.encode(state)
        self._alarms.order()
        self._clock_alarms.order()
        if migrate:
            self._stored = {code: data for code, data in new.items() if data is not None}
            self._touched.update(new)

    def restore_shared(self, data: bytes) -> None:
        """Hold the shared state that was encoded."""
        self.shared.restore(data)


class _Alarms:
    """When keys want to be woken: one entry for each key, which may come too early but never too late."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, bytes]] = []
        self._armed: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._armed)

    @property
    def first(self) -> int | None:
        while self.heap and self._armed.get(self.heap[0][1]) != self.heap[0][0]:
            heappop(self.heap)
        return self.heap[0][0] if self.heap else None

    @property
    def last(self) -> int | None:
        return max(self._armed.values(), default=None)

    def clear(self) -> None:
        self.heap.clear()
        self._armed.clear()

    def set(self, key: bytes, at: int | None) -> None:
        """Have a key woken at a time, or before."""
        if at is not None and ((armed := self._armed.get(key)) is None or at < armed):
            self._armed[key] = at
            heappush(self.heap, (at, key))

    def add(self, key: bytes, at: int | None) -> None:
        """The same while many are added, before `order`."""
        if at is not None:
            self._armed[key] = at
            self.heap.append((at, key))

    def order(self) -> None:
        heapify(self.heap)

    def pop(self, upto: int) -> tuple[int, bytes] | None:
        """Take out the first that is due, if there is one."""
        while self.heap and self.heap[0][0] <= upto:
            at, key = heappop(self.heap)
            if self._armed.get(key) == at:
                del self._armed[key]
                return at, key
        return None
