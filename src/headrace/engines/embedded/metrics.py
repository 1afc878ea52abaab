"""Metrics of a live run, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from headrace import _metrics
from headrace.engines.embedded.live import Committed

__all__ = ["Metrics"]


class Metrics(_metrics.Metrics):
    """The metrics of one pipeline's run, brought up to date with each commit."""

    def __init__(self, pipeline: str) -> None:
        super().__init__(pipeline)
        self._received: int | None = None
        names, registry = ["pipeline"], self.registry
        self._watermark = Gauge(
            "headrace_watermark_seconds", "The watermark of a source, event time since the epoch.", [*names, "topic"], registry=registry
        )
        self._state = Gauge("headrace_commit_state_bytes", "State written with the last commit.", names, registry=registry)

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
        received = commit.received - (commit.first if self._received is None else self._received)
        self.note_commit(commit.ledger, seconds=commit.seconds, received=received, written=commit.written, lag=commit.lag)
        self._received = commit.received
        for topic, mark in commit.watermarks.items():
            if abs(mark) < 2**61:
                self._watermark.labels(name, topic).set(mark / 1000)
        self._state.labels(name).set(commit.state_bytes)
        for process, held in commit.processes.items():
            self._keys.labels(name, process).set(held.keys)
            self._key_bytes.labels(name, process).set(held.state_bytes)
            self._timers.labels(name, process).set(held.timers)
            self._waiting.labels(name, process).set(held.waiting)
            self._handled.labels(name, process).inc(held.handled)
            self._failed.labels(name, process).inc(held.failed)
