"""The topics and partitions of the SQLite log: their rows, each checked when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import EnvironmentFault, PlanError, near
from headrace.topics.sqlite_head import SqliteHead
from headrace.topics.sums import row_sum, sound

__all__ = ["Partition", "SqliteCatalog", "Topic"]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its row, and the ids of its partitions by number."""

    id: int
    name: str
    retention_ms: int | None
    retention_bytes: int | None
    partitions: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Partition:
    """The row of a partition as it was read; `bytes` is the size of its blocks."""

    id: int
    topic: int
    number: int
    first: int
    next: int
    bytes: int
    sum: int


class SqliteCatalog:
    """The rows of topics and partitions. Topics are read again when another process has changed them."""

    def __init__(self, head: SqliteHead) -> None:
        self.head, self.file = head, head.file
        self._topics: dict[str, Topic] = {}
        self._version: int | None = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make what is done within one transaction, undone if it fails."""
        try:
            with self.head.writing():
                yield
        except BaseException:
            self._version = None
            raise

    def topics(self) -> dict[str, Topic]:
        """Return the topics by name."""
        version = self.head.now().catalog
        if version != self._version:
            with self.file.viewing():
                self._topics = self._read()
            self._version = version
        return self._topics

    def _read(self) -> dict[str, Topic]:
        topics: dict[int, Topic] = {}
        for *row, checksum in self.file.db.execute("SELECT id, name, retention_ms, retention_bytes, sum FROM topics NOT INDEXED"):
            if not sound(checksum, *row):
                raise self.file.damaged(f"topic {row[1]!r}", "its row is damaged")
            topics[row[0]] = Topic(*row)
        for *row, checksum in self.file.db.execute("SELECT id, topic, number, first, next, bytes, sum FROM partitions NOT INDEXED"):
            part = self._checked(row, checksum, f"{topics[row[1]].name} partition {row[2]}" if row[1] in topics else None)
            if part.topic not in topics:
                raise self.file.damaged(str(self.file.path), f"the row of the topic of partition {part.number} is missing")
            topics[part.topic].partitions[part.number] = part.id
        for one in topics.values():
            ordered = sorted(one.partitions.items())
            if not ordered or [number for number, _ in ordered] != list(range(len(ordered))):
                raise self.file.damaged(f"topic {one.name!r}", "a row of its partitions is missing")
            one.partitions.clear()
            one.partitions.update(ordered)
        return {one.name: one for one in topics.values()}

    def _checked(self, row: Sequence[Any], checksum: object, name: str | None = None) -> Partition:
        if not sound(checksum, *row):
            raise self.file.damaged(name or self.named(row[0]), "its row, with its first and next offsets, is damaged")
        return Partition(*(*row, checksum))

    def named(self, partition: object) -> str:
        """Return what errors call the partition of an id."""
        for topic in self._topics.values():
            for number, key in topic.partitions.items():
                if key == partition:
                    return f"{topic.name} partition {number}"
        return f"partition with id {partition}"

    def partition_row(self, key: int) -> Partition:
        """Return the row of the partition of an id. Raises EnvironmentFault if it is damaged or no longer there."""
        row = self.file.db.execute("SELECT id, topic, number, first, next, bytes, sum FROM partitions WHERE id = ?", (key,)).fetchone()
        if row is None:
            raise EnvironmentFault(
                "has been deleted while it was read", where=self.named(key), fix="make the topic again and start the pipeline anew"
            )
        return self._checked(row[:-1], row[-1])

    def write_partition(self, part: Partition) -> None:
        """Write a row that was read, with other numbers."""
        checksum = row_sum(part.id, part.topic, part.number, part.first, part.next, part.bytes)
        self.file.db.execute(
            "UPDATE partitions SET first = ?, next = ?, bytes = ?, sum = ? WHERE id = ?", (part.first, part.next, part.bytes, checksum, part.id)
        )
        self.head.retie(part.sum, checksum)

    def topic_named(self, name: str) -> Topic:
        """Return a topic. Raises PlanError if there is none of that name."""
        known = self.topics()
        if name not in known:
            fix = near(name, known) if known else "make it: headrace topics create"
            raise PlanError(f"no topic {name!r}", where=str(self.file.path), fix=fix)
        return known[name]

    def partitions_of(self, topic: str) -> dict[int, int]:
        """Return the ids of a topic's partitions, by number."""
        return self.topic_named(topic).partitions

    def partition(self, topic: str, number: int) -> int:
        """Return a partition's id. Raises PlanError if there is none of that number."""
        ids = self.partitions_of(topic)
        if number not in ids:
            raise PlanError(f"no partition {number}", where=f"topic {topic!r}", fix=f"it has {len(ids)}, from 0")
        return ids[number]
