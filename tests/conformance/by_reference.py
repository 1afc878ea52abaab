"""A case told to the plain reference (tests/reference.py), as far as the two speak the same words. Nothing of headrace computes here."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, partial
from itertools import takewhile
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

import reference
from conformance.engine import Outcome
from conformance.form import Case, Operator, letter, milliseconds
from reference import Branch, Instant, Row, instant, over, value_or_null

Rows = Callable[[str, Row], list[Row]]
NOT_SPOKEN = ("ROW<", "`")


class Unspoken(Exception):
    """The case says what the reference does not know."""


def outcome(case: Case) -> Outcome:
    """Return what the reference makes of a case. Raises Unspoken if it cannot."""
    inputs = case.job().inputs
    sources = [_source(case, topic, partitions) for topic, partitions in inputs.items()]
    branches, afterwards = [], {}
    for sink, operators in case.pipeline.sinks.items():
        branch, rest = _branch(case, sink, operators)
        branches.append(branch)
        afterwards[sink] = rest
    found = reference.run(sources, branches)
    written = {sink: [_shown(row) for one in rows for row in afterwards.get(sink, lambda row: [row])(one)] for sink, rows in found.written.items()}
    dead = {
        topic: [
            letter(topic, one["partition"], one["offset"], one["raw"]) | {"pipeline": case.name, "detail": "malformed", "arrived_ms": None}
            for one in letters
        ]
        for topic, letters in found.dead.items()
    }
    return Outcome(written, dead, found.ledger)


def _shown(value: Any) -> Any:
    match value:
        case Instant():
            return instant(value)
        case dict():
            return {key: _shown(inner) for key, inner in value.items()}
        case list():
            return [_shown(inner) for inner in value]
    return value


# Sources


@dataclass(frozen=True)
class _Source(reference.Source):
    """A source whose event time is what an expression says."""

    moment: Callable[[Row], int | None] = lambda _: None
    believed: range = reference.EVENT_TIMES

    def read(self, line: bytes) -> Row:
        row = reference.Source.read(replace(self, time=None), line) if self.time else super().read(line)
        if not self.time:
            return row
        if (moment := self.moment(row)) is None or int(moment) not in self.believed:
            raise ValueError(line)
        return row | {"@time": int(moment)}


def _source(case: Case, topic: str, partitions: Sequence[Sequence[bytes]]) -> _Source:
    source = case.sources[topic]
    if source.rest or any(word in kind for kind in source.schema.values() for word in NOT_SPOKEN):
        raise Unspoken(topic)
    files = [b"".join(record + b"\n" for record in records) for records in partitions]
    if source.event_time is None:
        return _Source(topic, source.schema, files, milliseconds(source.watermark), None)
    first, end = map(_day_ms, source.event_time_range or ("2000-01-01", "2100-01-01"))
    return _Source(
        topic, source.schema, files, milliseconds(source.watermark), "@time", partial(_value, _parsed(source.event_time)), range(first, end)
    )


def _day_ms(day: str) -> int:
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * 86_400_000


# Operators


def _branch(case: Case, sink: str, operators: list[Operator]) -> tuple[Branch, Callable[[Row], list[Row]]]:
    """Return the branch of a sink, and what is done to each of its rows behind it."""
    before = list(takewhile(lambda one: one.kind != "window", operators))
    topics, rows = _flow(case, before)
    if len(before) == len(operators):
        return Branch(sink, topics, rows), lambda row: [row]
    window, aggregate, *others = operators[len(before) :]
    having = list(takewhile(lambda one: one.kind == "where", others))
    regroup = others[len(having)] if len(having) < len(others) and others[len(having)].kind == "aggregate" else None
    after = others[len(having) + 1 :] if regroup else others
    branch = Branch(
        sink, topics, rows, _window(window), window.by or (), _calls(aggregate),
        milliseconds(window.allowed_lateness or "0s"), window.late_to,
    )  # fmt: skip
    if regroup:
        if not {*regroup.by} <= {*branch.keys}:
            raise Unspoken(f"aggregate by {regroup.by}")
        keep = [_parsed(one.where) for one in having]
        branch = replace(branch, having=lambda row: all(_value(node, row) is True for node in keep), regroup=(regroup.by or (), _calls(regroup)))
    return branch, lambda row: _through(after, [row])


def _window(one: Operator) -> reference.Window:
    ((kind, lengths),) = one.window.items()
    size, step = (lengths, lengths) if isinstance(lengths, str) else lengths
    offset, zone = milliseconds(one.offset or "0s"), one.zone
    if size.endswith("mo"):
        if not step.endswith("mo"):
            raise Unspoken(f"{size} by {step}")
        months, every = (int(length.removesuffix("mo")) for length in (size, step))
        return reference.LocalWindow(kind, months // every, 1, offset, zone or "UTC", every)
    if one.offset or zone:
        return reference.LocalWindow(kind, milliseconds(size), milliseconds(step), offset, zone or "UTC")
    return reference.Window(kind, milliseconds(size), milliseconds(step))


def _calls(one: Operator) -> dict[str, Callable[[Sequence[Row]], Any]]:
    return {name: partial(_aggregated, _parsed(text)) for name, text in one.aggregate.items()}


def _flow(case: Case, operators: list[Operator]) -> tuple[list[str], Rows]:
    """Return the topics that operators read, and the rows they make of a record of one."""
    first, *others = operators
    topics, rows = _named(case, first.from_)
    for one in others:
        if one.kind == "union":
            flows = [(topics, rows), *(_flow(case, operators) for operators in one.union)]
            topics = [topic for of, _ in flows for topic in of]
            rows = partial(lambda flows, topic, record: [row for _, rows in flows for row in rows(topic, record)], flows)
        else:
            rows = partial(lambda rows, one, topic, record: _through([one], rows(topic, record)), rows, one)
    return topics, rows


def _named(case: Case, name: str) -> tuple[list[str], Rows]:
    if name in case.pipeline.streams:
        return _flow(case, case.pipeline.streams[name])
    return [name], lambda topic, record: [{key: value for key, value in record.items() if key != "@time"}] if topic == name else []


def _through(operators: Sequence[Operator], rows: list[Row]) -> list[Row]:
    for one in operators:
        match one.kind:
            case "derive":
                named = {name: _parsed(text) for name, text in one.derive.items()}
                rows = [row | {name: _value(node, row) for name, node in named.items()} for row in rows]
            case "select":
                texts = one.select if isinstance(one.select, dict) else {name: f'"{name}"' for name in one.select}
                named = {name: _parsed(text) for name, text in texts.items()}
                rows = [{name: _value(node, row) for name, node in named.items()} for row in rows]
            case "where":
                node = _parsed(one.where)
                rows = [row for row in rows if _value(node, row) is True]
            case "unnest":
                rows = [{k: v for k, v in row.items() if k != one.unnest} | entry for row in rows for entry in _entries(one, row[one.unnest])]
            case _:
                raise Unspoken(one.kind)
    return rows


def _entries(one: Operator, found: Any) -> list[Row]:
    if one.key is None:
        return [{one.value: value} for value in found or ()]
    return [{one.key: key, one.value: value} for key, value in (found or {}).items()]


# Expressions


def _quoted(name: re.Match[str]) -> str:
    return '"' + name[1].replace("``", "`").replace('"', '""') + '"'


@cache
def _parsed(text: str) -> exp.Expr:
    try:
        return sqlglot.parse_one(re.sub(r"`((?:[^`]|``)*)`", _quoted, text))
    except (ParseError, TokenError) as error:
        raise Unspoken(text) from error


def _unless_null(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: None if None in values else function(*values)


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


BINARY: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.EQ: operator.eq, exp.NEQ: operator.ne, exp.LT: operator.lt, exp.LTE: operator.le, exp.GT: operator.gt, exp.GTE: operator.ge,
    exp.Add: operator.add, exp.DPipe: operator.add, exp.Sub: operator.sub, exp.Mul: operator.mul, exp.Mod: lambda a, b: int(math.fmod(a, b)),
}  # fmt: skip
AGGREGATES: dict[type[exp.Expr], str] = {
    exp.Count: "COUNT", exp.Sum: "SUM", exp.Min: "MIN", exp.Max: "MAX", exp.Avg: "AVG", exp.Median: "MEDIAN", exp.StddevPop: "STDDEV_POP",
    exp.FirstValue: "FIRST_VALUE", exp.LastValue: "LAST_VALUE", exp.ArrayAgg: "ARRAY_AGG",
}  # fmt: skip


def _value(node: exp.Expr, row: Row) -> Any:
    """Return what an expression is worth over a row; NULL is None."""
    match node:
        case exp.Paren():
            return _value(node.this, row)
        case exp.Neg():
            return _unless_null(operator.neg)(_value(node.this, row))
        case exp.Not():
            return _unless_null(operator.not_)(_value(node.this, row))
        case exp.Is(expression=exp.Null()):
            return _value(node.this, row) is None
        case exp.And() | exp.Or():
            values, decisive = [_value(node.left, row), _value(node.right, row)], isinstance(node, exp.Or)
            return decisive if decisive in values else None if None in values else not decisive
        case exp.Binary() if type(node) in BINARY:
            return _finite(_unless_null(BINARY[type(node)])(_value(node.left, row), _value(node.right, row)))
        case exp.Concat():
            return _unless_null(lambda *texts: "".join(texts))(*(_value(one, row) for one in node.expressions))
        case exp.Cast():
            return _cast(_value(node.this, row), node)
        case exp.Anonymous(this="TO_TIMESTAMP_LTZ", expressions=[of, unit]) if unit.this in {"3", "0"}:
            return _unless_null(lambda time: Instant(time * {"3": 1, "0": 1000}[unit.this]))(_value(of, row))
    return _leaf(node, row)


def _leaf(node: exp.Expr, row: Row) -> Any:
    match node:
        case exp.Column() if node.name in row and not node.table:
            return row[node.name]
        case exp.Literal():
            return node.this if node.is_string else float(node.this) if "." in node.this else int(node.this)
        case exp.Boolean():
            return node.this
        case exp.Null():
            return None
    return _unspoken(node)


def _cast(value: Any, node: exp.Cast) -> Any:
    kind = node.to.sql().replace("TEXT", "STRING")
    if kind not in {"DOUBLE", "BIGINT", "STRING"} or isinstance(value, float):
        return _unspoken(node)
    return _unless_null(lambda value: value_or_null(str(value), kind))(value)


def _unspoken(node: exp.Expr) -> Any:
    raise Unspoken(node.sql())


def _aggregated(node: exp.Expr, rows: Sequence[Row]) -> Any:
    """Return what an expression of aggregates is worth over a group."""
    match node:
        case exp.Paren():
            return _aggregated(node.this, rows)
        case exp.Filter():
            return _aggregated(node.this, [row for row in rows if _value(node.expression.this, row) is True])
        case exp.Count(this=exp.Distinct(expressions=[of])):
            return len({_value(of, row) for row in rows} - {None})
        case exp.Count(this=exp.Star()):
            return len(rows)
        case exp.Literal():
            return _leaf(node, {})
        case exp.Func() if type(node) in AGGREGATES:
            return over(AGGREGATES[type(node)], "@")([{"@": _value(node.this, row)} for row in rows])
        case exp.Anonymous(this=str(name), expressions=[of]) if name in reference.FUNCTIONS:
            return over(name, "@")([{"@": _value(of, row)} for row in rows])
        case exp.Binary() if type(node) in BINARY:
            return _finite(_unless_null(BINARY[type(node)])(_aggregated(node.left, rows), _aggregated(node.right, rows)))
    return _unspoken(node)
