"""What each policy drops of a backlog: the oldest, the newest, or all but the last of each key and interval."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.connectors.backlog_rules import Parted, Rule, Unbounded, count_beyond, ends_of, has_before, order_of, parted, waiting_of
from headrace.connectors.buffer import Buffer, Policy, Unread
from headrace.connectors.protocol import Record

__all__ = ["RULES", "Oldest"]

_MOST_MS = 1 << 62  # JSON has no longer interval
_GRAINS = 64  # room is given to the newest in so many parts of the limit, or there would be a section for each record


class Oldest(Unbounded):
    """The oldest records go beyond the limit."""

    def __init__(self, buffer: Buffer) -> None:
        self._most = buffer.most

    def bounded(self, pending: list[Record], unread: Unread) -> Parted:
        """Drop as many of the oldest as are beyond the limit."""
        over = max(waiting_of(pending, unread) - self._most, 0)
        return Parted(pending[over:], pending[:over]) if over and pending else Parted(pending)


@dataclass(slots=True)
class _Section:
    """The records before some ends: the first of those that are unread have room, the others are dropped."""

    room: int
    ends: Counter[int]  # a partition that is new has 0


class _Newest(Unbounded):
    def __init__(self, buffer: Buffer) -> None:
        self._most = buffer.most
        self._sections: deque[_Section] = deque()

    def bounded(self, pending: list[Record], unread: Unread) -> Parted:
        sections = self._sections
        for one in sections:
            if all(at >= one.ends[number] for number, (at, _) in unread.items()):
                one.room = 0  # a log may pass over offsets that are no records
        while sections and not sections[0].room and not has_before(unread, pending, sections[0].ends):
            sections.popleft()
        count = min(len(pending), self._most)
        beyond = count_beyond(unread, sections[-1].ends if sections else {})
        room = self._most - count - sum(one.room for one in sections)
        if beyond > room:
            if sections and room < max(self._most // _GRAINS, 1):
                sections[-1].ends = Counter(ends_of(unread))
            else:
                sections.append(_Section(room, Counter(ends_of(unread))))
            self.decided = sections[-1].ends
        return Parted(pending[:count], pending[count:]) if count < len(pending) else Parted(pending)

    def admitted(self, records: list[Record]) -> Parted:
        return parted(records, self._has_room) if self._sections else Parted(records)

    def _has_room(self, record: Record) -> bool:
        section = next((one for one in self._sections if record.offset < one.ends[record.partition]), None)
        if section is None:
            return True
        has_room = section.room > 0
        section.room -= has_room
        return has_room

    def saved(self, pending: Sequence[Record]) -> Any:  # noqa: ANN401
        if not self._sections:
            return None
        ends = {number: [one.ends[number] for one in self._sections] for number in {one.partition for one in pending}}
        read = Counter(bisect_right(ends[one.partition], one.offset) for one in pending)
        return {"policy": "newest", "sections": [[one.room + read[place], [*one.ends.items()]] for place, one in enumerate(self._sections)]}

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        self._sections = deque(_Section(room, Counter(dict(ends))) for room, ends in saved["sections"])
        self.decided = self._sections[-1].ends


class _Reduce(Unbounded):
    def __init__(self, buffer: Buffer) -> None:
        self._buffer, self._interval = buffer, buffer.reduce_ms
        self._ends: dict[int, int] = {}  # the records before these offsets are reduced
        self._open: dict[int, dict[tuple[int, bytes], Record]] = {}  # of each partition the last records of the interval that is being read

    def bounded(self, pending: list[Record], unread: Unread) -> Parted:
        reducing = any(at < self._ends.get(number, 0) for number, (at, _) in unread.items())
        fresh = count_beyond(unread, self._ends) if reducing else waiting_of(pending, unread)
        if fresh > self._buffer.most:
            times = 1 << ((waiting_of(pending, unread) - 1) // self._buffer.most).bit_length()
            self._interval = min(max(self._buffer.reduce_ms * times, self._interval if reducing else 0), _MOST_MS)
            self._ends = ends_of(unread)
            self.decided = self._interval, self._ends
            held = [*self.held()]
            self._open.clear()
            return self.admitted([*pending, *held])
        held = self.released(unread)
        return Parted([*pending, *held]) if held else Parted(pending)

    def released(self, unread: Unread) -> list[Record]:
        done = [number for number in self._open if unread[number][0] >= self._ends[number]]
        return [one for number in done for one in self._open.pop(number).values()]

    def admitted(self, records: list[Record]) -> Parted:
        kept: list[Record] = []
        dropped: list[Record] = []
        for one in sorted(records, key=order_of):
            if one.key is None or one.offset >= self._ends.get(one.partition, 0):
                kept += [*self._open.pop(one.partition, {}).values(), one]
                continue
            open_, place = self._open.setdefault(one.partition, {}), (one.arrived_ms // self._interval, one.key)
            if open_ and next(iter(open_))[0] != place[0]:
                kept += open_.values()
                open_.clear()
            if (before := open_.pop(place, None)) is not None:
                dropped.append(before)
            open_[place] = one
        return Parted(kept, dropped)

    def held(self) -> Iterable[Record]:
        return (one for open_ in self._open.values() for one in open_.values())

    def saved(self, pending: Sequence[Record]) -> Any:  # noqa: ANN401, ARG002
        return {"policy": "reduce", "interval": self._interval, "ends": [*self._ends.items()]} if self._ends else None

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        self._interval, self._ends = saved["interval"], dict(saved["ends"])
        self.decided = self._interval, self._ends


RULES: Mapping[Policy, Callable[[Buffer], Rule]] = {"oldest": Oldest, "newest": _Newest, "reduce": _Reduce}
