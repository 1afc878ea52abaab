"""A pipeline: its topics are there, and a run would go on from its last commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

import msgspec

from headrace.cli.apps import plan_of
from headrace.cli.checks.case import Case, Finding
from headrace.cli.logs import open_log
from headrace.errors import EnvironmentFault, near
from headrace.plan.pipeline import Plan
from headrace.topics.look import Look

__all__ = ["check_app"]

_AS_IT_WAS = "bring back what it was made with, or start with"


def check_app(case: Case) -> Iterator[Finding]:
    """Check the pipeline that is named, its topics and its state."""
    if case.app is None:
        return
    plan = plan_of(case.app, [])
    yield Finding("ok", f"pipeline {plan.pipeline}", f"version {plan.version} is sound")
    if case.topics is not None:
        yield from _sources(case, plan, case.topics)
    if case.kafka is not None:
        if case.topics is not None:
            yield from _state_beside_kafka(case, plan)
    elif case.log.exists():
        with suppress(sqlite3.Error):  # which the check of the log shows
            if Look(case.log).format()[0] != 1:
                yield from _state(case, plan)


def _sources(case: Case, plan: Plan, topics: Mapping[str, int]) -> Iterator[Finding]:
    kafka = "".join(f" --{name.replace('_', '-')} {value}" for name, value in vars(case.options).items() if value is not None)
    for source in plan.sources:
        where = f"topic {source.topic}"
        if source.topic in topics:
            yield Finding("ok", where, f"pipeline {plan.pipeline} reads it")
        else:
            hint = near(source.topic, topics)
            fix = f"{hint} or make it" if hint.startswith("did") else "make it"
            what = f"is not there; pipeline {plan.pipeline} needs it to run live"
            yield Finding("warn", where, what, f"{fix}: headrace topics create {source.topic}{kafka}")


def _state(case: Case, plan: Plan) -> Iterator[Finding]:
    """Check what the pipeline's last commit left, as its next run will."""
    where, anew = f"state of pipeline {plan.pipeline}", f"headrace run {case.app} --anew, which forgets it"
    found = Look(case.log).manifest(plan.pipeline)
    if found is None:
        yield Finding("ok", where, "there is none yet")
        return
    what = _fault_of_state(case, plan, found[0], whole=found[1])
    if what is not None:
        yield Finding("FAIL", where, what, f"{_AS_IT_WAS} {anew}")
        return
    lag = 0
    for topic, number, following, first, end in Look(case.log).places(plan.pipeline):
        lag += end - following
        if not first <= following <= end:
            lost = f"is to go on at {following} of {topic} partition {number}, which has {first} to {end}"
            yield Finding("FAIL", where, lost, f"start with {anew}, and let the topic keep its records longer")
    yield Finding("ok", where, f"whole, of version {plan.version}; {lag:,} records are to be read")


def _state_beside_kafka(case: Case, plan: Plan) -> Iterator[Finding]:
    where = f"state of pipeline {plan.pipeline}"
    with closing(open_log(case.kafka, create=False)) as log:
        manifest = log.manifest(plan.pipeline)
        lag = sum(max(cursor.end - cursor.offset, 0) for cursor in log.cursors() if cursor.group == plan.pipeline)
    if manifest is None:
        yield Finding("ok", where, "there is none yet")
    elif (what := _difference(case, plan, msgspec.json.decode(manifest))) is not None:
        yield Finding("FAIL", where, what, f"{_AS_IT_WAS} headrace run {case.app} --anew, which forgets it")
    else:
        yield Finding("ok", where, f"of version {plan.version}; {lag:,} records are to be read")


def _fault_of_state(case: Case, plan: Plan, manifest: bytes, *, whole: bool) -> str | None:
    """Return why a run would not go on from a commit, if it would not."""
    from headrace.engines.embedded.state import Parts

    if not whole:
        return "its last commit is damaged"
    said: dict[str, Any] = msgspec.json.decode(manifest)
    what = _difference(case, plan, said)
    if what is not None:
        return what
    damaged = Look(case.log).damaged_part(plan.pipeline, sorted(Parts().keep(said)))
    return None if damaged is None else f"part {damaged} is damaged"


def _difference(case: Case, plan: Plan, said: Mapping[str, Any]) -> str | None:
    """Return why a run would not go on from a commit, where the pipeline or its topics are others now."""
    from headrace.engines.embedded.carrying import carried_over, new_ranks

    now = [f"{source.topic}/{number}" for source in plan.sources for number in range((case.topics or {}).get(source.topic, 0))]
    try:
        carried_over(plan, said)
        new_ranks(plan, said["sources"], now)
    except EnvironmentFault as fault:
        return fault.what
    return None
