"""What waits for a target, and what is dropped of it when that is more than a limit. Sans-IO.

What is to be dropped is decided before each batch, and durable before the batch is sent: a record that is dropped is not one that the
target has. It is counted when the cursor passes it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

from headrace.connectors.backlog_policies import RULES, Oldest
from headrace.connectors.backlog_rules import Parted, Rule, Unbounded, order_of, waiting_of
from headrace.connectors.buffer import Buffer, Unread
from headrace.connectors.protocol import Record

__all__ = ["Backlog"]


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
        self._rule: Rule = Unbounded() if buffer is None else RULES[buffer.policy](buffer)
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
        return self._rule.decided != self._known or (isinstance(self._rule, Oldest) and self.due(positions))

    def take(self, records: list[Record]) -> None:
        """Add records that were read."""
        records.sort(key=order_of)
        self._keep(self.pending, self._rule.admitted(records))

    def bound(self, unread: Unread) -> None:
        """Drop what is too much, with what is still to be read."""
        if self._resumed:
            if released := self._rule.released(unread):
                self._keep(self.pending, Parted(released))
        else:
            self._keep([], self._rule.bounded(self.pending, unread))

    def excess(self, unread: Unread, sending: int = 0) -> int:
        """Return by how many records more than the limit wait, besides those that are being sent; less than 0 if there is room."""
        return 0 if self.buffer is None else waiting_of(self.pending, unread) - sending - self.buffer.most

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

    def _keep(self, before: list[Record], parted: Parted) -> None:
        """Take over what a rule has said."""
        for one in parted.dropped:
            self._dropped[one.partition].append((one.offset, one.offset + 1))
        for number in {one.partition for one in parted.dropped}:
            self._dropped[number] = deque(_joined(self._dropped[number]))
        if parted.kept is self.pending:
            return
        self.pending = sorted([*before, *parted.kept], key=order_of)
        self._unsettled = Counter(one.partition for one in self.pending)


def _joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return runs of offsets in their order, those that are adjacent as one."""
    found: list[tuple[int, int]] = []
    for first, behind in sorted(runs):
        if found and found[-1][1] == first:
            found[-1] = found[-1][0], behind
        else:
            found.append((first, behind))
    return found
