"""A run on topics that reports how it goes: lines of a log, and metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any

from headrace._structured import structured
from headrace.engines.embedded.live import Committed, Limits, Live, Patience, run_live
from headrace.engines.embedded.metrics import Metrics
from headrace.engines.embedded.savepoint import put_back, read
from headrace.engines.options import Mode, Options
from headrace.engines.protocol import Context, Topics
from headrace.kernels.ledger import Account
from headrace.plan.pipeline import Plan
from headrace.topics.beginning import shown
from headrace.topics.protocol import Away

__all__ = ["run_observed"]

_WARNING_SECONDS = 60.0


def run_observed(plan: Plan, topics: Topics, options: Options, context: Context) -> tuple[Live, dict[str, Account]]:
    """Run a plan on topics until it is stopped, and return the run and its ledger by topic. Its log lines and metrics say how it goes."""
    with closing(topics.open()) as log:
        observer = _Observer(plan, context, options.metrics_port)
        patience = Patience(_ms(options.idle_after), _ms(options.close_quiet_after), _ms(options.max_ahead))
        limits = Limits(options.duration, options.records, options.drain)
        if options.from_savepoint is not None:
            put_back(log, read(Path(options.from_savepoint), plan.pipeline))
        live = Live(
            plan,
            log,
            patience,
            options.batch_records,
            latest=options.mode is Mode.LATEST,
            anew=options.anew,
            reset=options.reset,
            begin=options.from_,
        )
        observer.begin(live)
        every = inf if options.commit_every is None else options.commit_every
        ledger = run_live(live, limits, stop=context.stop, commit_seconds=every, committed=observer.committed, away=observer.away)
        observer.end(ledger)
    return live, ledger


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


class _Observer:
    """Reports a live run: log lines for its start, its end and what goes wrong, and metrics."""

    def __init__(self, plan: Plan, context: Context, port: int | None) -> None:
        self._plan, self._log = plan, structured()
        self._metrics = Metrics(plan.pipeline)
        if port is not None:
            context.serve_metrics(self._metrics, port)
        self._leave = context.metrics_file(self._metrics)

    def begin(self, live: Live) -> None:
        """Report the start, and records that expired before it."""
        self._live = live
        self._warnings = _Warnings(self._log, self._plan.pipeline, live.run.ledger)
        if live.begin is not None and not live.begins:
            what = f"resumes from its last commit: --from {shown(live.begin)} counts only where there is none"
            self._log.info("resumed", pipeline=self._plan.pipeline, what=what)
        for name, first in live.expired.items():
            what = f"{name} begins at offset {first}: earlier records have expired, and the results lack them"
            self._log.warning("expired", pipeline=self._plan.pipeline, partition=name, first=first, what=what)
        begins = {"begins": shown(live.begin)} if live.begin is not None and live.begins else {}
        self._log.info("started", **{"pipeline": self._plan.pipeline, "version": self._plan.version} | begins | self._place())

    def committed(self, commit: Committed) -> None:
        """Take in a commit."""
        self._metrics.note(commit)
        self._warnings.note(self._live.run.ledger)
        self._leave(False)

    def away(self, fault: Away | None) -> None:
        """Report a fault of a log that is waited for; None when the pipeline is open again."""
        if fault is None:
            self._log.info("reopened", **self._place())
        else:
            self._log.warning("away", pipeline=self._plan.pipeline, epoch=self._live.epoch, error=str(fault))

    def end(self, ledger: Mapping[str, Account]) -> None:
        """Report the end."""
        self._leave(True)
        counts = {topic: account.counts() for topic, account in ledger.items()}
        self._log.info("stopped", **self._place(), ledger=counts, open=self._live.run.graph.open_counts())

    def _place(self) -> dict[str, Any]:
        return {"pipeline": self._plan.pipeline, "epoch": self._live.epoch, "offsets": self._live.offsets}


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
