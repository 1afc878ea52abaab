"""The rules of reading as jobs: the facts that tests/kernels/reading/test_rules.py has for the rule itself, asked of an engine as records."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any

import headrace as hr
from conformance.engine import FATES, Job, Outcome
from conformance.form import letter
from kernels.reading.test_rules import BAD, BOOLEANS, CONTAINERS, MALFORMED, NUMBERS_AS_STRING, TEXTS, TIMES, VALUES

Fact = tuple[bytes, Any]
NOT_UTF_8 = [b'{"a": "\xff"}', b'{"a": 1, "\xc3": 2}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\xc0\x80"}', b"\xff\xfe{\x00}\x00", b'{"a": 1}\x80']
WELL_FORMED = [
    b'{"a":1}', b' \t{ \t"a" :1 } ', '{"x": "\x7f\u2028", "a": 1}'.encode(), b'{"a": 2, "a": 1}', b'{"x": 1e400, "a": 1}', b'{"a": "x", "a": 1}',
]  # fmt: skip
JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
EVENT_TIMES = {
    "946684799999": BAD, "946684800000": 946684800000, "4102444799999": 4102444799999, "4102444800000": BAD, "0": BAD, "-1": BAD, "1706123401": BAD, "null": BAD,
    '"1706123401000"': 1706123401000, "1706123401000.0": 1706123401000, "1706123401000.7": BAD, '"soon"': BAD, "true": BAD, "9223372036854775807": BAD,
}  # fmt: skip


@cache
def asked() -> dict[str, tuple[Job, Outcome]]:
    """Return the jobs by name, and what is expected of each."""
    made = {f"reading {kind}": _fields(f"reading {kind}", kind, facts) for kind, facts in _values().items()}
    texts: dict[str, dict[str, Any]] = {
        "DOUBLE": {text: double for text, (double, _) in TEXTS.items()},
        "BIGINT": {text: bigint for text, (_, bigint) in TEXTS.items()},
        "BOOLEAN": BOOLEANS,
        "TIMESTAMP_LTZ(3)": {text: time and _time(time) for text, time in TIMES.items()},
    }
    for kind, values in texts.items():
        name = f"reading texts as {kind}"
        made[name] = _fields(name, kind, [(json.dumps(text), BAD if value is None else value) for text, value in values.items()])
        made[f"reading texts under TRY_CAST AS {kind}"] = _under_try_cast(kind, values)
    made["reading in a MAP"] = _in_a_map()
    made["reading malformed records"] = _malformed()
    made["reading event times"] = _event_times()
    made["reading NOT NULL"] = _job(
        "reading NOT NULL", {"a": "BIGINT NOT NULL", "b": "STRING NOT NULL"},
        [(b'{"a": 1, "b": ""}', {"a": 1, "b": ""}), (b'{"a": 1}', BAD), (b'{"a": null, "b": "x"}', BAD), (b"{}", BAD), (b'{"b": "null", "a": "2"}', {"a": 2, "b": "null"})],
    )  # fmt: skip
    made["reading absent fields"] = _job(
        "reading absent fields", {"a": "BIGINT", "b": "STRING", "c": "DOUBLE", "d": "BOOLEAN", "e": "TIMESTAMP_LTZ(3)", "f": "MAP<STRING, DOUBLE>", "g": "ARRAY<BIGINT>"},
        [(b"{}", dict.fromkeys("abcdefg")), (b'{"other": 1}', dict.fromkeys("abcdefg"))],
    )  # fmt: skip
    made["reading the rest"] = _rest()
    return made


def _values() -> dict[str, list[tuple[str, Any]]]:
    """Return, by type, what a field holds and what it is worth."""
    facts = [(kind, text, value) for text, kind, value in VALUES]
    facts += [("STRING", text, value) for table in (NUMBERS_AS_STRING, CONTAINERS) for text, value in table.items()]
    return {kind: [(text, value) for _, text, value in of] for kind, of in groupby(sorted(facts, key=lambda fact: fact[0]), key=lambda fact: fact[0])}


def _time(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(name: str, kind: str, facts: Sequence[tuple[str, Any]]) -> tuple[Job, Outcome]:
    records = []
    for number, (text, value) in enumerate(facts):
        records.append((f'{{"id": {number}, "field": {text}}}'.encode(), value if value is BAD else {"id": number, "field": value}))
    return _job(name, {"id": "BIGINT", "field": kind}, records)


def _job(name: str, schema: dict[str, str], facts: Sequence[Fact], **options: Any) -> tuple[Job, Outcome]:
    """Return a job that writes records as they are read, and its outcome: a row for each, or a dead letter where the fact is BAD."""
    plan = hr.pipeline(name, version="1")(lambda: {"out": hr.stream("records", schema=schema, **options)}).plan()
    return Job(plan, {"records": [[record for record, _ in facts]]}), _outcome(facts)


def _outcome(facts: Sequence[Fact]) -> Outcome:
    dead = [letter("records", 0, offset, record) for offset, (record, value) in enumerate(facts) if value is BAD]
    written = [value for _, value in facts if value is not BAD]
    ledger = {"received": len(facts)} | dict.fromkeys(FATES, 0) | {"accepted": len(written), "malformed": len(dead)}
    return Outcome({"out": written}, {"records": dead}, {"records": ledger})


def _under_try_cast(kind: str, values: Mapping[str, Any]) -> tuple[Job, Outcome]:
    """Return a job of texts cast to a type: what cannot be read is NULL."""
    facts = [(json.dumps({"id": id_, "text": text}).encode(), {"id": id_, "value": value}) for id_, (text, value) in enumerate(values.items())]

    def cast() -> dict[str, hr.Stream]:
        return {"out": hr.stream("records", schema={"id": "BIGINT", "text": "STRING"}).select("id", value=f"TRY_CAST(text AS {kind})")}

    plan = hr.pipeline(f"reading texts under TRY_CAST AS {kind}", version="1")(cast).plan()
    return Job(plan, {"records": [[record for record, _ in facts]]}), _outcome(facts)


def _in_a_map() -> tuple[Job, Outcome]:
    facts = []
    for text, (double, bigint) in TEXTS.items():
        for value in (json.dumps(text), *([text] if JSON_NUMBER.fullmatch(text) and len(text) < 4000 else [])):
            line = f'{{"id": {len(facts)}, "x": {{"k": {value}}}, "n": {{"k": {value}}}}}'
            facts.append((line.encode(), {"id": len(facts), "x": {"k": double}, "n": {"k": bigint}}))
    return _job("reading in a MAP", {"id": "BIGINT", "x": "MAP<STRING, DOUBLE>", "n": "MAP<STRING, BIGINT>"}, facts)


def _malformed() -> tuple[Job, Outcome]:
    lines = [line.encode() for line in MALFORMED if line and "\n" not in line]
    facts: list[Fact] = [(line, BAD) for line in [*lines, *NOT_UTF_8]]
    for place, line in enumerate(WELL_FORMED):
        facts.insert(place * 7 + 3, (line, {"a": 1}))
    # a byte-order mark begins a file or spoils a line: it is not asked for at the start
    return _job("reading malformed records", {"a": "BIGINT"}, facts)


def _event_times() -> tuple[Job, Outcome]:
    facts = [(f'{{"t": {text}}}'.encode(), BAD if value is BAD else {"t": value}) for text, value in EVENT_TIMES.items()]
    return _job("reading event times", {"t": "BIGINT"}, facts, event_time="TO_TIMESTAMP_LTZ(t, 3)")


def _rest() -> tuple[Job, Outcome]:
    facts = [
        (b'{"x": 2.50, "a": 1, "y": null, "z": {"b": [1.0]}, "w": "7d", "x": 3}', {"a": 1, "extra": {"x": "3", "z": '{"b":[1.0]}', "w": "7d"}}),
        (b'{"a": 1}', {"a": 1, "extra": {}}),
        (b'{"extra": 5}', {"a": None, "extra": {"extra": "5"}}),
        (b'{"a": "x", "b": 1}', BAD),
    ]
    return _job("reading the rest", {"a": "BIGINT"}, facts, rest="extra")
