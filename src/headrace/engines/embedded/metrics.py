"""What a live run tells of itself, for Prometheus."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headrace._durable import private
from headrace.engines.embedded.live import Committed

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_RECORDS = (1, 10, 100, 1_000, 10_000, 100_000)


class Metrics:
    """The metrics of one pipeline's run, brought up to date with each commit."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline: str = pipeline
        self._received: int | None = None
        self.registry = registry = CollectorRegistry()
        names = ["pipeline"]
        self._records = Gauge("headrace_ledger_records", "Records of a source by what became of them.", [*names, "topic", "fate"], registry=registry)
        self._watermark = Gauge(
            "headrace_watermark_seconds", "The watermark of a source, event time since the epoch.", [*names, "topic"], registry=registry
        )
        self._lag = Gauge("headrace_lag_records", "Records that wait to be read.", names, registry=registry)
        self._state = Gauge("headrace_commit_state_bytes", "State written with the last commit.", names, registry=registry)
        self._written = Counter("headrace_written_records", "Records written to topics.", names, registry=registry)
        self._commits = Histogram("headrace_commit_seconds", "Time that a commit took.", names, buckets=_SECONDS, registry=registry)
        self._batches = Histogram("headrace_batch_records", "Records received between two commits.", names, buckets=_RECORDS, registry=registry)

        of = [*names, "process"]
        self._keys = Gauge("headrace_process_keys", "Keys of which a process keeps something.", of, registry=registry)
        self._key_bytes = Gauge("headrace_process_state_bytes", "What it keeps for them, as stored.", of, registry=registry)
        self._timers = Gauge("headrace_process_timers", "Keys that wait for a timer, or for what they keep to age.", of, registry=registry)
        self._waiting = Gauge("headrace_process_waiting_rows", "Rows that wait for the watermark.", of, registry=registry)
        self._handled = Counter("headrace_process_records", "Records that a process was given.", of, registry=registry)
        self._failed = Counter("headrace_process_failed", "Records, timers and rules at which a process failed.", of, registry=registry)

    def note(self, commit: Committed) -> None:
        """Take in a commit."""
        name = self._pipeline
        for topic, counts in commit.ledger.items():
            for fate, count in counts.items():
                self._records.labels(name, topic, fate).set(count)
        for topic, mark in commit.watermarks.items():
            if abs(mark) < 2**61:
                self._watermark.labels(name, topic).set(mark / 1000)
        self._lag.labels(name).set(commit.lag)
        self._state.labels(name).set(commit.state_bytes)
        self._written.labels(name).inc(commit.written)
        self._commits.labels(name).observe(commit.seconds)
        self._batches.labels(name).observe(commit.received - (commit.first if self._received is None else self._received))
        self._received = commit.received
        for process, held in commit.processes.items():
            self._keys.labels(name, process).set(held.keys)
            self._key_bytes.labels(name, process).set(held.state_bytes)
            self._timers.labels(name, process).set(held.timers)
            self._waiting.labels(name, process).set(held.waiting)
            self._handled.labels(name, process).inc(held.handled)
            self._failed.labels(name, process).inc(held.failed)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))

    def write(self, path: Path) -> None:
        """Leave the metrics in a file, whole."""
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with open(aside, "wb", opener=private) as file:
            file.write(self.text())
        aside.replace(path)
