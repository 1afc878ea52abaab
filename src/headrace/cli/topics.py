"""`headrace topics`: topics of the log, be it the SQLite file of the home or Kafka."""

from __future__ import annotations

import heapq
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from headrace.cli.logs import KafkaOptions, NoLogYet, open_log
from headrace.cli.paths import InputPath
from headrace.cli.records import records_of
from headrace.cli.stopping import interruptible_reads
from headrace.cli.tables import counted, print_json, print_table
from headrace.cli.values import duration_ms
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.protocol import Cursor, Entry, Log, PartitionInfo, TopicInfo

__all__ = ["alter", "append", "compact", "create", "delete", "describe", "groups", "list_topics", "tail"]

_Json = Annotated[bool, Parameter(name="--json", negative=(), help="JSON objects, one a line.")]
_LARGEST = (1 << 63) - 1
_MOST_PARTITIONS = 10_000
_PIECE_RECORDS, _PIECE_BYTES = 10_000, 4 << 20
_POLL_SECONDS, _LOOK_SECONDS = 0.1, 5.0


def create(
    topic: str,
    /,
    *,
    partitions: int = 1,
    replication: int = 1,
    retention: str | None = None,
    retention_bytes: int | None = None,
    if_missing: Annotated[bool, Parameter(negative=())] = False,
    kafka: KafkaOptions = KafkaOptions(),
) -> None:
    """Create a topic.

    Parameters
    ----------
    topic
        Its name.
    partitions
        How many partitions it has; records of one key go to one of them.
    replication
        How many servers keep each record; 1 for the SQLite log.
    retention
        How long its records are kept: 30s, 12h, 7d; for ever without it.
    retention_bytes
        How many bytes of each partition are kept.
    if_missing
        Leave one of that name as it is, which then is no error.
    """
    if partitions > _MOST_PARTITIONS:
        raise PlanError(f"{partitions:,} partitions are too many", where="--partitions", fix=f"give at most {_MOST_PARTITIONS:,}")
    if retention_bytes is not None and retention_bytes > _LARGEST:
        raise PlanError(f"{retention_bytes} is too large", where="--retention-bytes", fix="leave it out to keep all")
    kept_ms = None if retention is None else duration_ms(retention, "--retention")
    with closing(open_log(kafka)) as log:
        try:
            log.create(topic, partitions, replication, retention_ms=kept_ms, retention_bytes=retention_bytes)
        except PlanError:
            if not if_missing or topic not in {info.name for info in log.topics()}:
                raise
            print(f"There is a topic {topic} already.")
        else:
            print(f"Created topic {topic}.")


