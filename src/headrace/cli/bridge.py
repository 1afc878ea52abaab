"""`headrace bridge`: from the outside into a topic, or from a topic to the outside."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from headrace.cli.anew import confirm
from headrace.cli.apps import blaming, module_of_file
from headrace.cli.buffering import buffer_of
from headrace.cli.logs import PREFIX_VARIABLE, KafkaOptions, asked_topic, open_log
from headrace.cli.metrics import FILE_VARIABLE, metrics_file, serve_metrics
from headrace.cli.stopping import asked_to_stop
from headrace.cli.values import duration_ms
from headrace.connectors import find
from headrace.connectors.buffer import Buffer, Policy
from headrace.connectors.inflow import of_session, resumes, shown
from headrace.connectors.ingest import Ingest, name_of, position_before
from headrace.connectors.progress import Moved
from headrace.connectors.protocol import EndingSource, Source, Target
from headrace.connectors.runner import Runner
from headrace.errors import PlanError
from headrace.topics.cluster import Cluster
from headrace.topics.protocol import Log

__all__ = ["bridge", "source_of", "target_of"]

_FILE = re.compile(r"([^:]+\.py):.*", re.DOTALL)


def bridge(
    from_: Annotated[str, Parameter(name="FROM")],
    to: str,
    /,
    *,
    kafka: KafkaOptions = KafkaOptions(),
    key: str | None = None,
    duration: str | None = None,
    records: int | None = None,
    until: Literal["latest"] | None = None,
    give_up_after: str | None = None,
    name: str | None = None,
    buffer: int | None = None,
    when_full: Policy | None = None,
    reduce_to: str | None = None,
    metrics_port: int | None = None,
    anew: Annotated[bool, Parameter(negative=())] = False,
    yes: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Bridge the events of a source into a topic, or the records of a topic to a target, each once, until there are no more or Ctrl-C.

    Parameters
    ----------
    from_
        http://… or https://…: a stream of server-sent events that have ids and can be resumed; http+poll://…: JSON that is polled;
        http+post://HOST:PORT/PATH: records that others post; mqtt://HOST/TOPIC/FILTER: messages;
        sparkplug://HOST/GROUP: metrics; opc.tcp://…: variables; modbus://…: registers, by a map; file:PATH: lines of files that grow;
        sqlite:PATH?table=… or postgresql://…?table=…&after=…: rows, by a column that increases; kafka://HOST:PORT/NAME: a topic of
        another cluster; FILE.py:…, a source of your own; or topic:NAME, kafka:NAME.
    to
        topic:NAME of the SQLite log, or kafka:NAME, which from a topic mirrors it; from a topic also: mqtt://HOST/TOPIC/{FIELD}: messages;
        influx://HOST?org=…&bucket=…: points of InfluxDB 2;
        postgresql://HOST/DATABASE?table=…: rows; mongodb://HOST/DATABASE?collection=…: documents;
        files:FOLDER?format=…&roll=…: NDJSON, CSV or Parquet files;
        http+out://HOST/PATH: records that are posted; smtp://HOST?from=…&to=…: mail; or FILE.py:…, a target of your own.
    key
        Into a topic: the field of a record by which the partition is chosen. Without one all go to the first.
    duration
        Stop after so long: 30s, 5m.
    records
        Stop after so many records.
    until
        From a topic: `latest` stops where the topic ends now.
    give_up_after
        Into a topic: how long a source that cannot be reached is asked again, 60s if not given; never: for ever. A target is tried
        for ever.
    name
        From a topic: the name under which it is remembered how far the topic was sent, forward:TOPIC:SCHEME if not given. Two targets
        of one kind need two names.
    buffer
        From a topic to a target: how many records may wait for it; as many as the topic keeps if not given.
    when_full
        With --buffer: which records are dropped when more wait. oldest, if not given; newest; reduce: the last of each key and interval
        stays.
    reduce_to
        With --when-full reduce: the shortest interval, 1s if not given.
    metrics_port
        Serve Prometheus metrics on this port of the loopback interface, and /health as JSON.
    anew
        Forget how far the bridge has come, and begin with the first event: events are written again. It says how many, and asks on a
        terminal; without a terminal it is refused unless --yes is given.
    yes
        With --anew: do not ask.
    """
    outward, inward = asked_topic(from_, kafka), asked_topic(to, kafka)
    mirrored = outward is not None and inward is not None
    if outward is None and inward is None:
        raise PlanError(f"cannot be bridged to {to!r}", where="TO", fix="give topic:NAME or kafka:NAME")
    if records is not None and records < 1:
        raise PlanError(f"is {records}", where="--records", fix="give 1 or more")
    seconds = duration_ms(duration, "--duration") / 1000 if duration else None
    patience = _patience(give_up_after or "60s")
    limits = _Limits(asked_to_stop(), seconds, records, metrics_port, anew, yes)
    if inward is not None and (outward == inward or from_.partition("?")[0] == _address_of(*inward)):
        raise PlanError(f"cannot be bridged to {to}, itself", where="TO", fix="name another topic, or another log")
    if outward is not None and not mirrored:
        _refuse("only for a bridge into a topic", key=key, give_up_after=give_up_after)
        _send(from_, *outward, to, name, limits, buffer_of(buffer, when_full, reduce_to), latest=until == "latest")
    elif inward is not None:
        _refuse("only for a bridge from a topic to a target", name=name, buffer=buffer, when_full=when_full, reduce_to=reduce_to)
        source = source_of(from_) if outward is None else _mirror(from_, *outward)
        if isinstance(source, EndingSource):
            source.latest = until == "latest"
        else:
            _refuse("only for a bridge from a topic", until=until)
        _bring(source, from_, *inward, to, key, patience, limits)


