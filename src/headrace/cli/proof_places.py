"""Where `headrace prove` runs a pipeline: on copies of a SQLite log, or on Kafka's topics under prefixes of their own."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from headrace._clock import now_ms
from headrace.cli.logs import LOG_FILE, PREFIX_VARIABLE, SERVER_VARIABLES

if TYPE_CHECKING:
    from headrace.topics.cluster import Cluster
    from headrace.topics.protocol import Log
    from headrace.topics.sqlite import SqliteLog

__all__ = ["BATCH", "OnKafka", "OnSqlite", "Place", "Record", "append", "log_at"]

BATCH = 500

Record = tuple[bytes | None, bytes]


def log_at(path: Path, arrived_ms: int | None = None) -> SqliteLog:
    """Open a SQLite log; with `arrived_ms`, what is appended arrives then."""
    from headrace.topics.sqlite import SqliteLog

    return SqliteLog(path) if arrived_ms is None else SqliteLog(path, clock=lambda: arrived_ms)


def append(log: Log, records: Mapping[str, Sequence[bytes]]) -> None:
    """Append records to topics, with keys."""
    for topic, values in records.items():
        for start in range(0, len(values), BATCH):
            part = values[start : start + BATCH]
            log.append(topic, part, [str((start + place) % 97).encode() for place in range(len(part))])


def _fill(log: Log, records: Mapping[str, Sequence[bytes]], partitions: int) -> None:
    for topic in records:
        log.create(topic, partitions)
    append(log, records)


def _without_arrival(record: Record, unless: int | None) -> Record:
    """Return a dead letter without its time of arrival, unless it is that one."""
    key, value = record
    letter = msgspec.json.decode(value)
    return record if letter["arrived_ms"] == unless else (key, msgspec.json.encode({**letter, "arrived_ms": None}))


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run and its restarts work: a home, and the environment that makes `headrace run` work there."""

    home: Path
    environment: Mapping[str, str]


class OnSqlite:
    """Each run has a copy of one log."""

    options: Sequence[str] = ()

    def __init__(self, folder: Path, records: Mapping[str, Sequence[bytes]], partitions: int) -> None:
        self._folder, self._whole, self._now_ms = folder, folder / "whole", now_ms()
        with closing(log_at(self._whole / LOG_FILE, self._now_ms)) as log:
            _fill(log, records, partitions)

    def fresh(self, number: int) -> Place:
        """Return a new place with the input and nothing else."""
        target = self._folder / f"run-{number}"
        shutil.copytree(self._whole, target)
        return Place(target, dict.fromkeys((*SERVER_VARIABLES, PREFIX_VARIABLE), ""))

    def open(self, place: Place) -> Log:
        """Return the place's log. What is appended there before a run writes arrives when all else did."""
        return log_at(place.home / LOG_FILE, self._now_ms)

    def remove(self, place: Place) -> None:
        """Remove what a run left."""
        shutil.rmtree(place.home)

    def comparable(self, records: list[Record], *, letters: bool) -> list[Record]:
        """Return what must be the same. Arrival times are, but for those behind a change: a log's do not fall, and runs have written meanwhile."""
        return [_without_arrival(record, self._now_ms) for record in records] if letters else records


class OnKafka:
    """Each run has topics of its own, whose names begin with a prefix that nothing else has."""

    def __init__(self, folder: Path, records: Mapping[str, Sequence[bytes]], partitions: int, cluster: Cluster, config: Path | None) -> None:
        self._folder, self._records, self._partitions, self._cluster = folder, records, partitions, cluster
        self.options = ["--kafka-servers", cluster.servers, *([] if config is None else ["--kafka-config", str(config)])]
        self._prefix = f"prove-{secrets.token_hex(4)}"

    def fresh(self, number: int) -> Place:
        """Return a new place with the input and nothing else."""
        prefix = f"{self._prefix}-{number}."
        place = Place(self._folder / f"run-{number}", {PREFIX_VARIABLE: prefix})
        with closing(self.open(place)) as log:
            _fill(log, self._records, self._partitions)
        return place

    def open(self, place: Place) -> Log:
        """Return the place's part of the log."""
        from headrace.topics.kafka import KafkaLog
        from headrace.topics.prefixed import PrefixedLog

        return PrefixedLog(KafkaLog(self._cluster, place.home), place.environment[PREFIX_VARIABLE])

    def remove(self, place: Place) -> None:
        """Remove what a run left."""
        with closing(self.open(place)) as log:
            for info in log.topics():
                log.delete(info.name)
        shutil.rmtree(place.home, ignore_errors=True)

    def comparable(self, records: list[Record], *, letters: bool) -> list[Record]:
        """Return what must be the same: records, but of dead letters not the time of arrival, which is another in each run's own topics."""
        return [_without_arrival(record, None) for record in records] if letters else records
