"""Where topics are: the connector that reads or writes each, and what a record's place is called there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headrace.plan.schema import LAST_MS

__all__ = ["SHADED", "Files", "Given", "Kafka", "Places", "Staged"]

SHADED = "org.apache.flink.kafka.shaded."  # before the names of Kafka's classes in the connector's jar
_RECORD = "`record` BYTES"
_OF_FILES = {
    "key": "CAST(NULL AS STRING)",
    "headers": "CAST(NULL AS MAP<STRING, STRING>)",
    "arrival_time": "CAST(NULL AS TIMESTAMP_LTZ(3))",
}
_OF_KAFKA = {
    "key": "HR_UTF8(`key`)",
    "headers": "HR_HEADERS(`headers`)",
    "partition": "CAST(`part` AS BIGINT)",
    "offset": "`position`",
    "arrival_time": f"CASE WHEN `arrived` BETWEEN TO_TIMESTAMP_LTZ(0, 3) AND TO_TIMESTAMP_LTZ({LAST_MS}, 3) THEN `arrived` END",
}
_NEVER = "36500 d"  # an interval that no watermark crosses before the end of the input


@dataclass(frozen=True)
class Given:
    """The table options and columns that a connector has for a source.

    Attributes
    ----------
    options
        What stands behind WITH.
    columns
        The columns of its table, as they are declared: `record` and what else it tells.
    partition
        The number of a record's partition, in SQL.
    offset
        That of the record in it; None where the connector does not tell, and records are counted.
    arrived
        When the record was appended; None where that is not known.
    lines
        Whether records are lines of a text, of which blank ones are none.
    metadata
        What plans may declare as columns, in SQL by kind.
    """

    options: Mapping[str, str]
    columns: tuple[str, ...]
    partition: str
    offset: str | None = None
    arrived: str | None = None
    lines: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)


class Places(Protocol):
    """Says of each topic where it is, and what must be SET for it."""

    @property
    def hint(self) -> str:
        """A hint for whoever runs the script."""

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings of the script; some of them make the watermark advance with each record."""

    @property
    def parallelism(self) -> int:
        """Over how many tasks the work is to be spread."""

    @property
    def bounded(self) -> bool:
        """Whether the input has an end."""

    @property
    def max_ahead_ms(self) -> int | None:
        """How far past its arrival a record's event time may lie; None where arrival is not known."""

    @property
    def keyed(self) -> bool:
        """Whether records are written with the keys of their windows."""

    def source(self, topic: str, known: Collection[str] = ()) -> Given:
        """Return what there is of a topic that is read; `known` are the kinds of metadata that the plan declares."""

    def sink(self, topic: str) -> Mapping[str, str]:
        """Return the connector's options for a topic that is written."""


@dataclass(frozen=True)
class Files:
    """NDJSON files of a folder: `<topic>.ndjson` is read, and parts of a topic are written to the folder `<topic>`.

    `folder` is as Flink's file systems have it: `/data`, `s3://bucket/data`.
    """

    folder: str = ""
    parallelism: int = 1
    bounded: bool = field(default=True, init=False)
    max_ahead_ms: int | None = field(default=None, init=False)
    keyed: bool = field(default=False, init=False)

    @property
    def hint(self) -> str:
        """Where a path without a folder is."""
        return "" if self.folder else "A path without a folder is that of the folder in which Flink runs: put in your own."

    @property
    def settings(self) -> Mapping[str, str]:
        """A watermark stands behind each record. Parts appear with checkpoints, with which Flink would restart for ever."""
        return {
            "parallelism.default": str(self.parallelism),
            "pipeline.auto-watermark-interval": "0 ms",
            "execution.checkpointing.interval": "2 s",
            "restart-strategy.type": "none",
        }

    def source(self, topic: str, known: Collection[str] = ()) -> Given:  # noqa: ARG002  (files know the same of all records)
        """Return what there is of a file."""
        options = {"connector": "filesystem", "path": self.path(f"{topic}.ndjson"), "format": "raw"}
        return Given(options, (_RECORD,), "CAST(0 AS INT)", metadata=_OF_FILES | {"partition": "CAST(0 AS BIGINT)"})

    def sink(self, topic: str) -> Mapping[str, str]:
        """Return the options of a folder of part files."""
        return {"connector": "filesystem", "path": self.path(topic)}

    def path(self, file: str) -> str:
        """Return where a file of the folder is."""
        return f"{self.folder}/{file}" if self.folder else file


@dataclass(frozen=True)
class Staged(Files):
    """The same with the partitions of a topic as files `<topic>/0`, `<topic>/1`, … of the folder `in`, and parts written to `out`.

    Flink reads such files in no certain order, one behind the other. So of several no watermark comes before the end, and
    whether a record is late is judged by that of its own partition alone.
    """

    single: bool = False

    @property
    def settings(self) -> Mapping[str, str]:
        """Of several files none is ahead of the others; of a single one a watermark stands behind each record."""
        return {**super().settings, "pipeline.auto-watermark-interval": "0 ms" if self.single else _NEVER}

    def source(self, topic: str, known: Collection[str] = ()) -> Given:  # noqa: ARG002  (files know the same of all records)
        """Return what there is of a topic's files."""
        options = {"connector": "filesystem", "path": self.path(f"in/{topic}"), "format": "raw"}
        told = (_RECORD, "`file` STRING NOT NULL METADATA FROM 'file.name' VIRTUAL")
        return Given(options, told, "CAST(`file` AS INT)", metadata=_OF_FILES | {"partition": "CAST(`file` AS BIGINT)"})

    def sink(self, topic: str) -> Mapping[str, str]:
        """Return the options of a folder of part files."""
        return {"connector": "filesystem", "path": self.path(f"out/{topic}")}


