"""Random plans over random input: in the run of each engine that has the suite's own cases, and compared with the plain reference.

A difference is made small by running single jobs on the engine at fault, and told as a case that can be put into cases/.
CONFORMANCE_SEED and CONFORMANCE_PLANS ask for other plans, or more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from conformance import suite
from conformance.by_reference import outcome as outcome_of_reference
from conformance.engine import CLUSTERS, Embedded, Engine, Job, Outcome, differences
from conformance.form import Case, Operator, Pipeline, Source, Step, read, written

SEED, PLANS = int(os.environ.get("CONFORMANCE_SEED", "1")), int(os.environ.get("CONFORMANCE_PLANS", "100"))
AT_LEAST = 50
ON_CLUSTERS = 12  # to these a plan is seconds; `make test-long` has them run all
LONG_SEED, LONG_PLANS = 2, 300
NAMED = "random plan "
START = 1_704_067_200_000  # 2024
SCHEMA = {"k": "STRING", "n": "BIGINT", "t": "BIGINT NOT NULL", "x": "DOUBLE", "m": "MAP<STRING, STRING>", "l": "ARRAY<DOUBLE>"}
BROKEN = [
    "{", "[1]", "7", "null", '{"t": 1}', '{"k": "a"}', '{"t": null}', '{"t": "soon"}', '{"t": 1704067200}', '{"t": 4102444800000}', '{"t": 1704067200000.5}',
    '{"t": 1704067200000, "x": "high"}', '{"t": 1704067200000, "x": NaN}', '{"t": 1704067200000, "m": []}', '{"t": 1704067200000, "l": ["x"]}',
    '{"t": 1704067200000}{"t": 1704067200000}', '{"t": 1704067200000, "k": "a\tb"}', '{"t": 01}', '{"t": 1704067200000, "n": 1.5}',
]  # fmt: skip
WINDOWS: list[tuple[dict[str, Any], int]] = [
    ({"tumbling": "10s"}, 10_000), ({"tumbling": "7ms"}, 7), ({"tumbling": "150s"}, 150_000), ({"sliding": ("30s", "10s")}, 10_000), ({"sliding": ("4m", "2m")}, 120_000),
    ({"cumulating": ("40s", "10s")}, 10_000), ({"cumulating": ("6m", "3m")}, 180_000), ({"tumbling": "1d"}, 86_400_000),
]  # fmt: skip
WHERES = [
    "x > 0",
    "x IS NOT NULL",
    "n IS NOT NULL",
    "NOT x > 1.5",
    "n % 2 = 0 OR x < 0",
    "x > 0 AND n IS NOT NULL",
    "k = 'a'",
    "x > 1000",
    "1 < 2",
    "'a' = 'b'",
]
DERIVED = [
    {"y": "x * 2 + 1"},
    {"y": "x - n"},
    {"n": "n % 3"},
    {"x": "-x"},
    {"k": "'one'"},
    {"text": "CAST(n AS STRING)"},
    {"y": "2 * 3.5"},
    {"n": "TRY_CAST('5' AS BIGINT)"},
]
AGGREGATES = {
    "rows": "COUNT(*)", "values": "COUNT(x)", "total": "SUM(x)", "sum": "SUM(n)", "low": "MIN(x)", "high": "MAX(n)", "mean": "AVG(x)", "mid": "MEDIAN(x)",
    "spread": "STDDEV_POP(x)", "kinds": "COUNT(DISTINCT n)", "some": "COUNT(*) FILTER (WHERE x > 0)", "range": "MAX(x) - MIN(x)", "least": "MIN(k)",
}  # fmt: skip
CONSTANT = {
    "ones": "COUNT(1)", "texts": "COUNT('x')", "sevens": "SUM(7)", "halves": "SUM(0.5)", "fives": "SUM(TRY_CAST('5' AS BIGINT))", "half": "AVG(0.5)", "one": "COUNT(DISTINCT 1)",
    "nothing": "COUNT(CAST(NULL AS DOUBLE))", "each": "COUNT(*) FILTER (WHERE 1 < 2)", "more": "COUNT(*) + 1", "flat": "STDDEV_POP(2.5)", "text": "MAX('x')",
}  # fmt: skip
ORDERED = {"all": "ARRAY_AGG(x)", "first": "FIRST_VALUE(n)", "last": "LAST_VALUE(t)", "same": "ARRAY_AGG(1)", "name": "FIRST_VALUE('x')"}
SECOND = {"groups": "COUNT(*)", "of": "SUM(rows)", "most": "MAX(rows)", "ones": "COUNT(1)", "sevens": "SUM(7)"}

# Plans and input


@st.composite
def pipelines(draw: st.DrawFn, topics: int, partitions: int, step: int, window: dict[str, Any]) -> Pipeline:
    """Draw operators. What depends on order is asked for only where there is but one: one partition and one slice."""
    rows = [Operator(from_="in-0"), *_wheres(draw)]
    if topics == 2:
        rows.append(Operator(union=[[Operator(from_="in-1"), *_wheres(draw)]]))
    unnested = draw(st.sampled_from([None, None, "m", "l"]))
    if unnested == "m":
        rows += [Operator(unnest="m", key="s", value="raw"), Operator(derive={"x": "TRY_CAST(raw AS DOUBLE)"})]
    if unnested == "l":
        rows += [Operator(unnest="l", value="e"), Operator(derive={"x": "e"})]
    if draw(st.booleans()):
        rows.append(Operator(derive=draw(st.sampled_from(DERIVED))))
    rows += _wheres(draw)
    plain = [*rows, Operator(select=draw(st.sampled_from([["k", "x"], ["t", "n"], {"a": "x + 0.5", "b": "k", "c": "n"}, {"a": "7", "b": "'x'"}])))]
    sinks = draw(st.sampled_from([("out",), ("out",), ("out",), ("out", "plain"), ("plain",)]))
    made = {"plain": plain} if "plain" in sinks else {}
    if "out" in sinks:
        keys = draw(st.sampled_from([[], ["k"], ["k", "n"], *([["s"], ["k", "s"]] if unnested == "m" else [])]))
        lateness, late = draw(st.sampled_from([(None, None)] * 4 + [(f"{step}ms", None), (None, "too-late"), (f"{3 * step}ms", "too-late")]))
        single = topics == partitions == 1 and window in ({"tumbling": "10s"}, {"tumbling": "7ms"})
        asked = draw(st.lists(st.sampled_from([*AGGREGATES, *(ORDERED if single else ())]), max_size=5, unique=True))
        calls = {name: (AGGREGATES | ORDERED)[name] for name in ("rows", *asked)}
        constant = draw(st.sampled_from([*CONSTANT]))
        calls[constant] = CONSTANT[constant]
        made["out"] = [*rows, Operator(window=window, by=keys, allowed_lateness=lateness, late_to=late), Operator(aggregate=calls)]
        if draw(st.booleans()):
            made["out"].append(Operator(where="rows > 1"))
        if draw(st.booleans()):
            made["out"].append(Operator(aggregate=SECOND, by=draw(st.sampled_from([[], keys[:1], keys[1:]]))))
    return Pipeline({topic: made[topic] for topic in sinks})


def _wheres(draw: st.DrawFn) -> list[Operator]:
    return [Operator(where=text) for text in draw(st.lists(st.sampled_from(WHERES), max_size=1))]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case: a plan, and disordered, late, broken and null-ridden records in one to three partitions."""
    window, step = draw(st.sampled_from(WINDOWS))
    topics = draw(st.sampled_from([1, 1, 2]))
    delays = [draw(st.sampled_from([0, step // 2, step, 2 * step + 1])) for _ in range(topics)]
    counts = [draw(st.integers(1, 3)) for _ in range(topics)]
    edges = st.sampled_from([-1, 0, 1, step // 3, *(delay - 1 for delay in delays), *delays])
    times = st.builds(lambda steps, edge: START + steps * step + edge, st.integers(0, 9), edges)
    quarters = st.integers(-40, 40).map(lambda quarters: quarters / 4)
    texts = st.sampled_from(["1", "-2.5", "3e2", " 4 ", "null", "off", "", "1e999"])
    records = st.fixed_dictionaries(
        {"t": times},
        optional={
            "k": st.sampled_from(["a", "b", "é", "", None]),
            "n": st.integers(-3, 3) | st.none() | st.just("5"),
            "x": quarters | st.none() | st.sampled_from(["1", " 2.5 "]),
            "m": st.none() | st.dictionaries(st.sampled_from("pqr"), texts | st.none() | quarters, max_size=3),
            "l": st.none() | st.lists(quarters | st.none(), max_size=3),
            "more": st.integers(0, 9),
        },
    )
    lines = st.lists(st.one_of(records, records, records, records, records, st.sampled_from(BROKEN).map(lambda raw: {"raw": raw})), max_size=9)
    sources = {f"in-{number}": Source(SCHEMA, "TO_TIMESTAMP_LTZ(t, 3)", f"{delay}ms") for number, delay in enumerate(delays)}
    places = [f"in-{topic}/{partition}" for topic, count in enumerate(counts) for partition in range(count)]
    steps = [Step(rows={place: draw(lines) for place in places})]
    if draw(st.sampled_from([False] * 5 + [True])):
        steps += [Step(restart=True), Step(rows={place: draw(lines) for place in places})]
    pipeline = draw(pipelines(topics, sum(counts), step, window))
    return Case("random", "headrace", sources, steps, pipeline, {}, "reference")


def generated(check: Callable[[Case], None], *phases: Phase, seeded: int = SEED, plans: int = PLANS) -> None:
    """Put the same random cases, one after the other, to `check`; with the phase of shrinking, smaller ones behind one that fails."""
    quiet = settings(
        max_examples=plans, phases=phases, database=None, deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False
    )
    seed(seeded)(quiet(given(cases())(check)))()


# The comparison


class Differs(AssertionError):
    """An engine gave otherwise than the reference."""


def expected(case: Case) -> Outcome:
    return outcome_of_reference(case)


def told(case: Case) -> str:
    """Return a case as it may be put into cases/, with what the reference gives."""
    outcome = expected(case)
    dead: dict[str, list[int]] = {}
    for topic, letters in outcome.dead.items():
        for letter in letters:
            dead.setdefault(f"{topic}/{letter['partition']}", []).append(letter["offset"])
    ledger = {topic: {fate: n for fate, n in counts.items() if n and fate != "received"} for topic, counts in outcome.ledger.items()}
    return written(msgspec.structs.replace(case, expected=outcome.written, dead=dead, ledger=ledger))


def numbered(batch: Sequence[Case], engine: str) -> dict[str, Job]:
    """Return the jobs of cases as an engine is asked for them. Their names tell the cases: another process may draw others.

    To a cluster a restart is seconds: it has those of the suite's own cases.
    """
    jobs = {NAMED + written(case): msgspec.structs.replace(case, name=f"random-{number}").job() for number, case in enumerate(batch)}
    return {name: replace(job, restarts=()) for name, job in jobs.items()} if engine in CLUSTERS else jobs


@cache
def drawn(seeded: int, plans: int) -> tuple[Case, ...]:
    """Return the random cases of a seed, each once."""
    batch: dict[str, Case] = {}

    def gather(case: Case) -> None:
        batch.setdefault(written(case), case)

    generated(gather, Phase.generate, seeded=seeded, plans=plans)
    return tuple(batch.values())


def batch_of(engine: str) -> Sequence[Case]:
    """Return the cases that an engine runs beside those of the suite."""
    return drawn(SEED, PLANS)[: None if asked_for_more() or engine not in CLUSTERS else ON_CLUSTERS]


def asked_for_more() -> bool:
    return "CONFORMANCE_PLANS" in os.environ


def jobs(engine: str) -> dict[str, Job]:
    """Return the same as jobs by name."""
    return numbered(batch_of(engine), engine)


def faults(engine: Engine, batch: Sequence[Case], gave: Sequence[Outcome] | None = None) -> list[list[str] | None]:
    """Return for each case what an engine gives otherwise, or None where it refuses what the suite knows that it refuses.

    Where there are no outcomes of it yet, it is run.
    """
    known = [why for case in suite.cases().values() for name, why in case.unsupported.items() if name == engine.name]
    found: list[list[str] | None] = []
    for case, got in zip(batch, gave or engine.run(list(numbered(batch, engine.name).values())), strict=True):
        refused = got.refused is not None and any(re.search(why, str(got.refused)) for why in known)
        found.append(None if refused else differences(got, expected(case)))
    return found


def smallest(engine: Engine, known: dict[str, list[str] | None], seeded: int, plans: int) -> tuple[Case, list[str]]:
    """Return a case as small as can be in which an engine gives otherwise, given what was found in those of the batch."""
    last: list[tuple[Case, list[str]]] = []

    def check(case: Case) -> None:
        text = written(case)
        if text not in known:
            (known[text],) = faults(engine, [case])
        if wrong := known[text]:
            last.append((case, wrong))
            raise Differs

    with suppress(Differs):
        generated(check, Phase.generate, Phase.shrink, seeded=seeded, plans=plans)
    return last[-1]


def compare(engine: Engine, batch: Sequence[Case], gave: Sequence[Outcome] | None = None, *, seeded: int = SEED) -> int:
    """Return how many of a seed's random cases were compared. Raises Differs with a small case, if any gave otherwise."""
    known = dict(zip(map(written, batch), faults(engine, batch, gave), strict=True))
    wrong = sum(1 for found in known.values() if found)
    if wrong:
        case, found = smallest(engine, known, seeded, len(batch))
        raise Differs("\n".join([f"{engine.name}: {wrong} of {len(batch)} plans (seed {seeded}); one made small:", *found, told(case)]))
    return sum(found is not None for found in known.values())


def test_an_engine_gives_what_the_reference_gives_over_random_plans(engine: Engine, outcomes: Mapping[str, Outcome]) -> None:
    told = {name.removeprefix(NAMED): outcome for name, outcome in outcomes.items() if name.startswith(NAMED)}
    batch = [one for text in told for one in read(f"[{text}]")]
    assert len(batch) >= min(AT_LEAST, ON_CLUSTERS, PLANS) // 2
    assert compare(engine, batch, list(told.values())) >= len(batch) // 2


@pytest.mark.long
def test_an_engine_gives_it_over_hundreds(engine: Engine, record_property: Callable[[str, object], None]) -> None:
    batch = drawn(LONG_SEED, LONG_PLANS)
    compared = compare(engine, batch, seeded=LONG_SEED)
    record_property(f"random plans on {engine.name}", compared)
    assert compared >= len(batch) // 2


class _Forgetful:
    """An engine that loses the rows of windows that hold three rows or more, unless they have the key k."""

    name = "forgetful"

    def missing(self) -> str | None:
        return None

    def run(self, jobs: Sequence[Job], *, interpreted: bool = False) -> list[Outcome]:
        outcomes = Embedded().run(jobs, interpreted=interpreted)
        for rows in (outcome.written for outcome in outcomes if "out" in outcome.written):
            rows["out"] = [row for row in rows["out"] if row.get("rows", 0) < 3 or "k" in row]
        return outcomes


def test_a_difference_is_made_small_and_told_as_a_case_that_can_be_read() -> None:
    with pytest.raises(Differs) as raised:
        compare(_Forgetful(), drawn(SEED, 40))
    _, brace, text = str(raised.value).partition("\n{")
    (case,) = read(f"[{brace}{text}]")
    job = case.job()
    assert sum(len(records) for partitions in job.inputs.values() for records in partitions) == 3
    assert not differences(*Embedded().run([job]), case.outcome(job))
    assert differences(*_Forgetful().run([job]), case.outcome(job))
