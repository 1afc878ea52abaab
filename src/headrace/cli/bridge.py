"""`headrace bridge`: from the outside into a topic."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.anew import confirm
from headrace.cli.logs import KafkaOptions, asked_topic, open_log
from headrace.cli.metrics import FILE_VARIABLE, metrics_file, serve_metrics
from headrace.cli.simulate import duration_ms
from headrace.cli.stopping import asked_to_stop
from headrace.connectors import find
from headrace.connectors.inflow import resumes, shown
from headrace.connectors.ingest import Ingest, name_of, position_before
from headrace.connectors.progress import Moved
from headrace.connectors.protocol import Source
from headrace.connectors.runner import Runner
from headrace.errors import PlanError
from headrace.topics.protocol import Log

__all__ = ["bridge"]


def bridge(
    from_: Annotated[str, Parameter(name="FROM")],
    to: str,
    /,
    *,
    kafka: KafkaOptions = KafkaOptions(),
    key: str | None = None,
    duration: str | None = None,
    records: int | None = None,
    give_up_after: str = "60s",
    metrics_port: int | None = None,
    anew: Annotated[bool, Parameter(negative=())] = False,
    yes: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Bridge the events of a stream into a topic, each once, until it ends or Ctrl-C.

    Parameters
    ----------
    from_
        http://… or https://…: a stream of server-sent events that have ids and can be resumed.
    to
        topic:NAME of the SQLite log, or kafka:NAME.
    key
        The field of a record by which the partition is chosen. Without one all go to the first.
    duration
        Stop after so long: 30s, 5m.
    records
        Stop after so many records.
    give_up_after
        How long a source that cannot be reached is asked again; never: for ever.
    metrics_port
        Serve Prometheus metrics on this port of the loopback interface, and /health as JSON.
    anew
        Forget how far the bridge has come, and begin with the first event: events are written again. It says how many, and asks on a
        terminal; without a terminal it is refused unless --yes is given.
    yes
        With --anew: do not ask.
    """
    found = asked_topic(to, kafka)
    if found is None:
        raise PlanError(f"cannot be bridged to {to!r}", where="TO", fix="give topic:NAME or kafka:NAME")
    if records is not None and records < 1:
        raise PlanError(f"is {records}", where="--records", fix="give 1 or more")
    seconds = duration_ms(duration, "--duration") / 1000 if duration else None
    patience = None if give_up_after == "never" else duration_ms(give_up_after, "--give-up-after") / 1000
    stop = asked_to_stop()
    source = source_of(from_)
    topic, cluster = found
    with closing(open_log(cluster)) as log:
        log.heed(stop)
        if anew:
            _confirm(log, topic, to, yes=yes)
        committed, watch = _reported(name_of(topic), metrics_port)
        with closing(Ingest(log, source, topic, key=key, patience=patience, anew=anew, committed=committed)) as one:
            watch(one)
            print(f"headrace bridge: {one.source} → {to}, {resumes(one.last)}", flush=True)
            passed = asyncio.run(one.run(stop, duration=seconds, records=records))
            print(f"headrace: {passed:,} records brought over{'' if one.last is None else f'; the last is event {shown(one.last)}'}", file=sys.stderr)


def source_of(address: str) -> Source:
    """Return the source that FROM names. Raises PlanError if there is no connector for it."""
    module = find(address)
    if module is None or not hasattr(module, "source"):
        raise PlanError(f"cannot be bridged from {address!r}", where="FROM", fix="give an address such as http://127.0.0.1:8001/generator/stream")
    made: Source = module.source(address)
    return made


def _confirm(log: Log, topic: str, to: str, *, yes: bool) -> None:
    """Go on only if it is meant that events are written again."""
    before = position_before(log, topic)
    if before is not None and before.passed:
        again = f"{before.passed:,} records are written to {to} again, if the source still sends them"
        confirm(f"forgets how far the bridge has come: {again}", yes=yes)


def _reported(name: str, port: int | None) -> tuple[Callable[[Moved], None], Callable[[Runner], None]]:
    """Return what takes a runner's commits and the runner itself, for metrics, if these are asked for."""
    if port is None and FILE_VARIABLE not in os.environ:
        return lambda _: None, lambda _: None
    from headrace.connectors.metrics import Metrics

    metrics = Metrics(name)
    if port is not None:
        serve_metrics(metrics, port, metrics.health)
    leave = metrics_file(metrics)

    def committed(moved: Moved) -> None:
        metrics.note(moved)
        leave(False)

    return committed, metrics.watch
