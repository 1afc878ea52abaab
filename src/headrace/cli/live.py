"""`headrace run` on topics: live, or up to their present end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import structlog

from headrace.cli.logs import open_log
from headrace.cli.metrics import metrics_file, serve_metrics
from headrace.cli.run import LiveOptions
from headrace.engines.embedded.live import Committed, Limits, Live, Patience, run_live
from headrace.engines.embedded.metrics import Metrics
from headrace.kernels.ledger import Account
from headrace.plan.pipeline import Plan
from headrace.topics.protocol import Away

__all__ = ["run_on_topics", "structured"]

_WARNING_SECONDS = 60.0


def structured() -> Any:  # noqa: ANN401  (structlog's own type)
    """Return a logger: lines to read on a terminal, JSON for machines."""
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), renderer],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return structlog.get_logger()


def run_on_topics(plan: Plan, options: LiveOptions, stop: Callable[[], bool]) -> dict[str, Account]:
    """Run a plan on the topics of a log until `stop` says so, and return its ledger by topic."""
    log = open_log(options)
    told = structured()
    metrics = Metrics(plan.pipeline)
    if options.metrics_port is not None:
        serve_metrics(metrics, options.metrics_port)
    leave = metrics_file(metrics)

    def committed(commit: Committed) -> None:
        metrics.note(commit)
        warnings.note(live.run.ledger)
        leave(False)

    def away(fault: Away | None) -> None:
        if fault is None:
            told.info("reopened", pipeline=plan.pipeline, epoch=live.epoch, offsets=live.offsets)
        else:
            told.warning("away", pipeline=plan.pipeline, epoch=live.epoch, error=str(fault))

    patience = Patience(options.ms("idle_after"), options.ms("close_quiet_after"), options.ms("max_ahead"))
    limits = Limits(options.seconds("duration"), options.records, options.drain)
    live = Live(plan, log, patience, options.batch_records, latest=options.until == "latest", anew=options.anew)
    warnings = _Warnings(told, plan.pipeline, live.run.ledger)
    for name, first in live.expired.items():
        what = f"{name} begins at offset {first}: earlier records have expired, and the results lack them"
        told.warning("expired", pipeline=plan.pipeline, partition=name, first=first, what=what)
    told.info("started", pipeline=plan.pipeline, version=plan.version, epoch=live.epoch, offsets=live.offsets)
    every = options.seconds("commit_every")
    ledger = run_live(live, limits, stop=stop, commit_seconds=inf if every is None else every, committed=committed, away=away)
    leave(True)
    counts = {topic: account.counts() for topic, account in ledger.items()}
    told.info("stopped", pipeline=plan.pipeline, epoch=live.epoch, offsets=live.offsets, ledger=counts, open=live.run.graph.open_counts())
    log.close()
    return ledger


class _Warnings:
    """Says in the log of a live run that records are set aside, and why; at most once a minute."""

    def __init__(self, told: Any, pipeline: str, ledger: Mapping[str, Account]) -> None:  # noqa: ANN401  (structlog's own type)
        self._told, self._pipeline = told, pipeline
        self._at = -inf
        self._known = {topic: account.counts() for topic, account in ledger.items()}

    def note(self, ledger: Mapping[str, Account]) -> None:
        """Look at the ledger of a commit."""
        now = time.monotonic()
        if now - self._at < _WARNING_SECONDS:
            return
        for topic, account in ledger.items():
            before, counts = self._known[topic], account.counts()
            new = {fate: counts[fate] - before[fate] for fate in ("received", "accepted", "malformed", "future")}
            if new["malformed"] + new["future"]:
                reason = account.reasons.commonest()[0]
                where = {"partition": reason.partition, "offset": reason.offset}
                event = "records set aside" if new["accepted"] else "records set aside and none accepted"
                self._told.warning(event, pipeline=self._pipeline, topic=topic, **new, commonest=reason.text, first=reason.detail, **where)
                self._at, self._known[topic] = now, counts
