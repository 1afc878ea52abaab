"""`headrace ledger`: what became of every record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.apps import find_pipeline, home, plan_of
from headrace.cli.logs import KafkaOptions, NoLogYet, asked_topics, open_log
from headrace.cli.report import begun_lines
from headrace.errors import EnvironmentFault, PlanError

if TYPE_CHECKING:
    from headrace.engines.entries import Ledger

__all__ = ["ledger"]

Begun = Mapping[str, Sequence[int]]
_CONNECTORS = ("bridge:", "forward:", "fingerprint:saver")


def ledger(app: str, /, *, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Show how many records of a pipeline's last run were accepted, late or set aside, also of one that is running.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name; or a connector by its name: bridge:TOPIC, fingerprint:saver.
    """
    if app.startswith(_CONNECTORS):
        _show(_of_connector(app, kafka))
        return
    name = find_pipeline(app).name
    path = home() / "ledgers" / f"{name}.json"
    told = [*_on_log(app, kafka)]
    if path.is_file() and all(path.stat().st_mtime * 1000 >= at for at, *_ in told):
        sources, begun = _kept(path)
    elif told:
        _, sources, begun = max(told, key=lambda one: one[0])
    else:
        raise PlanError(f"pipeline {name!r} has not been run here", where=str(home()), fix=f"run it first: headrace run {app} --input FILE")
    _show(sources)
    for line in begun_lines(begun):
        print(line)


def _show(sources: Ledger) -> None:
    for topic, counts in sources.items():
        print(topic)
        for fate, count in counts.items():
            print(f"  {fate:<10}{'?' if count is None else f'{count:,}':>15}")


def _of_connector(name: str, kafka: KafkaOptions) -> Ledger:
    """Return the ledger of the last commit of a connector."""
    from headrace.connectors.progress import ledger_of

    with closing(open_log(kafka, create=False)) as log:
        manifest = log.manifest(name)
    if manifest is None:
        raise PlanError(f"connector {name!r} has not been run here", where=str(home()), fix="headrace topics groups shows those that have")
    return {source: {**counts} for source, counts in ledger_of(manifest).items()}


def _kept(path: Path) -> tuple[Ledger, Begun]:
    """Return the ledger that the last run that ended has left; a count is None that a cluster could not tell."""
    try:
        found = json.loads(path.read_bytes())
        sources, begun = found["sources"], found.get("begun", {})
    except (OSError, ValueError, KeyError) as error:
        raise EnvironmentFault(f"cannot be read: {error}", where=str(path), fix="remove it, or run the pipeline again") from None
    return sources, begun


def _on_log(app: str, kafka: KafkaOptions) -> Iterator[tuple[float, Ledger, Begun]]:
    """Yield what the log has: the ledger of the last commit, that of the topic to which a cluster writes its own, and when in ms."""
    from headrace.engines.ledger_topic import told_on_topic

    try:
        log = open_log(kafka, create=False)
    except NoLogYet:
        return
    plan = plan_of(app, [])
    with closing(log):
        if (manifest := log.manifest(plan.pipeline)) is not None:
            committed = json.loads(manifest)
            yield committed["committed_ms"], committed["ledger"], committed.get("begun", {})
        if (told := told_on_topic(plan, asked_topics(kafka), home(), log)) is not None:
            yield told[1], told[0], {}
