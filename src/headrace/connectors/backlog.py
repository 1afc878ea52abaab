"""What waits for a target, and what is dropped of it when that is more than a limit. Sans-IO.

What is to be dropped is decided before each batch, and durable before the batch is sent: a record that is dropped is not one that the
target has. It is counted when the cursor passes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from headrace.connectors.protocol import Record

__all__ = ["POLICIES", "Backlog", "Buffer", "Policy", "Unread"]

Policy = Literal["oldest", "newest", "reduce"]
POLICIES: Mapping[Policy, str] = {
    "oldest": "the oldest are dropped",
    "newest": "the newest are dropped",
    "reduce": "they are reduced to the last of each key and interval",
}
Unread = Mapping[int, tuple[int, int]]
"""Of each partition the next offset to be read, and the one behind the last."""
_MOST_MS = 1 << 62  # JSON has no longer interval
_GRAINS = 64  # room is given to the newest in so many parts of the limit, or there would be a section for each record


@dataclass(frozen=True, slots=True)
class Buffer:
    """How many records may wait for a target, and what is dropped when there are more.

    Attributes
    ----------
    most
        The limit, in records of all partitions. The batch that is being sent is not dropped, nor the first one after a start: the target
        may have it already.
    policy
        `oldest`: the oldest go. `newest`: those that came while the buffer was full go. `reduce`: the last record of each key in each
        interval stays, by arrival. Records without a key all stay.
    reduce_ms
        The shortest interval of `reduce`. It is lengthened by the power of two that is at least the excess: 8 times for a backlog of 5
        times the limit.
    """

    most: int
    policy: Policy = "oldest"
    reduce_ms: int = 1000


class Backlog:
    """Records that were read and are pending, in the order in which they are sent.

    Parameters
    ----------
    resumed
        Whether another process may have sent the first batch: until it is settled, nothing is dropped but what was decided before.

    Attributes
    ----------
    pending
        The records; those of a partition are in the order of their offsets.
    """

    def __init__(self, buffer: Buffer | None = None, *, resumed: bool = False) -> None:
        self.pending: list[Record] = []
        self.buffer = buffer
        self._resumed = resumed
        self._rule: _Rule = _Unbounded() if buffer is None else _RULES[buffer.policy](buffer)
        self._unsettled = Counter[int]()  # how many are pending, by partition
        self._dropped: dict[int, deque[tuple[int, int]]] = defaultdict(deque)  # the offsets of those that the cursor has not passed
        self._known: Any = None  # the decision that is durable

    @property
    def empty(self) -> bool:
        """Whether all that was read is settled and counted."""
        return not self.pending and not any(self._dropped.values()) and not any(True for _ in self._rule.held())

    def due(self, positions: Mapping[int, int]) -> bool:
        """Return whether dropped records can be counted now."""
        if not any(self._dropped.values()):
            return False
        cursors = self.cursors(positions)
        return any(runs and runs[0][0] < cursors[number] for number, runs in self._dropped.items())

    def undecided(self, positions: Mapping[int, int]) -> bool:
        """Return whether a commit is needed before anything is sent: where a run resumes must not change what is dropped."""
        return self._rule.decided != self._known or (isinstance(self._rule, _Oldest) and self.due(positions))

    def take(self, records: list[Record]) -> None:
        """Add records that were read."""
        records.sort(key=_order)
        self._keep(self.pending, self._rule.admitted(records))

    def bound(self, unread: Unread) -> None:
        """Drop what is too much, with what is still to be read."""
        if self._resumed:
            if released := self._rule.released(unread):
                self._keep(self.pending, _Parted(released))
        else:
            self._keep([], self._rule.bounded(self.pending, unread))

    def excess(self, unread: Unread, sending: int = 0) -> int:
        """Return by how many records more than the limit wait, besides those that are being sent; less than 0 if there is room."""
        return 0 if self.buffer is None else _waiting(self.pending, unread) - sending - self.buffer.most

    def settle(self, count: int) -> None:
        """Note that the first pending records are settled."""
        self._unsettled.subtract(one.partition for one in self.pending[:count])
        del self.pending[:count]
        self._resumed = self._resumed and not count

    def cursors(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Return the next offset of each partition: that of its first record that is not settled, or where reading continues."""
        wanted = sum(count > 0 for count in self._unsettled.values())
        found: dict[int, int] = {}
        for one in self.pending:
            if len(found) == wanted:
                break
            found.setdefault(one.partition, one.offset)
        for one in self._rule.held():
            found[one.partition] = min(one.offset, found.get(one.partition, one.offset))
        return {**positions, **found}

    def passed(self, cursors: Mapping[int, int]) -> int:
        """Return how many dropped records cursors pass, and forget them."""
        count = 0
        for number, runs in self._dropped.items():
            while runs and runs[0][0] < cursors[number]:
                first, behind = runs.popleft()
                count += behind - first
        return count

    def gone(self, number: int, first: int, behind: int) -> None:
        """Note that records of a partition are gone, from an offset to the one before another: they were not read."""
        self._dropped[number].append((first, behind))

    def saved(self) -> Any:  # noqa: ANN401  (a value of JSON)
        """Return the decisions, to be committed with the cursors."""
        self._known = self._rule.decided
        return self._rule.saved(self.pending)

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        """Resume with decisions that were committed."""
        if self.buffer is not None and isinstance(saved, dict) and saved.get("policy") == self.buffer.policy:
            self._rule.restore(saved)
            self._known = self._rule.decided
        else:
            self._known = saved  # what is not taken over is given up before anything is sent

    def _keep(self, before: list[Record], parted: _Parted) -> None:
        """Take over what a rule has said."""
        for one in parted.dropped:
            self._dropped[one.partition].append((one.offset, one.offset + 1))
        for number in {one.partition for one in parted.dropped}:
            self._dropped[number] = deque(_joined(self._dropped[number]))
        if parted.kept is self.pending:
            return
        self.pending = sorted([*before, *parted.kept], key=_order)
        self._unsettled = Counter(one.partition for one in self.pending)


