"""The making, changing and deleting of topics in the SQLite log."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.errors import PlanError
from headrace.topics.sqlite_catalog import SqliteCatalog
from headrace.topics.sqlite_retention import Retention
from headrace.topics.sums import row_sum

__all__ = ["SqliteTopics"]


class SqliteTopics:
    """Makes, changes and deletes topics, each in a transaction of its own."""

    def __init__(self, catalog: SqliteCatalog, retention: Retention) -> None:
        self._catalog, self._head, self._file = catalog, catalog.head, catalog.file
        self._retention = retention

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Create a topic. Raises PlanError if there is one of that name, or a number cannot be."""
        if not topic or not topic.isprintable() or {*"/\\"} & {*topic}:
            raise PlanError(f"topic name {topic!r} cannot be used", fix="use letters, digits, '.', '_' and '-'")
        _check_numbers(topic, {"partitions": partitions, "retention": retention_ms, "retention bytes": retention_bytes})
        if replication != 1:
            raise PlanError(f"a replication of {replication}", where=f"topic {topic!r}", fix="the SQLite log is one file: give 1, or use Kafka")
        with self._catalog.writing():
            if topic in self._catalog.topics():
                raise PlanError(f"there is a topic {topic!r} already", where=str(self._file.path), fix="delete it first, or name another")
            made = self._file.db.execute(
                "INSERT INTO topics (name, retention_ms, retention_bytes) VALUES (?, ?, ?)", (topic, retention_ms, retention_bytes)
            ).lastrowid
            row = made, topic, retention_ms, retention_bytes
            self._file.db.execute("UPDATE topics SET sum = ? WHERE id = ?", (row_sum(*row), made))
            self._head.retie(row_sum(*row))
            for number in range(partitions):
                key = self._file.db.execute("INSERT INTO partitions (topic, number) VALUES (?, ?)", (made, number)).lastrowid
                checksum = row_sum(key, made, number, 0, 0, 0)
                self._file.db.execute("UPDATE partitions SET sum = ? WHERE id = ?", (checksum, key))
                self._head.retie(checksum)
            self._head.changing().catalog += 1

    def alter(self, topic: str, *, retention_ms: int | None, retention_bytes: int | None) -> None:
        """Set how long a topic keeps its records, and how many bytes a partition; None is for ever."""
        _check_numbers(topic, {"retention": retention_ms, "retention bytes": retention_bytes})
        with self._catalog.writing():
            row = self._catalog.topic_named(topic).id, topic, retention_ms, retention_bytes
            self._head.retie(row_sum(*row), *self._head.sums("sum FROM topics WHERE id = ?", row[0]))
            self._file.db.execute("UPDATE topics SET retention_ms = ?, retention_bytes = ?, sum = ? WHERE id = ?", (*row[2:], row_sum(*row), row[0]))
            self._head.changing().catalog += 1
        with self._catalog.writing():
            self._retention.expire_now()

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        with self._catalog.writing():
            parts = [(one,) for one in self._catalog.partitions_of(topic).values()]
            for one in parts:
                self._head.retie(*self._head.sums("sum FROM partitions WHERE id = ?", *one))
                self._head.retie(*self._head.sums("sum FROM cursors WHERE partition = ?", *one))
            self._head.retie(*self._head.sums("sum FROM topics WHERE name = ?", topic))
            self._file.db.executemany("DELETE FROM blocks WHERE partition = ?", parts)
            self._file.db.executemany("DELETE FROM cursors WHERE partition = ?", parts)
            self._file.db.executemany("DELETE FROM partitions WHERE id = ?", parts)
            self._file.db.execute("DELETE FROM topics WHERE name = ?", (topic,))
            self._head.changing().catalog += 1


def _check_numbers(topic: str, numbers: Mapping[str, int | None]) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise PlanError(f"{name} is {value}", where=f"topic {topic!r}", fix="give 1 or more")
