"""`headrace bridge`: from the outside into a topic."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.anew import confirm
from headrace.cli.logs import KafkaOptions, asked_topic, open_log
from headrace.cli.simulate import duration_ms
from headrace.cli.stopping import asked_to_stop
from headrace.errors import PlanError

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
    anew: Annotated[bool, Parameter(negative=())] = False,
    yes: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Bring the events of a stream into a topic, each once, until it ends or Ctrl-C.

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
    from headrace.bridges.http import HttpBridge, only_told, passed_before

    only_told()
    topic, cluster = found
    with closing(open_log(cluster)) as log:
        log.heed(stop)
        if anew and (before := passed_before(log, topic)):
            confirm(f"forgets how far the bridge has come: {before:,} records are written to {to} again, if the source still sends them", yes=yes)
        with closing(HttpBridge(log, from_, topic, key=key, patience=patience, anew=anew)) as one:
            print(f"headrace bridge: {one.source} → {to}, {'from the first event' if one.last is None else f'after event {one.last}'}", flush=True)
            passed = asyncio.run(one.run(stop, duration=seconds, records=records))
            print(f"headrace: {passed:,} records brought over{'' if one.last is None else f'; the last is event {one.last}'}", file=sys.stderr)
