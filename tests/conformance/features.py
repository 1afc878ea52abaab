"""Features of cases, by which docs/support.md counts them, and the sample of the cases that a cluster runs in `make test`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import combinations

from conformance import suite
from conformance.form import Case, Operator, Source


def has_operator(test: Callable[[Operator], bool]) -> Callable[[Case], bool]:
    return lambda case: any(map(test, _operators(case)))


def _operators(case: Case) -> Iterator[Operator]:
    """Yield the operators of a case, those within unions too."""

    def within(operators: list[Operator]) -> Iterator[Operator]:
        for one in operators:
            yield one
            for branch in one.union or ():
                yield from within(branch)

    for operators in (*case.pipeline.sinks.values(), *case.pipeline.streams.values()):
        yield from within(operators)


def _window(kind: str) -> Callable[[Case], bool]:
    return has_operator(lambda one: one.window is not None and kind in one.window)


def _unnests(kind: str) -> Callable[[Case], bool]:
    return has_operator(lambda one: one.unnest is not None and (one.key is not None) == (kind == "MAP"))


def _late(case: Case) -> bool:
    return any(counts.get("late") for counts in case.ledger.values())


def takes_derived_rows(case: Case) -> bool:
    """Return whether a window or a process takes the rows of another."""

    def stages(operators: list[Operator]) -> int:
        first, *others = operators
        before = stages(case.pipeline.streams[first.from_]) if first.from_ in case.pipeline.streams else 0
        told = [stages(case.pipeline.streams[one.broadcast]) for one in others if one.broadcast in case.pipeline.streams]
        joined = [stages(branch) for one in others for branch in one.union or ()]
        return max([before, *joined]) + sum(one.window is not None or one.process is not None for one in others) + max(told, default=0)

    return any(stages(operators) > 1 for operators in case.pipeline.sinks.values())


_OVER_TIME = ("TIME_AVERAGE", "PERCENT_GOOD", "DURATION_GOOD", "DURATION_IN_STATE", "NUMBER_OF_TRANSITIONS")
RESTARTS = "restarts between records"
FEATURES: dict[str, Callable[[Case], bool]] = {
    "tumbling windows": _window("tumbling"),
    "sliding windows": _window("sliding"),
    "cumulating windows": _window("cumulating"),
    "windows with an offset": has_operator(lambda one: one.window is not None and one.offset is not None),
    "windows in a time zone": has_operator(lambda one: one.window is not None and one.zone is not None),
    "a second aggregate within the window": has_operator(lambda one: one.aggregate is not None and one.by is not None),
    "late records left out and counted": _late,
    "late rows kept, `late_to`": has_operator(lambda one: one.late_to is not None),
    "allowed lateness and revisions": has_operator(lambda one: one.allowed_lateness is not None),
    "several partitions, each with its own watermark": lambda case: any(len(records) > 1 for records in case.job().inputs.values()),
    "unnesting a MAP": _unnests("MAP"),
    "unnesting an ARRAY": _unnests("ARRAY"),
    "unions": has_operator(lambda one: one.union is not None),
    "rows without a window": lambda case: any(all(one.window is None for one in operators) for operators in case.pipeline.sinks.values()),
    "processes: state, TTL, timers, lateness": has_operator(lambda one: one.process is not None and one.order is None),
    "side outputs, broadcasts and failures of processes": has_operator(lambda one: bool(one.side or one.broadcast or one.failed_to)),
    "several inputs of a process": has_operator(lambda one: bool(one.inputs)),
    "detectors, `hr.detect`": has_operator(lambda one: one.process in {"Ranges", "Sums"}),
    "running aggregates, LAG and LEAD, `over`": has_operator(lambda one: one.over is not None),
    "aggregates over the time between readings, in `over`": has_operator(lambda one: _over_time(one.over)),
    "aggregates over the time between readings, in windows": has_operator(lambda one: _over_time(one.aggregate)),
    "windows and processes over derived rows": takes_derived_rows,
    "`deduplicate` and `top_n`": has_operator(lambda one: one.deduplicate is not None or one.top_n is not None),
    "several outputs": lambda case: len(case.pipeline.sinks) > 1,
    "dead letters": lambda case: bool(case.dead),
    "the ledger": lambda case: bool(case.ledger),
    RESTARTS: lambda case: any(step.restart for step in case.steps),
}


def _over_time(calls: Mapping[str, str] | None) -> bool:
    return any(name in text for name in _OVER_TIME for text in (calls or {}).values())


@cache
def having(feature: str) -> tuple[str, ...]:
    return tuple(name for name, case in suite.cases().items() if FEATURES[feature](case))


# The sample of a cluster


# Each takes a branch of the translation to a cluster's SQL that no other of the sample takes.
ALWAYS = ("seven-milliseconds", "event-time-by-a-pattern", "windows-are-broadcast-to-a-process", "zone-of-utc", "half-an-hour-back")


@cache
def sample(engine: str) -> frozenset[str]:
    """Return the names of the jobs of cases, and of those that restart, which a cluster runs where all would take many minutes.

    Each trait that any case has, each two that any case has together, and each function stand in one of them. A case with a mark is one of them.
    """
    chosen = set(ALWAYS)
    for cases in (suite.cases(), suite.restarted()):
        marked = {name for name, case in cases.items() if suite.mark({**case.unsupported, **case.differs}, suite.jobs()[name], engine) is not None}
        chosen |= _covering({name: _told(case) for name, case in cases.items()}, marked | (chosen & cases.keys()))
    return frozenset(chosen)


def _covering(told: Mapping[str, frozenset[str | tuple[str, str]]], chosen: Iterable[str]) -> set[str]:
    """Return names, those that are chosen and few others, that tell together what all tell."""
    found = set(chosen)
    lacking = frozenset().union(*told.values()) - frozenset().union(*(told[name] for name in found))
    while lacking:
        best = max(sorted(told), key=lambda name: len(told[name] & lacking))
        found.add(best)
        lacking -= told[best]
    return found


def _told(case: Case) -> frozenset[str | tuple[str, str]]:
    """Return the traits of a case, each two of them, and what it names but once: functions and types."""
    traits = {feature for feature, has in FEATURES.items() if has(case)} | {name for source in case.sources.values() for name in _fields(source)}
    words: set[str] = set()
    for one in _operators(case):
        traits |= {f"{kind} windows" for kind in one.window or ()} | {name for name in _fields(one) if name != "Operator.from_"}
        words |= {f"process {one.process}", f"order {one.order}", *re.findall(r"\b[A-Z_]+(?=\()", repr(one))}
    words |= {re.split(r"[(<]", kind)[0] for source in case.sources.values() for kind in source.schema.values()}
    return frozenset(traits | words | {*combinations(sorted(traits), 2)})


def _fields(one: Source | Operator) -> Iterator[str]:
    """Yield the names of the fields that are given."""
    return (f"{type(one).__name__}.{name}" for name in one.__struct_fields__ if getattr(one, name) is not None)
