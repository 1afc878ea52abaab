"""The topics of a plan on a log."""

from __future__ import annotations

from headrace.errors import PlanError
from headrace.plan.pipeline import Plan
from headrace.topics.protocol import Log

__all__ = ["RETENTION_MS", "make_topic", "make_topics"]


RETENTION_MS = 30 * 86_400_000  # of topics that a run makes


def make_topics(log: Log, plan: Plan, *own: str) -> None:
    """Make the topics that a plan writes and `own` besides, if they are not there; those it reads must be.

    A topic of dead letters has as many partitions as the topic that they come from. Topics that the plan writes, and those of dead
    letters, keep their records for 30 days; `own`, which a replay may need, for ever.

    Raises
    ------
    PlanError
        If one that it reads is not there, or one cannot be made.
    """
    there = {info.name for info in log.topics()}
    partitions = {f"{source.topic}.dead-letter": len(log.topic(source.topic).partitions) for source in plan.sources}
    for topic in (*plan.topics, *partitions, *own):
        if topic not in there:
            make_topic(log, topic, partitions.get(topic, 1), None if topic in own else RETENTION_MS)


def make_topic(log: Log, topic: str, partitions: int, retention_ms: int | None) -> None:
    """Make a topic if it is not there. Raises PlanError if it cannot be made."""
    if topic in {info.name for info in log.topics()}:
        return
    try:
        log.create(topic, partitions, retention_ms=retention_ms)
    except PlanError as refused:
        # Another pipeline that reads the same topic may just have made the one for its dead letters.
        try:
            log.topic(topic)
        except PlanError:
            raise refused from None
