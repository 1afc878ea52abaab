"""Metrics for Prometheus: a registry of one process's part, served as a page or left in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headrace._durable import private

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_RECORDS = (1, 10, 100, 1_000, 10_000, 100_000)


class Metrics:
    """The metrics that a pipeline's run and a connector have in common; `pipeline` is the name among those who read and write."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self.registry = registry = CollectorRegistry()
        names = ["pipeline"]
        self._records = Gauge("headrace_ledger_records", "Records of a source by what became of them.", [*names, "topic", "fate"], registry=registry)
        self._lag = Gauge("headrace_lag_records", "Records that wait to be read.", names, registry=registry)
        self._written = Counter("headrace_written_records", "Records written to topics.", names, registry=registry)
        self._commits = Histogram("headrace_commit_seconds", "Time that a commit took.", names, buckets=_SECONDS, registry=registry)
        self._batches = Histogram("headrace_batch_records", "Records received between two commits.", names, buckets=_RECORDS, registry=registry)

    def note_commit(self, ledger: Mapping[str, Mapping[str, int]], *, seconds: float, received: int, written: int, lag: int | None) -> None:
        """Take in a commit.

        Parameters
        ----------
        ledger
            What became of all records, by source.
        seconds
            How long the commit took.
        received, written
            Records since the last commit.
        lag
            How many records are still to be read; None where that cannot be known.
        """
        name = self._pipeline
        for topic, counts in ledger.items():
            for fate, count in counts.items():
                self._records.labels(name, topic, fate).set(count)
        if lag is not None:
            self._lag.labels(name).set(lag)
        self._written.labels(name).inc(written)
        self._commits.labels(name).observe(seconds)
        self._batches.labels(name).observe(received)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))

    def write(self, path: Path) -> None:
        """Leave the metrics in a file, whole."""
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with open(aside, "wb", opener=private) as file:
            file.write(self.text())
        aside.replace(path)
