"""A part of a log, under names of its own: what is tried out there meets nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from headrace.topics.protocol import Claim, Commit, Cursor, Entry, Feed, Log, PartitionReader, TopicInfo

__all__ = ["PrefixedLog"]


class PrefixedLog:
    """The topics and pipelines of a log whose names begin with a prefix, named without it."""

    def __init__(self, log: Log, prefix: str) -> None:
        self._log, self._prefix = log, prefix

    def _mine(self, name: str) -> bool:
        return name.startswith(self._prefix)

    def _bare(self, info: TopicInfo) -> TopicInfo:
        return replace(info, name=info.name.removeprefix(self._prefix))

    def create(
        self, topic: str, partitions: int = 1, replication: int = 1, *, retention_ms: int | None = None, retention_bytes: int | None = None
    ) -> None:
        """Create a topic."""
        self._log.create(self._prefix + topic, partitions, replication, retention_ms=retention_ms, retention_bytes=retention_bytes)

    def alter(self, topic: str, *, retention_ms: int | None, retention_bytes: int | None) -> None:
        """Set how long a topic keeps its records."""
        self._log.alter(self._prefix + topic, retention_ms=retention_ms, retention_bytes=retention_bytes)

    def delete(self, topic: str) -> None:
        """Remove a topic."""
        self._log.delete(self._prefix + topic)

    def topics(self) -> list[TopicInfo]:
        """Return the topics, by name."""
        return [self._bare(info) for info in self._log.topics() if self._mine(info.name)]

    def topic(self, name: str) -> TopicInfo:
        """Return one topic."""
        return self._bare(self._log.topic(self._prefix + name))

    def append(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None] | None = None) -> None:
        """Append records."""
        self._log.append(self._prefix + topic, values, keys)

    def entries(self, topic: str, partition: int, offset: int, most: int) -> list[Entry]:
        """Return records of a partition."""
        return [replace(entry, topic=topic) for entry in self._log.entries(self._prefix + topic, partition, offset, most)]

    def cursors(self) -> list[Cursor]:
        """Return how far each named reader has come."""
        bare = len(self._prefix)
        return [replace(one, group=one.group[bare:], topic=one.topic[bare:]) for one in self._log.cursors() if self._mine(one.topic)]

    def offsets_at(self, topic: str, arrived_ms: int) -> list[int]:
        """Return the offsets of a time of arrival."""
        return self._log.offsets_at(self._prefix + topic, arrived_ms)

    def move(self, group: str, cursors: Mapping[tuple[str, int], int]) -> None:
        """Note how far a named reader has come."""
        self._log.move(self._prefix + group, _placed(self._prefix, cursors))

    def feed(self, topics: Sequence[str], *, latest: bool = False, skip_gone: bool = False) -> Feed:
        """Return a feed of topics."""
        return _PrefixedFeed(self._log.feed([self._prefix + one for one in topics], latest=latest, skip_gone=skip_gone), self._prefix)

    def manifest(self, pipeline: str) -> bytes | None:
        """Return what a pipeline's last commit said of it."""
        return self._log.manifest(self._prefix + pipeline)

    def claim(self, pipeline: str) -> Claim:
        """Make this process the owner of a pipeline."""
        return _PrefixedClaim(self._log.claim(self._prefix + pipeline), self._prefix)

    def heed(self, stop: Callable[[], bool]) -> None:
        """Have waits end once `stop` says so."""
        self._log.heed(stop)

    def close(self) -> None:
        """Close the log."""
        self._log.close()


def _placed(prefix: str, cursors: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
    return {(prefix + topic, number): offset for (topic, number), offset in cursors.items()}


class _PrefixedFeed:
    def __init__(self, feed: Feed, prefix: str) -> None:
        self._feed, self.fetch, self.close = feed, feed.fetch, feed.close
        self._prefix, self._bare = prefix, len(prefix)

    @property
    def readers(self) -> dict[str, Sequence[PartitionReader]]:
        return {topic[self._bare :]: readers for topic, readers in self._feed.readers.items()}

    @property
    def identities(self) -> dict[str, str]:
        return {topic[self._bare :]: identity for topic, identity in self._feed.identities.items()}

    def hold(self, partitions: Collection[tuple[str, int]]) -> None:
        self._feed.hold({(self._prefix + topic, number) for topic, number in partitions})

    def lag(self) -> dict[tuple[str, int], int]:
        return {(topic[self._bare :], number): lag for (topic, number), lag in self._feed.lag().items()}


class _PrefixedClaim:
    def __init__(self, claim: Claim, prefix: str) -> None:
        self._claim, self._prefix = claim, prefix
        self.load, self.forget, self.release = claim.load, claim.forget, claim.release

    @property
    def manifest(self) -> bytes | None:
        return self._claim.manifest

    def commit(self, commit: Commit) -> None:
        named = [replace(one, topic=self._prefix + one.topic) for one in commit.outgoing]
        self._claim.commit(replace(commit, outgoing=named, cursors=_placed(self._prefix, commit.cursors)))