def _address_of(topic: str, cluster: Cluster | None) -> str | None:
    """Return the address `kafka://…` of a topic; None if it is of the SQLite log."""
    return None if cluster is None else f"kafka://{cluster.servers}/{os.environ.get(PREFIX_VARIABLE, '')}{topic}"


@dataclass(frozen=True, slots=True)
class _Limits:
    """How a bridge runs and ends."""

    stop: Callable[[], bool]
    duration: float | None
    records: int | None
    metrics_port: int | None
    anew: bool
    yes: bool


def _patience(text: str) -> float | None:
    return None if text == "never" else duration_ms(text, "--give-up-after") / 1000


def _refuse(why: str, **options: object) -> None:
    """Raise PlanError if an option is given that would do nothing."""
    for name, value in options.items():
        if value is not None:
            raise PlanError(f"is {why}", where=f"--{name.replace('_', '-')}", fix="leave it out")


def _mirror(from_: str, topic: str, cluster: Cluster | None) -> Source:
    """Return a topic of another log as a source."""
    from headrace.connectors.mirror import Mirror

    return Mirror(from_ if cluster is None else f"kafka://{cluster.servers}/{topic}", topic, lambda: open_log(cluster))


def _bring(
    source: Source, from_: str, topic: str, cluster: Cluster | None, to: str, key: str | None, patience: float | None, limits: _Limits
) -> None:
    """Bring the events of a source into a topic."""
    with closing(open_log(cluster)) as log:
        log.heed(limits.stop)
        if limits.anew and (before := position_before(log, topic)) and before.passed:
            again = f"{before.passed:,} records are written to {to} again, if the source still sends them"
            confirm(f"forgets how far the bridge has come: {again}", yes=limits.yes)
        committed, watch = _reported(name_of(topic), limits.metrics_port)
        with closing(Ingest(log, source, topic, key=key, patience=patience, anew=limits.anew, committed=committed)) as one, _of_file(from_):
            watch(one)
            print(f"headrace bridge: {one.source} → {to}, {resumes(one.last)}", flush=True)
            passed = asyncio.run(one.run(limits.stop, duration=limits.duration, records=limits.records))
            last = "" if one.last is None or of_session(one.last) else f"; the last is event {shown(one.last)}"
            print(f"headrace: {passed:,} records brought over{last}", file=sys.stderr)


def _send(
    from_: str, topic: str, cluster: Cluster | None, to: str, name: str | None, limits: _Limits, buffer: Buffer | None, *, latest: bool
) -> None:
    """Send the records of a topic to a target."""
    from headrace.connectors.forward import Forward

    target = target_of(to)
    own = _FILE.fullmatch(to)
    name = name or f"forward:{topic}:{Path(own[1]).stem if own else to.partition(':')[0]}"
    with closing(open_log(cluster)) as log:
        log.heed(limits.stop)
        if limits.anew and (sent := _sent(log, name)):
            confirm(f"forgets how far the bridge has come: {sent:,} records are sent to {target.name} again", yes=limits.yes)
        committed, watch = _reported(name, limits.metrics_port)
        made = Forward(log, topic, target, name, buffer=buffer, latest=latest, anew=limits.anew, committed=committed)
        with closing(made) as one, _of_file(to):
            watch(one)
            print(f"headrace bridge: {from_} → {target.name}, as {name}", flush=True)
            settled = asyncio.run(one.run(limits.stop, duration=limits.duration, records=limits.records))
            aside = f"; {one.refused:,} of them were refused and are in {topic}.dead-letter" if one.refused else ""
            shed = f"; {one.shed:,} more were dropped, and are counted as shed" if one.shed else ""
            print(f"headrace: {settled:,} records sent{aside}{shed}", file=sys.stderr)


def _sent(log: Log, name: str) -> int:
    return sum(cursor.offset for cursor in log.cursors() if cursor.group == name)


def source_of(address: str) -> Source:
    """Return the source that FROM names. Raises PlanError if there is no connector for it."""
    made: Source = _made(address, "source", "FROM", f"from {address!r}", "give an address such as http://127.0.0.1:8001/generator/stream")
    return made


def target_of(address: str) -> Target:
    """Return the target that TO names. Raises PlanError if there is no connector for it."""
    made: Target = _made(address, "target", "TO", f"to {address!r}", "give FILE.py:…, a target of your own")
    return made


def _made(address: str, kind: str, where: str, what: str, fix: str) -> Any:  # noqa: ANN401  (what a module makes)
    module = _module(address)
    if module is None or not hasattr(module, kind):
        raise PlanError(f"cannot be bridged {what}", where=where, fix=fix if module is None else f"its connector has no {kind}(address)")
    with _of_file(address):
        return getattr(module, kind)(address)


def _module(address: str) -> ModuleType | None:
    """Return the module of a connector: one of headrace's by the scheme, or a file."""
    own = _FILE.fullmatch(address)
    return find(address) if own is None else module_of_file(Path(own[1]), "connector")


@contextmanager
def _of_file(address: str) -> Iterator[None]:
    """Make an error of a connector in a file one that names the line there."""
    own = _FILE.fullmatch(address)
    with nullcontext() if own is None else blaming(own[1]):
        yield


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
