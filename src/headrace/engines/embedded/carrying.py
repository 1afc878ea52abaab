"""Resuming from the last commit of a pipeline that has changed since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from headrace.engines.embedded.state import STATE_FORMATS, stages_of
from headrace.errors import EnvironmentFault
from headrace.plan.changes import Changes, changes
from headrace.plan.pipeline import Plan
from headrace.plan.rewrite import read_numbers_at_once

__all__ = ["carried_over", "new_ranks"]

_ANEW = "or start with --anew, which forgets it"


def carried_over(plan: Plan, manifest: Mapping[str, Any], reset: Collection[str] = ()) -> Changes:
    """Return how a pipeline has changed since a commit; the stages in `reset` start without state.

    Raises
    ------
    EnvironmentFault
        If the pipeline cannot resume from there.
    PlanError
        If there is no stage of a name in `reset`.
    """
    where = f"state of pipeline {plan.pipeline}"
    if manifest["format"] not in STATE_FORMATS:
        what = f"is of format {manifest['format']}, not {STATE_FORMATS[0]}"
        raise EnvironmentFault(what, where=where, fix=f"use the headrace that wrote it, {_ANEW}")
    if manifest["version"] != plan.version:
        what = f"was made with version {manifest['version']!r}, not {plan.version!r}"
        raise EnvironmentFault(what, where=where, fix=f"run it as it was, {_ANEW}")
    run, _ = read_numbers_at_once(plan)
    try:
        stages = {name: state["definition"] for name, state in stages_of(manifest, run).items()}
    except KeyError:
        raise EnvironmentFault("was made with other operators", where=where, fix=f"run it as it was, {_ANEW}") from None
    found = changes(run, manifest["settings"], stages, same=plan.differs(manifest) is None, reset=reset)
    for name, why in found.refused.items():
        fix = f"run it as it was, start that stage without state (--reset {name}), {_ANEW}"
        raise EnvironmentFault(f"{name} cannot keep its state: {why}", where=where, fix=fix)
    return found


def new_ranks(plan: Plan, sources: Sequence[str], now: Sequence[str]) -> dict[int, int]:
    """Return the current rank of each partition by its rank in a commit. Partitions are `TOPIC/NUMBER`, in the order of ranks.

    Raises
    ------
    EnvironmentFault
        If a topic that is still read has another number of partitions.
    """
    was, are = (Counter(one.rpartition("/")[0] for one in given) for given in (sources, now))
    for topic in (source.topic for source in plan.sources):
        if was[topic] and was[topic] != are[topic]:
            what, where = f"was made with {was[topic]} partitions of topic {topic}, not {are[topic]}", f"state of pipeline {plan.pipeline}"
            raise EnvironmentFault(what, where=where, fix=f"run it on the topic that it was made with, {_ANEW}")
    return {rank: now.index(one) for rank, one in enumerate(sources) if one in now}
