"""The confirmation of `--anew`: it reports the effect before anything is forgotten."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import msgspec

from headrace.cli.logs import KafkaOptions, NoLogYet, open_log
from headrace.errors import HeadraceError, PlanError
from headrace.plan.pipeline import Plan
from headrace.topics.beginning import Begin, offsets_from
from headrace.topics.protocol import Log, TopicInfo

__all__ = ["confirm", "confirm_pipeline", "confirm_savepoint"]


def confirm_pipeline(plan: Plan, kafka: KafkaOptions, *, yes: bool, kept: bool = False, begin: Begin | None = None) -> None:
    """Go on only if it is meant that a pipeline forgets what it has committed; one that has committed nothing has nothing to forget.

    Parameters
    ----------
    kafka
        The options that name a Kafka cluster.
    yes
        Whether --yes was given: then what is done is said, and not asked.
    begin
        Where the pipeline begins then.
    kept
        Whether another engine keeps state of it; else its state is in the log.

    Raises
    ------
    PlanError
        If nobody can be asked.
    HeadraceError
        If the answer is no.
    """
    try:
        log = open_log(kafka, create=False)
    except NoLogYet:
        return
    with closing(log):
        if not kept and not _has_committed(log, plan.pipeline):
            return
        there = {info.name: info for info in log.topics()}
        read = [source.topic for source in plan.sources if source.topic in there]
        again = {topic: _behind(there[topic], offsets) for topic, offsets in offsets_from(log, read, begin or "earliest").items()}
    confirm(f"forgets what pipeline {plan.pipeline} has committed: {'; '.join(_effects(plan, there, again))}", yes=yes)


def confirm_savepoint(plan: Plan, again: Mapping[str, int], *, yes: bool) -> None:
    """Continue only if the user agrees that records, counted by topic, are read again from a savepoint on. Raises as `confirm_pipeline` does."""
    if again:
        records = ", ".join(f"{count:,} records of {topic}" for topic, count in again.items())
        confirm(
            f"goes back to where pipeline {plan.pipeline} was: {records} are read again, and their results written again", "--from-savepoint", yes=yes
        )


def confirm(what: str, option: str = "--anew", *, yes: bool) -> None:
    """Say what an option does, and go on only if it is meant. Raises as `confirm_pipeline` does."""
    if yes:
        print(f"headrace: {option} {what}", file=sys.stderr)
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise PlanError(what, where=option, fix="add --yes if that is meant; without a terminal nobody can be asked")
    question = "Start anew?" if option == "--anew" else "Start there?"
    print(f"headrace: {option} {what}\n{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise HeadraceError("not confirmed; nothing was changed", where=option, fix="leave it out to resume from the last commit")


def _has_committed(log: Log, pipeline: str) -> bool:
    try:
        return log.manifest(pipeline) is not None
    except (HeadraceError, msgspec.DecodeError):
        return True  # there is something, and it cannot be read: that may be why it is to be forgotten


def _behind(info: TopicInfo, offsets: Sequence[int]) -> int:
    return sum(part.end - offset for part, offset in zip(info.partitions, offsets, strict=True))


def _effects(plan: Plan, there: dict[str, TopicInfo], again: Mapping[str, int]) -> Iterator[str]:
    for source in plan.sources:
        yield f"{again.get(source.topic, 0):,} records of {source.topic} are read again"
    for topic in (*plan.topics, *(f"{source.topic}.dead-letter" for source in plan.sources)):
        if count := _records(there, topic):
            yield f"results are written again to {topic}, behind the {count:,} records that it has"


def _records(there: dict[str, TopicInfo], topic: str) -> int:
    return sum(part.end - part.first for part in there[topic].partitions) if topic in there else 0
