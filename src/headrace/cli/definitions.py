"""`headrace alarms check`: definitions of alarms looked at; and names in `caused_by` that are of no alarm, told wherever definitions are checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice

import msgspec

from headrace._json import NOT_JSON, json_object
from headrace.alarms.cause import Causes, FixedCauses, unknown_causes
from headrace.alarms.definition import definitions_of, take_definition
from headrace.alarms.operator import DEFINITION_SCHEMA
from headrace.alarms.process import FixedAlarms, TagAlarms
from headrace.cli.logs import KafkaOptions, open_log
from headrace.cli.tables import counted, printable
from headrace.errors import HeadraceError, PlanError, near, shortened
from headrace.plan.graph import Node
from headrace.plan.operators import Process
from headrace.plan.pipeline import Plan
from headrace.topics.entries import entries_of
from headrace.topics.protocol import Log

__all__ = ["check_definitions", "unknown_in_tables", "unknown_in_topics"]

Named = Mapping[str, Sequence[str]]  # by alarm, those that may cause it
_MOST_LINES = 5
_MOST_COMPARED = 5_000  # names


class Doubtful(HeadraceError):
    """Definitions are refused, or name alarms that there are not."""

    exit_status = 1


class _Row(msgspec.Struct):
    """What is read of a record of a definition."""

    tag: str
    definition: str
    withdrawn: bool | None = None
    caused_by: list[str] | None = None


def check_definitions(topic: str = "alarm-definitions", /, *, kafka: KafkaOptions = KafkaOptions()) -> None:
    """Check the definitions of alarms in a topic. The exit status is 1 if one is refused, or names a cause that no definition has.

    Parameters
    ----------
    topic
        The topic of definitions.
    """
    refused, in_force = [], dict[str, list[str]]()
    with closing(open_log(kafka, create=False)) as log:
        for entry in entries_of(log, topic):
            try:
                take_definition({**dict.fromkeys(DEFINITION_SCHEMA), **(json_object(entry.value) or {})}, in_force)
            except PlanError as error:
                refused.append(f"{topic}/{entry.partition} offset {entry.offset}: {error}")
    every = {one.alarm_id: one.caused_by or () for texts in in_force.values() for _, one in definitions_of(tuple(texts))}
    print(f"{topic}: {counted(len(every), 'definition')} in force, {len(refused):,} refused")
    found = list(_lines(every))
    for line in (*refused, *found):
        print(printable(line))
    if refused or found:
        what = f"{counted(len(refused), 'definition')} refused, {counted(len(found), 'name')} in caused_by of no alarm"
        raise Doubtful(what, where=f"topic {topic}", fix="write the definitions again; a name may also be defined later")


def unknown_in_tables(plans: Iterable[Plan]) -> list[str]:
    """Return lines on the definitions that pipelines have as tables; none where others come by a topic, which is not read."""
    codes = [one.operator.code for one in _processes(plans)]
    tables = [code.definitions for code in codes if isinstance(code, FixedAlarms | FixedCauses)]
    if len(tables) < len(codes):
        return []
    return _few(_lines({one.alarm_id: one.caused_by or () for table in tables for texts in table.values() for _, one in definitions_of(texts)}))


def unknown_in_topics(log: Log, plans: Iterable[Plan]) -> list[str]:
    """Return lines on the definitions in the topics that pipelines read them from, as far as these are there. Refused ones count too."""
    topics = {topic for one in _processes(plans) if one.broadcast is not None for topic in one.broadcast.traits.topics}
    named: dict[str, Sequence[str]] = {}
    for topic in sorted(topics):
        for entry in entries_of(log, topic, missing_ok=True):
            try:
                row = msgspec.json.decode(entry.value, type=_Row)
            except NOT_JSON:
                continue
            if row.withdrawn:
                named.pop(f"{row.tag}/{row.definition}", None)
            else:
                named[f"{row.tag}/{row.definition}"] = row.caused_by or ()
    return _few(_lines(named))


def _few(lines: Iterator[str]) -> list[str]:
    return list(islice(lines, _MOST_LINES))


def _processes(plans: Iterable[Plan]) -> list[Node[Process]]:
    """Return the processes that have definitions of alarms."""
    return [one for plan in plans for one in plan.processes if isinstance(one.operator.code, TagAlarms | Causes)]


def _lines(named: Named) -> Iterator[str]:
    """Yield a line for each cause that no definition has."""
    for alarm, cause in unknown_causes(named):
        tag = cause.rpartition("/")[0]
        hint = near(cause, named if len(named) <= _MOST_COMPARED else [one for one in named if one.rpartition("/")[0] == tag])
        fix = f"{hint} Else define it" if hint.startswith("did") else "define it, or correct the name"
        yield str(PlanError(f"caused_by names {shortened(repr(cause), 80)}, and there is no such alarm", where=f"alarm {alarm}", fix=fix))
