"""Topics in one SQLite file: a log that several processes write and read at once, durable when a call returns.

Records lie in blocks, each what one call appended to one partition. A block's number, `seq`, grows over the whole file, so
it orders the records of all topics as they were appended; reading goes along it. A pipeline's output, state and cursors
are in the same file, and so one transaction makes a step of its work durable. Each row has a checksum over all its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace._clock import now_ms
from headrace.errors import EnvironmentFault
from headrace.topics.protocol import Cursor, Entry, PartitionInfo, TopicInfo
from headrace.topics.sqlite_appending import Appending
from headrace.topics.sqlite_catalog import SqliteCatalog, Topic
from headrace.topics.sqlite_claim import SqliteClaim
from headrace.topics.sqlite_cursors import SqliteCursors
from headrace.topics.sqlite_feed import SqliteFeed
from headrace.topics.sqlite_file import SqliteFile
from headrace.topics.sqlite_head import SqliteHead
from headrace.topics.sqlite_reading import SqliteReading
from headrace.topics.sqlite_retention import Retention
from headrace.topics.sqlite_schema import FORMAT, SMALL_TABLES, create, upgrade
from headrace.topics.sqlite_topics import SqliteTopics

__all__ = ["SqliteClaim", "SqliteLog"]


class SqliteLog:
    """The log of a headrace home.

    Parameters
    ----------
    path
        The file; it is made if it is not there.
    clock
        Gives arrival times, ms since the epoch. A clock that is set back does not make them fall, unless it had leapt before.

    Raises
    ------
    EnvironmentFault
        If the file cannot be opened or made, is none of ours, or is damaged.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = now_ms) -> None:
        self.path = path
        self.file = SqliteFile(path)
        self.head = SqliteHead(self.file)
        self.catalog = SqliteCatalog(self.head)
        self.appending, self.retention = Appending(self.catalog, clock), Retention(self.catalog, clock)
        self.places = SqliteCursors(self.catalog)
        self._topics, self._reading = SqliteTopics(self.catalog, self.retention), SqliteReading(self.catalog)
        with self.file.blaming():
            try:
                self._prepare()
            except BaseException:
                self.file.db.close()
                raise

    def _prepare(self) -> None:
        db = self.file.db
        if self.file.format() < FORMAT:
            with self.file.writing():
                found = self.file.format()
                if found == 0:
                    create(db)
                elif found < FORMAT:
                    upgrade(db, found)
        found = self.file.format()
        if found != FORMAT:
            raise EnvironmentFault(
                f"is a log of format {found}, not {FORMAT}", where=str(self.path), fix="use the headrace that made it, or name another HEADRACE_HOME"
            )
        for table in SMALL_TABLES:
            (said,) = db.execute(f"PRAGMA integrity_check({table})").fetchone()
            if said != "ok":
                raise self.file.damaged(str(self.path), f"is damaged: {said}")
        with self.file.viewing():
            self.head.check_tie()
        self.file.keep_in_sight()

    # topics

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Create a topic. Raises PlanError if there is one of that name, or a number cannot be."""
        self._topics.create(topic, partitions, replication, retention_ms=retention_ms, retention_bytes=retention_bytes)

    def alter(self, topic: str, *, retention_ms: int | None, retention_bytes: int | None) -> None:
        """Set how long a topic keeps its records, and how many bytes a partition; None is for ever."""
        self._topics.alter(topic, retention_ms=retention_ms, retention_bytes=retention_bytes)

    def delete(self, topic: str) -> None:
        """Remove a topic and all its records. Raises PlanError if there is none of that name."""
        self._topics.delete(topic)

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name."""
        with self.file.viewing():
            return [self._info(one) for _, one in sorted(self.catalog.topics().items())]

    def topic(self, name: str) -> TopicInfo:
        """Return one topic. Raises PlanError if there is none of that name."""
        with self.file.viewing():
            return self._info(self.catalog.topic_named(name))

    def _info(self, topic: Topic) -> TopicInfo:
        parts = [self.catalog.partition_row(key) for key in topic.partitions.values()]
        infos = tuple(PartitionInfo(part.number, part.first, part.next, part.bytes) for part in parts)
        return TopicInfo(topic.name, infos, 1, topic.retention_ms, topic.retention_bytes)

    # records

    def append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None) -> None:
        """Append records; those of one key go to one partition, in their order, those of none to the first."""
        with self.catalog.writing():
            self.appending.append(topic, values, keys)
            self.retention.expire()

    def expire_now(self, now: int | None = None) -> bool:
        """Drop what the topics keep no longer, by age and by size, block by block, and return whether nothing is left to drop.

        Age counts from the last arrival in the log, without the gap of a leap that is not confirmed, unless `now` is given.
        """
        return self.retention.expire_now(now)

    def offsets_at(self, topic: str, arrived_ms: int) -> list[int]:
        """Return, for each partition, the offset of the first record that arrived at a time or after it; the end if there is none."""
        return [self._reading.offset_at(topic, part, arrived_ms) for part in self.topic(topic).partitions]

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return up to `most` records of a partition from an offset on, or from the first that is still there."""
        return self._reading.entries(topic, partition, offset, most)

    def feed(self, topics: Sequence[str], *, latest: bool = False, skip_gone: bool = False) -> SqliteFeed:
        """Return a feed of topics from their first records on; with `latest` it ends where the topics end now.

        What retention takes before it was read is an error, unless `skip_gone`.
        """
        return SqliteFeed(self.catalog, topics, latest=latest, skip_gone=skip_gone)

    # readers and pipelines

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        return self.places.cursors()

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come, by topic and partition."""
        with self.catalog.writing():
            self.places.move(group, cursors)

    def manifest(self, pipeline: str) -> bytes | None:
        """Return what a pipeline's last commit said of it, whoever owns it."""
        with self.file.blaming():
            row = self.file.db.execute("SELECT manifest FROM pipelines WHERE name = ?", (pipeline,)).fetchone()
        return row[0] if row else None

    def claim(self, pipeline: str) -> SqliteClaim:
        """Make this process the owner of a pipeline. Raises EnvironmentFault if another process owns it."""
        return SqliteClaim(self, pipeline)

    # the file

    def compact(self) -> int:
        """Give unused pages back to the disk, a few MB at a time so that writers need not wait; return how many bytes that were.

        A log of format 1 must be rewritten as a whole for that, once, and nobody else may have it open.
        """
        return self.file.compact()

    def heed(self, stop: Callable[[], bool]) -> None:
        """Do nothing: there is no server to wait for."""

    def close(self) -> None:
        """Close the file.

        The last to close it takes the log out of WAL mode. So a file in WAL mode that has no -wal beside it is an incomplete copy.
        """
        self.file.close()
