"""How far each named reader of the SQLite log has come."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.topics.protocol import Cursor
from headrace.topics.sqlite_catalog import SqliteCatalog
from headrace.topics.sums import row_sum, sound

__all__ = ["SqliteCursors"]


class SqliteCursors:
    """The rows of cursors, each checked when it is read."""

    def __init__(self, catalog: SqliteCatalog) -> None:
        self._catalog, self._head, self._file = catalog, catalog.head, catalog.file

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        with self._file.viewing():
            topics = self._catalog.topics()
            places = {key: (one.name, number) for one in topics.values() for number, key in one.partitions.items()}
            found = []
            for reader, partition, following, checksum in self._file.db.execute("SELECT reader, partition, next, sum FROM cursors").fetchall():
                if not sound(checksum, reader, partition, following):
                    raise self._file.damaged(f"cursor of {reader}", "how far it has read is damaged")
                if partition in places:
                    found.append(Cursor(reader, *places[partition], following, self._catalog.partition_row(partition).next))
            return sorted(found, key=lambda one: (one.group, one.topic, one.partition))

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, within a transaction."""
        for (topic, number), offset in cursors.items():
            row = group, self._catalog.partition(topic, number), offset
            self._head.retie(row_sum(*row), *self._head.sums("sum FROM cursors WHERE reader = ? AND partition = ?", *row[:2]))
            self._file.db.execute("INSERT OR REPLACE INTO cursors (reader, partition, next, sum) VALUES (?, ?, ?, ?)", (*row, row_sum(*row)))