def alter(topic: str, /, *, retention: str | None = None, retention_bytes: str | None = None, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Change how long a topic keeps its records. What is not named stays as it is.

    Parameters
    ----------
    topic
        Its name.
    retention
        How long its records are kept: 30s, 12h, 7d; none for ever.
    retention_bytes
        How many bytes of each partition are kept; none for all.
    """
    if retention is None and retention_bytes is None:
        raise PlanError("nothing to change", where=f"topic {topic!r}", fix="give --retention or --retention-bytes")
    if retention_bytes not in {None, "none"} and not (retention_bytes or "").isdecimal():
        raise PlanError(f"{retention_bytes!r} is no number of bytes", where="--retention-bytes", fix="give a whole number, or none")
    with _opened(kafka) as log:
        info = log.topic(topic)
        kept_ms = info.retention_ms if retention is None else None if retention == "none" else duration_ms(retention, "--retention")
        kept_bytes = info.retention_bytes if retention_bytes is None else None if retention_bytes == "none" else int(retention_bytes)
        if kept_bytes is not None and kept_bytes > _LARGEST:
            raise PlanError(f"{kept_bytes} is too large", where="--retention-bytes", fix="give none to keep all")
        log.alter(topic, retention_ms=kept_ms, retention_bytes=kept_bytes)
        print(f"Topic {topic} keeps its records: {_retention(log.topic(topic))}.")


def compact() -> None:
    """Give the room that dropped records and deleted topics had back to the disk. Runs may go on meanwhile."""
    from headrace.topics.sqlite import SqliteLog

    with closing(open_log(None, create=False)) as log:
        if not isinstance(log, SqliteLog):
            raise PlanError(
                "Kafka's brokers give room back by themselves", where="topics compact", fix="unset KAFKA_SERVERS to compact the SQLite log"
            )
        print(f"Gave back {log.compact():,} bytes.")


def list_topics(*, json: _Json = False, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Show the topics, by name."""
    infos: list[TopicInfo] = []
    with _noting_that_there_is_none(), _opened(kafka) as log:
        infos = log.topics()
    if json:
        print_json(_whole(info) for info in infos)
        return
    rows = [(info.name, len(info.partitions), _records(info), _bytes(info), info.replication, _retention(info)) for info in infos]
    print_table(("TOPIC", "PARTITIONS", "RECORDS", "BYTES", "REPLICATION", "RETENTION"), rows)


def describe(topic: str, /, *, json: _Json = False, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Show a topic and its partitions.

    Parameters
    ----------
    topic
        Its name.
    """
    with _opened(kafka) as log:
        info = log.topic(topic)
    if json:
        parts = [
            {"partition": part.number, "first": part.first, "end": part.end, "records": part.end - part.first, "bytes": part.size}
            for part in info.partitions
        ]
        print_json([{**_whole(info), "partitions": parts}])
        return
    print(f"topic        {info.name}\nrecords      {_records(info):,}\nreplication  {info.replication}\nretention    {_retention(info)}\n")
    print_table(
        ("PARTITION", "FIRST", "END", "RECORDS", "BYTES"),
        [(part.number, part.first, part.end, part.end - part.first, part.size) for part in info.partitions],
    )


def groups(*, json: _Json = False, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Show the consumer groups: how far pipelines and other readers have read."""
    cursors: list[Cursor] = []
    with _noting_that_there_is_none(), _opened(kafka) as log:
        cursors = log.cursors()
    columns = ("group", "topic", "partition", "offset", "end", "lag")
    rows = [(one.group, one.topic, one.partition, one.offset, one.end, max(one.end - one.offset, 0)) for one in cursors]
    if json:
        print_json(dict(zip(columns, row, strict=True)) for row in rows)
    else:
        print_table([column.upper() for column in columns], rows)


def delete(topic: str, /, *, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Remove a topic and all its records, at once and without asking.

    Parameters
    ----------
    topic
        Its name.
    """
    with _opened(kafka) as log:
        info = log.topic(topic)
        readers = sorted({cursor.group for cursor in log.cursors() if cursor.topic == topic})
        log.delete(topic)
    gone = f"{counted(len(info.partitions), 'partition')}, {counted(_records(info), 'record')}"
    print(f"Deleted topic {topic}: {gone}{', and how far ' + ', '.join(readers) + ' had come' if readers else ''}.")


def append(
    topic: str, file: Annotated[InputPath, Parameter(allow_leading_hyphen=True)] = Path("-"), /, *, kafka: KafkaOptions = KafkaOptions()
) -> None:
    """Append the records of a file to a topic, without keys: lines as they are, the lines of a CSV file as JSON objects.

    Parameters
    ----------
    topic
        Its name.
    file
        One record a line; - for standard input. Blank lines are left out. Of .csv and .tsv the first line names the columns.
    """
    with _opened(kafka) as log:
        log.topic(topic)
        interruptible_reads()
        count = 0
        try:
            for lines in filter(None, records_of(file)):
                log.append(topic, lines)
                count += len(lines)
        finally:
            if count or sys.exception() is None:
                print(f"Appended {counted(count, 'record')} to topic {topic}.")


def tail(
    topic: str,
    /,
    *,
    from_beginning: Annotated[bool, Parameter(negative=())] = False,
    lines: int | None = None,
    follow: Annotated[bool, Parameter(alias="-f", negative=())] = False,
    partition: int | None = None,
    keys: Annotated[bool, Parameter(negative=())] = False,
    timeout: str | None = None,
    max_records: int | None = None,
    kafka: KafkaOptions = KafkaOptions(),
) -> None:
    """Print the records of a topic as they are, one a line, in the order of their arrival.

    Parameters
    ----------
    topic
        Its name.
    from_beginning
        All that is there, instead of the last ten.
    lines
        The last so many records.
    follow
        Go on with what comes, until Ctrl-C.
    partition
        Only this one.
    keys
        The key and a tab before each record; null where there is none.
    timeout
        With --follow: end after so long.
    max_records
        End after so many records.
    """
    for option, number, least in (("--lines", lines, 0), ("--max-records", max_records, 1)):
        if number is not None and number < least:
            raise PlanError(f"{number} is no number of records", where=option, fix=f"give {least} or more")
    if from_beginning and lines is not None:
        raise PlanError("all records and the last ones are asked for", where="--from-beginning --lines", fix="leave one out, or give --max-records")
    if timeout is not None and not follow:
        raise PlanError("is for --follow", where="--timeout", fix="add --follow, or leave it out")
    until = math.inf if timeout is None else time.monotonic() + duration_ms(timeout, "--timeout") / 1000
    with _opened(kafka) as log, _ended_by_signals() if follow else nullcontext():
        parts = _chosen(log.topic(topic), partition)
        readers = [_Reader(log, topic, part.number, part.first) for part in parts]
        there: Iterable[Entry]
        if from_beginning:
            there = _merged(reader.up_to(part.end) for reader, part in zip(readers, parts, strict=True))
        else:
            wanted = 10 if lines is None else lines
            there = deque(_merged(reader.last(part, wanted) for reader, part in zip(readers, parts, strict=True)), maxlen=wanted)
        coming = _coming(log, topic, readers, until) if follow else ()
        for entry in takewhile(lambda _: time.monotonic() < until, islice(chain(there, coming), max_records)):
            sys.stdout.buffer.write(_line(entry, keys=keys))
        sys.stdout.buffer.flush()


def _chosen(info: TopicInfo, partition: int | None) -> Sequence[PartitionInfo]:
    if partition is None:
        return info.partitions
    found = [part for part in info.partitions if part.number == partition]
    if not found:
        raise PlanError(f"no partition {partition}", where=f"topic {info.name!r}", fix=f"it has {len(info.partitions)}, from 0")
    return found


class _Reader:
    """Reads a partition in pieces, of some MB each however large the records are."""

    def __init__(self, log: Log, topic: str, number: int, offset: int) -> None:
        self.number, self.next = number, offset
        self._log, self._topic, self._most = log, topic, 100

    def read(self) -> list[Entry]:
        """Return what comes next, or nothing where there is nothing yet."""
        found = self._log.entries(self._topic, self.number, self.next, self._most)
        if found:
            self.next = found[-1].offset + 1
            each = sum(len(entry.value) for entry in found) // len(found) + 1
            self._most = min(max(_PIECE_BYTES // each, 1), _PIECE_RECORDS)
        return found

    def up_to(self, end: int) -> Iterator[Entry]:
        """Give what stands before an offset."""
        while self.next < end and (found := self.read()):
            yield from (entry for entry in found if entry.offset < end)
        self.next = min(self.next, end)

    def last(self, part: PartitionInfo, wanted: int) -> deque[Entry]:
        """Return the last records of a partition. Not each offset has one: Kafka's transactions take some for their own marks."""
        span = wanted
        while True:
            start = self.next = max(part.first, part.end - span)
            found = deque(self.up_to(part.end), maxlen=wanted)
            if len(found) == wanted or start == part.first:
                return found
            span *= 4


def _merged(streams: Iterable[Iterable[Entry]]) -> Iterator[Entry]:
    """Merge partitions by time of arrival; none of them loses its own order."""
    return heapq.merge(*streams, key=lambda entry: (entry.arrived_ms, entry.partition))


def _coming(log: Log, topic: str, readers: Sequence[_Reader], until: float) -> Iterator[Entry]:
    """Give what comes to a topic, and see that it has been printed before waiting for more."""
    looked = time.monotonic()
    while (now := time.monotonic()) < until:
        found = [reader.read() for reader in readers]
        yield from _merged(found)
        sys.stdout.buffer.flush()
        if not any(found):
            if now - looked >= _LOOK_SECONDS:
                _check_same(log, topic, readers)
                looked = now
            time.sleep(max(min(_POLL_SECONDS, until - time.monotonic()), 0))


def _check_same(log: Log, topic: str, readers: Sequence[_Reader]) -> None:
    """Raise EnvironmentFault if the topic has been made anew: its records would pass unseen below the offsets waited for."""
    ends = {part.number: part.end for part in log.topic(topic).partitions}
    if any(ends.get(reader.number, -1) < reader.next for reader in readers):
        raise EnvironmentFault("has been deleted and made anew", where=f"topic {topic!r}", fix="start tail again")


def _line(entry: Entry, *, keys: bool) -> bytes:
    key = (b"null" if entry.key is None else entry.key) + b"\t" if keys else b""
    return key + entry.value + b"\n"


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what else would last, which is no error."""
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def _opened(kafka: KafkaOptions) -> Iterator[Log]:
    """Open the log of a command that makes none."""
    with closing(open_log(kafka, create=False)) as log:
        yield log


@contextmanager
def _noting_that_there_is_none() -> Iterator[None]:
    """Make of a log that is not there one without topics."""
    try:
        yield
    except NoLogYet as error:
        print(f"headrace: {error}", file=sys.stderr)


def _records(info: TopicInfo) -> int:
    return sum(part.end - part.first for part in info.partitions)


def _bytes(info: TopicInfo) -> int | None:
    sizes = [part.size for part in info.partitions if part.size is not None]
    return sum(sizes) if len(sizes) == len(info.partitions) else None


def _whole(info: TopicInfo) -> dict[str, Any]:
    return {
        "topic": info.name,
        "partitions": len(info.partitions),
        "records": _records(info),
        "bytes": _bytes(info),
        "replication": info.replication,
        "retention_ms": info.retention_ms,
        "retention_bytes": info.retention_bytes,
    }


def _retention(info: TopicInfo) -> str:
    kept = [] if info.retention_ms is None else [_duration(info.retention_ms)]
    if info.retention_bytes is not None:
        kept.append(f"{info.retention_bytes:,} bytes a partition")
    return ", ".join(kept) or "for ever"


def _duration(ms: int) -> str:
    """Return a duration as the command line takes it, in the largest unit that tells it exactly."""
    units = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    return next(f"{ms // size}{unit}" for unit, size in units.items() if ms % size == 0)
