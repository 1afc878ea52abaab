"""What a check is about, and what it finds."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from headrace.cli.apps import home
from headrace.cli.checks.brokers import Cluster, described
from headrace.cli.logs import LOG_FILE, KafkaOptions, asked_cluster
from headrace.errors import HeadraceError
from headrace.topics.cluster import Cluster as Kafka
from headrace.topics.look import Look

__all__ = ["GB", "MB", "Case", "Finding"]

MB = 10**6
GB = 10**9


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: whether it passed, where, what is wrong, and how to fix it."""

    state: Literal["ok", "warn", "FAIL"]
    where: str
    what: str
    fix: str | None = None

    def __str__(self) -> str:
        said = f"{self.where}: {self.what}{f'; {self.fix}' if self.fix else ''}"
        return f"{self.state:<4}  {' '.join(said.split())}"


@dataclass
class Case:
    """The subject of a check: the environment, and a pipeline and Kafka if they are named."""

    app: str | None
    options: KafkaOptions = field(default_factory=KafkaOptions)
    home: Path = field(default_factory=home)

    @property
    def log(self) -> Path:
        """The SQLite log."""
        return self.home / LOG_FILE

    @cached_property
    def kafka(self) -> Kafka | None:
        """The Kafka cluster that is asked for."""
        return asked_cluster(self.options)

    @cached_property
    def topics(self) -> Mapping[str, int] | None:
        """The topics of the SQLite log or of Kafka with the number of their partitions, None where they cannot be had."""
        if self.kafka is not None:
            return None if isinstance(self.cluster, str) else self.cluster.topics
        if not self.log.exists():
            return {}
        with suppress(sqlite3.Error):
            return Look(self.log).topics()
        return None

    @cached_property
    def cluster(self) -> Cluster | str:
        """The Kafka cluster, or the reason why it cannot be described."""
        try:
            return described(self.kafka or Kafka(""))
        except HeadraceError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  (Kafka's client has errors of its own, and it may not be there)
            said = error.args[0] if error.args else error
            return str(said.str()) if hasattr(said, "str") else str(said)