def _order(one: Record) -> tuple[int, int, int]:
    return one.order, one.partition, one.offset


def _joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return runs of offsets in their order, those that are adjacent as one."""
    found: list[tuple[int, int]] = []
    for first, behind in sorted(runs):
        if found and found[-1][1] == first:
            found[-1] = found[-1][0], behind
        else:
            found.append((first, behind))
    return found


def _waiting(pending: Sequence[Record], unread: Unread) -> int:
    return len(pending) + sum(end - at for at, end in unread.values())


class _Parted(NamedTuple):
    """Records that stay, and those that are dropped."""

    kept: list[Record]
    dropped: Sequence[Record] = ()


class _Rule(Protocol):
    """What is dropped.

    Attributes
    ----------
    decided
        The last decision about records that are still to be read.
    """

    decided: Any

    def bounded(self, pending: list[Record], unread: Unread) -> _Parted:
        """Part what is pending, and decide about what is still to be read."""

    def admitted(self, records: list[Record]) -> _Parted:
        """Part what was read."""

    def held(self) -> Iterable[Record]:
        """Return records about which is not decided yet."""

    def released(self, unread: Unread) -> list[Record]:
        """Return those that stay, because all that was to be read with them is read."""

    def saved(self, pending: Sequence[Record]) -> Any:  # noqa: ANN401  (a value of JSON)
        """Return the decisions, as they were before the pending records were read."""

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        """Take decisions back."""


class _Unbounded:
    decided: Any = None

    def bounded(self, pending: list[Record], unread: Unread) -> _Parted:  # noqa: ARG002
        return _Parted(pending)

    def admitted(self, records: list[Record]) -> _Parted:
        return _Parted(records)

    def held(self) -> Iterable[Record]:
        return ()

    def released(self, unread: Unread) -> list[Record]:  # noqa: ARG002
        return []

    def saved(self, pending: Sequence[Record]) -> Any:  # noqa: ANN401, ARG002
        return None

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        pass


class _Oldest(_Unbounded):
    def __init__(self, buffer: Buffer) -> None:
        self._most = buffer.most

    def bounded(self, pending: list[Record], unread: Unread) -> _Parted:
        over = max(_waiting(pending, unread) - self._most, 0)
        return _Parted(pending[over:], pending[:over]) if over and pending else _Parted(pending)


@dataclass(slots=True)
class _Section:
    """The records before some ends: the first of those that are unread have room, the others are dropped."""

    room: int
    ends: Counter[int]  # a partition that is new has 0


class _Newest(_Unbounded):
    def __init__(self, buffer: Buffer) -> None:
        self._most = buffer.most
        self._sections: deque[_Section] = deque()

    def bounded(self, pending: list[Record], unread: Unread) -> _Parted:
        sections = self._sections
        for one in sections:
            if all(at >= one.ends[number] for number, (at, _) in unread.items()):
                one.room = 0  # a log may pass over offsets that are no records
        while sections and not sections[0].room and not _has_before(unread, pending, sections[0].ends):
            sections.popleft()
        count = min(len(pending), self._most)
        beyond = _beyond(unread, sections[-1].ends if sections else {})
        room = self._most - count - sum(one.room for one in sections)
        if beyond > room:
            if sections and room < max(self._most // _GRAINS, 1):
                sections[-1].ends = Counter(_ends(unread))
            else:
                sections.append(_Section(room, Counter(_ends(unread))))
            self.decided = sections[-1].ends
        return _Parted(pending[:count], pending[count:]) if count < len(pending) else _Parted(pending)

    def admitted(self, records: list[Record]) -> _Parted:
        return _parted(records, self._has_room) if self._sections else _Parted(records)

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


class _Reduce(_Unbounded):
    def __init__(self, buffer: Buffer) -> None:
        self._buffer, self._interval = buffer, buffer.reduce_ms
        self._ends: dict[int, int] = {}  # the records before these offsets are reduced
        self._open: dict[int, dict[tuple[int, bytes], Record]] = {}  # of each partition the last records of the interval that is being read

    def bounded(self, pending: list[Record], unread: Unread) -> _Parted:
        reducing = any(at < self._ends.get(number, 0) for number, (at, _) in unread.items())
        fresh = _beyond(unread, self._ends) if reducing else _waiting(pending, unread)
        if fresh > self._buffer.most:
            times = 1 << ((_waiting(pending, unread) - 1) // self._buffer.most).bit_length()
            self._interval = min(max(self._buffer.reduce_ms * times, self._interval if reducing else 0), _MOST_MS)
            self._ends = _ends(unread)
            self.decided = self._interval, self._ends
            held = [*self.held()]
            self._open.clear()
            return self.admitted([*pending, *held])
        held = self.released(unread)
        return _Parted([*pending, *held]) if held else _Parted(pending)

    def released(self, unread: Unread) -> list[Record]:
        done = [number for number in self._open if unread[number][0] >= self._ends[number]]
        return [one for number in done for one in self._open.pop(number).values()]

    def admitted(self, records: list[Record]) -> _Parted:
        kept: list[Record] = []
        dropped: list[Record] = []
        for one in sorted(records, key=_order):
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
        return _Parted(kept, dropped)

    def held(self) -> Iterable[Record]:
        return (one for open_ in self._open.values() for one in open_.values())

    def saved(self, pending: Sequence[Record]) -> Any:  # noqa: ANN401, ARG002
        return {"policy": "reduce", "interval": self._interval, "ends": [*self._ends.items()]} if self._ends else None

    def restore(self, saved: Any) -> None:  # noqa: ANN401
        self._interval, self._ends = saved["interval"], dict(saved["ends"])
        self.decided = self._interval, self._ends


def _parted(records: Sequence[Record], stays: Callable[[Record], bool]) -> _Parted:
    kept: list[Record] = []
    dropped: list[Record] = []
    for one in records:
        (kept if stays(one) else dropped).append(one)
    return _Parted(kept, dropped)


def _has_before(unread: Unread, pending: Sequence[Record], ends: Mapping[int, int]) -> bool:
    """Return whether a record that is unread or pending is before some ends."""
    return any(at < ends[number] for number, (at, _) in unread.items()) or any(one.offset < ends[one.partition] for one in pending)


def _ends(unread: Unread) -> dict[int, int]:
    return {number: end for number, (_, end) in unread.items()}


def _beyond(unread: Unread, ends: Mapping[int, int]) -> int:
    """Return how many unread records are not before some ends."""
    return sum(end - max(at, ends.get(number, 0)) for number, (at, end) in unread.items())


_RULES: Mapping[Policy, Callable[[Buffer], _Rule]] = {"oldest": _Oldest, "newest": _Newest, "reduce": _Reduce}
