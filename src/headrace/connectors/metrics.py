"""Metrics of a connector for Prometheus, and its health as a page."""

from __future__ import annotations

from dataclasses import asdict

import msgspec
from prometheus_client import Gauge

from headrace import _metrics
from headrace.connectors.progress import Moved
from headrace.connectors.runner import Runner

__all__ = ["Metrics"]


class Metrics(_metrics.Metrics):
    """The metrics of one connector. The source's address is the `topic` of the ledger where events come in."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._received: int | None = None
        self._runner: Runner | None = None
        up = Gauge("headrace_connector_up", "1 if the outside system answers, else 0.", ["pipeline"], registry=self.registry)
        up.labels(name).set_function(lambda: float(self._runner is not None and self._runner.health.state == "running"))

    def watch(self, runner: Runner) -> None:
        """Report the health of a runner from now on."""
        self._runner = runner

    def note(self, moved: Moved) -> None:
        """Take in a commit."""
        received = sum(counts["received"] for counts in moved.ledger.values())
        since = moved.records if self._received is None else received - self._received
        self.note_commit(moved.ledger, seconds=moved.seconds, received=since, written=moved.records, lag=moved.lag)
        self._received = received

    def health(self) -> bytes:
        """Return the health of the runner as JSON."""
        return msgspec.json.encode({"pipeline": self._pipeline} | ({} if self._runner is None else asdict(self._runner.health)))
