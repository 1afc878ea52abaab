"""The cases of the function table as jobs: scalar calls over constants and over columns, aggregates over the slices of a window."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any

import headrace as hr
from conformance.engine import CLUSTERS, Job, Outcome, alike
from headrace.plan.expression import Call, Column, Expression, Literal, rebuild
from headrace.plan.functions import AGGREGATES, FUNCTIONS, Aggregate, Function
from headrace.plan.graph import node
from headrace.plan.operators import Select
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING, Schema, Type
from headrace.plan.settings import current_settings
from headrace.plan.sql import parse_expression
from headrace.plan.stream import Stream

AT_ONCE = 8
START, MINUTE = 1_704_067_200_000, 60_000
WRITTEN_OUT = ("UUID_V5",)  # which clusters are told in many words


@dataclass(frozen=True)
class Probe:
    """One case of a function: where its value stands in the outcome of which job, as often as it is asked for, and what it is."""

    text: str
    job: str
    places: tuple[tuple[str, int, str], ...]
    expected: Any


def gaps(function: Function | Aggregate, engine: str) -> tuple[str, ...]:
    """Return the cases that the function table says an engine answers otherwise."""
    return getattr(function, f"{engine}_gaps", ())


def lacking(function: Function | Aggregate, engine: str) -> bool:
    """Return whether the function table says that an engine has no such function."""
    return engine in CLUSTERS and getattr(function, engine, "") is None and function.name not in WRITTEN_OUT


def faults(probes: Sequence[Probe], outcomes: Mapping[str, Outcome], known: Sequence[str]) -> list[str]:
    """Return a line for each case that is answered otherwise, but for those `known`, and for each of those that no longer is."""
    found = []
    for probe in probes:
        outcome = outcomes[probe.job]
        if outcome.refused is not None:
            return [f"refused: {outcome.refused}"]
        values = [_value(outcome, *place) for place in probe.places]
        wrong = [value for value in values if not alike(value, probe.expected)]
        if wrong and probe.text not in known:
            found.append(f"{probe.text}: {wrong[0]!r}, expected {probe.expected!r}")
        if not wrong and probe.text in known:
            found.append(f"{probe.text}: as expected; it is no gap any more")
    return found


def _value(outcome: Outcome, topic: str, row: int, column: str) -> Any:
    """Return what stands in a column of the row whose `row` is that number."""
    return next((one.get(column, "no such column") for one in outcome.written.get(topic, ()) if one["row"] == row), "no such row")


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda time: time.isoformat(timespec="milliseconds").replace("+00:00", "Z")))


@cache
def probes() -> dict[str, list[Probe]]:
    """Return the cases by function."""
    return _asked()[1]


@cache
def jobs() -> dict[str, Job]:
    """Return the jobs by name. A function that any cluster lacks has one of its own, so that only it is refused."""
    return _asked()[0]


@cache
def _asked() -> tuple[dict[str, Job], dict[str, list[Probe]]]:
    made: dict[str, Job] = {}
    found: dict[str, list[Probe]] = {}
    shared = [one for one in FUNCTIONS.values() if not _lonely(one)]
    batches = [shared[first : first + AT_ONCE] for first in range(0, len(shared), AT_ONCE)] + [[one] for one in FUNCTIONS.values() if _lonely(one)]
    for batch in batches:
        name = f"functions {batch[0].name} to {batch[-1].name}" if len(batch) > 1 else f"function {batch[0].name}"
        made[name] = _scalar(name, batch, found)
    for function in AGGREGATES.values():
        name = f"aggregate {function.name}"
        made[name], found[function.name] = _aggregate(name, function)
    return made, found


def _lonely(function: Function) -> bool:
    templates = [getattr(function, name, "") for name in CLUSTERS]
    return any(template is None or (isinstance(template, tuple) and None in template) for template in templates)


# Scalar functions


def _scalar(name: str, functions: Sequence[Function], found: dict[str, list[Probe]]) -> Job:
    """Return a job of one record and one row, two columns a case: one over constants, one over columns that hold them."""
    given: list[Literal] = []
    columns: dict[str, tuple[str, bool]] = {}
    for function in functions:
        found[function.name] = []
        for text, expected in function.cases:
            if _untyped(parse_expression(text, Schema(())).type):
                continue
            mine = f"k{len(columns)}", f"m{len(columns)}"
            columns |= {mine[0]: (text, False), mine[1]: (text, True)}
            found[function.name].append(Probe(text, name, tuple(("out", 0, one) for one in mine), _json(expected)))

    def build() -> dict[str, hr.Stream]:
        expressions = {column: parse_expression(text, Schema(()), current_settings()) for column, (text, _) in columns.items()}
        moved = {column: _moved(expressions[column], given) if move else expressions[column] for column, (_, move) in columns.items()}
        schema = {"row": "BIGINT", **{f"c{number}": str(one.type) for number, one in enumerate(given)}}
        stream = hr.stream("given", schema=schema)
        return {"out": Stream(node(Select((("row", Column("row", BIGINT)), *moved.items())), stream.node), "functions")}

    plan = hr.pipeline("pipeline", version="0")(build).plan()
    record = {"row": 0, **{f"c{number}": one.value for number, one in enumerate(given)}}
    return Job(plan, {"given": [[json.dumps(record, ensure_ascii=False).encode()]]})


def _untyped(kind: Type) -> bool:
    return kind == NULL or any(map(_untyped, kind.arguments))


def _moved(expression: Expression, given: list[Literal]) -> Expression:
    """Return the expression with columns put for the constants that may be columns, which are added to `given`."""
    if isinstance(expression, Literal):
        if expression.type == NULL:
            return expression
        given.append(expression)
        return Column(f"c{len(given) - 1}", expression.type)
    if isinstance(expression, Call):
        fixed = FUNCTIONS[expression.function].literal
        arguments = tuple(one if place in fixed else _moved(one, given) for place, one in enumerate(expression.arguments))
        return Call(expression.function, arguments, expression.type)
    return rebuild(expression, lambda one: _moved(one, given))


# Aggregates


def _aggregate(name: str, function: Aggregate) -> tuple[Job, list[Probe]]:
    """Return a job with a group for each case, its rows once in one slice and once each in a slice of its own."""
    schema = {"row": "BIGINT NOT NULL", "t": "BIGINT NOT NULL"}
    calls, records, found = {}, [], []
    for row, (text, rows, expected) in enumerate(function.cases):
        pairs = [one if isinstance(one, tuple) else (one,) for one in rows]
        for letter, values in zip("xy", zip(*pairs, strict=True), strict=False):
            schema[f"{letter}{row}"] = str(_kind(values))
        calls[f"a{row}"] = re.sub(r"\b([xy])\b", rf"\g<1>{row}", text)
        for number, pair in enumerate(pairs):
            records.append({"row": row, "number": number, **{f"{letter}{row}": value for letter, value in zip("xy", pair, strict=False)}})
        found.append(Probe(text, name, (("apart", row, f"a{row}"), ("together", row, f"a{row}")), _json(expected)))
    plan = hr.pipeline(name, version="1")(lambda: {topic: _windowed(topic, schema, calls) for topic in ("apart", "together")}).plan()
    return Job(plan, {f"{topic}-rows": [list(_lines(records, spread))] for topic, spread in (("apart", MINUTE + 1000), ("together", 1000))}), found


def _windowed(topic: str, schema: Mapping[str, str], calls: Mapping[str, str]) -> hr.Stream:
    stream = hr.stream(f"{topic}-rows", schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return stream.window(hr.tumbling(hr.minutes(20)), by=["row"]).aggregate(**calls)


def _lines(records: Sequence[Mapping[str, Any]], spread: int) -> Iterator[bytes]:
    """Yield the lines of records in the order of time: all first ones, all second ones."""
    ordered = sorted(records, key=lambda record: record["number"])
    for number, together in groupby(ordered, key=lambda record: record["number"]):
        for record in together:
            yield json.dumps({**record, "t": START + number * spread}, ensure_ascii=False).encode()


def _kind(values: Sequence[Any]) -> Type:
    kinds = {bool: BOOLEAN, int: BIGINT, float: DOUBLE, str: STRING}
    assert not any(isinstance(value, datetime) for value in values)
    return next((kinds[type(value)] for value in values if value is not None), BIGINT)