@dataclass(frozen=True)
class Kafka:
    """Topics of Kafka, read committed and written exactly once.

    Parameters
    ----------
    servers
        HOST:PORT of the brokers.
    pipeline
        Names the consumer group, and the transactions.
    partitions
        How many partitions the topics that are read have: more tasks would read nothing and hold windows open.
    bounded
        End where the topics end now.
    idle_after_ms
        A partition quiet for so long holds no window open.
    prefix
        What stands before the names that topics have on Kafka.
    kept
        The folder for checkpoints, that they outlive the job; else the cluster's own.
    begins
        The offset of each partition at which a job without state begins, by topic; the first records where a topic is not there.
    connection
        More properties of Kafka's clients, as Java names them: TLS and passwords. They are never shown.
    """

    servers: str
    pipeline: str
    partitions: Mapping[str, int] = field(default_factory=dict)
    parallelism: int = 1
    bounded: bool = False
    max_ahead_ms: int | None = 3_600_000
    idle_after_ms: int | None = 30_000
    checkpoint_seconds: float = 10
    prefix: str = ""
    kept: str | None = None
    rocksdb: bool = True
    begins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    connection: Mapping[str, str] = field(default_factory=dict, repr=False)
    keyed: bool = field(default=True, init=False)
    hint: str = field(default="", init=False)

    @property
    def settings(self) -> Mapping[str, str]:
        """Checkpoints end transactions; a failed job starts again from the last of them.

        With more tasks than a topic has partitions, Flink would deal out the records of a partition, and they lose their order.
        """
        state = {"state.backend.type": "rocksdb", "execution.checkpointing.incremental": "true"} if self.rocksdb else {}
        kept = {
            "execution.checkpointing.dir": f"file://{self.kept}/checkpoints",
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        }
        return {
            "parallelism.default": str(min([self.parallelism, *self.partitions.values()])),
            "execution.checkpointing.interval": f"{round(self.checkpoint_seconds * 1000)} ms",
            "execution.checkpointing.timeout": "10 min",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "10",
            "restart-strategy.fixed-delay.delay": "3 s",
            "pipeline.object-reuse": "true",
            **state,
            **(kept if self.kept else {}),
        }

    @property
    def _connection(self) -> dict[str, str]:
        return {"properties.bootstrap.servers": self.servers} | {f"properties.{name}": value for name, value in self.connection.items()}

    def source(self, topic: str, known: Collection[str] = ()) -> Given:
        """Return what there is of a topic."""
        tasks = min(self.parallelism, self.partitions.get(topic, self.parallelism))
        options = {
            "connector": "kafka",
            "topic": self.prefix + topic,
            **self._connection,
            "properties.group.id": f"{self.prefix}{self.pipeline}.flink",
            "properties.isolation.level": "read_committed",
            **self._startup(topic),
            "scan.watermark.emit.strategy": "on-event",
            "scan.parallelism": str(tasks),
            "format": "raw",
        }
        if self.bounded:
            options["scan.bounded.mode"] = "latest-offset"
        elif self.idle_after_ms is not None:
            options["scan.watermark.idle-timeout"] = f"{self.idle_after_ms} ms"
        told = [
            _RECORD,
            "`part` INT METADATA FROM 'partition' VIRTUAL",
            "`position` BIGINT METADATA FROM 'offset' VIRTUAL",
            "`arrived` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL",
        ]
        if "key" in known:
            options |= {"key.format": "raw", "key.fields": "key", "value.fields-include": "EXCEPT_KEY"}
            told.insert(0, "`key` BYTES")
        if "headers" in known:
            told.append("`headers` MAP<STRING, BYTES> METADATA VIRTUAL")
        return Given(options, tuple(told), "`part`", "`position`", "`arrived`", lines=False, metadata=_OF_KAFKA)

    def _startup(self, topic: str) -> dict[str, str]:
        """Return where a job without state begins to read a topic."""
        if topic not in self.begins:
            return {"scan.startup.mode": "earliest-offset"}
        offsets = ";".join(f"partition:{number},offset:{offset}" for number, offset in enumerate(self.begins[topic]))
        return {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": offsets}

    def sink(self, topic: str) -> Mapping[str, str]:
        """Return the options of a topic that is written in transactions."""
        return {
            "connector": "kafka",
            "topic": self.prefix + topic,
            **self._connection,
            "properties.transaction.timeout.ms": "600000",
            "sink.delivery-guarantee": "exactly-once",
            "sink.transactional-id-prefix": f"{self.prefix}{self.pipeline}.flink.{topic}",
        }
